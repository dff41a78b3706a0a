"""What a run left behind, worked into the figures its page shows. Pure functions: no files, no drawing, no HTML.

A stage that is absent or unfinished has no counts; whatever is made of them is then empty or None, and the page leaves
the section out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from megatron_ipt.readable import compact, number, percent, plural, size
from megatron_ipt.report.charts import OTHER_COLORS, Chart, Curve

MOST_BARS = 40
_PREVIEW_CHARACTERS = 90
_LONG_CHARACTERS = 1500
_HEAD_CHARACTERS, _TAIL_CHARACTERS = 700, 300
_MIDDLE_CHARACTERS = 20_000

Segment = tuple[str, str]
"""(kind, text), kind one of ``text``, ``question``, ``answer``, ``frame``."""


@dataclass
class Metrics:
    """The training's measurements by column; a value that was not measured is NaN.

    Attributes:
        columns: ``step``, ``loss``, ``lr``, ... of the training steps, equally long.
        valid: per validation set its steps and losses.
    """

    columns: dict[str, list[float]] = field(default_factory=dict)
    valid: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> Metrics:
        names = ("step", "loss", "lr", "grad_norm", "tokens_per_second", "tokens")
        metrics = cls({name: [] for name in names})
        for record in records:
            if "valid" in record:
                for name, loss in record["valid"].items():
                    steps, losses = metrics.valid.setdefault(name, ([], []))
                    steps.append(record["step"])
                    losses.append(_measured(loss))
            else:
                for name in names:
                    metrics.columns[name].append(_measured(record.get(name)))
        return metrics


@dataclass
class Run:
    """Everything the page is made from.

    Attributes:
        name: of the recipe.
        manifests: by stage, in the order of the flow.
        metrics: of the training.
        samples: augmented documents, as the augment stage left them.
        dataset: ``dataset.json`` of the tokens stage.
        results: ``results.json`` of the evaluation.
        curves: ``curves.json`` of the evaluation.
    """

    name: str
    manifests: dict[str, dict[str, Any]]
    metrics: Metrics = field(default_factory=Metrics)
    samples: list[dict[str, Any]] = field(default_factory=list)
    dataset: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)

    def counts(self, stage: str) -> dict[str, Any]:
        """Counts of a finished stage, else nothing."""
        return self.manifests.get(stage, {}).get("counts") or {}

    def settings(self, stage: str) -> dict[str, Any]:
        return self.manifests.get(stage, {}).get("settings") or {}


@dataclass(frozen=True)
class FlowStep:
    """One stage in the picture of the flow: what went in, what came out, how long it took."""

    stage: str
    into: str
    amount: str
    unit: str
    detail: str
    seconds: float | None
    share_of_time: float
    status: str


@dataclass(frozen=True)
class Bar:
    """``width`` is relative to the longest bar, ``share`` to the whole; both 0 to 1."""

    label: str
    value: int
    share: float
    width: float
    is_rest: bool = False


@dataclass(frozen=True)
class SourceRow:
    """Tokens of one source. ``share`` is of the training tokens, or the weight where sources are blended."""

    name: str
    color: str
    documents: int
    tokens: int
    share: float
    left_out: int
    held_out: dict[str, int]


@dataclass(frozen=True)
class Piece:
    """A stretch of a sample; ``hidden`` ones open on demand."""

    kind: str
    text: str
    hidden: bool = False


@dataclass(frozen=True)
class Sample:
    id: str
    layout: str
    split: str
    characters: int
    pairs: int
    preview: str
    pieces: tuple[Piece, ...]


def summary(run: Run) -> str:
    """The run in one sentence, as far as it went."""
    corpus, synthesis = run.counts("corpus"), run.counts("synthesis")
    training, perplexity = run.counts("training"), run.results.get("perplexity", {})
    parts = []
    if "documents" in corpus:
        gained = f" gained {plural(synthesis['pairs'], 'instruction–response pair')}" if "pairs" in synthesis else ""
        read = plural(corpus["documents"], "document")
        parts.append(f"{read}{gained}" if gained else f"{read} read")
    if "parameters" in training:
        model = f"a model of {compact(training['parameters'])} parameters"
        parts.append(f"{model} trained on {compact(training['tokens'])} tokens in {plural(training['steps'], 'step')}")
    if perplexity:
        losses = ", ".join(f"{number(result['loss'], 3)} on {name} text" for name, result in perplexity.items())
        parts.append(f"held-out loss {losses} (nats per token)")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}." if parts else "No stage of this run has finished yet."


def total_seconds(run: Run) -> float:
    return float(sum(manifest.get("seconds") or 0 for manifest in run.manifests.values()))


def flow(run: Run) -> list[FlowStep]:
    """The stages there are, in order, with what each made of what."""
    whole = total_seconds(run)
    steps = []
    for stage, manifest in run.manifests.items():
        seconds = manifest.get("seconds")
        into, amount, unit, detail = _in_and_out(run, stage) if run.counts(stage) else ("", "", "", "")
        share = (seconds or 0) / whole if whole else 0.0
        steps.append(FlowStep(stage, into, amount, unit, detail, seconds, share, manifest.get("status", "")))
    return steps


def _in_and_out(run: Run, stage: str) -> tuple[str, str, str, str]:
    """(what went in, amount that came out, its unit, a detail) of a finished stage."""
    counts = run.counts(stage)
    if stage == "corpus":
        files = plural(counts.get("files", 0), "file")
        return f"from {files}, {size(input_bytes(run))}", *_amount(counts, "documents"), _rejected(counts)
    if stage == "synthesis":
        return f"from {plural(counts.get('texts', 0), 'text')}", *_amount(counts, "pairs"), _per_text(counts)
    if stage == "augment":
        pairs = run.counts("synthesis").get("pairs")
        return (
            "" if pairs is None else f"from {plural(pairs, 'pair')}",
            *_amount(counts, "documents"),
            _per_document(counts),
        )
    if stage == "tokens":
        documents = plural(counts["train"]["documents"], "document")
        vocabulary = f"vocabulary of {compact(counts['vocab_size'])}"
        return f"from {documents}", compact(counts["train"]["tokens"]), "training tokens", vocabulary
    if stage == "training":
        ranks = plural(counts.get("ranks", 1), "rank")
        return (
            f"on {compact(counts['tokens'])} tokens",
            *_amount(counts, "steps"),
            f"{counts.get('precision', '')}, {ranks}",
        )
    if stage == "export":
        parameters = run.counts("training").get("parameters") or counts.get("parameters")
        return "from the checkpoint", compact(parameters), "parameters", "Hugging Face folder"
    if stage != "evaluation":
        figures = [(name, value) for name, value in counts.items() if isinstance(value, int)]
        return ("", *_amount(counts, figures[0][0]), "") if figures else ("", "", "", "")
    first = next(iter(run.results.get("perplexity", {}).items()), None)
    if first is None:
        return "of the model", "", "", ""
    return f"on {compact(first[1]['tokens'])} tokens", number(first[1]["perplexity"], 3), f"perplexity, {first[0]}", ""


def _amount(counts: Mapping[str, Any], unit: str) -> tuple[str, str]:
    amount = counts.get(unit, 0)
    return compact(amount), unit if amount != 1 else unit.removesuffix("s")


def _per_text(counts: Mapping[str, Any]) -> str:
    return f"{counts['pairs'] / counts['texts']:,.1f} per text" if counts.get("texts") else ""


def _per_document(counts: Mapping[str, Any]) -> str:
    return f"{counts['texts'] / counts['documents']:,.1f} texts each" if counts.get("documents") else ""


def _rejected(counts: Mapping[str, Any]) -> str:
    rejected = sum(counts.get("rejected", {}).values())
    return f"{compact(rejected) if rejected else 'none'} rejected"


def input_bytes(run: Run) -> int:
    """Size of the files the corpus stage read."""
    return sum(entry.get("bytes") or 0 for entry in run.manifests.get("corpus", {}).get("inputs", ()))


def input_files(run: Run) -> list[tuple[str, int | None]]:
    """(name, bytes) of the largest files read, at most ten."""
    entries = run.manifests.get("corpus", {}).get("inputs", ())
    largest = sorted(entries, key=lambda entry: (-(entry.get("bytes") or 0), entry["path"]))[:10]
    return [(PurePath(entry["path"]).name, entry.get("bytes")) for entry in largest]


def bars(counts: Mapping[str, int], most: int = MOST_BARS) -> list[Bar]:
    """Counts from high to low; what goes beyond ``most`` bars is one bar for the rest."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    total = sum(counts.values())
    rest = ordered[most - 1 :] if len(ordered) > most else []
    shown = [(name, value, False) for name, value in ordered[: most - 1 if rest else most]]
    if rest:
        shown.append((f"{len(rest)} more", sum(value for _, value in rest), True))
    longest = max((value for _, value, _ in shown), default=0)
    return [
        Bar(name, value, value / total if total else 0.0, value / longest if longest else 0.0, is_rest)
        for name, value, is_rest in shown
    ]


