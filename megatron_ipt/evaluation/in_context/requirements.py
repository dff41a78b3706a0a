"""What a model must be like for groups that are encoded apart, and the memory they take.

Keys and values of all groups stay in memory: 2 * layers * heads of keys * width of a head * bytes per number, for each
token. Everything else depends on how many tokens are computed at once, which is therefore what a limit on the memory
sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megatron_ipt.errors import InputError

GIB = 2**30
MOST_QUERIES = 512
"""Tokens that are computed at once where nothing limits them."""
_CHANGING_ROPE = ("dynamic", "longrope")


def refuse_model(model: Any) -> None:
    """Raises InputError if the attention of ``model`` cannot be shared among groups."""
    config = model.config
    name = type(model).__name__
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"]) - {"full_attention"}
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if kinds or (window is not None and not getattr(config, "layer_types", None)):
        what = f"layers of kind {', '.join(sorted(kinds))}" if kinds else f"a sliding window of {window} tokens"
        raise InputError(
            f"{name} has {what}: a token there does not see all demonstrations, so they cannot be put into groups; use "
            "a model with full attention in every layer"
        )
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = rope.get("rope_type", rope.get("type"))
    if kind in _CHANGING_ROPE:
        raise InputError(
            f"{name} rotates positions in a way that depends on the length of the text (rope {kind}), so keys of "
            "groups and of questions would not match; use a model without it"
        )
    attention = getattr(config, "_attn_implementation", "eager")
    if attention not in ("sdpa", "eager"):
        raise InputError(f"{name} runs with attention {attention}, which takes no mask; load it with sdpa or eager")


def context_length(config: Any) -> int:
    """Most positions of the model."""
    length = getattr(config, "max_position_embeddings", None)
    if not length:
        raise InputError(f"{type(config).__name__} has no max_position_embeddings: the context of the model is unknown")
    return int(length)


@dataclass(frozen=True)
class Memory:
    """What a context takes, in bytes.

    Attributes:
        queries: tokens computed at once.
        keys_and_values: of all groups and of the tokens after them.
        largest_pass: beside them, while ``queries`` tokens are computed.
    """

    queries: int
    keys_and_values: int
    largest_pass: int

    @property
    def total(self) -> int:
        return self.keys_and_values + self.largest_pass


def plan_memory(
    config: Any, bytes_per_number: int, tokens: int, longest: int, group: int = 0, limit_gib: float | None = None
) -> Memory:
    """The largest passes that fit.

    Args:
        config: of the model.
        bytes_per_number: of keys, values and activations.
        tokens: of all groups.
        longest: tokens of the longest question with all that is computed of it at once.
        group: tokens of the longest group, which is encoded in one pass.
        limit_gib: most memory beside the weights.

    Raises:
        InputError: the limit does not suffice for the longest question.
    """
    queries = max(MOST_QUERIES, longest)
    while True:
        memory = _memory(config, bytes_per_number, tokens, queries, group)
        if limit_gib is None or memory.total <= limit_gib * GIB:
            return memory
        if queries <= longest:
            raise InputError(
                f"{tokens} tokens of demonstrations take {memory.total / GIB:.2f} GiB (keys and values "
                f"{memory.keys_and_values / GIB:.2f}), above in_context.memory_gib of {limit_gib:g}; raise it, or use "
                "fewer demonstrations"
            )
        queries = max(longest, queries // 2)


def _memory(config: Any, size: int, tokens: int, queries: int, group: int) -> Memory:
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    total = tokens + queries
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size

    def activations(count: int) -> int:
        return size * count * (3 * inner + 6 * config.hidden_size)

    # The mask, twice while it is made; keys and values, repeated for every head of queries where they share them.
    mask = 2 * size * queries * total
    repeated = 2 * size * heads * width * total if heads != key_heads else 0
    # Logits in fp32 and their log-softmax, of every token at worst.
    logits = 2 * 4 * queries * config.vocab_size
    scores = 2 * size * heads * queries * total if getattr(config, "_attn_implementation", "") == "eager" else 0
    of_pass = mask + repeated + scores + logits + activations(queries)
    return Memory(
        queries, 2 * size * config.num_hidden_layers * key_heads * width * total, max(of_pass, activations(group))
    )
