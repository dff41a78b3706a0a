"""What import refuses, how it says so, and that nothing half-written is left under a final name."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import save_file  # noqa: E402

from megatron_ipt.convert import output_folder  # noqa: E402
from megatron_ipt.convert.checkpoint.reader import CheckpointReader  # noqa: E402
from megatron_ipt.convert.commands import export_model, import_model  # noqa: E402
from megatron_ipt.errors import InputError, StageError, StorageError  # noqa: E402
from megatron_ipt.training.checkpoints.model_file import ModelFile  # noqa: E402

from .models import assert_same_weights, save, weights  # noqa: E402

INDEX = "model.safetensors.index.json"


@pytest.fixture
def source(tmp_path):
    return save(tmp_path / "hf", "llama")


@pytest.fixture
def sharded(tmp_path):
    return save(tmp_path / "hf", "llama", max_shard_size="10KB")


@pytest.fixture
def refused(tmp_path):
    def check(folder, message, error=InputError, **options):
        with pytest.raises(error, match=message):
            import_model(folder, tmp_path / "checkpoints", **options)
        assert not (tmp_path / "checkpoints/release").exists()
        assert not (tmp_path / "checkpoints/latest_checkpointed_iteration.txt").exists()

    return check


def change_config(folder, **changes):
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in config.items() if value != "delete"}))


def change_weights(folder, change):
    tensors = weights(folder)
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_what_an_import_leaves(source, tmp_path):
    result = import_model(source, tmp_path / "checkpoints")
    folder = tmp_path / "checkpoints/release"
    assert (tmp_path / "checkpoints/latest_checkpointed_iteration.txt").read_text() == "release"
    names = {path.name for path in folder.iterdir()}
    assert {".metadata", "metadata.json", "common.pt", "model.json", "__0_0.distcp", "__0_1.distcp"} <= names
    assert not [name for name in names if name.endswith((".done.json", ".tmp", ".lock"))]
    described = ModelFile.read(folder)
    assert described.files.keys() == described.checksums.keys() == names - {"model.json"}
    assert (described.iteration, described.consumed_tokens, described.seq_length) == (0, 0, 64)
    assert result["parameters"] == described.shape.parameters(50)


def test_arguments_are_those_that_megatron_lm_takes_from_a_checkpoint(source, tmp_path):
    from argparse import Namespace

    import_model(source, tmp_path / "checkpoints")
    # For good, as Megatron-Core does it: leaving a context would take its registration back.
    torch.serialization.add_safe_globals([Namespace])
    common = torch.load(tmp_path / "checkpoints/release/common.pt", weights_only=True)
    arguments = common["args"]
    assert (common["iteration"], common["checkpoint_version"]) == (0, 3.0)
    assert (arguments.num_layers, arguments.num_query_groups, arguments.group_query_attention) == (2, 2, True)
    assert (arguments.swiglu, arguments.normalization, arguments.position_embedding_type) == (True, "RMSNorm", "rope")
    assert (arguments.rotary_base, arguments.use_rope_scaling, arguments.rope_scaling_factor) == (5000, True, 8.0)
    assert (arguments.padded_vocab_size, arguments.untie_embeddings_and_output_weights) == (128, True)


def test_torch_reads_the_chunks_and_their_metadata(source, tmp_path):
    """With torch's own reader, which Megatron-Core uses."""
    from torch.distributed import checkpoint as torch_checkpoint

    import_model(source, tmp_path / "checkpoints")
    shapes = {"decoder.layers.mlp.linear_fc1.weight": (2, 80, 24), "embedding.word_embeddings.weight": (128, 24)}
    state = {name: torch.empty(shape) for name, shape in shapes.items()}
    torch_checkpoint.load(state, checkpoint_id=tmp_path / "checkpoints/release", no_dist=True)
    tensors = weights(source)
    up = tensors["model.layers.1.mlp.up_proj.weight"]
    assert torch.equal(state["decoder.layers.mlp.linear_fc1.weight"][1, 40:], up)
    assert torch.equal(state["embedding.word_embeddings.weight"][:50], tensors["model.embed_tokens.weight"])


