"""A template file with a single entry in every list, so that a document can be worked out by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_ipt.augment.config import AugmentConfig
from megatron_ipt.augment.templates import Templates, load_templates

TINY: dict[str, Any] = {
    "layout_weights": {"several": {"plain": 1}, "otherwise": {"plain": 1}},
    "text_last_share": 0,
    "shuffle_pairs_share": 0,
    "text_separators": ["\n==\n"],
    "patterns": {
        "free": ["Q {question}\nA {answer}"],
        "choice": ["Q {question}\n{options}\nA {choice}"],
        "free_reasoning": ["Q {question}\nR {reasoning}\nA {answer}."],
        "choice_reasoning": ["Q {question}\n{options}\nR {reasoning}\nA {letter}"],
        "completion": ["[{question}]\n{answer}"],
    },
    "apart": {
        "choice_question": ["{question}\n{options}"],
        "choice_answer": ["{choice}"],
        "unmatched_question": ["{question} Of: {options}"],
        "reasoning_question": ["{question} Why?"],
        "reasoning_answer": ["{reasoning} So {answer}."],
    },
    "option_styles": [
        {"item": "({letter}) {option}", "letters": "upper"},
        {"item": "({letter}) {option}", "letters": "upper", "join": " "},
        {"item": "{option}", "bullet": "- ", "weight": 1e-9},
        {"item": "{option}", "join": " / ", "weight": 1e-9},
    ],
    "no_answer": {"share": 1, "marks": ["unanswerable"], "wordings": ["Nobody knows."]},
    "plain": {"frames": ["{text}\n\n{pairs}"], "frames_text_last": ["{pairs}\n\nSource: {text}"]},
    "dialogue": {
        "frames": ["{text}\n\nTalk:\n{pairs}"],
        "frames_text_last": ["{pairs}\n\nAbout: {text}"],
        "turns": ["U: {question}\nS: {answer}"],
    },
    "numbered": [
        {
            "frame": "{text}\n\nAsked:\n{questions}\n\nTold:\n{answers}",
            "question": "{number}. {question}",
            "answer": "{number}. {answer}",
        }
    ],
    "examples": ["{text}\n\nSeen:\n{pairs}\n\nTest:\n{final}"],
    "next_turn": [
        {"frame": "{text}\n\n{pairs}\nU: {question}\n\nNext?\n{answer}", "turn": "U: {question}\nS: {answer}"}
    ],
}


@pytest.fixture
def write_templates(tmp_path: Path) -> Callable[..., Path]:
    """Writes the tiny file with ``changes`` by dotted key (None removes a key) and returns its path."""

    def write(changes: dict[str, Any] | None = None, name: str = "tiny.yaml") -> Path:
        content = copy.deepcopy(TINY)
        for key, value in (changes or {}).items():
            *sections, last = key.split(".")
            target = content
            for section in sections:
                target = target[section]
            if value is None:
                del target[last]
            else:
                target[last] = value
        path = tmp_path / name
        path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        return path

    return write


@pytest.fixture
def make_templates(write_templates: Callable[..., Path]) -> Callable[..., Templates]:
    """The tiny templates with ``changes``, loaded."""
    return lambda changes=None: load_templates(AugmentConfig(templates=str(write_templates(changes))))


@pytest.fixture(scope="session")
def built_in() -> Templates:
    return load_templates()
