from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ipt.config import load
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import TOKENS
from megatron_ipt.training.config import TrainingConfig

VOCABULARY = 500
SEQUENCE = 32
SMALL_RUN = (
    "model.preset=tiny",
    "model.num_layers=4",
    f"data.seq_length={SEQUENCE}",
    "micro_batch_size=2",
    "global_batch_size=8",
    "optimizer.lr=0.003",
    "schedule.lr_warmup_iters=2",
    "checkpoint.save_interval=5",
    "validation.eval_interval=5",
)


def write_indexed_dataset(prefix: Path, documents: list[list[int]]) -> dict[str, Any]:
    """Megatron's format, written from its description rather than by its own writer."""
    lengths = np.array([len(document) for document in documents], dtype=np.int32)
    np.array([token for document in documents for token in document], dtype=np.uint16).tofile(f"{prefix}.bin")
    with open(f"{prefix}.idx", "wb") as stream:
        stream.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, len(documents), len(documents) + 1))
        lengths.tofile(stream)
        np.concatenate([[0], np.cumsum(lengths.astype(np.int64) * 2)[:-1]]).astype(np.int64).tofile(stream)
        np.arange(len(documents) + 1, dtype=np.int64).tofile(stream)
    return {"name": prefix.name, "prefix": prefix.name, "weight": 1.0,
            "documents": len(documents), "tokens": int(lengths.sum())}  # fmt: skip


def write_tokens(
    folder: Path,
    train: list[list[list[int]]],
    valid: dict[str, list[list[int]]],
    vocab_size: int = VOCABULARY,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    description = {
        "tokenizer": "tokenizer", "vocab_size": vocab_size, "bos_id": 1, "eod_id": 2, "pad_id": 0, "dtype": "uint16",
        "train": [write_indexed_dataset(folder / f"train-{index}", documents) for index, documents in enumerate(train)],
        "valid": [write_indexed_dataset(folder / f"valid-{name}", documents) | {"name": name}
                  for name, documents in valid.items()],
        "test": [],
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def documents(number: int, seed: int, vocab_size: int = VOCABULARY) -> list[list[int]]:
    """Random walks over a fixed successor table, four steps in five."""
    successors = np.random.default_rng(99).permutation(vocab_size - 3) + 3
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(number):
        token, document = int(generator.integers(3, vocab_size)), [1]
        for _ in range(int(generator.integers(40, 80))):
            document.append(token)
            random = int(generator.integers(3, vocab_size))
            token = int(successors[token - 3]) if generator.random() < 0.8 else random
        made.append([*document, 2])
    return made


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokens stage with two training sources and two validation sets."""
    folder = tmp_path_factory.mktemp("tokens")
    valid = {"raw": documents(7, 3), "augmented": documents(5, 4)}
    return write_tokens(folder, [documents(120, 1), documents(60, 2)], valid)


def settings(*overrides: str) -> TrainingConfig:
    return load(TrainingConfig, None, [*SMALL_RUN, *overrides])


def context(directory: Path, tokens: Path) -> StageContext:
    return StageContext("training", directory, seed=17, inputs={TOKENS: tokens})


@pytest.fixture(scope="module")
def train(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Runs the stage with overrides; gives its folder and counts."""
    from megatron_ipt.training.stage import run

    def train_with(*overrides: str, directory: Path | None = None) -> tuple[Path, dict[str, Any]]:
        directory = directory or tmp_path_factory.mktemp("training")
        return directory, run(settings(*overrides), context(directory, tokens))

    return train_with
