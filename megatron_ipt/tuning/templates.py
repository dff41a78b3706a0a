"""Encodes chats as ids, with a loss mask on the assistant's messages.

``plain`` joins prompt and response with a space. A chat template is a Jinja program that renders a whole chat without
marking who wrote which part. It is therefore rendered up to each assistant message, without it (as at inference) and
with it: the first result must be a prefix of the second, and the rest belongs to the assistant. A template that renders
the beginning of a chat differently when the chat continues is rejected with an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from megatron_ipt.errors import InputError
from megatron_ipt.inference.chat_template import (
    TemplateRejection,
    compile_template,
    published_template,
    template_encoder,
)
from megatron_ipt.inference.tokenizer import PromptTokenizer, breaking_up
from megatron_ipt.tuning.chats import Message, UnusableChatError
from megatron_ipt.tuning.sequences import Continuation, Masked

KEY = "tuning.template"

SIMPLE_CHAT = """\
{{- bos_token }}
{%- for message in messages %}
{{- message.role | capitalize }}: {{ message.content | trim }}
{%- if message.role == 'assistant' %}{{ eos_token }}{% endif %}
{{- '\\n\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}Assistant:{% endif %}
"""
"""The template ``chat``, for models without a chat template. It is saved with the tokenizer."""


class ChatLayout(Protocol):
    """Formats and encodes chats."""

    def encode(self, messages: list[Message]) -> tuple[Masked, list[int]]:
        """Encodes a chat; also returns the number of tokens up to the end of each assistant message.

        Raises:
            UnusableChatError: the layout cannot format this chat.
        """
        ...


class PlainLayout:
    """BOS, prompt, space, response, EOS, repeated for longer chats. Messages before a response are joined by
    newlines."""

    def __init__(self, tokenizer: PromptTokenizer):
        self._tokenizer = tokenizer
        self._head = [tokenizer.bos_id] if tokenizer.bos_id is not None else []

    def encode(self, messages: list[Message]) -> tuple[Masked, list[int]]:
        masked, ends = Masked([], []), []
        prompts: list[str] = []
        for message in messages:
            if message["role"] != "assistant":
                prompts.append(message["content"].strip())
                continue
            prompt = "\n".join(prompts)
            prompts = []
            masked.add([*self._head, *self._tokenizer.encode([prompt])[0]], predicted=False)
            response = Continuation(self._tokenizer, prompt).encode(f" {message['content'].strip()}")
            masked.add([*response, self._tokenizer.eos_id], predicted=True)
            ends.append(len(masked.ids))
        return masked, ends


class TemplateLayout:
    """A Jinja chat template with its tokenizer.

    Args:
        folder: folder of the tokenizer, with ``tokenizer.json``.
        template: Jinja source.
        name: name of the template, for error messages.

    Raises:
        InputError: the template is not valid Jinja.
    """

    def __init__(self, folder: Path, template: str, name: str):
        self._name = name
        # Control tokens that the template writes are encoded as such; those quoted in messages are broken up before.
        self._tokenizer = template_encoder(folder)
        added = self._tokenizer.get_added_tokens_decoder().values()
        self._control_tokens = tuple(token.content for token in added if token.special)
        self._break_up = breaking_up(self._control_tokens)
        self._template = compile_template(template, name, folder, KEY, "tuning")

    def encode(self, messages: list[Message]) -> tuple[Masked, list[int]]:
        messages = [{**message, "content": self._break_up(message["content"])} for message in messages]
        text, spans = self._render(messages)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids, offsets = encoding.ids, encoding.offsets
        if any(start < begin < stop for start, stop in offsets for begin, _ in spans):
            # The model cannot generate a token that spans the boundary, so both sides are encoded separately.
            ids, offsets = self._encode_separately(text, spans)
        masked, ends = Masked([], []), []
        number = 0
        for token, (start, stop) in zip(ids, offsets):
            while number < len(spans) and start >= spans[number][1]:
                ends.append(len(masked.ids))
                number += 1
            inside = number < len(spans) and start >= spans[number][0] and stop <= spans[number][1]
            masked.add([token], predicted=inside)
        ends += [len(masked.ids)] * (len(spans) - len(ends))
        return masked, ends

    def _render(self, messages: list[Message]) -> tuple[str, list[tuple[int, int]]]:
        """The chat as text, and the spans of the assistant's messages, including their end tokens."""
        spans = []
        text = ""
        try:
            for number, message in enumerate(messages):
                if message["role"] != "assistant":
                    continue
                prompt = self._template.render(messages[:number], True)
                self._check(text, prompt)
                text = self._template.render(messages[: number + 1], False)
                self._check(prompt, text)
                spans.append((len(prompt), self._end(text, len(prompt))))
        except TemplateRejection as error:
            raise UnusableChatError(f"rejected by the chat template: {error}") from error
        return text, spans

    def _check(self, beginning: str, text: str) -> None:
        if not text.startswith(beginning):
            at = next((i for i, (one, other) in enumerate(zip(beginning, text)) if one != other), len(text))
            raise InputError(
                f"{KEY}: {self._name} renders the beginning of a chat differently when the chat continues: "
                f"{beginning[at : at + 60]!r} becomes {text[at : at + 60]!r}. Use single-turn chats, or "
                f"{KEY}=chat."
            )

    def _end(self, text: str, begin: int) -> int:
        """End of a message that starts at ``begin``: after its end token, excluding whitespace that follows."""
        stripped = text.rstrip()
        ends_in_control = any(stripped.endswith(token) for token in self._control_tokens)
        return len(stripped) if ends_in_control and len(stripped) > begin else len(text)

    def _encode_separately(self, text: str, spans: list[tuple[int, int]]) -> tuple[list[int], list[tuple[int, int]]]:
        boundaries = sorted({0, len(text), *(position for span in spans for position in span)})
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for start, stop in pairwise(boundaries):
            encoding = self._tokenizer.encode(text[start:stop], add_special_tokens=False)
            ids += encoding.ids
            offsets += [(start + first, start + last) for first, last in encoding.offsets]
        return ids, offsets


def open_layout(template: str, folder: Path, tokenizer: PromptTokenizer) -> ChatLayout:
    """The layout for ``tuning.template`` and the tokenizer in ``folder``.

    Raises:
        InputError: the tokenizer has no chat template, or an unusable one.
    """
    if template == "plain":
        return PlainLayout(tokenizer)
    if template == "chat":
        return TemplateLayout(folder, SIMPLE_CHAT, "chat")
    found, name = published_template(folder, KEY, f"set {KEY} to chat or plain")
    return TemplateLayout(folder, found, name)


def training_lines(messages: list[Message]) -> Iterator[str]:
    """Lines to train a tokenizer on."""
    for message in messages:
        yield f"{message['role'].capitalize()}: {message['content']}"
