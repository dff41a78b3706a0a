"""The Python that the pages about engines show is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.inference.engine import Engine
from megatron_ipt.inference.engines import ENGINES
from megatron_ipt.inference.scoring import ScoreRequest
from megatron_ipt.inference.tokenizer import PromptTokenizer
from megatron_ipt.synthesis.pair_sources import SOURCES
from tests.conftest import REPOSITORY
from tests.inference.test_transformers_score import by_hand
from tests.test_documentation import fenced

SCORING = REPOSITORY / "docs" / "scoring.md"
ENGINE = REPOSITORY / "docs" / "own_engine.md"


@pytest.fixture
def _tables() -> Iterator[None]:
    before = [(table, dict(table)) for table in (ENGINES, SOURCES)]
    yield
    for table, rows in before:
        table.clear()
        table.update(rows)


def test_scoring_two_texts(random_model: Path, tokenizer: PromptTokenizer, tmp_path: Path) -> None:
    program = tmp_path / "score.py"
    program.write_text(next(fenced(SCORING, "python"))[1])
    done = subprocess.run(
        [sys.executable, str(program), str(random_model)],
        capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines = re.findall(r"^ *(-?[\d.]+) nats per token  (.+)$", done.stdout, re.MULTILINE)
    assert [text for _, text in lines] == ["The river meets the sea.", "Sea the meets river the."]
    asked = [ScoreRequest([1, *tokenizer.encode([text])[0]]) for _, text in lines]
    for (shown, _), score in zip(lines, by_hand(random_model, asked), strict=True):
        assert float(shown) == pytest.approx(score.log_likelihood / score.tokens, abs=1e-3)


@pytest.mark.usefixtures("_tables")
def test_classes_that_are_shown_are_engines_and_sources() -> None:
    shown: dict[str, Any] = {"__file__": "shown.py", "__name__": "shown"}
    blocks = [*list(fenced(SCORING, "python"))[1:], *fenced(ENGINE, "python")]
    for _, block in blocks:
        exec(block, shown)
    assert issubclass(shown["MyScorer"], Engine) and shown["MyScorer"].scores()
    assert issubclass(shown["MyEngine"], Engine) and shown["MyEngine"].generates()
    assert {"mine"} <= ENGINES.keys() and {"titles"} <= SOURCES.keys()
