"""When a recipe has the stage, and what it takes from the evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.config import as_dict
from megatron_ipt.errors import RecipeError
from megatron_ipt.recipe import load_recipe, recipe_type, save_recipe, stages_of

TASKS = ("evaluation.harness.tasks=[arc_easy:5,piqa]",)
QUESTIONS = ("evaluation.questions.mine=q.jsonl",)


def section(*overrides: str) -> Any:
    return load_recipe(None, ["corpus.inputs=[a]", *overrides]).decontaminate


def has_stage(*overrides: str) -> bool:
    recipe = load_recipe(None, ["corpus.inputs=[a]", *overrides])
    return "decontaminate" in [stage.name for stage in stages_of(recipe)]


def test_the_stage_is_there_only_when_the_recipe_asks_for_it() -> None:
    assert not has_stage()
    assert not has_stage(*TASKS, *QUESTIONS)
    assert not has_stage("decontaminate.benchmarks=false", *TASKS)
    assert has_stage("decontaminate.against=[t.jsonl]")
    assert has_stage("decontaminate.benchmarks=true", *TASKS)
    assert has_stage("decontaminate.benchmarks=true", *QUESTIONS)
    assert has_stage("decontaminate.near_duplicates=0.8")
    assert not has_stage("decontaminate.against=[t.jsonl]", "decontaminate=null")


def test_its_place() -> None:
    names = [stage.name for stage in stages_of(load_recipe(None, ["corpus.inputs=[a]", "decontaminate.against=[t]"]))]
    assert names[:4] == ["corpus", "synthesis", "decontaminate", "augment"]


def test_what_the_recipe_evaluates_is_compared_with_by_default() -> None:
    found = section("decontaminate.against=[t.jsonl]", *TASKS, *QUESTIONS, "evaluation.harness.include_path=tests")
    assert (found.questions, found.tasks, found.include_path) == ({"mine": "q.jsonl"}, ["arc_easy", "piqa"], "tests")
    assert found.tasks_reader == "megatron_ipt.evaluation.harness.test_questions:read"
    preset = section("decontaminate.benchmarks=true", "evaluation.harness.preset=paper")
    assert len(preset.tasks) == 9 and "mmlu" in preset.tasks


def test_further_ones_come_to_it_and_without_benchmarks_they_are_all() -> None:
    own = ("decontaminate.tasks=[boolq]", "decontaminate.questions.other=o.jsonl")
    found = section(*own, *TASKS, *QUESTIONS)
    assert found.questions == {"mine": "q.jsonl", "other": "o.jsonl"}
    assert found.tasks == ["boolq", "arc_easy", "piqa"]
    alone = section(*own, "decontaminate.benchmarks=false", *TASKS, *QUESTIONS)
    assert (alone.questions, alone.tasks) == ({"other": "o.jsonl"}, ["boolq"])
    assert alone.tasks_reader == found.tasks_reader != ""
    none = section("decontaminate.against=[t]", "decontaminate.benchmarks=false", *TASKS, *QUESTIONS)
    assert (none.questions, none.tasks, none.tasks_reader) == ({}, [], "")
    assert section(*TASKS).tasks == []


@pytest.mark.parametrize("overrides", [(), ("decontaminate.benchmarks=true",), ("decontaminate.near_duplicates=0.9",)])
def test_a_resolved_recipe_is_the_same(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    recipe = load_recipe(None, ["corpus.inputs=[a]", *overrides, *TASKS, *QUESTIONS])
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert as_dict(load_recipe(tmp_path / "recipe.yaml")) == as_dict(recipe)
    assert type(recipe) is recipe_type()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["decontaminate.benchmarks=true"],
            r"decontaminate\.benchmarks: the recipe evaluates no questions and no tasks",
        ),
        (["decontaminate.ngram=3"], r"decontaminate\.ngram: 3 is below the minimum 4"),
        (["decontaminate.near_duplicates=1.5"], r"decontaminate\.near_duplicates: 1\.5 is above the maximum 1"),
        (["decontaminate.question_keys=[]"], r"decontaminate\.question_keys: is empty"),
        (["decontaminate.againts=[t]"], r"decontaminate\.againts: unknown key\. Did you mean decontaminate\.against"),
    ],
)
def test_what_cannot_be_asked_for(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        section(*overrides)
