"""The planner against published figures, an independent count, and values worked out by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import mean

import pytest

from megatron_ipt.cluster.plan.arrangement import Arrangement, stage_parameters
from megatron_ipt.cluster.plan.estimate import make_plan
from megatron_ipt.cluster.plan.hardware import GIB, GPUS, gpu_named
from megatron_ipt.cluster.plan.memory import activation_bytes_per_token, memory_of
from megatron_ipt.cluster.plan.search import Problem, search
from megatron_ipt.cluster.plan.speed import seconds_per_request, step_time
from megatron_ipt.cluster.plan.text import render_plan
from megatron_ipt.cluster.plan.volume import Assumptions
from megatron_ipt.errors import RecipeError, UserError
from megatron_ipt.models.flops import flops_per_token
from megatron_ipt.models.presets import resolve_shape
from megatron_ipt.recipe import load_recipe
from tests.cluster.published import LLAMA3_405B, NARAYANAN, NEMO
from tests.conftest import REPOSITORY

RECIPES = REPOSITORY / "examples"


def plan(name, gpus=64, gpu="h100", *overrides, vocab_size=32000, **options):
    recipe = load_recipe(RECIPES / f"{name}.yaml", (f"output_dir=/nonexistent/{name}", *overrides))
    return make_plan(recipe, gpus, gpu, vocab_size=vocab_size, **options)


@pytest.mark.parametrize(
    "preset", ["tiny", "instructlm_500m", "llama3_8b", "qwen2.5_1.5b", "qwen3_0.6b", "mixtral_8x7b"]
)
@pytest.mark.parametrize(("tensor", "pipeline", "expert"), [(1, 1, 1), (2, 2, 1), (2, 1, 2)])
def test_the_parts_on_all_gpus_are_the_whole_model(preset, tensor, pipeline, expert):
    shape = resolve_shape({"preset": preset})
    if shape.num_moe_experts is None:
        expert = 1
    arrangement = Arrangement(tensor, pipeline, expert, 1, 8, expert=expert)
    held = 0.0
    for stage in range(pipeline):
        part = stage_parameters(shape, 32000, arrangement, stage)
        held += part.dense * tensor + part.experts * tensor * expert
    layers = shape.num_layers * (2 * shape.hidden_size + 2 * shape.kv_channels * (shape.family == "qwen3"))
    layers += shape.num_layers * shape.hidden_size * (shape.num_moe_experts or 0)
    repeated = (tensor - 1) * (layers + shape.hidden_size)
    if not shape.untie_embeddings_and_output_weights and pipeline > 1:
        repeated += 32000 * shape.hidden_size
    elif tensor > 1:
        repeated += 0
    assert held == pytest.approx(shape.parameters(32000) + repeated, rel=1e-12)


def predicted(run):
    arrangement = run.arrangement
    time = step_time(
        run.shape, run.vocabulary, run.seq_length, run.precision, arrangement, GPUS[run.gpu]
    ).total  # fmt: skip
    tokens = arrangement.global_batch_size * run.seq_length
    if run.flops_of_step is not None:
        return run.flops_of_step / time / arrangement.world_size / 1e12
    rate = tokens / time / arrangement.world_size
    if run.precision == "bf16":
        return rate * flops_per_token(run.shape, run.vocabulary, run.seq_length) / 1e12
    return rate


@pytest.mark.parametrize(
    ("runs", "average", "largest"), [(NARAYANAN, 0.035, 0.09), (NEMO, 0.09, 0.26), (LLAMA3_405B, 0.01, 0.02)]
)
def test_speed_is_that_of_published_runs(runs, average, largest):
    errors = [abs(predicted(run) / run.figure - 1) for run in runs]
    assert mean(errors) <= average
    assert max(errors) <= largest


@pytest.mark.parametrize("run", NARAYANAN + NEMO, ids=lambda run: run.name)
def test_what_ran_on_80_gb_fits_in_80_gb(run):
    memory = memory_of(run.shape, run.vocabulary, run.seq_length, "bf16", run.arrangement)
    assert memory.total <= 1.02 * GPUS[run.gpu].memory_gib


def test_sharded_state_is_that_of_the_zero_paper():
    # arXiv:1910.02054, figure 1: 7.5B parameters over 64 ranks, 4 + 12/64 bytes each with 16-bit gradients: 31.4 GB.
    shape = resolve_shape({"preset": "llama3_8b"})
    memory = memory_of(shape, 128256, 2048, "bf16", Arrangement(1, 1, 64, 1, 64))
    bytes_each = (memory.weights + memory.gradients / 2 + memory.optimizer) * GIB / shape.parameters(128256)
    assert bytes_each * 7.5 == pytest.approx(31.4, abs=0.05)


def megatron_lm_activations(shape, arrangement, seq_length, vocabulary):
    """Megatron-LM's own estimate, with sequence parallelism: s*b*h*(18 + 4*ffn/h) a layer."""
    layer = seq_length * arrangement.micro_batch_size * (18 * shape.hidden_size + 4 * shape.ffn_hidden_size)
    return layer * shape.num_layers / arrangement.tensor


