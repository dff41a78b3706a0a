"""The YAML file that ``megatron-ipt policy`` reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_ipt.config import key, load
from megatron_ipt.research.learning_law.perceptron import PerceptronConfig
from megatron_ipt.research.learning_law.transformer import TransformerConfig


@dataclass
class PolicyConfig:
    name: str = key("policy", "Title of the pictures.")
    output_dir: str = key("runs/${name}", "Folder for the search, its figures and pictures.", affects_output=False)
    model: str = key("perceptron", "What is trained.", choices=("perceptron", "transformer"))
    perceptron: PerceptronConfig = key(PerceptronConfig, "Two classes by a random hyperplane.")
    transformer: TransformerConfig = key(TransformerConfig, "A small language model on sentences.")
    steps: int = key(2000, "Steps of a training run, each on all examples.", minimum=1)
    learning_rate: float = key(0.1, "Learning rate of the training run; constant, plain gradient descent.", minimum=0)
    epochs: int = key(500, "Most training runs of the search for a policy.", minimum=0)
    policy_learning_rate: float = key(
        5e-6, "Length of the first step of the search, along the gradient of the sum of the desired losses.", minimum=0
    )
    adapt: bool = key(
        True,
        "Lengthen the step while the search succeeds, and halve it where it does not. False: constant, as published.",
    )
    tolerance: float = key(
        1e-6, "The search ends when what is left to gain, to first order, is this share of the area.", minimum=0
    )
    keep_every: int | None = key(
        None, "Steps between parameters that are kept. null: square root of steps; 1 keeps all. Results are the same.",
        minimum=1, affects_output=False,
    )  # fmt: skip
    save_minutes: float = key(2.0, "Minutes between saved states of the search.", minimum=0, affects_output=False)
    snapshots: int = key(5, "Policies along the search whose contributions are measured, besides the first.", minimum=1)
    precision: str = key("fp64", "Of the training run.", choices=("fp64", "fp32"))
    seed: int = key(1234, "Seed of data and initial weights.", minimum=0)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.model == "transformer":
            yield from ((f"transformer.{name}", message) for name, message in self.transformer.needed())
        if not self.learning_rate > 0:
            yield "learning_rate", "must be above 0"
        if not self.policy_learning_rate > 0:
            yield "policy_learning_rate", "must be above 0"


def load_policy(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> PolicyConfig:
    """Reads a study and ``key=value`` overrides.

    Raises:
        RecipeError: the file is invalid; lists all problems.
    """
    return load(PolicyConfig, path, overrides)
