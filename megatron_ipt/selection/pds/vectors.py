"""Points and directions in the space of parameters: one tensor, or a dict of tensors by name.

Small problems are written with a flat tensor; models come as the dict that ``torch.func.functional_call`` takes. The
solver treats both alike through these functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

Theta: TypeAlias = "torch.Tensor | dict[str, torch.Tensor]"


def combine(function: Callable[..., torch.Tensor], first: Theta, *others: Theta) -> Theta:
    """``function`` of the tensors that have the same place, for every place."""
    if isinstance(first, dict):
        return {name: function(tensor, *(other[name] for other in others)) for name, tensor in first.items()}
    return function(first, *others)


def plus(vector: Theta, scale: float, direction: Theta) -> Theta:
    """``vector + scale * direction``."""
    return combine(lambda a, b: a + scale * b, vector, direction)


def zeros_like(vector: Theta) -> Theta:
    """The origin, in the shapes of ``vector``."""
    return combine(lambda tensor: tensor.new_zeros(tensor.shape), vector)


def detached(vector: Theta) -> Theta:
    """The same numbers without their history."""
    return combine(lambda tensor: tensor.detach(), vector)


def norm(vector: Theta) -> float:
    """The Euclidean norm, summed in fp64."""
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors(vector)))


def tensors(vector: Theta) -> list[torch.Tensor]:
    """The tensors that ``vector`` consists of, in its order."""
    return list(vector.values()) if isinstance(vector, dict) else [vector]
