"""Exact numbers of parameters, and how parallelism divides them among ranks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerParameters:
    """Parameters of one transformer layer.

    Attributes:
        split: divided among tensor-parallel ranks: attention and dense feed-forward.
        experts: all experts of the layer, divided among tensor- and expert-parallel ranks.
        whole: on every rank: norms and the router.
    """

    split: int
    experts: int
    whole: int

    @property
    def total(self) -> int:
        return self.split + self.experts + self.whole


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a whole model, by place.

    Attributes:
        embedding: divided among tensor-parallel ranks, on the first pipeline stage.
        layer: of each of the ``num_layers`` layers.
        final_norm: on every tensor-parallel rank of the last stage.
        output_layer: as the embedding, on the last stage; 0 where the two are tied.
        active_experts: of ``layer.experts``, those that one token passes through.
    """

    embedding: int
    layer: LayerParameters
    num_layers: int
    final_norm: int
    output_layer: int
    active_experts: int

    @property
    def total(self) -> int:
        return self.embedding + self.num_layers * self.layer.total + self.final_norm + self.output_layer

    @property
    def active(self) -> int:
        """Without the experts that a token does not pass through."""
        return self.total - self.num_layers * (self.layer.experts - self.active_experts)
