"""The cost model against published figures, an independent count, and values worked out by hand."""

from __future__ import annotations

from statistics import mean

import pytest

from megatron_ipt.models.flops import flops_per_token
from megatron_ipt.models.hardware import GIB, GPUS, gpu_named
from megatron_ipt.models.presets import resolve_shape
from megatron_ipt.training.cost.arrangement import Arrangement, stage_parameters
from megatron_ipt.training.cost.memory import activation_bytes_per_token, memory_of, memory_of_stage
from megatron_ipt.training.cost.search import Problem, search
from megatron_ipt.training.cost.speed import step_time
from tests.training.cost.published import LLAMA3_405B, NARAYANAN, NEMO


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


def test_a_pipeline_keeps_no_more_micro_batches_than_there_are() -> None:
    # Four stages and two micro-batches: the first stages hold both, the last one only the one it is at.
    shape = resolve_shape({"preset": "llama3_8b"})
    few = Arrangement(1, 4, 1, 1, 2, sequence_parallel=False)
    assert few.micro_batches == 2
    one = 2048 * shape.num_layers / 4 * activation_bytes_per_token(shape, few) / GIB
    held = [memory_of_stage(shape, 128256, 2048, "bf16", few, stage).activations for stage in range(3)]
    assert held == pytest.approx([2 * one] * 3)
    many = Arrangement(1, 4, 1, 1, 8, sequence_parallel=False)
    held = [memory_of_stage(shape, 128256, 2048, "bf16", many, stage).activations for stage in range(3)]
    assert held == pytest.approx([4 * one, 3 * one, 2 * one])


def test_search_finds_nothing_faster_by_hand():
    shape = resolve_shape({"preset": "llama3_8b"})
    problem = Problem(shape, 128256, 8192, 128, "bf16", 128, gpu_named("h100"), 64)
    found = search(problem)
    assert found[0].time.total <= 1.03 * min(candidate.time.total for candidate in found)
    assert all(candidate.memory.total <= problem.gpu.memory_gib for candidate in found)
    assert all(candidate.arrangement.world_size == 64 for candidate in found)
