import re

import pytest

from megatron_ipt.files import read_json, write_json
from megatron_ipt.report import measured
from megatron_ipt.report.figures import Run

from .conftest import write_run
from .measured import NAMES, add_curves, score
from .test_report_stage import _Structure, build, text_of


@pytest.fixture
def folders(tmp_path):
    folders = write_run(tmp_path / "run")
    add_curves(folders["evaluation"])
    return folders


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("measured")
    folders = write_run(root / "run")
    add_curves(folders["evaluation"])
    return build(folders, root / "report")


def test_the_benchmark_table(page):
    text = text_of(page)
    # piqa: 0.25 + 0.06; mean: 0.33 + 0.06.
    assert "piqa 5 1,000 acc 31.0 1.2 36.0" in text
    assert "mean 39.0" in text
    assert "mmlu_virology 5 166 acc 40.0" in text and "mmlu 2 tasks" in text
    assert "lm-eval 0.4.13, float16, BOS before every request." in text


def test_the_curves_show_their_last_values(page):
    text = text_of(page)
    assert "augmented 3.400 raw 4.200" in text  # 3.0 + 2.4/6, 3.9 + 1.8/6
    assert "unseen last 50.0" in text
    # The mean of nine benchmarks and one set of questions: (9 * 0.39 + 0.5) / 10.
    assert "Mean of all last 40.1" in text
    assert [name for name in NAMES if f"{name} last" not in text] == []


def test_questions_about_unseen_texts_stand_beside_chance(folders, tmp_path):
    path = folders["evaluation"] / "results.json"
    figures = {"questions": 320, "answer_loss": 4.5678, "accuracy": 0.375, "accuracy_per_byte": 0.25, "chance": 0.2058}
    write_json(path, read_json(path) | {"questions": {"unseen": figures, "few": figures | {"accuracy": None}}})
    text = text_of(build(folders, tmp_path / "report"))
    assert "unseen 320 4.568 37.5 25.0 20.6" in text
    assert "few 320 4.568 – 25.0 20.6" in text


def test_the_page_stays_whole(page):
    structure = _Structure()
    structure.feed(page)
    assert structure.open == [] and structure.requests == ["data:,"]
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_one_checkpoint_makes_no_curve(folders, tmp_path):
    add_curves(folders["evaluation"], points=1)
    assert "of each checkpoint" not in build(folders, tmp_path / "report")


def test_names_of_tasks_are_shown_and_not_obeyed(folders, tmp_path):
    hostile = "<script>alert('x')</script>"
    for name in ("results.json", "curves.json"):
        path = folders["evaluation"] / name
        path.write_text(path.read_text().replace('"boolq"', f'"{hostile}"').replace('"raw"', f'"{hostile}"'))
    page = build(folders, tmp_path / "report")
    assert "<script>" not in page and hostile in text_of(page)


def test_checkpoints_of_other_tasks_do_not_bend_the_mean():
    def point(tokens, **tasks):
        return {"tokens": tokens, "harness": {"tasks": {name: score(value) for name, value in tasks.items()}}}

    run = Run("x", {}, curves={"checkpoints": [point(20, a=0.4, b=0.2), point(10, a=0.9), point(30, a=0.5, b=0.3)]})
    (mean, last, chart), (first, _, a), (second, _, b) = measured.accuracy_curves(run)
    assert (mean, last, first, second) == ("Mean of all", "40.0", "a", "b")
    assert a.curves[0].x == [10, 20, 30] and a.curves[0].y == pytest.approx([90, 40, 50])
    assert b.curves[0].y[1:] == pytest.approx([20, 30]) and b.curves[0].y[0] != b.curves[0].y[0]
    assert chart.curves[0].y[0] != chart.curves[0].y[0] and chart.curves[0].y[1] == pytest.approx(30)
    assert measured.loss_curves(run) is None


def test_no_errors_and_few_questions(folders, tmp_path):
    path = folders["evaluation"] / "results.json"
    results = read_json(path)
    only = score(0.5, questions=1, shots=None) | {"stderr": None, "metrics": {}}
    write_json(path, results | {"harness": results["harness"] | {"tasks": {"one": only}, "limit": 1}})
    text = text_of(build(folders, tmp_path / "report"))
    assert "one – 1 acc 50.0 – –" in text
    assert "only the first 1 questions of each task" in text and "mean 50.0" not in text
