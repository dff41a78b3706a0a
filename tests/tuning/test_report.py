import pytest

from megatron_ipt.files import write_json
from megatron_ipt.stages.page import PINK, PURPLE, Figures, Part, Row, Share, Shares, Step, Table
from tests.report.runs import all_of, part_of

SOURCES = {
    "chats": {
        "documents": 30, "examples": 200, "responses": 300, "tokens": 6_000, "loss_tokens": 2_000,
        "left_out_documents": 0,
    },
    "tasks": {
        "documents": 10, "examples": 40, "responses": 40, "tokens": 2_000, "loss_tokens": 400, "left_out_documents": 0,
    },
}  # fmt: skip
NOTHING = {"documents": 0, "examples": 0, "tokens": 0, "loss_tokens": 0}


@pytest.fixture
def folders(tmp_path):
    folder = tmp_path / "tuning"
    counts = {
        "vocab_size": 1024,
        "train": {"documents": 40, "examples": 240, "tokens": 8_000, "loss_tokens": 2_400},
        "valid": {"documents": 3, "examples": 12, "tokens": 500, "loss_tokens": 90},
        "test": NOTHING,
        "train_by_source": SOURCES,
        "packing_efficiency": 0.91,
        "loss_share": 0.3,
        "rejected": {"tasks": 2},
    }
    write_json(folder / "manifest.json", {"stage": "tuning", "status": "complete", "counts": counts})
    dataset = {
        "train": [{"name": "tuning", "weight": 1.0, "by_source": SOURCES}],
        "valid": [{"name": "chats", "tokens": 500}],
        "test": [],
    }
    write_json(folder / "dataset.json", dataset)
    return {"tuning": folder}


def test_examples_by_data_set(folders):
    part = part_of(folders, "tuning")
    assert part.step == Step("from 240 examples", "8,000", "training tokens", "in 40 sequences")
    assert part.headline == "240 examples packed into 40 sequences"
    (figures,) = all_of(part, Figures)
    assert [(figure.label, figure.value, figure.note) for figure in figures.figures] == [
        ("training tokens", "8,000", "in 40 sequences"),
        ("learned", "30.0%", "of the training tokens"),
        ("of each sequence filled", "91.0%", ""),
        ("held out", "500", "in 3 sequences"),
        ("vocabulary", "1,024", ""),
    ]
    (shares,) = all_of(part, Shares)
    assert shares.shares == [Share("chats", 0.75, PURPLE), Share("tasks", 0.25, PINK)]
    (table,) = all_of(part, Table)
    assert [column.name for column in table.columns] == [
        "Source", "Share", "Examples", "Train", "Learned", "Valid", "Test",
    ]  # fmt: skip
    assert table.rows == [
        Row(("chats", "75.0%", "200", "6,000", "2,000", "500", "0"), PURPLE),
        Row(("tasks", "25.0%", "40", "2,000", "400", "0", "0"), PINK),
    ]
    assert table.note.endswith("2 records of tasks rejected, see `tuning/rejects-tasks.jsonl`.")


def test_unfinished_data_show_nothing(folders):
    write_json(folders["tuning"] / "manifest.json", {"stage": "tuning", "status": "running"})
    assert part_of(folders, "tuning") == Part()
