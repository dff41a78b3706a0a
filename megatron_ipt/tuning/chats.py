"""Chats as they come in files, brought to one form: messages with the roles system, user, assistant and tool.

``messages`` takes the two common ways to write a chat down (``messages`` with role and content, ``conversations`` with
from and value); ``prompt_response`` takes records of a prompt and a response under the names that published sets use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ipt.errors import InputError
from megatron_ipt.rejects import Rejects
from megatron_ipt.synthesis.from_text.replay.records import read_records

Message = dict[str, str]
"""``{role, content}``."""

ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "model": "assistant", "tool": "tool", "function": "tool",
}  # fmt: skip
"""Role in a file to role here."""

PROMPT_RESPONSE = (
    ("system_prompt", "question", "", "response"),
    ("system", "instruction", "input", "output"),
    ("system", "prompt", "", "response"),
    ("system", "prompt", "", "completion"),
    ("system", "question", "", "answer"),
)
"""Names of the fields with system message, prompt, what the prompt is about, and response. The first row whose prompt
and response a record has is its own."""


class UnusableChatError(ValueError):
    """Why a record is not a chat to learn from; goes to the rejects."""


@dataclass
class Chat:
    """One chat.

    Attributes:
        id: that of the record, or ``file:line``.
        source, line: where it stands.
        messages: the last is the assistant's.
    """

    id: str
    source: str
    line: int | None
    messages: list[Message]


def read_chats(path: Path, name: str, form: str, rejects: Rejects) -> Iterator[Chat]:
    """Chats of ``path``; records that are none go to ``rejects``.

    Args:
        name: of the file, for ids.
        form: ``messages``, ``prompt_response`` or ``auto``.

    Raises:
        InputError: the file cannot be read, or its first record is in no format that is known.
    """
    for number, record in read_records(path, rejects):
        if form == "auto":
            form = _format_of(record, path)
        try:
            messages = _messages(record) if form == "messages" else _prompt_and_response(record)
            usable = _usable(messages)
        except UnusableChatError as error:
            rejects.add(str(error), str(path), number, sample=str(record))
            continue
        identifier = record.get("id")
        known = isinstance(identifier, (str, int)) and identifier != ""
        yield Chat(f"{name}:{identifier}" if known else f"{name}:{number or 1}", str(path), number, usable)


def _format_of(record: Any, path: Path) -> str:
    if isinstance(record, dict):
        if "messages" in record or "conversations" in record:
            return "messages"
        if _fields_of(record) is not None:
            return "prompt_response"
    found = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
    pairs = ", ".join(f"{prompt}/{response}" for _, prompt, _, response in PROMPT_RESPONSE)
    raise InputError(
        f"{path}: its first record holds {found}; expected messages, or a prompt with a response ({pairs}). If only "
        "this record is bad, name tuning.datasets.NAME.format"
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
            raise UnusableChatError("message of an unknown role")
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
    system, prompt, about, response = (_text(record.get(name) or "") for name in fields)
    messages = [{"role": "system", "content": system}] if system.strip() else []
    if about.strip():
        prompt = f"{prompt}\n{about}"
    return [*messages, {"role": "user", "content": prompt}, {"role": "assistant", "content": response}]


def _usable(messages: list[Message]) -> list[Message]:
    """Up to the assistant's last message; an assistant that says nothing cannot be learned from."""
    while messages and messages[-1]["role"] != "assistant":
        messages = messages[:-1]
    if not messages:
        raise UnusableChatError("the assistant says nothing")
    first = next((message for message in messages if message["role"] != "system"), messages[0])
    if first["role"] == "assistant":
        raise UnusableChatError("begins with the assistant")
    if any(not message["content"].strip() for message in messages if message["role"] in ("assistant", "user")):
        raise UnusableChatError("empty message")
    return messages
