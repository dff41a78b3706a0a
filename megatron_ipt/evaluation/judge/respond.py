r"""Response accuracy of a synthesizer: what does it answer to a gold question about a text?

A model tuned on the format of the synthesizer gets the text and the question in that format, ``<s> <CON> {text}
</CON>\n\n<QUE> {question} <ANS>``, and continues up to ``</END>``. A chat model is asked in its own template, and its
whole reply is the answer. Answers are compared with the gold answers: exact match and F1 as for SQuAD. Options are
listed below the question as in tuning data; of an answer with reasoning, the conclusion counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from megatron_ipt.errors import RecipeError
from megatron_ipt.evaluation.judge.gold import GoldPair, GoldText
from megatron_ipt.evaluation.judge.text import best_f1, exact_match
from megatron_ipt.inference.engine import Completion, Engine, Prompt, Request, RequestRefused
from megatron_ipt.inference.engines import open_engine
from megatron_ipt.inference.run import in_order, run_coroutine
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.segments import generate_until_enough
from megatron_ipt.progress import Progress
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_text.prompted.chat.answers import pair_of_text
from megatron_ipt.synthesis.from_text.prompted.chat.style import ChatStyle
from megatron_ipt.synthesis.from_text.prompted.chat.tasks import BUILT_IN, RESPONSE, Task, Tasks, read_tasks
from megatron_ipt.synthesis.from_text.prompted.marks import (
    ANSWER,
    CONCLUSION,
    END,
    OPTION_OPEN,
    OPTIONS_OPEN,
    render_pair,
)
from megatron_ipt.synthesis.from_text.prompted.prompt import PromptFormat
from megatron_ipt.synthesis.from_text.prompted.style import StyleSetup, TextPrompt
from megatron_ipt.synthesis.from_text.prompted.styles import described, load_style, shares_of, style_file
from megatron_ipt.synthesis.pair_sources import source_named
from megatron_ipt.synthesis.pairs import Example
from megatron_ipt.synthesis.stage import engine_settings

_CHECK_TOKENS = 16
_INSTRUCTION = """\
Read the passage and answer the question below it. Answer in as few words as possible, with words of the passage where
you can; if there are options, repeat the right one. Reply with nothing but the answer.

Passage:
{text}"""


@dataclass
class Response:
    """``answer`` is None where the engine gave none; ``reason`` then says why."""

    question: GoldPair
    answer: str | None
    reason: str = ""


class Questioner(Protocol):
    """Asks a gold question in one prompt style."""

    def request(self, text: str, question: GoldPair, number: int) -> Request | None:
        """The request of question ``number``; None if it is longer than the context."""
        ...

    def answer(self, completion: Completion) -> str:
        """What was answered."""
        ...


class InFormat:
    """In the format of the synthesizer. What follows the first ``</END>`` is not generated."""

    def __init__(self, config: SynthesisConfig, engine: Engine, style: type[PromptFormat]):
        self._prompts = style(engine.tokenizer, config.generation.context_length, config.generation.max_new_tokens)
        self._sampling = self._prompts.sampling(Sampling.of(config.generation))
        # Text is decoded without control tokens, so where the mark is one, no string can stop at it.
        self._stops = engine.takes_stop_strings and END not in engine.tokenizer.control_tokens
        if self._stops:
            self._sampling = replace(self._sampling, stop=(*self._sampling.stop, END))

    def request(self, text: str, question: GoldPair, number: int) -> Request | None:
        prompt = question_prompt(self._prompts, self._prompts.encode_texts([text])[0], question)
        if not self._prompts.fits(prompt):
            return None
        request = Request(prompt, self._sampling, number)
        return request if self._stops else replace(request, enough=_has_ended, check_tokens=_CHECK_TOKENS)

    def answer(self, completion: Completion) -> str:
        return answer_of(completion.text)


class InChat:
    """In the model's own chat template; the whole reply is the answer."""

    def __init__(self, config: SynthesisConfig, engine: Engine, name: str):
        file = style_file(name)
        asking = Task("answer", 1.0, _INSTRUCTION, answer=RESPONSE, questions=("",))
        tasks = Tasks((asking,), read_tasks(file or BUILT_IN).variables)
        self._style = ChatStyle(StyleSetup(engine.tokenizer, config.generation, 0), tasks)
        self._sampling = Sampling.of(config.generation)

    def request(self, text: str, question: GoldPair, number: int) -> Request | None:
        pair = question.pair
        options = OPTIONS_OPEN + "\n".join(OPTION_OPEN + option for option in pair.options) if pair.options else ""
        whole = f"{text.strip()}\n\nQuestion: {pair.question}{options}"
        asked = self._style.ask([Example(str(number), whole)])[0]
        prompt = self._style.begin(asked)
        if not self._style.fits(prompt):
            return None
        return Request(prompt, self._style.sampling(self._sampling, asked), number)

    def answer(self, completion: Completion) -> str:
        pairs, _ = pair_of_text(completion.text, completion.finished, "")
        return pairs[0].answer if pairs else ""


