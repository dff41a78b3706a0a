"""Tables as they were before a test loaded an extension."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_ipt.corpus.readers import READERS
from megatron_ipt.extensions import VARIABLE
from megatron_ipt.inference.engines import ENGINES
from megatron_ipt.models.families import FAMILIES
from megatron_ipt.models.presets import PRESETS
from megatron_ipt.synthesis.from_text.prompted.styles import STYLES
from megatron_ipt.synthesis.pair_sources import SOURCES
from megatron_ipt.training.objectives.table import OBJECTIVES
from tests.conftest import REPOSITORY

EXTENSIONS = REPOSITORY / "examples" / "extensions"
TABLES = [READERS, SOURCES, ENGINES, STYLES, FAMILIES, PRESETS, OBJECTIVES]
_BUILT_IN = [dict(table) for table in TABLES]
"""As they are before any test has run: recipes that other tests load in this process name extensions as well."""


def _forget_extensions() -> None:
    for table, rows in zip(TABLES, _BUILT_IN):
        table.clear()
        table.update(rows)
    for module in list(sys.modules):
        if module.startswith("megatron_ipt_extension_"):
            del sys.modules[module]


@pytest.fixture
def extensions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the examples; what is loaded from it, or from anywhere, is gone after the test."""
    _forget_extensions()
    # Set and deleted, so that monkeypatch restores it whatever the test makes of it.
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)
    yield EXTENSIONS
    _forget_extensions()
