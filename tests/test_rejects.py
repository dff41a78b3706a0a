from __future__ import annotations

import pytest

from megatron_ipt.errors import InputError
from megatron_ipt.files import read_jsonl
from megatron_ipt.rejects import Rejects


def test_what_is_dropped_is_kept_with_its_place(tmp_path):
    path = tmp_path / "rejects.jsonl"
    with Rejects(path) as rejects:
        rejects.add("invalid JSON", "a.jsonl", 3, "bad", "x" * 1000)
        rejects.add("too short", "a.jsonl")
    assert dict(rejects.reasons) == {"invalid JSON": 1, "too short": 1}
    first, second = read_jsonl(path)
    assert first == {
        "reason": "invalid JSON", "source": "a.jsonl", "line": 3, "detail": "bad", "sample": "x" * 500,
    }  # fmt: skip
    assert second["line"] is None


def test_no_file_when_nothing_is_dropped(tmp_path):
    (tmp_path / "rejects.jsonl").write_text("from an earlier run")
    with Rejects(tmp_path / "rejects.jsonl"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_flood_stops_the_run_and_leaves_the_file(tmp_path):
    path = tmp_path / "rejects.jsonl"
    flood = pytest.raises(InputError, match=r"6 of 100 records were rejected \(bad: 6\).*5\.0%")
    with flood, Rejects(path, 0.05) as rejects:
        for number in range(6):
            rejects.add("bad", "a", number)
        rejects.check(94)
    assert len(list(read_jsonl(path))) == 6


def test_few_records_are_judged_at_the_end_only(tmp_path):
    with Rejects(tmp_path / "r", 0.05) as rejects:
        rejects.add("bad", "a")
        rejects.check(1)
        with pytest.raises(InputError):
            rejects.check(1, final=True)


def test_further_fields_stand_beside_the_common_ones(tmp_path):
    with Rejects(tmp_path / "rejects.jsonl") as rejects:
        rejects.add("late", "a.txt", 3, "why", number=7, place="there")
    (record,) = read_jsonl(tmp_path / "rejects.jsonl")
    assert record == {"reason": "late", "source": "a.txt", "line": 3, "detail": "why", "number": 7, "place": "there"}
