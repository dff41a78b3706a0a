import pytest

from megatron_ipt.files import write_json
from megatron_ipt.stages import Stage
from megatron_ipt.stages.page import Column, Curve, Row, Segment, Share, StageRecord, Table

STAGE = Stage("catch", "catch", "", object, "module:run")


def test_a_record_of_a_stage(tmp_path):
    record = StageRecord(STAGE, tmp_path, {"status": "complete", "counts": {"fish": 3}, "settings": {"seed": 1}})
    assert (record.name, record.status, record.counts, record.settings) == (
        "catch",
        "complete",
        {"fish": 3},
        {"seed": 1},
    )
    write_json(tmp_path / "results.json", {"weight": 2})
    assert record.read("results.json", None) == {"weight": 2} and record.read("no.json", []) == []


def test_a_record_of_an_unfinished_stage(tmp_path):
    record = StageRecord(STAGE, tmp_path, {"status": "failed"})
    assert (record.counts, record.settings, record.counts_of("fish")) == ({}, {}, {})
    eater = StageRecord(STAGE, tmp_path, {}, {"fish": record})
    assert eater.counts_of("fish") == {}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Row(("a",), "raw"),
        lambda: Share("a", 0.5, "blue; background: url(x)"),
        lambda: Curve("a", [1], [1.0], "red"),
        lambda: Segment("a", "bold"),
        lambda: Table((Column("a"), Column("b")), [Row(("1",))]),
    ],
)
def test_what_has_no_look_is_an_error(make):
    with pytest.raises(ValueError):
        make()
