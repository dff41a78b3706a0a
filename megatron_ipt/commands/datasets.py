"""Commands for Megatron indexed datasets: inspect, verify, merge, split."""

from __future__ import annotations

from typing import Any

import click

from megatron_ipt.commands.common import json_option, print_json, replace_option
from megatron_ipt.errors import InputError


class Prefix(click.ParamType):
    """Path prefix of a ``.bin`` and ``.idx`` pair; the name of either file is accepted too."""

    name = "prefix"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        return str(value).removesuffix(".bin").removesuffix(".idx")


@click.command()
@click.argument("prefix", type=Prefix())
@click.option("--samples", default=3, show_default=True, help="Number of documents to decode.")
@click.option("--tokens", "tokens_each", default=120, show_default=True, help="Maximum tokens per sample.")
@click.option("--tokenizer", help="Folder or .model file; default: the one recorded with the dataset.")
@click.option("--seed", default=0, show_default=True, help="Seed for choosing samples.")
@json_option
def inspect(prefix: str, samples: int, tokens_each: int, tokenizer: str | None, seed: int, as_json: bool) -> None:
    """Show counts, lengths, sources and decoded documents of the dataset PREFIX.bin/.idx.

    \b
    Example:
      megatron-ipt inspect runs/quickstart/tokens/train
    """
    from megatron_ipt.tokens.dataset import inspection

    found = inspection.inspect(prefix, samples, tokens_each, tokenizer, seed)
    if as_json:
        print_json(found)
    else:
        click.echo(inspection.render(found))


@click.command()
@click.argument("prefixes", nargs=-1, required=True, metavar="PREFIX...", type=Prefix())
@click.option("--vocab-size", type=int, help="Token ids must be below this; default: as recorded with the dataset.")
@json_option
def verify(prefixes: tuple[str, ...], vocab_size: int | None, as_json: bool) -> None:
    """Check datasets: sizes, offsets, ids in range, counts and checksums. Exits with status 3 if one is damaged.

    \b
    Example:
      megatron-ipt verify runs/quickstart/tokens/train
    """
    from megatron_ipt.tokens.dataset import verify as verification

    results = [verification.verify(prefix, vocab_size) for prefix in prefixes]
    if as_json:
        print_json(results)
    else:
        for result in results:
            if not result["problems"]:
                counts = f"{result['documents']:,} documents, {result['tokens']:,} tokens"
                click.echo(f"{result['prefix']}: OK; {counts}; checked {', '.join(result['checked'])}")
    problems = [f"{result['prefix']}: {problem}" for result in results for problem in result["problems"]]
    if problems:
        raise InputError("\n".join(problems))


@click.command()
@click.argument("prefixes", nargs=-1, required=True, metavar="PREFIX...", type=Prefix())
@click.option("--output", required=True, help="Prefix of the new dataset.")
@replace_option
@json_option
def merge(prefixes: tuple[str, ...], output: str, overwrite: bool, as_json: bool) -> None:
    """Concatenate datasets, in the order given.

    \b
    Example:
      megatron-ipt merge part-0 part-1 --output whole
    """
    from megatron_ipt.tokens.dataset.joining import merge as merge_datasets

    description = merge_datasets(list(prefixes), output, overwrite)
    if as_json:
        print_json(description)
    else:
        click.echo(f"{output}: {description['documents']:,} documents, {description['tokens']:,} tokens")


@click.command()
@click.argument("prefix", type=Prefix())
@click.option("--output", required=True, help="Prefix of the new datasets OUTPUT_0, OUTPUT_1, ...")
@click.option("--parts", type=int, required=True, help="Number of parts, with about equal numbers of tokens.")
@replace_option
@json_option
def split(prefix: str, output: str, parts: int, overwrite: bool, as_json: bool) -> None:
    """Split a dataset into parts of consecutive documents.

    \b
    Example:
      megatron-ipt split whole --output part --parts 4
    """
    from megatron_ipt.tokens.dataset.joining import split as split_dataset

    descriptions = split_dataset(prefix, output, parts, overwrite)
    if as_json:
        print_json(descriptions)
        return
    for name, description in descriptions.items():
        click.echo(f"{name}: {description['documents']:,} documents, {description['tokens']:,} tokens")
