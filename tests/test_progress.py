"""Progress where it is seen: log lines in files, one line that changes in a notebook."""

from __future__ import annotations

import sys
import types

import pytest

from megatron_ipt import progress
from megatron_ipt.progress import Progress


def test_a_log_gets_a_line_at_most_every_so_often(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    lines: list[str] = []
    monkeypatch.setattr(progress.logger, "info", lambda template, *values: lines.append(template % values))
    with Progress("count", 40, "shards") as bar:
        for _ in range(40):
            now[0] += 1.0
            bar.advance(1, pairs="7")
    assert lines == [
        "count: 15/40 shards, 1.0/s, pairs 7, 0:25 left",
        "count: 30/40 shards, 1.0/s, pairs 7, 0:10 left",
    ]


@pytest.fixture
def notebook(monkeypatch) -> list[str]:
    """Lines shown one after the other in the same place of a notebook."""
    shown: list[str] = []

    class Handle:
        def update(self, data, raw):
            assert raw
            shown.append(data["text/plain"])

    def display(data, raw, display_id):
        assert display_id
        Handle().update(data, raw)
        return Handle()

    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    return shown


def test_a_notebook_shows_one_line_that_changes(notebook, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("count", 4) as bar:
        for _ in range(4):
            now[0] += 0.4
            bar.advance()
    # Not at every step, and the last state is shown at the end.
    assert [line.split(" documents")[0] for line in notebook] == [
        "count: 0/4",
        "count: 2/4",
        "count: 4/4",
        "count: 4/4",
    ]
    assert "left" in notebook[1] and "left" not in notebook[-1]
