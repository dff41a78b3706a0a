"""What would be submitted, and how Slurm's output is read: without Slurm."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, strategies

from megatron_ipt.cluster.slurm.commands import call, expand, parse_scontrol
from megatron_ipt.cluster.slurm.jobs import Folders, jobs_of, ranges
from megatron_ipt.cluster.slurm.site import read_site
from megatron_ipt.cluster.watch.hang import RankState, diagnose, is_stalled
from megatron_ipt.cluster.watch.preflight import NodeGpu, expand_nodes, expected_gpus, parse_gpus, problems_of_gpus
from megatron_ipt.cluster.watch.progress import StageProgress
from megatron_ipt.errors import RecipeError
from megatron_ipt.recipe import load_recipe, stages_of
from megatron_ipt.stages import Resources, Stage, stage_named
from tests.conftest import REPOSITORY

SCRIPTS = REPOSITORY / "slurm"


@pytest.fixture
def site(tmp_path):
    def make(text):
        path = tmp_path / "site.env"
        path.write_text(text)
        return read_site(path)

    return make


FOLDERS = Folders(SCRIPTS, Path("/logs"), Path("/exits"), "/venv/bin/python")


def jobs(site, done=None, recipe="quickstart", overrides=(), **status):
    recipe = load_recipe(REPOSITORY / f"examples/{recipe}.yaml", overrides)
    progress = [
        StageProgress(stage, status.get(stage.name, "missing"), (done or {}).get(stage.name, ()))
        for stage in stages_of(recipe)
    ]
    return jobs_of(recipe, Path("/r.yaml"), ("seed=2",), site, FOLDERS, progress)


def by_key(site, **options):
    return {job.key: job for job in jobs(site, **options)}


def test_the_chain_is_in_the_order_of_the_flow(site):
    chain = jobs(site("ACCOUNT=me\nARRAY_TASKS=4\n"))
    assert [job.key for job in chain] == [
        "corpus", "synthesize", "synthesize_merge", "augment", "augment_merge", "tokenize", "tokenize_merge",
        "train", "export", "evaluate", "report",
    ]  # fmt: skip
    assert [job.after for job in chain] == ["", *(job.key for job in chain[:-1])]
    assert all((job.script).is_file() for job in chain)


def test_a_tuning_recipe_has_a_chain_of_its_own(site):
    chain = jobs(site("ACCOUNT=me\nTUNING_MEM=7G\n"), recipe="synthesizer_tiny")
    # Keys are shell variables of a dry run.
    assert [job.key for job in chain] == ["tuning_data", "train", "export", "evaluate", "report"]
    assert all((job.script).is_file() for job in chain)
    assert "--mem=7G" in chain[0].options and "--mem=7G" not in chain[2].options


def test_the_line_of_an_array(site):
    job = jobs(site("ACCOUNT=me\nTIME=1:00\nMEM=4G\nARRAY_TASKS=4\nARRAY_RUNNING=2\n"))[1]
    assert job.command("12") == [
        "sbatch", "--parsable", "--job-name=quickstart-synthesis", "--output=/logs/%x_%A_%a.out", "--account=me",
        "--time=1:00", "--mem=4G",
        f"--export=ALL,MEGATRON_IPT_SLURM={SCRIPTS},MEGATRON_IPT_PYTHON=/venv/bin/python,MEGATRON_IPT_EXITS=/exits,"
        "MEGATRON_IPT_CORES=synthesis.workers,MEGATRON_IPT_SHARES=4",
        "--array=0-3%2", "--dependency=afterok:12", "--kill-on-invalid-dep=yes",
        str(SCRIPTS / "stage.sbatch"), "synthesis", job.arguments[1], "/r.yaml", "seed=2",
    ]  # fmt: skip
    assert job.shell_line().startswith("synthesize=$(sbatch --parsable ")
    assert 'afterok:"$corpus"' in job.shell_line()


def test_finished_stages_and_shares_are_left_out(site):
    left = jobs(
        site("ARRAY_TASKS=4\n"), {"augment": (True, False, True, True, False)}, corpus="complete", synthesis="complete"
    )
    # Shards 0 and 4 are share 0 of 4, shard 1 is share 1.
    assert (left[0].key, left[0].array, left[0].shares) == ("augment", (0, 1), 4)
    all_made = jobs(site(""), {"augment": (True,) * 3}, corpus="complete", synthesis="complete")
    assert all_made[0].key == "augment_merge"


def test_a_stages_own_setting_wins(site):
    found = by_key(site("PARTITION=cpu\nTRAINING_PARTITION=gpu\nTRAINING_NODES=2\nMERGE_PARTITION=small\n"))
    assert "--partition=cpu" in found["corpus"].options
    assert {"--partition=gpu", "--nodes=2"} <= set(found["train"].options)
    assert "--partition=small" in found["tokenize_merge"].options


def test_a_stage_says_how_long_its_jobs_may_take(site):
    found = by_key(site("TOKENS_TIME=3:00\n"))
    times = {key: next(word for word in job.options if word.startswith("--time=")) for key, job in found.items()}
    assert {times["corpus"], times["synthesize"], times["tokenize_merge"]} == {"--time=12:00:00"}
    assert (times["tokenize"], times["train"]) == ("--time=3:00", "--time=1-00:00:00")


def gpus_of(job):
    return [word for word in job.options if word.startswith("--gpu")]


def test_only_jobs_that_need_gpus_ask_for_them(site):
    many = "GPUS_PER_TASK=4\nGPUS_PER_NODE=8\nSYNTHESIS_GPUS_PER_TASK=2\n"
    # The quickstart mines its pairs.
    found = by_key(site(many))
    assert {key for key, job in found.items() if gpus_of(job)} == {"train", "evaluate"}
    engine = ["synthesis.generation.model=m", "synthesis.engine=tensorrt_llm", "synthesis.generation.temperature=0"]
    found = by_key(site(many), overrides=engine)
    assert gpus_of(found["synthesize"]) == ["--gpus-per-task=2"]
    assert gpus_of(found["synthesize_merge"]) == []
    # A replica of the engine over two GPUs, and a site that says nothing.
    found = by_key(site(""), overrides=[*engine, "synthesis.tensorrt_llm.tensor_parallel_size=2"])
    assert gpus_of(found["synthesize"]) == ["--gpus-per-task=2"]
    for served in (["synthesis.engine=openai"], ["synthesis.engine=transformers", "synthesis.transformers.device=cpu"]):
        assert gpus_of(by_key(site(many), overrides=[*engine, *served])["synthesize"]) == []
    assert gpus_of(by_key(site("SYNTHESIS_GPUS_PER_TASK=0\n"), overrides=engine)["synthesize"]) == []


@dataclass
class _Section:
    pass


CUSTOM = Stage("mine", "my-stage", "A stage.", _Section, "", units="m:units")


def jobs_of_stage(site, stage, done=()):
    recipe = load_recipe(REPOSITORY / "examples/quickstart.yaml")
    recipe.mine = _Section()
    return jobs_of(recipe, Path("/r.yaml"), (), site, FOLDERS, [StageProgress(stage, "missing", done)])


def test_a_custom_stage_is_an_array_and_a_job_that_completes_it(site):
    array, completion = jobs_of_stage(site("ARRAY_TASKS=2\n"), CUSTOM, (False, False, True))
    assert (array.key, array.array, array.arguments[0]) == ("my_stage", (0, 1), "mine")
    assert (completion.key, completion.array, completion.does) == (
        "my_stage_merge", (), "Complete my-stage: counts and manifest.",
    )  # fmt: skip
    assert array.script == completion.script and array.script.is_file()
    assert "MEGATRON_IPT_CORES" not in array.options[-2]
    with_cores = jobs_of_stage(site(""), replace(CUSTOM, resources=Resources(cores="threads")))[0]
    assert "MEGATRON_IPT_CORES=mine.threads" in with_cores.options[-2]


def test_a_stage_is_completed_with_its_own_software_if_it_has_libraries(site):
    assert "MEGATRON_IPT_SOFTWARE=merge" in jobs_of_stage(site(""), CUSTOM)[1].options[-1]
    assert "SOFTWARE" not in jobs_of_stage(site(""), replace(CUSTOM, libraries=("torch",)))[1].options[-1]


def test_gpus_of_a_custom_stage_are_one_per_task_by_default(site):
    on_gpus = replace(CUSTOM, resources=Resources(gpus="task"))
    array, completion = jobs_of_stage(site(""), on_gpus)
    assert gpus_of(array) == ["--gpus-per-task=1"] and gpus_of(completion) == []


def test_a_stage_on_whole_nodes_without_a_script_is_refused(site):
    on_nodes = replace(CUSTOM, units="", resources=Resources(gpus="node", whole_nodes=True))
    with pytest.raises(RecipeError, match=r"mine: no batch script .*slurm/my-stage\.sbatch"):
        jobs_of_stage(site(""), on_nodes)
    assert stage_named("training").resources.whole_nodes


def test_the_site_file_is_read_by_the_shell(site, monkeypatch):
    monkeypatch.setenv("ACCOUNT", "from the shell of the user")
    assert site("A=5\nTIME=$((A * 2)):00\n").values == {"TIME": "10:00"}
    with pytest.raises(RecipeError, match=r"ACOUNT is not a setting. Did you mean ACCOUNT\?"):
        site("ACOUNT=me\n")
    with pytest.raises(RecipeError, match="bash cannot read it"):
        site("TIME=(\n")
    with pytest.raises(RecipeError, match="expected a whole number"):
        jobs(site("ARRAY_TASKS=many\n"))


def test_the_example_site_file_is_valid():
    read_site(SCRIPTS / "site.env.example")


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.s*")), ids=lambda path: path.name)
def test_scripts_are_valid_bash(script):
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


@given(strategies.sets(strategies.integers(0, 50), min_size=1))
def test_ranges_are_what_slurm_expands(numbers):
    assert expand(f"{ranges(sorted(numbers))}%3") == sorted(numbers)


def test_scontrol_tells_tasks_that_run_and_tasks_that_wait():
    text = (
        "JobId=9 ArrayJobId=7 ArrayTaskId=1 JobState=RUNNING Reason=None Restarts=2 ExitCode=0:0 NodeList=node1\n"
        "JobId=7 ArrayJobId=7 ArrayTaskId=2-3%1 JobState=PENDING Reason=JobArrayTaskLimit Restarts=0 NodeList=(null)\n"
    )
    assert [(state.id, state.state, state.restarts) for state in parse_scontrol(text)] == [
        ("7_1", "RUNNING", 2), ("7_2", "PENDING", 0), ("7_3", "PENDING", 0),
    ]  # fmt: skip


WAITING = {"collective": "all_reduce", "place": "trainer.py:9 step", "still": 70.0, "silent": 1.0}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"silent": 90.0, "collective": "", "place": "data.py:5 read"},
            "rank 1 on node1 does not answer, last seen at data.py:5 read; ranks 0, 2 wait in all_reduce at "
            "trainer.py:9 step",
        ),
        (
            {"collective": "", "place": "data.py:5 read"},
            "rank 1 on node1 is in no collective but at data.py:5 read; ranks 0, 2 wait in all_reduce at "
            "trainer.py:9 step",
        ),
        (
            {"collective": "recv", "place": "p2p.py:3 get"},
            "rank 1 on node1 waits apart from the others in recv at p2p.py:3 get; ranks 0, 2 wait in all_reduce at "
            "trainer.py:9 step",
        ),
        ({}, "all ranks wait in all_reduce at trainer.py:9 step"),
    ],
)
def test_the_hanging_rank_is_named(changes, sentence):
    states = [RankState(rank, "node1", **(WAITING | (changes if rank == 1 else {}))) for rank in range(3)]
    assert diagnose(states, interval=15) == sentence
    assert is_stalled(states, 60)
    assert not is_stalled([*states, RankState(3, "node1", "", "x.py:1 f", 5.0, 1.0)], 60)
    assert not is_stalled([], 60)


def test_gpus_are_checked_as_the_driver_reports_them():
    gpus = parse_gpus("NVIDIA H100 80GB HBM3, 81559, 4, 570.1, 0\nNVIDIA H100 80GB HBM3, 81559, 40000, 570.1, [N/A]\n")
    assert gpus[0] == NodeGpu("NVIDIA H100 80GB HBM3", 81559, 4, "570.1", 0)
    assert problems_of_gpus(gpus, 8) == ["2 GPUs, 8 expected", "GPU 1: 40000 of 81559 MiB in use already"]
    broken = NodeGpu("NVIDIA A100", 81920, 0, "570.1", 3)
    assert problems_of_gpus([gpus[0], broken], 2) == [
        "different GPUs: NVIDIA A100, NVIDIA H100 80GB HBM3", "GPU 1: 3 uncorrectable memory errors",
    ]  # fmt: skip
    assert expected_gpus({"SLURM_GPUS_PER_NODE": "h100:8"}) == 8


def test_node_lists_are_expanded_as_scontrol_does():
    assert expand_nodes("gpu[08-10,12],login") == ["gpu08", "gpu09", "gpu10", "gpu12", "login"]
    assert expand_nodes("node1") == ["node1"]
    assert expand_nodes("") == []


def test_a_job_inherits_nothing_from_the_job_it_is_submitted_in(monkeypatch):
    for name in (
        "SLURM_JOB_ID",
        "SBATCH_ACCOUNT",
        "MEGATRON_IPT_SHARES",
        "MEGATRON_IPT_CORES",
        "MEGATRON_IPT_SOFTWARE",
        "MEGATRON_IPT_UNTIL",
    ):
        monkeypatch.setenv(name, "of the outer job")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    seen = call(["env"]).stdout
    assert "of the outer job" not in seen and "SLURM_CONF=/etc/slurm.conf" in seen
