"""The stage from end to end on tiny models: what it scores high, resume, ranks, outer steps, and its warnings."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from megatron_ipt.files import read_json
from megatron_ipt.selection.description import PROXY
from megatron_ipt.selection.order import spearman
from megatron_ipt.selection.proxy import stage as proxy_stage
from megatron_ipt.selection.proxy.report import part
from megatron_ipt.selection.proxy.stage import improved, read_scores_of
from megatron_ipt.selection.rows import hash_of
from megatron_ipt.selection.score_sets import read_scores
from megatron_ipt.stages.page import Chart, SideBySide, StageRecord
from tests.selection.conftest import run
from tests.selection.test_stages import files_of
from tests.selection.tiny_llamas import Pds, counting, noise

EXACT = {"dtype": "float64", "steps": 4}
MOST = 0.866
"""Correlation of a flag that half of the rows have with scores that agree: the order within the halves is not told."""


def proxied(recipe: object) -> Path:
    return run(recipe, until="proxy")  # type: ignore[arg-type]


def scores_of(folder: Path) -> dict[str, float]:
    documents, table = read_scores_of(folder / "proxy", "none")
    return dict(zip([document.id for document in documents], table["score"].tolist()))


def agreement(folder: Path) -> float:
    scores = scores_of(folder)
    is_good = np.array([name.startswith("good") for name in scores])
    return spearman(np.array(list(scores.values())), is_good)


def test_documents_that_are_like_the_target_score_high(pds: Pds) -> None:
    folder = proxied(pds())
    assert agreement(folder) == pytest.approx(MOST, abs=0.01)
    counts = read_json(folder / "proxy" / "manifest.json")["counts"]
    assert (counts["documents"], counts["corpus_documents"], counts["target_documents"]) == (40, 40, 9)
    assert counts["target_loss_after"] < counts["target_loss_before"] < 2.5
    details = read_json(folder / "proxy" / "proxy.json")
    assert {sample["id"][:4] for sample in details["samples"]["top"]} == {"good"}
    assert {sample["id"][:5] for sample in details["samples"]["bottom"]} == {"noise"}
    assert len(details["targets"][0]) == len(details["costates"]) == 6
    assert details["warnings"] == []

    # As a file of scores of the user's.
    ids, scores = read_scores(folder / "proxy" / "scores.npy", "selection")
    assert dict(zip(ids.tolist(), scores.tolist())) == {hash_of(name): x for name, x in scores_of(folder).items()}

    found = part(StageRecord(PROXY, folder / "proxy", read_json(folder / "proxy" / "manifest.json")))
    assert found.step is not None and found.step.amount == "40"
    (charts,) = [element.elements for element in found.elements if isinstance(element, SideBySide)]
    for chart, name in zip(charts, ("targets", "costates")):
        assert isinstance(chart, Chart)
        assert [curve.y for curve in chart.curves] == (details[name] if name == "targets" else [details[name]])


def test_a_shuffled_target_gives_no_signal(pds: Pds) -> None:
    """Half of the documents count in threes, the others in sevens; a target of one prefers it, a shuffled one none."""
    texts = {f"good{n}": counting(n, 8 + n % 7) for n in range(12)}
    texts |= {f"other{n}": counting(n, 8 + n % 7, stride=7) for n in range(12)}
    ordered = [counting(n, 16) for n in range(10)] * 4
    shuffled = ["".join(np.random.default_rng(n).permutation(list(text))) for n, text in enumerate(ordered)]
    gaps = [gap(proxied(pds(str(n), texts=texts, target=target))) for n, target in enumerate((ordered, shuffled))]
    # Documents of a half are alike and so are their scores: what tells is how far the halves lie apart.
    assert abs(gaps[1]) < 0.15 * gaps[0]


def gap(folder: Path) -> float:
    """Mean score of the good documents less that of the others."""
    scores = scores_of(folder)
    good = [score for name, score in scores.items() if name.startswith("good")]
    others = [score for name, score in scores.items() if not name.startswith("good")]
    return fmean(good) - fmean(others)


def test_a_killed_run_repeats_one_start_and_gives_the_same_bytes(pds: Pds, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = proxied(pds("whole", starts=(0, 1, 2), documents=12, batch_documents=5, score_every=2))
    # The names of a recipe and its files are in no output.
    recipe = pds("killed", starts=(0, 1, 2), documents=12, batch_documents=5, score_every=2)
    solve, solved = proxy_stage.solve_start, []

    def dies_at_third(start: object) -> object:
        solved.append(start)
        if len(solved) == 3:
            raise KeyboardInterrupt
        return solve(start)  # type: ignore[arg-type]

    monkeypatch.setattr(proxy_stage, "solve_start", dies_at_third)
    with pytest.raises(KeyboardInterrupt):
        proxied(recipe)
    folder = proxied(recipe)
    assert len(solved) == 4
    assert files_of(whole / "proxy") == files_of(folder / "proxy")
    assert len(scores_of(folder)) == 12


@pytest.mark.slow
def test_two_ranks_say_what_one_says(pds: Pds) -> None:
    keys = EXACT | {"batch_documents": 7, "documents": 21, "micro_batch_documents": 4}
    alone = scores_of(proxied(pds("alone", **keys)))
    shared = scores_of(proxied(pds("shared", ranks=2, **keys)))
    assert list(alone) == list(shared)
    # The norms of transformers compute in single precision.
    difference = np.array(list(alone.values())) - np.array(list(shared.values()))
    assert np.abs(difference).max() < 1e-6 * np.abs(list(alone.values())).max()


def test_central_differences_find_the_same_scores(pds: Pds) -> None:
    exact = scores_of(proxied(pds("exact", steps=4)))
    folder = proxied(pds("differences", steps=4, derivatives="central_differences", relative_step=1e-3))
    found = scores_of(folder)
    one, two = (np.array(list(scores.values())) for scores in (exact, found))
    assert np.linalg.norm(one - two) < 1e-2 * np.linalg.norm(one)
    assert 0 < read_json(folder / "proxy" / "proxy.json")["step_error"] < 0.05


def test_the_draw_depends_on_ids_not_on_shards(pds: Pds) -> None:
    keys = {"documents": 15, "steps": 1}
    one = proxied(pds("one", **keys))
    many = proxied(pds("many", corpus={"shard_documents": 7, "synthesis_share": 0.5}, workers=2, **keys))
    assert set(scores_of(one)) == set(scores_of(many))
    # The order of the corpus, in which the lane of documents that get pairs comes first, is another.
    assert 0 < len(set(scores_of(one)) & {f"good{n}" for n in range(20)}) < 15


def test_outer_steps_move_weight_to_what_helps(pds: Pds) -> None:
    folder = proxied(pds(outer_steps=3, outer_step_size=0.5, documents=20, steps=4))
    documents, table = read_scores_of(folder / "proxy", "none")
    is_good = np.array([document.id.startswith("good") for document in documents])
    assert table["weight"].sum() == pytest.approx(1)
    assert table["weight"][is_good].sum() > 0.85
    curves = read_json(folder / "proxy" / "proxy.json")["targets"]
    assert sum(curves[0]) > sum(curves[1]) > sum(curves[2])
    assert len(list((folder / "proxy" / "solutions").glob("*.npy"))) == 3


def test_weights_after_an_outer_step() -> None:
    weights = np.array([0.25, 0.25, 0.25, 0.25])
    # One standard deviation above the mean adds a quarter; what would be negative is 0, and the rest gives way.
    moved = improved(weights, np.array([1.0, -1.0, 1.0, -1.0]), 1.0)
    assert moved.tolist() == pytest.approx([0.5, 0.0, 0.5, 0.0])
    assert improved(weights, np.array([1.0, -1.0, 1.0, -1.0]), 0.5).tolist() == pytest.approx([0.375, 0.125] * 2)
    assert improved(weights, np.ones(4), 1.0).tolist() == weights.tolist()


def test_runs_that_cannot_be_trusted_are_warned_of(pds: Pds) -> None:
    """Too long steps; and documents whose value to the target is their length."""
    unstable = proxied(pds("unstable", steps=20, learning_rate=2.0))
    warnings = read_json(unstable / "proxy" / "proxy.json")["warnings"]
    assert any("lower proxy.learning_rate" in warning for warning in warnings)
    texts = {f"long{n}": counting(n, 14) for n in range(12)} | {f"short{n}": noise(n, 6) for n in range(12)}
    by_length = proxied(pds("by_length", texts=texts))
    warnings = read_json(by_length / "proxy" / "proxy.json")["warnings"]
    assert any("scores follow the length" in warning for warning in warnings)
