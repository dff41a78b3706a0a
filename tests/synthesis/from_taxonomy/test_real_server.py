"""A taxonomy grown by a real model behind the real vLLM: what is counted, and that a second run asks nothing again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_ipt.config import load
from megatron_ipt.errors import NoPairsError
from megatron_ipt.files import read_jsonl
from megatron_ipt.manifest import ShardMarkers, StageContext
from megatron_ipt.synthesis.from_taxonomy import stage
from megatron_ipt.synthesis.from_taxonomy.config import TaxonomyConfig
from megatron_ipt.synthesis.spending.ledger import USAGE_FOLDER, total_usage
from tests.conftest import REPOSITORY
from tests.inference.real_servers import CONTEXT, RealServer, serving

pytest.importorskip("openai")
pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with serving("vllm", tmp_path_factory.mktemp("server") / "log") as real:
        yield real


def test_a_real_model_behind_a_real_server(server: RealServer, tmp_path: Path) -> None:
    """A small model loses most of the tree; whatever it writes must be counted, once."""
    settings = {
        "file": REPOSITORY / "examples/taxonomy/three_disciplines.yaml",
        "prompts": REPOSITORY / "examples/taxonomy/prompts_small_model.yaml",
        "lists_per_discipline": 2,
        "max_subjects": 2,
        "questions_per_subject": 3,
        "give_up_after": "null",
        "engine": "openai",
        "generation.model": server.model,
        "generation.tokenizer": server.folder,
        "generation.context_length": CONTEXT,
        "generation.max_new_tokens": 250,
        "generation.temperature": 0.7,
        "answers.generation.max_new_tokens": 120,
        "openai.base_urls": f"[{server.url}]",
    }
    config = load(TaxonomyConfig, None, [f"{name}={value}" for name, value in settings.items()])
    context = StageContext("taxonomy", tmp_path / "taxonomy", 7)
    with contextlib.suppress(NoPairsError):
        stage.run(config, context)
    markers = ShardMarkers(context.directory)
    assert all(markers.counts(task.name) is not None for task in stage.tasks_of(config, context))
    summary = stage.summary_of(config, context)
    usage = total_usage(context.directory / USAGE_FOLDER)
    assert usage is not None and usage.unanswered == 0
    levels = summary["calls"].values()
    probes = usage.answers - sum(figures["calls"] for figures in levels)
    assert 0 <= probes <= 2, "an answer was neither a node of the tree nor the engine's probe"
    assert sum(figures["generated_tokens"] for figures in levels) > 500
    rows = [row for path in context.directory.glob("rows/*") for row in read_jsonl(path)]
    assert len(rows) == summary["pairs"] and all(row["prompt"] and row["response"] for row in rows)
    print({name: summary[name] for name in ("subjects", "questions", "pairs", "lost", "json_tries")})
    with contextlib.suppress(NoPairsError):
        stage.run(config, context)
    assert total_usage(context.directory / USAGE_FOLDER) == usage
