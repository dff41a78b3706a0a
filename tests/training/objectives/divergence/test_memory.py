from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core", reason="training needs Megatron-Core")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from megatron_ipt.training.cpu.fused import PART  # noqa: E402
from megatron_ipt.training.objectives import divergence as d  # noqa: E402
from megatron_ipt.training.objectives.divergence import kinds  # noqa: E402

POSITIONS, VOCABULARY = 700, 1500


class Allocations(TorchDispatchMode):
    """Bytes of every storage that an operation returns for the first time."""

    def __init__(self, *known: torch.Tensor):
        super().__init__()
        self.seen = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.sizes: list[int] = []
        self.kept: list[torch.Tensor] = []

    def __torch_dispatch__(self, function: Any, kinds: Any, arguments: Any = (), options: Any = None) -> Any:
        returned = function(*arguments, **(options or {}))
        for tensor in tree_leaves(returned):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.seen:
                self.seen.add(tensor.untyped_storage().data_ptr())
                self.sizes.append(tensor.untyped_storage().nbytes())
                # Otherwise its place could be given to another one.
                self.kept.append(tensor)
        return returned


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_no_second_tensor_of_the_size_of_the_logits(dtype: torch.dtype, temperature: float) -> None:
    """Parts in the forward pass; in the backward pass the gradient, in the precision of the logits, and parts."""
    student, teacher = (torch.randn(7, POSITIONS // 7, VOCABULARY).to(dtype) for _ in range(2))
    student.requires_grad_()
    for kind in (kinds.FORWARD_KL, kinds.jensen_shannon(0.5), kinds.skewed_reverse(0.1)):
        with Allocations(student, teacher) as forward:
            values, _ = d.divergence_with_comparison(kind, student, teacher, VOCABULARY, temperature=temperature)
            total = values.sum()
        with Allocations(student, teacher, *forward.kept) as backward:
            total.backward()
        assert max(forward.sizes) <= 4 * PART
        *others, gradient = sorted(backward.sizes)
        assert gradient == student.numel() * student.element_size() and max(others) <= 4 * PART
        student.grad = None
