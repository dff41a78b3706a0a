"""Two copies of one job: one trains at a time, whatever happened to the other."""

from __future__ import annotations

import threading
import time

import pytest

from megatron_ipt.cluster.watch import lease as lease_module
from megatron_ipt.cluster.watch.lease import Holder, Lease
from megatron_ipt.errors import StageError


@pytest.fixture
def make_lease(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "BEAT", 0.02)

    def make(job="7", restart=0, node="node1", running=False, stale=0.5):
        holder = Holder(job, restart, node, f"{job}-{restart}-{node}")
        return Lease(tmp_path / ".training.lease", holder, lambda _: running, stale)

    return make


def test_a_free_lease_is_taken_and_given_back(make_lease, tmp_path):
    lease = make_lease()
    assert lease.acquire() == ""
    time.sleep(0.03)
    assert lease.renew() == ""
    lease.release()
    assert list(tmp_path.iterdir()) == []


def test_a_dead_holder_is_waited_for_and_replaced(make_lease):
    make_lease().acquire()
    start = time.monotonic()
    story = make_lease(restart=1, node="node2").acquire()
    assert time.monotonic() - start >= 0.5
    assert story == "job 7 (start 1) on node1 has not renewed the lease for 0 s and is presumed dead"


def test_a_living_holder_stops_before_the_newcomer_begins(make_lease):
    old, new = make_lease(), make_lease(restart=1, node="node2")
    old.acquire()
    events = []

    def work():
        while not (reason := old.renew()):
            time.sleep(0.01)
        events.append(reason)
        old.release()

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.1)
    story = new.acquire()
    events.append("begun")
    thread.join()
    assert events == ["job 7 (start 2) on node2 takes over", "begun"]
    assert story == "job 7 (start 1) on node1 was still running and has stopped"


def test_a_holder_that_was_asleep_finds_another_name(make_lease):
    old, new = make_lease(), make_lease(restart=1)
    old.acquire()
    new.acquire()
    time.sleep(0.03)
    assert old.renew() == "another copy of this job has taken over"
    old.release()
    assert new.renew() == ""


def test_another_job_that_runs_is_not_pushed_out(make_lease):
    make_lease(job="7").acquire()
    with pytest.raises(StageError, match=r"job 7 \(start 1\) on node1 already trains into"):
        make_lease(job="8", running=True).acquire()


def test_a_holder_that_cannot_be_seen_stops_before_it_is_taken_for_dead(make_lease, monkeypatch):
    lease = make_lease(stale=0.2)
    lease.acquire()

    def fail(*_):
        raise OSError("stale file handle")

    monkeypatch.setattr(lease_module, "write_json", fail)
    time.sleep(0.05)
    assert lease.renew() == ""
    time.sleep(0.1)
    assert lease.renew() == "the lease cannot be renewed: stale file handle"
