"""A small corpus with pairs, some of which hold a test question."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.files import atomic_jsonl, list_shards, read_jsonl, shard_name
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import CHAINS, DOCUMENTS

HIVE = "How many frames does a hive of two boxes with ten frames each hold after one is broken?"
SIZE = "What is the size of a hive?"
WHY = "Why bees?"


def pair(question: str, answer: str = "Because of that.", **more: Any) -> dict[str, Any]:
    return {"question": question, "answer": answer, **more}


def example(name: str, text: str, *pairs: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "text": text, "pairs": list(pairs)}


def chain(name: str, *examples: dict[str, Any], split: str = "train") -> dict[str, Any]:
    return {"id": name, "split": split, "examples": list(examples)}


def document(name: str, text: str, split: str = "train") -> dict[str, Any]:
    return {"id": name, "text": text, "split": split}


def write_shards(folder: Path, *shards: Iterable[dict[str, Any]]) -> None:
    for number, records in enumerate(shards):
        with atomic_jsonl(folder / shard_name(number, "zst")) as writer:
            for record in records:
                writer.write(record)


def read_shards(folder: Path) -> list[list[dict[str, Any]]]:
    return [list(read_jsonl(path)) for path in list_shards(folder)]


def write_tests(path: Path, *questions: str) -> Path:
    path.write_text("".join(json.dumps({"question": question}) + "\n" for question in questions))
    return path


@pytest.fixture
def tests_file(tmp_path: Path) -> Path:
    return write_tests(tmp_path / "test.jsonl", HIVE, SIZE, WHY)


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    inputs = {CHAINS: tmp_path / "synthesis", DOCUMENTS: tmp_path / "corpus"}
    return StageContext("decontaminate", tmp_path / "decontaminate", 7, inputs, "zst")
