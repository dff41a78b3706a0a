from __future__ import annotations

import pytest

from megatron_ipt.corpus.inputs import base_suffix, find_files
from megatron_ipt.corpus.readers import is_readable
from megatron_ipt.errors import InputError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in ("c/b.jsonl", "c/a.txt.gz", "c/sub/d.parquet", "c/skip.bin", "c/.hidden.txt", "e.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*inputs):
    files, _ = find_files(inputs, is_readable, "corpus.inputs")
    return [file.name for file in files]


def test_folders_are_searched_in_order(tree):
    assert names("c", "e.txt") == ["c/a.txt.gz", "c/b.jsonl", "c/sub/d.parquet", "e.txt"]


def test_names_do_not_depend_on_where_the_folder_is(tree):
    assert names(str(tree / "c")) == names("c") == names("c/")


def test_other_formats_in_folders_are_reported(tree):
    assert find_files(["c"], is_readable, "corpus.inputs")[1] == ["c/skip.bin"]


def test_patterns(tree):
    assert names("c/*.jsonl") == ["b.jsonl"]
    assert names(f"{tree}/**/*.parquet") == ["d.parquet"]


@pytest.mark.parametrize("entry", ["none", "none/*.jsonl", "c/*.none"])
def test_an_input_that_matches_nothing(tree, entry):
    with pytest.raises(InputError, match=r"corpus\.inputs: .*no such file or folder"):
        names(entry)


def test_an_unknown_format(tree):
    with pytest.raises(InputError, match=r"unknown format"):
        names("c/skip.bin")


def test_two_files_of_one_name(tree):
    (tree / "f").mkdir()
    (tree / "f/e.txt").touch()
    with pytest.raises(InputError, match=r"would both be called e\.txt"):
        names("e.txt", "f/e.txt")


def test_addresses_of_other_file_systems(tree):
    import fsspec

    with fsspec.open("memory://bucket/part-1.jsonl", "w") as stream:
        stream.write("{}")
    files, _ = find_files(["memory://bucket/part-*.jsonl"], is_readable, "corpus.inputs")
    assert [file.path for file in files] == ["memory:///bucket/part-1.jsonl"]


def test_the_format_is_below_the_compression():
    assert base_suffix("a.b.JSONL.zst") == ".jsonl"
    assert base_suffix("noext") == ""
