from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.inference.config import TransformersConfig
from megatron_ipt.inference.engine import Completion, Prompt, Request
from megatron_ipt.inference.engines import open_engine
from megatron_ipt.inference.run import generate_all
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.settings import EngineSettings
from megatron_ipt.inference.tokenizer import PromptTokenizer
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


class TestSampling:
    """Settings of each request, on a random model whose text means nothing."""

    @pytest.fixture
    def answers(
        self, engine_settings: Callable[..., EngineSettings], random_model: Path
    ) -> Callable[..., list[Completion]]:
        def work(requests: list[Request], size: int = 16) -> list[Completion]:
            own = TransformersConfig(device="cpu", batch_size=size)
            return generate_all(open_engine(engine_settings("transformers", own, model=str(random_model))), requests)

        return work

    def prompts(self, tokenizer: PromptTokenizer) -> list[Prompt]:
        encoded = tokenizer.encode([text[: 20 + 17 * number % 90] for number, text in enumerate(texts_of(6))])
        return [Prompt([1, *ids], "") for ids in encoded]

    def test_a_seed_decides_whatever_the_batch(
        self, answers: Callable[..., list[Completion]], tokenizer: PromptTokenizer
    ) -> None:
        sampling = Sampling(12, temperature=0.9, top_p=0.95)
        requests = [Request(prompt, sampling, seed=number) for number, prompt in enumerate(self.prompts(tokenizer))]
        together, alone = answers(requests), answers(requests, size=1)
        assert [completion.ids for completion in together] == [completion.ids for completion in alone]
        others = answers([replace(request, seed=request.seed + 100) for request in requests])
        assert [completion.ids for completion in together] != [completion.ids for completion in others]

    def test_requests_that_are_decoded_differently_share_no_batch(
        self, answers: Callable[..., list[Completion]], tokenizer: PromptTokenizer
    ) -> None:
        prompts = self.prompts(tokenizer)
        kinds = [Sampling(3), Sampling(40), Sampling(40, temperature=1.5), Sampling(40, repetition_penalty=9.0)]
        mixed = answers([Request(prompt, kind, seed=4) for prompt in prompts for kind in kinds])
        found = []
        for number, kind in enumerate(kinds):
            apart = answers([Request(prompt, kind, seed=4) for prompt in prompts])
            found.append([completion.ids for completion in mixed[number :: len(kinds)]])
            assert found[-1] == [completion.ids for completion in apart]
        assert all(one != other for place, one in enumerate(found) for other in found[:place])

    def test_stop_ids_and_strings_end_an_answer(
        self, answers: Callable[..., list[Completion]], tokenizer: PromptTokenizer
    ) -> None:
        prompt = self.prompts(tokenizer)[1]
        (whole,) = answers([Request(prompt, Sampling(20))])
        assert len(whole.ids) == 20 and not whole.finished
        at = next(place for place in range(8, 20) if whole.ids[place] not in whole.ids[:place])
        (by_id,) = answers([Request(prompt, Sampling(20, stop_ids=(whole.ids[at],)))])
        assert by_id.ids == whole.ids[:at] and by_id.finished
        stop = whole.text[20:24]
        (by_text,) = answers([Request(prompt, Sampling(20, stop=(stop,)))])
        assert by_text.text == whole.text[: whole.text.index(stop)] and by_text.finished
        assert by_text.ids == whole.ids[: len(by_text.ids)]

    def test_further_settings_are_honoured_or_refused(
        self, answers: Callable[..., list[Completion]], tokenizer: PromptTokenizer
    ) -> None:
        prompt = self.prompts(tokenizer)[0]
        (plain,) = answers([Request(prompt, Sampling(100))])
        assert len(set(plain.ids)) < 100, "the model repeats no token; the next lines would prove nothing"
        (varied,) = answers([Request(prompt, Sampling(100, extra={"no_repeat_ngram_size": 1}))])
        assert len(set(varied.ids)) == len(varied.ids)
        with pytest.raises(RecipeError, match=r"score\.generation: .*transformers does not honour typical_p"):
            answers([Request(prompt, Sampling(30, extra={"typical_p": 0.5}))])

    def test_enough_ends_a_row_and_leaves_the_others_alone(
        self, answers: Callable[..., list[Completion]], tokenizer: PromptTokenizer
    ) -> None:
        prompts = self.prompts(tokenizer)
        whole = answers([Request(prompt, Sampling(40)) for prompt in prompts])

        def longer_than(characters: int) -> Callable[[str], bool]:
            return lambda text: len(text) > characters

        limits = [10, 10**6, 30, 60, 10, 10**6]
        requests = [
            Request(prompt, Sampling(40), enough=longer_than(limit), check_tokens=8)
            for prompt, limit in zip(prompts, limits)
        ]
        stopped = set()
        for size in (1, 3, 16):
            for completion, full, limit in zip(answers(requests, size), whole, limits):
                checks = range(8, len(full.ids) + 1, 8)
                ends = [end for end in checks if len(tokenizer.decode(full.ids[:end])) > limit]
                assert completion.ids == full.ids[: min(ends, default=40)]
                assert completion.enough == bool(ends) and completion.finished == (bool(ends) or full.finished)
                stopped.add(completion.enough)
        assert stopped == {True, False}

    def test_what_is_enough_only_at_the_limit_counts(
        self, answers: Callable[..., list[Completion]], tokenizer: PromptTokenizer
    ) -> None:
        prompt = self.prompts(tokenizer)[0]
        (completion,) = answers([Request(prompt, Sampling(10), enough=lambda text: True, check_tokens=32)])
        assert len(completion.ids) == 10 and completion.enough and completion.finished
