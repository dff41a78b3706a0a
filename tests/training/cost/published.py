"""Published training runs that the planner is compared with, and their sources."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_ipt.models.families import ModelShape
from megatron_ipt.models.presets import resolve_shape
from megatron_ipt.training.cost.arrangement import Arrangement


@dataclass(frozen=True)
class Run:
    """A published run: ``figure`` is tokens/s a GPU, or TFLOP/s a GPU as its source counts them."""

    name: str
    shape: ModelShape
    vocabulary: int
    seq_length: int
    arrangement: Arrangement
    precision: str
    gpu: str
    figure: float
    flops_of_step: float | None = None


def _gpt(layers: int, hidden: int, heads: int) -> ModelShape:
    """GPT-3's block in terms of a gated one: FFN of 8/3 h has the parameters of two matrices of 4 h."""
    return resolve_shape(
        {
            "preset": "small", "family": "llama", "num_layers": layers, "hidden_size": hidden,
            "ffn_hidden_size": round(8 * hidden / 3), "num_attention_heads": heads, "num_query_groups": heads,
            "kv_channels": hidden // heads, "max_position_embeddings": 2048,
            "untie_embeddings_and_output_weights": False,
        }
    )  # fmt: skip


def _llama(layers: int, hidden: int, ffn: int, heads: int, groups: int, seq: int) -> ModelShape:
    return resolve_shape(
        {
            "preset": "small", "family": "llama", "num_layers": layers, "hidden_size": hidden, "ffn_hidden_size": ffn,
            "num_attention_heads": heads, "num_query_groups": groups, "max_position_embeddings": seq,
        }
    )  # fmt: skip


def _narayanan() -> list[Run]:
    """Table 1 of arXiv:2104.04473: A100 80GB, sequences of 2048, full recomputation, TFLOP/s by their equation 3."""
    rows = [
        # layers, hidden, heads, TP, PP, GPUs, batch, micro-batch, TFLOP/s
        (24, 2304, 24, 1, 1, 32, 512, 4, 137),
        (30, 3072, 32, 2, 1, 64, 512, 4, 138),
        (36, 4096, 32, 4, 1, 128, 512, 4, 142),
        (40, 6144, 48, 8, 1, 256, 1024, 4, 135),
        (48, 8192, 64, 8, 2, 512, 1536, 2, 138),
        (60, 10240, 80, 8, 4, 1024, 1792, 1, 140),
        (80, 12288, 96, 8, 8, 1536, 2304, 1, 148),
        (96, 16384, 128, 8, 16, 1920, 2160, 1, 155),
        (105, 20480, 128, 8, 35, 2520, 2520, 1, 163),
        (128, 25600, 160, 8, 64, 3072, 3072, 1, 163),
    ]
    runs = []
    for layers, hidden, heads, tensor, pipeline, gpus, batch, micro, figure in rows:
        vocabulary, seq = 51200, 2048
        flops = 96 * batch * seq * layers * hidden**2 * (1 + seq / (6 * hidden) + vocabulary / (16 * layers * hidden))
        runs.append(
            Run(
                f"GPT {layers}x{hidden} on {gpus}", _gpt(layers, hidden, heads), vocabulary, seq,
                Arrangement(
                    tensor, pipeline, gpus // tensor // pipeline, micro, batch, recompute="full",
                    sequence_parallel=False, distributed_optimizer=False, overlap=False,
                ),
                "bf16", "a100", figure, flops,
            )
        )  # fmt: skip
    return runs


def _nemo() -> list[Run]:
    """NeMo 24.07 performance benchmarks (NVIDIA/NeMo, docs): DGX-H100, FP8, tokens/s a GPU."""
    llama2, llama3 = 32000, 128256
    rows = [
        ("GPT3-5B", _gpt(24, 4096, 32), 51200, 2048, 64, 2048, 4, 1, 1, 1, 1, 23574),
        ("GPT3-20B", _gpt(44, 6144, 48), 51200, 2048, 64, 256, 2, 2, 1, 1, 1, 5894),
        ("GPT3-175B", _gpt(96, 12288, 96), 51200, 2048, 128, 256, 1, 4, 8, 1, 6, 745),
        ("GPT3-175B", _gpt(96, 12288, 96), 51200, 2048, 512, 2048, 2, 4, 8, 1, 6, 832),
        ("LLAMA2-7B", _llama(32, 4096, 11008, 32, 32, 4096), llama2, 4096, 8, 128, 1, 1, 1, 1, 1, 16634),
        ("LLAMA2-13B", _llama(40, 5120, 13824, 40, 40, 4096), llama2, 4096, 16, 128, 1, 1, 4, 1, 10, 8715),
        ("LLAMA2-70B", _llama(80, 8192, 28672, 64, 8, 4096), llama2, 4096, 64, 128, 1, 4, 4, 1, 20, 1717),
        ("LLAMA3-8B", _llama(32, 4096, 14336, 32, 8, 8192), llama3, 8192, 8, 128, 1, 1, 1, 2, 1, 11883),
        ("LLAMA3-70B", _llama(80, 8192, 28672, 64, 8, 8192), llama3, 8192, 64, 128, 1, 4, 4, 2, 5, 1549),
    ]
    runs = []
    for name, shape, vocabulary, seq, gpus, batch, micro, tensor, pipeline, context, virtual, figure in rows:
        data = gpus // (tensor * pipeline * context)
        arrangement = Arrangement(tensor, pipeline, data, micro, batch, context=context, virtual=virtual)
        runs.append(
            Run(f"{name} on {gpus}", shape, vocabulary, seq, arrangement, "fp8", "h100", figure)
        )  # fmt: skip
    return runs


def _llama3_405b() -> list[Run]:
    """Table 4 of "The Llama 3 Herd of Models" (arXiv:2407.21783): bf16, 16M tokens a step, model TFLOP/s a GPU."""
    shape = _llama(126, 16384, 53248, 128, 8, 8192)
    runs = []
    for gpus, data, figure in ((8192, 64, 430), (16384, 128, 400)):
        arrangement = Arrangement(8, 16, data, 1, 2048, virtual=8)
        runs.append(Run(f"Llama 3 405B on {gpus}", shape, 128256, 8192, arrangement, "bf16", "h100", figure))
    return runs


NARAYANAN = _narayanan()
NEMO = _nemo()
LLAMA3_405B = _llama3_405b()
