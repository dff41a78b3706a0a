"""How one answer is decoded: settings that belong to a request, not to an engine.

An engine honours every field or refuses the request with an error that names the field; none is ignored, except a
schema, which helps where it is available. Two requests with equal settings may be decoded in one batch, so what differs
from request to request, the seed, is not in here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.config import GenerationConfig


@dataclass(frozen=True)
class Sampling:
    """Settings of one request.

    Attributes:
        max_new_tokens: limit on the tokens of the answer.
        temperature: 0 always takes the likeliest token.
        top_p: sample from the likeliest tokens that together reach this probability; 1 keeps all.
        top_k: sample from the ``top_k`` likeliest tokens; None keeps all.
        min_p: sample from tokens that are at least ``min_p`` times as likely as the likeliest; None keeps all.
        repetition_penalty: above 1 makes tokens of the prompt and of the answer so far less likely; None changes
            nothing.
        stop_ids: token ids that end the answer, besides the tokenizer's EOS. They are not part of the answer.
        stop: strings that end the answer. The answer is the text before them.
        extra: further settings under the name that the engine or server uses for them.
        json_schema: schema of the answer. An engine that can constrain answers enforces it; others generate freely, and
            the answer must be parsed with care in any case.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    json_schema: Mapping[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k is None or self.top_k >= 1, "at least 1, or None"),
            ("min_p", self.min_p is None or 0 <= self.min_p <= 1, "from 0 to 1, or None"),
            ("repetition_penalty", self.repetition_penalty is None or self.repetition_penalty > 0, "above 0, or None"),
            ("stop", all(self.stop), "strings that are not empty"),
        ):
            if not valid:
                raise RecipeError(f"{name}: expected {expected}, found {getattr(self, name)!r}")

    @classmethod
    def of(cls, generation: GenerationConfig) -> Sampling:
        """The settings of a recipe section ``generation``; greedy where it leaves that to the prompt style."""
        return cls(
            generation.max_new_tokens,
            generation.temperature or 0.0,
            1.0 if generation.top_p is None else generation.top_p,
            generation.top_k,
            generation.min_p,
            generation.repetition_penalty,
            stop=tuple(generation.stop),
        )

    def beyond_greedy(self) -> Iterator[str]:
        """Names of the fields that are set to something other than their default, apart from ``max_new_tokens`` and
        ``json_schema``."""
        for setting in fields(self)[1:]:
            value = getattr(self, setting.name)
            if setting.name != "json_schema" and value not in (None, (), {}) and value != setting.default:
                yield setting.name
