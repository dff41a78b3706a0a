"""The cost model: both kinds are read, and passed on as they are."""

from __future__ import annotations

import pytest

from megatron_ipt.decontamination.config import DecontaminateConfig
from megatron_ipt.decontamination.cost import MB_PER_SECOND, cost
from megatron_ipt.stages import CHAINS, DOCUMENTS
from megatron_ipt.stages.costs import CHARACTERS_PER_TOKEN, Documents, Machine, PairedTexts, Planning


def test_time_of_texts_pairs_and_documents() -> None:
    # 1,000 documents of 500 tokens; 800 texts of 500 tokens with 4,000 pairs of 50.
    inputs = {DOCUMENTS: Documents(1000, 500, 0.8), CHAINS: PairedTexts(800, 500, 4000, 50)}
    estimate = cost(DecontaminateConfig(against=["t"]), Planning(Machine(0, cores=2), None, inputs))  # type: ignore[arg-type]
    megabytes = (500_000 + 400_000 + 200_000) * CHARACTERS_PER_TOKEN / 1e6
    assert estimate.costs[0].hours == pytest.approx(megabytes / MB_PER_SECOND / 2 / 3600)
    assert estimate.makes == inputs
