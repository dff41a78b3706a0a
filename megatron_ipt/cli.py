"""Command ``megatron-ipt``: its table of commands, the commands that run a recipe, and how errors end it."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click

from megatron_ipt import __version__
from megatron_ipt.commands import (
    cluster,
    comparison,
    datasets,
    decontamination,
    encoder,
    evaluation,
    in_context,
    models,
    policy,
    shell,
)
from megatron_ipt.commands.common import (
    EXIT_STATUSES,
    json_option,
    overrides_argument,
    overwrite_option,
    print_json,
    recipe_argument,
    shard_option,
    styled,
)
from megatron_ipt.commands.overview import Heading, Overview
from megatron_ipt.config import describe
from megatron_ipt.errors import INTERRUPTED_STATUS, UserError, nearest
from megatron_ipt.extensions import load_registered_extensions
from megatron_ipt.pipeline import results_of, run_action, run_one, run_recipe, status_of
from megatron_ipt.progress import configure_logging
from megatron_ipt.recipe import SAVED_RECIPE, Recipe, load_extensions_of, load_recipe, recipe_type
from megatron_ipt.stages import Action, Stage, all_stages, load

_TERMINATED_STATUS = 128 + signal.SIGTERM
_FAULT_STATUS = 1
_ACTION = "action_"
"""Begins the names of arguments that stand for actions of a stage."""
_FAULT = "this is a bug in megatron-ipt or in an extension, not in your input: please report the lines above"


@click.group(cls=Overview, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="megatron-ipt")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def cli(verbose: bool) -> None:
    """
    \b
    Instruction Pre-Training: raw text in, a Hugging Face model out.
    Example: megatron-ipt run examples/quickstart.yaml training.steps=100
    """
    configure_logging(verbose)


@click.command(epilog=EXIT_STATUSES)
@recipe_argument
@overrides_argument
@overwrite_option
@click.option("--until", metavar="STAGE", help="Last stage to run, e.g. tokens.")
@json_option
def run(recipe: str, overrides: tuple[str, ...], overwrite: bool, until: str | None, as_json: bool) -> None:
    """Run all stages of RECIPE in order.

    RECIPE is a YAML file with a section per stage; KEY=VALUE overrides any key of it. Finished stages are skipped,
    interrupted ones continue.

    \b
    Example:
      megatron-ipt run examples/quickstart.yaml training.steps=100
      megatron-ipt run examples/quickstart.yaml output_dir=runs/mine corpus.inputs='[my_texts/]'
      megatron-ipt run examples/quickstart.yaml --until tokens
    """
    loaded = load_recipe(recipe, overrides)
    run_recipe(loaded, overwrite, until)
    if as_json:
        print_json(status_of(loaded))
    elif not until:
        _print_result(loaded)


def _stage_command(stage: Stage) -> click.Command:
    example = f"megatron-ipt {stage.command} {stage.example}"
    if stage.shardable:
        example += f"\n  {example} --shard 0/8"

    def command(
        recipe: str,
        overrides: tuple[str, ...],
        overwrite: bool,
        as_json: bool,
        shard: tuple[int, int] | None = None,
        unit: str | None = None,
        until: str | None = None,
        **chosen: Any,
    ) -> None:
        loaded = load_recipe(recipe, overrides)
        action, value = _chosen_action(stage, chosen, overwrite, shard, unit)
        result = run_action(stage, loaded, action, value, shard, unit) if action is not None else {}
        if action is not None and not as_json:
            click.echo(load(action.render)(result) if action.render else _lines(result))
        if action is not None and not action.then_run:
            if as_json:
                print_json(result)
            return
        run_one(stage, loaded, overwrite, shard, again=action is not None, unit=unit, until=until)
        if as_json:
            row = next(row for row in status_of(loaded) if row["stage"] == stage.name)
            print_json(row | ({action.name: result} if action is not None else {}))

    options = (json_option, *map(_action_option, reversed(stage.actions)), overwrite_option)
    for decorate in (*options, overrides_argument, recipe_argument):
        command = decorate(command)
    if stage.unit_option:
        among = stage.unit_group or stage.unit
        help = f"Do only the one of the {among} with this name; then run once without it to finish the stage."
        command = click.option(stage.unit_option, "unit", metavar="NAME", help=help)(command)
    if stage.steps:
        help = "End after this step; the next one needs all shares of it."
        command = click.option("--until", type=click.Choice(stage.steps), help=help)(command)
    if stage.shardable:
        command = shard_option(command)
    help_text = f"{stage.help}\n\n\b\nExample:\n  {example}"
    return click.command(stage.command, help=help_text)(command)


def _action_option(action: Action) -> Callable[[Any], Any]:
    kind: dict[str, Any] = {"metavar": action.value} if action.value else {"is_flag": True}
    return click.option(action.option, f"{_ACTION}{action.name}", help=action.help, **kind)


def _chosen_action(
    stage: Stage, chosen: dict[str, Any], overwrite: bool, shard: tuple[int, int] | None, unit: str | None
) -> tuple[Action | None, str | None]:
    """The action that the options ask for and the value of its option; (None, None) without one."""
    asked = [action for action in stage.actions if chosen[f"{_ACTION}{action.name}"] not in (None, False)]
    if not asked:
        return None, None
    if len(asked) > 1:
        raise click.UsageError(f"{' and '.join(action.option for action in asked)}: one at a time")
    (action,) = asked
    if overwrite:
        raise click.UsageError(f"{action.option} with --overwrite: run them one after the other")
    if not action.then_run and (shard is not None or unit is not None):
        raise click.UsageError(
            f"{action.option}: cannot be divided with {'--shard' if unit is None else stage.unit_option}"
        )
    return action, chosen[f"{_ACTION}{action.name}"] if action.value else None


def _lines(result: dict[str, Any]) -> str:
    """A result of an action, one entry per line."""
    return "\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in result.items())


@click.command()
@click.argument("section", required=False)
@json_option
def keys(section: str | None, as_json: bool) -> None:
    """List every key of a recipe, or of one SECTION, with type, default and meaning.

    \b
    Example:
      megatron-ipt keys training.model
    """
    rows = [row for row in describe(recipe_type()) if section is None or f"{row[0]}.".startswith(f"{section}.")]
    if not rows:
        raise click.UsageError(f"no key begins with {section!r};{_nearest(str(section))} `megatron-ipt keys` lists all")
    if as_json:
        print_json([dict(zip(("key", "type", "default", "help"), row)) for row in rows])
        return
    for path, kind, default, text in rows:
        click.echo(f"{styled(path, bold=True)}  ({kind}{f', default {default}' if default else ''})")
        click.echo(f"    {text}")


def _nearest(section: str) -> str:
    """A hint at the key that was probably meant: one with a similar path, else one that ends in a similar name."""
    paths = dict.fromkeys(
        ".".join(parts[:length])
        for row in describe(recipe_type())
        for parts in [row[0].split(".")]
        for length in range(1, 9)
    )
    by_name = {path.rpartition(".")[2]: path for path in reversed(paths)}
    near = nearest(section, paths, cutoff=0.8) or by_name.get(nearest(section, by_name, cutoff=0.8), "")
    return f" Did you mean {near}?" if near else ""


_COMMANDS: tuple[tuple[str, tuple[tuple[click.Command, str], ...]], ...] = (
    (
        "The flow, in order",
        (
            (run, "Run all stages of a recipe, one after another."),
            # Stages follow.
        ),
    ),
    (
        "Runs",
        (
            (cluster.status, "Show the progress of each stage, here or on a cluster."),
            (comparison.compare, "Train variants of a recipe and compare the results."),
            (policy.policy, "Find the weights with which a small model learns fastest."),
        ),
    ),
    (
        "Datasets",
        (
            (decontamination.decontaminate, "Remove test questions from files of texts or pairs."),
            (datasets.inspect, "Show counts, lengths and decoded documents."),
            (datasets.verify, "Check sizes, offsets, ids and checksums."),
            (datasets.merge, "Join datasets into one."),
            (datasets.split, "Cut a dataset into several."),
        ),
    ),
    (
        "Models",
        (
            (models.import_, "Hugging Face folder to Megatron-Core checkpoint."),
            (models.export_checkpoint, "Megatron-Core checkpoint to Hugging Face folder."),
            (models.generate, "Continue prompts with a model or checkpoint."),
            (evaluation.benchmark, "Measure a model with lm-evaluation-harness."),
            (in_context.in_context, "Accuracy against the number of demonstrations."),
            (evaluation.judge, "Judge the pairs of a synthesizer."),
            (encoder.encoder, "Train or evaluate a sentence encoder on tasks."),
        ),
    ),
    (
        "Cluster",
        (
            (cluster.plan, "Estimate time, memory, layout and storage of a recipe."),
            (cluster.preflight, "Check the nodes of a job before it starts."),
            (cluster.submit, "Submit a recipe to Slurm as a chain of jobs."),
        ),
    ),
    (
        "Help",
        (
            (keys, "List the keys of a recipe with type, default and meaning."),
            (shell.completion, "Print the completion script of bash, zsh or fish."),
        ),
    ),
)
"""Headings of the first page and their commands, each with what it does in at most 58 characters."""


def _add_commands() -> None:
    """Enters all commands; called again when extensions have added stages."""
    headings = []
    for title, entries in _COMMANDS:
        for command, _ in entries:
            cli.add_command(command)
        headings.append(Heading(title, {str(command.name): text for command, text in entries}))
    stages = {stage.command: stage.help for stage in all_stages()}
    for stage in all_stages():
        if stage.command not in cli.commands:
            cli.add_command(_stage_command(stage))
    first = headings[0]
    cli.headings = (Heading(first.title, {**first.commands, **stages}), *headings[1:])
    # A stage may also be called by the name of its recipe section, unless another command has that name.
    cli.aliases = {stage.name: stage.command for stage in all_stages() if stage.name not in cli.commands}


def _look_for_stage(arguments: Sequence[str]) -> None:
    """The command may be that of a stage that an extension of the recipe brings, and the recipe follows it."""
    for argument in arguments[1:]:
        path = Path(argument) / SAVED_RECIPE if Path(argument).is_dir() else Path(argument)
        if path.suffix in (".yaml", ".yml") and path.is_file():
            load_extensions_of(path, [word for word in arguments if word.startswith("extensions=")])
            _add_commands()
            return


_add_commands()
cli.options = "-v, --verbose (log more), --version, -h, --help"
cli.look_further = _look_for_stage


def main() -> None:
    """Entry point: turns errors into messages and exit statuses."""
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        load_registered_extensions()
        _add_commands()
        status_code = cli.main(prog_name="megatron-ipt", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status_code = error.exit_code
    except UserError as error:
        click.echo(f"{styled('error', fg='red', bold=True)}: {error}", err=True)
        status_code = error.exit_status
    except (KeyboardInterrupt, click.Abort):
        status_code = _say_interrupted()
    except Exception:
        # A library that is interrupted inside compiled code may turn the interrupt into an error of its own.
        if _interrupts:
            status_code = _say_interrupted()
        else:
            traceback.print_exc()
            click.echo(_FAULT, err=True)
            status_code = _FAULT_STATUS
    sys.exit(status_code or 0)


class _Interrupted(KeyboardInterrupt):
    """Ctrl-C. A class of its own, because Python ends by signal, whatever status was asked for, when a plain
    KeyboardInterrupt has ever left code that was compiled from a string (a library's `exec` while it is imported)."""


_interrupts: list[int] = []


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    _interrupts.append(signal_number)
    raise _Interrupted


def _say_interrupted() -> int:
    click.echo("interrupted; rerun the command to resume", err=True)
    return INTERRUPTED_STATUS


def _terminate(signal_number: int, frame: FrameType | None) -> None:
    # SystemExit unwinds like Ctrl-C, so that temporary files are removed.
    sys.exit(_TERMINATED_STATUS)


def _print_result(recipe: Recipe) -> None:
    for name, path in results_of(recipe).items():
        click.echo(f"{name:<7} {path}")
