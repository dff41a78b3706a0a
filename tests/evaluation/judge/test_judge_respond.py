"""Answers of a synthesizer to gold questions: prompts held against the documented format, answers of a real model."""

from __future__ import annotations

from typing import ClassVar

import pytest

from megatron_ipt.config import load
from megatron_ipt.errors import RecipeError
from megatron_ipt.evaluation.judge.gold import GoldPair, GoldText
from megatron_ipt.evaluation.judge.respond import answer_of, question_prompt, response_accuracy
from megatron_ipt.inference.engine import Request, RequestRefused
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_text.prompted.marks import render_pair
from megatron_ipt.synthesis.pairs import Pair
from tests.conftest import REPOSITORY
from tests.synthesis.conftest import (  # noqa: F401
    model_folder,
    prompts,
    tokenizer,
    tokenizer_folder,
)
from tests.synthesis.instant import InstantEngine
from tests.synthesis.scripted import write_chat_tokenizer
from tests.synthesis.test_prompt import as_written


def gold(answer, question="Why do bees dance?", **fields):
    return GoldPair(Pair(question, answer, **fields), (answer,))


ANSWERS = {"Who?": " Ann Smith </END>\n\n<QUE> More? <ANS> No </END>", "Where?": " here\nTherefore, the answer is Rome"}


class KnowingEngine(InstantEngine):
    """Answers from a table; refuses one question."""

    async def generate(self, request):
        if "Never?" in request.prompt.text:
            raise RequestRefused("no")
        return await super().generate(request)

    def answer(self, request):
        asked = request.prompt.text.rpartition("<QUE> ")[2].removesuffix(" <ANS>")
        return ANSWERS.get(asked, "")


def test_the_prompt_is_the_documented_bytes(tokenizer_folder, prompts):  # noqa: F811
    text = prompts.encode_texts(["One <QUE> two."])[0]
    prompt = question_prompt(prompts, text, gold("b", "Which </END>?", options=("a", "b")))
    expected = " <CON> One < QUE> two. </CON>\n\n<QUE> Which < /END>?\nOptions:\n- a\n- b <ANS>"
    assert as_written(tokenizer_folder, prompt.ids) == "<s>" + expected
    assert prompt.text == expected
    reasoned = question_prompt(prompts, text, gold("b", "Which?", reasoning="Because."))
    assert reasoned.text.endswith("<QUE> Which?\nLet's think step by step. <ANS>")


def test_the_answer_ends_with_its_mark_and_is_the_conclusion():
    assert answer_of(" Ann </END>\n\n<QUE> Who? <ANS> Bob </END>") == "Ann"
    assert answer_of(" One and two make three.\nTherefore, the answer is 3 </END>") == "3"
    assert answer_of(" Ann") == "Ann"


def test_exact_match_and_f1_over_all_questions(tokenizer_folder):  # noqa: F811
    asked = [gold("Ann", "Who?"), gold("Rome", "Where?"), gold("x", "What?"), gold("x", "Never?")]
    asked.append(gold("x", "Too long? " * 900))
    config = load(SynthesisConfig, None, [f"engine={__name__}:KnowingEngine", f"generation.model={tokenizer_folder}"])
    found = response_accuracy(config, [GoldText("A text.", tuple(asked))])
    # "Ann Smith" against "Ann" is F1 2/3, "Rome" is exact; three got no answer.
    assert found["questions"] == 5 and found["answered"] == 2
    assert found["exact_match"] == 1 / 5 and found["f1"] == pytest.approx((2 / 3 + 1) / 5)
    assert found["unanswered"] == {"empty answer": 1, "refused by the engine": 1, "longer than the context": 1}
    assert response_accuracy(config, [GoldText("A text.", tuple(asked))], limit=2)["questions"] == 2


def test_a_real_model_through_the_engine_transformers(model_folder):  # noqa: F811
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    # The model writes " clover </END>" after every <ANS>.
    config = load(
        SynthesisConfig,
        None,
        ["engine=transformers", f"generation.model={model_folder}", "generation.context_length=512",
         "generation.max_new_tokens=16"],
    )  # fmt: skip
    text = GoldText("Bees dance.", (gold("The clover!"), gold("red clover"), gold("in 1932")))
    found = response_accuracy(config, [text])
    assert found["answered"] == 3
    assert found["exact_match"] == 1 / 3 and found["f1"] == pytest.approx((1 + 2 / 3) / 3)


def test_engines_without_a_model_answer_nothing():
    with pytest.raises(RecipeError, match="mined makes pairs without a model"):
        response_accuracy(load(SynthesisConfig, None, ["engine=mined"]), [])


