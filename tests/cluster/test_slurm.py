"""The scripts on a real Slurm: two nodes on one machine, CPU work instead of GPU work. Tests share the cluster and
overlap: what is submitted first runs while later tests check other things."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from megatron_ipt.cluster.watch.status import cluster_status, render_status
from megatron_ipt.errors import RecipeError, StageError
from megatron_ipt.files import read_json
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

old_ranks: list[psutil.Process] = []
"""Of the copy whose node was lost."""

STAGES = ("corpus", "synthesis", "augment", "tokens", "training", "export", "evaluation", "report")


def status_rows(run):
    before = Path.cwd()
    os.chdir(run.folder)
    try:
        return {row["stage"]: row for row in cluster_status(run.load())}
    finally:
        os.chdir(before)


def ranks_of(run):
    """Processes of the run's ranks, without those that they forked to write a checkpoint."""
    found, parents = {}, {}
    for process in psutil.process_iter():
        try:
            environment, parent = process.environ(), process.ppid()
        except psutil.Error:
            continue
        if "RANK" in environment and str(run.folder) in environment.get("MEGATRON_IPT_JOB", ""):
            found[process.pid], parents[process.pid] = process, parent
    return [process for number, process in found.items() if parents[number] not in found]


def is_alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_wrong_account_is_reported_and_nothing_submitted(chain, make_run):
    run = make_run("account", site="PARTITION=research\nACCOUNT=nobody\n")
    with pytest.raises(StageError, match=r"nothing was submitted:\n  corpus: .*Invalid account"):
        run.submit()
    assert not (run.output / "slurm/jobs.json").exists()
    assert "Invalid account" in run.submit(dry_run=True).problems["train"]


def test_a_missing_log_folder_is_reported_before_submission(make_run):
    run = make_run("logs", site="LOG_DIR=/nonexistent/logs\n")
    with pytest.raises(RecipeError, match=r"LOG_DIR=/nonexistent/logs is not a folder"):
        run.submit()


def test_more_gpus_than_a_node_has_are_refused_by_the_scheduler(make_run):
    problems = make_run("gpus", site="TRAINING_GPUS_PER_NODE=9\n").submit(dry_run=True).problems
    assert list(problems) == ["train"]
    assert "not available" in problems["train"]


def test_a_second_submit_while_jobs_are_queued_is_refused(chain):
    run, submission = chain
    with pytest.raises(StageError, match=r"still in the queue.*scancel"):
        run.submit()
    assert submission.ids["train"].isdigit()


def test_a_failing_share_stops_what_follows_and_is_repaired_alone(slurm, chain, make_run):
    run = make_run("repair", site="ARRAY_TASKS=4\n")
    first_run, first = chain
    slurm.wait_for_jobs([first.ids["corpus"]])
    run.overrides = (*run.overrides, "corpus.inputs=[" + str(REPOSITORY / "examples/corpus") + "]")
    before = Path.cwd()
    os.chdir(run.folder)
    try:
        from megatron_ipt.pipeline import run_one
        from megatron_ipt.stages import stage_named

        run_one(stage_named("corpus"), run.load())
    finally:
        os.chdir(before)
    shard = sorted((run.output / "corpus/synthesis").glob("shard-*"))[2]
    intact = shard.read_bytes()
    shard.write_bytes(b"damaged\n")

    submission = run.submit()
    array = next(job for job in submission.jobs if job.key == "synthesize")
    assert array.array == (0, 1, 2, 3)
    states = slurm.wait_for_jobs(list(submission.ids.values()))
    assert sorted(states[submission.ids["synthesize"]].split()) == ["COMPLETED"] * 3 + ["FAILED"]
    later = [key for key in submission.ids if key != "synthesize"]
    assert {states[submission.ids[key]] for key in later} == {"CANCELLED"}, run.logs()
    row = status_rows(run)["synthesis"]
    assert (row["shards_done"], row["shards"]) == (3, 4)
    assert row["jobs"][0]["failed"] == [f"{submission.ids['synthesize']}_2"]

    shard.write_bytes(intact)
    again = run.submit()
    assert next(job for job in again.jobs if job.key == "synthesize").array == (2,)
    assert again.skipped == ["corpus"]
    slurm.wait_for_jobs([again.ids["tokenize_merge"]])
    slurm.run("scancel", *(again.ids[key] for key in ("train", "export", "evaluate", "report")))
    assert run.manifest("tokens")["status"] == "complete", run.logs()
    assert run.manifest("synthesis")["counts"] == first_run.manifest("synthesis")["counts"]


@pytest.fixture(scope="module")
def finished(slurm, chain):
    run, submission = chain
    states = slurm.wait_for_jobs(list(submission.ids.values()))
    assert {word for state in states.values() for word in state.split()} == {"COMPLETED"}, run.logs()
    return run


def test_the_whole_chain_ends_in_a_model(finished):
    assert {stage: finished.manifest(stage)["status"] for stage in STAGES} == dict.fromkeys(STAGES, "complete")
    counts = finished.manifest("training")["counts"]
    assert (counts["steps"], counts["ranks"]) == (24, 2)
    assert (finished.output / "export/model/model.safetensors").stat().st_size > 0
    log = next((finished.output / "slurm/logs").glob("*-training_*.out")).read_text()
    assert "all-reduce over 2 ranks at" in log


