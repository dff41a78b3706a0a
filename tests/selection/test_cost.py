"""What ``plan`` says of scoring and selection, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.files import write_json
from megatron_ipt.selection.config import ScorerConfig, ScorerGeneration, ScoringConfig, SelectionConfig
from megatron_ipt.selection.cost import cost, flops_of, scoring_cost
from megatron_ipt.stages import DOCUMENTS, TOKENS
from megatron_ipt.stages.costs import Assumptions, Demand, Documents, Machine, Planning

LLAMA = {
    "model_type": "llama", "num_hidden_layers": 4, "hidden_size": 1024, "intermediate_size": 4096,
    "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 2048, "vocab_size": 1000,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
}  # fmt: skip


def planning(**keys: Any) -> Planning:
    return Planning(Machine(8), Assumptions(), {DOCUMENTS: Documents(1e6, 500.0)}, **keys)


def scorer(folder: Path, **keys: Any) -> ScorerConfig:
    return ScorerConfig(generation=ScorerGeneration(model=str(folder)), seq_length=1024, **keys)


def test_two_operations_per_weight_and_token(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", LLAMA)
    weights = 4 * (4 * 1024 * 1024 + 3 * 1024 * 4096) + 1000 * 1024
    # Causal attention: two products of a mean of half of 1,024 positions by 1,024 channels, in each layer.
    attention = 2 * 4 * 2 * 512 * 1024
    assert flops_of(scorer(tmp_path), 1e9) == pytest.approx((2 * weights + attention) * 1e9)
    estimate = scoring_cost(ScoringConfig({"teacher": scorer(tmp_path)}), planning())
    (row,) = estimate.costs
    assert row.hours == pytest.approx((2 * weights + attention) * 5e8 / (989e12 * 0.6 * 0.9) / 8 / 3600)
    assert estimate.storage_gb == {"scores": pytest.approx(0.032)}


def test_a_model_elsewhere_is_unknown(tmp_path: Path) -> None:
    (row,) = scoring_cost(ScoringConfig({"teacher": scorer(tmp_path / "none")}), planning()).costs
    assert row.hours is None and "not here" in row.basis


@pytest.mark.parametrize(("wanted", "notes"), [(1.0e9, 0), (1.1e9, 1)])
def test_more_than_four_passes_are_noted(wanted: float, notes: int) -> None:
    demands = {TOKENS: Demand(wanted, "", "")}
    estimate = cost(SelectionConfig(rule="random", share=0.5), planning(demands=demands))
    assert estimate.makes[DOCUMENTS] == Documents(5e5, 500.0)
    assert len(estimate.notes) == notes
    assert all("about 5 times" in note for note in estimate.notes)


def test_a_finished_selection_is_counted() -> None:
    estimate = cost(SelectionConfig(rule="random", share=0.5), planning(counts={"documents": 123}))
    assert estimate.makes[DOCUMENTS] == Documents(123.0, 500.0)
