"""Arguments and output that commands share."""

from __future__ import annotations

import json
import re
from typing import Any

import click

recipe_argument = click.argument("recipe", type=click.Path(dir_okay=False))
overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Discard output that was made with other settings or inputs."
)
replace_option = click.option("--overwrite", is_flag=True, help="Replace what is there.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")


class Share(click.ParamType):
    """``i/N`` as (i, N)."""

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
    help="Do the i-th of N shares (i from 0) beside other processes; run once without it to finish the stage.",
)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))
