"""The stage: pairs of a run judged for its report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_ipt.config import load
from megatron_ipt.errors import InputError
from megatron_ipt.evaluation.judge import stage
from megatron_ipt.evaluation.judge.config import JudgeConfig
from megatron_ipt.evaluation.judge.report import part
from megatron_ipt.evaluation.judge.run import judge
from megatron_ipt.files import atomic_jsonl, read_json, write_json
from megatron_ipt.manifest import StageContext
from megatron_ipt.pipeline import run_recipe
from megatron_ipt.recipe import load_recipe, stages_of
from megatron_ipt.stages import CHAINS, stage_named
from megatron_ipt.stages.page import Figures, Fold, Part, Quotes, StageRecord, Table
from megatron_ipt.synthesis.pairs import Chain, Example, Pair
from tests.conftest import REPOSITORY
from tests.evaluation.judge.test_judge_measures import EXAMPLES

GOLD = {
    "context": "The bridge was opened in 1932. It crosses the harbour.",
    "tasks": [{"question": "When was the bridge opened?", "answer": "1932"}, {"question": "Who?", "answer": "x"}],
}


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    """Two shards, two texts each."""
    for number in (0, 1):
        with atomic_jsonl(tmp_path / "synthesis" / f"shard-{number:05d}.jsonl") as writer:
            writer.write(Chain(f"c{number}", "train", EXAMPLES[2 * number : 2 * number + 2]).to_json())
    return StageContext("judge", tmp_path / "judge", 7, {CHAINS: tmp_path / "synthesis"})


def run(context: StageContext, **settings: object) -> tuple[dict, dict]:
    counts = stage.run(load(JudgeConfig, {"texts": 10} | settings), context)
    write_json(context.directory / "manifest.json", {"stage": "judge", "status": "complete", "counts": counts})
    return counts, read_json(context.directory / "judge.json")


def page(context: StageContext) -> Part:
    return part(StageRecord(stage_named("judge"), context.directory, read_json(context.directory / "manifest.json")))


def test_the_figures_are_those_of_the_command(context: StageContext) -> None:
    counts, result = run(context)
    expected = json.loads(json.dumps(judge([context.inputs[CHAINS]], seed=7)))
    assert {name: result[name] for name in expected} == expected
    # Worked out by hand in test_judge_measures.
    assert counts == {
        "texts": 4, "pairs": 5, "texts_with_pairs": 3, "answer_in_text": 0.4, "own_text_first": 0.8,
        "duplicate_questions": 0.2,
    }  # fmt: skip


def test_gold_pairs_and_what_the_page_shows(context: StageContext, tmp_path: Path) -> None:
    (tmp_path / "gold.jsonl").write_text(json.dumps(GOLD) + "\n")
    counts, result = run(context, gold=[str(tmp_path / "gold.jsonl")])
    assert counts["gold_coverage"] == 0.5 and result["gold"]["exact_match"] == 0
    shown = page(context)
    (figures,) = (element for element in shown.elements if isinstance(element, Figures))
    assert [(figure.label, figure.value, figure.note) for figure in figures.figures] == [
        ("pairs judged", "5", "of 4 texts"),
        ("answer found in the text", "40.0%", ""),
        ("own text ranked first", "80.0%", "by retrieval"),
        ("duplicate questions", "20.0%", ""),
        ("gold questions with a match", "50.0%", ""),
    ]
    (fold,) = (element for element in shown.elements if isinstance(element, Fold))
    rows = {table.title: [row.cells for row in table.rows] for table in fold.elements if isinstance(table, Table)}
    assert ("gold questions with a match", "50.0 %") in rows["Against gold pairs"]
    assert ("answer found in the text", "40.0 %") in rows["Grounding"]
    (quotes,) = (element for element in shown.elements if isinstance(element, Quotes))
    assert sorted(tuple(segment.text for segment in quote) for quote in quotes.quotes) == [
        ("a: ", "Was it opened? ", "Yes"),
        ("b: ", "When was the bridge opened? ", "in 1932"),
        ("d: ", "What floats? ", "Ice floats on oil"),
    ]


def test_styles_and_tasks_have_a_row_each(context: StageContext) -> None:
    text = "Ice floats on water."
    pairs = [Pair("What floats?", "ice", style="chat", task="questions")] * 3 + [
        Pair("What floats?", answer, style="synthesizer") for answer in ("oil", "ice")
    ]
    with atomic_jsonl(context.inputs[CHAINS] / "shard-00000.jsonl") as writer:
        writer.write(Chain("c", "train", [Example("e", text, pairs=pairs)]).to_json())
    _, result = run(context, texts=1)
    assert result["by_style"] == {
        "chat": {"pairs": 3, "answer_in_text": 1.0},
        "synthesizer": {"pairs": 2, "answer_in_text": 0.5},
    }
    assert result["by_task"] == {"questions": {"pairs": 3, "answer_in_text": 1.0}}
    tables = {
        each.title: [row.cells for row in each.rows] for each in page(context).elements if isinstance(each, Table)
    }
    assert tables["By prompt style"] == [("chat", "3", "100%"), ("synthesizer", "2", "50.0%")]


@pytest.mark.parametrize(("texts", "expected"), [(1, ["a"]), (2, ["a", "c"]), (3, ["a", "b", "c"]), (9, list("abcd"))])
def test_texts_are_spread_over_the_shards(context: StageContext, texts: int, expected: list[str]) -> None:
    shards = sorted(context.inputs[CHAINS].glob("shard-*"))
    assert [example.id for example in stage._spread(shards, texts)] == expected


def test_pairs_of_no_text(context: StageContext) -> None:
    for shard in context.inputs[CHAINS].glob("shard-*"):
        shard.write_text("")
    counts, _ = run(context)
    assert counts == {"texts": 0, "pairs": 0, "texts_with_pairs": 0}
    assert page(context).step is None


def test_only_recipes_that_ask_for_it_have_it() -> None:
    assert "judge" not in [each.name for each in stages_of(load_recipe(None, ["corpus.inputs=[a]"]))]
    wanted = stages_of(load_recipe(None, ["corpus.inputs=[a]", "judge.texts=10"]))
    assert [each.name for each in wanted][:4] == ["corpus", "synthesis", "judge", "augment"]


def test_gold_files_are_checked_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "gold.jsonl").write_text('{"text": 1}\n')
    with pytest.raises(InputError, match=r"gold\.jsonl.*: unknown format"):
        stage.check(load(JudgeConfig, {"texts": 1, "gold": [str(tmp_path / "gold.jsonl")]}))


def test_a_run_with_mined_pairs_has_it_in_its_report(tmp_path: Path) -> None:
    overrides = [f"output_dir={tmp_path / 'run'}", "judge.texts=50", "skip=[tokens]"]
    recipe = load_recipe(REPOSITORY / "examples/quickstart.yaml", overrides)
    run_recipe(recipe)
    manifest = read_json(tmp_path / "run/judge/manifest.json")
    assert manifest["status"] == "complete" and manifest["counts"]["texts"] > 10
    assert manifest["counts"]["answer_in_text"] > 0.5
    pages = [path.read_text() for path in (tmp_path / "run/report").glob("*.html")]
    assert any("Quality of the pairs" in content for content in pages)
