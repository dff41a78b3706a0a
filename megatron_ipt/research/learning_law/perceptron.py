"""The perceptron of the paper: two classes by a random hyperplane, training and desired data from different Gaussians.

Labels are the side of a teacher T; the student is a logistic regression. Training inputs come from N(0, 3 I), desired
ones from N(0.5, I) (arXiv:2402.17759, appendix D). All derivatives are written out: the run is thousands of steps of
next to no work each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from megatron_ipt.config import key
from megatron_ipt.research.learning_law.policy import Model
from megatron_ipt.seeding import derive
from megatron_ipt.selection.pds.vectors import Theta

if TYPE_CHECKING:
    import torch

VARIANCE = 3.0
SHIFT = 0.5


@dataclass
class PerceptronConfig:
    width: int = key(128, "Dimensions of the inputs.", minimum=1)
    examples: int = key(4096, "Training examples.", minimum=1)
    desired: int = key(512, "Examples of the desired loss; as many more for the test.", minimum=1)


class Labelled(NamedTuple):
    """Inputs [examples, width] and labels 0 or 1 [examples]."""

    inputs: torch.Tensor
    labels: torch.Tensor


def losses(theta: Theta, batch: Labelled) -> torch.Tensor:
    """Cross-entropy of each label in nats, [examples]."""
    assert not isinstance(theta, dict)
    return _losses_of(batch.inputs @ theta, batch.labels)


def _losses_of(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.nn.functional.softplus(scores) - labels * scores


class PerceptronCalculus:
    """A :class:`~megatron_ipt.selection.pds.problem.Calculus` in closed form; theta is one vector [width]."""

    def __init__(self, desired: Labelled):
        self._desired = desired

    def gradient(self, theta: Any, batch: Labelled, weights: torch.Tensor) -> tuple[torch.Tensor, Any]:
        scores = batch.inputs @ theta
        residuals = scores.sigmoid().sub_(batch.labels)
        return _losses_of(scores, batch.labels), batch.inputs.mT @ (weights.to(theta) * residuals)

    def slopes(self, theta: Any, batch: Labelled, direction: Any) -> torch.Tensor:
        residuals = (batch.inputs @ theta).sigmoid_().sub_(batch.labels)
        return residuals * (batch.inputs @ direction)

    def slopes_and_curvature(
        self, theta: Any, batch: Labelled, weights: torch.Tensor, direction: Any
    ) -> tuple[torch.Tensor, Any]:
        likely = (batch.inputs @ theta).sigmoid_()
        along = batch.inputs @ direction
        curvature = batch.inputs.mT @ (weights.to(theta) * likely * (1 - likely) * along)
        return (likely - batch.labels) * along, curvature

    def target(self, theta: Any) -> tuple[torch.Tensor, Any]:
        count = len(self._desired.labels)
        scores = self._desired.inputs @ theta
        residuals = scores.sigmoid().sub_(self._desired.labels)
        value = _losses_of(scores, self._desired.labels).mean().double()
        return value, self._desired.inputs.mT @ residuals / count


def perceptron(config: PerceptronConfig, learning_rate: float, seed: int, dtype: torch.dtype) -> Model:
    """The problem, drawn from ``seed``."""
    import torch

    draws = torch.Generator().manual_seed(derive(seed, "perceptron"))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draws, dtype=torch.float64)

    teacher = config.width**0.25 * normal(config.width)

    def labelled(inputs: torch.Tensor) -> Labelled:
        return Labelled(inputs.to(dtype), (inputs @ teacher > 0).to(dtype))

    training = labelled(VARIANCE**0.5 * normal(config.examples, config.width))
    desired, test = (labelled(SHIFT + normal(config.desired, config.width)) for _ in range(2))
    start = normal(config.width) * config.width**-0.5
    return Model(
        calculus=PerceptronCalculus(desired),
        test=lambda theta: losses(theta, test).mean().double(),
        start=start.to(dtype),
        batches=[training],
        sizes=[config.examples],
        learning_rate=learning_rate,
        vocabulary=2,
        name="perceptron",
    )
