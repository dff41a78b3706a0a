"""Answers in a loop are stopped while they are generated, and keep the pairs before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.engine import Completion, Request
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import DOCUMENTS
from megatron_ipt.synthesis import stage
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_text.prompted.prompt import PromptFormat
from megatron_ipt.synthesis.from_text.prompted.style import TextPrompt
from tests.synthesis.conftest import texts_of, write_corpus
from tests.synthesis.instant import InstantEngine
from tests.synthesis.scripted import write_chat_tokenizer

ONE, TWO, THREE = (f"<QUE> {name}? <ANS> {name}. </END>\n\n" for name in ("One", "Two", "Three"))
ANY = TextPrompt([], "")


@pytest.mark.parametrize(
    ("answer", "repeats"),
    [
        ("", False),
        (ONE + TWO, False),
        (ONE + TWO + ONE, False),  # A slip.
        (ONE + TWO + ONE + TWO[:-8], False),
        (ONE + TWO + ONE + TWO, True),
        (ONE + ONE + ONE, True),
    ],
)
def test_two_repeated_pairs_are_a_loop(prompts: PromptFormat, answer: str, repeats: bool) -> None:
    assert prompts.repeats(answer, ANY) == repeats


@pytest.mark.parametrize("kept", [ONE, ONE + TWO, ONE + TWO + ONE + THREE])
def test_what_is_kept_ends_with_the_last_new_pair(prompts: PromptFormat, kept: str) -> None:
    text = kept + ONE + ONE + "<QUE> On"
    ids = prompts.tokenizer.encode([text])[0]
    found = prompts.without_repeats(Completion(ids, text, True, 1, enough=True), ANY)
    assert found.text == kept.strip() and prompts.tokenizer.decode(found.ids) == found.text
    assert found.ids == ids[: len(found.ids)] and found.enough


class LoopingEngine(InstantEngine):
    """Repeats its pairs for ever, a token at a time; honours ``enough`` if it is told to."""

    checks_answers = True
    answers: ClassVar[dict[str, str]] = {}
    asked: ClassVar[list[tuple[Request, Completion]]] = []

    async def generate(self, request: Request) -> Completion:
        loop = next(text for word, text in self.answers.items() if word in request.prompt.text)
        limit = request.sampling.max_new_tokens
        ids = self.tokenizer.encode([loop * 50])[0][:limit]
        for end in range(request.check_tokens, limit + 1, request.check_tokens):
            if request.enough is not None and request.enough(self.tokenizer.decode(ids[:end])):
                stopped = self.completion(ids[:end], True, len(request.prompt.ids))
                done = Completion(stopped.ids, stopped.text, True, stopped.prompt_tokens, enough=True)
                break
        else:
            done = self.completion(ids, False, len(request.prompt.ids))
        self.asked.append((request, done))
        return done


class SegmentedEngine(LoopingEngine):
    """A server: knows nothing of ``enough``."""

    checks_answers = False

    async def generate(self, request: Request) -> Completion:
        loop = next(text for word, text in self.answers.items() if word in request.prompt.text)
        ids = self.tokenizer.encode([loop * 50])[0]
        # What it has written already is the end of the prompt.
        done = next(n for n in range(len(ids)) if not n or (request.prompt.ids[-n:] == ids[:n] and n >= self.begun))
        self.begun = done + request.sampling.max_new_tokens
        part = ids[done : self.begun]
        completion = self.completion(part, False, len(request.prompt.ids))
        self.asked.append((request, completion))
        return completion

    begun = 0

    def continues(self, request: Request) -> bool:
        return True


@pytest.fixture(autouse=True)
def looping() -> None:
    LoopingEngine.asked.clear()
    LoopingEngine.answers.clear()
    LoopingEngine.answers["<CON>"] = ONE + TWO


def run(config: SynthesisConfig, context: StageContext, texts: int = 4) -> dict[str, Any]:
    write_corpus(context.inputs[DOCUMENTS], [texts_of(texts)])
    return stage.run(config, context)


def test_a_loop_is_stopped_and_is_no_stream_of_drops(
    configure: Callable[..., SynthesisConfig], context: StageContext
) -> None:
    counts = run(configure(engine="tests.synthesis.test_repeats:LoopingEngine"), context)
    assert counts["pairs"] == 8 and counts["answers_stopped_at_repeats"] == 4
    assert counts["dropped"] == {} and "answers_cut_off" not in counts
    pair = len(LoopingEngine.asked[0][1].ids)
    assert pair % 32 == 0 and counts["generated_tokens"] == 4 * pair < 4 * 128
    # The next prompt of the chain repeats the pairs without the loop.
    (second,) = {request.prompt.text for request, _ in LoopingEngine.asked if "Text0" in request.prompt.text} - {
        LoopingEngine.asked[0][0].prompt.text
    }
    assert second.count(ONE.strip()) == second.count(TWO.strip()) == 1


def test_turned_off_it_runs_to_the_limit(configure: Callable[..., SynthesisConfig], context: StageContext) -> None:
    config = configure(engine="tests.synthesis.test_repeats:LoopingEngine", **{"generation.repeat_check_tokens": 0})
    counts = run(config, context)
    assert counts["pairs"] == 8 and counts["answers_cut_off"] == 4 and counts["generated_tokens"] == 4 * 128
    assert set(counts["dropped"]) == {"question repeated", "cut off by the token limit"}
    assert "answers_stopped_at_repeats" not in counts


def test_other_engines_are_asked_in_segments_where_the_recipe_says_so(
    configure: Callable[..., SynthesisConfig], context: StageContext
) -> None:
    settings = {"engine": "tests.synthesis.test_repeats:SegmentedEngine", "chain_length": 1}
    config = configure(**settings, **{"generation.repeat_check_tokens": 40, "generation.window": 1})
    counts = run(config, context, 1)
    assert counts["pairs"] == 2 and counts["answers_stopped_at_repeats"] == 1 and counts["dropped"] == {}
    assert {request.sampling.max_new_tokens for request, _ in LoopingEngine.asked} == {40}
    assert all(request.enough is None for request, _ in LoopingEngine.asked) and len(LoopingEngine.asked) == 2


def test_by_default_other_engines_are_not(configure: Callable[..., SynthesisConfig], context: StageContext) -> None:
    settings = {"engine": "tests.synthesis.test_repeats:SegmentedEngine", "chain_length": 1, "generation.window": 1}
    run(configure(**settings), context, 1)
    assert [request.sampling.max_new_tokens for request, _ in LoopingEngine.asked] == [128]


def test_an_engine_that_cannot_is_named(configure: Callable[..., SynthesisConfig], context: StageContext) -> None:
    config = configure(**{"generation.repeat_check_tokens": 40})
    with pytest.raises(RecipeError, match=r"synthesis\.generation\.repeat_check_tokens: .* cannot continue an answer"):
        run(config, context)


@pytest.mark.parametrize(
    "written",
    [
        '{{"question": "{0}?", "answer": "{0}."}}, ',
        "Question: {0}?\nAnswer: {0}.\n\n",
    ],
)
def test_answers_of_chat_models_as_well(
    configure: Callable[..., SynthesisConfig], context: StageContext, tmp_path: Path, written: str
) -> None:
    pytest.importorskip("jinja2")
    (tmp_path / "own.yaml").write_text("tasks: {questions: }")
    LoopingEngine.answers["Passage"] = "".join(map(written.format, ("One", "Two", "Three")))
    config = configure(
        engine="tests.synthesis.test_repeats:LoopingEngine",
        prompt=tmp_path / "own.yaml",
        **{
            "generation.model": write_chat_tokenizer(tmp_path / "chat"),
            "generation.context_length": 2048,
            "generation.max_new_tokens": 600,
        },
    )
    counts = run(config, context, 2)
    assert counts["pairs"] == 6 and counts["answers_stopped_at_repeats"] == 2 and counts["dropped"] == {}
    assert counts["generated_tokens"] < 2 * 400
