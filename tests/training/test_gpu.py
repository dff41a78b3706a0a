"""What only a GPU can show: NCCL, Transformer Engine, FP8. Skipped where there is none."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.training.loop.metrics import read_metrics

pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
pytestmark = [pytest.mark.gpu, pytest.mark.slow]

Train = Callable[..., tuple[Path, dict[str, Any]]]
GPU_RUN = ("steps=12", "model.hidden_size=128", "model.ffn_hidden_size=256", "data.seq_length=64")


@pytest.fixture(autouse=True)
def needs_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU here")


def losses(directory: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(directory / "metrics.jsonl") if "loss" in record]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trains_on_a_gpu(precision: str, train: Train) -> None:
    directory, counts = train(*GPU_RUN, f"precision={precision}")
    assert counts["precision"] == precision
    assert losses(directory)[0] == pytest.approx(math.log(500), abs=0.1)
    assert losses(directory)[-1] < losses(directory)[0] - 0.3


@pytest.mark.parametrize("attention", ["transformer_engine", "torch"])
def test_attention_kernels_agree(attention: str, train: Train) -> None:
    if importlib.util.find_spec("transformer_engine") is None:
        pytest.skip("Transformer Engine is not installed")
    one, other = (train(*GPU_RUN, "precision=bf16", f"model.attention={name}")[0] for name in ("auto", attention))
    assert max(abs(a - b) for a, b in zip(losses(one), losses(other))) < 0.02


@pytest.mark.parametrize("recipe", ["delayed", "tensorwise", "blockwise", "mxfp8"])
def test_fp8_follows_bf16(recipe: str, train: Train) -> None:
    import torch

    from megatron_ipt.training.model.precision import have_transformer_engine, transformer_engine_version, why_not

    if not have_transformer_engine():
        pytest.skip("Transformer Engine is not installed")
    reason = why_not(recipe, torch.cuda.get_device_capability(), transformer_engine_version())
    if reason:
        pytest.skip(reason)
    half = train(*GPU_RUN, "precision=bf16")[0]
    eighth = train(*GPU_RUN, "precision=fp8", f"fp8.recipe={recipe}")[0]
    assert losses(half) != losses(eighth)
    assert max(abs(a - b) for a, b in zip(losses(half), losses(eighth))) < 0.1


def test_terms_that_read_logits_in_bf16(train: Train) -> None:
    """A term without weight changes nothing; a frozen second model of the same weights has nothing to teach."""
    examples, root = Path(__file__).parent / "objectives/examples.py", Path(__file__).parents[2]
    z_loss = f"z: {{objective: '{root / 'examples/extensions/z_loss.py'}:ZLoss', weight: 0}}"
    plain = train(*GPU_RUN, "precision=bf16")[0]
    checkpoint = plain / "checkpoints/iter_0000012"
    reported = train(*GPU_RUN, "precision=bf16", f"objectives={{next_token: {{}}, {z_loss}}}")[0]
    assert max(abs(a - b) for a, b in zip(losses(plain), losses(reported))) < 1e-3
    first = next(read_metrics(reported / "metrics.jsonl"))
    assert first["metrics"]["z/log_z"] == pytest.approx(math.log(500), abs=0.1)
    teacher = f"kl: {{objective: '{examples}:Teacher', options: {{checkpoint: '{checkpoint}'}}}}"
    taught = train(*GPU_RUN, "precision=bf16", f"initial_checkpoint={checkpoint}", f"objectives={{{teacher}}}")[0]
    assert abs(losses(taught)[0]) < 1e-3


def test_resumes_in_fp8(train: Train) -> None:
    import torch

    from megatron_ipt.training.model.precision import have_transformer_engine

    if not have_transformer_engine() or torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("FP8 needs Transformer Engine and compute capability 8.9")
    run = (*GPU_RUN[1:], "precision=fp8", "schedule.lr_decay_iters=12")
    whole = train("steps=12", *run)[0]
    halves = train("steps=6", *run)[0]
    train("steps=12", *run, directory=halves)
    assert max(abs(a - b) for a, b in zip(losses(whole), losses(halves))) < 1e-3
