"""Command ``megatron-ipt``.

Exit status: 0 success; 1 a bug; 2 the recipe or command line; 3 an input; 4 a stage; 5 storage; 75 training saved a
checkpoint and stopped because it was asked to; 130 and 143 interrupted by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType

import click

from megatron_ipt import __version__
from megatron_ipt.commands import cluster, datasets, models
from megatron_ipt.commands.common import (
    json_option,
    overrides_argument,
    overwrite_option,
    print_json,
    recipe_argument,
    shard_option,
)
from megatron_ipt.config import describe
from megatron_ipt.errors import INTERRUPTED_STATUS, UserError
from megatron_ipt.pipeline import STAGES, Stage, run_one, run_recipe, status_of
from megatron_ipt.progress import configure_logging
from megatron_ipt.recipe import Recipe, load_recipe

_TERMINATED_STATUS = 128 + signal.SIGTERM
_OTHER_COMMANDS = (
    cluster.plan, cluster.preflight, cluster.submit, cluster.status, datasets.inspect, datasets.verify,
    datasets.merge, datasets.split, models.import_, models.export_checkpoint,
)  # fmt: skip


class _InOrder(click.Group):
    """Lists commands in the order of the flow."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # A stage may also be called by the name of its recipe section.
        section = {stage.name: stage.command for stage in STAGES}
        return super().resolve_command(context, [section.get(arguments[0], arguments[0]), *arguments[1:]])


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="megatron-ipt")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def cli(verbose: bool) -> None:
    """Instruction Pre-Training on Megatron-Core: raw text in, a Hugging Face model out.

    A RECIPE is a YAML file with a section per stage; KEY=VALUE overrides any key of it, e.g. training.steps=200.
    Finished stages are skipped, interrupted ones continue.

    \b
    Example:
      megatron-ipt run examples/quickstart.yaml
      megatron-ipt run examples/quickstart.yaml output_dir=runs/mine corpus.inputs='[my_texts/]'
    """
    configure_logging(verbose)


@cli.command()
@recipe_argument
@overrides_argument
@overwrite_option
@click.option("--until", metavar="STAGE", help=f"Last stage to run: {', '.join(stage.name for stage in STAGES)}.")
@json_option
def run(recipe: str, overrides: tuple[str, ...], overwrite: bool, until: str | None, as_json: bool) -> None:
    """Run all stages of RECIPE in order.

    \b
    Example:
      megatron-ipt run examples/quickstart.yaml training.steps=100
    """
    loaded = load_recipe(recipe, overrides)
    run_recipe(loaded, overwrite, until)
    if as_json:
        print_json(status_of(loaded))
    elif not until:
        _print_result(loaded)


def _add_stage_command(stage: Stage) -> None:
    example = f"megatron-ipt {stage.command} examples/quickstart.yaml"
    if stage.shardable:
        example += f"\n  {example} --shard 0/8"

    def command(
        recipe: str, overrides: tuple[str, ...], overwrite: bool, as_json: bool, shard: tuple[int, int] | None = None
    ) -> None:
        loaded = load_recipe(recipe, overrides)
        run_one(stage, loaded, overwrite, shard)
        if as_json:
            print_json(next(row for row in status_of(loaded) if row["stage"] == stage.name))

    for decorate in (json_option, overwrite_option, overrides_argument, recipe_argument):
        command = decorate(command)
    if stage.shardable:
        command = shard_option(command)
    help_text = f"{stage.help}\n\n\b\nExample:\n  {example}"
    cli.command(stage.command, help=help_text, short_help=stage.help)(command)


for _stage in STAGES:
    _add_stage_command(_stage)
for _command in _OTHER_COMMANDS:
    cli.add_command(_command)


@cli.command()
@click.argument("section", required=False)
@json_option
def keys(section: str | None, as_json: bool) -> None:
    """List every key of a recipe, or of one SECTION, with type, default and meaning.

    \b
    Example:
      megatron-ipt keys training.model
    """
    rows = [row for row in describe(Recipe) if section is None or f"{row[0]}.".startswith(f"{section}.")]
    if not rows:
        raise click.UsageError(f"no key begins with {section!r}; `megatron-ipt keys` lists all")
    if as_json:
        print_json([dict(zip(("key", "type", "default", "help"), row)) for row in rows])
        return
    for path, kind, default, text in rows:
        click.echo(f"{click.style(path, bold=True)}  ({kind}{f', default {default}' if default else ''})")
        click.echo(f"    {text}")


def main() -> None:
    """Entry point: turns errors into messages and exit statuses."""
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        status_code = cli.main(prog_name="megatron-ipt", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status_code = error.exit_code
    except UserError as error:
        click.echo(f"{click.style('error', fg='red', bold=True)}: {error}", err=True)
        status_code = error.exit_status
    except (KeyboardInterrupt, click.Abort):
        status_code = _say_interrupted()
    except Exception:
        # A library that is interrupted inside compiled code may turn the interrupt into an error of its own.
        if not _interrupts:
            raise
        status_code = _say_interrupted()
    sys.exit(status_code or 0)


class _Interrupted(KeyboardInterrupt):
    """Ctrl-C. A class of its own, because Python ends by signal, whatever status was asked for, when a plain
    KeyboardInterrupt has ever left code that was compiled from a string (a library's `exec` while it is imported)."""


_interrupts: list[int] = []


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    _interrupts.append(signal_number)
    raise _Interrupted


def _say_interrupted() -> int:
    click.echo("interrupted; the same command continues where it stopped", err=True)
    return INTERRUPTED_STATUS


def _terminate(signal_number: int, frame: FrameType | None) -> None:
    # SystemExit unwinds like Ctrl-C, so that temporary files are removed.
    sys.exit(_TERMINATED_STATUS)


def _print_result(recipe: Recipe) -> None:
    root = Path(recipe.output_dir)
    click.echo(f"model   {root / 'export' / 'model'}")
    click.echo(f"report  {root / 'report' / 'report.html'}")