def response_accuracy(config: SynthesisConfig, gold: Sequence[GoldText], limit: int | None = None) -> dict[str, Any]:
    """Asks the engine of ``config`` every gold question.

    Args:
        limit: questions to ask, from the first on; all if None.

    Returns:
        ``{engine, model, questions, answered, exact_match, f1, unanswered}``: means over all questions, where one that
        got no answer counts as wrong; ``unanswered`` by reason.

    Raises:
        RecipeError: the engine answers no questions (mined, replay), or not in this prompt style.
        StageError: the engine cannot continue.
    """
    if source_named(config.engine).kind != "model":
        raise RecipeError(
            f"--answer-with: the engine {config.engine} makes pairs without a model and answers no questions; name "
            "transformers, openai, tensorrt_llm or module:Class"
        )
    asked = [(text.text, pair) for text in gold for pair in text.pairs][:limit]
    engine = open_engine(engine_settings(config))
    questioner = _questioner(config, engine)
    responses = run_coroutine(_ask_all(engine, questioner, asked, config.generation.window or engine.window))
    unanswered: dict[str, int] = {}
    exact, f1 = 0, 0.0
    for response in responses:
        if response.answer is None:
            unanswered[response.reason] = unanswered.get(response.reason, 0) + 1
        else:
            exact += exact_match(response.answer, response.question.answers)
            f1 += best_f1(response.answer, response.question.answers)
    return {
        "engine": config.engine,
        "model": config.generation.model,
        "questions": len(responses),
        "answered": len(responses) - sum(unanswered.values()),
        "exact_match": exact / len(responses) if responses else None,
        "f1": f1 / len(responses) if responses else None,
        "unanswered": unanswered,
    }


def question_prompt(prompts: PromptFormat, text: TextPrompt, question: GoldPair) -> Prompt:
    """The prompt of ``text`` followed by the question in its marks, up to and including ``<ANS>``."""
    pair = question.pair
    neutral = pair._replace(
        question=prompts.neutralise(pair.question),
        options=tuple(map(prompts.neutralise, pair.options)),
    )
    before, mark, _ = render_pair(neutral).partition(f" {ANSWER} ")
    asked = before + mark.rstrip()
    prompt = prompts.begin(text)
    return Prompt(prompt.ids + prompts.tokenizer.encode([asked])[0], prompt.text + asked)


def answer_of(completion: str) -> str:
    """What was answered: up to the first ``</END>``, of reasoning the conclusion."""
    answer = completion.split(END, 1)[0]
    return answer.rpartition(CONCLUSION)[2].strip()


def _questioner(config: SynthesisConfig, engine: Engine) -> Questioner:
    name, *others = shares_of(config.prompt)
    if others:
        raise RecipeError(
            f"--answer-with: the recipe mixes prompt styles ({described(config.prompt)}); choose the one to ask in, "
            f"e.g. with --set prompt={name}"
        )
    style = load_style(name)
    if issubclass(style, PromptFormat):
        return InFormat(config, engine, style)
    if issubclass(style, ChatStyle):
        return InChat(config, engine, name)
    raise RecipeError(
        f"--answer-with: gold questions are asked in the format of the synthesizer or with a chat template, not in "
        f"prompt style {name}; set prompt=synthesizer or prompt=chat"
    )


def _has_ended(answer: str) -> bool:
    return END in answer


async def _ask_all(
    engine: Engine, questioner: Questioner, asked: Sequence[tuple[str, GoldPair]], window: int
) -> list[Response]:
    with Progress("judge: answers", len(asked), "questions") as bar:

        async def ask(numbered: tuple[int, tuple[str, GoldPair]]) -> Response:
            number, (text, question) = numbered
            response = Response(question, None, "longer than the context")
            request = questioner.request(text, question, number)
            if request is not None:
                response = await _ask(engine, questioner, request, question)
            bar.advance()
            return response

        async with engine:
            return await in_order(ask, enumerate(asked), window)


async def _ask(engine: Engine, questioner: Questioner, request: Request, question: GoldPair) -> Response:
    try:
        completion = await generate_until_enough(engine, request)
    except RequestRefused:
        return Response(question, None, "refused by the engine")
    finally:
        engine.release(request.chain)
    answer = questioner.answer(completion)
    if answer:
        return Response(question, answer)
    return Response(question, None, "empty answer" if completion.finished else "cut off by the token limit")
