"""What each kind of OpenAI-compatible server can do, as a table.

Sources: trtllm-serve 1.2 and vLLM 0.33 read in source, transformers serve 5.23 run on CPU. Adding a server is adding a
row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Profile:
    """Capabilities of one kind of server.

    Attributes:
        prompt_ids: the prompt may be a list of token ids; else it is a string and the server adds BOS.
        extra: fields sent with every request beside model, prompt, max_tokens, temperature, top_p and seed.
        answer_ids: field of a choice that holds the generated ids; empty where they must be made again from the text.
        samples: temperature, top_p and seed are honoured; else they are not sent and the server decodes greedily.
        lists_model: /v1/models lists the served model by the name that requests use.
    """

    prompt_ids: bool
    extra: Mapping[str, Any] = field(default_factory=dict)
    answer_ids: str = ""
    samples: bool = True
    lists_model: bool = True


PROFILES: dict[str, Profile] = {
    "trtllm-serve": Profile(
        prompt_ids=True, extra={"add_special_tokens": False, "detokenize": False}, answer_ids="token_ids"
    ),
    "vllm": Profile(
        prompt_ids=True, extra={"add_special_tokens": False, "return_token_ids": True}, answer_ids="token_ids"
    ),
    # Refuses unknown fields and ids, accepts a temperature and ignores it.
    "transformers-serve": Profile(prompt_ids=False, samples=False, lists_model=False),
    "openai-compatible": Profile(prompt_ids=True),
}
