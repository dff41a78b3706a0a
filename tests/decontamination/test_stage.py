"""The stage: what goes and what stays, worked out by hand; divided, interrupted and resumed, the same bytes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.decontamination import index, repeats, stage
from megatron_ipt.decontamination.config import DecontaminateConfig
from megatron_ipt.errors import InputError, StageError
from megatron_ipt.files import read_jsonl
from megatron_ipt.manifest import StageContext, read_manifest
from megatron_ipt.pipeline import context_of, run_one, run_recipe, stage_of
from megatron_ipt.recipe import Recipe, recipe_from
from megatron_ipt.stages import CHAINS, DOCUMENTS
from tests.decontamination.conftest import (
    HIVE,
    SIZE,
    WHY,
    chain,
    document,
    example,
    pair,
    read_shards,
    write_shards,
    write_tests,
)

HELD = HIVE.lower().replace("?", "")
"""More than thirteen words of a test question."""


def run(context: StageContext, *against: Path, **settings: Any) -> dict[str, Any]:
    context.directory.mkdir(exist_ok=True)
    return stage.run(DecontaminateConfig(against=[str(path) for path in against], **settings), context)


def rejects(context: StageContext, name: str) -> list[dict[str, Any]]:
    path = context.directory / "rejects" / name
    return list(read_jsonl(path)) if path.exists() else []


def test_a_pair_goes_alone_a_text_with_its_pairs_and_a_chain_without_texts(
    context: StageContext, tests_file: Path
) -> None:
    kept = pair("How many legs?", "Six.", options=["Four", "Six"])
    write_shards(
        context.inputs[CHAINS],
        [
            chain(
                "a", example("a1", "Bees.", kept, pair(f"Say, {HELD}"), pair("Why?", f"A: {HELD}")), example("a2", "")
            ),
            chain("b", example("b1", f"Asked: {HELD}!", kept, pair(SIZE)), example("b2", "Wax.", kept), split="valid"),
        ],
        [
            chain("c", example("c1", "So what IS the size of a HIVE, then", kept), split="test"),
            chain("d", example("d1", "x", pair("q", "a", reasoning=SIZE), pair("q", "a", options=["a", SIZE]), kept)),
            chain("e"),
        ],
    )
    counts = run(context, tests_file)
    first, second = read_shards(context.directory)
    assert first == [
        chain("a", example("a1", "Bees.", kept), example("a2", "")),
        chain("b", example("b2", "Wax.", kept), split="valid"),
    ]
    assert second == [chain("d", example("d1", "x", kept)), chain("e")]
    assert (counts["chains"], counts["chains_without_texts"]) == (4, 1)
    assert (counts["texts"], counts["texts_with_pairs"], counts["pairs"]) == (4, 3, 3)
    # Of 10 pairs: two of a1, one of b1 and two of d1 hold a question, one of b1 and one of c1 go with their text.
    assert counts["dropped"] == {
        "pair holds a test question": 5, "text holds a test question": 2, "pair of a removed text": 2,
    }  # fmt: skip
    assert counts["compared"] == 10 + 6
    assert counts["test_sets"] == {str(tests_file): {"pairs": 5, "texts": 2}}
    assert [(row["number"], row["found"]) for row in counts["questions"]] == [(2, 4), (1, 3)]
    assert (counts["test_questions"], counts["short_test_questions"], counts["questions_found"]) == (3, 1, 2)


def test_rejects_name_the_question_and_the_words(context: StageContext, tests_file: Path) -> None:
    write_shards(
        context.inputs[CHAINS],
        [chain("z"), chain("a", example("a1", "Bees.", pair("Now?", f"He asked: {HELD}. {SIZE}")))],
    )
    run(context, tests_file)
    source = str(context.inputs[CHAINS] / "shard-00000.jsonl.zst")
    assert rejects(context, "shard-00000.jsonl") == [
        {
            "reason": "pair holds a test question",
            "source": source,
            "line": 2,
            "detail": f"a1: answer has words of question 1 of {tests_file}, and of 1 other questions",
            "test_set": str(tests_file),
            "question": 1,
            "words": HELD,
            "sample": f"Now?\nHe asked: {HELD}. {SIZE}",
        }
    ]


def test_question_and_answer_are_two_texts(context: StageContext, tests_file: Path) -> None:
    words = HELD.split()
    across = pair(" ".join(words[:9]), " ".join(words[9:]))
    write_shards(
        context.inputs[CHAINS], [chain("a", example("a1", "Text", across), example("a2", " ".join(words[:12])))]
    )
    assert run(context, tests_file)["dropped"] == {}
    assert read_shards(context.directory) == read_shards(context.inputs[CHAINS])


def test_both_lanes_of_documents_and_all_splits(context: StageContext, tests_file: Path) -> None:
    for lane in ("synthesis", "raw"):
        write_shards(
            context.inputs[DOCUMENTS] / lane,
            [document("1", f"x {SIZE} y"), document("2", "Bees.", "valid"), document("3", WHY.upper(), "test")],
            [document("4", "Wax."), document("5", f"{WHY} Indeed.")],
        )
    counts = run(context, tests_file)
    for lane in ("synthesis", "raw"):
        assert [[record["id"] for record in shard] for shard in read_shards(context.directory / lane)] == [
            ["2"],
            ["4", "5"],
        ]
        assert [row["detail"].split(":")[0] for row in rejects(context, f"{lane}/shard-00000.jsonl")] == ["1", "3"]
    assert (counts["documents"], counts["raw_documents"], counts["synthesis_documents"]) == (6, 3, 3)
    assert counts["dropped"] == {"document holds a test question": 4}


def test_what_is_kept_is_as_it_was(context: StageContext, tests_file: Path) -> None:
    record = document("1", "Bees \u2028 fly.\n") | {"title": "T", "domain": "d", "more": {"n": 1.5, "list": [None]}}
    kept = chain("a", example("a", "t", pair("Ä?", "b", category="c", style="s")) | {"title": "T"}) | {"domain": "d"}
    write_shards(context.inputs[DOCUMENTS] / "raw", [record])
    write_shards(context.inputs[CHAINS], [kept])
    run(context, tests_file)
    assert read_shards(context.directory / "raw") == [[record]]
    assert read_shards(context.directory) == [[kept]]


def test_near_duplicates_of_all_shards(context: StageContext, tests_file: Path) -> None:
    eggs = "How many eggs does a queen bee lay in one summer?"
    again = "how many eggs does a queen bee lay in one SUMMER"
    write_shards(
        context.inputs[CHAINS],
        [chain("a", example("a1", "", pair(SIZE), pair(eggs, "1")), example("a2", "", pair("Who dances?", "2")))],
        [chain("b", example("b1", "", pair(again, "3"), pair(SIZE.upper()), pair("Who sings?", "4")))],
        [chain("c", example("c1", "", pair(eggs, "5")))],
    )
    counts = run(context, tests_file, near_duplicates=0.8)
    answers = [
        [pair["answer"] for record in shard for part in record["examples"] for pair in part["pairs"]]
        for shard in read_shards(context.directory)
    ]
    # A chain of which a text is left stays, and a pair with a test question is not what later ones are compared with.
    assert answers == [["1", "2"], ["4"], []]
    assert (counts["pairs"], counts["texts"], counts["texts_with_pairs"], counts["compared"]) == (3, 4, 3, 7 + 4)
    assert counts["dropped"] == {"near-duplicate of an earlier question": 2, "pair holds a test question": 2}
    (row,) = rejects(context, "shard-00001.near_duplicates.jsonl")
    assert row["detail"] == "b1: like pair 1 of a1" and row["sample"] == again
    # What it was made from is no longer needed.
    assert list((context.directory / "cleaned").glob("*.jsonl*")) == []
    # All of them are there, without a test set, too.
    alone = StageContext("decontaminate", context.directory.with_name("alone"), 7, context.inputs, "zst")
    assert run(alone, near_duplicates=0.8)["pairs"] == 4


def test_many_near_duplicates_are_doubted(context: StageContext, caplog: pytest.LogCaptureFixture) -> None:
    write_shards(
        context.inputs[CHAINS],
        [chain(str(n), example(str(n), f"Text {n}", pair("What is this text about?"))) for n in range(3)],
    )
    with caplog.at_level(logging.WARNING):
        run(context, near_duplicates=0.8)
    assert "2 of 3 questions are near-duplicates" in caplog.text


def test_warnings_of_questions_that_may_not_be_test_questions(
    context: StageContext, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tests = write_tests(tmp_path / "common.jsonl", "all rights are reserved here", "---")
    texts = ["All rights are reserved here." if number % 100 == 0 else "Bees." for number in range(2000)]
    write_shards(context.inputs[DOCUMENTS] / "raw", [document(str(n), text) for n, text in enumerate(texts)])
    with caplog.at_level(logging.WARNING):
        counts = run(context, tests)
    assert [(row["number"], row["found"]) for row in counts["frequent"]] == [(1, 20)]
    assert "question 1 of " in caplog.text and "20 of 2,000 (1.00%)" in caplog.text
    assert counts["large_test_sets"] == {}
    assert "1 test questions hold no letter or digit" in caplog.text


def test_a_test_set_that_the_corpus_is_made_of(
    context: StageContext, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    questions = [f"question number {number} of the test" for number in range(12)]
    tests = write_tests(tmp_path / "t.jsonl", *questions)
    write_shards(context.inputs[DOCUMENTS] / "raw", [document(text, text) for text in [*questions, "Bees.", "Wax."]])
    with caplog.at_level(logging.WARNING):
        counts = run(context, tests)
    assert counts["large_test_sets"] == {str(tests): round(12 / 14, 4)}
    assert "86% of everything holds a question of" in caplog.text and counts["frequent"] == []


def test_only_short_questions_are_doubted(
    context: StageContext, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_shards(context.inputs[DOCUMENTS] / "raw", [document("1", "Bees.")])
    with caplog.at_level(logging.WARNING):
        run(context, write_tests(tmp_path / "short.jsonl", "A", "B c"))
    assert "every test question has fewer than 4 words" in caplog.text


def corpus(context: StageContext, shards: int = 4, records: int = 30) -> None:
    rng = random.Random(5)
    words = [f"w{number}" for number in range(50)]

    def text() -> str:
        made = " ".join(rng.choices(words, k=rng.randint(1, 40)))
        return f"{made} {HELD}" if rng.random() < 0.2 else made

    made = [
        [
            chain(
                f"{shard}-{n}", *(example(f"{shard}-{n}-{m}", text(), pair(text(), text()), pair(text())) for m in "xy")
            )
            for n in range(records)
        ]
        for shard in range(shards)
    ]
    write_shards(context.inputs[CHAINS], *made)
    write_shards(context.inputs[DOCUMENTS] / "raw", *([document(f"{s}", text()) for _ in range(9)] for s in range(2)))


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json" and not path.name.startswith(".")
    }


@pytest.mark.parametrize("near", [None, 0.8])
def test_shares_workers_and_the_whole_make_the_same(
    context: StageContext, tests_file: Path, near: float | None
) -> None:
    corpus(context)
    expected = run(context, tests_file, near_duplicates=near)
    whole = files(context.directory)
    for name, workers in (("shares", 1), ("workers", 2)):
        other = StageContext(context.name, context.directory.with_name(name), context.seed, context.inputs, "zst")
        other.directory.mkdir()
        config = DecontaminateConfig(against=[str(tests_file)], near_duplicates=near, workers=workers)
        names = stage.units(config, other).names
        assert len(names) == 6
        if name == "shares":
            for share in (2, 0, 1):
                assert stage.run(config, other, (share, 3))["shards"] == 2
        assert stage.run(config, other) == expected
        assert files(other.directory) == whole
        assert expected["pairs"] and expected["dropped"]


def work(root: Path, tests: str) -> None:
    """The stage in a process of its own, slow enough to be killed."""
    found = index.Index.find

    def slow(self: Any, texts: Any) -> Any:
        time.sleep(0.02)
        return found(self, texts)

    index.Index.find = slow  # type: ignore[method-assign]
    inputs = {CHAINS: root / "synthesis", DOCUMENTS: root / "corpus"}
    config = DecontaminateConfig(against=[tests], near_duplicates=0.8)
    stage.run(config, StageContext("decontaminate", root / "killed", 7, inputs, "zst"))


def test_a_run_that_is_killed_is_resumed_with_the_same_bytes(
    context: StageContext, tests_file: Path, tmp_path: Path
) -> None:
    corpus(context, records=10)
    run(context, tests_file, near_duplicates=0.8)
    whole = files(context.directory)
    (tmp_path / "killed").mkdir()
    spawn = multiprocessing.get_context("fork")
    rng = random.Random(2)
    kills = 0
    for _ in range(40):
        process = spawn.Process(target=work, args=(tmp_path, str(tests_file)))
        process.start()
        process.join(rng.uniform(0.02, 0.15))
        if process.exitcode is not None:
            assert process.exitcode == 0
            break
        os.kill(process.pid, 9)
        process.join()
        kills += 1
    else:
        work(tmp_path, str(tests_file))
    assert kills
    assert files(tmp_path / "killed") == whole


@pytest.mark.parametrize("crash", range(4))
def test_near_duplicates_after_a_crash_between_any_two_shards(
    context: StageContext, tests_file: Path, monkeypatch: pytest.MonkeyPatch, crash: int
) -> None:
    corpus(context)
    config = DecontaminateConfig(against=[str(tests_file)], near_duplicates=0.5)
    context.directory.mkdir()
    expected = stage.run(config, context)
    whole = files(context.directory)
    shutil.rmtree(context.directory)
    context.directory.mkdir()
    writes: list[str] = []
    write: Callable[..., dict[str, int]] = repeats._write_shard

    def failing(directory: Path, name: str, seen: Any) -> dict[str, int]:
        if len(writes) == crash:
            raise KeyboardInterrupt
        writes.append(name)
        return write(directory, name, seen)

    monkeypatch.setattr(repeats, "_write_shard", failing)
    with pytest.raises(KeyboardInterrupt):
        stage.run(config, context)
    monkeypatch.setattr(repeats, "_write_shard", write)
    assert stage.run(config, context) == expected
    assert files(context.directory) == whole


class TestRecipe:
    """The stage in its place: what it reads, what others read from it, what it is asked to compare with."""

    @pytest.fixture
    def sections(self, tmp_path: Path) -> dict[str, Any]:
        corpus_file = tmp_path / "corpus.txt"
        paragraphs = [
            f"= Bees {number} =\n\nBees number {number} live in hives. Their queen lays eggs, because workers die."
            for number in range(20)
        ]
        paragraphs[3] += f"\n\n{HELD}"
        paragraphs[15] += f"\n\nA test: {HELD}"
        corpus_file.write_text("\n\n".join(paragraphs) + "\n")
        questions = tmp_path / "questions.jsonl"
        questions.write_text(f'{{"context": "", "question": "{HIVE}", "answer": "19"}}\n')
        return {
            "output_dir": str(tmp_path / "out"),
            "corpus": {"inputs": [str(corpus_file)], "synthesis_share": 0.5, "valid_share": 0.0},
            "decontaminate": {"benchmarks": True},
            "evaluation": {"questions": {"hive": str(questions)}},
            "tokens": {"tokenizer": {"vocab_size": 300}},
        }

    def test_questions_of_the_evaluation(self, sections: dict[str, Any]) -> None:
        recipe = recipe_from(sections)
        run_recipe(recipe, until="augment")
        counts = (read_manifest(Path(recipe.output_dir) / "decontaminate") or {})["counts"]
        assert counts["questions_by_test_set"] == {"hive": 1}
        assert counts["documents"] == 18 and counts["dropped"]["document holds a test question"] == 2
        for path in (Path(recipe.output_dir) / "augment").rglob("*.jsonl.zst"):
            assert all("two boxes with ten frames" not in record["text"] for record in read_jsonl(path))
        folder = Path(recipe.output_dir) / "decontaminate"
        assert context_of(stage_of(recipe, "tokens"), recipe).inputs[DOCUMENTS] == folder
        assert context_of(stage_of(recipe, "augment"), recipe).inputs == {CHAINS: folder}

    def test_other_questions_are_another_run(self, sections: dict[str, Any], tmp_path: Path) -> None:
        run_recipe(recipe_from(sections), until="decontaminate")
        other = write_tests(tmp_path / "other.jsonl", "Is this another question of mine?")
        sections["evaluation"]["questions"]["other"] = str(other)
        with pytest.raises(StageError, match=r"decontaminate\.questions\.other: was None"):
            run_recipe(recipe_from(sections), until="decontaminate")

    def test_a_missing_file_is_found_before_the_corpus_is_read(self, sections: dict[str, Any]) -> None:
        sections["decontaminate"] = {"against": ["nowhere.jsonl"]}
        with pytest.raises(InputError, match=r"decontaminate\.against: nowhere\.jsonl: no such file"):
            run_recipe(recipe_from(sections))
        assert not (Path(sections["output_dir"]) / "corpus").exists()

    def test_without_pairs_documents_are_cleaned(self, sections: dict[str, Any]) -> None:
        recipe = recipe_from(sections | {"synthesis": {}, "skip": ["synthesis", "training", "report"]})
        run_recipe(recipe)
        out = Path(recipe.output_dir)
        assert (read_manifest(out / "decontaminate") or {})["counts"]["documents"] == 18
        assert not (out / "augment").exists()
        assert (read_manifest(out / "tokens") or {})["status"] == "complete"

    def test_shares_on_the_command_of_the_stage(self, sections: dict[str, Any]) -> None:
        recipe: Recipe = recipe_from(sections)
        run_recipe(recipe, until="synthesis")
        described = stage_of(recipe, "decontaminate-data")
        for share in ((1, 2), (0, 2)):
            assert run_one(described, recipe, shard=share)
        assert run_one(described, recipe)
        assert not run_one(described, recipe)
