from __future__ import annotations

import os

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


def test_files_of_other_formats_in_folders_are_skipped(tree):
    assert find_files(["c"], is_readable, "corpus.inputs")[1] == ["c/skip.bin"]


def test_patterns(tree):
    assert names("c/*.jsonl") == ["b.jsonl"]
    assert names(f"{tree}/**/*.parquet") == ["d.parquet"]


@pytest.mark.parametrize("entry", ["none", "none/*.jsonl", "c/*.none", ""])
def test_an_input_that_matches_nothing(tree, entry):
    with pytest.raises(InputError, match=r"corpus\.inputs: .*no such file or folder"):
        names(entry)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("~nosuchuser/x", "Could not determine home directory"),
        ("a/**b", "Invalid pattern"),
        ("a" * 300, "File name too long"),
        ("nope://x/*.jsonl", "Protocol not known: nope"),
    ],
)
def test_an_input_that_cannot_be_looked_up(tree, entry, message):
    with pytest.raises(InputError, match=rf"tokens\.sources\.x\.inputs: .*{message}"):
        find_files([entry], is_readable, "tokens.sources.x.inputs")


def test_the_home_folder(tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree))
    files, _ = find_files(["~/e.txt", "~/c"], is_readable, "corpus.inputs")
    assert files[0].path == str(tree / "e.txt")
    assert [file.name for file in files] == ["e.txt", "c/a.txt.gz", "c/b.jsonl", "c/sub/d.parquet"]


def test_a_name_that_is_not_unicode(tree):
    (tree / os.fsdecode(b"c/\xff.txt")).touch()
    with pytest.raises(InputError, match=r"c/\\udcff\.txt': the name is not valid UTF-8; rename the file") as caught:
        names("c")
    str(caught.value).encode()


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
