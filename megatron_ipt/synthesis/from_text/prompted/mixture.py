"""Several prompt styles in one run: every chain is asked in one of them, drawn by share.

The draw depends on the seed of the recipe and the id of the chain's first text alone, so it is the same in every
shard, order and process. The texts of a chain keep one style, whose prompt may grow from text to text. Texts are
divided before a style is drawn, so they are short enough for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.seeding import unit_interval
from megatron_ipt.synthesis.from_text.passages import divide_by_tokens
from megatron_ipt.synthesis.from_text.prompted.style import PromptStyle, TextPrompt
from megatron_ipt.synthesis.pairs import Chain


@dataclass(frozen=True)
class StyleShare:
    """One style of a mixture.

    Attributes:
        name: as the recipe writes it.
        style: the style.
        share: of the chains, relative to the other shares; above 0.
        sampling: of the recipe, with what the style recommends where the recipe sets nothing.
    """

    name: str
    style: PromptStyle
    share: float
    sampling: Sampling


class StyleMixture:
    """One style or several.

    Args:
        shares: at least one.
        seed: of the recipe.

    Attributes:
        shares: the styles.
        wordings: instructions that the styles put into pairs themselves, see :class:`.style.PromptStyle`.
    """

    def __init__(self, shares: Sequence[StyleShare], seed: int):
        self.shares = tuple(shares)
        self.wordings = frozenset(wording for share in shares for wording in share.style.wordings)
        self._seed = seed
        self._total = sum(share.share for share in shares)
        self._text_limit = min(share.style.text_limit for share in shares)

    @property
    def mixed(self) -> bool:
        """Whether there are several styles, so that pairs record theirs."""
        return len(self.shares) > 1

    def draw(self, chain: str) -> StyleShare:
        """The style of the chain whose first text has this id."""
        position = unit_interval(self._seed, "style", chain) * self._total
        for share in self.shares:
            position -= share.share
            if position < 0:
                return share
        return self.shares[-1]

    def divide(self, text: str) -> list[str]:
        """``text`` in passages that fit a prompt of every style; joined, they are the text."""
        return divide_by_tokens(text, self._text_limit, self._count)

    def ask(self, chains: Sequence[Chain]) -> list[tuple[StyleShare, list[TextPrompt]]]:
        """The style of every chain, and what to append to a prompt to ask about each of its texts.

        The ids of a style are made for all of its texts at once, which is fast.
        """
        drawn = [self.draw(chain.id) for chain in chains]
        prompts = {
            share.name: iter(
                share.style.ask([text for chain, by in zip(chains, drawn) if by is share for text in chain.examples])
            )
            for share in self.shares
        }
        return [(by, [next(prompts[by.name]) for _ in chain.examples]) for chain, by in zip(chains, drawn)]

    def _count(self, text: str) -> int:
        return max(share.style.count(text) for share in self.shares)
