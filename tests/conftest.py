"""Shared fixtures. Real text, where a test wants it, is named by MEGATRON_IPT_TEST_DATA or lies beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def test_data() -> Path:
    """Folder of xquad.en.json, wikitext2.valid.txt, gsm8k.train.jsonl and aqua.dev.jsonl; skips without it."""
    folder = Path(os.environ.get("MEGATRON_IPT_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no folder of real text: set MEGATRON_IPT_TEST_DATA")
    return folder
