r"""Answers to questions about unseen texts: scored by likelihood and, if asked for, generated.

The prompt has one fixed format, ``{context}\n\nQuestion: {question}\nAnswer:``. Two metrics derive from the
log-likelihood of `` {answer}`` after it: the loss of the answer in nats per token, and whether the correct answer ranks
first among the options. Because options differ in length, they are also ranked by likelihood per byte
(``acc_norm`` of lm-evaluation-harness uses characters). ``chance`` is the accuracy of guessing. A generated answer is
the first line of the greedy continuation; exact match and F1 are those of SQuAD (arXiv:1606.05250).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import torch

from megatron_ipt.errors import InputError
from megatron_ipt.evaluation.judge.text import best_f1, exact_match
from megatron_ipt.files import iter_lines
from megatron_ipt.progress import Progress

if TYPE_CHECKING:
    from megatron_ipt.evaluation.language_model import LanguageModel


@dataclass(frozen=True)
class Question:
    """A question; ``options`` include the answer, and are empty if only its loss can be measured."""

    context: str
    question: str
    answer: str
    options: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        context = f"{self.context.strip()}\n\n" if self.context.strip() else ""
        return f"{context}Question: {self.question.strip()}\nAnswer:"


def read_questions(path: str | Path) -> list[Question]:
    """Reads JSON Lines with ``context``, ``question``, ``answer`` and, for ranking, ``options``.

    Raises:
        InputError: a line cannot be used; names file and line. No line is skipped, so that results are comparable.
    """
    questions = []
    for number, line in enumerate(iter_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = orjson.loads(line)
            options = tuple(dict.fromkeys(record.get("options") or ()))
            question = Question(record.get("context", ""), record["question"], record["answer"], options)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}:{number}: expected an object with context, question, answer and options: {error!r}"
            ) from error
        if not all(
            isinstance(value, str) for value in (question.context, question.question, question.answer, *options)
        ):
            raise InputError(f"{path}:{number}: context, question, answer and options must be strings")
        if not question.answer.strip():
            raise InputError(f"{path}:{number}: the answer is empty")
        if options and question.answer not in options:
            raise InputError(f"{path}:{number}: the answer {question.answer!r} is not among the options")
        questions.append(question)
    if not questions:
        raise InputError(f"{path}: contains no questions")
    return questions


def measure(
    model: LanguageModel, questions: list[Question], seq_length: int, label: str, answer_tokens: int = 0
) -> dict[str, Any]:
    """Metrics over all questions.

    Args:
        seq_length: tokens per training sequence; longer prompts are truncated on the left.
        answer_tokens: maximum tokens of a generated answer; 0 generates none.

    Returns:
        ``{questions, answer_loss, accuracy, accuracy_per_byte, accuracy_per_token, chance, ranked}``: loss in nats per
        token over all correct answers; accuracies and chance over the ``ranked`` questions, those with two or more
        options. With ``answer_tokens`` also ``{exact_match, f1}``, means over all questions.
    """
    tokenized = [_TokenizedQuestion(model, question, seq_length) for question in questions]
    likelihoods = _log_likelihoods(model, tokenized, label)

    lines = None
    if answer_tokens:
        lines = model.first_lines([row.prompt for row in tokenized], answer_tokens, f"{label}: answers")
    lengths = [[len(answer) for answer in row.answers] for row in tokenized]
    return figures(questions, likelihoods, lengths, lines)


def figures(
    questions: Sequence[Question],
    likelihoods: Sequence[Sequence[float]],
    lengths: Sequence[Sequence[int]],
    lines: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The metrics of :func:`measure`.

    Args:
        likelihoods: natural log of the probability of each candidate of each question, the answer first.
        lengths: tokens of each candidate.
        lines: generated answers; None if there are none.
    """
    loss, tokens, ranked, chance = 0.0, 0, 0, 0.0
    first, first_per_byte, first_per_token = 0, 0, 0
    for question, scores, sizes in zip(questions, likelihoods, lengths):
        loss -= scores[0]
        tokens += sizes[0]
        if len(scores) > 1:
            ranked += 1
            chance += 1 / len(scores)
            per_byte = [value / len(text.strip().encode()) for text, value in zip(candidates(question), scores)]
            per_token = [value / size for size, value in zip(sizes, scores)]
            # The answer comes first; a tie counts as wrong.
            first += scores[0] > max(scores[1:])
            first_per_byte += per_byte[0] > max(per_byte[1:])
            first_per_token += per_token[0] > max(per_token[1:])
    generated: dict[str, float] = {}
    if lines is not None:
        pairs = [(line, [question.answer]) for line, question in zip(lines, questions)]
        generated["exact_match"] = sum(exact_match(*pair) for pair in pairs) / len(pairs)
        generated["f1"] = sum(best_f1(*pair) for pair in pairs) / len(pairs)
    return {
        **generated,
        "questions": len(questions),
        "answer_loss": loss / tokens,
        "accuracy": first / ranked if ranked else None,
        "accuracy_per_byte": first_per_byte / ranked if ranked else None,
        "accuracy_per_token": first_per_token / ranked if ranked else None,
        "chance": chance / ranked if ranked else None,
        "ranked": ranked,
    }


