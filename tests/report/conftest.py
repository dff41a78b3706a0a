"""Runs for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest

from .runs import write_run


@pytest.fixture
def complete_run(tmp_path: Path) -> dict[str, Path]:
    """Folders of a finished run of all stages."""
    return write_run(tmp_path / "run")