def test_no_such_folder(tmp_path, refused):
    refused(tmp_path / "nowhere", "no such folder")


def test_a_folder_without_weights(source, refused):
    (source / "model.safetensors").unlink()
    refused(source, r"contains no weights; expected one of model\.safetensors, .*; found config\.json")


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_safetensors(source, refused, kept):
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(source, r"model\.safetensors: (truncated|not a safetensors file)")


def test_bytes_behind_the_end(source, refused):
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"more")
    refused(source, "damaged: .* bytes, its header describes")


def test_a_header_that_is_no_header(source, refused):
    (source / "model.safetensors").write_bytes(b"<html>not found</html>")
    refused(source, "not a safetensors file")
    (source / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"[]")
    refused(source, "its header is not an object")


def test_a_missing_shard(sharded, refused):
    next(sharded.glob("model-00002-*")).unlink()
    refused(sharded, r"model-00002-of-\d+\.safetensors: missing; model\.safetensors\.index\.json names it")


def test_a_wrong_index(sharded, refused):
    index = json.loads((sharded / INDEX).read_text())
    names = sorted(set(index["weight_map"].values()))
    index["weight_map"]["model.norm.weight"] = next(
        name for name in names if name != index["weight_map"]["model.norm.weight"]
    )
    (sharded / INDEX).write_text(json.dumps(index))
    refused(sharded, r"(lacks|contains) model\.norm\.weight")


@pytest.mark.parametrize("text", ["{}", "[1]", "not json"])
def test_an_index_that_is_none(sharded, refused, text):
    (sharded / INDEX).write_text(text)
    refused(sharded, "not an index of weights|not valid JSON")


def test_an_index_that_leads_out_of_the_folder(sharded, refused):
    (sharded / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": "../secret.safetensors"}}))
    refused(sharded, "which is not a file in the folder of the model")


def test_missing_and_extra_tensors_are_listed(source, refused):
    def change(tensors):
        del tensors["model.norm.weight"]
        tensors["model.extra.weight"] = torch.zeros(2)

    change_weights(source, change)
    refused(source, r"Missing: model\.norm\.weight\. Unexpected: model\.extra\.weight")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intermediate_size": 48}, r"gate_proj\.weight has shape \[40, 24\], config\.json says \[48, 24\]"),
        ({"vocab_size": 60}, r"embed_tokens\.weight has shape \[50, 24\], config\.json says \[60, 24\]"),
        ({"num_key_value_heads": 4}, r"k_proj\.weight has shape \[16, 24\], config\.json says \[32, 24\]"),
        ({"num_hidden_layers": 3}, r"Missing: model\.layers\.2\."),
        ({"num_hidden_layers": 1}, r"Unexpected: model\.layers\.1\."),
        (
            {"num_hidden_layers": 9000},
            r"config\.json: describes 9,000 layers, 81,003 tensors in all, .* has 21:",
        ),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: 1000000000 is not a whole number from 1 to 10,000"),
        ({"hidden_size": 10**12}, "hidden_size: 1000000000000 is not a whole number from 1 to 16,777,216"),
        ({"num_attention_heads": 60000, "num_key_value_heads": 60000}, r"q_proj\.weight has shape \[32, 24\]"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: 3 does not divide num_attention_heads=4"),
        ({"tie_word_embeddings": True}, r"ties the output layer to the embedding, but lm_head\.weight is another"),
        ({"model_type": "gpt2"}, "'gpt2' is not supported; supported: mistral, llama, qwen2, qwen3, mixtral"),
        ({"model_type": "qwen2"}, r"Missing: .*q_proj\.bias"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
        ({"attention_bias": True}, "attention_bias=True is not supported"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "'yarn' is not supported"),
        ({"rms_norm_eps": "delete"}, "key rms_norm_eps is missing"),
        ({"hidden_size": "delete"}, "key hidden_size is missing"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantization_config: the weights are quantized \(gptq\)"),
        ({"quantization_config": "gptq"}, r"quantized \(gptq\)"),
    ],
)
def test_a_configuration_that_contradicts_the_weights_or_is_not_supported(source, refused, changes, message):
    change_config(source, **changes)
    refused(source, message)


def test_weights_of_another_type(source, refused):
    change_weights(source, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(24, dtype=torch.int8)}))
    refused(source, r"model\.norm\.weight has type int8; supported: float32, bfloat16, float16")


