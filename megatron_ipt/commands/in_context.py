"""Command ``in-context``: accuracy against the number of demonstrations."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from megatron_ipt.commands.common import json_option, print_json
from megatron_ipt.config import from_mapping
from megatron_ipt.errors import InputError
from megatron_ipt.evaluation.in_context.config import InContextConfig

MODES = ("structured", "concat")


class _Numbers(click.ParamType):
    """Whole numbers, separated by commas."""

    name = "numbers"

    def __init__(self, minimum: int):
        self._minimum = minimum

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in value.split(",") if part.strip())
        except ValueError:
            self.fail(f"{value!r}: expected whole numbers, e.g. 8,64,512", parameter, context)
        if not numbers or min(numbers) < self._minimum:
            self.fail(f"{value!r}: expected numbers from {self._minimum}, e.g. 8,64,512", parameter, context)
        return numbers


@click.command("in-context")
@click.argument("folder", metavar="MODEL_FOLDER")
@click.option("--questions", required=True, metavar="FILE", help="Questions with options, as for evaluation.questions.")
@click.option(
    "--demonstrations", required=True, metavar="FILE", help="What demonstrations are drawn from; same format."
)
@click.option("--counts", type=_Numbers(1), required=True, metavar="8,64,512", help="Numbers of demonstrations.")
@click.option("--modes", default=",".join(MODES), show_default=True, metavar="A,B", help="Which curves.")
@click.option("--seeds", type=_Numbers(0), default="1,2,3", show_default=True, help="Seeds of the choice.")
@click.option("--group-tokens", type=click.IntRange(1), help="Maximum tokens per group. Default: the model's context.")
@click.option("--template", default="", help="Text before an answer, with {context} and {question}.")
@click.option("--no-bos", is_flag=True, help="Do not begin groups with BOS.")
@click.option("--limit", type=click.IntRange(1), help="Only the first N questions.")
@click.option("--memory-gib", type=click.FloatRange(0), help="Most memory beside the weights.")
@click.option("--dtype", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True, help="Of the weights.")
@click.option("--output", required=True, metavar="DIR", help="Folder for results.json, accuracy.png and accuracy.svg.")
@json_option
def in_context(
    folder: str,
    questions: str,
    demonstrations: str,
    counts: tuple[int, ...],
    modes: str,
    seeds: tuple[int, ...],
    group_tokens: int | None,
    template: str,
    no_bos: bool,
    limit: int | None,
    memory_gib: float | None,
    dtype: str,
    output: str,
    as_json: bool,
) -> None:
    """Measure the Hugging Face model in MODEL_FOLDER with more and more demonstrations before every question.

    "structured" encodes them in groups apart from each other (structured prompting), so that thousands fit; "concat"
    puts one after another. Prints the mean over seeds and the deviation; finished points are not measured again.

    \b
    Example:
      megatron-ipt in-context MODEL --questions test.jsonl --demonstrations train.jsonl \\
          --counts 8,64,512 --output runs/in_context
    """
    chosen = [mode.strip() for mode in modes.split(",") if mode.strip()]
    for mode in chosen:
        if mode not in MODES:
            raise click.UsageError(f"--modes: {mode!r} is not one of {', '.join(MODES)}")
    given = {"group_tokens": group_tokens, "template": template, "memory_gib": memory_gib, "add_bos_token": not no_bos}
    assert given.keys() <= {field.name for field in fields(InContextConfig)}
    config = from_mapping(InContextConfig, given, "--")
    if not (Path(folder) / "config.json").is_file():
        raise InputError(f"{folder}: not a Hugging Face model (config.json is missing)")

    import torch

    from megatron_ipt.evaluation.in_context.curve import Points, draw_curve, table
    from megatron_ipt.evaluation.in_context.questions import read_task
    from megatron_ipt.evaluation.questions import read_questions

    rows = read_questions(questions)[:limit]
    without = next((number for number, row in enumerate(rows, 1) if len(row.options) < 2), None)
    if without is not None:
        raise InputError(f"{questions}: question {without} has no options to choose from")
    task = read_task("in context", rows, demonstrations, config.template)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    results = draw_curve(Path(folder), kind, task, config, Points(chosen, counts, seeds), Path(output))
    if as_json:
        print_json(results)
    else:
        click.echo(table(results))
        click.echo(f"figure  {Path(output) / 'accuracy.png'}")
