"""What servers answer, read with care: the official client does not validate what it receives.

Functions from an answer to values. What is no answer at all raises :class:`Unreadable`, which the engine treats as a
failure that may pass. An answer that the server withholds raises :class:`Withheld`, and one without the
log-likelihoods that were asked for raises :class:`NotScored`; neither will pass.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_CLAMPED = -9999.0
"""vLLM writes minus infinity as this number, because JSON has no infinity."""
_CHARACTERS_PER_TOKEN = 1_000
"""More than any token has: the longest are runs of a few hundred spaces."""
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_FILTERED = ("content_filter", "content_policy_violation")


class Unreadable(Exception):
    """The answer is no completion."""


class Withheld(Exception):
    """The server does not answer this request, because of what is in it or in the answer."""


class NotScored(Exception):
    """The answer is a completion without the log-likelihoods of its prompt."""


@dataclass(frozen=True)
class Answer:
    """A completion as it was received.

    Attributes:
        text: of the answer.
        ids: generated token ids, where the server gives them.
        finished: False when the token limit ended it.
        prompt_tokens: as the server counted them; None where it does not say.
        generated_tokens: as the server counted them; None where it does not say.
        cached_tokens: of the prompt, read from the server's cache.
        prompt_ids: of the prompt that was answered, where the server repeats them.
    """

    text: str
    ids: list[int] | None
    finished: bool
    prompt_tokens: int | None
    generated_tokens: int | None = None
    cached_tokens: int = 0
    prompt_ids: list[int] | None = None


def read_completion(answer: Any, ids_field: str = "", echoed_field: str = "") -> Answer:
    """The completion in an answer.

    Args:
        answer: as the client parsed it.
        ids_field: field of the choice that holds the generated ids, if any does.
        echoed_field: the same for the ids of the prompt.

    Raises:
        Unreadable: it is no completion.
        Withheld: a filter of the server ended it.
    """
    choice = _choice(answer)
    ids, prompt_ids = (getattr(choice, name, None) if name else None for name in (ids_field, echoed_field))
    return _read(answer, choice, getattr(choice, "text", None), ids, prompt_ids)


def read_chat(answer: Any) -> Answer:
    """The assistant's message in an answer to a chat. One that was cut off before it began has no content.

    Raises:
        Unreadable: it is no answer to a chat.
        Withheld: the model refused in the field for refusals, or a filter of the server ended the answer.
    """
    choice = _choice(answer)
    message = getattr(choice, "message", None)
    refusal = getattr(message, "refusal", None)
    if isinstance(refusal, str) and refusal:
        raise Withheld(f"refused by the model: {printable(refusal)[:200]}")
    content = getattr(message, "content", None)
    return _read(answer, choice, "" if message is not None and content is None else content, None, None)


def _read(answer: Any, choice: Any, text: Any, ids: Any, prompt_ids: Any) -> Answer:
    reason = getattr(choice, "finish_reason", None)
    if reason == "content_filter":
        raise Withheld("ended by the server's content filter")
    prompt_tokens, cached, generated = usage_of(answer)
    if not isinstance(text, str) or reason not in ("stop", "length"):
        raise Unreadable(f"answered what is not a completion: {str(answer)[:200]!r}")
    return Answer(
        # Halves of surrogate pairs, which JSON can hold, are no text.
        _SURROGATE.sub("\ufffd", text),
        ids if isinstance(ids, list) else None,
        reason == "stop",
        prompt_tokens,
        generated,
        cached,
        prompt_ids if isinstance(prompt_ids, list) else None,
    )


def is_too_long(answer: Answer, max_tokens: int) -> bool:
    """Whether no answer of ``max_tokens`` tokens can be that long: the server ignores the limit."""
    return len(answer.text) > _CHARACTERS_PER_TOKEN * max_tokens or len(answer.ids or ()) > max_tokens


def usage_of(answer: Any) -> tuple[int | None, int, int | None]:
    """Tokens of the prompt, of these from the cache, and of the answer: what is billed. None for what is not said."""
    usage = getattr(answer, "usage", None)
    return (
        _count(getattr(usage, "prompt_tokens", None)),
        _count(getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", None)) or 0,
        _count(getattr(usage, "completion_tokens", None)),
    )


def never_sent(error: Any) -> bool:
    """Whether a connection error says that there was no connection in the first place."""
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")


def prompt_logprobs(answer: Any, ids: Sequence[int], places: Sequence[int]) -> list[float]:
    """Log-likelihoods of the prompt's tokens at ``places`` from vLLM's ``prompt_logprobs``.

    That is a list with an entry per token: null for the first, for every other a table from token id (a string, as
    JSON has it) to ``{logprob, rank, decoded_token}``, in which the prompt's own token is always present.

    Raises:
        Unreadable: it is no completion.
        NotScored: the list is missing or does not fit the prompt.
    """
    read_completion(answer)
    entries: Any = getattr(_choice(answer), "prompt_logprobs", None)
    _check_count("prompt_logprobs", entries, (len(ids),), len(ids))
    try:
        return [_number(entries[place][str(ids[place])]["logprob"]) for place in places]
    except (TypeError, KeyError, ValueError) as error:
        raise NotScored(f"prompt_logprobs are of other tokens than the prompt's: {error!r}") from error


def echoed_logprobs(answer: Any, ids: Sequence[int], places: Sequence[int]) -> list[float]:
    """The same from ``logprobs.token_logprobs`` of an answer that repeats its prompt, as OpenAI documented it.

    Raises:
        Unreadable: it is no completion.
        NotScored: the prompt was not repeated. llama.cpp's server ignores ``echo`` without saying so.
    """
    read_completion(answer)
    values: Any = getattr(getattr(_choice(answer), "logprobs", None), "token_logprobs", None)
    # The prompt, and one generated token where the server cannot generate none.
    _check_count("logprobs.token_logprobs", values, (len(ids), len(ids) + 1), len(ids))
    try:
        return [_number(values[place]) for place in places]
    except (TypeError, ValueError) as error:
        raise NotScored(f"logprobs.token_logprobs are not numbers: {error}") from error


def error_message(error: Any) -> str:
    """What the server said was wrong, without control characters, for a terminal."""
    body = getattr(error, "body", None)
    if isinstance(body, dict):
        for name in ("message", "detail", "error"):
            if body.get(name):
                return printable(str(body[name])[:500])
    return printable(str(getattr(error, "message", error))[:500])


def is_filtered(error: Any) -> bool:
    """Whether the error of a status says that a filter did not let the prompt pass."""
    body = getattr(error, "body", None)
    return isinstance(body, dict) and any(body.get(name) in _FILTERED for name in ("code", "type"))


def printable(text: str) -> str:
    """``text`` for a message: control characters and halves of surrogate pairs could confuse a terminal or a file."""
    return _CONTROL.sub(" ", _SURROGATE.sub("\ufffd", text))


def retry_after(error: Any) -> float:
    """Seconds that the server asks to wait, at most a minute."""
    try:
        return min(max(float(error.response.headers.get("retry-after", 0)), 0.0), 60.0)
    except ValueError:
        return 0.0


def _check_count(name: str, values: Any, expected: tuple[int, ...], tokens: int) -> None:
    if not isinstance(values, list) or len(values) not in expected:
        found = f"{len(values)} entries" if isinstance(values, list) else "nothing"
        raise NotScored(f"expected {name} for the {tokens} tokens of the prompt, found {found}")


def _count(value: Any) -> int | None:
    """A number of tokens, None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _choice(answer: Any) -> Any:
    choices = getattr(answer, "choices", None)
    return choices[0] if isinstance(choices, list) and choices else None


def _number(value: Any) -> float:
    number = float(value)
    return -math.inf if number <= _CLAMPED else number
