"""Modules that Megatron-Core's local layer spec lacks without Transformer Engine.

Its own attention materializes the scores, which is quadratic in the sequence length; torch's
``scaled_dot_product_attention`` does not, and is 1.3 to 1.7 times as fast on CPU from 1024 tokens on. Its norm does not
support sequence parallelism; ours marks its weight, so Megatron-Core sums the weight's gradient over the
tensor-parallel ranks.

Under context parallelism a rank holds two parts of each sequence; it gathers the keys and values of the others and
attends to those at earlier positions. This is simple and correct; Transformer Engine's ring overlaps communication.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_ipt.training.cpu.fused import RMSNormFunction
from megatron_ipt.training.cpu.linear import bf16_is_emulated


class TorchRMSNorm(torch.nn.RMSNorm):
    """RMSNorm with the constructor that Megatron-Core's specs expect."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any):
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype, device=torch.cuda.current_device())
        self.weight.sequence_parallel = config.sequence_parallel

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_cuda:
            normed: torch.Tensor = RMSNormFunction.apply(tensor, self.weight, self.eps)
            return normed
        return super().forward(tensor)


class TorchAttention(MegatronModule):
    """Causal core attention through ``torch.nn.functional.scaled_dot_product_attention``."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        **_: Any,
    ):
        super().__init__(config=config)
        self.softmax_scale = softmax_scale
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.context_size = parallel_state.get_context_parallel_world_size()

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> torch.Tensor:
        """Attention of this rank's heads.

        Args:
            query: [seq, batch, heads, channels].
            key, value: [all, batch, groups, channels]. Where there are more keys than queries, the first ones come from
                a cache, and the queries are those of the last positions.
            attention_mask: True where attention is forbidden, [batch, 1, seq, all]; None for plain causal.

        Returns:
            [seq, batch, heads * channels].
        """
        if packed_seq_params is not None or attention_bias is not None:
            raise NotImplementedError("packed sequences and attention bias need Transformer Engine")
        if self.context_size > 1:
            key, value, attention_mask = self._gather(query, key, value)
        elif attention_mask is None and query.size(0) != key.size(0):
            attention_mask = _after_cached(query.size(0), key.size(0), query.device)
        dtype = query.dtype
        if dtype is torch.bfloat16 and not query.is_cuda and bf16_is_emulated():
            query, key, value = query.float(), key.float(), value.float()
        context = torch.nn.functional.scaled_dot_product_attention(
            query.permute(1, 2, 0, 3),
            key.permute(1, 2, 0, 3),
            value.permute(1, 2, 0, 3),
            attn_mask=None if attention_mask is None else ~attention_mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=attention_mask is None,
            scale=self.softmax_scale,
            enable_gqa=query.size(2) != key.size(2),
        )
        return context.to(dtype).permute(2, 0, 1, 3).reshape(query.size(0), query.size(1), -1)

    def _gather(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Keys and values of the whole sequence, in rank order, and the mask [seq, all] of later positions."""
        group = parallel_state.get_context_parallel_group()
        whole = [
            gather_from_sequence_parallel_region(tensor, tensor_parallel_output_grad=True, group=group)
            for tensor in (key, value)
        ]
        positions = [
            _positions(rank, self.context_size, query.size(0), query.device) for rank in range(self.context_size)
        ]
        own = positions[parallel_state.get_context_parallel_rank()]
        return whole[0], whole[1], own[:, None] < torch.cat(positions)[None, :]


def _after_cached(queries: int, keys: int, device: torch.device) -> torch.Tensor:
    """Forbidden attention [queries, keys] of the last ``queries`` of ``keys`` positions.

    Torch's own causal mask would take them for the first ones: a single query would see nothing but the first key.
    """
    return torch.ones(queries, keys, dtype=torch.bool, device=device).triu_(keys - queries + 1)


def _positions(rank: int, ranks: int, length: int, device: torch.device) -> torch.Tensor:
    """Positions in the sequence of the ``length`` tokens on ``rank`` (see ``batches.part_of_sequence``)."""
    half = length // 2
    inside = torch.arange(half, device=device)
    return torch.cat([rank * half + inside, (2 * ranks - 1 - rank) * half + inside])
