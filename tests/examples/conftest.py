"""Tables as they were before a test loaded an extension."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_ipt.convert import names
from megatron_ipt.corpus.readers import READERS
from megatron_ipt.extensions import VARIABLE
from megatron_ipt.synthesis.sources import SOURCES
from megatron_ipt.training.families import FAMILIES, PRESETS
from tests.conftest import REPOSITORY

EXTENSIONS = REPOSITORY / "examples" / "extensions"


@pytest.fixture
def extensions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the examples; what is loaded from it, or from anywhere, is gone after the test."""
    tables = [names.FAMILIES, READERS, SOURCES, FAMILIES, PRESETS]
    before = [dict(table) for table in tables]
    modules = set(sys.modules)
    # Set and deleted, so that monkeypatch restores it whatever the test makes of it.
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)
    yield EXTENSIONS
    for table, rows in zip(tables, before):
        table.clear()
        table.update(rows)
    for module in set(sys.modules) - modules:
        if module.startswith("megatron_ipt_extension_"):
            del sys.modules[module]
