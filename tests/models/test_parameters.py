"""Numbers of parameters, against those of published models and of transformers' own."""

from __future__ import annotations

import pytest

from megatron_ipt.models.families import FAMILIES, ModelShape, padded_vocabulary
from megatron_ipt.models.hugging_face_config import TokenIds, hugging_face_config
from megatron_ipt.models.parameters import LayerParameters
from megatron_ipt.models.presets import PRESETS, resolve_shape

PUBLISHED = {
    # preset, vocabulary of the published model: parameters of its safetensors files
    ("llama3_8b", 128256): 8_030_261_248,
    ("llama3.1_8b", 128256): 8_030_261_248,
    ("qwen2.5_1.5b", 151936): 1_543_714_304,
    ("qwen3_0.6b", 151936): 596_049_920,
    ("mixtral_8x7b", 32000): 46_702_792_704,
}
"""As the Hugging Face model pages count them."""


def transformers_count(shape: ModelShape, vocab_size: int) -> int:
    """What transformers counts in a model built from the configuration that is exported; takes no memory."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    keys = hugging_face_config(shape, vocab_size, TokenIds(1, 2, None), "bfloat16")
    keys.pop("torch_dtype")
    config = transformers.AutoConfig.for_model(keys.pop("model_type"), **keys)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return int(model.num_parameters())


@pytest.mark.parametrize(("model", "count"), PUBLISHED.items())
def test_presets_have_the_size_of_the_published_models(model: tuple[str, int], count: int) -> None:
    preset, vocabulary = model
    assert resolve_shape({"preset": preset}).parameters(vocabulary) == count


BOTH = [
    (family, preset)
    for family, row in FAMILIES.items()
    for preset, sizes in PRESETS.items()
    if row.mixture_of_experts == ("num_moe_experts" in sizes)
]


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(("family", "preset"), BOTH)
def test_transformers_counts_the_same(family: str, preset: str, tied: bool) -> None:
    shape = resolve_shape({"preset": preset, "family": family, "untie_embeddings_and_output_weights": not tied})
    assert transformers_count(shape, 1000) == shape.parameters(1000)


def test_unusual_sizes() -> None:
    sizes = {
        "preset": "tiny", "hidden_size": 24, "num_attention_heads": 6, "num_query_groups": 3, "kv_channels": 10,
        "ffn_hidden_size": 50, "num_layers": 3,
    }  # fmt: skip
    for family in ("llama", "qwen2", "qwen3"):
        shape = resolve_shape({**sizes, "family": family})
        assert transformers_count(shape, 77) == shape.parameters(77), family


def test_a_layer_by_the_way_it_is_divided() -> None:
    # Hidden 64, 4 heads and 2 groups of 16 channels, 4 experts of 96.
    layer = resolve_shape({"preset": "tiny_moe"}).parameter_count(512).layer
    attention = 64 * 64 + 2 * 64 * 32 + 64 * 64
    assert layer == LayerParameters(split=attention, experts=4 * 3 * 64 * 96, whole=2 * 64 + 4 * 64)
    # Biases are divided with their rows; norms of queries and keys are on every rank.
    qwen2 = resolve_shape({"preset": "tiny", "family": "qwen2"}).parameter_count(512).layer
    assert qwen2 == LayerParameters(attention + 64 + 2 * 32 + 3 * 64 * 160, 0, 2 * 64)
    qwen3 = resolve_shape({"preset": "tiny", "family": "qwen3"}).parameter_count(512).layer
    assert qwen3 == LayerParameters(attention + 3 * 64 * 160, 0, 2 * 64 + 2 * 16)


def test_active_parameters_are_those_of_the_chosen_experts() -> None:
    shape = resolve_shape({"preset": "mixtral_8x7b"})
    count = shape.parameter_count(32000)
    assert count.total - count.active == 32 * 6 * 3 * 4096 * 14336
    # "13B active parameters" (arXiv:2401.04088).
    assert shape.parameters(32000, active_only=True) == count.active == 12_879_925_248
    dense = resolve_shape({"preset": "tiny"}).parameter_count(512)
    assert dense.active == dense.total


def test_a_tied_output_layer_is_counted_once() -> None:
    tied, untied = (
        resolve_shape({"preset": "tiny", "untie_embeddings_and_output_weights": untie}).parameter_count(512)
        for untie in (False, True)
    )
    assert (tied.output_layer, untied.output_layer) == (0, 512 * 64)
    assert untied.total - tied.total == 512 * 64


def test_vocabulary_padding_is_the_same_for_every_layout() -> None:
    assert [padded_vocabulary(size, 128) for size in (1, 128, 129, 32000)] == [128, 128, 256, 32000]
