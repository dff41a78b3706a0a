import pytest

from megatron_ipt.files import read_json, write_json
from megatron_ipt.stages.page import OLIVE, ORANGE, PINK, PURPLE, TEAL, Figures, Part, Row, Share, Shares, Step, Table
from megatron_ipt.tokens.report import source_colors
from tests.report.runs import all_of, change_counts, part_of, records_of, write_run


@pytest.fixture
def folders(tmp_path):
    return write_run(tmp_path)


def test_tokens_by_source(folders):
    part = part_of(folders, "tokens")
    assert part.step == Step("from 56 documents", "40K", "training tokens", "vocabulary of 2,048")
    (figures,) = all_of(part, Figures)
    assert [(figure.label, figure.value, figure.note) for figure in figures.figures] == [
        ("training tokens", "40K", "in 56 documents"),
        ("held out", "5,000", "in 8 documents"),  # 4,000 + 1,000 in 6 + 2
        ("vocabulary", "2,048", ""),
    ]
    (shares,) = all_of(part, Shares)
    assert shares.shares == [Share("augmented", 0.75, TEAL), Share("raw", 0.25, ORANGE)]
    (table,) = all_of(part, Table)
    assert [column.name for column in table.columns] == ["Source", "Share", "Train", "Valid", "Test", "Documents"]
    assert table.rows == [
        Row(("augmented", "75.0%", "30,000", "2,700", "0", "18"), TEAL),
        Row(("raw", "25.0%", "10,000", "1,300", "1,000", "38"), ORANGE),
    ]
    assert table.note == (
        "Train, valid and test in tokens; documents and share are of the training mixture. 3 documents of raw left "
        "out to keep the shares. 4 records of raw rejected, see `tokens/rejects-raw.jsonl`."
    )


def test_sources_that_are_blended_have_their_weight_as_share(folders):
    path = folders["tokens"] / "dataset.json"
    train = [
        {"name": "augmented", "prefix": "train-augmented", "weight": 3.0, "documents": 18, "tokens": 30_000},
        {"name": "raw", "prefix": "train-raw", "weight": 2.0, "documents": 38, "tokens": 10_000},
    ]
    write_json(path, read_json(path) | {"train": train})
    (shares,) = all_of(part_of(folders, "tokens"), Shares)
    assert [share.share for share in shares.shares] == [0.6, 0.4]


def test_a_source_has_one_color_wherever_it_appears(folders):
    assert source_colors(["web", "raw", "code"]) == {"raw": ORANGE, "augmented": TEAL, "web": PURPLE, "code": PINK}
    by_source = {name: {"documents": 1, "tokens": 1} for name in ("books", "web", "code", "news")}
    change_counts(folders["tokens"], train_by_source=by_source)
    # Only code was held out; its color is that in the table of sources all the same.
    record = records_of(folders)["tokens"]
    assert source_colors(["code"], record)["code"] == source_colors(by_source)["code"] == OLIVE
    assert source_colors([], record)["news"] == PURPLE


def test_unfinished_tokens_show_nothing(folders):
    write_json(folders["tokens"] / "manifest.json", {"stage": "tokens", "status": "running"})
    assert part_of(folders, "tokens") == Part()
