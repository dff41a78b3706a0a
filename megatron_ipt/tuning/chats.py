"""Reads chats into one format: messages with the roles system, user, assistant and tool.

The format ``messages`` covers the two common conventions (``messages`` with role and content, ``conversations`` with
from and value); ``prompt_response`` covers records with a prompt and a response, under the field names of published
datasets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.errors import InputError
from megatron_ipt.rejects import Rejects
from megatron_ipt.synthesis.from_text.prompted.marks import asked
from megatron_ipt.synthesis.from_text.replay.records import read_records
from megatron_ipt.synthesis.pairs import Chain
from megatron_ipt.tuning.config import CHAINS_FORMAT

Message = dict[str, str]
"""``{role, content}``."""

ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "model": "assistant", "tool": "tool", "function": "tool",
}  # fmt: skip
"""Maps roles in files to roles in :class:`Chat`."""

PROMPT_RESPONSE = (
    ("system_prompt", "question", "", "response"),
    ("system", "instruction", "input", "output"),
    ("system", "prompt", "", "response"),
    ("system", "prompt", "", "completion"),
    ("system", "question", "", "answer"),
)
"""Field names of system message, prompt, input to the prompt, and response. The first row whose prompt and response
fields a record has applies."""


class UnusableChatError(ValueError):
    """A record that is not a usable chat; the message is the reason in the rejects."""


@dataclass
class Chat:
    """One chat.

    Attributes:
        id: ``file:`` and the id of the record, or its line number.
        source, line: file and line of the record.
        messages: the last one is from the assistant.
        split: of the corpus that it is from; empty for chats without one.
    """

    id: str
    source: str
    line: int | None
    messages: list[Message]
    split: str = ""


def read_chats(path: Path, name: str, form: str, rejects: Rejects) -> Iterator[Chat]:
    """Reads chats from ``path``; records that are not usable chats go to ``rejects``.

    Args:
        name: name of the file, for ids.
        form: ``messages``, ``prompt_response``, ``chains`` or ``auto``.

    Raises:
        InputError: the file cannot be read, or the format of its first record is unknown.
    """
    for number, record in read_records(path, rejects):
        if form == "auto":
            form = _format_of(record, path)
        if form == CHAINS_FORMAT:
            yield from _chats_of_chain(record, path, number, rejects)
            continue
        try:
            messages = _messages(record) if form == "messages" else _prompt_and_response(record)
            usable = _usable(messages)
        except UnusableChatError as error:
            rejects.add(str(error), str(path), number, sample=str(record))
            continue
        identifier = record.get("id")
        known = isinstance(identifier, (str, int)) and identifier != ""
        yield Chat(f"{name}:{identifier}" if known else f"{name}:{number or 1}", str(path), number, usable)


def _chats_of_chain(record: Any, path: Path, line: int | None, rejects: Rejects) -> Iterator[Chat]:
    """A chat for every pair of a chain: its question, below the text if there is one, and its answer.

    Options and reasoning are written as in the format of the synthesizer.
    """
    try:
        chain = Chain.from_json(record)
    except (KeyError, TypeError, AttributeError) as error:
        rejects.add("not a chain", str(path), line, detail=repr(error), sample=str(record))
        return
    for example in chain.examples:
        for number, pair in enumerate(example.pairs):
            question, answer = asked(pair)
            if example.text:
                question = f"{example.text}\n\n{question}"
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            yield Chat(f"{example.id}#{number}", str(path), line, messages, chain.split)


def _format_of(record: Any, path: Path) -> str:
    if isinstance(record, dict):
        if "messages" in record or "conversations" in record:
            return "messages"
        if "examples" in record:
            return CHAINS_FORMAT
        if _fields_of(record) is not None:
            return "prompt_response"
    found = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
    pairs = ", ".join(f"{prompt}/{response}" for _, prompt, _, response in PROMPT_RESPONSE)
    raise InputError(
        f"{path}: the first record has {found}; expected messages, or a prompt with a response ({pairs}). If only "
        "this record is bad, set tuning.datasets.NAME.format"
    )


def _messages(record: Any) -> list[Message]:
    turns = (record.get("messages") or record.get("conversations")) if isinstance(record, dict) else None
    if not isinstance(turns, list) or not turns:
        raise UnusableChatError("no messages")
    messages = []
    for turn in turns:
        if not isinstance(turn, dict):
            raise UnusableChatError("message is not an object")
        role = ROLES.get(str(turn.get("role", turn.get("from"))).lower())
        if role is None:
            raise UnusableChatError("message with an unknown role")
        messages.append({"role": role, "content": _text(turn.get("content", turn.get("value")))})
    return messages


def _text(content: Any) -> str:
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise UnusableChatError("content is not text")
    return content


def _fields_of(record: dict[str, Any]) -> tuple[str, str, str, str] | None:
    return next((fields for fields in PROMPT_RESPONSE if fields[1] in record and fields[3] in record), None)


def _prompt_and_response(record: Any) -> list[Message]:
    fields = _fields_of(record) if isinstance(record, dict) else None
    if fields is None:
        raise UnusableChatError("no prompt with a response")
    system, prompt, prompt_input, response = (_text(record.get(name) or "") for name in fields)
    messages = [{"role": "system", "content": system}] if system.strip() else []
    if prompt_input.strip():
        prompt = f"{prompt}\n{prompt_input}"
    return [*messages, {"role": "user", "content": prompt}, {"role": "assistant", "content": response}]


def _usable(messages: list[Message]) -> list[Message]:
    """Drops messages after the assistant's last one, and checks that the rest can be trained on."""
    while messages and messages[-1]["role"] != "assistant":
        messages = messages[:-1]
    if not messages:
        raise UnusableChatError("no assistant message")
    first = next((message for message in messages if message["role"] != "system"), messages[0])
    if first["role"] == "assistant":
        raise UnusableChatError("starts with an assistant message")
    if any(not message["content"].strip() for message in messages if message["role"] in ("assistant", "user")):
        raise UnusableChatError("empty message")
    return messages
