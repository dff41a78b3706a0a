from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from megatron_ipt.errors import InputError
from megatron_ipt.tokens.dataset import indexed
from megatron_ipt.tokens.dataset.indexed import IndexedReader, IndexedWriter, dtype_for, smallest_dtype

DOCUMENTS = [[1, 5, 9, 2], [], [1, 2], [1, 60_000, 2]]


def write(prefix, documents, dtype=np.uint16):
    with IndexedWriter(prefix, dtype) as writer:
        for document in documents:
            writer.add(np.array(document, np.int64), np.array([len(document)], np.int32))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_the_bytes_are_those_of_megatron_core(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    write(tmp_path / "ours", DOCUMENTS, dtype)
    builder = indexed_dataset.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=dtype)
    for document in DOCUMENTS:
        builder.add_document(torch.tensor(document, dtype=torch.int64), [len(document)])
    builder.finalize(str(tmp_path / "theirs.idx"))
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"ours.{suffix}").read_bytes() == (tmp_path / f"theirs.{suffix}").read_bytes()


def test_megatron_core_reads_what_is_written(tmp_path):
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    write(tmp_path / "x", DOCUMENTS)
    dataset = indexed_dataset.IndexedDataset(str(tmp_path / "x"))
    assert [dataset[i].tolist() for i in range(len(dataset))] == DOCUMENTS
    assert dataset.document_indices.tolist() == [0, 1, 2, 3, 4]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 65_499), max_size=5), max_size=8))
def test_round_trip(tmp_path_factory, documents):
    prefix = tmp_path_factory.mktemp("indexed") / "x"
    write(prefix, documents)
    reader = IndexedReader(prefix)
    assert [reader[i].tolist() for i in range(len(reader))] == documents


SEQUENCES = [[[1, 5], [9, 2]], [], [[1, 2]], [[7]], []]


def end_to_end(document):
    return [token for sequence in document for token in sequence]


def write_sequences(prefix, documents):
    with IndexedWriter(prefix, np.uint16) as writer:
        for document in documents:
            tokens = np.array(end_to_end(document), np.int64)
            writer.add(tokens, np.array([len(sequence) for sequence in document], np.int32), np.array([len(document)]))


def test_documents_of_no_and_of_several_sequences_as_megatron_core_writes_them(tmp_path):
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    write_sequences(tmp_path / "ours", SEQUENCES)
    builder = indexed_dataset.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.uint16)
    for document in SEQUENCES:
        builder.add_document(end_to_end(document), [len(sequence) for sequence in document])
    builder.finalize(str(tmp_path / "theirs.idx"))
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"ours.{suffix}").read_bytes() == (tmp_path / f"theirs.{suffix}").read_bytes()
    reader = IndexedReader(tmp_path / "theirs")
    assert [reader[i].tolist() for i in range(len(reader))] == [end_to_end(document) for document in SEQUENCES]
    assert reader.lengths.tolist() == [4, 0, 2, 1, 0]
    assert reader.offsets.tolist() == [0, 4, 4, 6, 7, 7]
    assert reader.counts(0, 5).tolist() == [2, 0, 1, 1, 0]
    assert not reader.is_flat


def test_nothing_but_documents_without_sequences(tmp_path):
    write_sequences(tmp_path / "x", [[], []])
    reader = IndexedReader(tmp_path / "x")
    assert (len(reader), reader.total_tokens, reader.lengths.tolist()) == (2, 0, [0, 0])


def test_pieces_of_the_index_join_up(tmp_path, monkeypatch):
    monkeypatch.setattr(indexed, "_PIECE", 2)
    documents = [[[n] * (n % 4 + 1)] for n in range(7)]
    write_sequences(tmp_path / "x", documents)
    write_sequences(tmp_path / "odd", [*documents, []])
    monkeypatch.undo()
    write_sequences(tmp_path / "y", documents)
    write_sequences(tmp_path / "even", [*documents, []])
    assert (tmp_path / "x.idx").read_bytes() == (tmp_path / "y.idx").read_bytes()
    assert (tmp_path / "odd.idx").read_bytes() == (tmp_path / "even.idx").read_bytes()
    assert IndexedReader(tmp_path / "x").is_flat


def test_an_id_too_large_for_the_data_type(tmp_path):
    with pytest.raises(InputError, match=r"id 65536 does not fit uint16"):
        write(tmp_path / "x", [[1, 65_536]])
    assert not list(tmp_path.iterdir())


def test_a_data_type_too_small_for_the_vocabulary():
    assert dtype_for("auto", 70_000, "x") == dtype_for("int32", 100, "x") == np.int32
    assert dtype_for("uint16", 65_536, "x") == np.uint16
    with pytest.raises(InputError, match=r"tokens\.dtype: uint16 holds ids below 65,536"):
        dtype_for("uint16", 65_537, "tokens.dtype")


def test_ids_take_two_bytes_while_they_fit():
    # The limit is Megatron-Core's DType.optimal_dtype.
    assert smallest_dtype(65_499) == np.uint16
    assert smallest_dtype(65_500) == np.int32


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), IndexedWriter(tmp_path / "x", np.uint16) as writer:
        writer.add(np.array([1]), np.array([1], np.int32))
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_lengths_must_fit_the_tokens(tmp_path):
    with pytest.raises(ValueError, match="lengths add up to 3"), IndexedWriter(tmp_path / "x", np.uint16) as writer:
        writer.add(np.array([1, 2]), np.array([3], np.int32))


@pytest.mark.parametrize(
    ("suffix", "damage", "message"),
    [
        ("idx", lambda content: b"", "not a Megatron index"),
        ("idx", lambda content: b"x" + content[1:], "not a Megatron index"),
        ("idx", lambda content: content[:-1], "truncated or damaged"),
        ("idx", lambda content: content[:9] + b"\x02" + content[10:], "index version 2"),
        ("bin", lambda content: content[:-1], r"x\.bin: 17 bytes, the index expects 18"),
    ],
)
def test_damage_is_named(tmp_path, suffix, damage, message):
    write(tmp_path / "x", DOCUMENTS)
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=message):
        IndexedReader(tmp_path / "x")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"x\.idx: cannot be read"):
        IndexedReader(tmp_path / "x")
    write(tmp_path / "x", DOCUMENTS)
    (tmp_path / "x.bin").unlink()
    with pytest.raises(InputError, match=r"x\.bin"):
        IndexedReader(tmp_path / "x")
