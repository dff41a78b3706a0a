from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_ipt.errors import InputError
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.synthesis import stage
from megatron_ipt.synthesis.config import SynthesisConfig
from tests.synthesis.conftest import texts_of, write_corpus

pytest.importorskip("torch")
pytest.importorskip("transformers")


def test_makes_pairs_whatever_the_batch(
    configure: Callable[..., SynthesisConfig], context: StageContext, model_folder: Path
) -> None:
    from tests.synthesis.tiny_model import PAIR

    texts = [text[: 30 + 29 * index % 120] for index, text in enumerate(texts_of(11))]
    write_corpus(context.inputs[DOCUMENTS], [texts])
    for size in (1, 4):
        context.directory = context.directory.with_name(f"batch{size}")
        config = configure(
            engine="transformers", chain_length=3, **{"generation.model": model_folder, "transformers.batch_size": size}
        )
        counts = stage.run(config, context)
        chains = list(stage.chains_in(context.directory))
        pairs = [pair for chain in chains for example in chain.examples for pair in example.pairs]
        assert [(pair.question, pair.answer) for pair in pairs] == [(PAIR.question, PAIR.answer)] * 11
        assert [len(chain.examples) for chain in chains] == [3, 3, 3, 2]
        assert counts["dropped"] == {}


def test_model_that_cannot_be_loaded(
    configure: Callable[..., SynthesisConfig], context: StageContext, tokenizer_folder: Path
) -> None:
    write_corpus(context.inputs[DOCUMENTS], [texts_of(1)])
    with pytest.raises(InputError, match=r"synthesis\.generation\.model: .* cannot be loaded"):
        stage.run(configure(engine="transformers"), context)


def test_context_beyond_the_model(
    configure: Callable[..., SynthesisConfig], context: StageContext, model_folder: Path
) -> None:
    write_corpus(context.inputs[DOCUMENTS], [texts_of(1)])
    config = configure(engine="transformers", **{"generation.model": model_folder, "generation.context_length": 4096})
    with pytest.raises(InputError, match=r"4096 is more than the 2048 positions"):
        stage.run(config, context)
