from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.errors import InputError
from megatron_ipt.manifest import StageContext
from megatron_ipt.synthesis import stage
from megatron_ipt.synthesis.config import SynthesisConfig
from megatron_ipt.synthesis.from_text.replay.formats import aqua_pair, gsm8k_pair, squad_pair, without_letters
from megatron_ipt.synthesis.pairs import Chain, Pair

Configure = Callable[..., SynthesisConfig]


def replay(
    configure: Configure, context: StageContext, *paths: Path, **overrides: Any
) -> tuple[dict[str, Any], list[Chain]]:
    config = configure(engine="replay", **{"replay.inputs": json.dumps([str(path) for path in paths])} | overrides)
    counts = stage.run(config, context)
    return counts, list(stage.chains_in(context.directory))


def test_gsm8k_problem() -> None:
    record = {"question": "Half of 48?", "answer": "It is 48/2 = <<48/2=24>>24.\n#### 24"}
    assert gsm8k_pair(record) == (Pair("Half of 48?", "24", reasoning="It is 48/2 = 24."), "")


def test_aqua_problem() -> None:
    record = {
        "question": "Speed?", "options": ["A)1", "B) 2", "C)1"], "rationale": "Two steps.\nAnswer: B", "correct": "B",
    }  # fmt: skip
    assert aqua_pair(record) == (Pair("Speed?", "2", options=("1", "2"), reasoning="Two steps."), "")
    assert aqua_pair(record | {"correct": "E"})[0] is None


@pytest.mark.parametrize(
    ("rationale", "expected"),
    [
        ("x = 5\nAnswer: C", "x = 5"),
        ("x = 5.\nThe answer is D.", "x = 5."),
        ("x = 5\nB", "x = 5"),
        ("x = 5 ANSWER:D", "x = 5"),
        ("x = 5\nSo, the correct answer is (A)", "x = 5"),
        ("x = 5\nAnswer: B) 20%", "x = 5"),
        ("x = 5. Hence option E", "x = 5."),
        ("Take C as the capital.", "Take C as the capital."),
        ("By option A we get 5, so we are done.", ""),
        ("", ""),
    ],
)
def test_letters_of_options_leave_the_reasoning(rationale: str, expected: str) -> None:
    assert without_letters(rationale) == expected


def test_unanswerable_questions_are_not_pairs() -> None:
    assert squad_pair({"question": "Who?", "answers": [{"text": "Ann"}]}) == (Pair("Who?", "Ann"), "")
    assert squad_pair({"question": "Who?", "answers": [], "is_impossible": True})[0] is None


def test_squad_chains_stay_within_an_article(configure: Configure, context: StageContext, tmp_path: Path) -> None:
    def article(title: str, count: int) -> dict[str, Any]:
        question = {"question": "Who?", "answers": [{"text": "Ann"}]}
        return {"title": title, "paragraphs": [{"context": f"{title} {n}", "qas": [question]} for n in range(count)]}

    path = tmp_path / "gold.json"
    path.write_text(json.dumps({"data": [article("One_two", 3), article("Three", 1)]}, indent=1))
    counts, chains = replay(configure, context, path)
    assert [[example.text for example in chain.examples] for chain in chains] == [
        ["One_two 0", "One_two 1"], ["One_two 2"], ["Three 0"],
    ]  # fmt: skip
    assert chains[0].examples[0].title == "One two"
    assert chains[0].examples[0].pairs == [Pair("Who?", "Ann", "person")]
    assert counts["pairs"] == 4


