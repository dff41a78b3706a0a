"""The questions of benchmarks, for a stage that keeps them out of the training data.

What a question is, the task says: its query for decontamination, else its prompt. Labels around it, such as
``Question:`` and ``Answer:``, are the prompt's and not the question's.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

from megatron_ipt.errors import InputError
from megatron_ipt.evaluation.harness import lm_evaluation
from megatron_ipt.evaluation.harness.presets import parse_benchmark

logger = logging.getLogger(__name__)

_LABEL_BEFORE = re.compile(r"\A\s*(?:question|q|problem)\s*:", re.IGNORECASE)
_LABEL_AFTER = re.compile(r"(?:\n|\A)\s*(?:answer|a|solution)\s*:\s*\Z", re.IGNORECASE)
_SETS = ("test_docs", "validation_docs", "training_docs")
"""Methods of a task."""


def read(tasks: list[str], include_path: str, training_sets: bool) -> Iterator[tuple[str, int, str]]:
    """(test set, number, question) of all tasks.

    Args:
        tasks: as TASK or TASK:SHOTS.
        include_path: folder with custom task files; empty for none.
        training_sets: every set of a task; else only what is evaluated, its test set or, without one, its validation
            set.

    Raises:
        UserError: lm-eval is not installed.
        RecipeError: a task does not exist.
        InputError: the data of a task cannot be loaded, or holds no question.
    """
    for loaded in lm_evaluation.load_benchmarks([parse_benchmark(task) for task in tasks], include_path):
        for task in lm_evaluation.tasks_in(loaded):
            questions = 0
            for name in _sets_of(task, training_sets):
                found, without = 0, 0
                label = name.removesuffix("_docs")
                for number, document in enumerate(getattr(task, name)(), 1):
                    text = question_of(task, document)
                    if text:
                        found += 1
                        yield f"{task.task_name} ({label} set)", number, text
                    else:
                        without += 1
                questions += found
                if without:
                    logger.warning(
                        "benchmark %s: %d records of its %s set hold no question; they are not compared with",
                        task.task_name, without, label,
                    )  # fmt: skip
            if not questions:
                raise InputError(f"benchmark {task.task_name}: its task file gives no question to compare with")


def _sets_of(task: Any, training_sets: bool) -> list[str]:
    there = [name for name in _SETS if getattr(task, f"has_{name}")()]
    return there if training_sets else there[:1]


def question_of(task: Any, document: Any) -> str:
    """The question of a record of ``task``, empty where it has none."""
    text = _query(task, document)
    if not isinstance(text, str) or not text.strip():
        # A prompt may be the number of one of the choices, or empty before a text that is predicted as a whole.
        choice, text = text, ""
        if isinstance(choice, int) and task.config.doc_to_choice is not None:
            text = task.doc_to_choice(document)[choice]
        elif not choice:
            text = task.doc_to_target(document)
    if not isinstance(text, str):
        return ""
    return _LABEL_AFTER.sub("", _LABEL_BEFORE.sub("", text)).strip()


def _query(task: Any, document: Any) -> Any:
    from lm_eval.utils import apply_template

    query = task.config.doc_to_decontamination_query if task.config.should_decontaminate else None
    if query is None:
        return task.doc_to_text(document)
    if callable(query):
        return query(document)
    # The library itself would evaluate what a template gives as Python.
    return document[query] if query in document else apply_template(query, document)
