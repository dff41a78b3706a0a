from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")

from megatron_ipt.training.cpu import linear as module  # noqa: E402

INPUT, WEIGHT, ALONG = torch.randn(5, 2, 7), torch.randn(3, 7), torch.randn(5, 2, 3)


def run(dtype: torch.dtype, main_grad: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Result, and gradients of input and weight."""
    tensor, weight = (each.to(dtype, copy=True).requires_grad_() for each in (INPUT, WEIGHT))
    if main_grad is not None:
        weight.main_grad = main_grad
    result = module.linear(tensor, weight, None, False, False, False)
    result.backward(ALONG.to(dtype))
    assert getattr(weight, "grad_added_to_main_grad", False) == (main_grad is not None)
    return result.detach(), tensor.grad, weight.grad


def expected(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tensor, weight, along = (each.to(dtype).double() for each in (INPUT, WEIGHT, ALONG))
    return tensor @ weight.t(), along @ weight, torch.einsum("sbo,sbi->oi", along, tensor)


def test_fp32_is_the_product_and_its_gradients() -> None:
    for found, right in zip(run(torch.float32), expected(torch.float32)):
        assert torch.allclose(found.double(), right, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weight_s_gradient_is_added_to_the_buffer_in_fp32(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "bf16_is_emulated", lambda: True)
    buffer = torch.ones(3, 7)
    run(dtype, buffer)
    # Of bf16 operands too: the sum is not rounded to bf16.
    assert torch.allclose(buffer.double(), expected(dtype)[2] + 1, atol=1e-5)


@pytest.mark.parametrize("emulated", [False, True])
def test_bf16_rounds_an_fp32_sum_once(emulated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "bf16_is_emulated", lambda: emulated)
    for found, right in zip(run(torch.bfloat16), expected(torch.bfloat16)):
        assert found.dtype is torch.bfloat16
        assert torch.allclose(found.double(), right, rtol=2**-8, atol=1e-6)


def test_memory_kept_between_calls_does_not_mix_them_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "bf16_is_emulated", lambda: True)
    first = run(torch.bfloat16)
    big = torch.randn(64, 2, 32, dtype=torch.bfloat16)
    with torch.inference_mode():
        module.linear(big, torch.randn(48, 32, dtype=torch.bfloat16), None, False, False, False)
    assert all(torch.equal(one, again) for one, again in zip(first, run(torch.bfloat16)))
