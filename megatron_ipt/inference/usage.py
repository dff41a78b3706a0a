"""What requests use: tokens in, of them cached, and tokens out, as the engine counts them and a provider bills them.

A meter is told of every request when it is sent and when it is answered. This one adds up in memory; a stage that pays
for its requests keeps them where a killed process does not lose them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from megatron_ipt.errors import UserError


@dataclass
class Usage:
    """Sums over requests.

    Attributes:
        requests: that were sent.
        answers: that came back.
        failures: requests that the server refused, or that never reached it: nobody bills them.
        answers_without_usage: answers whose tokens nobody counted.
        prompt_tokens: of all answered requests.
        cached_tokens: of these, read from the engine's prefix cache.
        generated_tokens: of all answers.
    """

    requests: int = 0
    answers: int = 0
    failures: int = 0
    answers_without_usage: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0

    @property
    def unanswered(self) -> int:
        """Requests whose cost is unknown: in flight, or lost with their connection or process."""
        return self.requests - self.answers - self.failures

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Usage)))

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, field.name) - getattr(other, field.name) for field in fields(Usage)))

    def to_json(self) -> dict[str, int]:
        return asdict(self)


class Meter:
    """Counts the requests of an engine.

    Attributes:
        usage: what was counted.
    """

    def __init__(self) -> None:
        self.usage = Usage()

    def asked(self) -> None:
        """A request is about to be sent."""
        self.usage.requests += 1
        self.changed()

    def answered(self, prompt_tokens: int | None, cached_tokens: int, generated_tokens: int | None) -> None:
        """The answer to a request is here; None for what the engine does not say.

        Raises:
            UserError: this meter cannot do without the numbers.
        """
        usage = self.usage
        usage.answers += 1
        usage.answers_without_usage += prompt_tokens is None or generated_tokens is None
        usage.prompt_tokens += prompt_tokens or 0
        usage.cached_tokens += min(cached_tokens, prompt_tokens or 0)
        usage.generated_tokens += generated_tokens or 0
        self.changed()

    def failed(self) -> None:
        """A request was refused, or could not be sent."""
        self.usage.failures += 1
        self.changed()

    def changed(self) -> None:
        """Called after every change; a subclass may store it."""

    def exhausted(self) -> UserError | None:
        """Why no further request may be sent; None while they may."""
        return None

    def sync(self) -> None:
        """Called about once a second from another thread: time to flush what is stored to disk."""

    def figures(self) -> dict[str, float]:
        """For the metrics file."""
        return {}
