r"""Formats of files with pairs, as functions from one record to a text with its pairs.

``TEXTS`` holds the formats whose records have texts: SQuAD (and QuAC, which is similar), RACE, DREAM, ``questions``,
a common format with one question per record, and ``tasks``, the format for custom data. A problem of ``PROBLEMS``
(GSM8K, AQuA) has no separate text; several problems make one example with an empty text, as a sequence of worked
problems. Calculator notes (``<<48/2=24>>``) and references to the letter of an option are removed from the reasoning,
because options are shuffled and relettered later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from megatron_ipt.synthesis.pairs import Pair

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_LETTERED = re.compile(r"^\s*\(?([A-E])\s*[).:]\s*")
_OPENING = r"\s*(?:\b(?:so|hence|thus|therefore|and)\b[, ]*)?(?:\bthe\s+)?(?:\bcorrect\s+)?"
_LETTER = r"(?:\s*(?:\bis\b|\boption\b|\bchoice\b|[-:=.(\[]))*\s*(?-i:[A-E])"
_FINAL_LETTER = re.compile(
    rf"{_OPENING}\b(?:answer|ans)\b{_LETTER}(?:\b[^\n]{{0,40}})?$"
    rf"|{_OPENING}\b(?:option|choice)\b{_LETTER}[\])]?\s*[.!]*\s*$"
    r"|(?:^|\n)\s*(?-i:[(\[]?[A-E][\])]?)\s*[.!]*\s*$",
    re.IGNORECASE,
)
_LETTER_REFERENCE = re.compile(
    r"\b(?i:options?|answers?|ans|choices?|statements?)\b(?:\s+(?:choice|option|is|are))*\s*[-:=.]?\s*[\(\[]?[A-E]\b(?!['’])|"
    r"(?:^|\s)[\(\[][A-E][\)\]](?=[\s.,;:]|$)"
)

Problem = tuple[Pair | None, str]
"""A pair, or None and why there is none."""

Task = tuple[Any, Callable[[Any], Problem]]
"""A question as it stands in a record, and what makes a pair of it."""

_TEXT_NAMES = ("context", "passage", "article", "text")

_UNANSWERABLE = "CANNOTANSWER"
"""QuAC's answer to a question that the text does not answer; its texts end with the word."""


def format_of(record: Any) -> str | None:
    """The format that a file's first record is in; None when unknown."""
    if isinstance(record, list):
        return "dream" if record and isinstance(record[0], list) else format_of(record[0]) if record else None
    if not isinstance(record, dict):
        return None
    if "tasks" in record:
        return "tasks"
    if {"article", "questions", "options", "answers"} <= record.keys():
        return "race"
    if "question" in record and any(name in record for name in _TEXT_NAMES):
        return "questions"
    if "data" in record or "paragraphs" in record:
        return "squad"
    if "examples" in record:
        return "chains"
    if {"question", "options", "correct"} <= record.keys():
        return "aqua"
    if {"question", "answer"} <= record.keys():
        return "gsm8k"
    return None


def squad_texts(record: Any) -> Iterator[tuple[str, str, list[Task]]]:
    """(title, text, questions) of every paragraph of a SQuAD file, or of an article of one."""
    for article in record.get("data", [record]):
        for paragraph in article.get("paragraphs", []):
            text = paragraph["context"].removesuffix(_UNANSWERABLE).rstrip()
            yield article.get("title", ""), text, [(question, squad_pair) for question in paragraph.get("qas", [])]


def tasks_texts(record: Any) -> Iterator[tuple[str, str, list[Task]]]:
    """``{context, tasks: [{question, answer, options?, reasoning?}], title?}``: any kinds of tasks about one text."""
    yield record.get("title", ""), record["context"], [(task, task_pair) for task in record["tasks"]]


def race_texts(record: Any) -> Iterator[tuple[str, str, list[Task]]]:
    """``{article, questions, options, answers}``: lists of one length; answers are letters."""
    columns = (record["questions"], record["options"], record["answers"])
    if len({len(column) for column in columns}) != 1:
        raise IndexError("questions, options and answers differ in number")
    tasks = [
        {"question": question, "options": options, "answer": answer} for question, options, answer in zip(*columns)
    ]
    yield "", record["article"], [(task, task_pair) for task in tasks]


def dream_texts(record: Any) -> Iterator[tuple[str, str, list[Task]]]:
    """``[[lines of a dialogue], [{question, choice, answer}], id]``."""
    lines, questions, *_ = record
    tasks = [{"options": question["choice"], **question} for question in questions]
    yield "", "\n".join(lines), [(task, task_pair) for task in tasks]


