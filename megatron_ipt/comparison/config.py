"""The settings of a comparison: the YAML file that ``megatron-ipt compare`` reads."""

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
    tasks: list[str] = key([], "Files in SQuAD format: texts with questions. Whole articles of them are held out.")
    text: list[str] = key([], "Files of plain text, read like corpus.inputs; some of their documents are held out.")
    read: ReadOverrides = key(ReadOverrides, "How the files in text are read.")
    held_out_share: float = key(0.2, "Share of articles and of plain documents held out.", minimum=0, maximum=0.9)
    vocab_size: int = key(
        2048, "Vocabulary size of the tokenizer of all runs, trained on the texts without pairs.", minimum=300
    )
    recipe: dict[str, Any] = key(
        {},
        "What all runs have in common, with the keys of a recipe. ${output_dir}/data/ holds contexts.jsonl and "
        "text.jsonl to train on, pairs.json with the same contexts and their gold pairs, tokenizer/tokenizer.model, "
        "and, held out, questions.jsonl and text_held_out.jsonl.",
    )
    arms: dict[str, list[str]] = key({}, "The overrides of each arm, KEY=VALUE, by name. The first is the baseline.")
    seeds: list[int] = key(
        [1, 2, 3], "Every arm is trained once per seed; all arms of a seed start from the same weights."
    )
    split_seed: int = key(0, "Determines what is held out.", minimum=0)
    processes: int = key(1, "Runs at the same time; they share the CPU cores.", minimum=1, affects_output=False)

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.tasks:
            yield "tasks", "is empty; name at least one file in SQuAD format"
        if len(self.arms) < 2:
            yield "arms", "a comparison needs at least two"
        for name in self.arms:
            if not _ARM_NAME.fullmatch(name):
                yield f"arms.{name}", "is used as a folder name; use letters, digits and _ only"
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            yield "seeds", "give at least one, and each only once"


def load_comparison(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> ComparisonConfig:
    """Reads a comparison and ``key=value`` overrides.

    Raises:
        RecipeError: lists everything wrong with it.
    """
    return load(ComparisonConfig, path, overrides)
