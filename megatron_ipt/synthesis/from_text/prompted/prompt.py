r"""Prompts in the exact format that the released instruction synthesizer was tuned on (arXiv:2406.14491).

One example is ``<s> <CON> {text} </CON>``, a blank line, the pairs ``<QUE> {question} <ANS> {answer} </END>`` joined
by blank lines, and ``</s>``. A prompt is the earlier examples of its chain followed by ``<s> <CON> {text}
</CON>\n\n``. The marks are plain text, ``<s>`` and ``</s>`` are the control ids.

A prompt is built of ids. It grows by appending: the generated ids of the last answer, EOS, BOS, the ids of the next
text. Whatever an engine has cached of a chain therefore stays valid, which no re-tokenized string could promise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.tokenizer import PromptTokenizer
from megatron_ipt.synthesis.pairs import Pair

TEXT_OPEN, TEXT_CLOSE, QUESTION, ANSWER, END = MARKS = ("<CON>", "</CON>", "<QUE>", "<ANS>", "</END>")
OPTIONS_OPEN = "\nOptions:\n"
OPTION_OPEN = "- "
REASONING_REQUEST = "\nLet's think step by step."
CONCLUSION = "\nTherefore, the answer is "

_LEAST_TEXT_TOKENS = 64


@dataclass(frozen=True)
class TextPrompt:
    """One text in its marks: ids and the same as a string; neither begins with BOS."""

    ids: list[int]
    text: str


@dataclass(frozen=True)
class Prompt:
    """What an engine is asked to continue.

    Attributes:
        ids: with BOS.
        text: the same for engines that take only strings: control tokens written out, without the first BOS, which
            such engines add.
    """

    ids: list[int]
    text: str


def render_text(text: str) -> str:
    """The text in its marks, as it follows BOS."""
    return f" {TEXT_OPEN} {text.strip()} {TEXT_CLOSE}\n\n"


def render_pair(pair: Pair) -> str:
    """The pair as the synthesizer writes it."""
    question, answer = pair.question, pair.answer
    if pair.options:
        question += OPTIONS_OPEN + "\n".join(OPTION_OPEN + option for option in pair.options)
    if pair.reasoning:
        question += REASONING_REQUEST
        answer = pair.reasoning + CONCLUSION + answer
    return f"{QUESTION} {question} {ANSWER} {answer} {END}"


def render_pairs(pairs: list[Pair]) -> str:
    """What the synthesizer writes after a text."""
    return "\n\n".join(map(render_pair, pairs))


def breaking_up(marks: Iterable[str]) -> Callable[[str], str]:
    """A function that puts a blank inside every one of ``marks`` in a text: ``<QUE>`` becomes ``< QUE>``."""
    # A control token of one character cannot be broken up; as ids it is text anyway.
    longest_first = sorted({mark for mark in marks if len(mark) > 1}, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
    return lambda text: pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


class PromptFormat:
    """Builds prompts with one tokenizer within one context.

    Args:
        tokenizer: of the generating model.
        context_length: tokens of prompt and answer together.
        max_new_tokens: tokens kept free for the answer.

    Raises:
        RecipeError: the context leaves no room for a text.
    """

    def __init__(self, tokenizer: PromptTokenizer, context_length: int, max_new_tokens: int):
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.prompt_limit = context_length - max_new_tokens
        self._bos_ids = [tokenizer.bos_id] if tokenizer.bos_id is not None else []
        self._seam_ids = [tokenizer.eos_id, *self._bos_ids]
        self._seam_text = tokenizer.eos + tokenizer.bos
        self._break_up = breaking_up((*MARKS, *tokenizer.control_tokens))
        overhead = len(self._bos_ids) + len(tokenizer.encode([render_text("")])[0])
        self.text_limit = self.prompt_limit - overhead
        """Tokens of a text that fits a prompt alone."""
        if self.text_limit < _LEAST_TEXT_TOKENS:
            raise RecipeError(
                f"synthesis.generation.context_length: {context_length} tokens less max_new_tokens {max_new_tokens} "
                f"and {overhead} tokens of format leave {max(self.text_limit, 0)} for a text; at least "
                f"{_LEAST_TEXT_TOKENS} are needed. Raise context_length or lower max_new_tokens."
            )

    def neutralise(self, text: str) -> str:
        """``text`` with a blank inside every mark and control token that it quotes: ``<QUE>`` becomes ``< QUE>``."""
        return self._break_up(text)

    def count(self, text: str) -> int:
        """Tokens of ``text`` inside a prompt."""
        return len(self.tokenizer.encode([self.neutralise(text)])[0])

    def encode_texts(self, texts: list[str]) -> list[TextPrompt]:
        """Every text in its marks, neutralised."""
        rendered = [render_text(self.neutralise(text)) for text in texts]
        return [TextPrompt(ids, text) for ids, text in zip(self.tokenizer.encode(rendered), rendered)]

    def begin(self, text: TextPrompt) -> Prompt:
        """The prompt of a chain's first text."""
        return Prompt(self._bos_ids + text.ids, text.text)

    def follow(self, prompt: Prompt, answer_ids: list[int], answer: str, text: TextPrompt) -> Prompt:
        """The prompt of the next text: ``prompt``, its answer (without EOS) and ``text``."""
        return Prompt(
            prompt.ids + answer_ids + self._seam_ids + text.ids,
            f"{prompt.text}{answer}{self._seam_text}{text.text}",
        )

    def fits(self, prompt: Prompt) -> bool:
        """Whether an answer of full length still fits the context."""
        return len(prompt.ids) <= self.prompt_limit

    def up_to_last_pair(self, ids: list[int], text: str) -> tuple[list[int], str]:
        """An answer without what follows its last complete pair: the shortest run of its first ids that holds it."""
        end = text.rfind(END)
        if end < 0:
            return [], ""
        pairs = text.count(END)
        low, high = 0, len(ids)
        while low < high:
            middle = (low + high) // 2
            if self.tokenizer.decode(ids[:middle]).count(END) >= pairs:
                high = middle
            else:
                low = middle + 1
        return ids[:low], text[: end + len(END)]
