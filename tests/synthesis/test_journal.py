from __future__ import annotations

import os
import random
import resource
import signal
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from megatron_ipt.errors import StageError, StorageError
from megatron_ipt.synthesis.journal import Journal


def test_keeps_what_was_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", 1)
    journal.append(5, b"five")
    journal.append(0, b"")
    journal.close()
    again = Journal(tmp_path / "j", 1)
    assert (len(again), 5 in again, 0 in again, 1 in again) == (2, True, True, False)
    assert (again.payload(5), again.payload(0)) == (b"five", b"")
    with pytest.raises(StageError, match="chain 3 is missing"):
        again.payload(3)
    again.close()


def test_a_dropped_chain_can_be_stored_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", 1)
    for index, payload in ((0, b""), (1, b"old"), (2, b"two")):
        journal.append(index, payload)
    for index in (0, 1, 1, 7):
        journal.drop(index)
    assert (len(journal), list(journal)) == (1, [2])
    journal.append(1, b"new")
    with pytest.raises(RuntimeError, match="chain 1 was finished twice"):
        journal.append(1, b"newer")
    journal.close()
    again = Journal(tmp_path / "j", 1)
    assert (len(again), list(again), again.payload(1)) == (2, [1, 2], b"new")
    with pytest.raises(StageError, match="chain 0 is missing"):
        again.payload(0)
    again.close()


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=20), st.data())
def test_a_cut_anywhere_leaves_a_state_that_was_there(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, bool]], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "j"
    journal = Journal(path, 7)
    states: dict[int, dict[int, bytes]] = {path.stat().st_size: {}}
    state: dict[int, bytes] = {}
    for number, (index, keep) in enumerate(steps):
        if keep and index not in state:
            state[index] = b"%d" % number
            journal.append(index, state[index])
        elif not keep:
            state.pop(index, None)
            journal.drop(index)
        states[path.stat().st_size] = dict(state)
    journal.close()
    cut = data.draw(st.integers(min(states), max(states)))
    os.truncate(path, cut)
    journal = Journal(path, 7)
    assert {index: journal.payload(index) for index in journal} == states[max(end for end in states if end <= cut)]
    journal.close()


def test_refuses_other_settings(tmp_path: Path) -> None:
    Journal(tmp_path / "j", 1).close()
    with pytest.raises(StageError, match="other documents or settings"):
        Journal(tmp_path / "j", 2)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8), st.data())
def test_any_torn_tail_is_cut_off(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("torn") / "j"
    journal = Journal(path, 7)
    ends = [path.stat().st_size]
    for index, payload in enumerate(payloads):
        journal.append(index, payload)
        ends.append(path.stat().st_size)
    journal.close()
    written = path.read_bytes()
    cut = data.draw(st.integers(0, ends[-1]))
    os.truncate(path, cut)
    if cut >= ends[0] and data.draw(st.booleans()):
        with open(path, "ab") as stream:
            stream.write(bytes(data.draw(st.integers(1, 40))))
    # Zeros behind the cut may be the very bytes that were lost.
    torn = path.read_bytes()
    journal = Journal(path, 7)
    whole = sum(torn[:end] == written[:end] for end in ends[1:])
    assert [journal.payload(index) for index in range(whole)] == payloads[:whole]
    assert len(journal) == whole
    for index in range(whole, len(payloads)):
        journal.append(index, payloads[index])
    journal.close()
    journal = Journal(path, 7)
    assert [journal.payload(index) for index in range(len(payloads))] == payloads
    journal.close()


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path, 7)
    for index in range(3):
        journal.append(index, b"payload %d" % index)
    journal.close()
    data = bytearray(path.read_bytes())
    data[-len(b"payload 2") - 16 - 1] ^= 1
    path.write_bytes(data)
    journal = Journal(path, 7)
    assert (0 in journal, 1 in journal, 2 in journal) == (True, False, False)
    journal.close()


def test_large_journals_are_read_in_pieces(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", 7)
    payloads = [random.Random(index).randbytes(400_000 + index) for index in range(9)]
    for index, payload in enumerate(payloads):
        journal.append(index, payload)
    journal.close()
    journal = Journal(tmp_path / "j", 7)
    assert [journal.payload(index) for index in range(9)] == payloads
    journal.close()


def test_a_full_disk_leaves_whole_records(tmp_path: Path) -> None:
    """A limit on the file's size stands in for the full disk."""
    journal = Journal(tmp_path / "j", 7)
    journal.append(0, b"a" * 100)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
        with pytest.raises(StorageError, match=r"could not be written: .*Finished texts are kept"):
            journal.append(1, b"b" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    journal.append(2, b"c")
    journal.close()
    journal = Journal(tmp_path / "j", 7)
    assert [index in journal for index in range(3)] == [True, False, True]
    journal.close()
