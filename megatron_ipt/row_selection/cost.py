"""Cost models: scoring rows is a forward pass over the tokens with each model, selecting one copy of what is kept."""

from __future__ import annotations

from megatron_ipt.row_selection.config import RowScoringConfig, RowSelectionConfig
from megatron_ipt.selection.cost import forward_passes
from megatron_ipt.selection.rows import ROW
from megatron_ipt.stages import ROW_SCORES, TOKENS
from megatron_ipt.stages.costs import Estimate, Planning, StageCost, TokenData
from megatron_ipt.tokens.cost import token_bytes

MB_PER_SECOND = 40.0
"""Of text; every row is looked at, and decoded where it has no scores."""


def scoring_cost(config: RowScoringConfig, planning: Planning) -> Estimate:
    """2 N FLOP for each token under each scorer, and attention."""
    data: TokenData = planning.inputs[TOKENS]
    costs, facts = forward_passes(config.scorers, data.tokens, planning)
    rows = data.tokens / config.seq_length
    return Estimate(
        costs=costs,
        makes={ROW_SCORES: data},
        storage_gb={"row_scores": rows * ROW.itemsize * len(config.scorers) / 1e9},
        facts={"row_scoring": facts},
    )


def cost(config: RowSelectionConfig, planning: Planning) -> Estimate:
    """Time to copy, and the size of what is kept."""
    data: TokenData = planning.inputs[TOKENS]
    tokens = float(planning.counts["train"]["tokens"]) if planning.counts else data.tokens * config.share
    return Estimate(
        costs=(StageCost.on_cores("row_selection", data.tokens, 1, MB_PER_SECOND),),
        makes={TOKENS: TokenData(tokens, data.vocab_size)},
        # An id and a byte of the loss mask for every token.
        storage_gb={"row_selection": tokens * (token_bytes(data.vocab_size) + 1) / 1e9},
        facts={"data": {"kept_tokens": tokens}},
    )
