from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from megatron_ipt.errors import StageError, StorageError
from megatron_ipt.locks import locked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / ".shard-00003.lock"


@pytest.mark.parametrize("remove", [False, True])
def test_a_lock_admits_one_holder(path: Path, remove: bool) -> None:
    message = rf"^shard 3: process {os.getpid()} on .* is working on it \(lock {path}\)\. Wait\.$"
    with (
        locked(path, "shard 3", remove=remove),
        pytest.raises(StageError, match=message),
        locked(path, "shard 3", advice="Wait."),
    ):
        pass
    assert path.exists() is not remove
    with locked(path, "shard 3"):
        pass


def test_sharers_exclude_only_a_holder_who_wants_it_alone(path: Path) -> None:
    with (
        locked(path, "stage", shared=True),
        locked(path, "stage", shared=True),
        pytest.raises(StageError, match="stage: another process is working on it"),
        locked(path, "stage"),
    ):
        pass
    with locked(path, "stage"), pytest.raises(StageError), locked(path, "stage", shared=True):
        pass


def test_a_dead_holder_keeps_no_lock(path: Path) -> None:
    code = (
        "import sys, pathlib; from megatron_ipt.locks import locked\n"
        "with locked(pathlib.Path(sys.argv[1]), 'it'): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with pytest.raises(StageError, match=f"process {holder.pid}"), locked(path, "it"):
        pass
    holder.kill()
    holder.wait()
    assert path.exists()
    with locked(path, "it"):
        pass


def test_who_waits_gets_the_lock_and_not_a_file_that_was_removed_meanwhile(path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            with locked(path, "it", wait=True, remove=True):
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 200
    assert set(most) == {1}


@pytest.mark.parametrize("made_anew", [False, True])
def test_a_file_that_is_removed_between_opening_and_locking_is_no_lock(
    path: Path, made_anew: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, attempts = fcntl.flock, []

    def remove_first(descriptor: int, kind: int) -> None:
        if not attempts:
            # What a holder does who is done at this moment, and then another who comes next.
            path.unlink()
            if made_anew:
                path.touch()
        attempts.append(kind)
        flock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with locked(path, "it"):
        assert len(attempts) == 2
        with pytest.raises(StageError, match=f"process {os.getpid()}"), locked(path, "it"):
            pass


def test_a_place_that_cannot_hold_a_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = r"file/\.lock: lock file cannot be opened: "
    with pytest.raises(StorageError, match=message), locked(tmp_path / "file" / ".lock", "it"):
        pass
