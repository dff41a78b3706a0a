"""Groups of demonstrations, and a tree of tokens after them: structured prompting on models as transformers has them.

Each of M groups is encoded alone, at positions that end at L - 1, where L is the length of the longest: all groups are
equally near to what follows, which begins at position L. There, a token attends to all groups at once, with weights
exp(s) for their keys and M exp(s) for its own kind, the tokens after the groups (arXiv:2212.06713, section 3): without
the factor, M groups would outvote the question M to one. The factor is log M in an additive mask. With one group, this
is the plain prompt. In bf16, log M is rounded as well, to within 0.4 %.

What follows is a tree: every token names the one before it. Many questions, options of a question and beams of a search
are branches of it, so one pass computes any number of them, and the groups are read once for all. A token sees the
groups and the tokens on its way to the root, and its position is its depth; where its keys lie does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from megatron_ipt.errors import InputError
from megatron_ipt.evaluation.in_context.cache import GroupCache
from megatron_ipt.evaluation.in_context.requirements import context_length, refuse_model

ROOT = -1
"""Parent of a token that comes right after the groups."""


class Context:
    """Encoded groups with room for tokens after them.

    Args:
        model: causal language model of transformers, in evaluation mode, with attention ``sdpa`` or ``eager``.
        groups: ids of each; none for tokens without anything before them.
        room: most tokens after the groups at a time.

    Attributes:
        groups: M.
        tokens: of all groups.
        start: L, the position of the first token after the groups.
        room: as above.

    Raises:
        InputError: the model cannot be used so, a group is empty, or is longer than the model's context.
    """

    def __init__(self, model: Any, groups: Sequence[Sequence[int]], room: int):
        refuse_model(model)
        self._model = model
        self._limit = context_length(model.config)
        self.groups = len(groups)
        self.tokens = sum(map(len, groups))
        self.start = max(map(len, groups), default=0)
        self.room = room
        for number, group in enumerate(groups):
            if not len(group):
                raise InputError(f"group {number} of demonstrations is empty")
            if len(group) >= self._limit:
                raise InputError(
                    f"group {number} of demonstrations has {len(group)} tokens, but the model takes {self._limit} with "
                    "a question after them; use more groups"
                )
        self._own_weight = math.log(max(1, self.groups))
        self._cache = GroupCache(model.config.num_hidden_layers, self.tokens + room)
        self._sees = torch.zeros(room, room, dtype=torch.bool)
        self._depths: list[int] = []
        for group in groups:
            self._encode(group)
        self._cache.show_all()

    @property
    def used(self) -> int:
        """Tokens after the groups."""
        return len(self._depths)

    @torch.no_grad()
    def _encode(self, group: Sequence[int]) -> None:
        self._cache.begin_group()
        device = self._model.device
        positions = torch.arange(self.start - len(group), self.start, device=device)
        self._model(
            torch.tensor([list(group)], device=device), position_ids=positions[None], past_key_values=self._cache,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip

    def clear(self) -> None:
        """Forgets all tokens after the groups."""
        self._depths.clear()
        self._cache.cut(self.tokens)

    @torch.no_grad()
    def append(self, ids: Sequence[int], parents: Sequence[int], wanted: Sequence[int]) -> torch.Tensor:
        """Computes tokens of the tree.

        Args:
            ids: of the tokens, [tokens].
            parents: number of the token before each, counted from the first after :meth:`clear`, or ``ROOT``.
            wanted: places in ``ids`` whose logits are returned.

        Returns:
            Logits of the token after each wanted one, [wanted, vocabulary], in fp32 (fp64 for a model in fp64).

        Raises:
            InputError: there is no room, or the model's context ends.
        """
        first, last = self.used, self.used + len(ids)
        if last > self.room:
            raise InputError(f"{last} tokens after the demonstrations, but room was made for {self.room}")
        for place, parent in enumerate(parents, first):
            if not ROOT <= parent < place:
                raise InputError(f"token {place} follows token {parent}, which does not come before it")
            if parent != ROOT:
                self._sees[place] = self._sees[parent]
            else:
                self._sees[place] = False
            self._sees[place, place] = True
            self._depths.append(0 if parent == ROOT else self._depths[parent] + 1)
        positions = [self.start + depth for depth in self._depths[first:]]
        if max(positions) >= self._limit:
            raise InputError(
                f"a question begins after {self.start} tokens of demonstrations and ends at {max(positions) + 1}, but "
                f"the model's context has {self._limit}; use more groups or lower in_context.group_tokens"
            )
        device, dtype = self._model.device, self._model.dtype
        mask = torch.zeros(len(ids), self.tokens + last, dtype=dtype, device=device)
        own = self._sees[first:last, :last].to(device)
        mask[:, self.tokens :].fill_(self._own_weight).masked_fill_(~own, -math.inf)
        logits: torch.Tensor = self._model(
            torch.tensor([list(ids)], device=device), attention_mask=mask[None, None],
            position_ids=torch.tensor([positions], device=device), past_key_values=self._cache, use_cache=True,
            logits_to_keep=torch.tensor(list(wanted), dtype=torch.int64, device=device),
        ).logits[0]  # fmt: skip
        return logits if dtype in (torch.float32, torch.float64) else logits.float()

    def append_chain(self, ids: Sequence[int], parent: int = ROOT) -> torch.Tensor:
        """A token after another, the first after ``parent``; logits after the last one, [vocabulary]."""
        return self.append(ids, chain(self.used, len(ids), parent), [len(ids) - 1])[0]


def chain(first: int, length: int, parent: int = ROOT) -> list[int]:
    """Parents of ``length`` tokens numbered from ``first``, one after another, the first after ``parent``."""
    return [parent, *range(first, first + length - 1)]
