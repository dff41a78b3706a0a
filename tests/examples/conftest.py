"""The extensions that the examples bring."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

EXTENSIONS = REPOSITORY / "examples" / "extensions"


@pytest.fixture
def extensions() -> Path:
    """Their folder."""
    return EXTENSIONS
