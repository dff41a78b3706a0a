from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
import zstandard

from megatron_ipt.errors import InputError, StorageError
from megatron_ipt.files import (
    atomic_folder,
    atomic_jsonl,
    atomic_open,
    atomic_path,
    iter_lines,
    open_bytes,
    read_json,
    read_jsonl,
    remove_leftovers,
)

LINES = [b'{"a":1}', b"", '{"b":"é"}'.encode()] * 1000
CONTENT = b"\n".join(LINES)


def compressed(suffix: str, content: bytes) -> bytes:
    if suffix == ".gz":
        return gzip.compress(content)
    if suffix == ".zst":
        return zstandard.compress(content)
    return content


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_lines_of_plain_and_compressed_files(tmp_path, suffix):
    path = tmp_path / f"x.jsonl{suffix}"
    path.write_bytes(compressed(suffix, CONTENT))
    assert list(iter_lines(path)) == LINES


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_concatenated_members_are_read_to_the_end(tmp_path, suffix):
    path = tmp_path / f"x.jsonl{suffix}"
    path.write_bytes(compressed(suffix, b"one\n") + compressed(suffix, b"two\n"))
    assert list(iter_lines(path)) == [b"one", b"two"]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("left", [0.5, 0.99])
def test_a_truncated_file_is_an_error_and_not_a_shorter_file(tmp_path, suffix, left):
    path = tmp_path / f"x.jsonl{suffix}"
    whole = compressed(suffix, CONTENT)
    path.write_bytes(whole[: int(len(whole) * left)])
    with pytest.raises(InputError, match=r"x\.jsonl.*damaged or truncated after line \d+"):
        list(iter_lines(path))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_file_that_is_not_compressed_at_all_is_named(tmp_path, suffix):
    path = tmp_path / f"x.txt{suffix}"
    path.write_bytes(b"plain text\n" * 10)
    with pytest.raises(InputError, match=r"x\.txt"):
        list(iter_lines(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none.*cannot be opened: No such file"):
        open_bytes(tmp_path / "none")


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_records_survive_a_round_trip(tmp_path, suffix):
    path = tmp_path / "deep" / f"x.jsonl{suffix}"
    records = [{"text": "é\u2028\n"}, {"n": [1, 2.5, None]}]
    with atomic_jsonl(path) as writer:
        for record in records:
            writer.write(record)
        assert not path.exists()
    assert writer.records == 2
    assert list(read_jsonl(path)) == records


def test_a_failed_write_leaves_neither_file_nor_leftover(tmp_path):
    path = tmp_path / "x.jsonl.zst"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError), atomic_jsonl(path) as writer:
        writer.write({})
        raise RuntimeError
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_refused_write_names_the_file():
    with pytest.raises(StorageError, match="/dev/null/x: could not be written"), atomic_open("/dev/null/x") as stream:
        stream.write(b"")


def test_a_folder_takes_its_place_when_complete(tmp_path):
    for content in ("one", "two"):
        with atomic_folder(tmp_path / "model") as folder:
            (folder / "weights").write_text(content)
        assert (tmp_path / "model/weights").read_text() == content
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("three")
        raise RuntimeError
    assert (tmp_path / "model/weights").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.fixture
def synced(monkeypatch):
    """What is brought to the disk: (name, whether the file called x is there by then)."""
    calls = []

    def fsync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        calls.append((path.name, (path / "x").exists() or (path.parent / "x").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    return calls


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks Linux which file a descriptor is")
def test_a_file_is_on_the_disk_before_its_name_and_then_its_name(tmp_path, synced):
    temporary = f".x.{os.getpid()}.tmp"
    with atomic_open(tmp_path / "x") as stream:
        stream.write(b"content")
    # The rename itself is in the folder, and is lost with a failing machine unless the folder is synced as well.
    assert synced == [(temporary, False), (tmp_path.name, True)]
    synced.clear()
    with atomic_path(tmp_path / "x", flush=False) as path:
        path.write_bytes(b"other content")
    assert synced == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks Linux which file a descriptor is")
def test_the_name_of_a_folder_is_on_the_disk_as_well(tmp_path, synced):
    for _ in range(2):
        synced.clear()
        with atomic_folder(tmp_path / "x"):
            pass
        assert synced[-1] == (tmp_path.name, True)


def test_leftovers_of_a_crash_are_removed(tmp_path):
    (tmp_path / ".x.jsonl.123.tmp").touch()
    (tmp_path / ".model.123.tmp/deep").mkdir(parents=True)
    (tmp_path / "x.jsonl").touch()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


def test_damaged_json_names_file_and_line(tmp_path):
    (tmp_path / "x.jsonl").write_text("{}\n{\n")
    with pytest.raises(InputError, match=r"x\.jsonl:2: not valid JSON"):
        list(read_jsonl(tmp_path / "x.jsonl"))
    with pytest.raises(InputError, match=r"x\.jsonl: not valid JSON"):
        read_json(tmp_path / "x.jsonl")


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_lines_are_written_as_they_are(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    with atomic_jsonl(path) as writer:
        writer.write_line(b'{"a":  1.50}')
        writer.write({"b": 2})
        assert writer.records == 2
    assert list(iter_lines(path)) == [b'{"a":  1.50}', b'{"b":2}']
