"""What a prompt style is: how a chain of texts and pairs becomes a prompt, and an answer becomes pairs.

The stage knows nothing else of a format: it asks a style for the prompt of each text, sends it to an engine with the
sampling that the style wants, and hands the answer back to be parsed. A chain's prompt either grows by appending ids
alone, so that what an engine has cached of it stays valid, or begins anew with each text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_ipt.inference.config import GenerationConfig
from megatron_ipt.inference.engine import Completion, Prompt
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.tokenizer import PromptTokenizer
from megatron_ipt.synthesis.pairs import Example, Pair

REPEATED = "question repeated"
"""Reason of a drop: the answer asked this before."""

_LOOP = 2
"""Repeated pairs that make a loop. One alone can be a slip, after which a model that is sampled goes on."""


@dataclass(frozen=True)
class Drop:
    """Something that did not become a pair, and why."""

    reason: str
    sample: str


@dataclass(frozen=True)
class TextPrompt:
    """What is appended to a prompt to ask about one text.

    Attributes:
        ids, text: as token ids and as a string, without the BOS that begins a prompt.
        task: what is asked, for styles with several tasks; recorded with every pair.
    """

    ids: list[int]
    text: str
    task: str = ""


@dataclass(frozen=True)
class StyleSetup:
    """What a style is made from.

    Attributes:
        tokenizer: of the generating model.
        generation: settings of the recipe.
        seed: of the recipe.
        file: of a user's prompts, if the recipe names one.
        key: the recipe key that names the style, for errors.
        chats: the engine applies the model's chat template itself, to ``Prompt.messages``; the tokenizer only counts.
    """

    tokenizer: PromptTokenizer
    generation: GenerationConfig
    seed: int
    file: Path | None = None
    key: str = "synthesis.prompt"
    chats: bool = False


class PromptStyle(ABC):
    """One format of prompts and answers.

    Args:
        tokenizer: of the generating model.
        context_length: tokens of prompt and answer together.
        max_new_tokens: tokens kept free for the answer.

    Attributes:
        name: in reports and errors.
        text_limit: most tokens of a text, as :meth:`count` counts them, that fits a prompt alone.
        wordings: instructions that the style, not the model, puts into pairs, as in a task whose answer is the response
            to a fixed instruction. That many texts share them says nothing about the model.
    """

    name: str
    text_limit: int
    wordings: frozenset[str] = frozenset()

    def __init__(self, tokenizer: PromptTokenizer, context_length: int, max_new_tokens: int):
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.prompt_limit = context_length - max_new_tokens

    @classmethod
    def make(cls, setup: StyleSetup) -> PromptStyle:
        """The style for a recipe; a subclass with other arguments overrides it."""
        return cls(setup.tokenizer, setup.generation.context_length, setup.generation.max_new_tokens)

    @classmethod
    def files(cls, tokenizer: Path | None, file: Path | None) -> list[Path]:
        """Files of the user that decide what is asked, besides the tokenizer's file: a change makes output stale.

        Args:
            tokenizer: file of the tokenizer; None where the engine applies the chat template itself.
            file: of prompts, if the recipe names one.
        """
        return []

    @abstractmethod
    def count(self, text: str) -> int:
        """Tokens of ``text`` inside a prompt."""

    @abstractmethod
    def ask(self, examples: Sequence[Example]) -> list[TextPrompt]:
        """What to append to a prompt to ask about each of ``examples``; ids are made for all at once, which is fast."""

    @abstractmethod
    def begin(self, text: TextPrompt) -> Prompt:
        """The prompt of a chain's first text."""

    @abstractmethod
    def follow(self, prompt: Prompt, answer_ids: list[int], answer: str, text: TextPrompt) -> Prompt:
        """The prompt of a chain's next text: ``prompt``, what :meth:`repeated` kept of its answer, and ``text``."""

    @abstractmethod
    def parse(self, answer: str, finished: bool, text: TextPrompt) -> tuple[list[Pair], list[Drop]]:
        """The pairs of an answer in order, and what was dropped.

        Args:
            answer: text of a completion.
            finished: False when the token limit ended it.
            text: what was asked.
        """

    @abstractmethod
    def repeated(self, completion: Completion) -> tuple[list[int], str]:
        """Ids and text of the part of an answer that the next prompt of its chain repeats; called when it has pairs."""

    def repeats(self, answer: str, text: TextPrompt) -> bool:
        """Whether an answer that is still being generated repeats its own pairs, so that more of it is of no use.

        By default, whether :meth:`parse` drops two or more pairs of it as :data:`REPEATED`.
        """
        _, drops = self.parse(answer, False, text)
        return sum(drop.reason == REPEATED for drop in drops) >= _LOOP

    def without_repeats(self, completion: Completion, text: TextPrompt) -> Completion:
        """The shortest beginning of an answer that :meth:`repeats` itself which has the same pairs."""
        pairs, _ = self.parse(completion.text, False, text)

        def has_them(beginning: str) -> bool:
            return len(self.parse(beginning, False, text)[0]) >= len(pairs)

        ids = self.shortest(completion.ids, has_them)
        return replace(completion, ids=ids, text=self.tokenizer.decode(ids))

    def shortest(self, ids: list[int], holds: Callable[[str], bool]) -> list[int]:
        """The shortest beginning of ``ids`` whose text ``holds``, as that of every longer one does."""
        lengths = range(len(ids))
        return ids[: bisect_left(lengths, True, key=lambda length: holds(self.tokenizer.decode(ids[:length])))]

    def sampling(self, defaults: Sampling, text: TextPrompt | None = None) -> Sampling:
        """How to decode the answer about ``text``, from the recipe's settings: for example with a stop string of the
        format."""
        return defaults

    def fits(self, prompt: Prompt) -> bool:
        """Whether an answer of full length still fits the context."""
        return len(prompt.ids) <= self.prompt_limit
