"""The plan: exact afterwards, right to a few percent while it runs, and frank about what it assumes before."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_ipt.inference.engine import Request
from megatron_ipt.manifest import StageContext
from megatron_ipt.models.hardware import GPUS
from megatron_ipt.stages.costs import Assumptions, Machine, Planning
from megatron_ipt.synthesis.from_taxonomy import stage
from megatron_ipt.synthesis.from_taxonomy.asking import ANSWERS, LEVELS, QUESTIONS
from megatron_ipt.synthesis.from_taxonomy.config import TaxonomyConfig
from megatron_ipt.synthesis.from_taxonomy.cost import cost
from megatron_ipt.synthesis.from_taxonomy.plan import plan_text
from tests.synthesis.from_taxonomy.teacher import TeacherEngine, last_user_message

HERE = "tests.synthesis.from_taxonomy.test_taxonomy_plan"
Configure = Callable[..., TaxonomyConfig]
NAMES = [f"Discipline {number}" for number in range(24)]


class Varied(TeacherEngine):
    """Lists, syllabi, questions and answers of different lengths; a tenth of the conversions fails at the first try."""

    def answer(self, request: Request) -> str:
        asked = last_user_message(request.prompt.text)
        choose = random.Random(request.seed)
        if "Convert" in asked and request.sampling.temperature == 0 and choose.random() < 0.1:
            return "{"
        if "Convert your list" in asked:
            count = choose.randint(3, 6)
            names = [f"Subject {choose.randrange(10**9)}" for _ in range(count)]
            return "\n".join(json.dumps({"subject": name, "level": "any"}) for name in names)
        if "Convert the sessions" in asked:
            sessions = [
                {"session": f"S{number}", "concepts": [f"c{number}-{part}" for part in range(choose.randint(2, 5))]}
                for number in range(choose.randint(3, 6))
            ]
            return "\n".join(map(json.dumps, sessions))
        words = " ".join(["word"] * choose.randint(5, 40))
        return f"{words} {request.seed}?"


def taxonomy_of(names: list[str]) -> str:
    return json.dumps({"fields": {"F": {"S": names}}})


def test_right_to_five_percent(configure: Configure, context: StageContext, tmp_path: Path) -> None:
    config = configure(engine=f"{HERE}:Varied", **{"price.input": 1, "price.output": 4})
    file = tmp_path / "crafts.yaml"
    file.write_text(taxonomy_of(NAMES))
    before = stage.show_plan(config, context)
    assert before["basis"] == "assumptions" and before["finished"] == 0 and before["hours_left"] is None
    for name in NAMES[:8]:
        stage.run(config, context, unit=name)
    planned = stage.show_plan(config, context)
    assert planned["basis"] == "8 finished disciplines"
    stage.run(config, context)
    actual = stage.show_plan(config, context)
    for name in ("calls", "prompt_tokens", "generated_tokens", "cost"):
        assert planned["total"][name] == pytest.approx(actual["total"][name], rel=0.05), name
        assert planned["left"][name] == pytest.approx(actual["total"][name] * 16 / 24, rel=0.1), name
    assert planned["pairs"] == pytest.approx(actual["pairs"], rel=0.05)
    assert planned["hours_left"] > 0
    # Afterwards it is what the ledger says.
    summary = stage.summary_of(config, context)
    assert actual["total"]["calls"] == summary["usage"]["all"]["answers"]
    assert actual["total"]["prompt_tokens"] == summary["usage"]["all"]["prompt_tokens"]
    assert actual["total"]["cost"] == pytest.approx(summary["usage"]["all"]["cost"]) == actual["spent"]
    assert set(actual["left"].values()) == {0} and actual["hours_left"] == 0


def test_before_anything_is_known(configure: Configure, context: StageContext) -> None:
    config = configure(lists_per_discipline=10, questions_per_subject=500)
    result = stage.show_plan(config, context)
    # 150 subjects of each discipline, as in the paper.
    assert result["levels"][QUESTIONS]["calls"] == result["levels"][ANSWERS]["calls"] == 3 * 150 * 500
    assert list(result["levels"]) == list(LEVELS)
    assert not (context.directory / "plan.json").exists()
    text = plan_text(result)
    assert "3 disciplines, 0 of them finished: about 225K pairs from 450,98" in text
    assert "unknown before the first answers" in text and "set taxonomy.price to see it" in text
    assert max(map(len, text.splitlines())) <= 130


def test_a_second_model_has_its_own_price(configure: Configure, context: StageContext, chat_tokenizer: Path) -> None:
    prices = {"price.input": 1, "price.output": 1, "answers.price.input": 100, "answers.price.output": 100}
    own = {"answers.engine": f"{HERE}:Varied", "answers.generation.model": chat_tokenizer}
    result = stage.show_plan(configure(**prices, **own), context)
    levels = result["levels"]
    tokens = {level: figures["prompt_tokens"] + figures["generated_tokens"] for level, figures in levels.items()}
    expected = (sum(tokens.values()) + 99 * tokens[ANSWERS]) / 1e6
    assert result["total"]["cost"] == pytest.approx(expected, rel=1e-6)


def test_the_cost_of_a_recipe(configure: Configure) -> None:
    config = configure(questions_per_subject=100, lists_per_discipline=10)
    gpu = next(iter(GPUS))
    estimate = cost(config, Planning(Machine(8, gpu), Assumptions()))
    (row,) = estimate.costs
    assert row.workers == 8 and row.gpu_hours == pytest.approx(8 * row.hours)
    assert re.fullmatch(r"3 disciplines give 45K pairs, 20\.\dM tokens", estimate.data)
    half = cost(config, Planning(Machine(16, gpu), Assumptions())).costs[0]
    assert half.hours == pytest.approx(row.hours / 2)
