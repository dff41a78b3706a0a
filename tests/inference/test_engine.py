"""What all engines have in common, and the table that names them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.inference.config import GenerationConfig, OpenAIConfig
from megatron_ipt.inference.engine import Completion, Engine, Prompt, Request, RequestRefused
from megatron_ipt.inference.engines import ENGINES, EngineRow, load_engine, open_engine
from megatron_ipt.inference.run import generate_all, score_all
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.scoring import Score, ScoreRequest
from megatron_ipt.inference.settings import EngineSettings
from megatron_ipt.synthesis.config import SynthesisConfig

Settings = Callable[..., EngineSettings]


class Silent(Engine):
    """Can do nothing."""


class Counting(Engine):
    """Scores a text by its length, the later the longer it is; counts what is in flight."""

    score_window = 3

    def __init__(self, settings: EngineSettings, tokenizer: Any):
        super().__init__(settings, tokenizer)
        self.now = self.most = 0

    async def score(self, request: ScoreRequest) -> Score:
        if not request.ids:
            raise RequestRefused("nothing to score")
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001 * (9 - len(request.ids)))
        self.now -= 1
        return request.score([-1.0] * len(request.counted))

    async def generate(self, request: Request) -> Completion:
        return self.completion(request.prompt.ids[::-1], True, len(request.prompt.ids))


class TestWhereAnAnswerEnds:
    @pytest.fixture
    def engine(self, engine_settings: Settings, tokenizer: Any) -> Engine:
        return Silent(engine_settings("silent"), tokenizer)

    def test_at_eos(self, engine: Engine) -> None:
        ids = engine.tokenizer.encode(["the river"])[0]
        completion = engine.completion([*ids, engine.tokenizer.eos_id, 7, 7], False, 4)
        assert completion == Completion(ids, "the river", True, 4, generated_tokens=len(ids) + 1)

    def test_at_the_first_stop_id(self, engine: Engine) -> None:
        completion = engine.completion([5, 6, 7, 8, 2], False, 4, sampling=Sampling(9, stop_ids=(8, 7)))
        assert completion.ids == [5, 6] and completion.finished

    def test_at_the_token_limit(self, engine: Engine) -> None:
        assert not engine.completion([5, 6], False, 4, sampling=Sampling(2, stop=("zz",))).finished

    def test_before_the_first_stop_string(self, engine: Engine) -> None:
        ids = engine.tokenizer.encode(["the river\nQuestion: no more\n"])[0]
        completion = engine.completion(ids, False, 4, sampling=Sampling(9, stop=("more", "\nQuestion")))
        assert (completion.text, completion.finished) == ("the river", True)
        assert completion.ids == ids[: len(completion.ids)]
        # Ids of the answer and nothing of the stop string, the longest such beginning.
        assert engine.tokenizer.decode(completion.ids) == "the river"

    def test_a_stop_string_inside_a_token(self, engine: Engine) -> None:
        (river,) = [token for token in range(600) if engine.tokenizer.decode([token]) == " river"]
        completion = engine.completion([5, river], True, 4, sampling=Sampling(9, stop=("ver",)))
        assert completion.text.endswith(" ri") and completion.ids == [5]

    def test_control_tokens_are_no_stop_strings(self, engine: Engine) -> None:
        with pytest.raises(RecipeError, match=r"score\.generation: the stop string '</s>' is a control token"):
            engine.refuse_control_tokens(Sampling(9, stop=("\n", "</s>")))


class TestWhatAnEngineCannotDo:
    def test_is_refused(self, engine_settings: Settings, tokenizer: Any) -> None:
        engine = Silent(engine_settings("tests.inference.test_engine:Silent"), tokenizer)
        with pytest.raises(RecipeError, match=r"score\.engine: the engine .*Silent does not score"):
            asyncio.run(engine.score(ScoreRequest([1, 5])))
        with pytest.raises(RecipeError, match=r"score\.engine: the engine .*Silent does not generate"):
            asyncio.run(engine.generate(Request(Prompt([1], ""), Sampling(4))))
        assert not Silent.generates() and not Silent.scores()
        assert Counting.generates() and Counting.scores()

    def test_a_text_longer_than_the_context_names_the_key(self, engine_settings: Settings, tokenizer: Any) -> None:
        engine = Silent(engine_settings("silent"), tokenizer)
        engine.check_length(ScoreRequest([5] * 256))
        with pytest.raises(InputError, match=r"257 tokens .* 256 .*score\.generation\.context_length = 256"):
            engine.check_length(ScoreRequest([5] * 257))


class TestTable:
    @pytest.fixture(autouse=True)
    def _unchanged(self) -> Iterator[None]:
        before = dict(ENGINES)
        yield
        ENGINES.clear()
        ENGINES.update(before)

    @pytest.mark.parametrize("name", [name for name, row in ENGINES.items() if "megatron_ipt.inference" in row.code])
    def test_says_what_the_class_can_do(self, name: str) -> None:
        engine = load_engine(name)
        assert (engine.generates(), engine.scores()) == (ENGINES[name].generates, ENGINES[name].scores)

    def test_takes_rows_of_extensions(self, engine_settings: Settings) -> None:
        ENGINES["counting"] = EngineRow("tests.inference.test_engine:Counting", "by length", scores=True)
        assert load_engine("counting") is Counting
        engine = open_engine(engine_settings("counting"))
        assert isinstance(engine, Counting) and engine.tokenizer.eos_id == 2

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("transformer", r"score\.engine: 'transformer' is not one of tensorrt_llm, .* Did you mean transformers"),
            ("no.such:Engine", r"score\.engine: no\.such cannot be imported"),
            ("tests.inference.test_engine:TestTable", "is not a subclass of megatron_ipt.inference.engine.Engine"),
        ],
    )
    def test_unknown_engines_are_named(self, name: str, message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            load_engine(name, "score.engine")

    def test_a_missing_tokenizer_names_the_key(self, engine_settings: Settings, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"score\.generation\.tokenizer: no tokenizer at"):
            open_engine(engine_settings("tests.inference.test_engine:Counting", tokenizer=str(tmp_path)))


class TestSettings:
    def test_of_a_section(self) -> None:
        section = SynthesisConfig(engine="openai", generation=GenerationConfig(model="m"))
        settings = EngineSettings.of(section, "synthesis")
        assert isinstance(settings.own, OpenAIConfig) and settings.tokenizer == "m"
        assert settings.key("openai.server") == "synthesis.openai.server"

    def test_of_a_custom_engine(self) -> None:
        section = SynthesisConfig(engine="a.py:B", generation=GenerationConfig(tokenizer="t"), options={"x": 1})
        settings = EngineSettings.of(section, "")
        assert settings.own is None and settings.options == {"x": 1}
        assert (settings.tokenizer, settings.key("engine")) == ("t", "engine")


class TestManyRequests:
    @pytest.fixture
    def engine(self, engine_settings: Settings, tokenizer: Any) -> Counting:
        return Counting(engine_settings("counting"), tokenizer)

    def test_come_back_in_order(self, engine: Counting) -> None:
        scores = score_all(engine, (ScoreRequest([1] * length) for length in range(1, 9)))
        assert [score.tokens for score in scores] == list(range(8))
        assert engine.most == 3

    def test_in_a_notebook(self, engine: Counting) -> None:
        async def cell() -> list[Score]:
            return score_all(engine, [ScoreRequest([1, 2])])

        assert asyncio.run(cell()) == [Score(-1.0, 1)]

    def test_the_first_refusal_ends_it(self, engine: Counting) -> None:
        with pytest.raises(RequestRefused, match="nothing to score"):
            score_all(engine, [ScoreRequest([1] * 8), ScoreRequest([]), ScoreRequest([1])])

    def test_generation(self, engine: Counting) -> None:
        requests = [Request(Prompt([5, 6, number], ""), Sampling(4)) for number in range(7, 99)]
        assert [completion.ids for completion in generate_all(engine, requests, window=4)] == [
            [number, 6, 5] for number in range(7, 99)
        ]


class TestScoreRequest:
    def test_the_first_token_is_never_counted(self) -> None:
        assert ScoreRequest([5, 6, 7]).counted == [1, 2]
        assert ScoreRequest([5, 6, 7], [True, False, True]).counted == [2]
        assert ScoreRequest([5]).counted == ScoreRequest([]).counted == []

    def test_a_mask_of_another_length(self) -> None:
        with pytest.raises(ValueError, match="a mask of 2 flags for 3 ids"):
            ScoreRequest([5, 6, 7], [True, False])
