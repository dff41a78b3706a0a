"""The product with a weight matrix on CPU, which takes 70 % of a step.

Megatron-Core adds each weight's gradient to the gradient buffer in a separate pass, because the kernel that does both
at once is Apex's and needs a GPU; here the product is accumulated in the buffer directly. And on processors without
bf16 instructions, a bf16 product takes four to five times as long as an fp32 one. There, operands are converted to
fp32, multiplied, and the result is rounded once: the arithmetic of bf16 units, with products and sums in fp32. The
converted copies live in scratch memory that is reused, at most one fp32 tensor of the largest size for each operand.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    layers,
)


def stand_in_for_linear() -> None:
    """Puts :func:`linear` where Megatron-Core's parallel layers call their own."""
    layers.linear_with_grad_accumulation_and_async_allreduce = linear


@functools.cache
def bf16_is_emulated() -> bool:
    """Whether this processor lacks instructions for bf16 products; False if torch cannot tell."""
    tell = getattr(torch.cpu, "get_capabilities", None)
    if tell is None:
        return False
    found = tell()
    if found.get("architecture") != "x86_64":
        return False
    return not any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "avx10_2"))


def linear(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    gradient_accumulation_fusion: bool,
    allreduce_dgrad: bool,
    sequence_parallel: bool,
    grad_output_buffer: Any = None,
    wgrad_deferral_limit: Any = None,
    async_grad_allreduce: Any = None,
    tp_group: Any = None,
) -> torch.Tensor:
    """``input`` [seq, batch, in] times the transpose of ``weight`` [out, in]; called as Megatron-Core's own function.

    Under sequence parallelism the input is gathered along the sequence first, and the gradient scattered.
    """
    if sequence_parallel:
        input = gather_from_sequence_parallel_region(input, tensor_parallel_output_grad=True, group=tp_group)
    elif allreduce_dgrad:
        input = copy_to_tensor_model_parallel_region(input, group=tp_group)
    product: torch.Tensor = _Linear.apply(input, weight)
    return product if bias is None else product + bias


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(tensor, weight)
        context.main_grad = getattr(weight, "main_grad", None)
        # The result must not be a view, because hooks write into it.
        result = tensor.new_empty(*tensor.shape[:-1], weight.size(0))
        rows, to = tensor.flatten(0, -2), result.view(-1, weight.size(0))
        if _is_widened(tensor):
            to.copy_(_product(_wide(rows, 0), _wide(weight, 1).t()))
        else:
            torch.mm(rows, weight.t(), out=to)
        return result

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        tensor, weight = context.saved_tensors
        rows, inputs = gradient.flatten(0, -2), tensor.flatten(0, -2)
        widened = _is_widened(tensor)
        if widened:
            rows = _wide(rows, 0)
        for_tensor = for_weight = None
        if context.needs_input_grad[0]:
            for_tensor = _product(rows, _wide(weight, 1)) if widened else torch.mm(rows, weight)
            for_tensor = for_tensor.to(tensor.dtype).view_as(tensor)
        if context.needs_input_grad[1]:
            for_weight = _weight_gradient(rows, _wide(inputs, 1) if widened else inputs, weight, context.main_grad)
        return for_tensor, for_weight


def _weight_gradient(
    rows: torch.Tensor, inputs: torch.Tensor, weight: torch.Tensor, main_grad: torch.Tensor | None
) -> torch.Tensor:
    """The gradient, or, if it is accumulated in ``main_grad``, memory that is never read: the hook of the gradient
    buffer expects a tensor, and ``grad_added_to_main_grad`` tells it to ignore it."""
    # If two layers share a weight (``zero_out_wgrad``), autograd adds up their gradients.
    if main_grad is None or main_grad.dtype != rows.dtype or getattr(weight, "zero_out_wgrad", False):
        return torch.mm(rows.t(), inputs).to(weight.dtype)
    main_grad.addmm_(rows.t(), inputs)
    weight.grad_added_to_main_grad = True
    return torch.empty_like(weight)


def _is_widened(tensor: torch.Tensor) -> bool:
    return tensor.dtype is torch.bfloat16 and bf16_is_emulated()


_scratch: dict[int, torch.Tensor] = {}


def _kept(shape: tuple[int, ...], place: int) -> torch.Tensor:
    """Uninitialized fp32 memory of ``shape``, reused, because new memory costs a page fault for every 4 KiB."""
    size = shape[0] * shape[1]
    if place not in _scratch or _scratch[place].numel() < size:
        with torch.inference_mode(False):
            _scratch[place] = torch.empty(size, dtype=torch.float32)
    return _scratch[place][:size].view(shape)


def _wide(tensor: torch.Tensor, place: int) -> torch.Tensor:
    return _kept(tuple(tensor.shape), place).copy_(tensor)


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return torch.mm(left, right, out=_kept((left.size(0), right.size(1)), 2))
