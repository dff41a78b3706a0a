"""A stage that an extension adds takes part in everything, with no other change: run, shards, status, Slurm, plan,
report, help."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_ipt.extensions import VARIABLE
from megatron_ipt.files import list_shards, read_json, read_jsonl
from megatron_ipt.parallel import share_of
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

RECIPE = f"""
name: custom
output_dir: run
compression: none
extensions: ["${{recipe_dir:}}/quality.py"]
corpus:
  inputs: [{REPOSITORY}/examples/corpus]
  shard_documents: 10
  synthesis_share: 0.5
quality: {{minimum_letters: 0.775}}
tokens:
  tokenizer: {{vocab_size: 1024}}
training: null
"""
STAGES = ["corpus", "quality", "synthesis", "augment", "tokens", "report"]


class Flow:
    """The recipe in a folder of its own, beside the extension."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.output = folder / "run"
        folder.mkdir(parents=True, exist_ok=True)
        self.extension = folder / "quality.py"
        shutil.copy(REPOSITORY / "examples/extensions/quality.py", self.extension)
        (folder / "recipe.yaml").write_text(RECIPE)

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "megatron_ipt", *words],
            cwd=self.folder, env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *words: str, status: int = 0, **environment: str) -> str:
        process = self.start(*words, **environment)
        stdout, stderr = process.communicate(timeout=600)
        assert process.returncode == status, stderr
        return stdout if status == 0 else stderr

    def written(self, stage: str) -> dict[str, bytes]:
        """What a stage wrote, without the manifest, which tells the time."""
        folder = self.output / stage
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "manifest.json"
        }

    def slow_down(self) -> str:
        """Makes every document take a while; returns the extension as it was."""
        fast = self.extension.read_text()
        slow = fast.replace("            letters =", "            time.sleep(0.2)\n            letters =")
        assert slow != fast
        self.extension.write_text(slow.replace("from collections", "import time\nfrom collections", 1))
        return fast

    def is_in_the_middle(self, shares: int = 1) -> bool:
        """Whether the first share has finished a shard and is in the middle of another: its temporary file is there."""
        marker = self.output / "quality/synthesis-shard-00000.done.json"
        shards = [path for lane in ("synthesis", "raw") for path in self.shards(f"corpus/{lane}")]
        mine = [f"quality/{path.parent.name}/.{path.name}.*.tmp" for path in share_of(shards, (0, shares))]
        return marker.exists() and any(list(self.output.glob(pattern)) for pattern in mine)

    def shards(self, folder: str) -> list[Path]:
        return list_shards(self.output / folder)

    def status(self, stage: str = "quality") -> dict:
        rows = json.loads(self.run("status", "recipe.yaml", "--json"))
        return next(row for row in rows if row["stage"] == stage)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    flow = Flow(tmp_path_factory.mktemp("custom"))
    flow.run("run", "recipe.yaml")
    return flow


def test_later_stages_read_what_the_custom_one_makes(finished):
    assert [row["stage"] for row in json.loads(finished.run("status", "recipe.yaml", "--json"))] == STAGES
    counts = {stage: read_json(finished.output / stage / "manifest.json")["counts"] for stage in STAGES}
    quality = counts["quality"]
    # Of the sixty passages of the sample corpus, twelve have fewer letters.
    assert quality == {"documents": 48, "left_out": 12}
    assert sum(counts["tokens"][split]["documents"] for split in ("train", "valid")) == 48
    kept = {record["id"] for shard in finished.shards("quality/synthesis") for record in read_jsonl(shard)}
    paired = [record for shard in finished.shards("synthesis") for record in read_jsonl(shard)]
    assert {chain["id"] for chain in paired} == kept
    raw = [record for shard in finished.shards("quality/raw") for record in read_jsonl(shard)]
    assert len(kept) + len(raw) == 48