def candidates(question: Question) -> tuple[str, ...]:
    """The answer, then the other options."""
    return question.answer, *(option for option in question.options if option != question.answer)


class _TokenizedQuestion:
    """Token ids of the prompt and of all candidate answers, within ``seq_length`` tokens.

    A prompt that is too long is truncated on the left; BOS is kept.
    """

    def __init__(self, model: LanguageModel, question: Question, seq_length: int):
        tokenizer = model.tokenizer
        texts = [f" {text.strip()}" for text in candidates(question)]
        answers = tokenizer(texts, add_special_tokens=False)["input_ids"]
        self.answers: list[list[int]] = [ids[: max(1, seq_length // 2)] for ids in answers]
        head = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        ids = tokenizer(question.prompt, add_special_tokens=False)["input_ids"]
        room = seq_length - len(head) - max(map(len, self.answers))
        self.prompt: list[int] = [*head, *ids[max(0, len(ids) - room) :]]


@torch.no_grad()
def _log_likelihoods(model: LanguageModel, questions: list[_TokenizedQuestion], label: str) -> list[list[float]]:
    """Natural log of the probability of every candidate after its prompt.

    The common prefix of consecutive questions about one text is computed once, and so is each prompt for all of its
    candidates.
    """
    found = []
    with Progress(label, len(questions), "questions") as bar:
        for group in _groups(questions):
            shared = _common_prefix([row.prompt for row in group])
            cache = model.model(_tensor([group[0].prompt[:shared]], model), use_cache=True).past_key_values
            for row in group:
                found.append(_score(model, row, shared, copy.deepcopy(cache)))
                bar.advance()
    return found


def _score(model: LanguageModel, row: _TokenizedQuestion, shared: int, cache: Any) -> list[float]:
    output = model.model(_tensor([row.prompt[shared:]], model), past_key_values=cache, use_cache=True)
    first = torch.log_softmax(output.logits[0, -1].float(), dim=-1)
    length = max(map(len, row.answers))
    # Padding is on the right, where causal attention ignores it.
    answers = _tensor([[*ids, *[0] * (length - len(ids))] for ids in row.answers], model)
    scores = first[answers[:, :1]]
    if length > 1:
        cache = output.past_key_values
        cache.batch_repeat_interleave(len(row.answers))
        logits = model.model(answers[:, :-1], past_key_values=cache, use_cache=True).logits.float()
        later = torch.log_softmax(logits, dim=-1).gather(2, answers[:, 1:, None])[..., 0]
        scores = torch.cat([scores, later], dim=1)
    return [scores[number, : len(ids)].sum().item() for number, ids in enumerate(row.answers)]


def _groups(questions: list[_TokenizedQuestion]) -> Iterator[list[_TokenizedQuestion]]:
    """Groups of consecutive questions whose prompts share at least half of the first prompt's tokens."""
    group: list[_TokenizedQuestion] = []
    for row in questions:
        if group and _common_prefix([group[0].prompt, row.prompt]) < len(group[0].prompt) // 2:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _common_prefix(prompts: list[list[int]]) -> int:
    """Length of the common prefix, at least one token shorter than each prompt, so that some input is always left."""
    shortest = min(map(len, prompts)) - 1
    first = prompts[0]
    return next((i for i in range(shortest) if any(ids[i] != first[i] for ids in prompts)), shortest)


def _tensor(rows: list[list[int]], model: LanguageModel) -> torch.Tensor:
    return torch.tensor(rows, device=model.device)
