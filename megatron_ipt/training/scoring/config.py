"""Settings of scoring with a Megatron-Core checkpoint, and whether a checkpoint can be laid out as they say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from megatron_ipt.config import key
from megatron_ipt.errors import RecipeError
from megatron_ipt.models import divisibility
from megatron_ipt.training.checkpoints.model_file import ModelFile


@dataclass
class MegatronConfig:
    """How a checkpoint is loaded to score texts. The layout is independent of the one it was trained with."""

    precision: str = key(
        "auto",
        "Arithmetic of the forward pass; auto is bf16 on a GPU and fp32 on a CPU. Log-probabilities are always fp32.",
        choices=("auto", "fp32", "bf16"),
    )
    tensor_model_parallel_size: int = key(1, "Ranks that share each layer.", minimum=1, affects_output=False)
    pipeline_model_parallel_size: int = key(1, "Ranks that hold successive layers.", minimum=1, affects_output=False)
    sequence_parallel: bool = key(
        False, "Split norms and residuals along the sequence over the tensor-parallel ranks.", affects_output=False
    )
    nproc: int | None = key(
        None,
        "Ranks started on this machine; empty for as many as hold one copy of the model. Further ranks hold further "
        "copies, each of which scores other texts.",
        minimum=1,
        affects_output=False,
    )
    batch_tokens: int = key(
        8192, "Maximum tokens of one forward pass, padding included; a longer text goes alone.", minimum=1,
        affects_output=False,
    )  # fmt: skip
    distributed_timeout_minutes: float = key(
        30, "Minutes that ranks may take to start, or wait for each other, before giving up.", minimum=0.1,
        affects_output=False,
    )  # fmt: skip

    def ranks_per_copy(self) -> int:
        """Ranks that hold one copy of the model."""
        return self.tensor_model_parallel_size * self.pipeline_model_parallel_size

    def ranks(self) -> int:
        """Ranks to start."""
        return self.nproc or self.ranks_per_copy()

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.ranks() % self.ranks_per_copy():
            yield (
                "nproc",
                f"{self.ranks()} ranks cannot be divided into groups of tensor_model_parallel_size="
                f"{self.tensor_model_parallel_size} x pipeline_model_parallel_size={self.pipeline_model_parallel_size};"
                f" nearest that can: {divisibility.multiples(self.ranks(), self.ranks_per_copy())}",
            )
        if self.sequence_parallel and self.tensor_model_parallel_size == 1:
            yield "sequence_parallel", "needs tensor_model_parallel_size of 2 or more"


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
