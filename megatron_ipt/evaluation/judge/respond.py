r"""Response accuracy of a synthesizer: what does it answer to a gold question about a text?

The engine gets the text and the question in the format it was tuned on, ``<s> <CON> {text} </CON>\n\n<QUE> {question}
<ANS>``, and continues. What it writes up to ``</END>`` is compared with the gold answers: exact match and F1 as for
SQuAD. Options are listed below the question as in tuning data; of an answer with reasoning, the conclusion counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megatron_ipt.errors import RecipeError
from megatron_ipt.evaluation.judge.gold import GoldPair, GoldText
from megatron_ipt.evaluation.judge.text import best_f1, exact_match
from megatron_ipt.inference.engine import Engine, Prompt, Request, RequestRefused
from megatron_ipt.inference.engines import open_engine
from megatron_ipt.inference.run import run_coroutine
from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.progress import Progress
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_text.prompted.marks import ANSWER, CONCLUSION, END, render_pair
from megatron_ipt.synthesis.from_text.prompted.prompt import PromptFormat
from megatron_ipt.synthesis.from_text.prompted.style import TextPrompt
from megatron_ipt.synthesis.from_text.prompted.styles import load_style
from megatron_ipt.synthesis.pair_sources import source_named
from megatron_ipt.synthesis.stage import engine_settings


@dataclass
class Response:
    """``answer`` is None where the engine gave none; ``reason`` then says why."""

    question: GoldPair
    answer: str | None
    reason: str = ""


def response_accuracy(config: SynthesisConfig, gold: Sequence[GoldText], limit: int | None = None) -> dict[str, Any]:
    """Asks the engine of ``config`` every gold question.

    Args:
        limit: questions to ask, from the first on; all if None.

    Returns:
        ``{engine, model, questions, answered, exact_match, f1, unanswered}``: means over all questions, where one that
        got no answer counts as wrong; ``unanswered`` by reason.

    Raises:
        RecipeError: the engine answers no questions (mined, replay), or not in this format.
        StageError: the engine cannot continue.
    """
    if source_named(config.engine).kind != "model":
        raise RecipeError(
            f"--answer-with: the engine {config.engine} makes pairs without a model and answers no questions; name "
            "transformers, openai, tensorrt_llm or module:Class"
        )
    asked = [(text.text, pair) for text in gold for pair in text.pairs][:limit]
    style = load_style(config.prompt)
    if not issubclass(style, PromptFormat):
        raise RecipeError(
            f"--answer-with: gold questions are asked in the format of the synthesizer, not of prompt style "
            f"{config.prompt}; set prompt=synthesizer"
        )
    engine = open_engine(engine_settings(config))
    prompts = style(engine.tokenizer, config.generation.context_length, config.generation.max_new_tokens)
    sampling = prompts.sampling(Sampling.of(config.generation))
    responses = run_coroutine(_ask_all(engine, prompts, sampling, asked, config.generation.window or engine.window))
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


async def _ask_all(
    engine: Engine, prompts: PromptFormat, sampling: Sampling, asked: Sequence[tuple[str, GoldPair]], window: int
) -> list[Response]:
    free = asyncio.Semaphore(window)
    with Progress("judge: answers", len(asked), "questions") as bar:

        async def ask(number: int, text: str, question: GoldPair) -> Response:
            async with free:
                prompt = question_prompt(prompts, prompts.encode_texts([text])[0], question)
                response = Response(question, None, "longer than the context")
                if prompts.fits(prompt):
                    response = await _ask(engine, Request(prompt, sampling, number), question)
                bar.advance()
                return response

        async with engine:
            return list(
                await asyncio.gather(*(ask(number, text, question) for number, (text, question) in enumerate(asked)))
            )


async def _ask(engine: Engine, request: Request, question: GoldPair) -> Response:
    try:
        completion = await engine.generate(request)
    except RequestRefused:
        return Response(question, None, "refused by the engine")
    finally:
        engine.release(request.chain)
    answer = answer_of(completion.text)
    return Response(question, answer, "") if answer else Response(question, None, "empty answer")
