"""Data arguments of a run for other Megatron-Core trainers: data prefixes with weights, tokenizer, sizes.

    python examples/nemo/run_data.py runs/quickstart

prints them for Megatron-LM, NeMo and Megatron-Bridge. Uses only the standard library, so that it runs in their
environments; reads ``tokens/dataset.json``, which lists the datasets written by the stage ``tokens``.
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
        vocab_size: vocabulary size of the tokenizer, without padding.
        tokens: number of training tokens in one epoch.
    """

    train: tuple[tuple[float, str], ...]
    valid: tuple[tuple[float, str], ...]
    test: tuple[tuple[float, str], ...]
    tokenizer: str
    vocab_size: int
    tokens: int

    def zipped(self, split: str) -> list[str]:
        """``[weight, prefix, weight, prefix, ...]``, the format of Megatron-LM's ``--data-path``."""
        return [part for weight, prefix in getattr(self, split) for part in (f"{weight:g}", prefix)]

    def nemo_paths(self) -> dict[str, list[str]]:
        """``paths`` of NeMo's PreTrainingDataModule; validation without weights, because all of it may be used."""
        valid = [prefix for _, prefix in self.valid]
        # The module requires a test set; without one, use the validation data.
        return {"train": self.zipped("train"), "validation": valid, "test": [path for _, path in self.test] or valid}

    def blend_per_split(self) -> list[tuple[list[str], list[float] | None] | None]:
        """``blend_per_split`` of Megatron-Core's GPTDatasetConfig, which Megatron-Bridge uses: train, valid, test."""
        return [_blend(self.train), _blend(self.valid), _blend(self.test)]


def read_run(folder: str | Path) -> RunData:
    """The data of the run in ``folder`` (the recipe's ``output_dir``), with absolute paths.

    Raises:
        SystemExit: the stage ``tokens`` has not finished, or there is no validation data.
    """
    tokens = Path(folder).resolve() / "tokens"
    try:
        described = json.loads((tokens / "dataset.json").read_text())
    except FileNotFoundError:
        raise SystemExit(f"{tokens}/dataset.json: no such file; run `megatron-ipt run RECIPE --until tokens`") from None
    if not described["valid"]:
        raise SystemExit(f"{tokens}: no validation data; set corpus.valid_share in the recipe")

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
    # Without weights, Megatron-Core reads all data once.
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
