import json
import math

import pytest

from megatron_ipt.files import read_json, write_json
from megatron_ipt.stages.page import GREY, ORANGE, TEAL, Caution, Chart, Figures, SmallCharts, Step
from megatron_ipt.training.report import Measured
from tests.report.runs import all_of, change_counts, part_of, write_run


@pytest.fixture
def folders(tmp_path):
    return write_run(tmp_path)


def write_metrics(folders, *records):
    (folders["training"] / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def small_charts(folders):
    standard, of_objectives = all_of(part_of(folders, "training"), SmallCharts)
    assert of_objectives.charts == []
    return standard.charts


def test_what_was_trained(folders):
    part = part_of(folders, "training")
    assert part.step == Step("on 1.23M tokens", "300", "steps", "fp32, 2 ranks")
    assert part.headline == "a model of 3.41M parameters trained on 1.23M tokens in 300 steps"
    (figures,) = all_of(part, Figures)
    assert [(figure.label, figure.value, figure.note) for figure in figures.figures] == [
        ("steps", "300", ""),
        ("tokens seen", "1.23M", "30.7 times the training tokens"),  # 1,228,800 / 40,000
        ("parameters", "3.41M", ""),
        ("ranks", "2", "fp32"),
    ]
    assert all_of(part, Caution) == []


def test_passes_over_the_data(folders):
    change_counts(folders["training"], tokens=10_000, ranks=1)
    (figures,) = all_of(part_of(folders, "training"), Figures)
    assert figures.figures[1].note == "25.0% of the data" and figures.figures[3].label == "rank"
    del folders["tokens"]
    (figures,) = all_of(part_of(folders, "training"), Figures)
    assert figures.figures[1].note == ""


def test_the_loss_chart_has_every_curve(folders):
    (chart,) = all_of(part_of(folders, "training"), Chart)
    assert [(curve.label, curve.color, curve.dashed, len(curve.x)) for curve in chart.curves] == [
        ("training", GREY, False, 300),
        ("held out, augmented", TEAL, False, 6),
        ("held out, raw", ORANGE, False, 6),
    ]
    assert (chart.upper_label, chart.upper_per_x) == ("tokens", 4096)


def test_measurements_of_steps_and_of_validation():
    measured = Measured.of(
        [
            {"step": 1, "loss": 7.5, "grad_norm": None, "tokens_by_source": {"raw": 64}},
            {"step": 1, "valid": {"raw": 7.0}},
            {"step": 2, "loss": 7.25, "grad_norm": 2.0, "tokens_by_source": {"raw": 64, "web": 64}},
            {"step": 2, "valid": {"raw": 6.0, "augmented": None}},
        ]
    )
    assert measured.columns["loss"] == [7.5, 7.25] and measured.columns["tokens_by_source/raw"] == [64, 64]
    for name in ("grad_norm", "tokens_by_source/web"):
        before, after = measured.columns[name]
        assert math.isnan(before) and after in (2.0, 64)
    assert measured.valid["raw"] == ([1, 2], [7.0, 6.0])
    assert math.isnan(measured.valid["augmented"][1][0])


def test_small_charts_leave_out_what_was_not_measured(folders):
    assert [chart.title for chart in small_charts(folders)] == ["Learning rate", "Gradient norm", "Tokens per second"]
    write_metrics(folders, {"step": 1, "loss": 2.0, "lr": 0.1, "grad_norm": None})
    assert [(chart.title, chart.small) for chart in small_charts(folders)] == [("Learning rate", "last 0.100")]


def test_what_else_is_measured_has_a_chart(folders):
    write_metrics(
        folders,
        {"step": 1, "loss": 2.0, "cache_hits": 3, "params_norm": 3.0, "mfu": 0.4, "phase": "warm-up"},
        {"step": 2, "loss": 1.9, "cache_hits": 7, "params_norm": 3.1, "mfu": 0.4, "phase": "main"},
    )
    (chart,) = small_charts(folders)
    assert (chart.title, chart.small, chart.x_label) == ("cache hits", "last 7.00", "step")
    assert (chart.curves[0].x, chart.curves[0].y) == ([1, 2], [3, 7])


def test_every_metric_of_an_objective_has_a_chart(folders):
    write_metrics(
        folders,
        {"step": 1, "loss": 2.0, "metrics": {"teacher/loss": 1.5, "teacher/top_1": 0.5}},
        {"step": 1, "valid": {"raw": 3.0}, "valid_metrics": {"raw": {"teacher/loss": 1.75, "gap": None}}},
        {"step": 2, "loss": 1.9, "metrics": {"teacher/loss": 1.25, "teacher/top_1": 0.75}},
    )
    standard, of_objectives = all_of(part_of(folders, "training"), SmallCharts)
    assert standard.charts == [] and of_objectives.small == "held-out sets in the colors above"
    told = [(chart.title, chart.small, [curve.color for curve in chart.curves]) for chart in of_objectives.charts]
    assert told == [
        ("teacher/loss", "last 1.25", [GREY, ORANGE]),
        ("teacher/top 1", "last 0.750", [GREY]),
        ("gap", "", [ORANGE]),
    ]
    training, held_out = of_objectives.charts[0].curves
    assert (training.x, training.y, held_out.x, held_out.y) == ([1, 2], [1.5, 1.25], [1], [1.75])


def test_losses_of_two_kinds_are_explained(folders):
    (chart,) = all_of(part_of(folders, "training"), Chart)
    assert chart.note == ""
    path = folders["training"] / "manifest.json"
    write_json(path, read_json(path) | {"settings": {"objectives": {"teacher": {"weight": 1.0}}}})
    (chart,) = all_of(part_of(folders, "training"), Chart)
    assert "held-out losses are next-token losses" in chart.note


def test_interventions_are_warned_of(folders):
    change_counts(folders["training"], interventions=2)
    (caution,) = all_of(part_of(folders, "training"), Caution)
    assert "rolled back to a checkpoint 2 times" in caution.text and "`training/events.jsonl`" in caution.text


def test_an_interrupted_training_shows_its_curves(folders):
    path = folders["training"] / "manifest.json"
    write_json(path, read_json(path) | {"status": "interrupted", "counts": None})
    part = part_of(folders, "training")
    assert part.step is None and part.headline == ""
    assert all_of(part, Figures) == [] and len(all_of(part, Chart)[0].curves) == 3


def test_losses_that_are_not_finite(folders):
    write_metrics(folders, {"step": 1, "loss": None, "tokens": 0}, {"step": 2, "loss": None, "tokens": 0})
    (chart,) = all_of(part_of(folders, "training"), Chart)
    assert all(math.isnan(loss) for loss in chart.curves[0].y) and len(chart.curves[0].y) == 2
    assert chart.upper_per_x == 0


def test_a_training_that_has_not_measured_anything(folders):
    (folders["training"] / "metrics.jsonl").unlink()
    (chart,) = all_of(part_of(folders, "training"), Chart)
    assert [list(curve.x) for curve in chart.curves] == [[]] and small_charts(folders) == []
