"""How a chat becomes a prompt: rendered here by the model's own template, or left to the engine as messages.

Both count tokens in the same way, so that the style need not know which one it has: what a prompt has besides the words
of its messages is counted exactly with a template, and allowed for generously without one.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.errors import InputError
from megatron_ipt.inference.chat_template import (
    ChatTemplate,
    Message,
    TemplateRejection,
    compile_template,
    published_template,
    template_encoder,
)
from megatron_ipt.inference.engine import Prompt
from megatron_ipt.inference.tokenizer import PromptTokenizer, breaking_up

Chat = Sequence[Message]

_WORD = "megatron"
_TEMPLATE_TOKENS = 96
"""Allowed for what a template adds to a chat: marks, a default system message, a date."""
_MESSAGE_TOKENS = 12
"""The same for each message."""
_CONTROL_TOKEN = re.compile(
    r"<[|｜][^<>|｜\s]{1,40}[|｜]>|</?s>|\[/?(?:INST|SYSTEM_PROMPT)\]|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
)
"""Control tokens of the common families, for models whose tokenizer is not at hand."""


@dataclass(frozen=True)
class Wanted:
    """Who wants the chat template of a model, for errors.

    Attributes:
        key: recipe key that makes it necessary.
        extra: of the package that installs what templates need.
        advice: what to do where the model has none.
    """

    key: str
    extra: str
    advice: str = "use an instruction-tuned model"


class Rendering(ABC):
    """Makes prompts of chats.

    Attributes:
        extra_tokens: allowed for in the context besides the ids of a prompt.
        stop_ids: control tokens, besides EOS, that end an answer.
        system: whether a chat may begin with a system message.
    """

    extra_tokens = 0
    stop_ids: tuple[int, ...] = ()
    system = True

    @abstractmethod
    def prompts(self, chats: Sequence[Chat]) -> list[Prompt]:
        """The prompt of each chat, up to where the assistant answers."""

    @abstractmethod
    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of texts as they stand in a prompt."""

    @abstractmethod
    def neutralise(self, text: str) -> str:
        """``text`` with a space inside every control token that it quotes."""

    def count(self, text: str) -> int:
        """Tokens of ``text`` inside a message."""
        return len(self._encode([self.neutralise(text)])[0])


class Messages(Rendering):
    """For engines that apply the template themselves: the ids of a prompt only stand for its length.

    Args:
        tokenizer: counts.
        variables: of the template, for the engine.
        most_messages: of a chat.
    """

    def __init__(self, tokenizer: PromptTokenizer, variables: Mapping[str, Any], most_messages: int):
        self._tokenizer = tokenizer
        self._variables = variables
        self._break_up = breaking_up(tokenizer.control_tokens)
        self.extra_tokens = _TEMPLATE_TOKENS + _MESSAGE_TOKENS * most_messages

    def prompts(self, chats: Sequence[Chat]) -> list[Prompt]:
        texts = ["\n\n".join(message["content"] for message in chat) for chat in chats]
        return [
            Prompt(ids, text, tuple(chat), self._variables)
            for ids, text, chat in zip(self._encode(texts), texts, chats)
        ]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return self._tokenizer.encode(texts)

    def neutralise(self, text: str) -> str:
        return _CONTROL_TOKEN.sub(lambda match: f"{match[0][0]} {match[0][1:]}", self._break_up(text))


class Rendered(Rendering):
    """By the chat template in the folder of the tokenizer.

    Args:
        tokenizer: of the model.
        variables: of the template.
        examples: whether chats begin with earlier turns.
        wanted: by whom.

    Raises:
        InputError: the model has no chat template or no tokenizer.json, or the template fails.
    """

    def __init__(self, tokenizer: PromptTokenizer, variables: Mapping[str, Any], examples: bool, wanted: Wanted):
        key = wanted.key
        folder = folder_of(tokenizer.path, key)
        self._tokenizer = tokenizer
        self._template = open_template(folder, wanted, variables)
        self._encoder = template_encoder(folder)
        self._variables = variables
        self._break_up = breaking_up(tokenizer.control_tokens)
        self.system = self._takes_system(examples, key)
        # Servers that take strings add BOS only where the tokenizer does.
        added = self._encoder.encode("").ids[:1]
        self._bos = tokenizer.bos if added == [tokenizer.bos_id] else ""
        self.stop_ids = self._turn_end()

    def prompts(self, chats: Sequence[Chat]) -> list[Prompt]:
        texts = [self._template.render(chat, add_generation_prompt=True) for chat in chats]
        return [
            Prompt(ids, text.removeprefix(self._bos), tuple(chat), self._variables)
            for ids, text, chat in zip(self._encode(texts), texts, chats)
        ]

    def neutralise(self, text: str) -> str:
        return self._break_up(text)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._encoder.encode_batch_fast(texts, add_special_tokens=False)]

    def _takes_system(self, examples: bool, key: str) -> bool:
        """Whether the template knows system messages; some reject them, and some leave them out.

        Raises:
            InputError: it fails on the simplest chat, or leaves out what the user says.
        """
        user = message("user", _WORD)
        try:
            if _WORD not in self._template.render([user], True):
                raise InputError(f"{key}: {self._template.name}: the chat template leaves out the user's message")
            if examples:
                self._template.render([user, message("assistant", _WORD), user], True)
        except TemplateRejection as error:
            raise InputError(f"{key}: {self._template.name}: the chat template fails: {error}") from error
        try:
            return _WORD in self._template.render([message("system", _WORD), message("user", "?")], True)
        except TemplateRejection:
            return False

    def _turn_end(self) -> tuple[int, ...]:
        """The control token after a message of the assistant, where it is not EOS: it ends an answer as well."""
        try:
            text = self._template.render([message("user", "?"), message("assistant", _WORD)], False)
        except TemplateRejection:
            return ()
        ids = self._encode([text.rpartition(_WORD)[2].strip()])[0]
        control = ids and self._encoder.id_to_token(ids[0]) in self._tokenizer.control_tokens
        return (ids[0],) if control and ids[0] not in (self._tokenizer.eos_id, self._tokenizer.bos_id) else ()


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def joined(system: str, turns: Chat, rendering: Rendering) -> tuple[Message, ...]:
    """A chat that begins with ``system``: as a message of its own, or within the first one for models that know none.

    Args:
        system: may be empty.
        turns: the rest of the chat; the first is the user's.
        rendering: of the model.
    """
    if not system:
        return tuple(turns)
    if rendering.system:
        return (message("system", system), *turns)
    return (message("user", f"{system}\n\n{turns[0]['content']}"), *turns[1:])


def open_template(folder: Path, wanted: Wanted, variables: Mapping[str, Any]) -> ChatTemplate:
    """The chat template of the tokenizer in ``folder``.

    Raises:
        InputError: there is none, or it is not valid.
    """
    source, name = published_template(folder, wanted.key, wanted.advice)
    return compile_template(source, name, folder, wanted.key, wanted.extra, variables)


def template_file(tokenizer: Path, wanted: Wanted) -> Path:
    """The file that holds the chat template of ``tokenizer``.

    Raises:
        InputError: there is none.
    """
    return Path(published_template(folder_of(tokenizer, wanted.key), wanted.key, wanted.advice)[1])


def folder_of(tokenizer: Path | None, key: str) -> Path:
    if tokenizer is None or tokenizer.suffix != ".json":
        raise InputError(
            f"{key}: chat templates need a folder with tokenizer.json and tokenizer_config.json; found {tokenizer}"
        )
    return tokenizer.parent
