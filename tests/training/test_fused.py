from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")

from megatron_ipt.training.fused import RMSNormFunction, swiglu  # noqa: E402
from megatron_ipt.training.rotary import rotate  # noqa: E402


def rotated_by_complex_numbers(tensor: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    half = tensor.size(-1) // 2
    turned = torch.complex(tensor[..., :half], tensor[..., half:]) * torch.exp(1j * angles[..., :half])
    return torch.cat([turned.real, turned.imag], -1)


def gated(tensor: torch.Tensor) -> torch.Tensor:
    gate, up = tensor.chunk(2, -1)
    return gate * torch.sigmoid(gate) * up


ANGLES = torch.rand(7, 1, 1, 4, dtype=torch.float64).repeat(1, 1, 1, 2)
WEIGHT = torch.rand(8, dtype=torch.float64) + 0.5


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