def test_problems_share_a_document(configure: Configure, context: StageContext, tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    lines = [json.dumps({"question": f"What is {n}?", "answer": f"{n} it is.\n#### {n}"}) for n in range(7)]
    path.write_text("\n".join([*lines[:3], "{broken", *lines[3:], '{"question": 1, "answer": "x"}', ""]))
    counts, chains = replay(configure, context, path, **{"replay.problems_per_document": 3})
    assert [len(chain.examples[0].pairs) for chain in chains] == [3, 3, 1]
    assert {example.text for chain in chains for example in chain.examples} == {""}
    assert [chain.id for chain in chains] == ["problems:1", "problems:5", "problems:8"]
    assert sum(counts["dropped"].values()) == 2
    assert counts["dropped"]["not valid JSON"] == 1


def test_own_chains_come_back_unchanged(configure: Configure, context: StageContext, tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({"question": "What is 1?", "answer": "#### 1"}) + "\n")
    _, chains = replay(configure, context, path)
    again = StageContext("synthesis", tmp_path / "again", 7, context.inputs)
    assert replay(configure, again, context.directory / "shard-00000.jsonl")[1] == chains


def test_splits_by_id(configure: Configure, context: StageContext, tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n}?", "answer": "#### 1"}) + "\n" for n in range(300)))
    _, chains = replay(configure, context, path, **{"replay.problems_per_document": 1, "replay.valid_share": 0.3})
    valid = sum(chain.split == "valid" for chain in chains)
    assert 60 < valid < 120
    assert {chain.split for chain in chains} == {"train", "valid"}


def test_unknown_files(configure: Configure, context: StageContext, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"synthesis\.replay\.inputs: .*missing: no such file"):
        replay(configure, context, tmp_path / "missing")
    for content, message in (("", "is empty"), ("{", "neither JSON nor"), ('{"a": 1}', "matches none of the formats")):
        path = tmp_path / "odd.json"
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            replay(configure, context, path)


def test_folders_patterns_and_marks(configure: Configure, context: StageContext, tmp_path: Path) -> None:
    record = codecs.BOM_UTF8 + json.dumps(TEXT_FORMATS["tasks"][0]).encode()
    for name in ("b/two.jsonl", "b/one.json", "c/three.jsonl", "d.data"):
        (tmp_path / "gold" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "gold" / name).write_bytes(record)
    (tmp_path / "gold/b/README.txt").touch()
    inputs = [tmp_path / "gold/b", tmp_path / "gold/*/*.jsonl", tmp_path / "gold/d.data"]
    _, chains = replay(configure, context, *inputs, chain_length=1)
    assert [chain.id for chain in chains] == ["one:0", "two:0", "three:0", "d:0"]
    assert {example.text for chain in chains for example in chain.examples} == {"Ann sings."}
    for entry, message in (
        ("s3://x/y", "remote addresses are not supported"),
        (str(tmp_path / "e"), "no file that ends"),
    ):
        (tmp_path / "e").mkdir(exist_ok=True)
        (tmp_path / "e/x.txt").touch()
        with pytest.raises(InputError, match=rf"^synthesis\.replay\.inputs: .*{message}"):
            stage.check(configure(engine="replay", **{"replay.inputs": json.dumps([entry])}))


def test_gold_files(configure: Configure, context: StageContext, test_data: Path) -> None:
    names = ("xquad.en.json", "gsm8k.train.jsonl", "aqua.dev.jsonl")
    counts, chains = replay(configure, context, *(test_data / name for name in names))
    assert counts["pairs"] == 1190 + 7473 + 254
    assert counts["dropped"] == {}
    assert len(stage.unfinished(configure(engine="mined"), context)) == 0
    options = [pair for chain in chains for example in chain.examples for pair in example.pairs if pair.options]
    assert len(options) == 254
    assert all(pair.answer in pair.options for pair in options)
    assert not any("<<" in pair.reasoning for chain in chains for example in chain.examples for pair in example.pairs)


TEXT_FORMATS = {
    "tasks": (
        {"context": "Ann sings.", "title": "Ann", "tasks": [
            {"question": "Who sings?", "answer": "Ann"},
            {"question": "Is it Bob?", "answer": "B", "options": ["Yes", "No"]},
            {"question": "Is it Ann?", "answer": 0, "options": ["Yes", "No"]},
            {"question": "How many sing?", "answer": 1, "reasoning": "Only Ann does."},
            {"question": "Is it Cid?", "answer": "Perhaps", "options": ["Yes", "No"]},
        ]},
        [Pair("Who sings?", "Ann"), Pair("Is it Bob?", "No", options=("Yes", "No")),
         Pair("Is it Ann?", "Yes", options=("Yes", "No")), Pair("How many sing?", "1", reasoning="Only Ann does.")],
    ),
    "race": (
        {"article": "Ann sings.", "questions": ["Who sings?"], "options": [["Bob", "Ann", "Cid", "Di"]],
         "answers": ["B"]},
        [Pair("Who sings?", "Ann", options=("Bob", "Ann", "Cid", "Di"))],
    ),
    "dream": (
        [["Ann sings."], [{"question": "Who sings?", "choice": ["Bob", "Ann"], "answer": "Ann"}], "1-1"],
        [Pair("Who sings?", "Ann", options=("Bob", "Ann"))],
    ),
    "squad": (
        {"title": "Ann", "paragraphs": [{"context": "Ann sings. CANNOTANSWER", "qas": [
            {"question": "Who sings?", "answers": [{"text": "Ann"}]},
            {"question": "Where?", "answers": [{"text": "CANNOTANSWER"}]},
        ]}]},
        [Pair("Who sings?", "Ann")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", TEXT_FORMATS)
def test_formats_with_texts(form: str, configure: Configure, context: StageContext, tmp_path: Path) -> None:
    record, expected = TEXT_FORMATS[form]
    path = tmp_path / "gold.json"
    path.write_text(json.dumps([record, record], indent=1))
    _, chains = replay(configure, context, path)
    examples = [example for chain in chains for example in chain.examples]
    assert [example.text for example in examples] == ["Ann sings."] * 2
    for example in examples:
        found = [(pair.question, pair.answer, pair.options, pair.reasoning) for pair in example.pairs]
        assert found == [(pair.question, pair.answer, pair.options, pair.reasoning) for pair in expected]


def test_questions_of_one_text_follow_each_other(configure: Configure, context: StageContext, tmp_path: Path) -> None:
    records = [
        {
            "context": "Ann sings.",
            "question": "Who sings?",
            "answers": {"text": ["Ann", "ann"], "answer_start": [0, 0]},
        },
        {"context": "Ann sings.", "question": "Is it Bob?", "answers": ["Yes", "No"], "label": 1},
        {"passage": "Bob mows.", "question": "Does Bob mow?", "answer": True},
        {"article": "Cid naps.", "question": "Who naps?", "options": ["Ann", "Cid"], "answer": "B"},
        {"text": "Di reads.", "question": "Who reads?", "answers": {"text": [], "answer_start": []}},
        {"question": "Where?", "answer": "Here"},
    ]
    path = tmp_path / "gold.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    counts, chains = replay(configure, context, path, chain_length=4)
    ((ann, bob, cid, di),) = [chain.examples for chain in chains]
    assert [(pair.question, pair.answer, pair.options) for example in (ann, bob, cid) for pair in example.pairs] == [
        ("Who sings?", "Ann", ()), ("Is it Bob?", "No", ("Yes", "No")), ("Does Bob mow?", "Yes", ()),
        ("Who naps?", "Cid", ("Ann", "Cid")),
    ]  # fmt: skip
    assert di.pairs == []
    assert counts["dropped"] == {"empty question or answer": 1, "not in the format questions": 1}


def test_damaged_records_are_kept_with_their_line(configure: Configure, context: StageContext, tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    good = json.dumps(TEXT_FORMATS["tasks"][0])
    unequal = {"article": "a", "questions": ["b?"], "options": [], "answers": []}
    path.write_text("\n".join([good, '{"context": "no tasks"}', json.dumps(unequal), good]))
    counts, chains = replay(configure, context, path)
    assert sum(len(chain.examples) for chain in chains) == 2
    assert counts["dropped"] == {"not in the format tasks": 2, "answer not among the options": 2}