def test_shares_in_parallel_a_kill_and_a_resume_give_the_same_bytes(finished, tmp_path):
    flow = Flow(tmp_path)
    flow.run("corpus", "recipe.yaml")
    fast = flow.slow_down()
    victim, other = (flow.start("filter-quality", "recipe.yaml", "--shard", f"{share}/2") for share in (0, 1))
    while not flow.is_in_the_middle(shares=2):
        assert victim.poll() is None, victim.communicate()[1]
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert other.wait(600) == 0, other.stderr and other.stderr.read()
    row = flow.status()
    assert row["status"] == "running" and 1 <= row["shards_done"] < row["shards"]
    shown = flow.run("status", "recipe.yaml")
    assert re.search(rf"^quality +running .*{row['shards_done']} of {row['shards']} shards", shown, re.MULTILINE)
    assert list(flow.output.glob("quality/*/.*.tmp"))
    flow.extension.write_text(fast)
    flow.run("filter-quality", "recipe.yaml", "--shard", "0/2")
    flow.run("quality", "recipe.yaml")
    assert flow.status()["status"] == "complete"
    assert flow.written("quality") == finished.written("quality")
    assert flow.status()["counts"] == finished.status()["counts"]


def test_it_waits_for_what_it_reads(finished):
    message = finished.run("filter-quality", "recipe.yaml", "output_dir=other", "--shard", "0/2", status=4)
    assert "quality: needs the finished output of stage corpus" in message


def test_a_dry_run_of_submit_names_the_script_and_the_stage(tmp_path):
    flow = Flow(tmp_path)
    (tmp_path / "site.env").write_text("ARRAY_TASKS=3\nQUALITY_MEM=2G\nQUALITY_GPUS_PER_TASK=1\n")
    flow.run("corpus", "recipe.yaml")
    lines = flow.run("submit", "recipe.yaml", "--site", "site.env", "--dry-run").splitlines()
    array, completion = (
        next(line for line in lines if line.startswith(f"{key}=")) for key in ("filter_quality", "filter_quality_merge")
    )
    assert {"--array=0-2%3", "--mem=2G", "--time=2:00:00"} <= set(array.split())
    assert f"{REPOSITORY}/slurm/stage.sbatch quality " in array
    assert "MEGATRON_IPT_CORES=quality.workers,MEGATRON_IPT_SHARES=3" in array
    assert "--gpu" not in array
    assert "--array" not in completion and 'afterok:"$filter_quality"' in completion
    assert "# Leave out documents with too few letters: 3 of 3 shares." in lines
    refused = flow.run("submit", "recipe.yaml", "quality.minimum_letter=1", "--site", "site.env", "--dry-run", status=2)
    assert "quality.minimum_letter: unknown key. Did you mean quality.minimum_letters?" in refused


def test_the_plan_shows_its_cost(finished, tmp_path):
    plan = json.loads(finished.run("plan", "recipe.yaml", "--gpus", "1", "--json"))
    rows = {row["stage"]: row for row in plan["stages"]}
    assert list(rows) == ["corpus", "quality", "synthesis", "augment", "tokens", "merge"]
    assert rows["quality"]["basis"] == "50 MB/s per core" and plan["storage_gb"]["quality"] > 0
    # Without a cost model: listed as such, and what it passes on is what it gets.
    flow = Flow(tmp_path)
    flow.extension.write_text(re.sub(r"\n +cost=.*", "", flow.extension.read_text()))
    shown = flow.run("plan", "recipe.yaml", "--gpus", "1")
    assert re.search(r"^quality +unknown +no cost model$", shown, re.MULTILINE)
    assert "quality" not in json.loads(flow.run("plan", "recipe.yaml", "--gpus", "1", "--json"))["storage_gb"]
    assert re.search(r"^synthesis +64 cores", shown, re.MULTILINE)


def test_the_report_shows_the_stage(finished):
    page = (finished.output / "report/report.html").read_text()
    step = page[page.index("<h3>quality</h3>") :]
    assert str(finished.status()["counts"]["documents"]) in step[: step.index("</li>")]