def test_status_still_tells_when_slurm_has_forgotten_the_jobs(finished, monkeypatch):
    assert finished.submit().jobs == []
    monkeypatch.setenv("PATH", "/nonexistent")
    rows = status_rows(finished)
    assert {row["status"] for row in rows.values()} == {"complete"}
    assert rows["training"]["jobs"][0]["states"] == {"COMPLETED": 1}
    assert rows["synthesis"]["jobs"][0]["states"] == {"COMPLETED": 2}
    assert rows["training"]["progress"]["step"] == 24
    assert "step 24 of 24" in render_status(list(rows.values()))


@pytest.fixture(scope="module")
def interrupted(finished, make_run):
    """Two trainings on the data of the chain: one to be asked to stop, on node2; one whose node will be lost."""
    asked = make_run("asked", site="TRAINING_SBATCH_OPTIONS=--nodelist=node2\n")
    lost = make_run("lost", "training.checkpoint.save_interval=2")
    submissions = []
    for run in (asked, lost):
        run.copy_data_from(finished)
        submissions.append(run.submit())
        for key in ("export", "evaluate", "report"):
            run.cluster.run("scancel", submissions[-1].ids[key])
    return (asked, submissions[0].ids["train"]), (lost, submissions[1].ids["train"])


def test_usr1_saves_and_requeues_and_the_loss_is_that_of_an_uninterrupted_run(slurm, finished, interrupted):
    (run, job), (lost, _) = interrupted
    # First of all: a short training must not end before it is asked to.
    run.wait_for_steps(3)
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    lost.wait_for_steps(3)
    # What is on a node that the controller no longer hears of lives on; stopped, so that it is there when the next copy
    # begins.
    old_ranks[:] = ranks_of(lost)
    for rank in old_ranks:
        rank.send_signal(signal.SIGSTOP)
    slurm.kill_node("node1")
    end = time.monotonic() + 600
    while "Restarts=1" not in slurm.run("scontrol", "show", "job", job).stdout:
        assert time.monotonic() < end, run.logs()
        time.sleep(0.2)
    checkpoints = run.output / "training/checkpoints"
    saved = int((checkpoints / "latest_checkpointed_iteration.txt").read_text())
    assert 3 <= saved < 24
    # Preemption with grace reaches the steps only, as TERM.
    run.wait_for_steps(saved + 2)
    slurm.run("scancel", "--signal=TERM", job)
    assert slurm.wait_for_jobs([job])[job] == "COMPLETED", run.logs()
    assert "Restarts=2" in slurm.run("scontrol", "show", "job", job).stdout, run.logs()
    assert run.manifest("training")["counts"]["final_loss"] == pytest.approx(
        finished.manifest("training")["counts"]["final_loss"], abs=2e-6
    )


def test_a_lost_node_requeues_and_two_copies_never_train_at_once(slurm, finished, interrupted):
    _, (run, job) = interrupted
    try:
        assert slurm.wait_for_jobs([job])[job] == "COMPLETED", run.logs()
    finally:
        slurm.start_node("node1")
    assert run.manifest("training")["counts"]["final_loss"] == pytest.approx(
        finished.manifest("training")["counts"]["final_loss"], abs=2e-6
    )
    assert len(old_ranks) == 2
    assert not any(is_alive(rank) for rank in old_ranks)
    log = run.logs()
    assert log.index("on node1") < log.index("on node2")
    steps = [line for line in (run.output / "training/metrics.jsonl").read_text().splitlines() if '"loss"' in line]
    assert len(steps) == 24


def test_a_hanging_rank_ends_the_job_by_name(slurm, finished, make_run):
    site = "TRAINING_SBATCH_OPTIONS=--nodelist=node2\nexport MEGATRON_IPT_STALL_MINUTES=0.1\n"
    run = make_run("hang", "training.steps=2000", site=site)
    run.copy_data_from(finished)
    submission = run.submit()
    run.wait_for_steps(2)
    hung = next(process for process in ranks_of(run) if process.environ()["RANK"] == "1")
    hung.send_signal(signal.SIGSTOP)
    states = slurm.wait_for_jobs(list(submission.ids.values()))
    assert states[submission.ids["train"]] == "FAILED"
    assert {states[submission.ids[key]] for key in ("export", "evaluate", "report")} == {"CANCELLED"}
    log = run.logs()
    assert "rank 1 on node2 does not answer, last seen" in log
    assert "; rank 0 waits in " in log
    assert not is_alive(hung)


def test_the_record_names_every_job_once(finished):
    rows = read_json(finished.output / "slurm/jobs.json")
    assert [row["key"] for row in rows] == [
        "corpus", "synthesize", "synthesize_merge", "augment", "augment_merge", "tokenize", "tokenize_merge",
        "train", "export", "evaluate", "report",
    ]  # fmt: skip
