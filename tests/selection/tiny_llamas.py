"""Tiny Llamas over the letter tokenizer, and a corpus of which half counts on as the target texts do."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_ipt.files import write_json
from megatron_ipt.recipe import Recipe, recipe_from
from tests.selection.conftest import LETTERS

Pds = Callable[..., Recipe]
GOOD, NOISE = 20, 20


def counting(start: int, length: int = 10, stride: int = 3) -> str:
    """Letters in steps of ``stride`` through the alphabet of the tokenizer, without the one that ends documents."""
    alphabet = LETTERS.replace("E", "")
    return "".join(alphabet[(start + stride * place) % len(alphabet)] for place in range(length))


def noise(seed: int, length: int = 10) -> str:
    return "".join(random.Random(seed).choices(LETTERS.replace("E", ""), k=length))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory, letter_tokenizer: Path) -> Callable[[int], Path]:
    """Folders of untrained models, by seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    made: dict[int, Path] = {}

    def make(seed: int) -> Path:
        if seed not in made:
            torch.manual_seed(seed)
            config = LlamaConfig(
                vocab_size=len(LETTERS), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.15,
            )  # fmt: skip
            folder = tmp_path_factory.mktemp(f"llama{seed}")
            LlamaForCausalLM(config).save_pretrained(folder)
            for file in letter_tokenizer.iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
            made[seed] = folder
        return made[seed]

    return make


@pytest.fixture
def pds(tmp_path: Path, llama: Callable[[int], Path]) -> Pds:
    """A recipe with a proxy run; keys of its section are given by name, other sections whole."""

    def make(
        name: str = "run", starts: tuple[int, ...] = (0,), texts: dict[str, str] | None = None,
        target: list[str] | None = None, corpus: dict[str, Any] | None = None, sections: dict[str, Any] | None = None,
        **keys: Any,
    ) -> Recipe:  # fmt: skip
        if texts is None:
            texts = {f"good{n}": counting(n, 8 + n % 7) for n in range(GOOD)}
            texts |= {f"noise{n}": noise(n, 8 + n % 7) for n in range(NOISE)}
        if target is None:
            target = [counting(n, 16) for n in range(9)]
        write_json(tmp_path / f"{name}.json", [{"id": name, "text": text} for name, text in texts.items()])
        write_json(tmp_path / f"{name}_target.json", [{"id": f"t{n}", "text": text} for n, text in enumerate(target)])
        section = {
            "starts": [str(llama(seed)) for seed in starts], "target": [str(tmp_path / f"{name}_target.json")],
            "documents": len(texts), "seq_length": 16, "steps": 6, "learning_rate": 0.2, "batch_documents": None,
            "score_every": 1, "micro_batch_documents": 8, "device": "cpu",
        }  # fmt: skip
        return recipe_from(
            {
                "name": name,
                "output_dir": str(tmp_path / "runs" / name),
                "compression": "none",
                "corpus": {
                    "inputs": [str(tmp_path / f"{name}.json")], "minimum_characters": 1, "valid_share": 0.0,
                    **(corpus or {}),
                },
                "proxy": section | keys,
                "skip": ["synthesis", "augment", "tokens", "training", "export", "evaluation", "report"],
                **(sections or {}),
            }
        )  # fmt: skip

    return make
