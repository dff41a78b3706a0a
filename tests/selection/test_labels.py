"""Agreement of scores with labels: exact areas under the curve, labels of another corpus refused."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ipt.errors import InputError
from megatron_ipt.files import read_json
from megatron_ipt.pipeline import stage_of
from megatron_ipt.recipe import Recipe
from megatron_ipt.selection.findings.labels import read_labels, roc_auc
from megatron_ipt.stages.page import StageRecord
from tests.selection.conftest import FIVE, Build, run, unigrams

GOOD = {"d1": "good", "d2": "shuffled", "d3": "good", "d4": "cut", "d5": "shuffled"}


def labels_in(path: Path, labels: dict[str, str]) -> str:
    path.write_text("".join(json.dumps({"id": name, "label": label}) + "\n" for name, label in labels.items()))
    return str(path)


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    draw = np.random.default_rng(0)
    good, others = draw.integers(0, 8, 50).astype(float), draw.integers(0, 6, 70).astype(float)
    pairs = np.sign(good[:, None] - others[None, :])
    assert roc_auc(good, others) == pytest.approx(((pairs + 1) / 2).mean(), abs=1e-12)
    assert np.isnan(roc_auc(good, others[:0]))


def test_each_score_against_each_label(build: Build, tmp_path: Path) -> None:
    # r / ln 2 is (2/3, -1/2, 1, 2/5, 0); by the teacher alone d1 is -(3 ln .2 + ...) as the tables say.
    settings = {"rule": "difference", "share": 0.4, "labels": labels_in(tmp_path / "labels.jsonl", GOOD)}
    recipe = build(FIVE, unigrams(), settings)
    folder = run(recipe)
    found = read_json(folder / "selection" / "selection.json")["labels"]
    assert found["scores"] == ["score", "teacher", "reference"] and found["unlabelled"] == 0
    rows = {row["label"]: row for row in found["rows"]}
    assert {name: (row["rows"], row["kept"]) for name, row in rows.items()} == {
        "good": (2, 2), "all others": (3, 0), "shuffled": (2, 0), "cut": (1, 0),
    }  # fmt: skip
    assert rows["all others"]["auc"]["score"] == 1.0
    # Per token: teacher a .4 or .2; d3 "aa" is the likeliest, d1 "baab" ties with d4 "caabac" less its c.
    teacher = {name: likelihood(text, {"a": 0.4, "b": 0.2, "c": 0.2, "E": 0.2}) for name, text in zip(GOOD, FIVE)}
    pairs = [
        (teacher[one] > teacher[two]) + 0.5 * (teacher[one] == teacher[two])
        for one in ("d1", "d3")
        for two in ("d2", "d4", "d5")
    ]
    assert rows["all others"]["auc"]["teacher"] == pytest.approx(sum(pairs) / 6)
    assert rows["good"]["auc"] == {}
    shown = shown_by_report(recipe, folder)
    assert "Kept by label" in shown and "1.000" in shown


def likelihood(text: str, table: dict[str, float]) -> float:
    """Mean log-likelihood of all letters but the first whose predecessor is not E."""
    kept = [after for before, after in pairwise(text) if before != "E"]
    return round(float(np.mean([np.log(table[letter]) for letter in kept])), 12)


def shown_by_report(recipe: Recipe, folder: Path) -> str:
    from megatron_ipt.selection.findings.report import part

    stage = stage_of(recipe, "select")
    return repr(part(StageRecord(stage, folder / "selection", read_json(folder / "selection" / "manifest.json"))))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"x1": "good", "x2": "bad"}, "0 are labelled 'good' and 0 otherwise"),
        ({"d1": "bad", "d2": "worse"}, "no document is labelled 'good'"),
        ({"d1": "good"}, "all documents are labelled 'good'"),
    ],
)
def test_labels_that_compare_nothing(build: Build, tmp_path: Path, labels: dict[str, str], message: str) -> None:
    path = labels_in(tmp_path / "labels.jsonl", labels)
    recipe = build(FIVE, unigrams(), {"rule": "difference", "share": 0.4, "labels": path})
    with pytest.raises(InputError, match=message):
        run(recipe)


@pytest.mark.parametrize(
    ("line", "message"),
    [("{}", "labels.jsonl:2: expected an object with id and label"), ('{"id": 1, "label": "a"}', "expected strings"),
     ('{"id": "d1", "label": "bad"}', "d1 has another label"), ("[", "labels.jsonl:2")],
)  # fmt: skip
def test_lines_that_are_no_labels(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"id": "d1", "label": "good"}\n' + line)
    with pytest.raises(InputError, match=message):
        read_labels(path, "good", "selection")


def test_nothing_that_is_kept_depends_on_labels(build: Build, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"rule": "difference", "share": 0.4}
    plain = read_json(run(build(FIVE, unigrams(), settings)) / "selection" / "manifest.json")
    settings["labels"] = labels_in(tmp_path / "labels.jsonl", GOOD)
    labelled = read_json(run(build(FIVE, unigrams(), settings)) / "selection" / "manifest.json")
    assert plain["counts"] == labelled["counts"]
