"""Accuracy against the number of demonstrations, structured and concatenated, over seeds.

The same questions at every point; a seed fixes an order of the demonstrations, of which each point takes the first so
many. Points are kept as they are measured, so an interrupted run goes on with the next one. Where plain concatenation
no longer fits into the model's context, its curve ends, and the results say so.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from megatron_ipt.config import as_dict
from megatron_ipt.errors import InputError, StageError
from megatron_ipt.evaluation.in_context.config import InContextConfig
from megatron_ipt.evaluation.in_context.demonstrations import TooLong, choose
from megatron_ipt.evaluation.in_context.questions import Task, measure
from megatron_ipt.evaluation.language_model import LanguageModel
from megatron_ipt.files import read_json, write_json
from megatron_ipt.manifest import fingerprint_file
from megatron_ipt.progress import duration

logger = logging.getLogger(__name__)

RESULTS = "results.json"
MEASURES = ("accuracy_per_token", "accuracy", "accuracy_per_byte", "answer_loss")
"""What is averaged over seeds; the first is the one of the paper and of the picture."""


@dataclass(frozen=True)
class Points:
    """What is measured.

    Attributes:
        modes: of ``concat`` and ``structured``.
        counts: numbers of demonstrations; 0 is measured once, whatever the modes and seeds.
        seeds: of the choice of demonstrations.
    """

    modes: Sequence[str]
    counts: Sequence[int]
    seeds: Sequence[int]


def draw_curve(
    folder: Path, dtype: torch.dtype, task: Task, config: InContextConfig, points: Points, output: Path
) -> dict[str, Any]:
    """Measures all points that have no result yet, and writes ``results.json`` and pictures to ``output``.

    Args:
        folder: Hugging Face model.
        config: the settings that all points have in common.

    Returns:
        The content of ``results.json``: ``{model, dtype, questions, pool, settings, points, left_out, summary}``.

    Raises:
        InputError: no count, more demonstrations than there are, or a model that cannot be used so.
        StageError: ``output`` has results made with other settings.
    """
    if not points.counts or not points.modes or not points.seeds:
        raise InputError("in-context: give at least one count, one mode and one seed")
    # Found out before anything is computed.
    for count in points.counts:
        choose(count, len(task.pool), 0, task.source)
    fixed = ("mode", "demonstrations", "groups", "seed", "files", "memory_gib")
    identity = {
        "model": str(folder),
        "weights": [fingerprint_file(path) for path in sorted(folder.glob("*.safetensors"))],
        "dtype": str(dtype).removeprefix("torch."),
        "questions": len(task.questions),
        "pool": fingerprint_file(task.source),
        "settings": {name: value for name, value in as_dict(config).items() if name not in fixed},
    }
    results = _earlier(output, identity) | {"left_out": []}
    todo = _todo(points)
    model: LanguageModel | None = None
    begin = time.monotonic()
    for number, (mode, count, seed) in enumerate(todo):
        if any(
            (point["mode"], point["demonstrations"], point["seed"]) == (mode, count, seed)
            for point in results["points"]
        ):
            continue
        left_out = {"mode": mode, "demonstrations": count}
        if any(left_out.items() <= entry.items() for entry in results["left_out"]):
            continue
        model = model or LanguageModel(folder, dtype=dtype)
        settings = replace(config, mode=mode, demonstrations=max(count, 1), groups=None, seed=seed)
        start = time.monotonic()
        try:
            figures = measure(model, task, settings)
        except TooLong as error:
            logger.info("in context: %s ends before %d demonstrations: %s", mode, count, error)
            results["left_out"].append({**left_out, "reason": str(error)})
            results["points"] = [point for point in results["points"] if not left_out.items() <= point.items()]
            continue
        point = {**figures.pop("in_context"), **figures, "seconds": round(time.monotonic() - start, 1)}
        results["points"].append(point)
        write_json(output / RESULTS, results)
        left = duration((len(todo) - number - 1) * (time.monotonic() - begin) / (number + 1))
        logger.info(
            "in context: %s, %d demonstrations, seed %d: %.1f %%; point %d of %d, about %s left at this speed",
            mode, count, seed, 100 * point[MEASURES[0]], number + 1, len(todo), left,
        )  # fmt: skip
    results["points"].sort(key=lambda point: (point["mode"], point["demonstrations"], point["seed"]))
    results["summary"] = summary(results["points"])
    write_json(output / RESULTS, results)
    from megatron_ipt.evaluation.in_context.plot import save

    save(results, [output / "accuracy.png", output / "accuracy.svg"])
    return results


def _todo(points: Points) -> list[tuple[str, int, int]]:
    """(mode, count, seed) in the order of the work, the cheap ones first."""
    found = [("none", 0, points.seeds[0])]
    for count in sorted(set(points.counts)):
        found += [(mode, count, seed) for mode in points.modes for seed in points.seeds]
    return found


def _earlier(output: Path, identity: dict[str, Any]) -> dict[str, Any]:
    path = output / RESULTS
    if not path.exists():
        output.mkdir(parents=True, exist_ok=True)
        return {**identity, "points": []}
    earlier: dict[str, Any] = read_json(path)
    different = [name for name, value in identity.items() if earlier.get(name) != value]
    if different:
        raise StageError(
            f"{path}: was made with other settings ({', '.join(different)}); choose another --output, or "
            "remove the file"
        )
    return earlier


def summary(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation (n - 1; None for a single seed) over seeds, by mode and number of demonstrations."""
    by_point: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for point in points:
        by_point.setdefault((point["mode"], point["demonstrations"]), []).append(point)
    rows = []
    for (mode, count), group in sorted(by_point.items()):
        row: dict[str, Any] = {"mode": mode, "demonstrations": count, "seeds": len(group)}
        row["groups"] = sorted({point["groups"] for point in group})
        row["tokens"] = round(statistics.mean(point["tokens"] for point in group))
        for name in MEASURES:
            values = [point[name] for point in group]
            row[name] = {
                "mean": statistics.mean(values),
                "deviation": statistics.stdev(values) if len(values) > 1 else None,
            }
        rows.append(row)
    return rows


def table(results: dict[str, Any]) -> str:
    """The summary as a Markdown table, in percent and nats."""
    lines = [
        "| mode | demonstrations | groups | tokens | accuracy, % | by whole answer, % | answer loss |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in results["summary"]:
        groups = " or ".join(map(str, row["groups"]))
        cells = [_cell(row[name], scale, digits) for name, scale, digits in
                 (("accuracy_per_token", 100, 1), ("accuracy", 100, 1), ("answer_loss", 1, 3))]  # fmt: skip
        lines.append(
            f"| {row['mode']} | {row['demonstrations']} | {groups} | {row['tokens']:,} | {' | '.join(cells)} |"
        )
    for entry in results["left_out"]:
        lines.append(f"| {entry['mode']} | {entry['demonstrations']} | | does not fit | | | |")
    return "\n".join(lines)


def _cell(value: dict[str, float | None], scale: float, digits: int) -> str:
    mean, deviation = value["mean"], value["deviation"]
    text = f"{scale * (mean or 0):.{digits}f}"
    return text if deviation is None else f"{text} ± {scale * deviation:.{digits}f}"