def sources(run: Run) -> list[SourceRow]:
    """Tokens by source: the training mixture and what was held out."""
    counts, dataset = run.counts("tokens"), run.dataset
    train = counts.get("train_by_source", {})
    total = sum(entry["tokens"] for entry in train.values())
    entries = dataset.get("train", ())
    weights = {entry["name"]: entry["weight"] for entry in entries if "by_source" not in entry and "weight" in entry}
    whole = sum(weights.values())
    held_out = {
        split: {entry["name"]: entry["tokens"] for entry in dataset.get(split, ())} for split in ("valid", "test")
    }
    colors = set_colors([*train, *held_out["valid"], *held_out["test"]])
    return [
        SourceRow(
            name,
            colors[name],
            entry["documents"],
            entry["tokens"],
            weights[name] / whole if name in weights and whole else entry["tokens"] / total if total else 0.0,
            entry.get("left_out_documents", 0),
            {split: tokens.get(name, 0) for split, tokens in held_out.items()},
        )
        for name, entry in train.items()
    ]


def passes(run: Run) -> str:
    """How often the training went through its data."""
    seen, there = run.counts("training").get("tokens"), run.counts("tokens").get("train", {}).get("tokens")
    if not seen or not there:
        return ""
    return f"{seen / there:,.1f} times the training tokens" if seen >= there else f"{percent(seen / there)} of the data"


