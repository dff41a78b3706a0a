"""Settings of the engines. Importing this imports no engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from megatron_ipt.config import key
from megatron_ipt.inference.openai.profiles import PROFILES
from megatron_ipt.models import divisibility


@dataclass
class GenerationConfig:
    """What all engines share."""

    model: str = key("", "Folder or name of the model; for openai the name that the server knows it by.")
    tokenizer: str = key(
        "",
        "Folder or file of its tokenizer (tokenizer.json or tokenizer.model). By default, the folder of the model. "
        "Optional with openai.server openai-chat: without it, every byte of a text counts as a token.",
    )
    context_length: int = key(
        4096,
        "Tokens of prompt and answer together; at most what the model, or the server of it, is able to take.",
        minimum=128,
    )
    max_new_tokens: int = key(400, "Maximum number of tokens of one answer: the pairs of one text.", minimum=1)
    temperature: float | None = key(
        None,
        "0 always takes the likeliest token, reproducible up to rounding; above 0 samples. By default, what the prompt "
        "style recommends: 0 for synthesizer, 0.7 for chat.",
        minimum=0,
    )
    top_p: float | None = key(
        None,
        "Sample from the likeliest tokens that together reach this probability; 1 keeps all. By default, what the "
        "prompt style recommends: 1 for synthesizer, 0.9 for chat.",
        minimum=0.01,
        maximum=1,
    )
    top_k: int | None = key(None, "Sample from this many of the likeliest tokens. Null keeps all.", minimum=1)
    min_p: float | None = key(
        None,
        "Sample from tokens that are at least this fraction as likely as the likeliest. Null keeps all.",
        minimum=0,
        maximum=1,
    )
    repetition_penalty: float | None = key(
        None,
        "Above 1, tokens that occur in prompt or answer become less likely: 1.05 to 1.2 keeps small models out of "
        "loops, but discourages quoting the text. Null changes nothing.",
        minimum=0.01,
    )
    repeat_check_tokens: int | None = key(
        None,
        "Stop an answer that repeats its own pairs; it is checked whenever this many tokens were generated. 0 never "
        "checks. By default every 32 tokens with transformers, where that costs nothing, and never with other engines: "
        "they have to be asked for this many tokens at a time, so set 64 or more and use a prefix cache.",
        minimum=0,
    )
    stop: list[str] = key([], "Strings that end an answer; the answer is the text before them.")
    window: int | None = key(
        None,
        "Chains in flight at the same time. Null: as many as keep the engine busy.",
        minimum=1,
        affects_output=False,
    )
    max_refused_share: float = key(
        0.01,
        "Stop when the engine refuses more than this fraction of the texts, and more than one text; 0 allows none. "
        "Refused texts are kept without pairs, and can be asked about again.",
        minimum=0,
        maximum=1,
        affects_output=False,
    )
    metrics_seconds: float = key(10.0, "Seconds between lines of metrics.jsonl.", minimum=0.1, affects_output=False)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.max_new_tokens >= self.context_length:
            yield (
                "max_new_tokens",
                f"{self.max_new_tokens} leaves no room for a prompt in context_length {self.context_length}",
            )
        if not all(self.stop):
            yield "stop", "an empty string would end every answer before it begins"

    def fill_in(self, recommended: Mapping[str, Any]) -> None:
        """Sets keys that the recipe leaves to the prompt style."""
        for name, value in recommended.items():
            if getattr(self, name) is None:
                setattr(self, name, value)


@dataclass
class TensorRTConfig:
    tensor_parallel_size: int = key(
        1,
        "GPUs per replica. One process per GPU with 1 is fastest wherever the model fits.",
        minimum=1,
        affects_output=False,
    )
    max_batch_size: int = key(1024, "Requests in one forward pass.", minimum=1, affects_output=False)
    max_num_tokens: int = key(8192, "Tokens in one forward pass.", minimum=1, affects_output=False)
    kv_cache_dtype: str = key("auto", "Data type of the KV cache; fp8 holds twice the chains.", choices=("auto", "fp8"))
    kv_cache_memory_share: float = key(
        0.9, "Fraction of the GPU memory left after loading the model that the KV cache takes.",
        minimum=0.05, maximum=0.98, affects_output=False,
    )  # fmt: skip
    host_cache_gib: float = key(
        0.0, "Host memory for cache blocks evicted from the GPU, in GiB.", minimum=0, affects_output=False
    )


OWN_FIELDS = {
    "model": "set generation.model",
    "prompt": "it is made from the text",
    "max_tokens": "set generation.max_new_tokens",
    **{
        name: f"set generation.{name}"
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop")
    },
    "seed": "set the seed of the recipe",
    "n": "one answer is read per request",
    "stream": "answers are read whole",
}
"""Fields of a request that ``openai.extra`` may not set, and what to do instead."""

REMOVABLE = ("max_tokens", "temperature", "top_p", "seed")
"""Fields that a null in ``openai.extra`` takes out of every request, for servers or models that reject them."""


@dataclass
class OpenAIConfig:
    base_urls: list[str] = key(
        ["http://127.0.0.1:8000/v1"],
        "Servers, all of the same model; every chain stays on one of them.",
        affects_output=False,
    )
    server: str = key(
        "vllm",
        "Kind of server, which decides what may be sent to it. openai-chat: any that answers chats (hosted models, "
        "Ollama, LM Studio, ...), with prompt styles that make chats. openai-compatible: any other that takes token "
        "ids.",
        choices=tuple(PROFILES),
        affects_output=False,
    )
    api_key_variable: str = key(
        "OPENAI_API_KEY", "Environment variable that holds the API key, if the server needs one.", affects_output=False
    )
    timeout: float = key(600.0, "Time limit of one request, in seconds.", minimum=0.1, affects_output=False)
    patience: float = key(
        900.0,
        "Seconds for which failures (429, 5xx, timeouts, lost connections) are retried before giving up: the longest "
        "restart of a server that a run survives.",
        minimum=0,
        affects_output=False,
    )
    max_backoff: float = key(30.0, "Maximum pause between retries, in seconds.", minimum=0.01, affects_output=False)
    json_schema: bool = key(
        True,
        "Constrain answers that should be JSON by a schema where the kind of server is known to be able to "
        f"({', '.join(name for name, profile in PROFILES.items() if profile.json_schema)}). "
        "Other servers: see extra. Answers are parsed leniently either way.",
    )
    extra: dict[str, Any] = key(
        {},
        "Further fields of every request, for what a server offers beyond the other keys, e.g. "
        "{frequency_penalty: 0.3}. The names are those of the server. Null leaves out a field that the server or model "
        f"rejects ({', '.join(REMOVABLE)}).",
    )

    @property
    def chats(self) -> bool:
        """Whether requests are chats, to which the server applies the chat template."""
        return PROFILES[self.server].chats

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in sorted(self.extra.keys() & OWN_FIELDS.keys()):
            if self.extra[name] is not None or name not in REMOVABLE:
                yield f"extra.{name}", f"is sent by megatron-ipt itself; {OWN_FIELDS[name]}"
        if self.extra and not PROFILES[self.server].free_fields:
            yield "extra", f"{self.server} rejects fields that it does not know; remove {', '.join(self.extra)}"
        if not self.base_urls:
            yield "base_urls", "is empty; name at least one server, e.g. [http://127.0.0.1:8000/v1]"
        for url in self.base_urls:
            if not url.startswith(("http://", "https://")):
                yield "base_urls", f"{url!r} is not an http address, e.g. http://127.0.0.1:8000/v1"


@dataclass
class TransformersConfig:
    device: str = key(
        "auto", "auto: the first GPU if there is one, else the CPU; or a torch device.", affects_output=False
    )
    dtype: str = key(
        "auto",
        "Data type of the weights; auto: as in the checkpoint.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    batch_size: int = key(16, "Requests generated together, of similar length.", minimum=1, affects_output=False)
    score_tokens: int = key(
        8192, "Tokens scored in one forward pass, padding included.", minimum=1, affects_output=False
    )


@dataclass
class MegatronConfig:
    """A Megatron-Core checkpoint and the ranks that score with it; the layout need not be that of the training."""

    precision: str = key(
        "auto",
        "Arithmetic of the forward pass; auto is bf16 on a GPU and fp32 on a CPU. Log-probabilities are always fp32.",
        choices=("auto", "fp32", "bf16"),
    )
    tensor_model_parallel_size: int = key(1, "Ranks that share each layer.", minimum=1, affects_output=False)
    pipeline_model_parallel_size: int = key(1, "Ranks that hold successive layers.", minimum=1, affects_output=False)
    sequence_parallel: bool = key(
        False, "Split norms and residuals along the sequence over the tensor-parallel ranks.", affects_output=False
    )
    nproc: int | None = key(
        None,
        "Ranks started on this machine; empty for as many as hold one copy of the model. Further ranks hold further "
        "copies, each of which scores other texts.",
        minimum=1,
        affects_output=False,
    )
    batch_tokens: int = key(
        8192, "Maximum tokens of one forward pass, padding included; a longer text goes alone.", minimum=1,
        affects_output=False,
    )  # fmt: skip
    distributed_timeout_minutes: float = key(
        30, "Minutes that ranks may take to start, or wait for each other, before giving up.", minimum=0.1,
        affects_output=False,
    )  # fmt: skip

    def ranks_per_copy(self) -> int:
        """Ranks that hold one copy of the model."""
        return self.tensor_model_parallel_size * self.pipeline_model_parallel_size

    def ranks(self) -> int:
        """Ranks to start."""
        return self.nproc or self.ranks_per_copy()

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.ranks() % self.ranks_per_copy():
            yield (
                "nproc",
                f"{self.ranks()} ranks cannot be divided into groups of tensor_model_parallel_size="
                f"{self.tensor_model_parallel_size} x pipeline_model_parallel_size={self.pipeline_model_parallel_size};"
                f" nearest that can: {divisibility.multiples(self.ranks(), self.ranks_per_copy())}",
            )
        if self.sequence_parallel and self.tensor_model_parallel_size == 1:
            yield "sequence_parallel", "needs tensor_model_parallel_size of 2 or more"


def generation_problems(section: Any) -> Iterator[tuple[str, str]]:
    """What is wrong with a section that names an engine with a model: (key, what)."""
    if not section.generation.model:
        yield "generation.model", f"required by the engine {section.engine}: folder or name of the model"
    if (
        section.engine == "openai"
        and section.generation.temperature != 0
        and not PROFILES[section.openai.server].samples
    ):
        yield "generation.temperature", f"{section.openai.server} ignores it and decodes greedily; set it to 0"
