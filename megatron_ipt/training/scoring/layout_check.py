"""Whether the model of a checkpoint can be laid out as the settings say, found out before any rank starts."""

from __future__ import annotations

from collections.abc import Iterator

from megatron_ipt.errors import RecipeError
from megatron_ipt.inference.config import MegatronConfig
from megatron_ipt.models import divisibility
from megatron_ipt.training.checkpoints.model_file import ModelFile


def check_layout(config: MegatronConfig, model: ModelFile, prefix: str = "") -> None:
    """Checks ``config`` on its own and against the sizes of ``model``.

    Args:
        prefix: what comes before the names of the keys in a recipe, e.g. ``score.megatron.``.

    Raises:
        RecipeError: lists all problems.
    """
    problems = [f"{prefix}{name}: {message}" for name, message in (*config.problems(), *_problems(config, model))]
    if problems:
        raise RecipeError("\n".join(problems))


def _problems(config: MegatronConfig, model: ModelFile) -> Iterator[tuple[str, str]]:
    shape, tensor, stages = model.shape, config.tensor_model_parallel_size, config.pipeline_model_parallel_size
    sizes = {
        "num_attention_heads": shape.num_attention_heads,
        "num_query_groups": shape.num_query_groups,
        "ffn_hidden_size": shape.ffn_hidden_size,
        "padded_vocab_size": model.padded_vocab_size,
    }
    for name, size in sizes.items():
        if size % tensor:
            yield (
                "tensor_model_parallel_size",
                f"{tensor} does not divide the model's {name}={size}; nearest that do: "
                f"{divisibility.divisors(size, tensor)}",
            )
    if shape.num_layers % stages:
        yield (
            "pipeline_model_parallel_size",
            f"{stages} does not divide the model's num_layers={shape.num_layers}; nearest that do: "
            f"{divisibility.divisors(shape.num_layers, stages)}",
        )
    if shape.num_moe_experts and tensor > 1 and not config.sequence_parallel:
        yield "sequence_parallel", "must be true for a model with experts that is tensor parallel"