def test_a_mixture_of_types_needs_a_choice(source, refused, tmp_path):
    name = "model.layers.1.self_attn.k_proj.weight"
    change_weights(source, lambda tensors: tensors.update({name: tensors[name].bfloat16()}))
    refused(source, r"k_proj\.weight is bfloat16, but other parts .* are float32; choose one type with --dtype")
    import_model(source, tmp_path / "other", dtype="fp32")


def test_weights_that_are_no_numbers_are_reported(source, refused, tmp_path, caplog):
    def change(tensors):
        tensors["model.layers.1.mlp.down_proj.weight"][3, 1:3] = float("nan")
        tensors["model.layers.0.self_attn.v_proj.weight"][15, 5] = float("-inf")

    change_weights(source, change)
    expected = (
        r"weights are NaN or infinite: model\.layers\.0\.self_attn\.v_proj\.weight \(1\), "
        r"model\.layers\.1\.mlp\.down_proj\.weight \(2\)"
    )
    refused(source, expected)
    result = import_model(source, tmp_path / "checkpoints", allow_not_finite=True)
    assert sum(result["not_finite"].values()) == 3
    assert "weights are NaN or infinite" in caplog.text
    export_model(tmp_path / "checkpoints", tmp_path / "back", allow_not_finite=True)
    before, after = weights(source), weights(tmp_path / "back")
    assert all(torch.equal(before[name].view(torch.int32), after[name].view(torch.int32)) for name in before)


def test_a_tokenizer_larger_than_the_embedding(source, refused):
    tokenizer = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 49}}, "added_tokens": [{"id": 50, "content": "<x>"}]}
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(source, r"tokenizer\.json: has a token with id 50, the embedding has 50 rows")


