"""Requests as chats, to which the server applies the chat template of its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from megatron_ipt.inference.chat_template import Message
from megatron_ipt.inference.openai.profiles import TAKES_TEMPLATE_VARIABLES


def chat_fields(messages: Sequence[Message], variables: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Request fields of a chat.

    Args:
        messages: the chat, which ends with a message of the user.
        variables: of the chat template, sent to servers that are known to take them.
        owner: ``owned_by`` of the server's models.
    """
    fields: dict[str, Any] = {"messages": [dict(message) for message in messages]}
    if variables and owner in TAKES_TEMPLATE_VARIABLES:
        fields["chat_template_kwargs"] = dict(variables)
    return fields


def without_system(messages: Sequence[Message]) -> list[Message]:
    """The chat with its system message, if it begins with one, in front of the first message of the user."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return list(messages)
    system, first, *others = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *others]
