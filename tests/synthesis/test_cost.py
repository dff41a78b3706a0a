"""The cost model of the stage against published figures."""

from __future__ import annotations

import pytest

from megatron_ipt.synthesis.cost import seconds_per_request


@pytest.mark.parametrize(
    # Published TensorRT-LLM v1.0 output tokens/s of Llama-3.1-8B in FP8 on one H100, by input and output length.
    ("tokens_in", "tokens_out", "rate"),
    [(500, 2000, 17660), (1000, 1000, 15220), (1000, 2000, 13899), (2048, 128, 3450), (2048, 2048, 9305),
     (5000, 500, 3459)],
)  # fmt: skip
def test_the_synthesizer_is_as_fast_as_published(tokens_in, tokens_out, rate):
    assert tokens_out / seconds_per_request(tokens_in, tokens_out) == pytest.approx(rate, rel=0.016)