def loss_chart(run: Run) -> Chart | None:
    """Training and held-out loss over steps, with the unigram entropy of each held-out set as what to beat."""
    columns, valid = run.metrics.columns, run.metrics.valid
    steps = columns.get("step", [])
    if not steps:
        return None
    entropies = {
        name: result["unigram_entropy"]
        for name, result in run.results.get("perplexity", {}).items()
        if result.get("unigram_entropy") is not None
    }
    colors = set_colors([*valid, *entropies])
    ends = [steps[0], steps[-1]]
    curves = [
        Curve(f"unigram entropy, {name}", ends, [level] * 2, colors[name], True) for name, level in entropies.items()
    ]
    curves += [Curve("training", steps, columns["loss"], "training")]
    curves += [Curve(f"held out, {name}", x, y, colors[name]) for name, (x, y) in valid.items()]
    tokens = columns["tokens"][-1]
    per_step = tokens / steps[-1] if tokens > 0 and steps[-1] > 0 else 0.0
    return Chart("loss", curves, "step", tokens_per_step=per_step)


def small_charts(run: Run) -> list[tuple[str, str, Chart]]:
    """(title, last value, chart) of learning rate, gradient norm and throughput, as far as they were measured."""
    columns = run.metrics.columns
    found = []
    for name, title, may_be_log in (
        ("lr", "Learning rate", False),
        ("grad_norm", "Gradient norm", True),
        ("tokens_per_second", "Tokens per second", False),
    ):
        values = columns.get(name, [])
        measured = [value for value in values if value == value]
        if measured:
            last = compact(round(measured[-1])) if name == "tokens_per_second" else number(measured[-1], 3)
            found.append((title, last, Chart(name, [Curve(title, columns["step"], values)], "step", may_be_log)))
    return found


