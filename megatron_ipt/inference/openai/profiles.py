"""What each kind of OpenAI-compatible server can do, as a table.

Sources: trtllm-serve 1.2 and llama-cpp-python 0.3 read in source; vLLM 0.32, llama.cpp's server (build 11434) and
transformers serve 5.23 run on CPU. Adding a server is adding a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_STANDARD = {"top_p": "top_p", "seed": "seed", "stop": "stop"}
_COMMON = _STANDARD | {
    "stop_ids": "stop_token_ids", "top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repetition_penalty",
}  # fmt: skip
_LLAMA_CPP = _STANDARD | {"top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repeat_penalty"}

TAKES_TEMPLATE_VARIABLES = ("vllm", "llamacpp")
"""Servers, by ``owned_by`` in their list of models, whose chats may have ``chat_template_kwargs``."""

Schema = Mapping[str, Any]


def _structured_outputs(schema: Schema) -> dict[str, Any]:
    """Of vLLM since 0.12; before, the field was guided_json."""
    return {"structured_outputs": {"json": schema}}


def _json_schema(schema: Schema) -> dict[str, Any]:
    """Of llama.cpp's server, which ignores ``response_format`` outside chats."""
    return {"json_schema": schema}


def _response_format(schema: Schema) -> dict[str, Any]:
    """As OpenAI documents it for chats. Its strict mode rejects limits on the length of strings."""
    described = {"name": "answer", "schema": _without_lengths(schema), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": described}}


def _without_lengths(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {name: inner for name, inner in value.items() if name not in ("minLength", "maxLength")}
        return {name: _without_lengths(inner) for name, inner in kept.items()}
    return [_without_lengths(inner) for inner in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Profile:
    """Capabilities of one kind of server.

    Attributes:
        prompt_ids: the prompt may be a list of token ids; else it is a string and the server adds BOS.
        chats: requests are chats (``/v1/chat/completions``) to which the server applies the model's chat template.
        extra: fields sent with every request besides model, prompt, max_tokens, temperature and those of ``takes``.
        takes: sampling settings that are honoured, each with the name of its request field. A request that needs any
            other is refused. Without ``seed`` the server decodes greedily, whatever temperature it is sent.
        ends_turns: an answer ends at every token that ends a message of the model, whether the request says so or not:
            stop ids that are control tokens need not be sent.
        neutral: fields whose default in this server is not neutral, with their neutral value: sent where the recipe
            sets nothing.
        free_fields: fields that are not listed here may be sent on a user's own account (``Sampling.extra``).
        answer_ids: field of a choice that holds the generated ids; empty where they must be made again from the text.
        echoed_ids: field of a choice that repeats the ids of the prompt, by which an answer to another request is
            noticed; empty where there is none.
        lists_model: /v1/models lists the served model by the name that requests use.
        json_schema: makes the fields that constrain an answer by a schema; None where the server cannot constrain
            answers, or only if it was started for it.
        scores: how log-likelihoods of a prompt are asked for: ``prompt_logprobs`` (vLLM: a list with a table per token,
            by id), ``echo`` (the prompt is repeated with ``logprobs.token_logprobs``), or empty where they are not to
            be had. trtllm-serve accepts ``echo`` but gives ``logprobs`` of the answer alone.
    """

    prompt_ids: bool
    chats: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    takes: Mapping[str, str] = field(default_factory=lambda: dict(_STANDARD))
    ends_turns: bool = False
    neutral: Mapping[str, Any] = field(default_factory=dict)
    free_fields: bool = True
    answer_ids: str = ""
    echoed_ids: str = ""
    lists_model: bool = True
    json_schema: Callable[[Schema], dict[str, Any]] | None = None
    scores: str = ""

    @property
    def samples(self) -> bool:
        """Whether a temperature above 0 is honoured."""
        return "seed" in self.takes


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
        echoed_ids="prompt_token_ids",
        json_schema=_structured_outputs,
        scores="prompt_logprobs",
    ),
    # Samples from the 40 likeliest tokens, with min_p 0.05, and penalizes repetitions of the last 64, unless it is told
    # otherwise. Its completions have no ids. It ignores the model's name in a request.
    "llama.cpp": Profile(
        prompt_ids=True,
        extra={"cache_prompt": True, "repeat_last_n": 1 << 16},
        takes=_LLAMA_CPP,
        ends_turns=True,
        neutral={"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
        lists_model=False,
        json_schema=_json_schema,
    ),
    # Takes strings only; chats have a schema, completions do not. Penalizes repetitions by 1.1 by default.
    "llama-cpp-python": Profile(
        prompt_ids=False,
        takes=_LLAMA_CPP,
        ends_turns=True,
        neutral={"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
        lists_model=False,
    ),
    # Refuses unknown fields and ids, accepts a temperature and ignores it.
    "transformers-serve": Profile(prompt_ids=False, takes={"stop": "stop"}, free_fields=False, lists_model=False),
    # Scores as the API that OpenAI documented for its first models; whether a server does is seen from its answer.
    "openai-compatible": Profile(prompt_ids=True, scores="echo"),
    # Any server with chats: hosted ones, Ollama, LM Studio, and those above. Names of models may be aliases.
    "openai-chat": Profile(prompt_ids=False, chats=True, lists_model=False, json_schema=_response_format),
}
