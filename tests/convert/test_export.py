"""Export of checkpoints written by torch's own writer: names and shapes of Megatron-Core, any layout of ranks."""

from __future__ import annotations

import argparse
import shutil

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.distributed import checkpoint as torch_checkpoint  # noqa: E402
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata  # noqa: E402

from megatron_ipt.convert.checkpoint.reader import CheckpointReader  # noqa: E402
from megatron_ipt.convert.commands import export_model  # noqa: E402
from megatron_ipt.errors import InputError, RecipeError  # noqa: E402
from megatron_ipt.files import read_json  # noqa: E402
from megatron_ipt.models.families import FAMILIES, ModelShape  # noqa: E402
from megatron_ipt.training.checkpoints.model_file import ModelFile  # noqa: E402

from .models import weights  # noqa: E402

VOCABULARY, PADDED = 50, 64


def model_shape(family="mistral", **sizes):
    values = {
        "num_layers": 2, "hidden_size": 24, "ffn_hidden_size": 40, "num_attention_heads": 4, "num_query_groups": 2,
        "kv_channels": 8, "max_position_embeddings": 32, "rotary_base": 5000.0, "norm_epsilon": 1e-6,
        "untie_embeddings_and_output_weights": True, "init_method_std": 0.02,
        "num_moe_experts": 3 if FAMILIES[family].mixture_of_experts else None,
    }  # fmt: skip
    return ModelShape(family=family, **{**values, **sizes})


def megatron_shapes(shape):
    """Tensor sizes as Megatron-Core has them, written down here independently of the code under test."""
    layers, hidden, ffn = shape.num_layers, shape.hidden_size, shape.ffn_hidden_size
    qkv = (shape.num_attention_heads + 2 * shape.num_query_groups) * shape.kv_channels
    prefix = "decoder.layers."
    sizes = {
        "embedding.word_embeddings.weight": (PADDED, hidden),
        "decoder.final_layernorm.weight": (hidden,),
        f"{prefix}self_attention.linear_qkv.weight": (layers, qkv, hidden),
        f"{prefix}self_attention.linear_qkv.layer_norm_weight": (layers, hidden),
        f"{prefix}self_attention.linear_proj.weight": (layers, hidden, shape.num_attention_heads * shape.kv_channels),
    }
    if shape.num_moe_experts:
        experts = shape.num_moe_experts
        sizes[f"{prefix}pre_mlp_layernorm.weight"] = (layers, hidden)
        sizes[f"{prefix}mlp.router.weight"] = (layers, experts, hidden)
        sizes[f"{prefix}mlp.experts.experts.linear_fc1.weight"] = (layers, experts, 2 * ffn, hidden)
        sizes[f"{prefix}mlp.experts.experts.linear_fc2.weight"] = (layers, experts, hidden, ffn)
    else:
        sizes[f"{prefix}mlp.linear_fc1.layer_norm_weight"] = (layers, hidden)
        sizes[f"{prefix}mlp.linear_fc1.weight"] = (layers, 2 * ffn, hidden)
        sizes[f"{prefix}mlp.linear_fc2.weight"] = (layers, hidden, ffn)
    if shape.untie_embeddings_and_output_weights:
        sizes["output_layer.weight"] = (PADDED, hidden)
    if shape.family == "qwen2":
        sizes[f"{prefix}self_attention.linear_qkv.bias"] = (layers, qkv)
    if shape.family == "qwen3":
        sizes[f"{prefix}self_attention.q_layernorm.weight"] = (layers, shape.kv_channels)
        sizes[f"{prefix}self_attention.k_layernorm.weight"] = (layers, shape.kv_channels)
    return sizes