def samples(run: Run, most: int) -> list[Sample]:
    """The first ``most`` sample documents."""
    return [_sample(record) for record in run.samples[:most]]


def _sample(record: Mapping[str, Any]) -> Sample:
    segments: list[Segment] = [(kind, text) for kind, text in record["segments"] if text]
    whole = "".join(text for _, text in segments)
    lines = (" ".join(line.split()) for line in whole[: 4 * _PREVIEW_CHARACTERS].splitlines())
    words = " · ".join(filter(None, lines))
    preview = words if len(words) <= _PREVIEW_CHARACTERS else words[:_PREVIEW_CHARACTERS].rsplit(" ", 1)[0] + " …"
    return Sample(
        str(record.get("id", "")),
        str(record.get("layout", "")),
        str(record.get("split", "")),
        len(whole),
        record["pairs"],
        preview,
        tuple(piece for kind, text in segments for piece in _pieces(kind, text)),
    )


def _pieces(kind: str, text: str) -> Iterator[Piece]:
    """Long stretches with their middle hidden, and very long ones cut there, so that pages stay small."""
    if len(text) <= _LONG_CHARACTERS:
        yield Piece(kind, text)
        return
    # Cut between words where there are any.
    head = text.rfind(" ", _HEAD_CHARACTERS // 2, _HEAD_CHARACTERS) + 1 or _HEAD_CHARACTERS
    last = len(text) - _TAIL_CHARACTERS
    tail = text.find(" ", last, last + _TAIL_CHARACTERS // 2) + 1 or last
    middle = text[head:tail]
    left_out = len(middle) - _MIDDLE_CHARACTERS
    if left_out > 0:
        middle = (
            f"{middle[:_MIDDLE_CHARACTERS]}\n\n[{left_out:,} more characters are in the data set, not on this page]\n\n"
        )
    yield Piece(kind, text[:head])
    yield Piece(kind, middle, hidden=True)
    yield Piece(kind, text[tail:])


def parity_sentence(parity: Mapping[str, Any]) -> str:
    """How close the exported model's logits are to the trained one's."""
    text = (
        f"On {plural(parity['tokens'], 'token')} the logits differ by at most {number(parity['max_abs_difference'], 2)}"
    )
    if parity.get("logit_spread"):
        relative = parity["max_abs_difference"] / parity["logit_spread"]
        text += f", {number(relative, 2)} of their spread"
    if parity.get("tolerance") is not None:
        text += f" (allowed: {number(parity['tolerance'], 2)})"
    return f"{text}; both prefer the same token at {percent(parity['argmax_agreement'])} of the positions."


def setting_rows(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Settings with dotted keys, as in a recipe; an empty one is an empty text."""
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows += setting_rows(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", _setting_text(value)))
    return rows


def _setting_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(_setting_text, value))
    return "" if value == {} else str(value)


def versions(run: Run) -> list[tuple[str, str]]:
    """Versions of all stages; several where stages ran with different ones."""
    found: dict[str, list[str]] = {}
    for manifest in run.manifests.values():
        for package, version in manifest.get("versions", {}).items():
            if version not in found.setdefault(package, []):
                found[package].append(version)
    return [(package, ", ".join(seen)) for package, seen in found.items()]


def set_colors(names: Sequence[str]) -> dict[str, str]:
    """The same colour for a source wherever it appears."""
    own = {"raw": "raw", "augmented": "augmented"}
    others = [name for name in dict.fromkeys(names) if name not in own]
    return own | {name: OTHER_COLORS[index % len(OTHER_COLORS)] for index, name in enumerate(others)}


def _measured(value: float | None) -> float:
    return float("nan") if value is None else float(value)
