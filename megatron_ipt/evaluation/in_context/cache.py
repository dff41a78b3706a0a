"""Keys and values of the groups and of the tokens after them, in one buffer per layer.

transformers' own cache would be copied as a whole with every forward pass. Here room for the tokens after the groups is
set aside at once, and what a pass adds is written there. While a group is encoded, the cache shows nothing but that
group, so that a plain causal pass is all it takes.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class _Layer(CacheLayerMixin):
    """One layer: ``[1, heads, capacity, width]``, of which ``[first, end)`` is shown."""

    is_sliding = False

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity = capacity
        self.first = 0
        self.end = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys = key_states.new_empty(1, key_states.shape[1], self.capacity, key_states.shape[3])
        self.values = value_states.new_empty(1, value_states.shape[1], self.capacity, value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        start, self.end = self.end, self.end + key_states.shape[2]
        self.keys[:, :, start : self.end] = key_states
        self.values[:, :, start : self.end] = value_states
        return self.keys[:, :, self.first : self.end], self.values[:, :, self.first : self.end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self.end - self.first

    def get_max_length(self) -> int:
        return self.capacity


class GroupCache(Cache):
    """The cache that is handed to the model.

    Args:
        layers: number of layers of the model.
        capacity: tokens of all groups, and most tokens after them.
    """

    def __init__(self, layers: int, capacity: int):
        self._own = [_Layer(capacity) for _ in range(layers)]
        super().__init__(layers=list(self._own))

    def begin_group(self) -> None:
        """What comes next sees nothing of what is there."""
        for layer in self._own:
            layer.first = layer.end

    def show_all(self) -> None:
        """What comes next may see everything."""
        for layer in self._own:
            layer.first = 0

    def cut(self, tokens: int) -> None:
        """Forgets all but the first ``tokens``."""
        for layer in self._own:
            layer.end = tokens
