"""What another Megatron-Core trainer needs to know of a run: data prefixes with weights, tokenizer, sizes.

    python examples/nemo/run_data.py runs/quickstart

prints it for Megatron-LM, NeMo and Megatron-Bridge. Standard library only, so that it runs in their environments too;
it reads ``tokens/dataset.json``, which names the datasets that the stage ``tokens`` wrote.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunData:
    """The data of a run.

    Attributes:
        train, valid, test: prefixes of ``.bin/.idx`` with their weights; ``test`` may be empty.
        tokenizer: folder that ``AutoTokenizer.from_pretrained`` loads.
        vocab_size: ids of the tokenizer, before any padding.
        tokens: tokens to train on, in one pass.
    """

    train: tuple[tuple[float, str], ...]
    valid: tuple[tuple[float, str], ...]
    test: tuple[tuple[float, str], ...]
    tokenizer: str
    vocab_size: int
    tokens: int

    def zipped(self, split: str) -> list[str]:
        """``[weight, prefix, weight, prefix, ...]``, as ``--data-path`` of Megatron-LM takes it."""
        return [part for weight, prefix in getattr(self, split) for part in (f"{weight:g}", prefix)]

    def nemo_paths(self) -> dict[str, list[str]]:
        """``paths`` of NeMo's PreTrainingDataModule; validation without weights, because all of it may be used."""
        valid = [prefix for _, prefix in self.valid]
        # The module insists on a test set; the held-out documents stand in for a missing one.
        return {"train": self.zipped("train"), "validation": valid, "test": [path for _, path in self.test] or valid}

    def blend_per_split(self) -> list[tuple[list[str], list[float] | None] | None]:
        """``blend_per_split`` of Megatron-Core's GPTDatasetConfig, which Megatron-Bridge uses: train, valid, test."""
        return [_blend(self.train), _blend(self.valid), _blend(self.test)]


def read_run(folder: str | Path) -> RunData:
    """The data of the run in ``folder`` (the recipe's ``output_dir``), with absolute paths.

    Raises:
        SystemExit: the stage ``tokens`` has not finished there, or nothing was held out.
    """
    tokens = Path(folder).resolve() / "tokens"
    try:
        described = json.loads((tokens / "dataset.json").read_text())
    except FileNotFoundError:
        raise SystemExit(f"{tokens}/dataset.json: no such file; run `megatron-ipt run RECIPE --until tokens`") from None
    if not described["valid"]:
        raise SystemExit(f"{tokens}: nothing was held out for validation; set corpus.valid_share in the recipe")

    def entries(split: str) -> tuple[tuple[float, str], ...]:
        return tuple((entry.get("weight", 1.0), str(tokens / entry["prefix"])) for entry in described[split])

    return RunData(
        train=entries("train"),
        valid=entries("valid"),
        test=entries("test"),
        tokenizer=str(tokens / described["tokenizer"]),
        vocab_size=described["vocab_size"],
        tokens=sum(entry["tokens"] for entry in described["train"]),
    )


def _blend(entries: tuple[tuple[float, str], ...]) -> tuple[list[str], list[float] | None] | None:
    if not entries:
        return None
    weights, prefixes = zip(*entries)
    # Without weights Megatron-Core goes through everything once.
    return list(prefixes), list(weights) if len(entries) > 1 and len(set(weights)) > 1 else None


def main(folder: str) -> None:
    data = read_run(folder)
    arguments = ["--train-data-path", *data.zipped("train"), "--valid-data-path", *data.zipped("valid")]
    if data.test:
        arguments += ["--test-data-path", *data.zipped("test")]
    arguments += ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", data.tokenizer]
    print(f"# {data.tokens:,} tokens, vocabulary {data.vocab_size:,}\n")
    print(f"# Megatron-LM\n{shlex.join(arguments)}\n")
    print(f"# NeMo 2.x: PreTrainingDataModule(paths=...)\n{json.dumps(data.nemo_paths(), indent=2)}\n")
    print(f"# Megatron-Bridge: config.dataset.blend_per_split = ...\n{data.blend_per_split()!r}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
