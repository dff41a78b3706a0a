"""Norm, gated activation and cross-entropy with few passes over memory: the fused kernels of the CPU.

Autograd would store and traverse several full-size tensors for each. On CPU, a pass costs a read and a write of main
memory, and a new tensor costs a page fault for every 4 KiB. So the backward passes are written by hand, and every
formula is applied to parts that stay in the cache from its first operation to its last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from megatron.core.transformer import mlp

PART = 1 << 17
"""Elements of a tensor processed at a time: 512 KiB of fp32, half of a typical L2 cache."""


def stand_in_for_fused_activation() -> None:
    """Puts :func:`swiglu` where Megatron-Core calls its fused activation, which is only fused on a GPU."""
    mlp.bias_swiglu_impl = swiglu


def stand_in_for_cross_entropy() -> None:
    """Puts :func:`cross_entropy` where Megatron-Core's models call their own."""
    tensor_parallel.vocab_parallel_cross_entropy = cross_entropy


def parts(tensor: torch.Tensor, *others: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Views of all tensors, split alike along the first dimension; those of ``tensor`` have about ``PART`` elements."""
    rows = max(1, PART * tensor.size(0) // max(1, tensor.numel()))
    return zip(*(each.split(rows) for each in (tensor, *others)))


def swiglu(tensor: torch.Tensor, bias: None = None, *_: Any) -> torch.Tensor:
    """SiLU of the first half of the last dimension times the second half; [..., 2 * n] -> [..., n]."""
    if bias is not None:
        raise NotImplementedError("no model family here has a bias in its feed-forward block")
    activated: torch.Tensor = _SwiGLU.apply(tensor)
    return activated


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(tensor)
        result = tensor.new_empty(*tensor.shape[:-1], tensor.size(-1) // 2)
        for gate, up, to in parts(*tensor.chunk(2, -1), result):
            torch.mul(torch.nn.functional.silu(gate), up, out=to)
        return result

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        (tensor,) = context.saved_tensors
        result = torch.empty_like(tensor)
        for gate, up, along, to_gate, to_up in parts(*tensor.chunk(2, -1), gradient, *result.chunk(2, -1)):
            torch.mul(torch.nn.functional.silu(gate), along, out=to_up)
            torch.ops.aten.silu_backward.grad_input(along * up, gate, grad_input=to_gate)
        return result


class RMSNormFunction(torch.autograd.Function):
    """``x / sqrt(mean(x²) + epsilon) * weight`` over the last dimension, computed in fp32 or better."""

    @staticmethod
    def forward(context: Any, tensor: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        wide_weight = _widened(weight)
        result = torch.empty_like(tensor, memory_format=torch.contiguous_format)
        inverse = wide_weight.new_empty(*tensor.shape[:-1], 1)
        for part, to, inverse_part in parts(tensor, result, inverse):
            wide = _widened(part)
            torch.linalg.vector_norm(wide, dim=-1, keepdim=True, out=inverse_part)
            inverse_part.square_().div_(tensor.size(-1)).add_(epsilon).rsqrt_()
            if to.dtype is wide.dtype:
                torch.mul(wide, inverse_part, out=to).mul_(weight)
            else:
                to.copy_(torch.mul(wide, inverse_part).mul_(wide_weight))
        context.save_for_backward(tensor, weight, inverse)
        return result

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        tensor, weight, inverse = context.saved_tensors
        wide_weight = _widened(weight)
        for_weight = torch.zeros_like(wide_weight)
        result = torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for part, along, to, inverse_part in parts(tensor, gradient, result, inverse):
            wide, wide_along = _widened(part), _widened(along)
            product = wide_along * wide
            for_weight.addmv_(product.flatten(0, -2).t(), inverse_part.flatten())
            slope = torch.matmul(product, wide_weight).unsqueeze_(-1)
            slope.mul_(inverse_part.pow(3)).div_(-tensor.size(-1))
            torch.mul(wide_along, wide_weight, out=product).mul_(inverse_part)
            to.copy_(product.addcmul_(wide, slope))
        return result, for_weight.to(weight.dtype), None


def cross_entropy(logits: torch.Tensor, target: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Negative log-likelihood of ``target`` [seq, batch] under ``logits`` [seq, batch, vocab], in nats and fp32.

    Gradients overwrite the logits. If tensor parallelism splits the vocabulary, Megatron-Core's own is called.
    """
    if label_smoothing or parallel_state.get_tensor_model_parallel_world_size() > 1:
        apart: torch.Tensor = vocab_parallel_cross_entropy(logits, target, label_smoothing)
        return apart
    losses: torch.Tensor = CrossEntropyFunction.apply(logits.contiguous(), target)
    return losses


class CrossEntropyFunction(torch.autograd.Function):
    """Saves the logits and two numbers per row; the backward pass recomputes the softmax.

    With ``keep_logits``, gradients do not overwrite the logits, because others read them.
    """

    @staticmethod
    def forward(context: Any, logits: torch.Tensor, target: torch.Tensor, keep_logits: bool = False) -> torch.Tensor:
        context.keep_logits = keep_logits
        rows, labels = logits.flatten(0, -2), target.flatten().unsqueeze(-1)
        largest = rows.amax(-1, keepdim=True)
        largest = _widened(largest)
        sums, chosen = torch.empty_like(largest), torch.empty_like(largest)
        for row, label, most, total, own in parts(rows, labels, largest, sums, chosen):
            shifted = torch.sub(_widened(row), most)
            torch.gather(shifted, -1, label, out=own)
            torch.sum(shifted.exp_(), -1, keepdim=True, out=total)
        context.save_for_backward(logits, labels, largest, sums)
        return sums.log().sub_(chosen).view(target.shape)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        logits, labels, largest, sums = context.saved_tensors
        result = torch.empty_like(logits) if context.keep_logits else logits
        gradients = gradient.reshape(-1, 1)
        rows, to_rows = (tensor.view(-1, tensor.size(-1)) for tensor in (logits, result))
        for row, to, label, most, factor, along in parts(rows, to_rows, labels, largest, gradients / sums, gradients):
            softmax = torch.sub(_widened(row), most).exp_().mul_(factor)
            to.copy_(softmax.scatter_add_(-1, label, -along))
        return result, None, None


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
