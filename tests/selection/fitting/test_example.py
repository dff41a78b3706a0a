"""The recipe of the example, on its corpus and target, with untrained models and a shorter run."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_ipt.files import read_json, read_jsonl, write_json
from megatron_ipt.pipeline import run_recipe
from megatron_ipt.recipe import load_recipe
from tests.conftest import REPOSITORY

NATURE = {"mangroves", "coral-reefs", "honey-bee-dance", "ants-farming", "dams-beavers", "octopus", "desert-camel",
    "amazon-river", "photosynthesis", "glaciers", "tides"}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An untrained Llama whose tokenizer has learned 400 pieces from the passages."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path / "model"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = (record["text"] for record in read_jsonl(REPOSITORY / "examples/corpus/passages.jsonl"))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    torch.manual_seed(0)
    sizes = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    LlamaForCausalLM(sizes).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>"})
    return folder


@pytest.mark.slow
def test_documents_on_nature_are_found(model: Path, tmp_path: Path) -> None:
    overrides = (
        f"output_dir={tmp_path / 'run'}", f"proxy.starts=[{model}]", f"fitting.trunk={model}", "proxy.steps=6",
        "proxy.trained_on=''", "proxy.learning_rate=0.3", "proxy.seq_length=128", "fitting.seq_length=128",
    )  # fmt: skip
    run_recipe(load_recipe(REPOSITORY / "examples/pds.yaml", overrides), until="selection")
    proxy = read_json(tmp_path / "run/proxy/proxy.json")
    top = {sample["id"] for sample in proxy["samples"]["top"]}
    bottom = {sample["id"] for sample in proxy["samples"]["bottom"]}
    assert len(top & NATURE) > len(bottom & NATURE)
    assert proxy["targets"][0][-1] < proxy["targets"][0][0]
    counts = {name: read_json(tmp_path / f"run/{name}/manifest.json")["counts"] for name in ("fitting", "selection")}
    assert counts["fitting"]["spearman"] > 0
    assert counts["selection"]["kept"] == int(0.4 * counts["selection"]["rows"])
