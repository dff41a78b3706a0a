"""Arguments and output helpers shared by the commands."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from megatron_ipt.recipe import SAVED_RECIPE

EXIT_STATUSES = """
\b
Exit status:
  0         success
  2         invalid recipe or command line
  3         invalid input: missing, damaged, or too many records rejected
  4         stage error: needs another stage first, or has output made with different settings
  5         storage: disk full, permission denied
  6         the model that should make instruction-response pairs made none
  75        training was asked to stop and saved a checkpoint; rerun to resume
  130, 143  interrupted (Ctrl-C, TERM)
  1         bug, here or in an extension, shown with its traceback
"""


def _complete_key(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from megatron_ipt.config import describe
    from megatron_ipt.recipe import recipe_type

    return [
        CompletionItem(f"{row[0]}=", help=row[3]) for row in describe(recipe_type()) if row[0].startswith(incomplete)
    ]


class _Recipe(click.Path):
    """A recipe, or the folder of a run, which contains its recipe."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        path = Path(str(super().convert(value, parameter, context)))
        if not path.is_dir():
            return str(path)
        inside = path / SAVED_RECIPE
        if not inside.is_file():
            self.fail(f"{path}: folder has no {SAVED_RECIPE}; give a recipe or the folder of a run", parameter)
        return str(inside)


recipe_argument = click.argument("recipe", type=_Recipe())
overrides_argument = click.argument(
    "overrides", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=_complete_key, type=click.UNPROCESSED
)
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Discard output made with different settings or inputs."
)
replace_option = click.option("--overwrite", is_flag=True, help="Replace existing output.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")


class Share(click.ParamType):
    """Parses ``i/N`` as (i, N)."""

    name = "i/N"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)/(\d+)", value)
        if not match:
            self.fail(f"{value!r}: expected i/N, e.g. 0/8", parameter, context)
        return int(match[1]), int(match[2])


shard_option = click.option(
    "--shard",
    type=Share(),
    help="Process share i of N (i from 0), concurrently with others; then run once without it to finish the stage.",
)


def styled(text: str, **style: Any) -> str:
    """``text`` in bold or color, unless NO_COLOR is set; click drops the style if the output is not a terminal."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))
