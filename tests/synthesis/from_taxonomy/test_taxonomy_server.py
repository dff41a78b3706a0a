"""A server of chats that goes away while a taxonomy grows, with a model whose tokenizer is not here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.manifest import StageContext
from megatron_ipt.synthesis.from_taxonomy import stage
from tests.synthesis.from_taxonomy.conftest import settings_of
from tests.synthesis.from_taxonomy.teacher import TAXONOMY, answer_to
from tests.synthesis.from_taxonomy.test_taxonomy_stage import content
from tests.synthesis.http_server import Server, chat

pytest.importorskip("openai")
OUTAGE_SECONDS = 1.5


class Outage:
    """Answers as the teacher does, but closes every connection for a while from the thirtieth request on."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.began: float | None = None
        self.lost = 0

    def __call__(self, number: int, body: dict[str, Any]) -> Any:
        if number >= 30 and self.began is None:
            self.began = time.monotonic()
        if self.began is not None and time.monotonic() - self.began < self.seconds:
            self.lost += 1
            return "disconnect"
        prompt = "".join(f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>" for each in body["messages"])
        return chat(body, answer_to(prompt, body["seed"]))


def grown(tmp_path: Path, seconds: float) -> tuple[dict[str, Any], dict[str, bytes], int]:
    folder = tmp_path / f"{seconds}"
    folder.mkdir()
    (folder / "crafts.yaml").write_text(TAXONOMY)
    context = StageContext("taxonomy", folder / "taxonomy", 7)
    outage = Outage(seconds)
    with Server(outage) as server:
        own = {"openai.server": "openai-chat", "openai.base_urls": f"[{server.url}]", "openai.max_backoff": 0.2}
        config = settings_of(folder / "crafts.yaml", Path("tiny"), engine="openai", **own)
        summary = stage.run(config, context)
    return summary, content(context.directory), outage.lost


def test_a_server_that_goes_away_costs_nothing(tmp_path: Path) -> None:
    whole, expected, _ = grown(tmp_path, 0)
    summary, found, lost = grown(tmp_path, OUTAGE_SECONDS)
    assert whole["pairs"] == summary["pairs"] == 30
    assert lost > 0
    assert found == expected
    assert sum(figures["calls"] for figures in summary["calls"].values()) == 84
    assert summary["refused_calls"] == 0
