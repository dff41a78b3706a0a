"""Likelihoods of options, and answers by beam search, after shared groups of demonstrations.

Both work on branches of a :class:`.context.Context`: the options of a question hang on its prompt, and so do the beams
of a search, each of which is nothing but the way to its last token. Nothing is copied or moved when beams are chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from megatron_ipt.errors import InputError
from megatron_ipt.evaluation.in_context.context import Context, chain
from megatron_ipt.progress import Progress


class OptionScore(NamedTuple):
    """Natural log of an option's probability after the prompt, and whether each of its tokens is the likeliest."""

    log_likelihood: float
    greedy: bool


class Asked(NamedTuple):
    """A question as token ids: the prompt, and the options that may follow it."""

    prompt: Sequence[int]
    options: Sequence[Sequence[int]]

    @property
    def size(self) -> int:
        """Tokens that are computed for it; the last of an option is only looked up."""
        return len(self.prompt) + sum(len(option) - 1 for option in self.options)


def score_options(context: Context, questions: Sequence[Asked], queries: int, label: str) -> list[list[OptionScore]]:
    """Scores of all options, in the order of ``questions``.

    Args:
        queries: most tokens in one pass, unless a question alone has more.

    Raises:
        InputError: a prompt or option is empty, or one question has more tokens than the context has room.
    """
    for number, question in enumerate(questions):
        if not question.prompt or not all(question.options):
            raise InputError(f"question {number}: the prompt or an option has no tokens")
    found: list[list[OptionScore]] = []
    with Progress(label, len(questions), "questions") as bar:
        start = 0
        while start < len(questions):
            end, size = start + 1, questions[start].size
            while end < len(questions) and size + questions[end].size <= min(queries, context.room):
                size += questions[end].size
                end += 1
            context.clear()
            found += _one_pass(context, questions[start:end])
            bar.advance(end - start)
            start = end
    context.clear()
    return found


def _one_pass(context: Context, questions: Sequence[Asked]) -> list[list[OptionScore]]:
    ids: list[int] = []
    parents: list[int] = []
    # Places whose logits predict a token of an option, and these tokens; of each option, where it begins among them.
    wanted: list[int] = []
    rows: list[int] = []
    targets: list[int] = []
    for question in questions:
        parents += chain(len(ids), len(question.prompt))
        ids += question.prompt
        after_prompt = len(ids) - 1
        row_of_prompt = len(wanted)
        wanted.append(after_prompt)
        for option in question.options:
            rows.append(row_of_prompt)
            targets += option
            rows += range(len(wanted), len(wanted) + len(option) - 1)
            wanted += range(len(ids), len(ids) + len(option) - 1)
            parents += chain(len(ids), len(option) - 1, after_prompt) if len(option) > 1 else []
            ids += option[:-1]
    logs = torch.log_softmax(context.append(ids, parents, wanted), dim=-1)
    chosen = torch.tensor(targets, device=logs.device)
    likeliest = (logs.argmax(-1)[rows] == chosen).tolist()
    values = logs[rows, chosen].double().tolist()
    found: list[list[OptionScore]] = []
    start = 0
    for question in questions:
        found.append([])
        for option in question.options:
            end = start + len(option)
            found[-1].append(OptionScore(math.fsum(values[start:end]), all(likeliest[start:end])))
            start = end
    return found


@dataclass
class _Beam:
    """An unfinished answer: the sum of its log-probabilities, its tokens, and the place of the last one in the tree."""

    total: float
    last: int
    ids: list[int] = field(default_factory=list)


class Search(NamedTuple):
    """How answers are generated.

    Attributes:
        max_new_tokens: most tokens of an answer.
        beams: answers that are followed at once; 1 is greedy.
        length_penalty: an answer counts the sum of its log-probabilities over its tokens to this power.
        stops: whether an answer (ids) is complete; its last token counts. EOS ends one as well.
        eos: its id.
    """

    max_new_tokens: int
    beams: int
    length_penalty: float
    stops: Callable[[list[int]], bool]
    eos: int | None

    def score(self, total: float, tokens: int) -> float:
        return float(total / tokens**self.length_penalty)