def squad_pair(question: dict[str, Any]) -> Problem:
    answers = [answer["text"].strip() for answer in question.get("answers", []) if answer.get("text", "").strip()]
    if question.get("is_impossible") or not answers or answers[0] == _UNANSWERABLE:
        return None, "unanswerable question"
    if not question["question"].strip():
        return None, "empty question"
    return Pair(question["question"].strip(), answers[0]), ""


def task_pair(task: dict[str, Any]) -> Problem:
    """A pair of the format ``tasks``; its answer, where it has options, is one of them, its letter or its place."""
    question, answer = task["question"].strip(), task["answer"]
    options = tuple(dict.fromkeys(str(option).strip() for option in task.get("options") or ()))
    reasoning = (task.get("reasoning") or "").strip()
    if options:
        answer = _option_meant([str(option).strip() for option in task["options"]], answer)
        if answer is None:
            return None, "answer not among the options"
        if len(options) < 2:
            return None, "fewer than two options"
    answer = str(answer).strip()
    if not question or not answer:
        return None, "empty question or answer"
    return Pair(question, answer, options=options, reasoning=reasoning), ""


def _option_meant(options: list[str], answer: Any) -> str | None:
    if isinstance(answer, str):
        answer = answer.strip()
        if answer in options:
            return str(answer)
        answer = "ABCDEFGHIJ".find(answer) if len(answer) == 1 else -1
    return options[answer] if isinstance(answer, int) and 0 <= answer < len(options) else None


def gsm8k_pair(record: dict[str, Any]) -> Problem:
    reasoning, mark, answer = record["answer"].rpartition("####")
    if not mark:
        # Question and answer without steps are pairs as well.
        reasoning, answer = "", record["answer"]
    if not record["question"].strip() or not answer.strip():
        return None, "empty question or answer"
    return Pair(record["question"].strip(), answer.strip(), reasoning=_CALCULATOR.sub("", reasoning).strip()), ""


def aqua_pair(record: dict[str, Any]) -> Problem:
    options = {}
    for number, option in enumerate(record["options"]):
        match = _LETTERED.match(option)
        letter = match[1] if match else "ABCDE"[number]
        options[letter] = _LETTERED.sub("", option).strip()
    right = options.get(record["correct"].strip())
    if not right or not record["question"].strip():
        return None, "no right option or no question"
    distinct = tuple(dict.fromkeys(option for option in options.values() if option))
    if len(distinct) < 2:
        return None, "fewer than two options"
    reasoning = without_letters(record.get("rationale", ""))
    return Pair(record["question"].strip(), right, options=distinct, reasoning=reasoning), ""


def without_letters(rationale: str) -> str:
    """The rationale without its closing "Answer: C"; empty when it goes on speaking of options by letter."""
    earlier = None
    text = rationale.strip()
    while text != earlier:
        earlier = text
        text = _FINAL_LETTER.sub("", text).strip()
    return "" if _LETTER_REFERENCE.search(text) else text


def questions_texts(record: Any) -> Iterator[tuple[str, str, list[Task]]]:
    """One question with its text: ``{context, question, answer, options?, reasoning?}``.

    The text may also be called passage, article or text. Instead of ``answer`` there may be ``answers`` (texts, or as
    in SQuAD), of which the first counts, or ``label``, the index of the correct option.
    """
    text = next((record[name] for name in _TEXT_NAMES if isinstance(record.get(name), str)), None)
    if text is None:
        raise KeyError(_TEXT_NAMES[0])
    task = {"question": record["question"], "reasoning": record.get("reasoning")}
    options, answers = record.get("options") or record.get("choices"), record.get("answers")
    if "label" in record:
        task |= {"options": options or answers, "answer": record["label"]}
    else:
        answer = record["answer"] if "answer" in record else _first_answer(answers)
        task |= {
            "options": options,
            "answer": {True: "Yes", False: "No"}[answer] if isinstance(answer, bool) else answer,
        }
    yield record.get("title") or "", text, [(task, task_pair)]


def _first_answer(answers: Any) -> str:
    """Of a list of texts, of a list of ``{text}``, or of ``{text: [...]}``; empty where there is none."""
    answers = answers["text"] if isinstance(answers, dict) else answers
    first = answers[0] if answers else ""
    return str(first["text"] if isinstance(first, dict) else first)


TEXTS: dict[str, Callable[[Any], Iterator[tuple[str, str, list[Task]]]]] = {
    "squad": squad_texts,
    "tasks": tasks_texts,
    "race": race_texts,
    "dream": dream_texts,
    "questions": questions_texts,
}
PROBLEMS: dict[str, Callable[[Any], Problem]] = {"gsm8k": gsm8k_pair, "aqua": aqua_pair}
