"""Run folders as the stages leave them, with figures that can be checked by hand."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import megatron_ipt.recipe  # noqa: F401  It registers the stages.
from megatron_ipt.files import read_json, write_json
from megatron_ipt.manifest import StageContext
from megatron_ipt.report.layout import read_records
from megatron_ipt.stages import all_stages, load
from megatron_ipt.stages.page import Element, Fold, Part, SideBySide, StageRecord

Kind = TypeVar("Kind")
STAGES = ("corpus", "synthesis", "augment", "tokens", "training", "export", "evaluation")
SECONDS = dict(zip(STAGES, (0.4, 2.2, 0.7, 3.1, 95.0, 1.6, 12.0)))
CATEGORIES = {"cloze": 90, "cause and effect": 42, "definition": 31, "summary": 24, "completion": 13}
TITLES = (
    "The tides", "Sourdough bread", "Printing with movable type", "How bees find their way", "The Suez Canal",
    "Volcanic glass", "The keyboard", "Salt",
)  # fmt: skip
TEXT = (
    "Tides are the rise and fall of sea levels. They are caused by the pull of the Moon and, to a lesser degree, of "
    "the Sun. Because the Moon moves along its orbit while the Earth turns, high tide comes about fifty minutes later "
    "each day. When Sun and Moon pull in one line, the range is largest; such tides are called spring tides."
)


def context_of(folders: dict[str, Path], directory: Path, name: str = "quickstart") -> StageContext:
    return StageContext("report", directory, seed=1234, inputs=folders, recipe_name=name)


def records_of(folders: dict[str, Path]) -> dict[str, StageRecord]:
    """What the stages in ``folders`` left, by stage."""
    stages = [stage for stage in all_stages() if stage.name in folders]
    return {record.name: record for record in read_records(stages, folders)}


def part_of(folders: dict[str, Path], stage: str) -> Part:
    """What ``stage`` shows of itself."""
    record = records_of(folders)[stage]
    part: Part = load(record.stage.report)(record)
    return part


def change_counts(folder: Path, **counts: Any) -> None:
    """Changes counts in the manifest in ``folder``."""
    manifest = read_json(folder / "manifest.json")
    write_json(folder / "manifest.json", manifest | {"counts": manifest["counts"] | counts})


def all_of(part: Part, kind: type[Kind]) -> list[Kind]:
    """The elements of one class in ``part``, those inside others included."""
    return [element for element in _every(part.elements) if isinstance(element, kind)]


def _every(elements: Sequence[Element]) -> Iterator[Element]:
    for element in elements:
        yield element
        if isinstance(element, (SideBySide, Fold)):
            yield from _every(element.elements)


def write_run(root: Path, steps: int = 300, categories: dict[str, int] | None = None) -> dict[str, Path]:
    """Writes what the stages of a run write, as far as the report reads it; returns their folders."""
    categories = CATEGORIES if categories is None else categories
    for name, counts in _counts(steps, categories).items():
        write_json(root / name / "manifest.json", _manifest(name, counts))
    write_json(root / "augment" / "samples.json", [sample(title, index) for index, title in enumerate(TITLES)])
    write_json(root / "tokens" / "dataset.json", _dataset())
    (root / "training" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in _metrics(steps)))
    write_json(root / "evaluation" / "results.json", _results())
    return {name: root / name for name in STAGES}


def sample(title: str, index: int) -> dict[str, Any]:
    """One augmented document of one text and two pairs."""
    return {
        "id": f"passages.jsonl:{index}",
        "split": "train",
        "layout": "plain" if index % 3 else "dialogue",
        "texts": 1,
        "pairs": 2,
        "segments": [
            ["text", f"{title}\n\n{TEXT}"],
            ["frame", "\n\nAnswer from the text.\n\nQuestion: "],
            ["question", "Why does high tide come later each day?"],
            ["frame", "\nAnswer: "],
            ["answer", "Because the Moon moves along its orbit while the Earth turns."],
            ["frame", "\n\nQuestion: "],
            ["question", "What are spring tides?"],
            ["frame", "\nAnswer: "],
            ["answer", "Tides whose range is largest, when Sun and Moon pull in one line."],
        ],
    }


def _manifest(name: str, counts: dict[str, Any]) -> dict[str, Any]:
    settings = {
        "corpus": {
            "seed": 1234,
            "inputs": ["examples/corpus"],
            "text_field": "text",
            "valid_share": 0.1,
            "title": None,
        },
        "training": {
            "seed": 1234,
            "model": {"family": "mistral", "preset": "small", "num_layers": None},
            "optimizer": {"lr": 0.003, "clip_grad": 1.0},
            "parallel": {"sequence_parallel": False},
        },
    }
    inputs = [
        {"path": "examples/corpus/passages.jsonl", "bytes": 61_250, "xxh128": "0"},
        {"path": "examples/corpus/more.txt", "bytes": 38_750, "xxh128": "1"},
    ]
    return {
        "stage": name,
        "status": "complete",
        "settings": settings.get(name, {"seed": 1234}),
        "inputs": inputs if name == "corpus" else [],
        "versions": {"megatron-ipt": "0.1.0", "python": "3.11.2", "numpy": "2.2.6", "torch": "2.8.0"},
        "started": f"2025-03-04T10:{STAGES.index(name):02d}:30+0000",
        "counts": counts,
        "seconds": SECONDS[name],
    }


def _counts(steps: int, categories: dict[str, int]) -> dict[str, dict[str, Any]]:
    return {
        "corpus": {
            "documents": 64, "characters": 99_200, "synthesis_documents": 40, "raw_documents": 24,
            "splits": {"train": 56, "valid": 6, "test": 2}, "files": 2, "empty_files": [],
            "rejected": {"not valid JSON": 2, "too short": 1},
        },
        "synthesis": {
            "chains": 20, "texts": 40, "texts_with_pairs": 32, "pairs": sum(categories.values()),
            "categories": categories,
        },
        "augment": {
            "documents": 20, "augmented_documents": 16, "plain_documents": 4, "texts": 40,
            "pairs": sum(categories.values()), "pairs_rendered": sum(categories.values()), "text_last_documents": 1,
            "unmatched_options": 0, "characters": 80_000, "text_characters": 60_000, "pair_characters": 16_000,
            "frame_characters": 4_000, "layouts": {"plain": 15, "dialogue": 5}, "categories": categories,
        },
        "tokens": {
            "vocab_size": 2048,
            "train": {"documents": 56, "tokens": 40_000},
            "valid": {"documents": 6, "tokens": 4_000},
            "test": {"documents": 2, "tokens": 1_000},
            "train_by_source": {
                "augmented": {"documents": 18, "tokens": 30_000, "left_out_documents": 0},
                "raw": {"documents": 38, "tokens": 10_000, "left_out_documents": 3},
            },
            "rejected": {"raw": 4},
        },
        "training": {
            "steps": steps, "tokens": steps * 4096, "parameters": 3_412_992, "ranks": 2, "precision": "fp32",
        },
        "export": {"checkpoint": f"iter_{steps:07d}", "parameters": 3_412_992},
        "evaluation": {"logit_difference": 2.1e-6},
    }  # fmt: skip


def _dataset() -> dict[str, Any]:
    by_source = _counts(1, {})["tokens"]["train_by_source"]
    return {
        "vocab_size": 2048,
        "train": [{"name": "mixed", "prefix": "train", "weight": 1.0, "by_source": by_source}],
        "valid": [
            {"name": "augmented", "prefix": "valid-augmented", "documents": 2, "tokens": 2_700},
            {"name": "raw", "prefix": "valid-raw", "documents": 4, "tokens": 1_300},
        ],
        "test": [{"name": "raw", "prefix": "test-raw", "documents": 2, "tokens": 1_000}],
    }


def _metrics(steps: int) -> list[dict[str, Any]]:
    generator = random.Random(0)
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        fall = math.exp(-4 * step / steps)
        warm_up = min(1.0, step / (0.05 * steps))
        lines.append(
            {
                "step": step,
                "loss": 3.1 + 4.5 * fall + generator.gauss(0, 0.08),
                "lr": 0.003 * warm_up * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps))),
                "grad_norm": 0.4 + 3 * fall + abs(generator.gauss(0, 0.2)) + (25 if step == steps // 2 else 0),
                "tokens_per_second": 13_000 + generator.gauss(0, 400),
                "tokens": step * 4096,
                "seconds": step * 0.315,
            }
        )
        if step % (steps // 6) == 0:
            lines.append({"step": step, "valid": {"augmented": 3.0 + 4.2 * fall, "raw": 3.9 + 3.5 * fall}})
    return lines


def _results() -> dict[str, Any]:
    return {
        "parity": {
            "tokens": 2048, "tolerance": 1e-4, "max_abs_difference": 2.1e-6, "logit_spread": 1.5,
            "argmax_agreement": 1.0,
        },
        "perplexity": {
            "augmented": {
                "tokens": 2_699, "loss": 3.0769, "perplexity": 21.69, "bits_per_byte": 1.204, "unigram_entropy": 6.21,
            },
            "raw": {
                "tokens": 1_299, "loss": 3.9641, "perplexity": 52.67, "bits_per_byte": 1.562, "unigram_entropy": 6.48,
            },
        },
        "generations": [
            {
                "prompt": "Glass is made by melting sand together with soda ash and lime. The mixture",
                "continuation": " is called the batch, and it is heated in a furnace.\nQuestion: What is the batch?",
            },
            {"prompt": "The first lighthouses were", "continuation": " fires on hills, and later on towers of stone."},
        ],
    }  # fmt: skip
