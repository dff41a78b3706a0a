"""A custom prompt style: plain text for a base model that was tuned on no format, with one example in front.

    synthesis:
      engine: transformers
      prompt: examples/extensions/plain_questions.py:PlainQuestions

A prompt is an example text with its questions, then the text; the answer is read as lines of "Q:" and "A:" up to the
stop string that the style asks for, the beginning of a further text.
"""

import re
from dataclasses import replace

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.engine import Prompt
from megatron_ipt.inference.tokenizer import breaking_up
from megatron_ipt.synthesis.from_text.prompted.style import Drop, PromptStyle, TextPrompt
from megatron_ipt.synthesis.pairs import Pair

EXAMPLE = """Text: Bees dance to tell their sisters where clover is in bloom.

Q: Why do bees dance?
A: To tell their sisters where clover is in bloom.
"""
NEXT_TEXT = "\nText:"
_PAIR = re.compile(r"Q:(?P<question>.*?)\nA:(?P<answer>.*)", re.DOTALL)


class PlainQuestions(PromptStyle):
    """Questions and answers as a reader would write them down."""

    name = "plain questions"

    def __init__(self, tokenizer, context_length, max_new_tokens):
        super().__init__(tokenizer, context_length, max_new_tokens)
        # A text that quotes "</s>" must not end the prompt.
        self._quoted = breaking_up(tokenizer.control_tokens)
        self._head = [tokenizer.bos_id] if tokenizer.bos_id is not None else []
        self._head += tokenizer.encode([EXAMPLE])[0]
        self.text_limit = self.prompt_limit - len(self._head) - len(tokenizer.encode([self._render("")])[0])
        if self.text_limit < 64:
            raise RecipeError("synthesis.generation.context_length: leaves no room for a text after the example")

    def count(self, text):
        return len(self.tokenizer.encode([self._quoted(text)])[0])

    def ask(self, examples):
        rendered = [self._render(example.text) for example in examples]
        return [TextPrompt(ids, text) for ids, text in zip(self.tokenizer.encode(rendered), rendered)]

    def begin(self, text):
        return Prompt(self._head + text.ids, EXAMPLE + text.text)

    def follow(self, prompt, answer_ids, answer, text):
        return Prompt(prompt.ids + answer_ids + text.ids, prompt.text + answer + text.text)

    def sampling(self, defaults, text=None):
        # Stops where the model would invent a text of its own.
        return replace(defaults, stop=(*defaults.stop, NEXT_TEXT))

    def parse(self, answer, finished, text):
        pairs, drops = [], []
        # The prompt ends with the first "Q:".
        for part in re.split(r"\n(?=Q:)", f"Q:{answer}".strip()):
            found = _PAIR.fullmatch(part)
            if found and found["question"].strip() and found["answer"].strip():
                pairs.append(Pair(found["question"].strip(), found["answer"].strip()))
            else:
                drops.append(Drop("without a question and an answer", part))
        if pairs and not finished:
            # Its last answer may be cut off in the middle.
            drops.append(Drop("cut off by the token limit", pairs.pop().question))
        return pairs, drops

    def repeated(self, completion):
        return completion.ids, completion.text

    def _render(self, text):
        return f"{NEXT_TEXT} {self._quoted(text).strip()}\n\nQ:"
