"""Rotary position embedding: Llama 3.1's scaling with all of its parameters, and a rotation for CPU.

Megatron-Core hardcodes three of the four scaling parameters; here they come from the model's shape. Its unfused
rotation recomputes sine and cosine in every layer and copies each tensor twice; the one here takes the place of
Transformer Engine's fused kernel and passes over the tensor once, in parts that fit in the cache.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.common.embeddings import rope_utils

from megatron_ipt.models.families import ModelShape
from megatron_ipt.training.cpu.fused import parts


def scale_frequencies(rotary: Any, shape: ModelShape) -> None:
    """Scales the frequencies of Megatron-Core's ``RotaryEmbedding`` as in Llama 3.1, if the shape has a factor."""
    if shape.rope_scaling_factor is None:
        return
    rotary.inv_freq = rotary._apply_scaling(
        rotary.inv_freq,
        factor=shape.rope_scaling_factor,
        low_freq_factor=shape.rope_low_freq_factor,
        high_freq_factor=shape.rope_high_freq_factor,
        original_max_position_embeddings=shape.rope_original_max_position_embeddings,
    )
    # Embeddings are cached by length, possibly from the frequencies before.
    type(rotary).forward.cache_clear()


def stand_in_for_fused_rotation() -> None:
    """Puts :func:`rotate` where Megatron-Core looks for a fused rotation; does nothing if it found one."""
    if rope_utils.fused_apply_rotary_pos_emb is None:
        rope_utils.fused_apply_rotary_pos_emb = rotate


def rotate(tensor: torch.Tensor, angles: torch.Tensor, interleaved: bool = False) -> torch.Tensor:
    """Rotates the two halves of each head's channels against each other.

    Args:
        tensor: [seq, batch, heads, channels].
        angles: [seq, 1, 1, channels], the second half as the first.
    """
    if interleaved or angles.size(-1) != tensor.size(-1):
        raise NotImplementedError("only rotation of all channels, by halves")
    rotated: torch.Tensor = _Rotation.apply(tensor, *_cosine_and_sine(angles, tensor.dtype))
    return rotated


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(cosine, sine)
        return _turn(tensor, cosine, sine, -1)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cosine, sine = context.saved_tensors
        # The gradient of a rotation is the inverse rotation.
        return _turn(gradient, cosine, sine, 1), None, None


def _turn(tensor: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, sign: int) -> torch.Tensor:
    turned = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    halves = (*tensor.chunk(2, -1), *turned.chunk(2, -1))
    for first, second, to_first, to_second, cosines, sines in parts(*halves, cosine, sine):
        torch.mul(first, cosines, out=to_first).addcmul_(second, sines, value=sign)
        torch.mul(second, cosines, out=to_second).addcmul_(first, sines, value=-sign)
    return turned


_last: tuple[torch.Tensor, torch.dtype, tuple[torch.Tensor, torch.Tensor]] | None = None


def _cosine_and_sine(angles: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of the first half of the angles; cached, because every layer passes the same tensor."""
    global _last
    if _last is None or _last[0] is not angles or _last[1] != dtype:
        half = angles[..., : angles.size(-1) // 2]
        _last = angles, dtype, (half.cos().to(dtype), half.sin().to(dtype))
    return _last[2]
