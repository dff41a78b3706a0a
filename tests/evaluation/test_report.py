import math

import pytest

from megatron_ipt.evaluation.report import in_percent, parity_sentence
from megatron_ipt.evaluation.report_curves import accuracy_charts, loss_chart
from megatron_ipt.files import read_json, write_json
from megatron_ipt.stages import CHECKPOINTS
from megatron_ipt.stages.page import (
    FAINT,
    ORANGE,
    SECOND,
    TEAL,
    Chart,
    Fold,
    Levels,
    Prose,
    Quotes,
    Row,
    Segment,
    SmallCharts,
    Step,
    Table,
)
from megatron_ipt.training.report import LOSS_CHART
from tests.report.runs import all_of, part_of, write_run

from .measured import NAMES, add_curves, score


@pytest.fixture
def folders(tmp_path):
    return write_run(tmp_path)


@pytest.fixture
def with_curves(folders):
    add_curves(folders["evaluation"])
    return folders


def change_results(folders, **results):
    path = folders["evaluation"] / "results.json"
    write_json(path, read_json(path) | results)


def table_of(folders, title):
    (table,) = (table for table in all_of(part_of(folders, "evaluation"), Table) if table.title.startswith(title))
    return table


def test_losses_of_held_out_text(folders):
    part = part_of(folders, "evaluation")
    assert part.step == Step("on 2,699 tokens", "21.7", "perplexity, augmented")
    assert part.headline == "held-out loss 3.08 on augmented text, 3.96 on raw text (nats per token)"
    assert table_of(folders, "Held-out text").rows == [
        Row(("augmented", "3.077", "21.69", "1.204", "6.210", "2,699")),
        Row(("raw", "3.964", "52.67", "1.562", "6.480", "1,299")),
    ]


def test_unigram_entropies_are_levels_of_the_loss_chart(folders):
    (levels,) = part_of(folders, "evaluation").levels
    lines = [("unigram entropy, augmented", 6.21, TEAL), ("unigram entropy, raw", 6.48, ORANGE)]
    assert levels == Levels(CHECKPOINTS, LOSS_CHART, lines, levels.note) and "how frequent each token is" in levels.note
    results = read_json(folders["evaluation"] / "results.json")["perplexity"]
    change_results(folders, perplexity={"raw": results["raw"] | {"unigram_entropy": None}})
    assert part_of(folders, "evaluation").levels[0].levels == []


def test_parity_in_words(folders):
    (prose,) = all_of(part_of(folders, "evaluation"), Prose)
    assert prose.text == (
        "On 2,048 tokens the logits differ by at most 2.1 × 10⁻⁶, 1.4 × 10⁻⁶ of their spread (allowed: 0.0001); both "
        "prefer the same token at 100% of the positions."
    )
    assert parity_sentence({"tokens": 1, "max_abs_difference": 0, "argmax_agreement": 0.5}) == (
        "On 1 token the logits differ by at most 0; both prefer the same token at 50.0% of the positions."
    )


def test_what_the_model_writes(folders):
    (quotes,) = all_of(part_of(folders, "evaluation"), Quotes)
    assert quotes.quotes[1] == (
        Segment("The first lighthouses were", FAINT),
        Segment(" fires on hills, and later on towers of stone.", SECOND),
    )


def test_benchmarks_and_the_tasks_of_a_group(with_curves):
    table = table_of(with_curves, "Benchmarks")
    # piqa: 0.25 + 0.06; mean of nine: 0.33 + 0.06.
    assert table.rows[0] == Row(("piqa", "5", "1,000", "acc", "31.0", "1.2", "36.0"))
    assert table.rows[-1] == Row(("mean", "", "", "", "39.0", "", ""), strong=True)
    assert table.note.startswith("lm-eval 0.4.13, float16, BOS before every request. The error is")
    (fold,) = all_of(part_of(with_curves, "evaluation"), Fold)
    assert (fold.summary, fold.small) == ("mmlu", "2 tasks")
    assert fold.elements[0].rows[1] == Row(("mmlu_virology", "5", "166", "acc", "40.0", "1.2", "45.0"))


def test_one_benchmark_of_few_questions(with_curves):
    only = score(0.5, questions=1, shots=None) | {"stderr": None, "metrics": {}}
    harness = read_json(with_curves["evaluation"] / "results.json")["harness"]
    change_results(with_curves, harness=harness | {"tasks": {"one": only}, "limit": 1, "add_bos_token": False})
    table = table_of(with_curves, "Benchmarks")
    assert table.rows == [Row(("one", "–", "1", "acc", "50.0", "–", "–"))]
    assert "float16, no BOS, only the first 1 question of each task." in table.note


