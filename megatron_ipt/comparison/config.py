"""Configuration of a comparison: the YAML file that ``megatron-ipt compare`` reads."""

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
    name: str = key("comparison", "Title of table and plot.")
    output_dir: str = key("runs/${name}", "Folder for the data, the runs and the results.", affects_output=False)
    tasks: list[str] = key([], "Files in SQuAD format: texts with questions. Whole articles are held out.")
    text: list[str] = key([], "Plain text files, read like corpus.inputs. Whole documents are held out.")
    read: ReadOverrides = key(ReadOverrides, "How the files of text are read.")
    held_out_share: float = key(0.2, "Fraction of articles and of plain documents held out.", minimum=0, maximum=0.9)
    vocab_size: int = key(2048, "Vocabulary size of the common tokenizer, trained on texts without pairs.", minimum=300)
    recipe: dict[str, Any] = key(
        {},
        "Recipe keys common to all runs. ${output_dir}/data/ has contexts.jsonl and text.jsonl for training, "
        "pairs.json with the same contexts and their gold pairs, tokenizer/tokenizer.model, and held-out "
        "questions.jsonl and text_held_out.jsonl.",
    )
    arms: dict[str, list[str]] = key({}, "Recipe variants: lists of KEY=VALUE by name. The first is the baseline.")
    seeds: list[int] = key([1, 2, 3], "Every variant is trained once per seed; a seed fixes the initial weights.")
    split_seed: int = key(0, "Seed of the held-out split.", minimum=0)
    processes: int = key(1, "Number of concurrent runs, which share the CPU cores.", minimum=1, affects_output=False)

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.tasks:
            yield "tasks", "is empty; give at least one file in SQuAD format"
        if len(self.arms) < 2:
            yield "arms", "a comparison needs at least two variants"
        for name in self.arms:
            if not _ARM_NAME.fullmatch(name):
                yield f"arms.{name}", "is used as a folder name; use letters, digits and _ only"
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            yield "seeds", "give at least one, without duplicates"


def load_comparison(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> ComparisonConfig:
    """Reads a comparison and ``key=value`` overrides.

    Raises:
        RecipeError: the file is invalid; lists all problems.
    """
    return load(ComparisonConfig, path, overrides)
