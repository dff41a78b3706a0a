"""Which precisions this machine supports. What it does not support is rejected with a clear error, never replaced.

The table of FP8 recipes has the requirements in the sources of Megatron-Core and Transformer Engine. Without a GPU or
Transformer Engine, Megatron-Core would silently ignore FP8.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from typing import Any

from megatron_ipt.errors import RecipeError
from megatron_ipt.training.config import Fp8Config, TrainingConfig


@dataclass(frozen=True)
class Fp8Recipe:
    """What an FP8 recipe needs.

    Attributes:
        capability: minimum CUDA compute capability.
        engine: minimum version of Transformer Engine.
        scaling: what shares a scaling factor.
    """

    capability: tuple[int, int]
    engine: tuple[int, int]
    scaling: str


FP8_RECIPES = {
    "delayed": Fp8Recipe((8, 9), (1, 0), "a tensor, from the largest values of earlier steps"),
    "tensorwise": Fp8Recipe((8, 9), (2, 2), "a tensor, from its own largest value"),
    "blockwise": Fp8Recipe((9, 0), (2, 3), "a block of 128 x 128 weights or 1 x 128 activations"),
    "mxfp8": Fp8Recipe((10, 0), (2, 1), "32 values that follow each other"),
}


@functools.cache
def have_transformer_engine() -> bool:
    return importlib.util.find_spec("transformer_engine") is not None


@functools.cache
def transformer_engine_version() -> tuple[int, int]:
    """(major, minor) of the installed Transformer Engine."""
    for name in ("transformer-engine", "transformer_engine"):
        try:
            numbers = re.findall(r"\d+", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
        return int(numbers[0]), int(numbers[1])
    import transformer_engine

    numbers = re.findall(r"\d+", transformer_engine.__version__)
    return int(numbers[0]), int(numbers[1])


def foreign_apex() -> str | None:
    """The version of an installed ``apex`` that is not NVIDIA's: the one on PyPI is a web toolkit of the same name."""
    specification = importlib.util.find_spec("apex")
    if specification is None:
        return None
    places = list(specification.submodule_search_locations or [])
    if places and importlib.util.find_spec("amp_C") is not None:
        return None
    try:
        return importlib.metadata.version("apex")
    except importlib.metadata.PackageNotFoundError:
        return None


def resolve_precision(requested: str, fp8: Fp8Config) -> str:
    """``fp32``, ``bf16`` or ``fp8`` for this machine.

    Raises:
        RecipeError: FP8 is requested but not supported here.
    """
    import torch

    if requested == "auto":
        return "bf16" if torch.cuda.is_available() else "fp32"
    if requested != "fp8":
        return requested
    if not torch.cuda.is_available():
        raise RecipeError("training.precision: fp8 needs a GPU, and there is none; use bf16 or fp32")
    if not have_transformer_engine():
        raise RecipeError(
            "training.precision: fp8 needs Transformer Engine, which is not installed; "
            "install transformer-engine or use bf16"
        )
    reason = why_not(fp8.recipe, torch.cuda.get_device_capability(), transformer_engine_version())
    if reason:
        raise RecipeError(f"training.fp8.recipe: {reason}; use another recipe or bf16")
    return "fp8"


def why_not(recipe: str, capability: tuple[int, int], engine: tuple[int, int]) -> str | None:
    """Why ``recipe`` cannot run on a GPU of ``capability`` with this Transformer Engine; None if it can."""
    needs = FP8_RECIPES[recipe]
    if capability < needs.capability:
        return (
            f"{recipe} needs compute capability {needs.capability[0]}.{needs.capability[1]}, this GPU has "
            f"{capability[0]}.{capability[1]}"
        )
    if engine < needs.engine:
        return (
            f"{recipe} needs Transformer Engine {needs.engine[0]}.{needs.engine[1]}, installed is "
            f"{engine[0]}.{engine[1]}"
        )
    return None


def refuse_what_needs_a_gpu(config: TrainingConfig) -> None:
    """Rejects settings that are not supported on CPU, or without Transformer Engine.

    Raises:
        RecipeError: for the first such setting.
    """
    import torch

    if torch.cuda.is_available() and have_transformer_engine():
        return
    if config.recompute.granularity == "selective" and "layernorm" in config.recompute.modules:
        raise RecipeError(
            "training.recompute.modules: layernorm needs a GPU with Transformer Engine; remove it from the list"
        )
    if config.model.attention == "transformer_engine":
        raise RecipeError("training.model.attention: transformer_engine needs a GPU with Transformer Engine; use torch")
    if torch.cuda.is_available():
        return
    if config.parallel.tensor_model_parallel_size > 1 and config.model.shape().num_moe_experts:
        raise RecipeError(
            "training.parallel.tensor_model_parallel_size: experts under tensor parallelism exchange unequal parts, "
            "which gloo does not support; use a GPU, or only expert_model_parallel_size"
        )
    if config.optimizer.offload_fraction:
        raise RecipeError(
            "training.optimizer.offload_fraction: moves optimizer state from a GPU to the host, and there is no GPU; "
            "set it to 0"
        )


def fp8_options(fp8: Fp8Config) -> dict[str, Any]:
    """The FP8 options of Megatron-Core's ``TransformerConfig``."""
    return {
        "fp8": fp8.format,
        "fp8_recipe": fp8.recipe,
        "fp8_param": fp8.fp8_param,
        "fp8_amax_history_len": fp8.amax_history_len,
        "fp8_amax_compute_algo": "max",
        "first_last_layers_bf16": fp8.first_last_layers_bf16,
        "num_layers_at_start_in_bf16": fp8.num_layers_at_start_in_bf16,
        "num_layers_at_end_in_bf16": fp8.num_layers_at_end_in_bf16,
    }
