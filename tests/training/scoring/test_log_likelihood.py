"""Log-probabilities in portions, for one rank; several are compared in test_ranks.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

pytest.importorskip("megatron.core", reason="scoring needs Megatron-Core")

from megatron_ipt.training.objectives import vocabulary  # noqa: E402
from megatron_ipt.training.scoring import log_likelihood  # noqa: E402

ALONE: Any = SimpleNamespace(size=lambda: 1)


def found(weight: Any, hidden: Any, labels: Any) -> Any:
    def logits_of(part: Any) -> Any:
        return part @ weight.t()

    return log_likelihood.log_probabilities(hidden, labels, logits_of, len(weight), 0, ALONE)


@pytest.fixture
def problem() -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(40, 8, generator=generator)
    return weight, torch.randn(23, 8, generator=generator) * 5, torch.randint(0, 40, (23,), generator=generator)


@pytest.mark.parametrize("rows", [1, 5, 23, 100])
def test_portions_of_any_size_equal_log_softmax(problem: Any, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hidden, labels = problem
    monkeypatch.setitem(log_likelihood._LOGITS_AT_ONCE, "cpu", rows * len(weight))
    monkeypatch.setattr(vocabulary, "PART", 3 * len(weight))
    expected = (hidden @ weight.t()).double().log_softmax(-1).gather(1, labels[:, None])[:, 0]
    assert torch.allclose(found(weight, hidden, labels).double(), expected, rtol=1e-5, atol=1e-5)


def test_the_logits_of_all_positions_never_exist(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hidden, labels = problem
    monkeypatch.setitem(log_likelihood._LOGITS_AT_ONCE, "cpu", 4 * len(weight) + 1)
    sizes: list[int] = []

    def logits_of(part: Any) -> Any:
        sizes.append(len(part))
        return part @ weight.t()

    log_likelihood.log_probabilities(hidden, labels, logits_of, len(weight), 0, ALONE)
    assert sizes == [4, 4, 4, 4, 4, 3]


def test_softmax_of_bf16_logits_is_in_fp32(problem: Any) -> None:
    weight, hidden, labels = problem
    logits = (hidden @ weight.t()).bfloat16()
    got = log_likelihood.log_probabilities(logits, labels, lambda part: part, len(weight), 0, ALONE)
    expected = logits.double().log_softmax(-1).gather(1, labels[:, None])[:, 0]
    assert got.dtype is torch.float32
    assert torch.allclose(got.double(), expected, rtol=1e-5, atol=1e-5)


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[1000.0, 999.0, -1e30]])
    got = log_likelihood.log_probabilities(logits, torch.tensor([1]), lambda part: part, 3, 0, ALONE)
    assert got.item() == pytest.approx(-1.3132617)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_wrong_logits_give_nan(wrong: float) -> None:
    logits = torch.tensor([[1.0, wrong, 0.0], [1.0, 2.0, 3.0]])
    got = log_likelihood.log_probabilities(logits, torch.tensor([0, 0]), lambda part: part, 3, 0, ALONE)
    assert got[0].isnan()
    assert not got[1].isnan()
