"""Commands ``benchmark`` (a model) and ``judge`` (the pairs of a synthesizer)."""

from __future__ import annotations

from pathlib import Path

import click

from megatron_ipt.commands.common import json_option, print_json
from megatron_ipt.config import load
from megatron_ipt.errors import RecipeError
from megatron_ipt.evaluation.harness.config import HarnessConfig
from megatron_ipt.evaluation.harness.presets import PRESETS
from megatron_ipt.evaluation.in_context.config import InContextConfig
from megatron_ipt.files import write_json
from megatron_ipt.recipe import load_recipe
from megatron_ipt.synthesis.config import SynthesisConfig

_output_option = click.option(
    "--output", type=click.Path(dir_okay=False), help="Also write the result to this JSON file."
)


@click.command()
@click.argument("folder", metavar="MODEL_FOLDER")
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), default="none", show_default=True, help="Set of benchmarks."
)
@click.option("--tasks", default="", metavar="A,B:5", help="Tasks of lm-evaluation-harness, as TASK or TASK:SHOTS.")
@click.option("--include-path", default="", metavar="DIR", help="Folder with custom task files.")
@click.option("--limit", type=click.IntRange(1), help="Use only the first N questions per task.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Requests per forward pass.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="Data type of the weights. auto: fp32 on CPU; on GPU that of the model, but fp16 if that is fp32.",
)
@click.option("--no-bos", is_flag=True, help="Do not prepend BOS to requests.")
@click.option("--seed", type=click.IntRange(0), default=1234, show_default=True, help="Seed for few-shot examples.")
@click.option(
    "--in-context",
    "shown",
    multiple=True,
    metavar="KEY=VALUE",
    help="Demonstrations that all questions of a task share: keys of evaluation.in_context, e.g. mode=structured.",
)
@_output_option
@json_option
def benchmark(
    folder: str,
    preset: str,
    tasks: str,
    include_path: str,
    limit: int | None,
    batch_size: int,
    dtype: str,
    no_bos: bool,
    seed: int,
    shown: tuple[str, ...],
    output: str | None,
    as_json: bool,
) -> None:
    """Measure the Hugging Face model in MODEL_FOLDER on benchmarks of lm-evaluation-harness.

    Scores are in percent; the preset "paper" is the evaluation of Instruction Pre-Training.

    \b
    Example:
      megatron-ipt benchmark runs/mine/export/model --preset paper
      megatron-ipt benchmark MODEL --include-path examples/tasks --tasks everyday_science:2
      megatron-ipt benchmark MODEL --tasks arc_easy --in-context mode=structured --in-context demonstrations=500
    """
    from megatron_ipt.evaluation.harness import run, table

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    config = HarnessConfig(preset, names, include_path, limit, batch_size, not no_bos, dtype, seed)
    for key, message in config.problems():
        raise RecipeError(f"--{key.replace('_', '-')}: {message}")
    demonstrations = load(InContextConfig, None, shown)
    result = {"model": folder, **run.run(config, Path(folder), run.load(config), demonstrations)}
    if output:
        write_json(output, result)
    if as_json:
        print_json(result)
    else:
        click.echo(table.render(result))


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="SYNTHESIS_FOLDER_OR_SHARDS...")
@click.option("--gold", multiple=True, metavar="FILE", help="Gold pairs of the same texts: SQuAD, or JSONL of tasks.")
@click.option(
    "--match", default=0.5, show_default=True, type=click.FloatRange(0, 1), help="Minimum F1 of matching questions."
)
@click.option("--limit", type=click.IntRange(1), help="Judge only the first N texts.")
@click.option(
    "--retrieval-texts", default=1000, show_default=True, type=click.IntRange(2), help="Maximum texts for relevance."
)
@click.option("--tokenizer", help="Folder or file: also count tokens per pair.")
@click.option(
    "--answer-with",
    metavar="RECIPE|ENGINE",
    help="Also let an engine answer the gold questions: that of a recipe's synthesis section, or one by name.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="With --answer-with: set a key of synthesis."
)
@click.option("--questions", type=click.IntRange(1), help="With --answer-with: ask only the first N gold questions.")
@click.option(
    "--seed", type=click.IntRange(0), default=1234, show_default=True, help="Seed for choosing retrieval texts."
)
@_output_option
@json_option
def judge(
    paths: tuple[str, ...],
    gold: tuple[str, ...],
    match: float,
    limit: int | None,
    retrieval_texts: int,
    tokenizer: str | None,
    answer_with: str | None,
    overrides: tuple[str, ...],
    questions: int | None,
    seed: int,
    output: str | None,
    as_json: bool,
) -> None:
    """Measure the quality of pairs in a folder of the stage synthesis or in its shards.

    \b
    Example:
      megatron-ipt judge runs/mine/synthesis
      megatron-ipt judge runs/mine/synthesis --gold dev.json
      megatron-ipt judge runs/mine/synthesis --gold dev.json \\
          --answer-with transformers --set generation.model=models/synthesizer
    """
    from megatron_ipt.evaluation.judge.run import judge as judge_pairs
    from megatron_ipt.evaluation.judge.table import render

    if answer_with and not gold:
        raise RecipeError("--answer-with requires --gold, which has the questions")
    if (overrides or questions) and not answer_with:
        raise RecipeError("--set and --questions require --answer-with")
    # Loaded first, so that an invalid key is reported before the pairs are read.
    section = _synthesis_section(answer_with, overrides) if answer_with else None
    result = judge_pairs(paths, gold, limit, retrieval_texts, match, tokenizer, seed)
    if section is not None:
        from megatron_ipt.evaluation.judge.gold import read_gold
        from megatron_ipt.evaluation.judge.respond import response_accuracy

        result["response"] = response_accuracy(section, read_gold(gold), questions)
    if output:
        write_json(output, result)
    if as_json:
        print_json(result)
    else:
        click.echo(render(result))


def _synthesis_section(source: str, overrides: tuple[str, ...]) -> SynthesisConfig:
    """Section ``synthesis`` of a recipe file, or the default section with the given engine; plus overrides."""
    if source.endswith((".yaml", ".yml")):
        return load_recipe(source, [f"synthesis.{override}" for override in overrides]).synthesis
    return load(SynthesisConfig, None, [f"engine={source}", *overrides])
