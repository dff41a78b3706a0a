"""Readers of test sets: every format, and what is refused with which words."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from megatron_ipt.decontamination.config import QUESTION_KEYS, DecontaminateConfig
from megatron_ipt.decontamination.index import Question
from megatron_ipt.decontamination.questions import questions_of, read_questions, test_files as files_named
from megatron_ipt.errors import InputError, RecipeError

SQUAD = {
    "data": [
        {
            "title": "Bees",
            "paragraphs": [
                {
                    "context": "Bees dance.",
                    "qas": [
                        {"question": "Who dances?", "answers": [{"text": "Bees"}]},
                        {"question": "Who sings?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ]
}


def read(path: Path, keys: tuple[str, ...] = QUESTION_KEYS) -> list[tuple[int, str]]:
    found = list(read_questions(str(path), keys))
    assert {question.test_set for question in found} == {str(path)}
    return [(question.number, question.text) for question in found]


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_json_lines_by_the_first_key_that_a_record_has(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl", {"text": "a passage", "question": "One?"}, {"problem": "Two?"}, {"text": "Three?"}
    )
    assert read(path) == [(1, "One?"), (2, "Two?"), (3, "Three?")]
    assert read(path, ("text",)) == [(1, "a passage"), (3, "Three?")]


def test_numbers_are_those_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"question": "One?"}\n\n{"question": "Two?"}\n')
    assert read(path) == [(2, "One?"), (4, "Two?")]


def test_compressed_and_as_one_value(tmp_path: Path) -> None:
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(json.dumps([{"question": "One?"}, {"question": ["Two?", "Three?"]}]).encode()))
    assert read(path) == [(1, "One?"), (2, "Two?"), (2, "Three?")]
    whole = tmp_path / "b.json"
    whole.write_text(json.dumps(["One?", "Two?"], indent=1))
    assert read(whole) == [(1, "One?"), (2, "Two?")]


def test_squad_with_the_questions_that_have_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(SQUAD, indent=1))
    assert read(path) == [(1, "Who dances?"), (2, "Who sings?")]


def test_records_with_several_questions(tmp_path: Path) -> None:
    tasks = {"context": "A text.", "tasks": [{"question": "One?", "answer": "1"}, {"question": "Two?", "answer": "2"}]}
    race = {"article": "A.", "questions": ["Three?"], "options": [["x", "y"]], "answers": ["A"]}
    chain = {
        "id": "c",
        "split": "test",
        "examples": [{"id": "e", "text": "", "pairs": [{"question": "Four?", "answer": "4"}]}],
    }
    assert read(lines(tmp_path / "a.jsonl", tasks, race, chain)) == [
        (1, "One?"),
        (1, "Two?"),
        (2, "Three?"),
        (3, "Four?"),
    ]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"id": [1, 2], "problem": ["One?", "Two?"], "rows": [[1], [2]]})
    pyarrow.parquet.write_table(table, path)
    assert read(path) == [(1, "One?"), (2, "Two?")]
    with pytest.raises(InputError, match=r"a\.parquet: holds no test question under question; the records have id, pr"):
        read(path, ("question",))


def test_lines_of_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("One?\n\n  Two?  \r\n")
    assert read(path) == [(1, "One?"), (3, "  Two?  ")]


def test_records_without_a_question_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = lines(tmp_path / "a.jsonl", {"question": "One?"}, {"question": " "}, {"other": "x"}, {"question": None})
    with caplog.at_level(logging.WARNING):
        assert read(path) == [(1, "One?")]
    assert "3 of its records hold no question, the first at 2" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", r"a\.jsonl: holds no test question$"),
        (
            "a.jsonl",
            b'{"q": "One?", "a": 1}\n',
            r"holds no test question under question, .*; the records have q, a; set",
        ),
        ("a.jsonl", b'{"question": "One?"}\n{"question": \n', r"a\.jsonl:2: not valid JSON"),
        ("a.jsonl", bytes(range(256)), r"a\.jsonl:1: not valid JSON"),
        ("a.json", b'{"data": [{"paragraphs": [{"context": 1}]}]}', r"a\.json:1: not in the format squad"),
        ("a.txt", b"One?\n\xff\xfe\n", r"a\.txt:2: not UTF-8.*is it a text file"),
        ("a.txt", b"One?\0\n", r"a\.txt:1: holds a NUL character; is it a text file"),
        ("a.parquet", b"PAR1 not", r"a\.parquet: not readable as Parquet"),
        ("a.bin", b"x", r"a\.bin: unknown format; known: \.jsonl"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(path)


def test_folders_and_patterns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.jsonl", "b.txt", "c.bin"):
        (tmp_path / name).write_text("x")
    with caplog.at_level(logging.WARNING):
        found = files_named([str(tmp_path), str(tmp_path / "*.txt")], "key")
    assert [Path(path).name for path in found] == ["a.jsonl", "b.txt"]
    assert "1 files of other formats skipped" in caplog.text
    with pytest.raises(InputError, match=r"key: .*c\.bin: no file of a known format"):
        files_named([str(tmp_path / "c.bin")], "key")
    with pytest.raises(InputError, match=r"key: .*nowhere.*no such file"):
        files_named([str(tmp_path / "nowhere.jsonl")], "key")


def read_tasks(tasks: list[str], include_path: str, training_sets: bool) -> Iterator[tuple[str, int, str]]:
    for task in tasks:
        yield f"{task} (test set)", 1, f"{task} {include_path} {training_sets}?"


def read_none(tasks: list[str], include_path: str, training_sets: bool) -> list[tuple[str, int, str]]:
    return []


def test_everything_that_the_section_names(tmp_path: Path) -> None:
    file = lines(tmp_path / "a.jsonl", {"question": "One?"})
    more = lines(tmp_path / "b.jsonl", {"context": "c", "question": "Two?", "answer": "x"})
    config = DecontaminateConfig(
        against=[str(file)],
        questions={"mine": str(more)},
        tasks=["arc"],
        include_path="there",
        tasks_reader=f"{__name__}:read_tasks",
    )
    assert list(questions_of(config)) == [
        Question(str(file), 1, "One?"),
        Question("mine", 1, "Two?"),
        Question("arc (test set)", 1, "arc there True?"),
    ]
    config.tasks_reader = f"{__name__}:read_none"
    with pytest.raises(InputError, match=r"decontaminate\.tasks: arc: hold no question"):
        list(questions_of(config))
    config.tasks_reader = f"{__name__}:read_nothing"
    with pytest.raises(RecipeError, match=r"decontaminate\.tasks_reader: .* has no 'read_nothing'"):
        list(questions_of(config))
