r"""Response accuracy of a synthesizer: what does it answer to a gold question about a text?

The engine gets the text and the question in the format it was tuned on, ``<s> <CON> {text} </CON>\n\n<QUE> {question}
<ANS>``, and goes on from there. What it writes up to ``</END>`` is held against gold: exact match and F1 as for SQuAD.
Options stand below the question as in tuning data; of an answer by reasoning what follows the conclusion counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megatron_ipt.errors import RecipeError
from megatron_ipt.evaluation.judge.gold import GoldPair, GoldText
from megatron_ipt.evaluation.judge.text import best_f1, exact_match
from megatron_ipt.inference.engine import Engine, Request, RequestRefused
from megatron_ipt.inference.tokenizer import open_prompt_tokenizer
from megatron_ipt.progress import Progress
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_text.prompted.prompt import (
    ANSWER,
    CONCLUSION,
    END,
    Prompt,
    PromptFormat,
    TextPrompt,
    render_pair,
)
from megatron_ipt.synthesis.pair_sources import load_class, source_named


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
        RecipeError: the engine answers no questions (mined, replay).
        StageError: the engine cannot go on.
    """
    if source_named(config.engine).kind != "model":
        raise RecipeError(
            f"--answer-with: the engine {config.engine} makes pairs without a model and answers no questions; name "
            "transformers, openai, tensorrt_llm or module:Class"
        )
    asked = [(text.text, pair) for text in gold for pair in text.pairs][:limit]
    tokenizer = open_prompt_tokenizer(config.generation.tokenizer or config.generation.model)
    prompts = PromptFormat(tokenizer, config.generation.context_length, config.generation.max_new_tokens)
    engine = load_class(config.engine)(config, tokenizer)
    responses = asyncio.run(_ask_all(engine, prompts, asked, config.generation.window or engine.window))
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
    """The prompt of ``text`` with the question's marks behind it, up to and with ``<ANS>``."""
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
    engine: Engine, prompts: PromptFormat, asked: Sequence[tuple[str, GoldPair]], window: int
) -> list[Response]:
    free = asyncio.Semaphore(window)
    with Progress("judge: answers", len(asked), "questions") as bar:

        async def ask(number: int, text: str, question: GoldPair) -> Response:
            async with free:
                prompt = question_prompt(prompts, prompts.encode_texts([text])[0], question)
                response = await _ask(engine, prompts, prompt, number, question)
                bar.advance()
                return response

        async with engine:
            return list(
                await asyncio.gather(*(ask(number, text, question) for number, (text, question) in enumerate(asked)))
            )


async def _ask(engine: Engine, prompts: PromptFormat, prompt: Prompt, number: int, question: GoldPair) -> Response:
    if not prompts.fits(prompt):
        return Response(question, None, "longer than the context")
    try:
        completion = await engine.generate(Request(prompt, number))
    except RequestRefused:
        return Response(question, None, "refused by the engine")
    finally:
        engine.release(number)
    answer = answer_of(completion.text)
    return Response(question, answer, "") if answer else Response(question, None, "empty answer")
