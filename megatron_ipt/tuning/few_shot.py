r"""Tuning data for the synthesizer: texts with their pairs, with exactly the token ids of a prompt at inference.

One example is BOS, the text in its markers, its pairs in theirs, EOS. Pairs and EOS are predicted, the text is not. A
row is a sequence of examples from one dataset, so that the model learns to follow the examples that it is shown. Ids
are concatenated like in :class:`.PromptFormat`: the prompt of a chain is a prefix of the row made from the same chain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.tokenizer import PromptTokenizer
from megatron_ipt.seeding import generator, unit_interval
from megatron_ipt.synthesis.from_text.prompted.marks import render_pair, render_pairs, render_text
from megatron_ipt.synthesis.from_text.prompted.parsing import distinct, parse_answer, question_key
from megatron_ipt.synthesis.from_text.prompted.prompt import PromptFormat
from megatron_ipt.synthesis.from_text.prompted.style import Drop
from megatron_ipt.synthesis.pairs import Example, Pair
from megatron_ipt.tuning.sequences import Continuation, Masked

TOO_LONG = "text longer than a row"
NO_PAIRS = "text without pairs"
CUT = "pair beyond the end of the row"

_MAXIMUM_OPTIONS = 4
_OPTION_CHARACTERS = 60


class FewShotFormat:
    """Encodes examples as ids.

    Args:
        tokenizer: tokenizer of the model to tune.
        capacity: tokens per row.

    Raises:
        RecipeError: rows are too short for a text.
    """

    def __init__(self, tokenizer: PromptTokenizer, capacity: int):
        try:
            self._prompts = PromptFormat(tokenizer, capacity, max_new_tokens=1)
        except RecipeError as error:
            raise RecipeError(f"tuning.seq_length: {capacity - 1} tokens leave no room for a text") from error
        self._tokenizer = tokenizer
        self._capacity = capacity
        self._head = [tokenizer.bos_id] if tokenizer.bos_id is not None else []
        text = render_text("")
        self._after_text = Continuation(tokenizer, text[len(text.rstrip()) :])

    def parseable(self, pairs: list[Pair]) -> tuple[list[Pair], list[Drop]]:
        """Splits pairs into those that parse back into themselves, with distinct questions, and dropped ones."""
        drops: list[Drop] = []
        return distinct(map(_if_parseable, map(self._neutralised, pairs)), drops), drops

    def encode(self, example: Example) -> tuple[Masked | None, list[Drop]]:
        """Encodes the example without the last pairs that exceed the row; None if no pair fits.

        Args:
            example: a text with pairs from :meth:`parseable`.

        Returns:
            Ids with their mask, and the dropped pairs.
        """
        text = self._prompts.encode_texts([example.text])[0]
        head = self._head + text.ids
        pairs = list(example.pairs)
        drops: list[Drop] = []
        while pairs:
            answer = self._after_text.encode(render_pairs(pairs))
            if len(head) + len(answer) + 1 <= self._capacity:
                masked = Masked([], [])
                masked.add(head, predicted=False)
                masked.add([*answer, self._tokenizer.eos_id], predicted=True)
                return masked, drops
            drops.append(Drop(CUT, pairs.pop().question))
        reason = TOO_LONG if example.pairs else NO_PAIRS
        return None, [Drop(reason, example.text)]

    def _neutralised(self, pair: Pair) -> Pair:
        clean = self._prompts.neutralise
        return pair._replace(
            question=clean(pair.question),
            answer=clean(pair.answer),
            options=tuple(map(clean, pair.options)),
            reasoning=clean(pair.reasoning),
        )


def _if_parseable(pair: Pair) -> Pair | Drop:
    found, faults = parse_answer(render_pair(pair))
    if len(found) == 1 and not faults:
        return pair
    fault = faults[0].reason if faults else "parses as several pairs"
    return Drop(fault, f"{pair.question} {pair.answer}")


def vary(example: Example, share: float, seed: int) -> Example:
    """Turns about ``share`` of the extractive questions of ``example`` into multiple choice.

    A question is extractive if it has neither options nor reasoning and its answer occurs in the text. The options are
    the answer and up to three other such answers about the same text, shuffled, none of them part of another. All
    choices depend only on the seed and the example's id.
    """
    extractive = {
        number: pair.answer for number, pair in enumerate(example.pairs) if _is_extractive(pair, example.text)
    }
    pairs = list(example.pairs)
    for number, answer in extractive.items():
        if unit_interval(seed, "multiple choice", example.id, number) >= share:
            continue
        random = generator(seed, "options", example.id, number)
        others = [other for index, other in extractive.items() if index != number]
        random.shuffle(others)
        options = [answer]
        for other in others:
            if len(options) < _MAXIMUM_OPTIONS and not any(_overlap(other, option) for option in options):
                options.append(other)
        if len(options) > 2:
            random.shuffle(options)
            pairs[number] = pairs[number]._replace(options=tuple(options))
    return replace(example, pairs=pairs)


def _is_extractive(pair: Pair, text: str) -> bool:
    plain = not pair.options and not pair.reasoning
    return plain and len(pair.answer) <= _OPTION_CHARACTERS and "\n" not in pair.answer and pair.answer in text


def _overlap(one: str, other: str) -> bool:
    one, other = question_key(one), question_key(other)
    return one in other or other in one


def training_lines(example: Example) -> Iterator[str]:
    """Lines to train a tokenizer on."""
    yield from filter(None, (render_text(example.text) + render_pairs(example.pairs)).split("\n"))
