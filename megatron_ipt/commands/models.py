"""Commands that convert between Hugging Face folders and Megatron-Core checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from megatron_ipt.commands.common import json_option, print_json, replace_option

_common_options = (
    click.option("--dtype", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", show_default=True),
    click.option("--workers", default=2, show_default=True, help="Number of threads."),
    click.option("--allow-not-finite", is_flag=True, help="Convert even if weights are NaN or infinite."),
    click.option("--verify", is_flag=True, help="Compare tensors and logits of both models afterwards."),
    click.option("--text", help="With --verify: text file to compare logits on; default: random tokens."),
    replace_option,
    json_option,
)


def _with_common_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_common_options):
        command = option(command)
    return command


@click.command("import")
@click.argument("folder", metavar="HF_FOLDER")
@click.argument("checkpoints")
@click.option(
    "--make-vocab-size-divisible-by", default=128, show_default=True, help="Pad the vocabulary to a multiple of this."
)
@_with_common_options
def import_(as_json: bool, **options: Any) -> None:
    """Convert the Hugging Face model in HF_FOLDER to the Megatron-Core checkpoint CHECKPOINTS/release.

    \b
    Example:
      megatron-ipt import models/llama-3-8b checkpoints/llama-3-8b --verify
    """
    from megatron_ipt.convert.commands import import_model

    _show(import_model(**options), as_json)


@click.command("export-checkpoint")
@click.argument("checkpoint")
@click.argument("folder", metavar="HF_FOLDER")
@click.option("--iteration", type=int, help="Iteration to export; default: the latest complete checkpoint.")
@click.option("--max-shard-size", default="5GB", show_default=True, help="Maximum size of a safetensors file.")
@click.option("--tokenizer", help="Hugging Face folder to copy tokenizer and special token ids from.")
@click.option("--family", help="Model family, for checkpoints written by Megatron-LM; inferred by default.")
@click.option("--vocab-size", type=int, help="Vocabulary size, for checkpoints written by Megatron-LM.")
@_with_common_options
def export_checkpoint(as_json: bool, **options: Any) -> None:
    """Convert CHECKPOINT (an iter_* folder or its parent) to a Hugging Face model.

    Works on any complete checkpoint, also during training. In a recipe, use the stage `export`.

    \b
    Example:
      megatron-ipt export-checkpoint runs/mine/training/checkpoints model --tokenizer runs/mine/tokens/tokenizer
    """
    from megatron_ipt.convert.commands import export_model

    _show(export_model(**options), as_json)


@click.command()
@click.argument("model")
@click.argument("prompts", metavar="PROMPT...", nargs=-1, required=True)
@click.option("--max-new-tokens", type=click.IntRange(1), default=50, show_default=True, help="Limit for each text.")
@click.option(
    "--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="0: always the likeliest token."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the draws.")
@click.option("--tokenizer", help="Hugging Face folder of the tokenizer; default: that of the model or its run.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@json_option
def generate(
    model: str,
    prompts: tuple[str, ...],
    max_new_tokens: int,
    temperature: float,
    seed: int,
    tokenizer: str | None,
    precision: str,
    as_json: bool,
) -> None:
    """Continue each PROMPT with MODEL: a Hugging Face folder or a Megatron-Core checkpoint, also of a run in progress.

    \b
    Example:
      megatron-ipt generate runs/mine/training/checkpoints "The bridge" --temperature 0.8
    """
    from megatron_ipt.api import load_model

    found = []
    with load_model(model, tokenizer=tokenizer, precision=precision) as opened:
        for number, prompt in enumerate(prompts):
            text = opened.generate(prompt, max_new_tokens, temperature, seed + number)
            found.append({"prompt": prompt, "text": text})
            if not as_json:
                click.echo(f"{prompt}{text}" + "\n" * (number + 1 < len(prompts)))
    if as_json:
        print_json(found)


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    width = max(map(len, result))
    for name, value in result.items():
        if value != {}:
            click.echo(f"{name.replace('_', ' '):<{width}}  {_plain(value)}")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name.replace('_', ' ')} {_plain(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
