"""Prompt style ``chat``: tasks for any chat model, in the model's own chat template, rendered to token ids.

Each text is asked about on its own, with one task drawn for it by weight from (seed, id of the text). Chat models copy
what they wrote before, and templates rewrite earlier turns, so a chain's earlier answers are not repeated in the
prompt; what the texts of a task share, its instructions and examples, comes first and stays in the engine's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.inference.chat_template import (
    ChatTemplate,
    TemplateRejection,
    compile_template,
    published_template,
    template_encoder,
)
from megatron_ipt.inference.engine import Completion, Prompt
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.synthesis.from_text.prompted.chat.answers import pair_of_text, pairs_of_records
from megatron_ipt.synthesis.from_text.prompted.chat.tasks import BUILT_IN, PAIRS, Task, Tasks, read_tasks
from megatron_ipt.synthesis.from_text.prompted.marks import breaking_up
from megatron_ipt.synthesis.from_text.prompted.style import Drop, PromptStyle, StyleSetup, TextPrompt
from megatron_ipt.synthesis.pairs import Example, Pair

_LEAST_TEXT_TOKENS = 64
_SEAM_TOKENS = 4
"""By which the tokens of a text may grow where it meets the words around it."""
_WORD = "megatron"


@dataclass(frozen=True)
class ChatText(TextPrompt):
    """The whole prompt of one text: its task, and the instruction that a response answers in the corpus."""

    chosen: Task | None = None
    question: str = ""


class ChatStyle(PromptStyle):
    """See the module.

    Args:
        setup: what every style is made from; the chat template is in the folder of its tokenizer.
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
        folder = _folder_of(self.tokenizer.path, setup.key)
        self._template = open_template(folder, setup.key, self._tasks)
        self._encoder = template_encoder(folder)
        self._break_up = breaking_up(self.tokenizer.control_tokens)
        self._system = self._takes_system(setup.key)
        # Servers that take strings add BOS only where the tokenizer does.
        added = self._encoder.encode("").ids[:1]
        self._bos = self.tokenizer.bos if added == [self.tokenizer.bos_id] else ""
        self._stop_ids = self._turn_end()
        prompts = [self._encode([self._render(task, "")])[0] for task in self._tasks.tasks]
        overhead = max(map(len, prompts)) + _SEAM_TOKENS
        self.text_limit = self.prompt_limit - overhead
        if self.text_limit < _LEAST_TEXT_TOKENS:
            raise RecipeError(
                f"synthesis.generation.context_length: {generation.context_length} tokens less max_new_tokens "
                f"{generation.max_new_tokens} and {overhead} tokens of instructions leave {max(self.text_limit, 0)} "
                f"for a text; at least {_LEAST_TEXT_TOKENS} are needed. Raise context_length or lower max_new_tokens."
            )

    @classmethod
    def make(cls, setup: StyleSetup) -> ChatStyle:
        return cls(setup)

    @classmethod
    def files(cls, tokenizer: Path, file: Path | None) -> list[Path]:
        key = StyleSetup.key
        template = Path(published_template(_folder_of(tokenizer, key), key, _advice(key))[1])
        return [*([file] if file else []), template]

    def count(self, text: str) -> int:
        return len(self._encode([self._break_up(text)])[0])

    def ask(self, examples: Sequence[Example]) -> list[TextPrompt]:
        drawn = [self._tasks.draw(self._seed, example.id) for example in examples]
        rendered = [self._render(task, example.text) for task, example in zip(drawn, examples)]
        return [
            ChatText(ids, text.removeprefix(self._bos), task.name, task, task.wording(self._seed, example.id))
            for ids, text, task, example in zip(self._encode(rendered), rendered, drawn, examples)
        ]

    def begin(self, text: TextPrompt) -> Prompt:
        return Prompt(text.ids, text.text)

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
            known = replace(defaults, **recommended, stop_ids=self._stop_ids, json_schema=task.schema())
            self._sampling[task.name, defaults] = known
        return known

    def _render(self, task: Task, text: str) -> str:
        messages = []
        for example in task.examples:
            messages += [_message("user", task.request(example.text)), _message("assistant", example.answer)]
        messages.append(_message("user", task.request(self._break_up(text.strip()))))
        if task.system and self._system:
            messages.insert(0, _message("system", task.system))
        elif task.system:
            messages[0] = _message("user", f"{task.system}\n\n{messages[0]['content']}")
        return self._template.render(messages, add_generation_prompt=True)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._encoder.encode_batch_fast(texts, add_special_tokens=False)]

    def _takes_system(self, key: str) -> bool:
        """Whether the template knows system messages; some reject them, and some leave them out.

        Raises:
            InputError: it fails on the simplest chat, or leaves out what the user says.
        """
        user = _message("user", _WORD)
        try:
            if _WORD not in self._template.render([user], True):
                raise InputError(f"{key}: {self._template.name}: the chat template leaves out the user's message")
            for task in self._tasks.tasks:
                turns = [_message("assistant", _WORD), user] if task.examples else []
                self._template.render([user, *turns], True)
        except TemplateRejection as error:
            raise InputError(f"{key}: {self._template.name}: the chat template fails: {error}") from error
        try:
            return _WORD in self._template.render([_message("system", _WORD), _message("user", "?")], True)
        except TemplateRejection:
            return False

    def _turn_end(self) -> tuple[int, ...]:
        """The control token after a message of the assistant, where it is not EOS: it ends an answer as well."""
        try:
            text = self._template.render([_message("user", "?"), _message("assistant", _WORD)], False)
        except TemplateRejection:
            return ()
        ids = self._encode([text.rpartition(_WORD)[2].strip()])[0]
        control = ids and self._encoder.id_to_token(ids[0]) in self.tokenizer.control_tokens
        return (ids[0],) if control and ids[0] not in (self.tokenizer.eos_id, self.tokenizer.bos_id) else ()


def open_template(folder: Path, key: str, tasks: Tasks) -> ChatTemplate:
    """The chat template of the tokenizer in ``folder``.

    Raises:
        InputError: there is none, or it is not valid.
    """
    source, name = published_template(folder, key, _advice(key))
    return compile_template(source, name, folder, key, "synthesis", tasks.variables)


def _advice(key: str) -> str:
    return f"use an instruction-tuned model, or set {key} to synthesizer for a model tuned on its format"


def _folder_of(tokenizer: Path, key: str) -> Path:
    if tokenizer.suffix != ".json":
        raise InputError(
            f"{key}: chat templates need a folder with tokenizer.json and tokenizer_config.json; found {tokenizer}"
        )
    return tokenizer.parent


def _message(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}
