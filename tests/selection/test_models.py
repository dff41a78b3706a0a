"""A real model: scores against its own loss, and what does not change them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_ipt.files import list_shards, read_jsonl
from megatron_ipt.inference.tokenizer import open_prompt_tokenizer
from megatron_ipt.recipe import Recipe
from tests.inference.conftest import random_model  # noqa: F401
from tests.selection.conftest import Build, run
from tests.synthesis.conftest import tokenizer_folder  # noqa: F401

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

WORDS = [
    "the",
    "river",
    "meets",
    "sea",
    "and",
    "every",
    "bridge",
    "carries",
    "a",
    "road",
    "of",
    "stone",
    "over",
    "water",
]
DOCUMENTS = {f"d{n}": " ".join(WORDS[(n * 7 + k * k) % len(WORDS)] for k in range(5 + n * 3)) for n in range(24)}


@pytest.fixture
def recipe(build: Build, random_model: Path, tmp_path: Path) -> Any:  # noqa: F811
    def make(name: str, shard_documents: int = 20_000, documents: Any = DOCUMENTS, **keys: Any) -> Recipe:
        generation = {"model": str(random_model), "tokenizer": "", "context_length": 256}
        scorer = {
            "engine": "transformers", "generation": generation, "append_eod": True, "seq_length": 40,
            "transformers": {"device": "cpu", "score_tokens": 400} | keys,
        }  # fmt: skip
        corpus = {"shard_documents": shard_documents}
        return build(documents, {"model": scorer}, {}, corpus=corpus, output_dir=str(tmp_path / name))

    return make


def scores_of(folder: Path) -> dict[str, tuple[float, int]]:
    found = {}
    for shard in list_shards(folder / "corpus" / "synthesis"):
        number = shard.name[6:11]
        rows = np.load(folder / "scoring" / "model" / f"synthesis-{number}.npy")
        for record, row in zip(read_jsonl(shard), rows, strict=True):
            found[record["id"]] = (float(row["nll"]), int(row["tokens"]))
    return found


def test_scores_are_the_loss_of_the_model(recipe: Any, random_model: Path) -> None:  # noqa: F811
    """By windows of 40 inputs, each alone, in double precision."""
    tokenizer = open_prompt_tokenizer(random_model)
    model = transformers.AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float64)
    found = scores_of(run(recipe("one"), until="scoring"))
    for name, text in DOCUMENTS.items():
        ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode([text])[0], tokenizer.eos_id]])
        total = 0.0
        for first in range(0, ids.shape[1] - 1, 40):
            window = ids[:, first : first + 41]
            with torch.no_grad():
                total += float(model(window, labels=window).loss) * (window.shape[1] - 1)
        nll, tokens = found[name]
        assert tokens == ids.shape[1] - 1
        assert nll == pytest.approx(total, rel=1e-5)
    assert max(tokens for _, tokens in found.values()) > 80


def test_neither_batches_nor_shards_nor_order_matter(recipe: Any) -> None:
    """To rounding; to the last bit where the batches are the same, as with one window at a time."""
    one = scores_of(run(recipe("one", score_tokens=1), until="scoring"))
    shards = scores_of(run(recipe("shards", 5, score_tokens=1), until="scoring"))
    backwards = dict(reversed(DOCUMENTS.items()))
    reversed_ = scores_of(run(recipe("backwards", 7, backwards, score_tokens=1), until="scoring"))
    batches = scores_of(run(recipe("batches", score_tokens=2000), until="scoring"))
    again = scores_of(run(recipe("again", score_tokens=2000), until="scoring"))
    assert one == shards == reversed_
    assert batches == again
    for name, (nll, tokens) in one.items():
        assert batches[name] == (pytest.approx(nll, rel=1e-6), tokens)
