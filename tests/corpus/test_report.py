import pytest

from megatron_ipt.files import read_json, write_json
from megatron_ipt.stages.page import Bars, Figures, Fold, Part, Row, Step, Table
from tests.report.runs import all_of, change_counts, part_of, write_run


@pytest.fixture
def folders(tmp_path):
    return write_run(tmp_path)


def test_what_was_read(folders):
    part = part_of(folders, "corpus")
    # 61,250 + 38,750 bytes; 2 + 1 rejected.
    assert part.step == Step("from 2 files, 100 kB", "64", "documents", "3 rejected")
    assert part.headline == "64 documents read"
    (figures,) = all_of(part, Figures)
    assert [(figure.label, figure.value, figure.note) for figure in figures.figures] == [
        ("documents", "64", "1,550 characters each"),  # 99,200 / 64
        ("to get pairs", "40", ""),
        ("kept as they are", "24", ""),
        ("files", "2", "100 kB"),
        ("rejected", "3", ""),
    ]
    splits, rejected = all_of(part, Bars)
    assert list(splits.counts.items()) == [("train", 56), ("valid", 6), ("test", 2)] and splits.in_order
    assert rejected.counts == {"not valid JSON": 2, "too short": 1} and "`corpus/rejects.jsonl`" in rejected.note


def test_nothing_rejected_and_a_single_document(folders):
    change_counts(folders["corpus"], documents=1, files=1, rejected={}, splits={"valid": 1, "train": 2})
    part = part_of(folders, "corpus")
    assert (part.step.unit, part.step.detail) == ("document", "none rejected")
    splits, rejected = all_of(part, Bars)
    assert list(splits.counts) == ["train", "valid"]
    assert rejected.if_empty == "None: every record read was used."


def test_the_largest_files_are_listed_and_code_is_not_one(folders):
    path = folders["corpus"] / "manifest.json"
    inputs = [{"path": f"texts/{name}.txt", "bytes": 10 * index} for index, name in enumerate("abcdefghijkl")]
    write_json(path, read_json(path) | {"inputs": [*inputs, {"path": "reader.py", "bytes": 10**9, "code": True}]})
    change_counts(folders["corpus"], files=12, empty_files=["texts/a.txt"])
    (fold,) = all_of(part_of(folders, "corpus"), Fold)
    (table,) = fold.elements
    assert isinstance(table, Table) and len(table.rows) == 10
    assert table.rows[0] == Row(("l.txt", "110 bytes"))
    assert table.note == "The 10 largest of 12. 1 file held no document."
    assert part_of(folders, "corpus").step.into == "from 12 files, 660 bytes"


def test_an_unfinished_corpus_shows_nothing(folders):
    write_json(folders["corpus"] / "manifest.json", {"stage": "corpus", "status": "running"})
    assert part_of(folders, "corpus") == Part()
