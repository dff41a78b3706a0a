r"""Prompts in the format of the released instruction synthesizer; see :mod:`.marks` for the format.

A prompt is the earlier examples of its chain followed by ``<s> <CON> {text} </CON>\n\n``, built of ids. It grows by
appending: the generated ids of the last answer, EOS, BOS, the ids of the next text. Whatever an engine has cached of a
chain therefore stays valid, which no re-tokenized string could promise.
"""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.engine import Completion, Prompt
from megatron_ipt.inference.tokenizer import PromptTokenizer, breaking_up
from megatron_ipt.synthesis.from_text.prompted.marks import END, MARKS, render_text
from megatron_ipt.synthesis.from_text.prompted.parsing import parse_answer
from megatron_ipt.synthesis.from_text.prompted.style import Drop, PromptStyle, TextPrompt
from megatron_ipt.synthesis.pairs import Example, Pair

_LEAST_TEXT_TOKENS = 64


class PromptFormat(PromptStyle):
    """Builds prompts with one tokenizer within one context, and parses answers.

    Args:
        tokenizer: of the generating model.
        context_length: tokens of prompt and answer together.
        max_new_tokens: tokens kept free for the answer.

    Raises:
        RecipeError: the context leaves no room for a text.
    """

    name = "synthesizer"

    def __init__(self, tokenizer: PromptTokenizer, context_length: int, max_new_tokens: int):
        super().__init__(tokenizer, context_length, max_new_tokens)
        self._bos_ids = [tokenizer.bos_id] if tokenizer.bos_id is not None else []
        self._seam_ids = [tokenizer.eos_id, *self._bos_ids]
        self._seam_text = tokenizer.eos + tokenizer.bos
        self._break_up = breaking_up((*MARKS, *tokenizer.control_tokens))
        overhead = len(self._bos_ids) + len(tokenizer.encode([render_text("")])[0])
        self.text_limit = self.prompt_limit - overhead
        if self.text_limit < _LEAST_TEXT_TOKENS:
            raise RecipeError(
                f"synthesis.generation.context_length: {context_length} tokens less max_new_tokens {max_new_tokens} "
                f"and {overhead} tokens of format leave {max(self.text_limit, 0)} for a text; at least "
                f"{_LEAST_TEXT_TOKENS} are needed. Raise context_length or lower max_new_tokens."
            )

    def neutralise(self, text: str) -> str:
        """``text`` with a space inside every mark and control token that it quotes: ``<QUE>`` becomes ``< QUE>``."""
        return self._break_up(text)

    def count(self, text: str) -> int:
        return len(self.tokenizer.encode([self.neutralise(text)])[0])

    def ask(self, examples: Sequence[Example]) -> list[TextPrompt]:
        return self.encode_texts([example.text for example in examples])

    def encode_texts(self, texts: list[str]) -> list[TextPrompt]:
        """Every text in its marks, neutralised."""
        rendered = [render_text(self.neutralise(text)) for text in texts]
        return [TextPrompt(ids, text) for ids, text in zip(self.tokenizer.encode(rendered), rendered)]

    def begin(self, text: TextPrompt) -> Prompt:
        return Prompt(self._bos_ids + text.ids, text.text)

    def follow(self, prompt: Prompt, answer_ids: list[int], answer: str, text: TextPrompt) -> Prompt:
        return Prompt(
            prompt.ids + answer_ids + self._seam_ids + text.ids,
            f"{prompt.text}{answer}{self._seam_text}{text.text}",
        )

    def parse(self, answer: str, finished: bool, text: TextPrompt) -> tuple[list[Pair], list[Drop]]:
        return parse_answer(answer, finished)

    def repeated(self, completion: Completion) -> tuple[list[int], str]:
        """The answer without a beginning that never became a pair."""
        if completion.text.endswith(END):
            return completion.ids, completion.text
        return self.up_to_last_pair(completion.ids, completion.text)

    def up_to_last_pair(self, ids: list[int], text: str) -> tuple[list[int], str]:
        """An answer without what follows its last complete pair: the shortest run of its first ids that holds it."""
        end = text.rfind(END)
        if end < 0:
            return [], ""
        pairs = text.count(END)
        return self.shortest(ids, lambda beginning: beginning.count(END) >= pairs), text[: end + len(END)]
