r"""Does a model know the answer to a question about a text it has not seen? Measured by likelihood, without generating.

Every question stands after its text in one fixed layout, ``{context}\n\nQuestion: {question}\nAnswer:``. Two figures
come from the log-likelihood of `` {answer}`` after it: the answer's loss in nats per token, and whether the right
answer ranks first among the options. Options differ in length, so the ranking is also done per byte, as
lm-evaluation-harness's ``acc_norm`` does. A model that knows nothing is at the share of ``chance``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import torch

from megatron_ipt.errors import InputError
from megatron_ipt.files import iter_lines
from megatron_ipt.progress import Progress

if TYPE_CHECKING:
    from megatron_ipt.evaluation.language_model import LanguageModel


@dataclass(frozen=True)
class Question:
    """``options`` hold the answer; they are empty where only its loss can be measured."""

    context: str
    question: str
    answer: str
    options: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        context = f"{self.context.strip()}\n\n" if self.context.strip() else ""
        return f"{context}Question: {self.question.strip()}\nAnswer:"


def read_questions(path: str | Path) -> list[Question]:
    """JSON Lines with ``context``, ``question``, ``answer`` and, for ranking, ``options``.

    Raises:
        InputError: names the file and line that cannot be used; nothing is left out, so that figures are comparable.
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
        raise InputError(f"{path}: holds no questions")
    return questions


def measure(model: LanguageModel, questions: list[Question], seq_length: int, label: str) -> dict[str, Any]:
    """Figures over all questions.

    Args:
        seq_length: tokens that the model was trained on at once; of a longer prompt the end is kept.

    Returns:
        ``{questions, answer_loss, accuracy, accuracy_per_byte, chance, ranked}``: loss in nats per token of all right
        answers together; accuracies and chance over the ``ranked`` questions, those with two options or more.
    """
    asked = [_Asked(model, question, seq_length) for question in questions]
    likelihoods = _log_likelihoods(model, asked, label)

    loss, tokens, first, first_per_byte, ranked, chance = 0.0, 0, 0, 0, 0, 0.0
    for question, row, plain in zip(questions, asked, likelihoods):
        loss -= plain[0]
        tokens += len(row.answers[0])
        if len(plain) > 1:
            ranked += 1
            chance += 1 / len(plain)
            per_byte = [value / len(text.strip().encode()) for text, value in zip(_candidates(question), plain)]
            # The answer stands first; a tie is no knowledge.
            first += plain[0] > max(plain[1:])
            first_per_byte += per_byte[0] > max(per_byte[1:])
    return {
        "questions": len(questions),
        "answer_loss": loss / tokens,
        "accuracy": first / ranked if ranked else None,
        "accuracy_per_byte": first_per_byte / ranked if ranked else None,
        "chance": chance / ranked if ranked else None,
        "ranked": ranked,
    }


def _candidates(question: Question) -> tuple[str, ...]:
    """The answer, then the other options."""
    return question.answer, *(option for option in question.options if option != question.answer)


class _Asked:
    """Ids of a question: the prompt, and the candidates that may follow it, within ``seq_length`` tokens.

    Of a prompt that is too long the end is kept, after BOS.
    """

    def __init__(self, model: LanguageModel, question: Question, seq_length: int):
        tokenizer = model.tokenizer
        texts = [f" {text.strip()}" for text in _candidates(question)]
        answers = tokenizer(texts, add_special_tokens=False)["input_ids"]
        self.answers: list[list[int]] = [ids[: max(1, seq_length // 2)] for ids in answers]
        head = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        ids = tokenizer(question.prompt, add_special_tokens=False)["input_ids"]
        room = seq_length - len(head) - max(map(len, self.answers))
        self.prompt: list[int] = [*head, *ids[max(0, len(ids) - room) :]]


@torch.no_grad()
def _log_likelihoods(model: LanguageModel, asked: list[_Asked], label: str) -> list[list[float]]:
    """Natural log of the probability of every candidate after its prompt.

    Questions about one text stand together: what their prompts have in common is read once, and so is every prompt for
    all of its candidates.
    """
    found = []
    with Progress(label, len(asked), "questions") as bar:
        for group in _groups(asked):
            shared = _common_prefix([row.prompt for row in group])
            cache = model.model(_tensor([group[0].prompt[:shared]], model), use_cache=True).past_key_values
            for row in group:
                found.append(_score(model, row, shared, copy.deepcopy(cache)))
                bar.advance()
    return found


def _score(model: LanguageModel, row: _Asked, shared: int, cache: Any) -> list[float]:
    output = model.model(_tensor([row.prompt[shared:]], model), past_key_values=cache, use_cache=True)
    first = torch.log_softmax(output.logits[0, -1].float(), dim=-1)
    length = max(map(len, row.answers))
    # Padding stands behind, where causal attention does not see it.
    answers = _tensor([[*ids, *[0] * (length - len(ids))] for ids in row.answers], model)
    scores = first[answers[:, :1]]
    if length > 1:
        cache = output.past_key_values
        cache.batch_repeat_interleave(len(row.answers))
        logits = model.model(answers[:, :-1], past_key_values=cache, use_cache=True).logits.float()
        later = torch.log_softmax(logits, dim=-1).gather(2, answers[:, 1:, None])[..., 0]
        scores = torch.cat([scores, later], dim=1)
    return [scores[number, : len(ids)].sum().item() for number, ids in enumerate(row.answers)]


def _groups(asked: list[_Asked]) -> Iterator[list[_Asked]]:
    """Runs of questions whose prompts share at least half of the first one's tokens."""
    group: list[_Asked] = []
    for row in asked:
        if group and _common_prefix([group[0].prompt, row.prompt]) < len(group[0].prompt) // 2:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _common_prefix(prompts: list[list[int]]) -> int:
    """Tokens that all begin with, the last one of each left out, so that something is always left to read."""
    shortest = min(map(len, prompts)) - 1
    first = prompts[0]
    return next((place for place in range(shortest) if any(ids[place] != first[place] for ids in prompts)), shortest)


def _tensor(rows: list[list[int]], model: LanguageModel) -> torch.Tensor:
    return torch.tensor(rows, device=model.device)