def test_other_prompt_styles_are_refused(tokenizer_folder):  # noqa: F811
    plain = "examples/extensions/plain_questions.py:PlainQuestions"
    config = load(
        SynthesisConfig,
        None,
        [f"engine={__name__}:KnowingEngine", f"generation.model={tokenizer_folder}", f"prompt={REPOSITORY / plain}"],
    )
    with pytest.raises(RecipeError, match="--answer-with: gold questions are asked in the format of the synthesizer"):
        response_accuracy(config, [])


def test_the_prompt_is_how_tuning_data_begins(prompts):  # noqa: F811
    text = prompts.encode_texts(["The sea is salt."])[0]
    for question in (
        gold("Ann", "Who?"),
        gold("b", "Which?", options=("a", "b")),
        gold("3", "1 + 2?", reasoning="So."),
    ):
        whole = prompts.begin(text).ids + prompts.tokenizer.encode([render_pair(question.pair)])[0]
        asked = question_prompt(prompts, text, question).ids
        assert asked == whole[: len(asked)] and len(asked) < len(whole)


class NotingEngine(KnowingEngine):
    """Notes what it was asked."""

    asked: ClassVar[list[Request]] = []

    async def generate(self, request):
        self.asked.append(request)
        return await super().generate(request)

    def continues(self, request):
        return True


class WithoutStopStrings(NotingEngine):
    takes_stop_strings = False


def ask_who(tokenizer_folder, engine, *overrides):  # noqa: F811
    NotingEngine.asked.clear()
    settings = [f"engine={__name__}:{engine}", f"generation.model={tokenizer_folder}", *overrides]
    return response_accuracy(load(SynthesisConfig, None, settings), [GoldText("A text.", (gold("Ann Smith", "Who?"),))])


def test_nothing_is_generated_behind_the_answer(tokenizer_folder):  # noqa: F811
    assert ask_who(tokenizer_folder, "NotingEngine")["exact_match"] == 1
    (request,) = NotingEngine.asked
    assert request.sampling.stop == ("</END>",) and request.enough is None


def test_engines_without_stop_strings_are_asked_a_little_at_a_time(tokenizer_folder):  # noqa: F811
    assert ask_who(tokenizer_folder, "WithoutStopStrings", "generation.max_new_tokens=50")["exact_match"] == 1
    (request,) = NotingEngine.asked
    assert request.sampling.stop == () and request.sampling.max_new_tokens == 16


def test_the_real_model_writes_no_more_than_the_answer(model_folder, monkeypatch):  # noqa: F811
    transformers = pytest.importorskip("megatron_ipt.inference.transformers.engine")
    generated = []
    work = transformers.TransformersEngine._generate

    def noted(self, requests):
        completions = work(self, requests)
        generated.extend(len(completion.ids) for completion in completions)
        return completions

    monkeypatch.setattr(transformers.TransformersEngine, "_generate", noted)
    # It writes " clover </END>" and EOS. Without a stop string, the mark would be a token of the answer.
    settings = ["engine=transformers", f"generation.model={model_folder}", "generation.context_length=512"]
    found = response_accuracy(load(SynthesisConfig, None, settings), [GoldText("Bees dance.", (gold("clover"),))])
    assert found["exact_match"] == 1 and generated == [len(["clover"])]


class ChattyEngine(NotingEngine):
    def answer(self, request):
        return "```\nAnn Smith\n```" if "Question: Who?" in request.prompt.text else ""


def test_a_chat_model_is_asked_in_its_own_template(tmp_path):
    pytest.importorskip("jinja2")
    folder = write_chat_tokenizer(tmp_path / "chat")
    NotingEngine.asked.clear()
    settings = [f"engine={__name__}:ChattyEngine", f"generation.model={folder}", "prompt=chat"]
    asked = (gold("Ann Smith", "Who?"), gold("b", "Which?", options=("a", "b")), gold("x", "Too long? " * 3000))
    found = response_accuracy(load(SynthesisConfig, None, settings), [GoldText("A <|im_end|> text.", asked)])
    assert (found["questions"], found["answered"], found["exact_match"]) == (3, 1, 1 / 3)
    assert found["unanswered"] == {"empty answer": 1, "longer than the context": 1}
    first, second = sorted(NotingEngine.asked, key=lambda request: request.chain)
    assert first.prompt.text.endswith(
        "Passage:\nA < |im_end|> text.\n\nQuestion: Who?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "Question: Which?\nOptions:\n- a\n- b<|im_end|>" in second.prompt.text
    assert first.sampling.temperature == 0 and first.sampling.json_schema is None


def test_a_mixture_asks_for_a_choice(tokenizer_folder):  # noqa: F811
    with pytest.raises(RecipeError, match=r"mixes prompt styles \(\{synthesizer: 1, chat: 1\}\).* --set prompt="):
        ask_who(tokenizer_folder, "NotingEngine", "prompt={synthesizer: 1, chat: 1}")
