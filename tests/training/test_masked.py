"""Rows with a loss mask: what a sample is, and that training on them is what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.tuning.rows import RowReader, RowWriter

from .conftest import documents, write_tokens
from .test_runs import Jobs, last_record, losses, validations

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
data = pytest.importorskip("megatron_ipt.training.data.batches")
masked = pytest.importorskip("megatron_ipt.training.data.masked_rows")

ROWS = 22
LENGTH = 64


def write_rows(folder: Path, prefix: str, rows: int, seed: int, longest: int = LENGTH + 1) -> dict[str, Any]:
    """Rows of one to three sequences; the first row is full, and shares of predicted tokens differ widely."""
    generator = np.random.default_rng(seed)
    with RowWriter(folder / prefix, np.uint16) as writer:
        for number in range(rows):
            lengths = generator.multinomial(longest - 12, np.ones(1 + number % 3) / (1 + number % 3)) + 4
            lengths = lengths if number == 0 else np.maximum(lengths * generator.uniform(0.3, 1), 3).astype(int)
            if number == 0:
                lengths[0] += longest - lengths.sum()
            ids = generator.integers(3, 500, lengths.sum())
            mask = generator.random(len(ids)) < generator.uniform(0.05, 0.9)
            mask[np.cumsum(lengths) - 1] = True
            mask[np.cumsum(lengths) - lengths] = False
            writer.add(ids, mask, lengths.astype(np.int32))
    return {"name": prefix, "prefix": prefix, "loss_mask": f"{prefix}-loss-mask", "seq_length": LENGTH, "weight": 1.0,
            "documents": rows, "tokens": writer.tokens, "loss_tokens": writer.loss_tokens}  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuning stage of two data sets, and one validation set."""
    folder = tmp_path_factory.mktemp("rows")
    train = write_rows(folder, "train", ROWS, 1) | {"by_source": {"one": {}, "two": {}}}
    np.save(folder / "train.sources.npy", np.array([0] * 15 + [1] * 7, np.uint8))
    # Rows of the embedding that pad it would take part in the loss of transformers; 512 needs none.
    description = {"vocab_size": 512, "bos_id": 1, "eod_id": 2, "pad_id": None, "train": [train],
                   "valid": [write_rows(folder, "valid-one", 5, 2)], "test": []}  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="module")
def reader(rows: Path) -> RowReader:
    return RowReader(rows / "train", rows / "train-loss-mask")


@pytest.fixture
def samples(reader: RowReader) -> Callable[..., Any]:
    def build(seed: int | None = None, attention: bool = False) -> Any:
        config = SimpleNamespace(sequence_length=LENGTH, create_attention_mask=attention)
        return masked.MaskedSamples(reader, config, 2, seed)

    return build


def test_a_sample_is_a_row(samples: Callable[..., Any], reader: RowReader) -> None:
    for index, sample in enumerate(samples()[number] for number in range(ROWS)):
        row = reader[index]
        size = len(row.ids) - 1
        assert sample["tokens"].tolist() == row.ids[:-1].tolist() + [2] * (LENGTH - size)
        assert sample["labels"][:size].tolist() == row.ids[1:].tolist()
        assert sample["loss_mask"].tolist() == row.mask[1:].astype(float).tolist() + [0.0] * (LENGTH - size)
    assert len(reader[0].ids) == LENGTH + 1
    padding = samples(attention=True)[None]
    assert padding["loss_mask"].sum() == 0 and padding["tokens"].tolist() == [2] * LENGTH
    assert padding["attention_mask"].shape == (1, LENGTH, LENGTH)


def test_attention_stays_within_a_sequence() -> None:
    forbidden = masked.forbidden_attention(np.array([2, 3], np.int32), 6)[0]
    assert (~forbidden).int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


def test_order_depends_on_the_seed_alone(samples: Callable[..., Any]) -> None:
    def order(seed: int) -> list[int]:
        return [int(samples(seed)[index]["tokens"][0]) for index in range(ROWS)]

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == sorted(order(2))


def test_a_pass_counts_rows(rows: Path) -> None:
    read = data.TokenData.read(rows)
    data.check_sources(read, LENGTH)
    assert read.tokens_of_epoch(LENGTH) == ROWS * LENGTH
    assert (read.train[0].parts, read.valid[0].documents) == (("one", "two"), 5)


def test_rows_longer_than_the_sequences(rows: Path) -> None:
    with pytest.raises(InputError, match=r"a row of 65 tokens, more than training\.data\.seq_length=32 plus one"):
        data.check_sources(data.TokenData.read(rows), 32)


