import math

import pytest

from megatron_ipt.report import figures
from megatron_ipt.report.figures import Metrics, Piece, Run
from megatron_ipt.report.stage import read_run


@pytest.fixture
def record(complete_run):
    return read_run("quickstart", complete_run)


def test_summary_says_how_far_the_run_went(record):
    assert figures.summary(record) == (
        "64 documents gained 200 instruction–response pairs; a model of 3.41M parameters trained on 1.23M tokens in "
        "300 steps; held-out loss 3.08 on augmented text, 3.96 on raw text (nats per token)."
    )
    corpus_only = Run("a", {"corpus": record.manifests["corpus"]})
    assert figures.summary(corpus_only) == "64 documents read."
    assert figures.summary(Run("a", {"corpus": {"status": "failed"}})) == "No stage of this run has finished yet."


def test_flow_tells_what_went_in_and_came_out(record):
    told = [(step.stage, step.into, step.amount, step.unit, step.detail) for step in figures.flow(record)]
    assert told == [
        ("corpus", "from 2 files, 100 kB", "64", "documents", "3 rejected"),
        ("synthesis", "from 40 texts", "200", "pairs", "5.0 per text"),
        ("augment", "from 200 pairs", "20", "documents", "2.0 texts each"),
        ("tokens", "from 56 documents", "40K", "training tokens", "vocabulary of 2,048"),
        ("training", "on 1.23M tokens", "300", "steps", "fp32, 2 ranks"),
        ("export", "from the checkpoint", "3.41M", "parameters", "Hugging Face folder"),
        ("evaluation", "on 2,699 tokens", "21.7", "perplexity, augmented", ""),
    ]
    assert figures.total_seconds(record) == pytest.approx(115.0)
    assert sum(step.share_of_time for step in figures.flow(record)) == pytest.approx(1.0)


def test_an_unfinished_stage_has_no_amount(record):
    record.manifests["training"] = {"status": "interrupted", "seconds": 4.0}
    step = figures.flow(record)[4]
    assert (step.stage, step.amount, step.status) == ("training", "", "interrupted")


def test_bars_are_ordered_and_scaled():
    bars = figures.bars({"b": 10, "a": 10, "c": 30})
    assert [(bar.label, bar.value, bar.share, round(bar.width, 3)) for bar in bars] == [
        ("c", 30, 0.6, 1.0),
        ("a", 10, 0.2, 0.333),
        ("b", 10, 0.2, 0.333),
    ]
    assert figures.bars({}) == []
    assert [bar.width for bar in figures.bars({"nothing": 0})] == [0.0]


def test_forty_categories_have_a_bar_each_and_more_share_the_last():
    assert len(figures.bars({f"category {i}": i + 1 for i in range(40)})) == 40
    bars = figures.bars({f"category {i:02d}": 100 - i for i in range(45)})
    assert len(bars) == 40
    # The six smallest: 61 + 60 + 59 + 58 + 57 + 56.
    assert (bars[-1].label, bars[-1].value, bars[-1].is_rest) == ("6 more", 351, True)


def test_sources_share_the_training_tokens(record):
    augmented, raw = figures.sources(record)
    assert (augmented.name, augmented.share, augmented.tokens, augmented.color) == (
        "augmented", 0.75, 30_000, "augmented",
    )  # fmt: skip
    assert (raw.share, raw.left_out, raw.held_out) == (0.25, 3, {"valid": 1300, "test": 1000})


def test_sources_that_are_blended_have_their_weight_as_share(record):
    record.dataset["train"] = [
        {"name": "augmented", "prefix": "train-augmented", "weight": 3.0, "documents": 18, "tokens": 30_000},
        {"name": "raw", "prefix": "train-raw", "weight": 2.0, "documents": 38, "tokens": 10_000},
    ]
    assert [row.share for row in figures.sources(record)] == [0.6, 0.4]


