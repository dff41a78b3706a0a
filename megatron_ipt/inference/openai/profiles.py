"""What each kind of OpenAI-compatible server can do, as a table.

Sources: trtllm-serve 1.2 and vLLM 0.33 read in source, transformers serve 5.23 run on CPU. Adding a server is adding a
row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_STANDARD = {"top_p": "top_p", "seed": "seed", "stop": "stop"}
_COMMON = _STANDARD | {
    "stop_ids": "stop_token_ids", "top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repetition_penalty",
}  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """Capabilities of one kind of server.

    Attributes:
        prompt_ids: the prompt may be a list of token ids; else it is a string and the server adds BOS.
        extra: fields sent with every request besides model, prompt, max_tokens, temperature and those of ``takes``.
        takes: sampling settings that are honoured, each with the name of its request field. A request that needs any
            other is refused. Without ``seed`` the server decodes greedily, whatever temperature it is sent.
        free_fields: fields that are not listed here may be sent on a user's own account (``Sampling.extra``).
        answer_ids: field of a choice that holds the generated ids; empty where they must be made again from the text.
        lists_model: /v1/models lists the served model by the name that requests use.
        json_schema: field for a schema of the answer, as a path of names; empty where the server cannot constrain
            answers, or only if it was started for it.
        scores: how log-likelihoods of a prompt are asked for: ``prompt_logprobs`` (vLLM: a list with a table per token,
            by id), ``echo`` (the prompt is repeated with ``logprobs.token_logprobs``), or empty where they are not to
            be had. trtllm-serve accepts ``echo`` but gives ``logprobs`` of the answer alone.
    """

    prompt_ids: bool
    extra: Mapping[str, Any] = field(default_factory=dict)
    takes: Mapping[str, str] = field(default_factory=lambda: dict(_STANDARD))
    free_fields: bool = True
    answer_ids: str = ""
    lists_model: bool = True
    json_schema: tuple[str, ...] = ()
    scores: str = ""

    @property
    def samples(self) -> bool:
        """Whether a temperature above 0 is honoured."""
        return "seed" in self.takes

    def constrained_by(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """Request fields that constrain the answer; none where the server cannot do that."""
        if not self.json_schema:
            return {}
        fields: Any = schema
        for name in reversed(self.json_schema):
            fields = {name: fields}
        return dict(fields)


PROFILES: dict[str, Profile] = {
    "trtllm-serve": Profile(
        prompt_ids=True,
        extra={"add_special_tokens": False, "detokenize": False},
        takes=_COMMON,
        answer_ids="token_ids",
    ),
    "vllm": Profile(
        prompt_ids=True,
        extra={"add_special_tokens": False, "return_token_ids": True},
        takes=_COMMON,
        answer_ids="token_ids",
        # Since 0.12; before, the field was guided_json.
        json_schema=("structured_outputs", "json"),
        scores="prompt_logprobs",
    ),
    # Refuses unknown fields and ids, accepts a temperature and ignores it.
    "transformers-serve": Profile(prompt_ids=False, takes={"stop": "stop"}, free_fields=False, lists_model=False),
    # Scores as the API that OpenAI documented for its first models; whether a server does is seen from its answer.
    "openai-compatible": Profile(prompt_ids=True, scores="echo"),
}