def generate(context: Context, prompts: Sequence[Sequence[int]], search: Search, label: str) -> list[list[int]]:
    """The best answer to each prompt, without EOS, in their order.

    As many prompts at once as the context has room for.

    Raises:
        InputError: a prompt is empty, or it and its answers have more tokens than the context has room.
    """
    per_answer = search.beams * search.max_new_tokens
    if not all(len(prompt) for prompt in prompts):
        raise InputError("a prompt has no tokens")
    found: list[list[int]] = []
    with Progress(label, len(prompts), "answers") as bar:
        start = 0
        while start < len(prompts):
            end, size = start + 1, len(prompts[start]) + per_answer
            while end < len(prompts) and size + len(prompts[end]) + per_answer <= context.room:
                size += len(prompts[end]) + per_answer
                end += 1
            context.clear()
            found += _search(context, prompts[start:end], search)
            bar.advance(end - start)
            start = end
    context.clear()
    return found


def _search(context: Context, prompts: Sequence[Sequence[int]], search: Search) -> list[list[int]]:
    ids: list[int] = []
    parents: list[int] = []
    beams: list[list[_Beam]] = []
    for prompt in prompts:
        parents += chain(len(ids), len(prompt))
        ids += prompt
        beams.append([_Beam(0.0, len(ids) - 1)])
    # (score, ids) of finished answers, best first.
    done: list[list[tuple[float, list[int]]]] = [[] for _ in prompts]
    logits = context.append(ids, parents, [group[0].last for group in beams])
    for length in range(1, search.max_new_tokens + 1):
        logs = torch.log_softmax(logits, dim=-1)
        row = 0
        for number, group in enumerate(beams):
            beams[number] = _extend(group, logs[row : row + len(group)], done[number], search, length)
            row += len(group)
        alive = [beam for group in beams for beam in group]
        if not alive or length == search.max_new_tokens:
            break
        first = context.used
        logits = context.append([beam.ids[-1] for beam in alive], [beam.last for beam in alive], range(len(alive)))
        for place, beam in enumerate(alive, first):
            beam.last = place
    for group, finished in zip(beams, done):
        # Cut off by the limit: still answers.
        finished += [(search.score(beam.total, len(beam.ids)), beam.ids) for beam in group]
    answers = [max(finished, key=lambda answer: answer[0])[1] for finished in done]
    return [answer[:-1] if answer and answer[-1] == search.eos else answer for answer in answers]


def _extend(
    beams: list[_Beam], logs: torch.Tensor, done: list[tuple[float, list[int]]], search: Search, length: int
) -> list[_Beam]:
    """The beams of the next step; answers that end go to ``done``. None left if no beam can win any more."""
    if not beams:
        return []
    totals = torch.tensor([beam.total for beam in beams], dtype=torch.float64, device=logs.device)
    sums = (totals[:, None] + logs.double()).flatten()
    # Half of twice as many remain even if all beams end here.
    best = sums.topk(min(2 * search.beams, len(sums)))
    following: list[_Beam] = []
    for rank, (total, place) in enumerate(zip(best.values.tolist(), best.indices.tolist())):
        beam, token = beams[place // logs.shape[1]], place % logs.shape[1]
        ids = [*beam.ids, token]
        if token == search.eos or search.stops(ids):
            if rank < search.beams:
                done.append((search.score(total, length), ids))
        elif len(following) < search.beams:
            following.append(_Beam(total, beam.last, ids))
    done.sort(key=lambda answer: -answer[0])
    del done[search.beams :]
    if done and search.beams == 1:
        return []
    if len(done) == search.beams and following:
        # Log-probabilities only fall; with a penalty above zero, an answer's score is best at its longest.
        longest = search.max_new_tokens if search.length_penalty > 0 else length
        if search.score(following[0].total, longest) <= done[-1][0]:
            return []
    return following
