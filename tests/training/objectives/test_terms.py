"""What a recipe may say about objectives, and what is rejected before any rank starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_ipt.config import load
from megatron_ipt.errors import RecipeError
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.objectives.objective import Objective
from megatron_ipt.training.objectives.table import OBJECTIVES
from megatron_ipt.training.objectives.terms import load_terms
from megatron_ipt.training.stage import check, fingerprints
from tests.conftest import REPOSITORY

CODE = """
from dataclasses import dataclass
from megatron_ipt.config import key
from megatron_ipt.training.objectives.objective import Objective

@dataclass
class Settings:
    temperature: float = key(1.0, "Divides logits.", minimum=0)
    names: list[str] = key([], "Of something.")
    def problems(self):
        if self.temperature == 7:
            yield "temperature", "is 7"

class Mine(Objective):
    Options = Settings

class Ambiguous(Objective):
    metrics = ("loss",)

class Picky(Objective):
    def __init__(self, options):
        from megatron_ipt.errors import RecipeError
        raise RecipeError("never content")

def function(outputs, batch): ...
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "my_objectives.py"
    path.write_text(CODE)
    return path


def settings(*overrides: str) -> TrainingConfig:
    return load(TrainingConfig, None, ["model.preset=tiny", *overrides])


def test_by_default_the_next_token_is_predicted() -> None:
    (term,) = load_terms(settings().objectives)
    assert (term.name, term.weight, type(term.objective).__name__) == ("next_token", 1.0, "NextToken")


def test_names_weights_and_options(code: Path) -> None:
    config = settings(
        "objectives.next_token.weight=0.5",
        f"objectives.a={{objective: '{code}:Mine', options: {{temperature: 2, names: x}}}}",
        f"objectives.b.objective={code}:Mine",
    )
    first, second, third = load_terms(config.objectives)
    assert [first.name, second.name, third.name] == ["next_token", "a", "b"]
    assert first.weight == 0.5
    assert (second.objective.options.temperature, second.objective.options.names) == (2.0, ["x"])
    assert third.objective.options.temperature == 1.0


def test_an_extension_adds_a_name(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "mine", f"{code}:Mine")
    config = settings("objectives.mine.options.temperature=3", "objectives.other.objective=mine")
    assert [type(term.objective).__name__ for term in load_terms(config.objectives)] == ["Mine", "Mine"]
    # One file, however many terms use it.
    assert [(Path(entry["path"]).name, entry["code"]) for entry in fingerprints(config)] == [("my_objectives.py", True)]


def test_objectives_of_the_package_need_no_fingerprint() -> None:
    assert fingerprints(settings()) == fingerprints(settings("objectives.next_token.weight=2")) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "objectives.next_tokn.weight=1",
            r"objectives\.next_tokn: 'next_tokn' is not one of next_token, .*nor module:Class or FILE\.py:Class\. "
            r"Did you mean next_token\?",
        ),
        (
            "objectives.a.objective=zzz",
            r"^objectives\.a\.objective: 'zzz' is not one of next_token, .*nor module:Class",
        ),
        ("objectives.next_token.weight=heavy", r"objectives\.next_token\.weight: .*'heavy'"),
        ("objectives.next_token.weight=nan", r"objectives\.next_token\.weight: NaN is not allowed"),
        ("objectives.next_token.weight=.inf", r"objectives\.next_token\.weight: inf is not a finite number"),
        ("objectives.next_token.weight=0", r"objectives: every weight is 0"),
        ("objectives.next_token.wieght=1", r"objectives\.next_token\.wieght: unknown key\. Did you mean .*weight\?"),
        ("objectives.next_token.zzz=1", r"objectives\.next_token\.zzz: unknown key\. Valid in "),
        ("objectives=next_token", r"objectives: expected keys below it, found 'next_token'"),
        ("objectives.next_token=1", r"objectives"),
        ("objectives.next_token.options=1", r"objectives\.next_token\.options"),
        ("objectives={next_token: [1]}", r"objectives"),
        ("objectives={1: {}}", r"objectives"),
    ],
)
def test_rejected_with_the_recipe(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        settings(override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a.objective=nowhere.py:Mine", r"^training\.objectives\.a\.objective: nowhere\.py: no such file"),
        ("a.objective={code}:Mime", r"^training\.objectives\.a\.objective: .* has no 'Mime'; it defines "),
        ("a.objective={code}:function", r"my_objectives\.py:function is not a subclass of .*Objective"),
        ("a.objective={code}:Picky", r"^never content$"),
        ("a.objective={code}:Ambiguous", r"a\.objective: .*Ambiguous declares the metric 'loss'"),
        ("next_token.options.temperature=1", r"next_token\.options\.temperature: unknown key\. Valid in .*: no key"),
        (
            "a={{objective: '{code}:Mine', options: {{temprature: 1}}}}",
            r"^training\.objectives\.a\.options\.temprature: unknown key\. Did you mean .*\.temperature\?",
        ),
        (
            "a={{objective: '{code}:Mine', options: {{temperature: hot}}}}",
            r"^training\.objectives\.a\.options\.temperature: .*'hot'",
        ),
        (
            "a={{objective: '{code}:Mine', options: {{temperature: -1}}}}",
            r"^training\.objectives\.a\.options\.temperature: -1\.0 is below",
        ),
        (
            "a={{objective: '{code}:Mine', options: {{temperature: 7}}}}",
            r"^training\.objectives\.a\.options\.temperature: is 7$",
        ),
    ],
)
def test_rejected_before_any_rank_starts(override: str, message: str, code: Path) -> None:
    config = settings(f"objectives.{override.format(code=code)}")
    with pytest.raises(RecipeError, match=message):
        check(config)


def test_an_objective_must_say_what_its_loss_is() -> None:
    with pytest.raises(NotImplementedError, match="Objective does not say what its loss is"):
        Objective(None).loss(None, {})  # type: ignore[arg-type]


def test_the_objective_of_the_documentation(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs/own_objective.md").read_text()
    (tmp_path / "mine.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    term = f"{{objective: '{tmp_path}/mine.py:MyObjective', options: {{above: 2}}}}"
    (loaded,) = load_terms(settings(f"objectives.mine={term}").objectives)
    assert loaded.objective.options.above == 2.0 and loaded.objective.metrics == ("log_z",)
