"""Dividing the data: nothing held out is trained on."""

from __future__ import annotations

import json

import pytest

from megatron_ipt.comparison.config import load_comparison
from megatron_ipt.comparison.data import CONTEXTS, PAIRS, QUESTIONS, TEXT, TEXT_HELD_OUT, prepare, questions_of
from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.files import read_json, read_jsonl
from tests.conftest import REPOSITORY

EXAMPLE = REPOSITORY / "examples/compare_vanilla_vs_instruct.yaml"


def article(number):
    return {
        "title": f"Town_{number}",
        "paragraphs": [
            {
                "context": f"The mill of town {number} was built in {1800 + number} by Anna Berg beside the river Elm.",
                "qas": [
                    {"question": "When was it built?", "answers": [{"text": str(1800 + number)}]},
                    {"question": "Who built it?", "answers": [{"text": "Anna Berg"}]},
                ],
            }
        ],
    }


@pytest.fixture
def files(tmp_path):
    tasks = tmp_path / "tasks.json"
    tasks.write_text(json.dumps({"data": [article(number) for number in range(40)]}))
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"Plain text number {n} about bridges."}) + "\n" for n in range(40)))
    return tasks, text


def prepared(files, folder, *overrides):
    tasks, text = files
    config = load_comparison(EXAMPLE, [f"tasks=[{tasks}]", f"text=[{text}]", "vocab_size=300", *overrides])
    return prepare(config, folder)


def test_articles_and_documents_are_held_out_whole(files, tmp_path):
    counts = prepared(files, tmp_path / "data")
    trained = {record["text"] for record in read_jsonl(tmp_path / "data" / CONTEXTS)}
    asked = {record["context"] for record in read_jsonl(tmp_path / "data" / QUESTIONS)}
    pairs = {
        paragraph["context"]
        for article in read_json(tmp_path / "data" / PAIRS)["data"]
        for paragraph in article["paragraphs"]
    }
    assert trained == pairs
    assert not trained & asked
    assert len(trained) + len(asked) == 40
    text = {record["text"] for record in read_jsonl(tmp_path / "data" / TEXT)}
    held_out = {record["text"] for record in read_jsonl(tmp_path / "data" / TEXT_HELD_OUT)}
    assert not text & held_out
    assert len(text | held_out) == 40
    assert counts["texts"] == len(trained) == counts["gold_pairs"] // 2
    assert counts["held_out_questions"] == 2 * len(asked)


def test_text_is_read_as_the_keys_below_read_say(files, tmp_path):
    tasks, text = files
    text.write_text(text.read_text().replace('"text"', '"body"'))
    message = r"40 of 40 records were rejected .* or raise read\.maximum_reject_share"
    with pytest.raises(InputError, match=message):
        prepared((tasks, text), tmp_path / "data")
    counts = prepared((tasks, text), tmp_path / "data", "read.text_key=body")
    assert counts["plain_documents"] + counts["held_out_plain_documents"] == 40
    with pytest.raises(InputError, match=r"^text: .*none\.jsonl: no such file"):
        prepared((tasks, tmp_path / "none.jsonl"), tmp_path / "data")


def test_the_same_files_elsewhere_are_divided_in_the_same_way(files, tmp_path):
    prepared(files, tmp_path / "one")
    moved = [path.rename(path.with_name(f"moved-{path.name}")) for path in files[:1]]
    prepared((*moved, files[1]), tmp_path / "two")
    assert (tmp_path / "one" / QUESTIONS).read_bytes() == (tmp_path / "two" / QUESTIONS).read_bytes()


def test_options_are_the_answers_about_the_same_text():
    paragraph = {
        "context": "c",
        "qas": [
            {"question": "1", "answers": [{"text": "Rome"}]},
            {"question": "2", "answers": [{"text": "rome"}]},
            {"question": "3", "answers": [{"text": "Oslo"}]},
            {"question": "4", "answers": []},
        ],
    }
    alone = {"context": "d", "qas": [{"question": "5", "answers": [{"text": "Bern"}]}]}
    questions = list(questions_of({"title": "t", "paragraphs": [paragraph, alone]}))
    assert [(question["answer"], question["options"]) for question in questions] == [
        ("Rome", ["Rome", "Oslo"]),
        ("rome", ["rome", "Oslo"]),
        ("Oslo", ["Oslo", "rome"]),
    ]


def test_nothing_to_ask_is_an_error(files, tmp_path):
    with pytest.raises(InputError, match="0 held-out questions; both are needed"):
        prepared(files, tmp_path / "data", "held_out_share=0")


def test_a_single_arm_compares_nothing(tmp_path):
    path = tmp_path / "comparison.yaml"
    path.write_text("tasks: [x.json]\narms: {one: []}\n")
    with pytest.raises(RecipeError, match="arms: a comparison needs at least two"):
        load_comparison(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeds=[1,1]", "seeds: give at least one, without duplicates"),
        ("tasks=[]", "tasks: is empty"),
        ("sedes=[1]", "Did you mean seeds"),
    ],
)
def test_mistakes_are_explained(override, message):
    overrides = ["tasks=[x.json]", override]
    with pytest.raises(RecipeError, match=message):
        load_comparison(EXAMPLE, overrides)