@pytest.mark.parametrize("preset", ["instructlm_500m", "instructlm_1.3b", "llama3_8b"])
def test_activations_are_near_those_of_megatron_lms_own_estimate(preset):
    shape = resolve_shape({"preset": preset})
    arrangement = Arrangement(2, 1, 32, 2, 64)
    ours = activation_bytes_per_token(shape, arrangement) * 2048 * 2 * shape.num_layers
    # Theirs knows no grouped queries and no gate, ours keeps no dropout masks.
    assert ours == pytest.approx(megatron_lm_activations(shape, arrangement, 2048, 32000), rel=0.25)


def test_an_activation_count_by_hand():
    # h = 4096, q = 4096, kv = 2 * 1024, ffn = 14336, 32 heads: 2 * (4*4096 + 4096 + 2048 + 4096 + 3*14336) + 4*32.
    shape = resolve_shape({"preset": "llama3_8b"})
    assert activation_bytes_per_token(shape, Arrangement(1, 1, 8, 1, 8)) == 139_392
    assert activation_bytes_per_token(shape, Arrangement(1, 1, 8, 1, 8, recompute="full")) == 8192


@pytest.mark.parametrize(
    # Published TensorRT-LLM v1.0 output tokens/s of Llama-3.1-8B in FP8 on one H100, by input and output length.
    ("tokens_in", "tokens_out", "rate"),
    [(500, 2000, 17660), (1000, 1000, 15220), (1000, 2000, 13899), (2048, 128, 3450), (2048, 2048, 9305),
     (5000, 500, 3459)],
)  # fmt: skip
def test_the_synthesizer_is_as_fast_as_published(tokens_in, tokens_out, rate):
    assert tokens_out / seconds_per_request(tokens_in, tokens_out) == pytest.approx(rate, rel=0.016)


def test_the_synthesizer_on_an_a100_costs_what_the_paper_says():
    # arXiv:2406.14491: about one day of one A100 for 1B tokens of raw text.
    cost = plan("instructlm_1.3b", 1, "a100", "training.tokens=1000000000", assumptions=Assumptions(documents=10e6))
    hours = next(stage.gpu_hours for stage in cost.stages if stage.stage == "synthesis")
    assert cost.data["texts"] * cost.data["tokens_per_text"] == pytest.approx(1e9)
    assert hours == pytest.approx(24, rel=0.35)


def test_the_general_recipe_at_full_size():
    result = plan("instructlm_250b")
    assert result.model["parameters"] == 1_288_800_256
    assert result.training["steps"] == 238_419
    # The paper's 500M pairs, estimated from 250B tokens at 5 pairs a text.
    assert result.data["pairs"] == pytest.approx(500e6, rel=0.1)
    assert result.best["fits"] and result.of_recipe["fits"]
    assert result.best["layout"]["tensor"] == 1
    costs = {cost.stage: cost for cost in result.stages}
    assert costs["training"].hours == pytest.approx(238_419 * result.best["step_seconds"]["total"] / 0.92 / 3600)
    assert result.storage_gb["tokens"] == pytest.approx(250 * 2 + 453e6 * 20 / 1e9, rel=0.01)
    text = render_plan(result)
    assert "1,288,800,256 parameters" in text
    assert json.loads(json.dumps(result.as_dict()))["best"]["label"] == result.best["label"]


def test_a_model_that_does_not_fit_says_on_how_many_gpus_it_would():
    # The shape stands in for that of the downloaded model.
    shape = ("training.model.from_hf=null", "training.model.preset=llama3_8b")
    result = plan("llama3_8b_continual", 1, "h100", *shape, vocab_size=128256)
    assert result.best is None
    assert "Nothing fits on 1 H100; on 2 it does." in result.notes or "on 4 it does" in result.notes[0]


def test_search_finds_nothing_faster_by_hand():
    shape = resolve_shape({"preset": "llama3_8b"})
    problem = Problem(shape, 128256, 8192, 128, "bf16", 128, gpu_named("h100"), 64)
    found = search(problem)
    assert found[0].time.total <= 1.03 * min(candidate.time.total for candidate in found)
    assert all(candidate.memory.total <= problem.gpu.memory_gib for candidate in found)
    assert all(candidate.arrangement.world_size == 64 for candidate in found)


def test_unknowns_are_asked_for():
    with pytest.raises(RecipeError, match="--gpu v100: not in the table; known: a100"):
        plan("instructlm_1.3b", 8, "v100")
    with pytest.raises(RecipeError, match=r"tokens.tokenizer.path: .* pass --vocab-size"):
        plan("instructlm_1.3b", vocab_size=None)
    with pytest.raises(UserError, match="Pass --documents"):
        plan("instructlm_1.3b", 64, "h100", "training.tokens=null", "training.epochs=2")
    with pytest.raises(RecipeError, match="A100 has no fp8"):
        plan("instructlm_1.3b", 64, "a100", "training.precision=fp8")


def test_planning_and_submitting_import_no_torch():
    code = "import sys, megatron_ipt.cluster.plan.text, megatron_ipt.cluster.slurm.submit"
    code += ", megatron_ipt.cluster.watch.training_job"
    code += ", megatron_ipt.cluster.watch.status, megatron_ipt.cluster.watch.preflight; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
