"""A comparison: one YAML file beside a recipe's. ``megatron-ipt compare`` reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.config import key, load
from megatron_ipt.corpus.config import ReadOverrides

_ARM_NAME = re.compile(r"[A-Za-z0-9_]+")


@dataclass
class ComparisonConfig:
    name: str = key("comparison", "Title of table and picture.")
    output_dir: str = key("runs/${name}", "Folder of the data, of every run, and of the results.", affects_output=False)
    tasks: list[str] = key([], "Files in the SQuAD format: texts with questions. Whole articles are held out of them.")
    text: list[str] = key([], "Files of plain text, read like corpus.inputs; documents are held out of them.")
    read: ReadOverrides = key(ReadOverrides, "How the files of text are read.")
    held_out_share: float = key(0.2, "Share of articles and of plain documents held out.", minimum=0, maximum=0.9)
    vocab_size: int = key(2048, "Pieces of the tokenizer of all runs, trained on the texts without pairs.", minimum=300)
    recipe: dict[str, Any] = key(
        {},
        "What all runs have in common, with the keys of a recipe. ${output_dir}/data/ holds contexts.jsonl and "
        "text.jsonl to train on, pairs.json with the same contexts and their gold pairs, tokenizer/tokenizer.model, "
        "and, held out, questions.jsonl and text_held_out.jsonl.",
    )
    arms: dict[str, list[str]] = key({}, "What sets each arm apart: KEY=VALUE by name. The first is the baseline.")
    seeds: list[int] = key(
        [1, 2, 3], "Every arm is trained once for each; those of one seed begin with the same weights."
    )
    split_seed: int = key(0, "Decides what is held out.", minimum=0)
    processes: int = key(1, "Runs at a time; they share the CPU's cores.", minimum=1, affects_output=False)

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.tasks:
            yield "tasks", "is empty; name at least one file in the SQuAD format"
        if len(self.arms) < 2:
            yield "arms", "a comparison needs at least two"
        for name in self.arms:
            if not _ARM_NAME.fullmatch(name):
                yield f"arms.{name}", "is used as a folder; letters, digits and _ only"
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            yield "seeds", "give at least one, each once"


def load_comparison(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> ComparisonConfig:
    """Reads a comparison and ``key=value`` overrides.

    Raises:
        RecipeError: lists everything wrong with it.
    """
    return load(ComparisonConfig, path, overrides)
