"""Shared fixtures. Real text, where a test wants it, is named by MEGATRON_IPT_TEST_DATA or lies beside the checkout."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from megatron_ipt import stages
from megatron_ipt.corpus.readers import READERS
from megatron_ipt.extensions import VARIABLE
from megatron_ipt.inference.engines import ENGINES
from megatron_ipt.models.families import FAMILIES
from megatron_ipt.models.presets import PRESETS
from megatron_ipt.recipe import BUILT_IN
from megatron_ipt.synthesis.from_text.prompted.styles import STYLES
from megatron_ipt.synthesis.pair_sources import SOURCES
from megatron_ipt.training.objectives.table import OBJECTIVES

REPOSITORY = Path(__file__).parent.parent
TABLES = [READERS, SOURCES, ENGINES, STYLES, FAMILIES, PRESETS, OBJECTIVES]
"""What extensions add to, besides stages."""
_BUILT_IN_ROWS = [dict(table) for table in TABLES]
# Workers and the ranks that their tests start share the cores: threads that wait for each other there burn them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test depends on how fast the machine is, nor on what else runs on it.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
_MOST_WORKERS = 8
"""Each holds torch and Megatron-Core, and its tests start ranks of their own."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Processes for ``-n auto`` and ``-n logical``: one more than there are cores, since one mostly waits for Slurm."""
    return min(_MOST_WORKERS, len(os.sched_getaffinity(0)) + 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no worker begins one when the others have nothing left to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def extensions_are_forgotten() -> Iterator[None]:
    """What an extension registers takes part in every recipe of the process and of those that it starts."""
    _forget_extensions()
    yield
    # Fixtures of a module come before those of its tests.
    _forget_extensions()


def _forget_extensions() -> None:
    stages._TABLE[:] = BUILT_IN
    for table, rows in zip(TABLES, _BUILT_IN_ROWS):
        table.clear()
        table.update(rows)
    os.environ.pop(VARIABLE, None)
    for name in [name for name in sys.modules if name.startswith("megatron_ipt_extension_")]:
        del sys.modules[name]


@pytest.fixture
def test_data() -> Path:
    """Folder of xquad.en.json, wikitext2.valid.txt, gsm8k.train.jsonl and aqua.dev.jsonl; skips without it."""
    folder = Path(os.environ.get("MEGATRON_IPT_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no folder of real text: set MEGATRON_IPT_TEST_DATA")
    return folder
