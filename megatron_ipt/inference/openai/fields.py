"""The fields of a request, from the settings of its decoding, for one kind of server."""

from __future__ import annotations

from typing import Any

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.openai.profiles import Profile
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.tokenizer import PromptTokenizer


def sampling_fields(
    sampling: Sampling, profile: Profile, constrain: bool, tokenizer: PromptTokenizer, kind: str
) -> dict[str, Any]:
    """Request fields for ``sampling``.

    Args:
        sampling: settings of one request.
        profile: of the server.
        constrain: send the schema of the answer where the server takes one.
        tokenizer: knows which stop ids are control tokens.
        kind: the recipe key of the kind of server and its value, for errors.

    Raises:
        RecipeError: this kind of server does not honour one of the settings.
    """
    takes = profile.takes
    needed = set(sampling.beyond_greedy()) - {"temperature", "extra"}
    if sampling.temperature == 0:
        # What is left of sampling is the likeliest token.
        needed -= {"top_p", "top_k", "min_p"}
    # Control tokens are left out of decoded text.
    if profile.ends_turns and not any(tokenizer.decode([stop]) for stop in sampling.stop_ids):
        needed.discard("stop_ids")
    refused = needed - takes.keys()
    if sampling.temperature > 0 and not profile.samples:
        refused.add("temperature")
    if sampling.extra and not profile.free_fields:
        refused.update(sampling.extra)
    if refused:
        raise RecipeError(f"{kind} does not honour {', '.join(sorted(refused))}")
    fields: dict[str, Any] = {"max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}
    fields |= profile.neutral
    if "top_p" in takes:
        fields["top_p"] = sampling.top_p
    for name in needed - {"top_p"}:
        value = getattr(sampling, name)
        fields[takes[name]] = list(value) if isinstance(value, tuple) else value
    if sampling.json_schema is not None and constrain and profile.json_schema is not None:
        fields |= profile.json_schema(sampling.json_schema)
    return fields | dict(sampling.extra)
