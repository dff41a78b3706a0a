"""Means, spreads and paired differences, worked out by hand."""

from __future__ import annotations

import pytest

from megatron_ipt.comparison.plot import save
from megatron_ipt.comparison.table import cells, markdown, measured


def row(answer_loss, accuracy, text_loss):
    return {
        "answer_loss": answer_loss, "accuracy": accuracy, "accuracy_per_byte": accuracy, "chance": 0.25,
        "text_loss": text_loss, "questions": 40, "tokens": 1000, "parameters": 5000,
    }  # fmt: skip


ROWS = {
    "vanilla": [row(5.0, 0.25, 3.0), row(5.4, 0.30, 3.2), row(5.2, 0.35, 3.1)],
    "gold": [row(4.0, 0.45, 3.1), row(4.2, 0.40, 3.3), row(4.4, 0.50, 3.2)],
}


def test_differences_are_taken_seed_by_seed():
    table = cells(ROWS)
    loss = table["answer_loss"]
    assert loss["vanilla"].mean == pytest.approx(5.2)
    # Deviations -0.2, 0.2, 0: squares add up to 0.08, over n - 1 = 2.
    assert loss["vanilla"].deviation == pytest.approx(0.2)
    assert loss["vanilla"].difference is None
    # -1.0, -1.2, -0.8
    assert loss["gold"].difference == pytest.approx(-1.0)
    assert loss["gold"].difference_deviation == pytest.approx(0.2)
    # The text loss rises by the same 0.1 with every seed: the difference has no spread, the arm has.
    assert table["text_loss"]["gold"].difference_deviation == pytest.approx(0.0, abs=1e-12)
    assert table["text_loss"]["gold"].deviation == pytest.approx(0.1)


def test_the_table_says_what_is_better_and_how_far():
    text = markdown(ROWS)
    assert "| right answer ranks first, higher is better | 30.0 % ± 5.0 % | 45.0 % ± 5.0 % (+15.0 % ± 5.0 %) |" in text
    assert "loss of held-out answers (nats per token), lower is better" in text
    assert "over 3 seeds" in text
    assert "40 held-out questions, chance 25.0 %; 5,000 parameters, 1,000 training tokens per run" in text


def test_one_seed_has_no_spread_and_unequal_tokens_show():
    rows = {"vanilla": [row(5.0, 0.25, 3.0)], "gold": [row(4.0, 0.5, 3.0) | {"tokens": 2000}]}
    assert cells(rows)["accuracy"]["gold"].deviation == 0
    assert "1,000 or 2,000 training tokens" in markdown(rows)


def test_generated_answers_have_rows_where_they_were_measured():
    assert "F1" not in markdown(ROWS)
    results = {"questions": {"held_out": {"answer_loss": 1.5, "accuracy": 0.5, "accuracy_per_byte": 0.4, "chance": 0.2,
        "ranked": 9, "f1": 0.25, "exact_match": 0.125}}, "perplexity": {"plain": {"loss": 2.5}}}  # fmt: skip
    found = measured(results, {"tokens": 10, "parameters": 20})
    text = markdown({"vanilla": [found], "gold": [found | {"f1": 0.5}]})
    assert "| F1 of generated answers, higher is better | 25.0 % ± 0.0 % | 50.0 % ± 0.0 % (+25.0 % ± 0.0 %) |" in text
    assert "| exact match of generated answers, higher is better | 12.5 % ± 0.0 % |" in text


def test_the_plot_is_drawn_in_both_formats(tmp_path):
    save("a comparison", ROWS, [tmp_path / "results.png", tmp_path / "results.svg"])
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    assert "chance" in (tmp_path / "results.svg").read_text()
