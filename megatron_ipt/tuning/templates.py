"""Encodes chats as ids, with a loss mask on the assistant's messages.

``plain`` joins prompt and response with a space. A chat template is a Jinja program that renders a whole chat without
marking who wrote which part. It is therefore rendered up to each assistant message, without it (as at inference) and
with it: the first result must be a prefix of the second, and the rest belongs to the assistant. A template that renders
the beginning of a chat differently when the chat continues is rejected with an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from megatron_ipt.errors import InputError
from megatron_ipt.files import read_json
from megatron_ipt.inference.tokenizer import PromptTokenizer
from megatron_ipt.synthesis.from_text.prompted.marks import breaking_up
from megatron_ipt.tokenizer_readers import read_tokenizer_json, special_tokens
from megatron_ipt.tuning.chats import Message, UnusableChatError
from megatron_ipt.tuning.sequences import Continuation, Masked

TEMPLATE_FILE = "chat_template.jinja"

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
        self._tokenizer = read_tokenizer_json(folder / "tokenizer.json")
        # Control tokens that the template writes are encoded as such; those quoted in messages are broken up before.
        self._tokenizer.encode_special_tokens = False
        added = self._tokenizer.get_added_tokens_decoder().values()
        self._control_tokens = tuple(token.content for token in added if token.special)
        self._break_up = breaking_up(self._control_tokens)
        self._variables = {"bos_token": "", "eos_token": "", **special_tokens(folder), "tools": None}
        self._template = _compile(template, name)

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
        import jinja2

        spans = []
        text = ""
        try:
            for number, message in enumerate(messages):
                if message["role"] != "assistant":
                    continue
                prompt = self._run(messages[:number], True)
                self._check(text, prompt)
                text = self._run(messages[: number + 1], False)
                self._check(prompt, text)
                spans.append((len(prompt), self._end(text, len(prompt))))
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise UnusableChatError(f"rejected by the chat template: {error}") from error
        return text, spans

    def _run(self, messages: list[Message], add_generation_prompt: bool) -> str:
        variables = {"messages": messages, "add_generation_prompt": add_generation_prompt}
        return str(self._template.render(**self._variables, **variables))

    def _check(self, beginning: str, text: str) -> None:
        if not text.startswith(beginning):
            at = next((i for i, (one, other) in enumerate(zip(beginning, text)) if one != other), len(text))
            raise InputError(
                f"tuning.template: {self._name} renders the beginning of a chat differently when the chat continues: "
                f"{beginning[at : at + 60]!r} becomes {text[at : at + 60]!r}. Use single-turn chats, or "
                "tuning.template=chat."
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
    found, name = published_template(folder)
    return TemplateLayout(folder, found, name)


def published_template(folder: Path) -> tuple[str, str]:
    """The chat template of the tokenizer in ``folder``, and the file it is in.

    Raises:
        InputError: the tokenizer has no chat template.
    """
    file, configuration = folder / TEMPLATE_FILE, folder / "tokenizer_config.json"
    if file.is_file():
        return file.read_text(encoding="utf-8"), str(file)
    found = read_json(configuration).get("chat_template") if configuration.is_file() else None
    if isinstance(found, list):
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    if not isinstance(found, str):
        raise InputError(
            f"tuning.template: the tokenizer in {folder} has no chat template ({TEMPLATE_FILE}, or chat_template in "
            "tokenizer_config.json); set tuning.template to chat or plain"
        )
    return found, str(configuration)


def _compile(template: str, name: str) -> Any:
    """Compiles a template as transformers does: in a sandbox, with the same options and functions."""
    try:
        import jinja2
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise InputError(
            'tuning.template: chat templates need jinja2; install it with pip install "megatron-ipt[tuning]"'
        ) from error

    class Generation(Extension):
        """``{% generation %}`` marks assistant messages for other tools; its content is rendered unchanged."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    # No strftime_now: templates then use a fixed date, which keeps the output reproducible.
    environment.globals["raise_exception"] = raise_exception
    try:
        return environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"tuning.template: {name}: not a valid Jinja template: {error}") from error


def training_lines(messages: list[Message]) -> Iterator[str]:
    """Lines to train a tokenizer on."""
    for message in messages:
        yield f"{message['role'].capitalize()}: {message['content']}"
