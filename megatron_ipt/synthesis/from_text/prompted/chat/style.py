"""Prompt style ``chat``: tasks for any chat model, in the model's own chat template, applied here or by the server.

Each text is asked about on its own, with one task drawn for it by weight from (seed, id of the text). Chat models copy
what they wrote before, and templates rewrite earlier turns, so a chain's earlier answers are not repeated in the
prompt; what the texts of a task share, its instructions and examples, comes first and stays in the engine's cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.chat_template import Message
from megatron_ipt.inference.engine import Completion, Prompt
from megatron_ipt.inference.rendering import (
    Messages,
    Rendered,
    Rendering,
    Wanted,
    joined,
    message,
    template_file,
)
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.synthesis.from_text.prompted.chat.answers import pair_of_text, pairs_of_records
from megatron_ipt.synthesis.from_text.prompted.chat.tasks import BUILT_IN, PAIRS, Task, Tasks, read_tasks
from megatron_ipt.synthesis.from_text.prompted.style import Drop, PromptStyle, StyleSetup, TextPrompt
from megatron_ipt.synthesis.pairs import Example, Pair

_WANTED = Wanted(
    StyleSetup.key,
    "synthesis",
    f"use an instruction-tuned model, or set {StyleSetup.key} to synthesizer for a model tuned on its format",
)
_LEAST_TEXT_TOKENS = 64
_SEAM_TOKENS = 4
"""By which the tokens of a text may grow where it meets the words around it."""


@dataclass(frozen=True)
class ChatText(TextPrompt):
    """The whole prompt of one text: its task, the instruction that a response answers in the corpus, and the chat."""

    chosen: Task | None = None
    question: str = ""
    messages: tuple[Message, ...] = ()
    template_variables: Mapping[str, Any] = field(default_factory=dict)


class ChatStyle(PromptStyle):
    """See the module.

    Args:
        setup: what every style is made from; the chat template is in the folder of its tokenizer, unless the engine
            applies it.
        tasks: what to ask; by default those of the file that the recipe names, or the built-in ones.

    Raises:
        InputError: the model has no chat template or no tokenizer.json, or the template fails.
        RecipeError: the file of tasks is not valid, or the context leaves no room for a text.
    """

    name = "chat"

    def __init__(self, setup: StyleSetup, tasks: Tasks | None = None):
        generation = setup.generation
        super().__init__(setup.tokenizer, generation.context_length, generation.max_new_tokens)
        self._seed = setup.seed
        self._tasks = tasks or read_tasks(setup.file or BUILT_IN)
        self.wordings = frozenset(wording for task in self._tasks.tasks for wording in task.questions)
        self._unset = frozenset(name for name in vars(generation) if getattr(generation, name) is None)
        self._sampling: dict[tuple[str, Sampling], Sampling] = {}
        self._rendering = self._rendering_of(setup)
        self.prompt_limit -= self._rendering.extra_tokens
        empty = self._rendering.prompts([self._chat(task, "") for task in self._tasks.tasks])
        overhead = max(len(prompt.ids) for prompt in empty) + _SEAM_TOKENS
        self.text_limit = self.prompt_limit - overhead
        if self.text_limit < _LEAST_TEXT_TOKENS:
            overhead += self._rendering.extra_tokens
            raise RecipeError(
                f"synthesis.generation.context_length: {generation.context_length} tokens less max_new_tokens "
                f"{generation.max_new_tokens} and {overhead} tokens of instructions leave {max(self.text_limit, 0)} "
                f"for a text; at least {_LEAST_TEXT_TOKENS} are needed. Raise context_length or lower max_new_tokens."
            )

    @classmethod
    def make(cls, setup: StyleSetup) -> ChatStyle:
        return cls(setup)

    @classmethod
    def files(cls, tokenizer: Path | None, file: Path | None) -> list[Path]:
        return [*([file] if file else []), *([template_file(tokenizer, _WANTED)] if tokenizer else [])]

    def count(self, text: str) -> int:
        return self._rendering.count(text)

    def ask(self, examples: Sequence[Example]) -> list[TextPrompt]:
        drawn = [self._tasks.draw(self._seed, example.id) for example in examples]
        prompts = self._rendering.prompts([self._chat(task, example.text) for task, example in zip(drawn, examples)])
        return [
            ChatText(
                prompt.ids, prompt.text, task.name, task, task.wording(self._seed, example.id),
                prompt.messages, prompt.template_variables,
            )
            for prompt, task, example in zip(prompts, drawn, examples)
        ]  # fmt: skip

    def begin(self, text: TextPrompt) -> Prompt:
        assert isinstance(text, ChatText)
        return Prompt(text.ids, text.text, text.messages, text.template_variables)

    def follow(self, prompt: Prompt, answer_ids: list[int], answer: str, text: TextPrompt) -> Prompt:
        """The prompt of the text alone; see the module."""
        return self.begin(text)

    def parse(self, answer: str, finished: bool, text: TextPrompt) -> tuple[list[Pair], list[Drop]]:
        assert isinstance(text, ChatText) and text.chosen is not None
        if text.chosen.answer == PAIRS:
            shown = [pair for example in text.chosen.examples for pair in example.pairs]
            return pairs_of_records(answer, finished, shown)
        return pair_of_text(answer, finished, text.question)

    def repeated(self, completion: Completion) -> tuple[list[int], str]:
        return [], ""

    def sampling(self, defaults: Sampling, text: TextPrompt | None = None) -> Sampling:
        """What the task recommends, where the recipe does not say."""
        assert isinstance(text, ChatText) and text.chosen is not None
        task = text.chosen
        known = self._sampling.get((task.name, defaults))
        if known is None:
            recommended = {name: value for name, value in task.sampling.items() if name in self._unset}
            known = replace(defaults, **recommended, stop_ids=self._rendering.stop_ids, json_schema=task.schema())
            self._sampling[task.name, defaults] = known
        return known

    def _rendering_of(self, setup: StyleSetup) -> Rendering:
        examples = max(len(task.examples) for task in self._tasks.tasks)
        if setup.chats:
            return Messages(self.tokenizer, self._tasks.variables, 2 + 2 * examples)
        return Rendered(self.tokenizer, self._tasks.variables, examples > 0, replace(_WANTED, key=setup.key))

    def _chat(self, task: Task, text: str) -> tuple[Message, ...]:
        """The messages that ask ``task`` about ``text``."""
        chat: list[Message] = []
        for example in task.examples:
            chat += [message("user", task.request(example.text)), message("assistant", example.answer)]
        chat.append(message("user", task.request(self._rendering.neutralise(text.strip()))))
        return joined(task.system, chat, self._rendering)
