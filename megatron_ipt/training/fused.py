"""Norm and gated activation in few passes over memory, for CPU: what Transformer Engine's kernels are on a GPU.

Autograd would keep and go over several tensors of full size for each. On CPU, where a pass costs a read and a write of
main memory, writing the backward pass by hand saves one to two percent of a step.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer import mlp


def stand_in_for_fused_activation() -> None:
    """Puts :func:`swiglu` where Megatron-Core calls its own fused activation, which is one on a GPU alone."""
    mlp.bias_swiglu_impl = swiglu


def swiglu(tensor: torch.Tensor, bias: None = None, *_: Any) -> torch.Tensor:
    """SiLU of the first half of the last dimension times the second half; [..., 2 * n] -> [..., n]."""
    if bias is not None:
        raise NotImplementedError("no family here has a bias in its feed-forward block")
    activated: torch.Tensor = _SwiGLU.apply(tensor)
    return activated


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(tensor)
        gate, up = tensor.chunk(2, -1)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        (tensor,) = context.saved_tensors
        result = torch.empty_like(tensor)
        (gate, up), (to_gate, to_up) = tensor.chunk(2, -1), result.chunk(2, -1)
        torch.mul(torch.nn.functional.silu(gate), gradient, out=to_up)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=to_gate)
        return result


class RMSNormFunction(torch.autograd.Function):
    """``x / sqrt(mean(x²) + epsilon) * weight`` over the last dimension, computed in fp32 or better."""

    @staticmethod
    def forward(context: Any, tensor: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        wide = _widened(tensor)
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = norm.square_().div_(tensor.size(-1)).add_(epsilon).rsqrt_()
        context.save_for_backward(tensor, weight, inverse)
        return torch.mul(wide, inverse).mul_(weight).to(tensor.dtype)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        tensor, weight, inverse = context.saved_tensors
        wide, wide_gradient, wide_weight = _widened(tensor), _widened(gradient), _widened(weight)
        product = wide_gradient * wide
        for_weight = torch.mv(product.flatten(0, -2).t(), inverse.flatten())
        along = torch.matmul(product, wide_weight).unsqueeze_(-1)
        along.mul_(inverse.pow(3)).div_(-tensor.size(-1))
        for_tensor = (wide_gradient * wide_weight).mul_(inverse).addcmul_(wide, along)
        return for_tensor.to(tensor.dtype), for_weight.to(weight.dtype), None


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