def test_help_and_keys_know_the_stage(finished):
    registered = {VARIABLE: str(finished.extension)}
    line = r"^  filter-quality +Leave out documents with too few letters\.$"
    assert re.search(line, finished.run("--help", **registered), re.MULTILINE)
    assert "filter-quality" not in finished.run("--help")
    assert "--shard" in finished.run("filter-quality", "--help", **registered)
    assert "quality.minimum_letters  (float, default 0.6)" in finished.run("keys", "quality", **registered)


def test_a_flow_without_documents_does_not_have_the_stage(finished):
    recipe = str(REPOSITORY / "examples/synthesizer_tiny.yaml")
    rows = json.loads(finished.run("status", recipe, "--json", **{VARIABLE: str(finished.extension)}))
    assert [row["stage"] for row in rows] == ["tuning", "training", "export", "evaluation", "report"]


@pytest.fixture
def on_slurm(slurm, tmp_path):
    flow = Flow(tmp_path)
    (tmp_path / "site.env").write_text(
        f"PARTITION=main\nTIME=0:10:00\nCPUS_PER_TASK=1\nMEM=2000M\nARRAY_TASKS=2\n"
        f"export PATH={Path(sys.executable).parent}:$PATH OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1\n"
    )
    return flow


def jobs_of(flow):
    return {row["key"]: row for row in read_json(flow.output / "slurm/jobs.json")}


def logs_of(flow):
    return "\n".join(path.read_text()[-2000:] for path in sorted((flow.output / "slurm/logs").glob("*.out")))


@pytest.mark.slurm
def test_it_runs_on_slurm(slurm, on_slurm, finished):
    on_slurm.run("submit", "recipe.yaml", "--site", "site.env")
    jobs = jobs_of(on_slurm)
    assert list(jobs)[:3] == ["corpus", "filter_quality", "filter_quality_merge"]
    # The number of shards is not known yet, so each of the two tasks takes its share of what there is then.
    assert jobs["filter_quality"]["array"] == [0, 1]
    states = slurm.wait_for_jobs([row["id"] for row in jobs.values()])
    assert {word for state in states.values() for word in state.split()} == {"COMPLETED"}, logs_of(on_slurm)
    assert on_slurm.written("quality") == finished.written("quality")
    assert on_slurm.written("tokens") == finished.written("tokens")
    shown = on_slurm.run("status", "recipe.yaml")
    assert [line.split()[:2] for line in shown.splitlines()] == [[stage, "complete"] for stage in STAGES]
    last = on_slurm.run("submit", "recipe.yaml", "--site", "site.env").splitlines()[-1]
    assert last == "# all stages are complete; nothing to submit"


@pytest.mark.slurm
def test_near_its_time_limit_it_is_requeued_and_resumes(slurm, on_slurm, finished):
    on_slurm.run("corpus", "recipe.yaml")
    fast = on_slurm.slow_down()
    site = on_slurm.folder / "site.env"
    site.write_text(site.read_text() + "ARRAY_TASKS=1\n")
    on_slurm.run("submit", "recipe.yaml", "skip=[synthesis,augment,tokens,report]", "--site", "site.env")
    jobs = jobs_of(on_slurm)
    task = f"{jobs['filter_quality']['id']}_0"
    wait_for(on_slurm.is_in_the_middle, on_slurm)
    # What Slurm sends two minutes before the time limit.
    slurm.run("scancel", "--batch", "--signal=USR1", task)
    wait_for(lambda: "Restarts=1" in slurm.run("scontrol", "show", "job", task).stdout, on_slurm)
    # It was told to end, and has cleaned up; it was not killed.
    assert not list(on_slurm.output.glob("quality/*/.*.tmp"))
    on_slurm.extension.write_text(fast)
    states = slurm.wait_for_jobs([row["id"] for row in jobs.values()])
    assert {word for state in states.values() for word in state.split()} == {"COMPLETED"}, logs_of(on_slurm)
    assert "quality: time limit near, finished units are kept; requeued" in logs_of(on_slurm)
    assert on_slurm.written("quality") == finished.written("quality")


def wait_for(condition, flow, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, logs_of(flow)
        time.sleep(0.05)
