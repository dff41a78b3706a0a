"""What the page about a run shows of this room: how good the exported model is, and how it became so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_ipt.evaluation.output_files import CURVES, RESULTS
from megatron_ipt.evaluation.report_curves import accuracy_charts, loss_chart
from megatron_ipt.stages import CHECKPOINTS, TOKENS
from megatron_ipt.stages.page import (
    FAINT,
    SECOND,
    Column,
    Element,
    Fold,
    Levels,
    Part,
    Prose,
    Quotes,
    Row,
    Segment,
    StageRecord,
    Step,
    Table,
)
from megatron_ipt.stages.readable import MISSING, compact, exact, number, percent, plural
from megatron_ipt.tokens.report import source_colors
from megatron_ipt.training.report import LOSS_CHART

_UNIGRAM = "Unigram entropy is the loss of a model that knows only how frequent each token is."


def part(stage: StageRecord) -> Part:
    """The evaluation on the page."""
    results = stage.read(RESULTS, {})
    perplexity = results.get("perplexity", {})
    tokens = stage.earlier.get(TOKENS)
    losses = ", ".join(f"{number(result['loss'], 3)} on {name} text" for name, result in perplexity.items())
    points = sorted(stage.read(CURVES, {}).get("checkpoints", ()), key=lambda point: point["tokens"])
    return Part(
        title="Evaluation",
        step=_step(perplexity) if stage.counts else None,
        headline=f"held-out loss {losses} (nats per token)" if losses else "",
        elements=[
            *_parity(results.get("parity")),
            _perplexity(perplexity),
            *_benchmarks(results.get("harness", {})),
            _questions(results.get("questions", {})),
            loss_chart(points, tokens),
            accuracy_charts(points),
            _generations(results.get("generations", ())),
        ],
        levels=[_unigram_entropies(perplexity, tokens)],
    )


def _step(perplexity: Mapping[str, Any]) -> Step:
    """The first held-out set stands for the others."""
    for name, result in perplexity.items():
        return Step(f"on {compact(result['tokens'])} tokens", number(result["perplexity"], 3), f"perplexity, {name}")
    return Step("of the model")


def _parity(parity: Mapping[str, Any] | None) -> list[Element]:
    return [Prose(parity_sentence(parity), "Is the exported model the trained one?")] if parity else []


def parity_sentence(parity: Mapping[str, Any]) -> str:
    """How close the exported model's logits are to the trained one's."""
    difference = number(parity["max_abs_difference"], 2)
    text = f"On {plural(parity['tokens'], 'token')} the logits differ by at most {difference}"
    if parity.get("logit_spread"):
        text += f", {number(parity['max_abs_difference'] / parity['logit_spread'], 2)} of their spread"
    if parity.get("tolerance") is not None:
        text += f" (allowed: {number(parity['tolerance'], 2)})"
    return f"{text}; both prefer the same token at {percent(parity['argmax_agreement'])} of the positions."


def _perplexity(perplexity: Mapping[str, Any]) -> Table:
    columns = ("Loss", "Perplexity", "Bits per byte", "Unigram entropy", "Tokens")
    keys = ("loss", "perplexity", "bits_per_byte", "unigram_entropy")
    return Table(
        (Column("Set", numeric=False), *map(Column, columns)),
        [
            Row((name, *(number(result.get(key)) for key in keys), exact(result["tokens"])))
            for name, result in perplexity.items()
        ],
        "Held-out text",
        note="Loss and unigram entropy in nats per token.",
    )


def _unigram_entropies(perplexity: Mapping[str, Any], tokens: StageRecord | None) -> Levels:
    """What a trained model should beat, for the chart of its losses."""
    colors = source_colors(perplexity, tokens)
    entropies = {name: result.get("unigram_entropy") for name, result in perplexity.items()}
    levels = [
        (f"unigram entropy, {name}", entropy, colors[name])
        for name, entropy in entropies.items()
        if entropy is not None
    ]
    return Levels(CHECKPOINTS, LOSS_CHART, levels, _UNIGRAM)


def _benchmarks(harness: Mapping[str, Any]) -> list[Element]:
    """Benchmarks in the order of the recipe with their mean, a group counting once; the tasks of groups folded."""
    tasks = harness.get("tasks", {})
    rows = [_benchmark(name, figures) for name, figures in tasks.items()]
    if len(rows) > 1:
        mean = sum(figures["accuracy"] for figures in tasks.values()) / len(rows)
        rows.append(Row(("mean", "", "", "", in_percent(mean), "", ""), strong=True))
    groups = {name: figures["subtasks"] for name, figures in tasks.items() if figures["subtasks"]}
    return [
        _benchmark_table(rows, "Benchmarks", "percent", _how_measured(harness)),
        *(
            Fold(name, [_benchmark_table([_benchmark(*item) for item in parts.items()])], plural(len(parts), "task"))
            for name, parts in groups.items()
        ),
    ]


def _benchmark_table(rows: list[Row], title: str = "", small: str = "", note: str = "") -> Table:
    columns = (
        Column("Benchmark", numeric=False), Column("Shots"), Column("Questions"), Column("Metric", numeric=False),
        Column("Score"), Column("± error"), Column("Per length"),
    )  # fmt: skip
    return Table(columns, rows, title, small, note)


def _benchmark(name: str, figures: Mapping[str, Any]) -> Row:
    return Row(
        (
            name,
            MISSING if figures["shots"] is None else str(figures["shots"]),
            exact(figures["questions"]),
            figures["metric"],
            in_percent(figures["accuracy"]),
            in_percent(figures["stderr"]),
            in_percent(figures["metrics"].get("acc_norm", {}).get("value")),
        )
    )


def _how_measured(harness: Mapping[str, Any]) -> str:
    parts = [str(harness.get("library", "")), str(harness.get("dtype", ""))]
    parts.append("BOS before every request" if harness.get("add_bos_token") else "no BOS")
    if harness.get("limit"):
        parts.append(f"only the first {plural(harness['limit'], 'question')} of each task")
    if harness.get("in_context"):
        parts.append(f"{harness['in_context']['mode']} demonstrations that all questions of a task share")
    how = ", ".join(filter(None, parts))
    return f"{how}. The error is the standard error; per length ranks the options by likelihood per character."


def _questions(questions: Mapping[str, Any]) -> Table:
    columns = ["Questions", "Answer loss", "Right one first, %", "Per byte, %", "Chance, %"]
    shares = ["accuracy", "accuracy_per_byte", "chance"]
    note = "Loss in nats per token of the answer; the right answer is first when no other option is as likely."
    if any("f1" in figures for figures in questions.values()):
        columns += ["F1, %", "Exact match, %"]
        shares += ["f1", "exact_match"]
        note += " F1 and exact match are those of generated answers."
    for name, figures in questions.items():
        shown = figures.get("in_context")
        if shown:
            note += (
                f" {name}: after {plural(shown['demonstrations'], 'demonstration')} ({shown['mode']}, "
                f"{plural(shown['groups'], 'group')}, {exact(shown['tokens'])} tokens)."
            )
    return Table(
        (Column("Set", numeric=False), *map(Column, columns)),
        [
            Row(
                (
                    name,
                    exact(figures["questions"]),
                    number(figures["answer_loss"], 4),
                    *(in_percent(figures.get(key)) for key in shares),
                )
            )
            for name, figures in questions.items()
        ],
        "Questions about unseen texts",
        "by likelihood",
        note,
    )


def _generations(generations: list[Mapping[str, str]]) -> Quotes:
    quotes = [
        (Segment(generation["prompt"], FAINT), Segment(generation["continuation"], SECOND))
        for generation in generations
    ]
    return Quotes("What the model writes", quotes, "Prompts in grey, continuations marked.")


def in_percent(share: float | None) -> str:
    """``0.4237`` -> ``42.4``, for columns that say they are in percent."""
    return MISSING if share is None or share != share else f"{100 * share:.1f}"
