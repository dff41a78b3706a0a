from __future__ import annotations

from megatron_ipt.stages.page import Chart, Table
from megatron_ipt.training.report import Measured
from megatron_ipt.training.teacher.report import elements

RECORDS = [
    {"step": 1, "loss": 7.0, "metrics": {"distillation/forward_kl": 2.0, "distillation/reverse_kl": 3.0}},
    {"step": 2, "loss": 6.0, "metrics": {"distillation/forward_kl": 1.0, "distillation/reverse_kl": 2.5}},
    {
        "step": 1,
        "valid": {"raw": 6.5, "pairs": 5.5},
        "valid_metrics": {"raw": {"distillation/forward_kl": 1.5, "distillation/teacher_loss": 4.0}},
    },
    {
        "step": 2,
        "valid": {"raw": 6.25, "pairs": 5.0},
        "valid_metrics": {
            "raw": {
                "distillation/forward_kl": 1.25, "distillation/reverse_kl": 1.75, "distillation/teacher_loss": 4.0,
                "distillation/top1_agreement": 0.375,
            }
        },
    },
]  # fmt: skip


def test_both_divergences_over_tokens_and_a_table_of_held_out_sets() -> None:
    measured = Measured.of(RECORDS)
    prefix = "metrics/"
    trained = {name.removeprefix(prefix): values for name, values in measured.columns.items() if prefix in name}
    chart, table = elements([1, 2], trained, measured.valid_metrics, measured.valid, 512)
    assert isinstance(chart, Chart) and isinstance(table, Table)
    assert chart.upper_per_x == 512
    assert [(curve.label, list(curve.y), curve.dashed) for curve in chart.curves] == [
        ("forward KL", [2.0, 1.0], False),
        ("forward KL held out, raw", [1.5, 1.25], True),
        ("reverse KL", [3.0, 2.5], False),
        ("reverse KL held out, raw", [1.75], True),
    ]
    assert [list(row.cells) for row in table.rows] == [
        ["raw", "6.500", "6.250", "4.000", "1.250", "1.750", "37.5%"],
        ["pairs", "5.500", "5.000", "–", "–", "–", "–"],
    ]


def test_nothing_without_a_teacher() -> None:
    measured = Measured.of([{"step": 1, "loss": 7.0, "metrics": {"z/loss": 2.0}}, {"step": 1, "valid": {"raw": 6.5}}])
    assert elements([1], {"z/loss": [2.0]}, measured.valid_metrics, measured.valid, 512) == []
