from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from megatron_ipt.errors import InputError, RecipeError, StageError
from megatron_ipt.files import read_json, write_json
from megatron_ipt.tokens.dataset.indexed import IndexedReader, IndexedWriter
from megatron_ipt.tokens.dataset.joining import merge, split
from megatron_ipt.tokens.dataset.verify import verify

documents_of = st.lists(st.lists(st.lists(st.integers(0, 999), min_size=1, max_size=9), max_size=3), max_size=12)


def write(prefix, documents, dtype=np.uint16):
    """Documents are lists of sequences."""
    with IndexedWriter(prefix, dtype) as writer:
        for document in documents:
            lengths = np.array([len(sequence) for sequence in document], np.int32)
            tokens = np.array([token for sequence in document for token in sequence], np.int64)
            writer.add(tokens, lengths, np.array([len(document)]))
    return str(prefix)


def read(prefix):
    reader = IndexedReader(prefix)
    bounds = [*(reader.sequence_offsets // reader.dtype.itemsize).tolist(), reader.total_tokens]
    sequences = [reader.tokens[start:end].tolist() for start, end in pairwise(bounds)]
    index = reader.document_index.tolist()
    return [sequences[start:end] for start, end in pairwise(index)]


@settings(max_examples=25, deadline=None)
@given(st.lists(documents_of, min_size=1, max_size=3))
def test_merged_documents_are_those_of_the_inputs_in_order(tmp_path_factory, datasets):
    folder = tmp_path_factory.mktemp("merge")
    prefixes = [write(folder / f"{number}", documents) for number, documents in enumerate(datasets)]
    merge(prefixes, str(folder / "all"))
    assert read(folder / "all") == [document for documents in datasets for document in documents]
    assert verify(folder / "all")["problems"] == []


@settings(max_examples=25, deadline=None)
@given(documents_of, st.integers(1, 6))
def test_split_and_merged_again_it_is_the_same(tmp_path_factory, documents, parts):
    folder = tmp_path_factory.mktemp("split")
    prefix = write(folder / "whole", documents)
    if parts > max(len(documents), 1):
        with pytest.raises(RecipeError, match=f"{parts} parts of {len(documents)} documents"):
            split(prefix, str(folder / "part"), parts)
        return
    pieces = list(split(prefix, str(folder / "part"), parts))
    assert len(pieces) == parts
    if documents:
        assert all(len(IndexedReader(piece)) for piece in pieces)
    merge(pieces, str(folder / "again"))
    for suffix in ("bin", "idx"):
        assert (folder / f"again.{suffix}").read_bytes() == (folder / f"whole.{suffix}").read_bytes()


def test_parts_have_about_equally_many_tokens(tmp_path):
    prefix = write(tmp_path / "x", [[[1] * length] for length in np.random.default_rng(0).integers(1, 50, 400)])
    parts = split(prefix, str(tmp_path / "p"), 4)
    tokens = [part["tokens"] for part in parts.values()]
    assert max(tokens) - min(tokens) < 100


def test_the_same_bytes_as_megatron_core(tmp_path):
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    prefixes = [write(tmp_path / "a", [[[1, 2]], [], [[3], [4, 5]]]), write(tmp_path / "b", [[], [[6]]])]
    merge(prefixes, str(tmp_path / "ours"))
    builder = indexed.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.uint16)
    for prefix in prefixes:
        builder.add_index(prefix)
    builder.finalize(str(tmp_path / "theirs.idx"))
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"ours.{suffix}").read_bytes() == (tmp_path / f"theirs.{suffix}").read_bytes()


def test_sources_travel_with_their_documents(tmp_path):
    for name, sources in (("a", ["raw", "augmented"]), ("b", ["augmented", "general"])):
        write(tmp_path / name, [[[1, 2]], [[3]], [[4, 5, 6]]])
        np.save(tmp_path / f"{name}.sources.npy", np.array([0, 1, 1], np.uint8))
        write_json(tmp_path / f"{name}.json", {"vocab_size": 10, "by_source": {source: {} for source in sources}})
    description = merge([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "all"))
    assert description["by_source"] == {
        "raw": {"documents": 1, "tokens": 2},
        "augmented": {"documents": 3, "tokens": 6},
        "general": {"documents": 2, "tokens": 4},
    }
    parts = split(str(tmp_path / "all"), str(tmp_path / "part"), 2)
    assert [part["by_source"]["raw"]["documents"] for part in parts.values()] == [1, 0]
    assert read_json(tmp_path / "all.json")["vocab_size"] == 10


def test_what_does_not_fit_together(tmp_path):
    a, wide = write(tmp_path / "a", [[[1]]]), write(tmp_path / "wide", [[[1]]], np.int32)
    with pytest.raises(InputError, match="wide: ids are int32"):
        merge([a, wide], str(tmp_path / "out"))
    other = write(tmp_path / "other", [[[1]]])
    write_json(tmp_path / "a.json", {"vocab_size": 100})
    write_json(tmp_path / "other.json", {"vocab_size": 200})
    with pytest.raises(InputError, match="other: vocab_size is 200"):
        merge([a, other], str(tmp_path / "out"))
    with pytest.raises(RecipeError, match="an input and the output"):
        merge([a], a)
    with pytest.raises(RecipeError, match="at least one"):
        merge([], a)
    assert not list(tmp_path.glob("out*"))


def test_what_exists_is_kept(tmp_path):
    a, b = write(tmp_path / "a", [[[1]]]), write(tmp_path / "b", [[[2]]])
    with pytest.raises(StageError, match=r"b\.bin: exists"):
        merge([a], b)
    merge([a], b, overwrite=True)
    assert read(b) == [[[1]]]


def test_copying_where_the_system_cannot_copy_between_files(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    a = write(tmp_path / "a", [[[1, 2, 3]], [[4]]])
    monkeypatch.setattr("os.copy_file_range", refuse)
    merge([a, a], str(tmp_path / "out"))
    assert read(tmp_path / "out") == read(a) * 2
