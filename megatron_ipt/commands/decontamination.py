"""Command ``decontaminate``: test questions in files outside of a run."""

from __future__ import annotations

from pathlib import Path

import click

from megatron_ipt.commands.common import json_option, print_json, replace_option
from megatron_ipt.decontamination.config import NGRAM, QUESTION_KEYS, SHORTEST
from megatron_ipt.errors import InputError

_AGAINST = "--against"


class _TakesSeveralTests(click.Command):
    """``--against`` takes all words up to the next option, as a shell writes them for ``tests/*.jsonl``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        taking = False
        for word in args:
            if word.startswith("-"):
                taking = word == _AGAINST
                if taking:
                    continue
            spread += [_AGAINST, word] if taking else [word]
        if args and args[-1] == _AGAINST:
            spread.append(_AGAINST)
        return super().parse_args(ctx, spread)


@click.command(cls=_TakesSeveralTests)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    _AGAINST,
    multiple=True,
    required=True,
    metavar="TESTS...",
    help="Files with test questions: JSON Lines, JSON (also SQuAD), Parquet, or text with a question a line.",
)
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for the clean files.")
@click.option(
    "--question-key",
    "question_keys",
    multiple=True,
    metavar="KEY",
    help=f"Field of a test question; the first that a record has counts. Default: {', '.join(QUESTION_KEYS)}.",
)
@click.option(
    "--ngram",
    type=click.IntRange(SHORTEST),
    default=NGRAM,
    show_default=True,
    help="Words in a row that must be equal.",
)
@click.option("--check", is_flag=True, help="Write nothing; exit with status 3 if anything holds a test question.")
@replace_option
@json_option
def decontaminate(
    files: tuple[str, ...],
    against: tuple[str, ...],
    output: Path | None,
    question_keys: tuple[str, ...],
    ngram: int,
    check: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Remove records that hold a test question from FILEs of JSON Lines, Parquet or text.

    Everything in a record is compared; a record of a text file is a paragraph. Without --output, only reports. In a
    recipe, the stage decontaminate does the same (megatron-ipt decontaminate-data).

    \b
    Example:
      megatron-ipt decontaminate pairs.jsonl --against tests/*.jsonl --output clean
      megatron-ipt decontaminate pairs.jsonl --against test.json --check
    """
    from megatron_ipt.decontamination.loose_files import decontaminate_files, render

    if check and output is not None:
        raise click.UsageError("--check writes nothing; leave out --output")
    result = decontaminate_files(files, against, output, question_keys or QUESTION_KEYS, ngram, overwrite)
    if as_json:
        print_json(result)
    else:
        click.echo(render(result))
    removed = sum(counts["removed"] for counts in result["files"].values())
    if check and removed:
        raise InputError(f"{removed:,} of {result['compared']:,} records hold a test question")
