"""Compares pairs with gold pairs of the same texts.

Texts are matched by their words; a passage of a gold text counts as that text. Within a text, generated questions are
assigned to gold questions one to one, maximizing the sum of token F1; an assignment with at least a minimum F1 counts
as a match. Coverage is the fraction of gold questions with a match; the answers of matched pairs are compared with the
gold answers. A good synthesizer may ask other good questions, so coverage alone does not measure quality.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from megatron_ipt.errors import InputError
from megatron_ipt.evaluation.judge.text import best_f1, exact_match, token_f1
from megatron_ipt.files import iter_lines, open_bytes
from megatron_ipt.synthesis.from_text.replay.formats import TEXTS, Task, format_of
from megatron_ipt.synthesis.pairs import Example, Pair

_NGRAM_WORDS = 8
_DAMAGED = (KeyError, TypeError, AttributeError, IndexError, ValueError)


@dataclass(frozen=True)
class GoldPair:
    """A question with all its correct answers; ``pair`` has the first one."""

    pair: Pair
    answers: tuple[str, ...]


@dataclass(frozen=True)
class GoldText:
    text: str
    pairs: tuple[GoldPair, ...]


def read_gold(paths: Sequence[str | Path]) -> list[GoldText]:
    """Reads texts with gold pairs from files in the formats squad, tasks, race and dream; see :mod:`.replay.formats`.

    Skips questions that the text does not answer.

    Raises:
        InputError: a file has none of these formats, or contains no questions with answers.
    """
    texts: list[GoldText] = []
    for path in map(Path, paths):
        before = len(texts)
        for where, record in _records(path):
            form = format_of(record)
            if form not in TEXTS:
                raise InputError(
                    f"{where}: unknown format; known: {', '.join(TEXTS)}. Gold pairs are SQuAD files or JSON Lines of "
                    "{context, tasks: [{question, answer, options?}]}."
                )
            try:
                texts += [GoldText(text, _pairs(tasks)) for _, text, tasks in TEXTS[form](record)]
            except _DAMAGED as error:
                raise InputError(f"{where}: not valid {form} data: {error!r}") from error
        if not any(text.pairs for text in texts[before:]):
            raise InputError(f"{path}: contains no questions with answers")
    return texts


def _records(path: Path) -> list[tuple[str, Any]]:
    """(file and line, record) of a JSON or JSON Lines file."""
    with open_bytes(path) as stream:
        try:
            return [(str(path), orjson.loads(stream.read()))]
        except orjson.JSONDecodeError:
            pass
    records = []
    for number, line in enumerate(iter_lines(path), 1):
        if line.strip():
            try:
                records.append((f"{path}:{number}", orjson.loads(line)))
            except orjson.JSONDecodeError as error:
                raise InputError(f"{path}:{number}: not valid JSON: {error}") from error
    return records


def _pairs(tasks: list[Task]) -> tuple[GoldPair, ...]:
    found = []
    for record, make in tasks:
        pair, _ = make(record)
        if pair is not None:
            answers = record.get("answers") if isinstance(record, dict) else None
            texts = [answer["text"].strip() for answer in answers or () if isinstance(answer, dict)]
            found.append(GoldPair(pair, tuple(dict.fromkeys((pair.answer, *filter(None, texts))))))
    return tuple(found)


def against_gold(examples: Sequence[Example], gold: Sequence[GoldText], minimum_f1: float) -> dict[str, Any]:
    """Metrics of generated pairs whose texts are among the gold texts.

    Args:
        minimum_f1: minimum F1 of two questions to count as a match.

    Returns:
        ``{gold_texts, matched_texts, gold_questions, generated, matched, coverage, question_f1, exact_match, f1}``.
        Questions are those of matched texts; ``coverage`` is the fraction of gold questions with a match,
        ``question_f1`` the mean F1 of their assigned questions (0 if none), ``exact_match`` and ``f1`` are means over
        the answers of matched pairs, each against the best of its gold answers.
    """
    questions = generated = matched = texts = 0
    question_f1, exact, answer_f1 = 0.0, 0, 0.0
    for text, pairs in _by_gold_text(examples, gold):
        texts += 1
        questions += len(text.pairs)
        generated += len(pairs)
        scores = np.array([[token_f1(pair.question, other.pair.question) for other in text.pairs] for pair in pairs])
        for row, column in best_assignment(scores):
            question_f1 += float(scores[row, column])
            if scores[row, column] >= minimum_f1:
                matched += 1
                exact += exact_match(pairs[row].answer, text.pairs[column].answers)
                answer_f1 += best_f1(pairs[row].answer, text.pairs[column].answers)
    return {
        "gold_texts": len(gold),
        "matched_texts": texts,
        "gold_questions": questions,
        "generated": generated,
        "matched": matched,
        "coverage": matched / questions if questions else None,
        "question_f1": question_f1 / questions if questions else None,
        "exact_match": exact / matched if matched else None,
        "f1": answer_f1 / matched if matched else None,
    }


def _by_gold_text(examples: Sequence[Example], gold: Sequence[GoldText]) -> list[tuple[GoldText, list[Pair]]]:
    """Gold texts with generated pairs, each with the pairs of it and of its passages: synthesis splits long documents,
    and a text with a completion pair is missing its end."""
    gold_texts = [f" {' '.join(text.text.split())} " for text in gold]
    texts_with: dict[str, list[int]] = {}
    for number, gold_text in enumerate(gold_texts):
        for ngram in _ngrams(gold_text.split()):
            texts_with.setdefault(ngram, []).append(number)
    found: dict[int, list[Pair]] = {}
    for example in examples:
        passage = example.text.split()
        text = f" {' '.join(passage)} "
        candidates = texts_with.get(next(iter(_ngrams(passage)), ""), ())
        match = next((number for number in candidates if text in gold_texts[number]), None)
        if match is not None:
            found.setdefault(match, []).extend(example.pairs)
    return [(gold[number], found[number]) for number in sorted(found)]


def _ngrams(sequence: list[str]) -> Iterator[str]:
    """All n-grams of words, in order; the whole sequence if it is shorter."""
    for start in range(max(len(sequence) - _NGRAM_WORDS + 1, 1)):
        yield " ".join(sequence[start : start + _NGRAM_WORDS])


def best_assignment(scores: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    """(row, column) pairs that use every row and column at most once and maximize the sum of ``scores``.

    The Hungarian algorithm with potentials, O(rows² · columns); pairs with score 0 are dropped.
    """
    if scores.size == 0:
        return []
    if scores.shape[0] > scores.shape[1]:
        return sorted((row, column) for column, row in best_assignment(scores.T))
    rows, columns = scores.shape
    cost = -scores
    row_potential, column_potential = np.zeros(rows + 1), np.zeros(columns + 1)
    # Index 0 means "none"; rows and columns are numbered from 1.
    row_of, previous = np.zeros(columns + 1, int), np.zeros(columns + 1, int)
    for row in range(1, rows + 1):
        row_of[0] = row
        column = 0
        slack = np.full(columns + 1, np.inf)
        used = np.zeros(columns + 1, bool)
        while row_of[column]:
            used[column] = True
            current = row_of[column]
            reduced = cost[current - 1] - row_potential[current] - column_potential[1:]
            better = ~used[1:] & (reduced < slack[1:])
            slack[1:][better] = reduced[better]
            previous[1:][better] = column
            column = int(np.where(used, np.inf, slack).argmin())
            step = slack[column]
            row_potential[row_of[used]] += step
            column_potential[used] -= step
            slack[~used] -= step
        while column:
            row_of[column] = row_of[previous[column]]
            column = int(previous[column])
    pairs = [(int(row_of[column]) - 1, column - 1) for column in range(1, columns + 1) if row_of[column]]
    return sorted(pair for pair in pairs if scores[pair] > 0)
