"""Chats as ids of which the assistant's part is to be predicted.

``plain`` joins prompt and response with one blank. A chat template is a Jinja program that writes a whole chat down; it
does not say which of its output is whose. Here it is run on the chat up to every message of the assistant, without it
(as at inference, where the model goes on) and with it: the second must begin with the first, and what is new is the
assistant's. A template whose output for the beginning of a chat changes as the chat goes on is refused by name.
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
"""The layout ``chat``: for models that come without a template. It is saved with the tokenizer."""


class ChatLayout(Protocol):
    """Lays chats out."""

    def encode(self, messages: list[Message]) -> tuple[Masked, list[int]]:
        """The chat, and the number of tokens up to the end of each of the assistant's messages.

        Raises:
            UnusableChatError: the layout has no place for this chat.
        """
        ...


class PlainLayout:
    """BOS, prompt, a blank, response, EOS; a longer chat is a row of these. Messages before a response are joined by
    line ends."""

    def __init__(self, tokenizer: PromptTokenizer):
        self._tokenizer = tokenizer
        self._head = [tokenizer.bos_id] if tokenizer.bos_id is not None else []

    def encode(self, messages: list[Message]) -> tuple[Masked, list[int]]:
        masked, ends = Masked([], []), []
        waiting: list[str] = []
        for message in messages:
            if message["role"] != "assistant":
                waiting.append(message["content"].strip())
                continue
            prompt = "\n".join(waiting)
            waiting = []
            masked.add([*self._head, *self._tokenizer.encode([prompt])[0]], predicted=False)
            response = Continuation(self._tokenizer, prompt).encode(f" {message['content'].strip()}")
            masked.add([*response, self._tokenizer.eos_id], predicted=True)
            ends.append(len(masked.ids))
        return masked, ends


class TemplateLayout:
    """A Jinja chat template with the tokenizer that it is for.

    Args:
        folder: of the tokenizer, with ``tokenizer.json``.
        template: the program.
        name: of the template, for errors.

    Raises:
        InputError: the template is not valid Jinja.
    """

    def __init__(self, folder: Path, template: str, name: str):
        self._name = name
        self._tokenizer = read_tokenizer_json(folder / "tokenizer.json")
        # What the template writes is control tokens; what the chat quotes of them is broken up before.
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
            # A token that reaches over the seam could not be generated; both sides are encoded apart.
            ids, offsets = self._encode_apart(text, spans)
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
        """The chat as text, and where in it the assistant's messages begin and end, each with its end token."""
        import jinja2

        spans = []
        whole = ""
        try:
            for number, message in enumerate(messages):
                if message["role"] != "assistant":
                    continue
                prompt = self._run(messages[:number], True)
                self._check(whole, prompt)
                whole = self._run(messages[: number + 1], False)
                self._check(prompt, whole)
                spans.append((len(prompt), self._end(whole, len(prompt))))
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise UnusableChatError(f"refused by the chat template: {error}") from error
        return whole, spans

    def _run(self, messages: list[Message], add_generation_prompt: bool) -> str:
        variables = {"messages": messages, "add_generation_prompt": add_generation_prompt}
        return str(self._template.render(**self._variables, **variables))

    def _check(self, beginning: str, text: str) -> None:
        if not text.startswith(beginning):
            at = next((i for i, (one, other) in enumerate(zip(beginning, text)) if one != other), len(text))
            raise InputError(
                f"tuning.template: {self._name} writes the beginning of a chat in another way when the chat goes on: "
                f"{beginning[at : at + 60]!r} becomes {text[at : at + 60]!r}. Use chats of one exchange, or the "
                "template chat."
            )

    def _end(self, text: str, begin: int) -> int:
        """End of a message that begins at ``begin``: after its end token, without the blanks that follow that."""
        stripped = text.rstrip()
        ends_in_control = any(stripped.endswith(token) for token in self._control_tokens)
        return len(stripped) if ends_in_control and len(stripped) > begin else len(text)

    def _encode_apart(self, text: str, spans: list[tuple[int, int]]) -> tuple[list[int], list[tuple[int, int]]]:
        borders = sorted({0, len(text), *(place for span in spans for place in span)})
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for start, stop in pairwise(borders):
            encoding = self._tokenizer.encode(text[start:stop], add_special_tokens=False)
            ids += encoding.ids
            offsets += [(start + first, start + last) for first, last in encoding.offsets]
        return ids, offsets


def open_layout(template: str, folder: Path, tokenizer: PromptTokenizer) -> ChatLayout:
    """The layout that ``tuning.template`` names, for the tokenizer in ``folder``.

    Raises:
        InputError: the tokenizer has no template, or an unusable one.
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
        InputError: there is none.
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
    """As transformers compiles it: in a sandbox, with the same options and functions."""
    try:
        import jinja2
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise InputError('tuning.template: chat templates need jinja2; pip install "megatron-ipt[tuning]"') from error

    class Generation(Extension):
        """``{% generation %}``, which marks the assistant's part for other tools; its content stays as it is."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    # No strftime_now: templates then take a date of their own, and the same data stay the same tomorrow.
    environment.globals["raise_exception"] = refuse
    try:
        return environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"tuning.template: {name}: not a valid Jinja template: {error}") from error


def training_lines(messages: list[Message]) -> Iterator[str]:
    """What a tokenizer for chats is trained on, line by line."""
    for message in messages:
        yield f"{message['role'].capitalize()}: {message['content']}"
