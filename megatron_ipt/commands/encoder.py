"""Commands ``encoder train`` and ``encoder evaluate``: a sentence encoder that finds texts of the same task."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from megatron_ipt.commands.common import json_option, print_json, replace_option
from megatron_ipt.errors import RecipeError, StageError

if TYPE_CHECKING:
    from megatron_ipt.composition.encoder.tasks import Group, Labelled

_EVALUATED = "evaluated"
"""Purpose of groups that measure, whatever was trained on."""


@click.group()
def encoder() -> None:
    """Train or evaluate the sentence encoder of the stage composition.

    FILEs are JSON Lines of {text, task}, or files of instruction-response pairs in any format of synthesis.replay:
    the category of a pair is its task.

    \b
    Example:
      megatron-ipt encoder train pairs/*.jsonl --model models/encoder --output models/tasks --held-out definition
      megatron-ipt encoder evaluate pairs/*.jsonl --model models/tasks --model models/encoder --held-out definition
    """


def _shared(command: Callable[..., Any]) -> Callable[..., Any]:
    files = click.Path(exists=True, dir_okay=False, path_type=Path)
    for decorate in (
        click.option("--seed", type=int, default=1234, show_default=True),
        click.option("--hard", type=click.IntRange(0), default=4, show_default=True, help="Negatives in its template."),
        click.option("--easy", type=click.IntRange(0), default=1, show_default=True, help="Negatives in any template."),
        click.option(
            "--most-per-task", type=click.IntRange(2), default=500, show_default=True, help="Texts of a task to take."
        ),
        click.option(
            "--held-out",
            "held_out",
            multiple=True,
            metavar="TASK",
            help="Task that is not trained on; repeat for more.",
        ),
        click.argument("files", nargs=-1, required=True, metavar="FILE...", type=files),
    ):
        command = decorate(command)
    return command


@encoder.command()
@_shared
@click.option("--model", required=True, type=click.Path(path_type=Path), help="Hugging Face folder of an encoder.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the trained encoder.")
@click.option("--epochs", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True)
@click.option("--batch-size", type=click.IntRange(2), default=64, show_default=True, help="Queries of a step.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=5e-5, show_default=True)
@click.option(
    "--temperature", type=click.FloatRange(0, min_open=True), default=0.05, show_default=True,
    help="Scores are divided by it; 1 for an encoder whose vectors are not scaled to length 1.",
)  # fmt: skip
@replace_option
@json_option
def train(
    files: tuple[Path, ...], model: Path, output: Path, held_out: tuple[str, ...], most_per_task: int, easy: int,
    hard: int, seed: int, epochs: float, batch_size: int, lr: float, temperature: float, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Train all weights of the encoder MODEL to find texts of the same task.

    \b
    Example:
      megatron-ipt encoder train pairs/*.jsonl --model models/encoder --output models/tasks --held-out definition
    """
    from megatron_ipt.composition.encoder.contrastive import Training, train_encoder
    from megatron_ipt.composition.encoder.tasks import groups, tasks_of

    if output.exists() and not overwrite:
        raise StageError(f"{output}: exists; choose another folder, or --overwrite")
    texts = [each for each in _texts(files, seed, most_per_task, held_out) if each.task not in held_out]
    made = groups(texts, seed, hard, easy, "trained")
    _check(made, texts)
    settings = Training(epochs, min(batch_size, len(made)), lr, temperature, seed)
    losses = train_encoder(model, output, made, settings, lambda step, loss: None)
    last = sum(losses[-10:]) / len(losses[-10:])
    found: dict[str, Any] = {
        "tasks": tasks_of(texts),
        "queries": len(made),
        "steps": len(losses),
        "loss": losses[0],
        "last_loss": last,
    }
    if as_json:
        print_json(found)
    else:
        click.echo(f"{len(made):,} queries of {len(found['tasks'])} tasks, {len(losses)} steps")
        click.echo(f"loss {losses[0]:.3f} at first, {last:.3f} over the last steps; {output}")


@encoder.command()
@_shared
@click.option(
    "--model", "models", multiple=True, required=True, type=click.Path(path_type=Path),
    help="Hugging Face folder of an encoder; repeat to compare.",
)  # fmt: skip
@json_option
def evaluate(
    files: tuple[Path, ...], models: tuple[Path, ...], held_out: tuple[str, ...], most_per_task: int, easy: int,
    hard: int, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Measure how often a text of the same task scores highest, beside chance and BM25.

    With --held-out, tasks that are and that are not held out are measured apart.

    \b
    Example:
      megatron-ipt encoder evaluate pairs/*.jsonl --model models/tasks --model models/encoder --held-out definition
    """
    from megatron_ipt.composition.config import EncoderConfig
    from megatron_ipt.composition.encoder.evaluate import BM25, accuracy, encoder_score
    from megatron_ipt.composition.encoder.model import SentenceEncoder
    from megatron_ipt.composition.encoder.tasks import groups, tasks_of

    texts = _texts(files, seed, most_per_task, held_out)
    parts = {"held-out tasks": [each for each in texts if each.task in held_out]} if held_out else {}
    parts["tasks"] = [each for each in texts if each.task not in held_out]
    loaded = {str(model): SentenceEncoder(EncoderConfig(str(model)), "encoder") for model in models}
    found: dict[str, Any] = {}
    for name, own in parts.items():
        made = groups(own, seed, hard, easy, _EVALUATED)
        _check(made, own)
        lexical = BM25([each.text for each in own])
        scores = {"BM25": lexical.score} | {model: encoder_score(each, made) for model, each in loaded.items()}
        found[name] = {
            "texts": tasks_of(own),
            "queries": len(made),
            "random": 1 / (1 + hard + easy),
            "accuracy": {model: vars(accuracy(made, score)) for model, score in scores.items()},
        }
    if as_json:
        print_json(found)
        return
    for name, each in found.items():
        click.echo(f"{name}: {each['queries']:,} queries of {len(each['texts'])} tasks ({', '.join(each['texts'])})")
        click.echo(f"  {each['random']:>6.1%}           random")
        for model, value in each["accuracy"].items():
            click.echo(f"  {value['right']:>6.1%} ± {value['error']:<6.1%}  {model}")


def _texts(files: tuple[Path, ...], seed: int, most: int, held_out: tuple[str, ...]) -> list[Labelled]:
    from megatron_ipt.composition.encoder.tasks import read_labelled, tasks_of

    with tempfile.TemporaryDirectory() as work:
        texts = read_labelled(files, seed, most, Path(work))
    known = tasks_of(texts)
    for name in held_out:
        if name not in known:
            raise RecipeError(f"--held-out {name!r}: not a task of these files; they have {', '.join(known)}")
    return texts


def _check(made: list[Group], texts: list[Labelled]) -> None:
    from megatron_ipt.composition.encoder.tasks import tasks_of

    if not made:
        raise RecipeError(
            f"no query has the negatives that --hard and --easy ask for; tasks: {tasks_of(texts)}. Lower them, give "
            "more text, or hold out other tasks (at least two must be on either side)"
        )
