"""Hugging Face -> Megatron-Core -> Hugging Face returns every bit, for every family and layout of files."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from megatron_ipt.convert.checkpoint.reader import CheckpointReader  # noqa: E402
from megatron_ipt.convert.commands import export_model, import_model  # noqa: E402
from megatron_ipt.files import read_json  # noqa: E402
from megatron_ipt.models.families import FAMILIES, padded_vocabulary  # noqa: E402
from megatron_ipt.training.checkpoints.model_file import ModelFile  # noqa: E402

from .models import VOCABULARY, assert_same_weights, make_model, save, weights  # noqa: E402

CONFIGURED = (
    "rope_parameters", "rms_norm_eps", "tie_word_embeddings", "num_key_value_heads", "dtype", "vocab_size",
    "max_position_embeddings", "architectures", "hidden_act", "initializer_range",
)  # fmt: skip


def round_trip(tmp_path: Path, source: Path, max_shard_size: str = "5GB") -> Path:
    import_model(source, tmp_path / "checkpoints")
    export_model(tmp_path / "checkpoints", tmp_path / "back", max_shard_size=max_shard_size, tokenizer=None)
    assert_same_weights(source, tmp_path / "back")
    return tmp_path / "back"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
def test_families_and_types(tmp_path, family, tied, dtype):
    source = save(tmp_path / "hf", family, dtype, tie_word_embeddings=tied)
    back = round_trip(tmp_path, source)
    before, after = (transformers.AutoConfig.from_pretrained(folder) for folder in (source, back))
    for key in CONFIGURED:
        assert getattr(before, key) == getattr(after, key), key
    _, report = transformers.AutoModelForCausalLM.from_pretrained(back, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_key_value_heads(tmp_path, groups):
    round_trip(tmp_path, save(tmp_path / "hf", "qwen2", num_key_value_heads=groups))


@pytest.mark.parametrize("vocab_size", [1, 127, 128, 129, 257])
def test_vocabularies(tmp_path, vocab_size):
    round_trip(tmp_path, save(tmp_path / "hf", "llama", vocab_size=vocab_size))
    described = ModelFile.read(tmp_path / "checkpoints/release")
    assert described.padded_vocab_size == padded_vocabulary(vocab_size, 128)
    reader = CheckpointReader(tmp_path / "checkpoints/release")
    padding = torch.ones(described.padded_vocab_size - vocab_size, 24)
    reader.read_rows("output_layer.weight", (), vocab_size, padding)
    assert not padding.any()


@pytest.mark.parametrize("source_size", ["5GB", "20KB", "2KB"])
@pytest.mark.parametrize("target_size", ["5GB", "20KB", "2KB"])
def test_numbers_of_files(tmp_path, source_size, target_size):
    source = save(tmp_path / "hf", "mistral", max_shard_size=source_size)
    back = round_trip(tmp_path, source, target_size)
    sizes = {"5GB": 1, "20KB": 3, "2KB": 10}
    assert len(list(source.glob("*.safetensors"))) >= sizes[source_size]
    assert len(list(back.glob("*.safetensors"))) >= sizes[target_size]


def test_rows_longer_than_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr("megatron_ipt.convert.formats.stored_tensor.BLOCK_BYTES", 50)
    round_trip(tmp_path, save(tmp_path / "hf", "mixtral"))


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_blocks_that_cut_groups_and_parts(tmp_path, monkeypatch, rows):
    monkeypatch.setattr("megatron_ipt.convert.formats.stored_tensor.BLOCK_BYTES", rows * 24 * 4)
    round_trip(tmp_path, save(tmp_path / "hf", "qwen2"))


def test_wide_heads(tmp_path):
    round_trip(tmp_path, save(tmp_path / "hf", "qwen3", head_dim=16, num_key_value_heads=4))


def test_old_torch_files(tmp_path):
    source = save(tmp_path / "hf", "llama")
    tensors = weights(source)
    (tmp_path / "old").mkdir()
    (tmp_path / "old/config.json").write_bytes((source / "config.json").read_bytes())
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    torch.save({name: torch.nn.Parameter(value) for name, value in tensors.items()}, tmp_path / "old/pytorch_model.bin")
    import_model(tmp_path / "old", tmp_path / "checkpoints")
    export_model(tmp_path / "checkpoints", tmp_path / "back")
    assert_same_weights(source, tmp_path / "back")


def test_a_shared_matrix_that_was_written_twice(tmp_path):
    from safetensors.torch import save_file

    source = save(tmp_path / "hf", "llama", tie_word_embeddings=True)
    tensors = weights(source)
    both = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    save_file(both, source / "model.safetensors", {"format": "pt"})
    import_model(source, tmp_path / "checkpoints")
    export_model(tmp_path / "checkpoints", tmp_path / "back")
    assert weights(tmp_path / "back").keys() == tensors.keys()


@pytest.mark.parametrize(
    ("asked", "kind"), [("bf16", torch.bfloat16), ("fp32", torch.float32), ("fp16", torch.float16)]
)
def test_types_are_changed_on_the_way_in_and_out(tmp_path, asked, kind):
    source = save(tmp_path / "hf", "mistral", torch.float32)
    import_model(source, tmp_path / "in", dtype=asked)
    import_model(source, tmp_path / "kept")
    export_model(tmp_path / "in", tmp_path / "one")
    export_model(tmp_path / "kept", tmp_path / "other", dtype=asked)
    expected = {name: tensor.to(kind) for name, tensor in weights(source).items()}
    for folder in ("one", "other"):
        found = weights(tmp_path / folder)
        assert all(torch.equal(found[name], tensor) and found[name].dtype == kind for name, tensor in expected.items())
        assert read_json(tmp_path / folder / "config.json")["torch_dtype"] == str(kind).removeprefix("torch.")


def test_predictions_are_those_of_the_model_before(tmp_path):
    source = save(tmp_path / "hf", "llama")
    back = round_trip(tmp_path, source)
    tokens = torch.arange(40)[None] % VOCABULARY
    with torch.inference_mode():
        before = make_model("llama")(tokens).logits
        after = transformers.AutoModelForCausalLM.from_pretrained(back)(tokens).logits
    assert torch.equal(before, after)
