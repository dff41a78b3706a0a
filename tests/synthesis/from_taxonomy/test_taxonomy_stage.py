"""The stage with a model that is a script: exact calls, exact files, and what becomes of everything that goes wrong."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from megatron_ipt.errors import NoPairsError, RecipeError, StageError
from megatron_ipt.files import read_jsonl
from megatron_ipt.inference.engine import Completion, Request, RequestRefused
from megatron_ipt.manifest import StageContext
from megatron_ipt.synthesis.from_taxonomy import stage
from megatron_ipt.synthesis.from_taxonomy.asking import ANSWERS, LISTS, QUESTIONS, SESSIONS, SUBJECTS, SYLLABI
from megatron_ipt.synthesis.from_taxonomy.config import TaxonomyConfig
from tests.synthesis.from_taxonomy.teacher import TeacherEngine, last_user_message

HERE = "tests.synthesis.from_taxonomy.test_taxonomy_stage"
Configure = Callable[..., TaxonomyConfig]

ASKED: list[Request] = []
"""Requests of the engines below, in the order in which they were sent."""


class Recording(TeacherEngine):
    async def generate(self, request: Request) -> Completion:
        ASKED.append(request)
        return await super().generate(request)


@pytest.fixture(autouse=True)
def _nothing_asked() -> None:
    ASKED.clear()


def content(directory: Path) -> dict[str, bytes]:
    names = ("shard-*", "tree.jsonl", "rows/*", "tree/*", "rejects/*")
    return {str(path.relative_to(directory)): path.read_bytes() for name in names for path in directory.glob(name)}


def calls_of(summary: dict[str, Any]) -> dict[str, int]:
    return {level: figures["calls"] for level, figures in summary["calls"].items()}


def test_three_disciplines(configure: Configure, context: StageContext) -> None:
    """Two lists each, 2 + 1, 1 + 0 and 1 + 1 subjects kept, five questions: 6 + 6 + 6 + 6 + 30 + 30 calls."""
    summary = stage.run(configure(engine=f"{HERE}:Recording"), context)
    assert len(ASKED) == 84
    assert calls_of(summary) == {LISTS: 6, SUBJECTS: 6, SYLLABI: 6, SESSIONS: 6, QUESTIONS: 30, ANSWERS: 30}
    assert (summary["disciplines"], summary["subjects"], summary["merged_subjects"]) == (3, 6, 2)
    assert (summary["draws"], summary["questions"], summary["pairs"]) == (30, 30, 30)
    assert summary["json_tries"] == {SUBJECTS: {"1": 6}, SESSIONS: {"1": 6}}
    assert {path: row["pairs"] for path, row in summary["by_discipline"].items()} == {
        "Crafts > Hands > Beekeeping": 15, "Crafts > Hands > Bookbinding": 5, "Sea > Water > Tide tables": 10,
    }  # fmt: skip
    assert summary["usage"]["all"]["answers"] == 84
    assert not list(context.directory.glob("*.journal")) and not list(context.directory.glob(".*"))


def test_what_is_written(configure: Configure, context: StageContext) -> None:
    stage.run(configure(pairs_per_document=2), context)
    tree = list(read_jsonl(context.directory / stage.TREE))
    ids = [node["id"] for node in tree]
    assert len(set(ids)) == len(ids)
    fields = {"Crafts > Hands", "Sea > Water"}
    assert all(node["parent"] in fields or node["parent"] in ids[:place] for place, node in enumerate(tree))
    assert Counter(node["kind"] for node in tree) == {
        "discipline": 3, "list": 6, "subjects": 6, "subject": 6, "syllabus": 6, "sessions": 6, "question": 30,
        "answer": 30,
    }  # fmt: skip
    rows = [row for path in sorted(context.directory.glob("rows/*")) for row in read_jsonl(path)]
    by_id = {node["id"]: node for node in tree}
    for row in rows:
        question, answer = by_id[row["id"]], by_id[f"{row['id']} >> answer"]
        assert row["prompt"] == question["text"].removeprefix("Question: ")
        assert row["response"] == answer["text"] and row["prompt"].endswith("?")
        assert all(concept in row["prompt"] for concept in question["concepts"])
    chains = [chain for path in sorted(context.directory.glob("shard-*.jsonl")) for chain in read_jsonl(path)]
    pairs = [pair for chain in chains for example in chain["examples"] for pair in example["pairs"]]
    assert [(pair["question"], pair["answer"]) for pair in pairs] == [(row["prompt"], row["response"]) for row in rows]
    # Five pairs of a subject in documents of two.
    assert [len(chain["examples"][0]["pairs"]) for chain in chains[:3]] == [2, 2, 1]
    assert {example["text"] for chain in chains for example in chain["examples"]} == {""}
    assert {chain["domain"] for chain in chains} == {"Crafts", "Sea"}


def test_what_is_asked(configure: Configure, context: StageContext) -> None:
    stage.run(configure(engine=f"{HERE}:Recording"), context)
    prompts = [request.prompt.text for request in ASKED]
    conversions = [request for request in ASKED if "Convert" in last_user_message(request.prompt.text)]
    assert {request.sampling.temperature for request in conversions} == {0.0}
    questions = [request for request in ASKED if "This is the syllabus" in request.prompt.text]
    assert {request.sampling.temperature for request in questions} == {1.0}
    answers = [request for request in ASKED if last_user_message(request.prompt.text).startswith("For ")]
    assert len(answers) == 30
    assert {(request.sampling.temperature, request.sampling.max_new_tokens) for request in answers} == {(0.7, 1024)}
    assert not any("syllabus" in request.prompt.text for request in answers)
    # The questions of a subject are one chain, and so begin with the same ids on the same server.
    chains: dict[int, list[Request]] = {}
    for request in questions:
        chains.setdefault(request.chain, []).append(request)
    assert [len(group) for group in chains.values()] == [5] * 6
    for group in chains.values():
        # All of the syllabus is in what they have in common.
        beginnings = {request.prompt.text.partition("then practice.")[0] for request in group}
        assert len(beginnings) == 1 and "This is the syllabus" in beginnings.pop()
    assert len({request.seed for request in ASKED}) == 84
    assert not any("{" in prompt.partition('{"')[0] for prompt in prompts)


class Troubled(Recording):
    """The first list of Beekeeping converts at try 2; the syllabus of Harbours never does."""

    def answer(self, request: Request) -> str:
        text = request.prompt.text
        asked = last_user_message(text)
        if "Convert your list" in asked and "Beekeeping" in text and request.sampling.temperature == 0:
            first = super().answer(request)
            return "Sorry, " + first[:20] if "Hives" in first else first
        if "Convert the sessions" in asked and "Harbours" in text:
            return '{"session": "Quays", "concepts": ['
        return super().answer(request)


def test_conversions_that_fail(configure: Configure, context: StageContext) -> None:
    summary = stage.run(configure(engine=f"{HERE}:Troubled"), context)
    assert len(ASKED) == 77
    assert summary["json_tries"] == {SUBJECTS: {"1": 5, "2": 1}, SESSIONS: {"1": 5, "never": 1}}
    assert summary["pairs"] == 25
    assert summary["lost"] == {"sessions: no usable JSON": 1}
    assert summary["json_success"] == {SUBJECTS: 1.0, SESSIONS: 5 / 6}
    rejects = list(read_jsonl(next(context.directory.glob("rejects/shard-tide*"))))
    assert [record["sample"] for record in rejects] == ['{"session": "Quays", "concepts": ['] * 3
    assert "Harbours (beginner) >> syllabus >> sessions try 3" in rejects[-1]["source"]


class Careless(Recording):
    """Repeats questions, names sessions, cuts answers off, and has nothing to say."""

    def answer(self, request: Request) -> str:
        asked = last_user_message(request.prompt.text)
        if "This is the syllabus" in asked:
            if "Sewing" in asked:
                return "What is a  Stitch?"
            if "Swarms" in asked:
                return "What did session 2 say?"
            if "Harbours" in asked:
                return "  "
        return super().answer(request)

    async def generate(self, request: Request) -> Completion:
        completion = await super().generate(request)
        if last_user_message(request.prompt.text).startswith("For Hives"):
            return Completion(completion.ids, completion.text, False, completion.prompt_tokens)
        return completion


def test_what_is_lost_is_counted(configure: Configure, context: StageContext) -> None:
    summary = stage.run(configure(engine=f"{HERE}:Careless"), context)
    assert summary["lost"] == {
        "question: repeats an earlier one": 4,
        "question: refers to a session by its number": 5,
        "question: empty": 5,
        "answer: cut off": 5,
    }
    assert summary["pairs"] == 30 - 19
    assert summary["repeated_questions"] == 4
    assert summary["saturation"]["4"] == {"questions": 4 * 4, "repeated": 3}
    # Nobody answers what is lost.
    assert calls_of(summary)[ANSWERS] == 30 - 14


def test_near_repeats_are_left_out(configure: Configure, context: StageContext) -> None:
    """The questions of the script about a subject differ in their concepts alone."""
    summary = stage.run(configure(near_duplicates=0.3), context)
    near = summary["lost"]["question: nearly repeats an earlier one"]
    assert near > 0 and summary["pairs"] == 30 - near


class Refusing(Recording):
    """Refuses what is asked about Bookbinding."""

    async def generate(self, request: Request) -> Completion:
        if "Bookbinding" in request.prompt.text:
            raise RequestRefused("400: not about books")
        return await super().generate(request)


def test_what_was_refused_can_be_asked_again(configure: Configure, tmp_path: Path) -> None:
    whole = StageContext("taxonomy", tmp_path / "whole", 7)
    stage.run(configure(), whole)
    context = StageContext("taxonomy", tmp_path / "refused", 7)
    summary = stage.run(configure(engine=f"{HERE}:Refusing"), context)
    assert summary["refused_calls"] == 2
    assert summary["lost"] == {"list: refused by the engine": 2}
    assert summary["pairs"] == 25
    # The journal was made with another engine, which is no part of what a journal is recognised by only in tests.
    reopened = stage.reopen_refused(configure(engine=f"{HERE}:Refusing"), context)
    assert reopened == {"refused_calls": 2, "disciplines": 1}
    Refusing.generate = Recording.generate  # type: ignore[method-assign]
    ASKED.clear()
    summary = stage.run(configure(engine=f"{HERE}:Refusing"), context)
    assert len(ASKED) == 2 + 2 + 1 + 1 + 5 + 5
    assert summary["pairs"] == 30 and summary["refused_calls"] == 0
    assert content(context.directory) == content(whole.directory)


def test_too_much_is_refused(configure: Configure, context: StageContext) -> None:
    config = configure(
        engine=f"{HERE}:RefusesAnswers", questions_per_subject=40, **{"generation.max_refused_share": 0.1}
    )
    with pytest.raises(StageError, match=r"refused \d+ of \d+ requests, more than taxonomy\.generation\.max_refused"):
        stage.run(config, context)


class RefusesAnswers(Recording):
    async def generate(self, request: Request) -> Completion:
        if len(ASKED) > 90:
            raise RequestRefused("no")
        return await super().generate(request)


class Useless(Recording):
    def answer(self, request: Request) -> str:
        return "The the the."


def test_a_useless_model_is_told_at_once(configure: Configure, context: StageContext) -> None:
    config = configure(engine=f"{HERE}:Useless", give_up_after=4, lists_per_discipline=20, **{"generation.window": 2})
    with pytest.raises(NoPairsError) as error:
        stage.run(config, context)
    assert "the first 4 conversions to JSON had no subject and no session" in str(error.value)
    assert "'The the the.'" in str(error.value)
    assert len(ASKED) < 12
    assert error.value.exit_status == 6


def test_a_useless_model_is_told_at_the_end(configure: Configure, context: StageContext) -> None:
    config = configure(engine=f"{HERE}:Useless", give_up_after="null")
    for _ in range(2):
        with pytest.raises(NoPairsError, match=r"not one pair was made; lost: subjects: no usable JSON \(6\)"):
            stage.run(config, context)


def test_another_model_answers(configure: Configure, context: StageContext, chat_tokenizer: Path) -> None:
    answers = {
        "answers.engine": f"{HERE}:Useless",
        "answers.generation.model": chat_tokenizer,
        "price.input": 1, "price.output": 2, "answers.price.input": 10, "answers.price.output": 20,
    }  # fmt: skip
    config = configure(**answers)
    summary = stage.run(config, context)
    assert summary["pairs"] == 30
    row = next(read_jsonl(next(context.directory.glob("rows/*"))))
    assert row["response"] == "The the the."
    usage = summary["usage"]
    assert (usage["outlines and questions"]["answers"], usage["answers"]["answers"]) == (54, 30)
    asked = summary["calls"][ANSWERS]
    assert usage["answers"]["cost"] == pytest.approx(
        (asked["prompt_tokens"] * 10 + asked["generated_tokens"] * 20) / 1e6
    )
    assert "Useless" in summary["teacher"]["answers"] and "Useless" not in summary["teacher"]["outlines and questions"]


def test_a_discipline_that_is_added_leaves_the_others_as_they_are(
    configure: Configure, context: StageContext, tmp_path: Path
) -> None:
    config = configure(engine=f"{HERE}:Recording")
    (tmp_path / "crafts.yaml").write_text("fields: {Crafts: {Hands: [Bookbinding]}, Sea: {Water: [Tide tables]}}")
    stage.run(config, context)
    before = content(context.directory)
    ASKED.clear()
    (tmp_path / "crafts.yaml").write_text(
        "fields: {Crafts: {Hands: [Beekeeping, Bookbinding]}, Sea: {Water: [Tide tables]}}"
    )
    summary = stage.run(config, context)
    after = content(context.directory)
    assert summary["pairs"] == 30
    assert len(ASKED) == 2 + 2 + 3 + 3 + 15 + 15
    assert all("Beekeeping" in request.prompt.text or "For H" in request.prompt.text or "For S" in request.prompt.text
               for request in ASKED)  # fmt: skip
    assert all(after[name] == data for name, data in before.items() if name != "tree.jsonl")


def test_shares_and_single_disciplines_make_the_same(configure: Configure, tmp_path: Path) -> None:
    whole, parts = (StageContext("taxonomy", tmp_path / name, 7) for name in ("whole", "parts"))
    stage.run(configure(), whole)
    stage.run(configure(), parts, unit="tide TABLES")
    summary = stage.run(configure(), parts, shard=(1, 2))
    assert summary["unfinished_disciplines"] == 1
    stage.run(configure(), parts, shard=(0, 2))
    assert not (parts.directory / stage.TREE).exists()
    stage.run(configure(), parts)
    assert content(parts.directory) == content(whole.directory)
    with pytest.raises(
        RecipeError, match=r"--discipline: 'Tide table' is not in the taxonomy\. Did you mean Tide tables"
    ):
        stage.run(configure(), parts, unit="Tide table")


def test_the_order_of_answers_changes_nothing(configure: Configure, tmp_path: Path) -> None:
    one, many = (StageContext("taxonomy", tmp_path / name, 7) for name in ("one", "many"))
    stage.run(configure(**{"generation.window": 1, "disciplines_in_flight": 1}), one)
    stage.run(configure(**{"generation.window": 50, "disciplines_in_flight": 3}), many)
    assert content(one.directory) == content(many.directory)


def test_few_combinations_are_all_asked_and_said(configure: Configure, context: StageContext) -> None:
    summary = stage.run(configure(questions_per_subject=1000, two_sessions_share=0), context)
    # Three sessions of three concepts: 3 * 7 draws for each of six subjects.
    assert (summary["draws"], summary["draws_wanted"]) == (126, 6000)


def test_weights_ask_more(configure: Configure, context: StageContext, tmp_path: Path) -> None:
    config = configure()
    (tmp_path / "crafts.yaml").write_text(
        "fields: {Crafts: {Hands: [Beekeeping, {Bookbinding: 3}]}, Sea: {Water: [{Tide tables: 0.1}]}}"
    )
    summary = stage.run(config, context)
    assert [row["pairs"] for row in summary["by_discipline"].values()] == [15, 15, 2]


def test_held_out_subjects(configure: Configure, context: StageContext) -> None:
    summary = stage.run(configure(valid_share=0.5), context)
    assert summary["splits"].keys() == {"train", "valid"}
    rows = [row for path in context.directory.glob("rows/*") for row in read_jsonl(path)]
    splits = {(row["discipline"], row["subject"]): row["split"] for row in rows}
    assert all(splits[row["discipline"], row["subject"]] == row["split"] for row in rows)


def test_own_prompts(configure: Configure, context: StageContext, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text('answer: {system: "Be brief.", user: "Q: {question}"}')
    config = configure(engine=f"{HERE}:Recording", prompts=prompts)
    stage.run(config, context)
    assert sum("Be brief." in request.prompt.text for request in ASKED) == 30
    assert [entry["path"] for entry in stage.fingerprints(config)].count(str(prompts)) == 1


def test_a_journal_of_other_settings_is_refused(configure: Configure, context: StageContext) -> None:
    with pytest.raises(StageError):
        stage.run(configure(engine=f"{HERE}:Breaking"), context)
    assert list(context.directory.glob("*.journal"))
    with pytest.raises(StageError, match="was started with other documents or settings"):
        stage.run(configure(engine=f"{HERE}:Breaking", tries=2), context)


class Breaking(Recording):
    async def generate(self, request: Request) -> Completion:
        if len(ASKED) == 20:
            raise StageError("the engine broke")
        return await super().generate(request)


def test_what_was_answered_before_a_failure_is_kept(configure: Configure, tmp_path: Path) -> None:
    whole, broken = (StageContext("taxonomy", tmp_path / name, 7) for name in ("whole", "broken"))
    stage.run(configure(), whole)
    config = configure(engine=f"{HERE}:Breaking")
    with pytest.raises(StageError, match="the engine broke"):
        stage.run(config, broken)
    asked = len(ASKED)
    ASKED.extend([ASKED[0]] * 10)  # Past the number at which it breaks.
    stage.run(config, broken)
    assert content(broken.directory) == content(whole.directory)
    # Twenty were answered; those that were in flight may have been lost.
    assert 84 - 20 <= len(ASKED) - asked - 10 <= 84


def test_the_manifest_is_json(configure: Configure, context: StageContext) -> None:
    summary = stage.run(configure(licence="Apache-2.0"), context)
    assert orjson.loads(orjson.dumps(summary)) == json.loads(json.dumps(summary)) == summary
    assert summary["licence"] == "Apache-2.0"