def test_no_code_of_the_folder_is_run(source, tmp_path):
    change_config(source, auto_map={"AutoModelForCausalLM": "modeling.Evil"})
    (source / "modeling.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    import_model(source, tmp_path / "checkpoints")
    assert not (tmp_path / "run").exists()


def test_no_pickle_of_the_folder_is_run(source, tmp_path, refused):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    tensors = weights(source)
    (source / "model.safetensors").unlink()
    torch.save({**tensors, "evil": Evil()}, source / "pytorch_model.bin")
    import_model(source, tmp_path / "checkpoints")
    shutil.rmtree(tmp_path / "checkpoints")
    torch.save(Evil(), source / "pytorch_model.bin")
    refused(source, "not a dictionary of weights")
    torch.save(tensors, source / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    refused(source, r"not a file of torch\.save since version 1\.6")
    assert not (tmp_path / "run").exists()


def test_a_target_that_exists(source, tmp_path):
    import_model(source, tmp_path / "checkpoints")
    with pytest.raises(StageError, match=r"release: exists already; .*--overwrite"):
        import_model(source, tmp_path / "checkpoints")
    import_model(source, tmp_path / "checkpoints", overwrite=True)
    export_model(tmp_path / "checkpoints", tmp_path / "back")
    with pytest.raises(StageError, match="back: exists already"):
        export_model(tmp_path / "checkpoints", tmp_path / "back")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "checkpoints", "hf"]


def test_a_folder_of_another_training_is_left_alone(source, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/latest_checkpointed_iteration.txt").write_text("100")
    with pytest.raises(InputError, match="contains the checkpoints of a training"):
        import_model(source, tmp_path / "checkpoints")


def test_a_disk_that_is_too_small_is_seen_before_anything_is_written(source, refused, monkeypatch):
    usage = shutil._ntuple_diskusage(10**9, 10**9, 5000)
    monkeypatch.setattr(output_folder.shutil, "disk_usage", lambda path: usage)
    refused(source, "needs 1 MB, 0 MB are free on that disk", StorageError)


@pytest.mark.parametrize("kind", ["import", "export"])
def test_a_disk_that_fills_up(source, tmp_path, monkeypatch, kind):
    import_model(source, tmp_path / "kept")
    written = 0

    def pwrite(descriptor, data, position):
        nonlocal written
        written += len(data)
        if written > 20_000:
            raise OSError(28, "No space left on device")
        return original(descriptor, data, position)

    original = os.pwrite
    monkeypatch.setattr(output_folder.os, "pwrite", pwrite)
    with pytest.raises(StorageError, match="No space left on device"):
        _convert(kind, source, tmp_path)
    assert not (tmp_path / "target/release").exists() and not (tmp_path / "back").exists()
    monkeypatch.undo()
    _convert(kind, source, tmp_path)
    if kind == "export":
        assert_same_weights(source, tmp_path / "back")


def _convert(kind, source, tmp_path):
    if kind == "import":
        import_model(source, tmp_path / "target")
    else:
        export_model(tmp_path / "kept", tmp_path / "back", max_shard_size="10KB")


def test_an_attempt_that_was_ended_is_continued(source, tmp_path, monkeypatch):
    finished = []
    original = output_folder._File.finish

    def finish(file):
        if len(finished) == 2:
            raise KeyboardInterrupt
        finished.append(file._path.name)
        return original(file)

    monkeypatch.setattr(output_folder._File, "finish", finish)
    with pytest.raises(KeyboardInterrupt):
        import_model(source, tmp_path / "checkpoints")
    partial = tmp_path / "checkpoints/.release.partial"
    times = {name: (partial / name).stat().st_mtime_ns for name in finished}
    assert len(times) == 2
    monkeypatch.undo()
    import_model(source, tmp_path / "checkpoints")
    release = tmp_path / "checkpoints/release"
    assert {name: (release / name).stat().st_mtime_ns for name in finished} == times
    assert not partial.exists()
    export_model(tmp_path / "checkpoints", tmp_path / "back")
    assert_same_weights(source, tmp_path / "back")


def test_what_was_begun_from_other_weights_is_not_continued(source, tmp_path, monkeypatch):
    monkeypatch.setattr(output_folder, "put_in_place", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        import_model(source, tmp_path / "checkpoints")
    monkeypatch.undo()
    change_weights(source, lambda tensors: tensors["model.norm.weight"].fill_(7))
    import_model(source, tmp_path / "checkpoints")
    norm = torch.empty(24)
    CheckpointReader(tmp_path / "checkpoints/release").read_rows("decoder.final_layernorm.weight", (), 0, norm)
    assert (norm == 7).all()


PROGRAM = """
import sys, time
from megatron_ipt.convert import importer
from megatron_ipt.convert import output_folder
read = importer.not_finite
importer.not_finite = lambda values: (time.sleep(0.05), read(values))[1]
from megatron_ipt.convert.commands import import_model
import_model(sys.argv[1], sys.argv[2], workers=1)
"""


def test_killed_in_the_middle_and_run_again(source, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(source), str(tmp_path / "checkpoints")])
    partial = tmp_path / "checkpoints/.release.partial"
    deadline = time.monotonic() + 60
    while not list(partial.glob("*.distcp")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(StageError, match=r"process \d+ on .* is working on it"):
        import_model(source, tmp_path / "checkpoints")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "checkpoints/release").exists()
    import_model(source, tmp_path / "checkpoints")
    export_model(tmp_path / "checkpoints", tmp_path / "back")
    assert_same_weights(source, tmp_path / "back")
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "latest_checkpointed_iteration.txt", "release"
    ]  # fmt: skip
