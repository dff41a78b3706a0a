"""Prompts of rows with a loss mask: what stands before the first token that is to be learned.

Each sequence of a row (a chat, an instruction) is a prompt; its own response is not used. Passes over the prompts are
shuffled one by one, by seed and number of the pass, so that any prompt of the stream is found without those before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from megatron_ipt.errors import InputError
from megatron_ipt.seeding import derive
from megatron_ipt.training.data.masked_rows import open_rows

if TYPE_CHECKING:
    from megatron_ipt.training.data.batches import TokenData
    from megatron_ipt.tuning.rows import Row


@dataclass(frozen=True)
class Prompt:
    """Attributes:
    ids: token ids.
    name: says which one it is, in this pass over the prompts; random choices are derived from it.
    """

    ids: list[int]
    name: str


class Prompts:
    """The endless stream of prompts.

    Args:
        data: what the tuning stage has written.
        seq_length: that its rows fit into.
        longest: tokens; longer prompts are left out.
        seed: of the order.

    Attributes:
        too_long: how many were left out.

    Raises:
        InputError: there are no prompts.
    """

    def __init__(self, data: TokenData, seq_length: int, longest: int, seed: int):
        self._seed = seed
        self._readers = {
            source.name: open_rows(source.path, source.loss_mask, seq_length)
            for source in data.train
            if source.loss_mask is not None
        }
        if not self._readers:
            raise InputError(
                f"{data.directory / 'dataset.json'}: lists no rows with a loss mask, so there are no prompts to "
                "continue; name the output folder of a tuning stage as `prompts`"
            )
        self.too_long = 0
        self._places: list[tuple[str, int, int, int]] = []
        for name, reader in self._readers.items():
            for index in range(len(reader)):
                for start, length in prompts_of(reader[index]):
                    self.too_long += length > longest
                    if length <= longest:
                        self._places.append((name, index, start, length))
        if not self._places:
            raise InputError(
                f"{data.directory / 'dataset.json'}: none of {self.too_long} prompts has at most {longest} tokens; "
                "raise max_prompt_tokens, or lower max_new_tokens if they do not fit into training.data.seq_length "
                "together"
            )
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        """Prompts in a pass."""
        return len(self._places)

    def at(self, positions: Sequence[int]) -> list[Prompt]:
        """The prompts at ``positions`` of the stream."""
        found = []
        for position in positions:
            number, index = divmod(position, len(self))
            source, row, start, length = self._places[self._order(number)[index]]
            ids = self._readers[source][row].ids[start : start + length]
            found.append(Prompt(ids.tolist(), f"{source}/{row}/{start}/{number}"))
        return found

    def _shuffled(self, number: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng(derive(self._seed, "prompts", number)).permutation(len(self))


def prompts_of(row: Row) -> list[tuple[int, int]]:
    """(start, length) of the prompt of each sequence in ``row``; a sequence that is all learned, or not at all, has
    none."""
    found = []
    ends = np.cumsum(row.lengths)
    for start, end in zip(ends - row.lengths, ends):
        learned = np.flatnonzero(row.mask[start:end])
        if len(learned) and learned[0] > 0:
            found.append((int(start), int(learned[0])))
    return found
