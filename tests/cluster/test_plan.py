"""The planner: sizes that pass from stage to stage, and figures worked out by hand or published."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from megatron_ipt.cluster.plan.estimate import make_plan
from megatron_ipt.cluster.plan.text import render_plan
from megatron_ipt.errors import RecipeError, UserError
from megatron_ipt.files import write_json
from megatron_ipt.recipe import load_recipe
from megatron_ipt.stages.costs import Assumptions, Machine
from tests.conftest import REPOSITORY

RECIPES = REPOSITORY / "examples"


def plan(name, gpus=64, gpu="h100", *overrides, output="/nonexistent", **assumed):
    recipe = load_recipe(RECIPES / f"{name}.yaml", (f"output_dir={output}/{name}", *overrides))
    return make_plan(recipe, Machine(gpus, gpu), Assumptions(**{"vocab_size": 32000, **assumed}))


def hours(result):
    return {cost.stage: cost.hours for cost in result.stages}


def test_the_synthesizer_on_an_a100_costs_what_the_paper_says():
    # arXiv:2406.14491: about one day of one A100 for 1B tokens of raw text.
    cost = plan("instructlm_1.3b", 1, "a100", "training.tokens=1000000000", documents=10e6)
    gpu_hours = next(stage.gpu_hours for stage in cost.stages if stage.stage == "synthesis")
    data = cost.facts["data"]
    assert data["texts"] * data["tokens_per_text"] == pytest.approx(1e9)
    assert gpu_hours == pytest.approx(24, rel=0.35)


def test_the_general_recipe_at_full_size():
    result = plan("instructlm_250b")
    facts = result.facts
    assert facts["model"]["parameters"] == 1_288_800_256
    assert facts["training"]["steps"] == 238_419
    # The paper's 500M pairs, estimated from 250B tokens at 5 pairs a text.
    assert facts["data"]["pairs"] == pytest.approx(500e6, rel=0.1)
    assert facts["best"]["fits"] and facts["of_recipe"]["fits"]
    assert facts["best"]["layout"]["tensor"] == 1
    step = facts["best"]["step_seconds"]["total"]
    assert hours(result)["training"] == pytest.approx(238_419 * step / 0.92 / 3600)
    assert result.storage_gb["tokens"] == pytest.approx(250 * 2 + 453e6 * 20 / 1e9, rel=0.01)
    text = render_plan(result)
    assert "1,288,800,256 parameters" in text
    assert json.loads(json.dumps(result.as_dict()))["best"]["label"] == facts["best"]["label"]


def test_the_figures_of_the_slurm_page():
    result = plan("instructlm_1.3b")
    assert [(cost.stage, cost.workers) for cost in result.stages] == [
        ("corpus", 1), ("synthesis", 64), ("augment", 64), ("tokens", 64), ("merge", 1), ("training", 64),
        ("export", 1), ("evaluation", 0),
    ]  # fmt: skip
    assert {name: round(value, 4) for name, value in hours(result).items() if value} == {
        "corpus": 5.5354, "synthesis": 4.2799, "augment": 0.0263, "tokens": 0.6366, "merge": 0.6111,
        "training": 12.3332, "export": 0.0024,
    }  # fmt: skip
    assert result.facts["data"]["pairs"] == pytest.approx(181_159_420.29, abs=0.01)
    assert result.facts["best"]["step_seconds"]["total"] == pytest.approx(0.4283160268, abs=1e-10)
    assert result.facts["best"]["memory_gib"]["total"] == pytest.approx(23.571318030, abs=1e-9)
    assert round(sum(result.storage_gb.values()), 2) == 743.57
    assert result.notes == ["tokens.sources.synthesizer_tuning.inputs is not here and is left out."]


def test_a_stage_without_a_cost_model_is_listed():
    text = render_plan(plan("instructlm_1.3b"))
    assert text.splitlines()[-4].split() == ["evaluation", "unknown", "no", "cost", "model"]
    # Writing the page takes no time worth mentioning.
    assert "report" not in text


def test_a_model_that_does_not_fit_says_on_how_many_gpus_it_would():
    # The shape stands in for that of the downloaded model.
    shape = ("training.model.from_hf=null", "training.model.preset=llama3_8b")
    result = plan("llama3_8b_continual", 1, "h100", *shape, vocab_size=128256)
    assert result.facts["best"] is None
    assert "Nothing fits on 1 H100; on 2 it does." in result.notes
    batch = plan("llama3_8b_continual", 7, "h100", *shape, vocab_size=128256)
    assert "Nothing fits on 7 H100, nor on any doubling of them: check global_batch_size." in batch.notes
    assert hours(batch)["training"] is None
    assert "training" in render_plan(batch)


def test_what_a_student_draws_is_said_not_to_be_counted():
    shape = ("training.model.from_hf=null", "training.model.preset=llama3_8b")
    found = [plan(name, 8, "h100", *shape, vocab_size=128256).notes for name in ("minillm", "llama3_8b_continual")]
    drawing = [[note for note in notes if note.startswith("Responses that the student draws")] for notes in found]
    assert [len(notes) for notes in drawing] == [1, 0]


def test_unknowns_are_asked_for():
    with pytest.raises(RecipeError, match="--gpu v100: unknown GPU; known: a100"):
        plan("instructlm_1.3b", 8, "v100")
    with pytest.raises(RecipeError, match=r"tokens.tokenizer.path: .* pass --vocab-size"):
        plan("instructlm_1.3b", vocab_size=None)
    with pytest.raises(UserError, match=r"corpus.inputs is not here. Pass --documents, or set training.tokens or "):
        plan("instructlm_1.3b", 64, "h100", "training.tokens=null", "training.epochs=2")
    with pytest.raises(RecipeError, match="A100 has no fp8"):
        plan("instructlm_1.3b", 64, "a100", "training.precision=fp8")


def test_a_recipe_without_training():
    result = plan("instructlm_1.3b", 8, "h100", "training=null", documents=1e6)
    assert [cost.stage for cost in result.stages] == ["corpus", "synthesis", "augment", "tokens", "merge"]
    assert "best" not in result.facts and "checkpoint" not in result.storage_gb
    assert "tokens" in render_plan(result)
    with pytest.raises(UserError, match=r"corpus.inputs is not here. Pass --documents\.$"):
        plan("instructlm_1.3b", 8, "h100", "training=null")


def test_engines_without_a_model_have_their_own_speed():
    mined, rules = (
        hours(plan("quickstart", 1, "h100", f"synthesis.engine={engine}", documents=1e6))["synthesis"]
        for engine in ("mined", "pseudo_labels")
    )
    assert rules / mined == pytest.approx(20 / 1.5)  # MB/s.


def test_a_recipe_that_ends_with_documents():
    result = plan("quickstart", 1, "h100", "skip=[tokens]")
    assert [cost.stage for cost in result.stages] == ["corpus", "synthesis", "augment"]


def test_a_flow_that_begins_with_tuning_data():
    result = plan("synthesizer_tiny", 1, "h100", vocab_size=None)
    # Every example occurs eight times.
    size = 8 * (RECIPES / "tuning/tasks.jsonl").stat().st_size
    assert result.facts["data"] == {"data_tokens": pytest.approx(size / 4.4), "source": "size of tuning.datasets"}
    assert [cost.stage for cost in result.stages] == ["tuning", "training", "export", "evaluation"]
    # Files that are not here: as much as the training needs.
    elsewhere = ("tuning.datasets.examples.inputs=[/nonexistent.jsonl]", "training.epochs=null", "training.steps=9")
    result = plan("synthesizer_tiny", 1, "h100", *elsewhere)
    assert result.facts["training"]["passes"] == pytest.approx(1)


def test_documents_can_be_given_for_every_beginning():
    missing = ("tuning.datasets.examples.inputs=[/nonexistent.jsonl]",)
    with pytest.raises(UserError, match=r"tuning.datasets are not here. Pass --documents, or set training.tokens"):
        plan("synthesizer_tiny", 1, "h100", *missing)
    data = plan("synthesizer_tiny", 1, "h100", *missing, documents=100, tokens_per_document=300.0).facts["data"]
    assert data == {"data_tokens": 30_000, "source": "documents as given"}


def test_a_flow_that_begins_with_pairs(tmp_path):
    files = tmp_path / "pairs.jsonl"
    replay = ("corpus=null", "synthesis.engine=replay", f"synthesis.replay.inputs=[{files}]")
    result = plan("quickstart", 1, "h100", *replay)
    assert [cost.stage for cost in result.stages][:2] == ["synthesis", "augment"]
    assert result.facts["training"]["passes"] == pytest.approx(1)
    files.write_bytes(b"x" * 76_000_000)
    # 500 tokens of text and five pairs of 52 tokens, 4.4 characters each: 3344 bytes.
    result = plan("quickstart", 1, "h100", *replay)
    assert result.facts["data"]["texts"] == pytest.approx(76e6 / 3344)


def test_sources_of_their_own_count(tmp_path):
    files = tmp_path / "more.jsonl"
    files.write_bytes(b"x" * 44_000)
    own = f"tokens.sources.more.inputs=[{files}]"
    alone = plan("quickstart", 1, "h100", "corpus=null", own)
    assert alone.facts["data"]["data_tokens"] == pytest.approx(10_000)
    without, beside = plan("quickstart", 1), plan("quickstart", 1, "h100", own)
    assert beside.facts["data"]["data_tokens"] - without.facts["data"]["data_tokens"] == pytest.approx(10_000)
    # What is here is taken off what the training needs of the data that is not.
    absent = "corpus.inputs=[/nonexistent]"
    assert plan("quickstart", 1, "h100", absent, own).facts["training"]["passes"] == pytest.approx(1)


def test_finished_stages_are_counted(tmp_path):
    def finish(stage, **counts):
        write_json(tmp_path / "quickstart" / stage / "manifest.json", {"status": "complete", "counts": counts})

    finish("corpus", documents=100, characters=44_000)
    finish("synthesis", pairs=77)
    data = plan("quickstart", 1, output=tmp_path).facts["data"]
    assert (data["documents"], data["tokens"], data["pairs"]) == (100, pytest.approx(10_000), 77)
    finish("tokens", vocab_size=70_000)
    result = plan("quickstart", 1, output=tmp_path, vocab_size=None)
    assert result.facts["model"]["vocab_size"] == 70_000
    # Four bytes per id, and twenty per document.
    assert result.storage_gb["tokens"] == pytest.approx((data["data_tokens"] * 4 + 100 * 20) / 1e9)


def test_planning_and_submitting_import_no_torch():
    code = "import sys, megatron_ipt.cluster.plan.text, megatron_ipt.cluster.slurm.submit"
    code += ", megatron_ipt.cluster.watch.training_job"
    code += ", megatron_ipt.cluster.watch.status, megatron_ipt.cluster.watch.preflight; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_plan_is_made_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None; from megatron_ipt.cli import cli\n"
        f"cli(['plan', {str(RECIPES / 'quickstart.yaml')!r}, '--gpus', '1'], standalone_mode=False)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "0.3 GB/s of weights" in done.stdout