def test_questions_about_unseen_texts(folders):
    figures = {"questions": 320, "answer_loss": 4.5678, "accuracy": 0.375, "accuracy_per_byte": 0.25, "chance": 0.2058}
    change_results(folders, questions={"unseen": figures, "few": figures | {"accuracy": None}})
    assert table_of(folders, "Questions").rows == [
        Row(("unseen", "320", "4.568", "37.5", "25.0", "20.6")),
        Row(("few", "320", "4.568", "–", "25.0", "20.6")),
    ]


def test_demonstrations_before_questions_are_told(folders):
    figures = {"questions": 320, "answer_loss": 4.5678, "accuracy": 0.375, "accuracy_per_byte": 0.25, "chance": 0.2058}
    shown = {"mode": "structured", "demonstrations": 1000, "groups": 5, "tokens": 40210}
    change_results(folders, questions={"unseen": figures | {"in_context": shown}})
    note = table_of(folders, "Questions").note
    assert note.endswith(" unseen: after 1,000 demonstrations (structured, 5 groups, 40,210 tokens).")


def test_curves_over_checkpoints(with_curves):
    part = part_of(with_curves, "evaluation")
    (chart,) = all_of(part, Chart)
    assert [(curve.label, curve.color, round(curve.y[-1], 3)) for curve in chart.curves] == [
        ("augmented", TEAL, 3.4),  # 3.0 + 2.4 / 6
        ("raw", ORANGE, 4.2),  # 3.9 + 1.8 / 6
    ]
    (charts,) = all_of(part, SmallCharts)
    # The mean of nine benchmarks and one set of questions: (9 * 0.39 + 0.5) / 10.
    assert (charts.charts[0].title, charts.charts[0].small) == ("Mean of all", "last 40.1")
    assert [chart.title for chart in charts.charts[1:]] == [*NAMES, "unseen"]
    assert charts.charts[-1].small == "last 50.0"


def test_one_checkpoint_makes_no_curve(folders):
    add_curves(folders["evaluation"], points=1)
    part = part_of(folders, "evaluation")
    assert all_of(part, Chart)[0].curves == [] and all_of(part, SmallCharts)[0].charts == []


def test_checkpoints_of_other_tasks_do_not_bend_the_mean():
    def point(tokens, **tasks):
        return {"tokens": tokens, "harness": {"tasks": {name: score(value) for name, value in tasks.items()}}}

    points = [point(10, a=0.9), point(20, a=0.4, b=0.2), point(30, a=0.5, b=0.3)]
    mean, a, b = accuracy_charts(points).charts
    assert (mean.title, mean.small, a.title, b.title) == ("Mean of all", "last 40.0", "a", "b")
    assert a.curves[0].x == [10, 20, 30] and a.curves[0].y == pytest.approx([90, 40, 50])
    assert b.curves[0].y[1:] == pytest.approx([20, 30]) and math.isnan(b.curves[0].y[0])
    assert math.isnan(mean.curves[0].y[0]) and mean.curves[0].y[1] == pytest.approx(30)
    assert loss_chart(points, None).curves == []


def test_questions_called_like_a_benchmark_have_a_chart_each():
    points = [
        {"tokens": tokens, "harness": {"tasks": {"a": score(0.5)}}, "questions": {"a": {"accuracy": 0.25}}}
        for tokens in (1, 2)
    ]
    assert [(chart.title, chart.small) for chart in accuracy_charts(points).charts] == [
        ("Mean of all", "last 37.5"), ("a", "last 50.0"), ("questions a", "last 25.0"),
    ]  # fmt: skip


def test_an_unfinished_evaluation_has_no_card(folders):
    write_json(folders["evaluation"] / "manifest.json", {"stage": "evaluation", "status": "failed"})
    (folders["evaluation"] / "results.json").unlink()
    part = part_of(folders, "evaluation")
    assert (part.step, part.headline) == (None, "")


def test_an_evaluation_without_held_out_text(folders):
    change_results(folders, perplexity={})
    part = part_of(folders, "evaluation")
    assert (part.step, part.headline) == (Step("of the model"), "")


def test_shares_in_percent():
    assert [in_percent(share) for share in (0.4237, 1, None, math.nan)] == ["42.4", "100.0", "–", "–"]