def test_metrics_part_training_from_validation():
    metrics = Metrics.of(
        [
            {"step": 1, "loss": 7.5, "lr": 0.1, "grad_norm": None, "tokens_per_second": 9.0, "tokens": 64},
            {"step": 1, "valid": {"raw": 7.0}},
            {"step": 2, "loss": 7.25, "lr": 0.2, "grad_norm": 2.0, "tokens_per_second": 9.5, "tokens": 128},
            {"step": 2, "valid": {"raw": 6.0, "augmented": None}},
        ]
    )
    assert metrics.columns["loss"] == [7.5, 7.25]
    assert math.isnan(metrics.columns["grad_norm"][0]) and metrics.columns["grad_norm"][1] == 2.0
    assert metrics.valid["raw"] == ([1, 2], [7.0, 6.0])
    assert math.isnan(metrics.valid["augmented"][1][0])


def test_loss_chart_holds_every_curve(record):
    chart = figures.loss_chart(record)
    assert [(curve.label, curve.color, curve.dashed) for curve in chart.curves] == [
        ("unigram entropy, augmented", "augmented", True),
        ("unigram entropy, raw", "raw", True),
        ("training", "training", False),
        ("held out, augmented", "augmented", False),
        ("held out, raw", "raw", False),
    ]
    assert chart.curves[1].y == [6.48, 6.48]
    assert chart.tokens_per_step == 4096
    assert figures.loss_chart(Run("a", {})) is None


def test_small_charts_leave_out_what_was_not_measured(record):
    assert [title for title, _, _ in figures.small_charts(record)] == [
        "Learning rate", "Gradient norm", "Tokens per second",
    ]  # fmt: skip
    record.metrics.columns["grad_norm"] = [math.nan] * 300
    assert [title for title, _, _ in figures.small_charts(record)] == ["Learning rate", "Tokens per second"]


def test_long_stretches_of_a_sample_hide_their_middle_and_lose_nothing(record):
    text = "".join(f"Sentence {number:04d}. " for number in range(500))
    record.samples = [{"id": "a", "layout": "plain", "split": "train", "pairs": 0, "segments": [["text", text]]}]
    (sample,) = figures.samples(record, 5)
    assert [piece.hidden for piece in sample.pieces] == [False, True, False]
    assert "".join(piece.text for piece in sample.pieces) == text
    assert {word for piece in sample.pieces for word in piece.text.split()} == set(text.split())
    assert sample.characters == len(text)
    assert (
        sample.preview == "Sentence 0000. Sentence 0001. Sentence 0002. Sentence 0003. Sentence 0004. Sentence 0005. …"
    )


def test_a_document_of_megabytes_does_not_land_on_the_page(record):
    record.samples = [{"id": "a", "pairs": 0, "segments": [["text", "word " * 1_000_000]]}]
    (sample,) = figures.samples(record, 1)
    assert sum(len(piece.text) for piece in sample.pieces) < 25_000
    # 5,000,000 less the 700 first, the 20,000 kept, and the 295 last, which begin with a word.
    assert "4,979,005 more characters" in sample.pieces[1].text


def test_pieces_keep_kind_and_order(record):
    sample = figures.samples(record, 1)[0]
    assert sample.pieces[2] == Piece("question", "Why does high tide come later each day?")
    assert sample.pairs == 2


def test_parity_is_told_in_words(record):
    assert figures.parity_sentence(record.results["parity"]) == (
        "On 2,048 tokens the logits differ by at most 2.1 × 10⁻⁶, 1.4 × 10⁻⁶ of their spread (allowed: 0.0001); both "
        "prefer the same token at 100% of the positions."
    )


def test_passes_over_the_data(record):
    assert figures.passes(record) == "30.7 times the training tokens"  # 1,228,800 / 40,000
    record.manifests["training"]["counts"]["tokens"] = 10_000
    assert figures.passes(record) == "25.0% of the data"


def test_settings_have_dotted_keys(record):
    rows = figures.setting_rows(record.settings("training"))
    assert ("model.num_layers", "") in rows
    assert ("optimizer.lr", "0.003") in rows
    assert ("parallel.sequence_parallel", "false") in rows
    assert ("inputs", "examples/corpus") in figures.setting_rows(record.settings("corpus"))


def test_versions_that_changed_between_stages_are_all_named(record):
    record.manifests["training"]["versions"] = {"torch": "2.9.0"}
    assert ("torch", "2.8.0, 2.9.0") in figures.versions(record)
