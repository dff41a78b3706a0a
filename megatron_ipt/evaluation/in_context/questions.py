"""Questions with demonstrations before them: the counterpart of :mod:`megatron_ipt.evaluation.questions`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from megatron_ipt.evaluation.in_context.answers import Asked, Search, generate, score_options
from megatron_ipt.evaluation.in_context.config import InContextConfig
from megatron_ipt.evaluation.in_context.context import Context
from megatron_ipt.evaluation.in_context.demonstrations import (
    choose,
    encode,
    prepare_groups,
    prompt_of,
    refuse_shared,
)
from megatron_ipt.evaluation.in_context.requirements import plan_memory, refuse_model
from megatron_ipt.evaluation.questions import Question, candidates, figures, read_questions

if TYPE_CHECKING:
    from megatron_ipt.evaluation.language_model import LanguageModel


@dataclass(frozen=True)
class Task:
    """Questions and what their demonstrations are drawn from.

    Attributes:
        name: of the set, for logs and progress.
        questions: to answer.
        pool: demonstrations to draw from.
        source: file of the pool, for errors.
    """

    name: str
    questions: Sequence[Question]
    pool: Sequence[Question]
    source: str


def read_task(name: str, questions: Sequence[Question], source: str, template: str = "") -> Task:
    """Reads the pool of demonstrations from ``source``.

    Raises:
        InputError: it cannot be read, is empty, or shares a question.
    """
    pool = read_questions(source)
    refuse_shared(pool, questions, source, template)
    return Task(name, questions, pool, source)


def measure(model: LanguageModel, task: Task, config: InContextConfig, answer_tokens: int = 0) -> dict[str, Any]:
    """Figures of :func:`megatron_ipt.evaluation.questions.measure`, and what stood before the questions.

    Args:
        answer_tokens: most tokens of a generated answer; 0 generates none.

    Returns:
        The figures, and ``in_context``: ``{mode, demonstrations, groups, tokens, longest_group, seed}``.

    Raises:
        InputError: too few demonstrations, one that is longer than a group, a model that cannot be used so.
    """
    refuse_model(model.model)
    tokenizer = model.tokenizer
    head = [] if tokenizer.bos_token_id is None or not config.add_bos_token else [tokenizer.bos_token_id]
    chosen = choose(config.demonstrations, len(task.pool), config.seed, task.source) if config.mode != "none" else []
    # Without demonstrations, the question itself begins the text.
    asked = [ask(tokenizer, question, config.template, [] if chosen else head) for question in task.questions]
    answers = config.beams * answer_tokens
    longest = max(max(row.size, len(row.prompt) + answers) for row in asked)
    deepest = max(len(row.prompt) + max(answer_tokens, *map(len, row.options)) for row in asked)
    groups: list[list[int]] = []
    if chosen:
        examples = [encode(tokenizer, task.pool[place], config.template) for place in chosen]
        groups, memory = prepare_groups(model.model, config, examples, head, longest, deepest, task.source)
    else:
        memory = plan_memory(model.model.config, model.model.dtype.itemsize, 0, longest, 0, config.memory_gib)
    context = Context(model.model, groups, memory.queries)
    scores = score_options(context, asked, memory.queries, task.name)
    lines = None
    if answer_tokens:
        lines = _first_lines(context, model, asked, config, answer_tokens, f"{task.name}: answers")
    likelihoods = [[score.log_likelihood for score in row] for row in scores]
    return {
        **figures(task.questions, likelihoods, [[len(option) for option in row.options] for row in asked], lines),
        "in_context": {
            "mode": config.mode,
            "demonstrations": len(chosen),
            "groups": len(groups),
            "tokens": sum(map(len, groups)),
            "longest_group": max(map(len, groups), default=0),
            "seed": config.seed,
        },
    }


def ask(tokenizer: Any, question: Question, template: str, head: Sequence[int]) -> Asked:
    """Ids of a question, ``head`` before them; the answer is the first option."""
    options = [f" {text.strip()}" for text in candidates(question)]
    prompt, *rest = tokenizer([prompt_of(question, template), *options], add_special_tokens=False)["input_ids"]
    return Asked([*head, *prompt], rest)


def _first_lines(
    context: Context, model: LanguageModel, asked: Sequence[Asked], config: InContextConfig, tokens: int, label: str
) -> list[str]:
    tokenizer = model.tokenizer

    def text(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    search = Search(tokens, config.beams, config.length_penalty, lambda ids: "\n" in text(ids), tokenizer.eos_token_id)
    found = generate(context, [row.prompt for row in asked], search, label)
    return [text(ids).split("\n", 1)[0].strip() for ids in found]
