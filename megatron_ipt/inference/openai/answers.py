"""What servers answer, read with care: the official client does not validate what it receives.

Functions from an answer to values. What is no answer at all raises :class:`Unreadable`, which the engine treats as a
failure that may pass; an answer without the log-likelihoods that were asked for raises :class:`NotScored`, which will
not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_CLAMPED = -9999.0
"""vLLM writes minus infinity as this number, because JSON has no infinity."""


class Unreadable(Exception):
    """The answer is no completion."""


class NotScored(Exception):
    """The answer is a completion without the log-likelihoods of its prompt."""


@dataclass(frozen=True)
class Answer:
    """A completion as it was received.

    Attributes:
        text: of the answer.
        ids: generated token ids, where the server gives them.
        finished: False when the token limit ended it.
        prompt_tokens: as the server counted them.
        generated_tokens: as the server counted them; None where it does not say.
        cached_tokens: of the prompt, read from the server's cache.
    """

    text: str
    ids: list[int] | None
    finished: bool
    prompt_tokens: int
    generated_tokens: int | None = None
    cached_tokens: int = 0


def read_completion(answer: Any, ids_field: str) -> Answer:
    """The completion in an answer; ``ids_field`` of the choice holds the generated ids, if any field does.

    Raises:
        Unreadable: it is no completion.
    """
    choice = _choice(answer)
    text = getattr(choice, "text", None)
    reason = getattr(choice, "finish_reason", None)
    prompt_tokens, cached, generated = usage_of(answer)
    if not isinstance(text, str) or reason not in ("stop", "length") or prompt_tokens is None:
        raise Unreadable(f"answered what is not a completion: {str(answer)[:200]!r}")
    ids = getattr(choice, ids_field, None) if ids_field else None
    return Answer(
        text,
        ids if isinstance(ids, list) else None,
        reason == "stop",
        prompt_tokens,
        generated,
        cached,
    )


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
    read_completion(answer, "")
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
    read_completion(answer, "")
    values: Any = getattr(getattr(_choice(answer), "logprobs", None), "token_logprobs", None)
    # The prompt, and one generated token where the server cannot generate none.
    _check_count("logprobs.token_logprobs", values, (len(ids), len(ids) + 1), len(ids))
    try:
        return [_number(values[place]) for place in places]
    except (TypeError, ValueError) as error:
        raise NotScored(f"logprobs.token_logprobs are not numbers: {error}") from error


def error_message(error: Any) -> str:
    """What the server said was wrong."""
    body = getattr(error, "body", None)
    if isinstance(body, dict):
        for name in ("message", "detail", "error"):
            if body.get(name):
                return str(body[name])[:500]
    return str(getattr(error, "message", error))[:500]


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
