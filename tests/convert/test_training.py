"""Conversions against Megatron-Core itself: what it loads, predicts and trains from, under more than one layout."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("megatron.core", reason="training needs Megatron-Core")
pytestmark = pytest.mark.slow

from megatron_ipt.config import load  # noqa: E402
from megatron_ipt.convert.commands import export_model, import_model  # noqa: E402
from megatron_ipt.convert.verify import verify  # noqa: E402
from megatron_ipt.errors import StageError  # noqa: E402
from megatron_ipt.files import read_json, write_json  # noqa: E402
from megatron_ipt.training.checkpoints.model_file import ModelFile  # noqa: E402
from megatron_ipt.training.config import TrainingConfig  # noqa: E402
from megatron_ipt.training.loop.metrics import read_metrics  # noqa: E402

from ..training.conftest import context, documents, write_tokens  # noqa: E402
from .models import save, weights  # noqa: E402

SEQUENCE, BATCH = 32, 8
SIZES = {
    "vocab_size": 500, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.02,
}  # fmt: skip


def train(directory: Path, tokens: Path, *overrides: str) -> Path:
    from megatron_ipt.training.stage import run

    config = load(
        TrainingConfig,
        None,
        [f"data.seq_length={SEQUENCE}", "micro_batch_size=2", f"global_batch_size={BATCH}", *overrides],
    )
    run(config, context(directory, tokens))
    return directory


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "mixtral"])
def test_both_models_predict_the_same(tmp_path, family):
    source = save(tmp_path / "hf", family, initializer_range=0.1, tie_word_embeddings=family == "qwen2")
    result = import_model(source, tmp_path / "checkpoints", verify=True)["verified"]
    assert result["max_abs_difference"] < 1e-5
    assert result["argmax_agreement"] == 1
    assert len(result["layers"]) == 2 and max(result["layers"]) < 1e-5


def test_a_wrong_configuration_is_found_with_the_layer_where_it_begins(tmp_path):
    source = save(tmp_path / "hf", "llama", initializer_range=0.2)
    import_model(source, tmp_path / "checkpoints")
    config = read_json(source / "config.json")
    write_json(source / "config.json", {**config, "rms_norm_eps": 0.1})
    with pytest.raises(StageError, match=r"same tensors but predict differently: .* they differ starting with layer 0"):
        verify(tmp_path / "checkpoints/release", source)


def test_what_ranks_trained_in_parallel_is_exported_like_what_one_rank_has(tmp_path):
    """Two tensor times two pipeline ranks train; one rank takes the checkpoint up and saves it as it is."""
    tokens = write_tokens(tmp_path / "tokens", [documents(60, 1)], {})
    model = ("model.preset=tiny", "model.num_layers=4", "validation.eval_iters=0", "checkpoint.save_interval=2")
    parallel = ("parallel.tensor_model_parallel_size=2", "parallel.pipeline_model_parallel_size=2")
    trained = train(tmp_path / "trained", tokens, *model, *parallel, "steps=2")
    one = train(
        tmp_path / "one", tokens, *model, f"initial_checkpoint={trained}/checkpoints", "optimizer.lr=0", "steps=1"
    )
    export_model(trained / "checkpoints", tmp_path / "parallel")
    export_model(one / "checkpoints", tmp_path / "single")
    first, second = weights(tmp_path / "parallel"), weights(tmp_path / "single")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len(list((trained / "checkpoints/iter_0000002").glob("*.distcp"))) > 2


@pytest.mark.parametrize("layout", [(), ("parallel.tensor_model_parallel_size=2",)], ids=["one rank", "two ranks"])
def test_continual_pre_training_starts_at_the_loss_of_transformers(tmp_path, layout):
    source = save(tmp_path / "hf", "llama", **SIZES, max_shard_size="100KB")
    import_model(source, tmp_path / "checkpoints")
    # A period of one sequence: every sample of the data is the same, whichever come first.
    period = [token for document in documents(20, 5) for token in document][:SEQUENCE]
    tokens = write_tokens(tmp_path / "tokens", [[period * 64]], {})
    directory = train(
        tmp_path / "training", tokens, f"model.from_hf={source}/config.json",
        f"initial_checkpoint={tmp_path}/checkpoints/release", "steps=1", *layout,
    )  # fmt: skip
    (first,) = (record["loss"] for record in read_metrics(directory / "metrics.jsonl") if record.get("step") == 1)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([period])).logits
    targets = torch.tensor([*period[1:], period[0]])
    expected = torch.nn.functional.cross_entropy(logits[0], targets).item()
    assert first == pytest.approx(expected, abs=1e-5)
    assert ModelFile.read(directory / "checkpoints/iter_0000001").shape.rope_scaling_factor == 8.0
