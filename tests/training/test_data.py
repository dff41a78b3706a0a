from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_ipt.errors import InputError
from megatron_ipt.training.loop.batch_ramp import BatchRamp

from .conftest import documents, write_tokens

data = pytest.importorskip("megatron_ipt.training.data.batches")
indices = pytest.importorskip("megatron_ipt.training.data.sample_index")


def test_reads_what_the_tokens_stage_describes(tokens: Path) -> None:
    read = data.TokenData.read(tokens)
    assert (read.vocab_size, read.eod_id, [source.name for source in read.valid]) == (500, 2, ["raw", "augmented"])
    data.check_sources(read, seq_length=32)


def test_fewer_tokens_than_a_sequence(tmp_path: Path) -> None:
    read = data.TokenData.read(write_tokens(tmp_path, [[[1, 5, 2]]], {}))
    with pytest.raises(InputError, match=r"train-0.bin: 3 tokens, fewer than one sequence .*seq_length=32"):
        data.check_sources(read, seq_length=32)


def test_id_outside_the_vocabulary(tmp_path: Path) -> None:
    read = data.TokenData.read(write_tokens(tmp_path, [documents(4, 1)], {"raw": [[1, 501, 2]]}))
    with pytest.raises(InputError, match=r"valid-raw.bin: token id 501 is outside the vocabulary of 500"):
        data.check_sources(read, seq_length=32)


def test_empty_validation_set_is_no_error(tmp_path: Path) -> None:
    data.check_sources(data.TokenData.read(write_tokens(tmp_path, [documents(4, 1)], {"raw": []})), seq_length=32)


def test_index_files_of_a_crash_are_not_taken_for_complete(tmp_path: Path) -> None:
    for name in ("finished.npy", "changed.npy"):
        (tmp_path / name).write_bytes(b"whole")
    indices.IndexCache(tmp_path).mark_finished()
    (tmp_path / "changed.npy").write_bytes(b"who")
    (tmp_path / "half.npy").write_bytes(b"ha")
    indices.IndexCache(tmp_path).drop_unfinished()
    assert sorted(path.name for path in tmp_path.glob("*.npy")) == ["finished.npy"]


def test_missing_file_is_named(tmp_path: Path) -> None:
    write_tokens(tmp_path, [documents(4, 1)], {})
    (tmp_path / "train-0.bin").unlink()
    with pytest.raises(InputError, match=r"train-0\.bin: named by .*dataset\.json"):
        data.TokenData.read(tmp_path)


def test_missing_key_is_named(tmp_path: Path) -> None:
    write_tokens(tmp_path, [documents(4, 1)], {})
    description = json.loads((tmp_path / "dataset.json").read_text())
    del description["eod_id"]
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match="key 'eod_id' is missing"):
        data.TokenData.read(tmp_path)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        ((7, None, None), 7),
        ((None, 1000, None), 4),
        ((None, None, None), 39),
        ((None, None, 0.5), 19),
        ((None, None, 1e-9), 1),
    ],
)
def test_length_of_the_run(length: tuple[int | None, int | None, float | None], expected: int) -> None:
    ramp = BatchRamp.constant(8)
    assert data.number_of_steps(*length, train_tokens=10_000, seq_length=32, ramp=ramp) == expected
