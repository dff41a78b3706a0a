from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")

from megatron_ipt.training.cpu import fused  # noqa: E402
from megatron_ipt.training.cpu.fused import CrossEntropyFunction, RMSNormFunction, swiglu  # noqa: E402
from megatron_ipt.training.model.rotary import rotate  # noqa: E402


def rotated_by_complex_numbers(tensor: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    half = tensor.size(-1) // 2
    turned = torch.complex(tensor[..., :half], tensor[..., half:]) * torch.exp(1j * angles[..., :half])
    return torch.cat([turned.real, turned.imag], -1)


def gated(tensor: torch.Tensor) -> torch.Tensor:
    gate, up = tensor.chunk(2, -1)
    return gate * torch.sigmoid(gate) * up


ANGLES = torch.rand(7, 1, 1, 4, dtype=torch.float64).repeat(1, 1, 1, 2)
WEIGHT = torch.rand(8, dtype=torch.float64) + 0.5
LABELS = torch.randint(0, 8, (13, 2))


@pytest.mark.parametrize(
    ("ours", "plain"),
    [
        (lambda x: rotate(x, ANGLES), lambda x: rotated_by_complex_numbers(x, ANGLES)),
        (swiglu, gated),
        (
            lambda x: RMSNormFunction.apply(x, WEIGHT, 0.1),
            lambda x: x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt() * WEIGHT,
        ),
    ],
    ids=["rotation", "gated activation", "norm"],
)
def test_values_and_gradients_are_those_of_the_formula(
    ours: Callable[[torch.Tensor], torch.Tensor], plain: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    # As attention has it: queries are a view into a wider tensor.
    wide = torch.randn(7, 2, 3, 20, dtype=torch.float64, requires_grad=True)
    inputs = wide[..., :8]
    assert torch.allclose(ours(inputs), plain(inputs), atol=1e-12)
    assert torch.autograd.gradcheck(ours, (inputs,))


def test_gradient_of_the_norm_s_weight() -> None:
    weight = WEIGHT.clone().requires_grad_()
    inputs = torch.randn(5, 2, 8, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda w: RMSNormFunction.apply(inputs, w, 1e-5), (weight,))


def test_parts_of_a_tensor_give_the_whole_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is worked on in parts that stay in the cache is what would be worked on at once."""
    tensor = torch.randn(13, 2, 8, dtype=torch.float64, requires_grad=True)
    angles = torch.rand(13, 1, 1, 4, dtype=torch.float64).repeat(1, 1, 1, 2)
    functions = [
        swiglu, lambda x: RMSNormFunction.apply(x, WEIGHT, 0.1), lambda x: rotate(x.unflatten(1, (2, 1)), angles),
        lambda x: CrossEntropyFunction.apply(x * 1, LABELS),
    ]  # fmt: skip
    for function in functions:
        results = []
        for size in (1 << 20, 50):
            monkeypatch.setattr(fused, "PART", size)
            result = function(tensor)
            results.append((result, *torch.autograd.grad(result.square().sum(), tensor)))
        assert all(torch.allclose(one, other, atol=1e-12) for one, other in zip(*results))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_cross_entropy_is_torch_s(dtype: torch.dtype) -> None:
    logits = (torch.randn(13, 2, 8) * 3).to(dtype)
    logits[..., 7:] = float("-inf")
    labels, weights = LABELS.clamp(max=6), torch.rand(13, 2)
    wide = logits.double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(wide.flatten(0, 1), labels.flatten(), reduction="none")
    (expected_gradient,) = torch.autograd.grad((expected.view(13, 2) * weights).sum(), wide)
    leaf = logits.clone().requires_grad_()
    found = CrossEntropyFunction.apply(leaf * 1, labels)
    (gradient,) = torch.autograd.grad((found * weights).sum(), leaf)
    assert torch.allclose(found.double().flatten(), expected, atol=1e-6)
    # A bf16 gradient is rounded once: half a unit in its eighth binary place.
    assert torch.allclose(gradient.double(), expected_gradient, rtol=2**-8 if dtype is torch.bfloat16 else 0, atol=1e-7)


def test_cross_entropy_leaves_logits_that_others_read() -> None:
    logits = torch.randn(13, 2, 8, requires_grad=True)
    read, before = logits * 1, logits.detach().clone()
    kept = CrossEntropyFunction.apply(read, LABELS, True)
    ((kept * 3).sum() + read.exp().sum()).backward()
    assert torch.equal(read, before)
    other = before.clone().requires_grad_()
    own = CrossEntropyFunction.apply(other * 1, LABELS)
    ((own * 3).sum() + other.exp().sum()).backward()
    assert torch.equal(kept, own) and torch.equal(logits.grad, other.grad)