def write_backend(folder):
    (folder / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')


@pytest.fixture
def checkpoint(tmp_path):
    def make(shape, dtype=torch.float32, change=lambda state: None):
        generator = torch.Generator().manual_seed(0)
        state = {
            name: torch.randn(size, generator=generator).mul(0.1).to(dtype)
            for name, size in megatron_shapes(shape).items()
        }
        state["optimizer.state.exp_avg.x"] = torch.zeros(3)
        state["decoder.layers.self_attention.core_attention._extra_state"] = torch.zeros(1)
        change(state)
        folder = tmp_path / "iter_0000007"
        shutil.rmtree(folder, ignore_errors=True)
        torch_checkpoint.save(state, checkpoint_id=folder, no_dist=True)
        write_backend(folder)
        files = {path.name: path.stat().st_size for path in folder.iterdir() if path.name != "model.json"}
        ModelFile(shape, VOCABULARY, PADDED, "float32", 32, 7, 70, 2240, files).write(folder)
        return folder, state

    return make


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_transformers_loads_every_family_without_a_missing_or_left_over_tensor(checkpoint, tmp_path, family, tied):
    shape = model_shape(family, untie_embeddings_and_output_weights=not tied)
    folder, state = checkpoint(shape)
    counts = export_model(folder, tmp_path / "hf")
    model, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert type(model).__name__.lower() == f"{family}forcausallm"
    assert counts["parameters"] == model.num_parameters() == shape.parameters(VOCABULARY)
    config = model.config
    rope = config.rope_parameters["rope_theta"] if hasattr(config, "rope_parameters") else config.rope_theta
    assert (rope, config.rms_norm_eps, config.tie_word_embeddings) == (5000.0, 1e-6, tied)
    assert torch.equal(model.model.embed_tokens.weight, state["embedding.word_embeddings.weight"][:VOCABULARY])
    found = weights(tmp_path / "hf")
    if family == "mixtral":
        stacked = state["decoder.layers.mlp.experts.experts.linear_fc1.weight"]
        assert torch.equal(found["model.layers.1.block_sparse_moe.experts.2.w3.weight"], stacked[1, 2, 40:])
    else:
        stacked = state["decoder.layers.mlp.linear_fc1.weight"]
        assert torch.equal(found["model.layers.1.mlp.up_proj.weight"], stacked[1, 40:])
    value = state["decoder.layers.self_attention.linear_qkv.weight"][1].reshape(2, 4, 8, 24)[:, 3].reshape(16, 24)
    assert torch.equal(found["model.layers.1.self_attn.v_proj.weight"], value)


def test_llama3_scaling_reaches_transformers(checkpoint, tmp_path):
    shape = model_shape("llama", rope_scaling_factor=8.0, rope_low_freq_factor=2.0, rope_high_freq_factor=5.0,
                        rope_original_max_position_embeddings=16)  # fmt: skip
    folder, _ = checkpoint(shape)
    export_model(folder, tmp_path / "hf")
    rope = transformers.AutoConfig.from_pretrained(tmp_path / "hf").rope_parameters
    assert rope == {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 2.0,
                    "high_freq_factor": 5.0, "original_max_position_embeddings": 16}  # fmt: skip
    written = read_json(tmp_path / "hf/config.json")
    assert written["rope_theta"] == 5000.0 and written["rope_scaling"]["rope_type"] == "llama3"


def test_chunks_of_any_shape_are_put_together(tmp_path):
    """Rows and columns cut as tensor parallelism cuts them, written by torch's own writer."""
    whole = torch.arange(2 * 6 * 8.0).reshape(2, 6, 8)
    state = {f"piece{layer}{row}{column}": whole[layer : layer + 1, row : row + 3, column : column + 4].contiguous()
             for layer in (0, 1) for row in (0, 3) for column in (0, 4)}  # fmt: skip
    torch_checkpoint.save(state, checkpoint_id=tmp_path, no_dist=True)
    _rename_pieces(tmp_path, "w", (2, 6, 8))
    reader = CheckpointReader(tmp_path)
    assert reader.names() == ["w"]
    found = torch.empty(4, 8)
    reader.read_rows("w", (1,), 1, found)
    assert torch.equal(found, whole[1, 1:5])


def _rename_pieces(folder, name, size):
    """Turns tensors ``pieceLRC`` into chunks of one tensor, as ranks would have saved it."""
    import pickle

    from torch.distributed.checkpoint.metadata import MetadataIndex

    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    places, tensor = {}, None
    for index, place in metadata.storage_data.items():
        offsets = torch.Size(map(int, index.fqn.removeprefix("piece")))
        places[MetadataIndex(name, offsets)] = place
        described = metadata.state_dict_metadata[index.fqn]
        tensor = tensor or type(described)(described.properties, torch.Size(size), [])
        tensor.chunks.append(ChunkStorageMetadata(offsets, described.size))
    metadata.state_dict_metadata, metadata.storage_data = {name: tensor}, places
    path.write_bytes(pickle.dumps(metadata))


def test_a_hole_in_a_tensor_is_found(checkpoint, tmp_path):
    import pickle

    folder, _ = checkpoint(model_shape())
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.state_dict_metadata["output_layer.weight"].chunks[0].sizes = torch.Size((40, 24))
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    (folder / "model.json").unlink()
    write_arguments(folder, model_shape())
    with pytest.raises(InputError, match=r"output_layer\.weight .*not"):
        export_model(folder, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def write_arguments(folder, shape, **changes):
    """What Megatron-LM leaves in common.pt, with an object of a class that is not installed here."""
    values = {
        "num_layers": shape.num_layers, "hidden_size": shape.hidden_size, "ffn_hidden_size": shape.ffn_hidden_size,
        "num_attention_heads": 4, "num_query_groups": 2, "group_query_attention": True, "kv_channels": 8,
        "max_position_embeddings": 32, "seq_length": 32, "position_embedding_type": "rope", "rotary_base": 5000,
        "rotary_percent": 1.0, "add_bias_linear": False, "add_qkv_bias": shape.family == "qwen2",
        "qk_layernorm": shape.family == "qwen3", "swiglu": True, "normalization": "RMSNorm", "norm_epsilon": 1e-6,
        "untie_embeddings_and_output_weights": shape.untie_embeddings_and_output_weights, "init_method_std": 0.02,
        "padded_vocab_size": PADDED, "vocab_size": None, "consumed_train_samples": 70,
        "num_experts": shape.num_moe_experts, "params_dtype": torch.bfloat16, "moe_router_topk": 2,
        "attention_backend": argparse.ArgumentDefaultsHelpFormatter, **changes,
    }  # fmt: skip
    torch.save({"args": argparse.Namespace(**values), "iteration": 7, "checkpoint_version": 3.0}, folder / "common.pt")


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mixtral"])
def test_a_checkpoint_of_megatron_lm_describes_itself_by_its_arguments(checkpoint, tmp_path, family):
    shape = model_shape(family)
    folder, _ = checkpoint(shape)
    export_model(folder, tmp_path / "ours")
    (folder / "model.json").unlink()
    write_arguments(folder, shape)
    export_model(folder, tmp_path / "theirs", vocab_size=VOCABULARY)
    assert read_json(tmp_path / "ours/config.json") == read_json(tmp_path / "theirs/config.json")
    assert (tmp_path / "ours/model.safetensors").read_bytes() == (tmp_path / "theirs/model.safetensors").read_bytes()


def test_layers_under_names_of_their_own(checkpoint, tmp_path):
    """As Megatron-LM writes them where layers are not alike."""

    def change(state):
        for name in [name for name in state if name.startswith("decoder.layers.") and "_extra" not in name]:
            for layer, tensor in enumerate(state.pop(name)):
                state[name.replace("layers.", f"layers.{layer}.")] = tensor.clone()

    stacked, _ = checkpoint(model_shape("mixtral"))
    export_model(stacked, tmp_path / "one")
    single, _ = checkpoint(model_shape("mixtral"), change=change)
    export_model(single, tmp_path / "other")
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "other/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("argument", "value"),
    [("normalization", "LayerNorm"), ("swiglu", False), ("add_bias_linear", True), ("rotary_percent", 0.5),
     ("position_embedding_type", "learned_absolute"), ("multi_latent_attention", True), ("softmax_type", "learnable"),
     ("no_rope_freq", 4)],
)  # fmt: skip
def test_what_no_family_has_is_refused_by_name(checkpoint, tmp_path, argument, value):
    folder, _ = checkpoint(model_shape())
    (folder / "model.json").unlink()
    write_arguments(folder, model_shape(), **{argument: value})
    with pytest.raises(InputError, match=f"the model has {argument}={value!r}"):
        export_model(folder, tmp_path / "hf")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 10**9}, r"common\.pt: num_layers: 1000000000 is not a whole number from 1 to 10,000"),
        ({"num_layers": 9000}, r"has shape \[2, .*\], the description of the model says \[9000, "),
        ({"num_attention_heads": 0, "kv_channels": None}, "num_attention_heads: 0 is not a whole number"),
        ({"hidden_size": "24", "kv_channels": None}, "hidden_size: '24' is not a whole number"),
        ({"num_query_groups": 3}, "num_query_groups: 3 does not divide num_attention_heads=4"),
        ({"rotary_base": "5000"}, "rotary_base: '5000' is not a number"),
    ],
)
def test_arguments_that_are_no_sizes_of_a_model(checkpoint, tmp_path, changes, message):
    folder, _ = checkpoint(model_shape())
    (folder / "model.json").unlink()
    write_arguments(folder, model_shape(), **changes)
    with pytest.raises(InputError, match=message):
        export_model(folder, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_megatron_lm_without_arguments(checkpoint, tmp_path):
    folder, _ = checkpoint(model_shape())
    (folder / "model.json").unlink()
    with pytest.raises(InputError, match=r"neither model\.json nor common\.pt"):
        export_model(folder, tmp_path / "hf")
    torch.save({"iteration": 7}, folder / "common.pt")
    with pytest.raises(InputError, match="has no args"):
        export_model(folder, tmp_path / "hf")


def test_nothing_in_a_pickle_is_run(checkpoint, tmp_path):
    import os

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    folder, _ = checkpoint(model_shape())
    (folder / "model.json").unlink()
    write_arguments(folder, model_shape(), evil=Evil())
    export_model(folder, tmp_path / "hf")
    import pickle

    (folder / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="not the metadata of a torch distributed checkpoint"):
        export_model(folder, tmp_path / "other")
    assert not (tmp_path / "run").exists()


def test_missing_and_unexpected_tensors_are_listed(checkpoint, tmp_path):
    def change(state):
        del state["decoder.final_layernorm.weight"]
        state["decoder.layers.mlp.extra.weight"] = torch.zeros(2, 2)

    folder, _ = checkpoint(model_shape(), change=change)
    with pytest.raises(
        InputError, match=r"Missing: decoder\.final_layernorm\.weight. Unexpected: decoder\.layers\.mlp\.extra\.weight"
    ):
        export_model(folder, tmp_path / "hf")


def test_a_checkpoint_of_another_shape_is_refused(checkpoint, tmp_path):
    folder, _ = checkpoint(model_shape())
    described = ModelFile.read(folder)
    ModelFile(**{**described.__dict__, "shape": model_shape(num_layers=3)}).write(folder)
    with pytest.raises(InputError, match=r"has shape \[2, .*\], the description of the model says \[3, "):
        export_model(folder, tmp_path / "hf")


@pytest.mark.parametrize("described", [True, False], ids=["with model.json", "without"])
def test_a_damaged_shard_is_named(checkpoint, tmp_path, described):
    folder, _ = checkpoint(model_shape())
    if not described:
        (folder / "model.json").unlink()
        write_arguments(folder, model_shape())
    shard = max(folder.glob("*.distcp"), key=lambda path: path.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(InputError, match=shard.name):
        export_model(folder, tmp_path / "hf")
    shard.unlink()
    with pytest.raises(InputError, match=f"{shard.name}: missing"):
        export_model(folder, tmp_path / "hf")


def test_bytes_changed_inside_a_shard_do_not_pass_as_a_tensor(checkpoint, tmp_path):
    folder, _ = checkpoint(model_shape())
    shard = max(folder.glob("*.distcp"), key=lambda path: path.stat().st_size)
    content = shard.read_bytes()
    shard.write_bytes(content.replace(b"PK\1\2", b"XX\1\2"))
    with pytest.raises(InputError, match=f"{shard.name}: damaged"):
        export_model(folder, tmp_path / "hf")


@pytest.mark.parametrize("name", [".metadata", "metadata.json"])
def test_a_checkpoint_that_is_being_written_is_not_exported(checkpoint, tmp_path, name):
    folder, _ = checkpoint(model_shape())
    (folder / name).unlink()
    with pytest.raises(InputError, match=r"not a complete distributed checkpoint: .* is missing"):
        export_model(folder, tmp_path / "hf")


def test_the_tracker_decides_what_is_complete(checkpoint, tmp_path):
    folder, _ = checkpoint(model_shape())
    with pytest.raises(InputError, match=r"latest_checkpointed_iteration\.txt is missing; folders there: iter_0000007"):
        export_model(tmp_path, tmp_path / "hf")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("7\n")
    export_model(tmp_path, tmp_path / "hf")
    with pytest.raises(InputError, match=r"iter_0000009 does not exist; checkpoints there: iter_0000007"):
        export_model(tmp_path, tmp_path / "other", iteration=9)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("3")
    export_model(tmp_path, tmp_path / "named", iteration=7)
    # Megatron-LM writes in place and moves its tracker last.
    (folder / "model.json").unlink()
    write_arguments(folder, model_shape())
    with pytest.raises(InputError, match=r"is being written: .* still names iteration 3"):
        export_model(tmp_path, tmp_path / "other", iteration=7)


def test_weights_that_fp16_cannot_hold_are_reported(checkpoint, tmp_path):
    folder, _ = checkpoint(model_shape(), change=lambda state: state["output_layer.weight"][3].fill_(1e6))
    with pytest.raises(InputError, match=r"NaN or infinite: lm_head\.weight \(24\)"):
        export_model(folder, tmp_path / "hf", dtype="fp16")
    export_model(folder, tmp_path / "hf", dtype="bf16")


def test_unknown_types_and_sizes(checkpoint, tmp_path):
    folder, _ = checkpoint(model_shape())
    with pytest.raises(RecipeError, match="--dtype int8: expected one of auto, fp32, bf16, fp16"):
        export_model(folder, tmp_path / "hf", dtype="int8")
    with pytest.raises(RecipeError, match="is not a size"):
        export_model(folder, tmp_path / "hf", max_shard_size="big")