def test_a_second_say_in_what_is_predicted_is_refused(rows: Path, blended: Path) -> None:
    with pytest.raises(RecipeError, match=r"training\.data\.eod_mask_loss: has no effect"):
        data.check_sources(data.TokenData.read(rows), LENGTH, eod_mask_loss=True)
    data.check_sources(data.TokenData.read(blended), LENGTH, eod_mask_loss=True)


def test_masks_that_do_not_belong(rows: Path, tmp_path: Path) -> None:
    write_rows(tmp_path, "other", ROWS, 3)
    with pytest.raises(InputError, match=r"other-loss-mask\.bin: shape differs from .*train\.bin"):
        RowReader(rows / "train", tmp_path / "other-loss-mask")
    with pytest.raises(InputError, match=r"train\.idx: data type is uint16, expected uint8 for a loss mask"):
        RowReader(rows / "train", rows / "train")


@pytest.mark.slow
def test_loss_and_gradient_are_those_of_transformers(rows: Path) -> None:
    """Over three micro-batches with very different numbers of tokens to predict."""
    pytest.importorskip("transformers")
    result = subprocess.run(
        [sys.executable, "-m", "tests.training.compare_masked", str(rows)], cwd=Path(__file__).parents[2],
        env=dict(os.environ, OMP_NUM_THREADS="1"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    for found in json.loads(result.stdout.splitlines()[-1]).values():
        assert found["loss"] < 1e-5 and found["gradient"] < 1e-5
        assert found["most"] > 1.5 * found["least"] > 0


@pytest.fixture(scope="module")
def blended(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows beside running text."""
    folder = write_tokens(tmp_path_factory.mktemp("blended"), [documents(60, 1)], {})
    description = json.loads((folder / "dataset.json").read_text())
    description["train"].append(write_rows(folder, "rows", ROWS, 1))
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="module")
def runs(rows: Path, blended: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    common = ("model.num_layers=2", f"data.seq_length={LENGTH}", "logging.tensorboard=false", "steps=null")
    one, two = Jobs(root, rows), Jobs(root, rows)
    one.add("base", *common, "epochs=3.7", "schedule.lr_decay_iters=10")
    one.add("first", *common, "epochs=2", "schedule.lr_decay_iters=10")
    one.add("resumed", *common, "epochs=3.7", "schedule.lr_decay_iters=10", copy="first")
    one.add("blend", *common, "tokens=12800", "data.blend={train-0: 3, rows: 1}", tokens=blended)
    two.add("two-ranks", *common, "epochs=3.7", "schedule.lr_decay_iters=10")
    one.run(1)
    two.run(2)
    return root


@pytest.mark.slow
def test_ranks_do_not_change_the_loss(runs: Path) -> None:
    one, two = losses(runs / "base"), losses(runs / "two-ranks")
    assert len(one) == len(two) == 10
    assert max(abs(one[step] - two[step]) for step in one) < 1e-5
    valid_one, valid_two = validations(runs / "base"), validations(runs / "two-ranks")
    assert all(abs(valid_one[step]["valid-one"] - valid_two[step]["valid-one"]) < 1e-5 for step in valid_one)


@pytest.mark.slow
def test_resumes_exactly_and_beyond_a_pass(runs: Path) -> None:
    base, first, resumed = losses(runs / "base"), losses(runs / "first"), losses(runs / "resumed")
    # Three batches of 8 samples are longer than a pass over 22 rows.
    assert list(first) == [1, 2, 3, 4, 5] and list(resumed) == list(range(1, 11))
    assert resumed == base


@pytest.mark.slow
def test_tokens_by_source(runs: Path, reader: RowReader) -> None:
    """Input tokens without padding; of whole passes they are known."""
    counted = last_record(runs / "base")["tokens_by_source"]
    inputs = reader.lengths - 1
    passes = 3 * inputs.sum()
    assert counted.keys() == {"one", "two"}
    assert passes < sum(counted.values()) < passes + inputs.sum()
    assert 3 * inputs[15:].sum() <= counted["two"] <= 4 * inputs[15:].sum()


@pytest.mark.slow
def test_rows_are_blended_with_running_text(runs: Path) -> None:
    counted = last_record(runs / "blend")["tokens_by_source"]
    # 200 samples, three of four of text: 150 times 64 tokens.
    assert counted["train-0"] == 150 * LENGTH
    assert 0 < counted["rows"] < 50 * LENGTH
    assert all(np.isfinite(loss) for loss in losses(runs / "blend").values())
