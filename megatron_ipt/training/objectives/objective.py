"""The interface of an objective: one term of the loss of a training run.

An objective turns the model's outputs for a micro-batch into a sum over whatever it counts, and names further figures
to log. Sums, counts and figures are added up over micro-batches and ranks, and only then divided: every count weighs
the same, wherever it lies. The count is asked for separately, because it follows from the batch alone: the gradient of
each term can thus be normalized by the count of the whole global batch before the first backward pass.

Under tensor parallelism, each rank of the group computes the same sum from its own part of the vocabulary, and its
gradient is that of its own part. Under context parallelism each rank has a part of every sequence. Under pipeline
parallelism only the last stage has outputs.

Importing this module does not import torch, so a recipe can be checked without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from megatron_ipt.models.families import ModelShape
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.ranks.layout import Layout

if TYPE_CHECKING:
    import torch

TOKEN_LOSSES = "token_losses"
LOGITS = "logits"

Batch = dict[str, "torch.Tensor"]
"""Tensors of one micro-batch on this rank by name, each [batch, seq]; see :meth:`Objective.loss`."""
MetricSums = dict[str, tuple["torch.Tensor", "torch.Tensor"]]
"""(sum, count) of each metric, scalars."""


@dataclass(frozen=True)
class ModelOutputs:
    """Outputs for one micro-batch; those that no term needs are None. Do not change them in place.

    Attributes:
        token_losses: cross-entropy of each label, in nats, fp32, [batch, seq].
        logits: in the precision of the model, [batch, seq, padded vocabulary / tensor parallel size]. Entries that only
            pad the vocabulary are minus infinity; their gradient must be exactly 0.
    """

    token_losses: torch.Tensor | None = None
    logits: torch.Tensor | None = None


@dataclass(frozen=True)
class TrainingSetup:
    """What an objective may know of the run.

    Attributes:
        shape: of the model that is trained.
        vocab_size: entries of the vocabulary that mean something.
        padded_vocab_size: rows of the embedding.
        precision: ``fp32``, ``bf16`` or ``fp8``.
        model_config: Megatron-Core's ``TransformerConfig`` of the model.
        chunks: of the model on this rank, without wrappers: one, or one for each virtual pipeline stage.
        tokens: the data that is trained on, a :class:`~megatron_ipt.training.data.batches.TokenData`.
        whole_weights: a context in which every rank has the current weights of its part, for text generated with the
            model between two steps.
        seed: of the recipe; derive every random choice from it with :func:`megatron_ipt.seeding.derive`.
        directory: of the stage.
        rows: of the training data that have a loss mask, in all sources.
    """

    config: TrainingConfig
    layout: Layout
    shape: ModelShape
    vocab_size: int
    padded_vocab_size: int
    precision: str
    model_config: Any
    chunks: Sequence[Any]
    device: Any
    tokens: Any
    whole_weights: Callable[[], AbstractContextManager[None]]
    seed: int
    directory: Path
    rows: int = 0


@dataclass(frozen=True)
class Step:
    """The step that is about to begin.

    Attributes:
        number: counted from 1; of a validation, the last step before it.
        training: False for a validation, where no gradients are computed.
    """

    number: int
    training: bool


@dataclass
class NoOptions:
    """An objective has no options unless it declares some."""


class Objective:
    """One term of the loss; subclass it.

    Every rank has an object of its own and calls every method in the same order, except :meth:`loss`, which only the
    last pipeline stage calls.

    Attributes:
        Options: dataclass of the options in the recipe. Declare fields with :func:`megatron_ipt.config.key`; unknown
            names, wrong types and values out of range are rejected before anything starts.
        needs: what :meth:`loss` reads of the model's outputs: ``TOKEN_LOSSES``, ``LOGITS`` or both.
        metrics: names of the figures that :meth:`loss` returns besides the sum. Set it in ``__init__`` if they depend
            on the options.
        in_validation: whether validation computes the term and its figures too.
    """

    Options: ClassVar[type] = NoOptions
    needs: frozenset[str] = frozenset({TOKEN_LOSSES})
    metrics: tuple[str, ...] = ()
    in_validation: bool = True

    def __init__(self, options: Any):
        """Must be cheap and must not need other ranks: it also runs where the recipe is checked.

        Args:
            options: an instance of ``Options``.

        Raises:
            RecipeError: the options contradict each other.
        """
        self.options = options

    def setup(self, setup: TrainingSetup) -> None:
        """Called once, after the model is built and before its weights are loaded; build a second model here.

        A second model is the objective's own: it is neither trained nor saved. Process groups may be created.

        Raises:
            UserError: the objective cannot be used in this run.
        """

    def before_step(self, step: Step, batches: list[Batch]) -> list[Batch]:
        """Called on all ranks before the micro-batches of a step, if overridden; returns those to run instead.

        Every rank gets all its micro-batches at once, so this is where pipeline stages can work together: run a second
        model through a pipeline schedule of its own, or generate with the model that is trained. What is to reach
        :meth:`loss` is added to a batch under a key of its own. The number of micro-batches and the shape of their
        tokens must be the same on every rank.
        """
        return batches

    def before_forward(self, batch: Batch, computes_loss: bool) -> None:
        """Called right before the model's forward pass of a micro-batch, on each pipeline stage; may add to the batch.

        Pipeline stages reach a micro-batch at different times: communicate only within one stage (tensor, context and
        data parallel groups), never between stages.

        Args:
            computes_loss: this is the stage that calls :meth:`loss` for the batch.
        """

    def count(self, batch: Batch) -> torch.Tensor:
        """How many items :meth:`loss` sums over in a micro-batch, on this rank; scalar.

        The default is the number of tokens in the loss mask.
        """
        return batch["loss_mask"].sum()

    def loss(self, outputs: ModelOutputs, batch: Batch) -> tuple[torch.Tensor, MetricSums]:
        """The term's sum over the micro-batch (scalar, fp32, with gradients), and what its ``metrics`` are made of.

        Args:
            batch: ``tokens``, ``labels`` (int64) and ``loss_mask`` (0 or 1), each [batch, seq], and what the other
                methods have added. Where the data are rows with a mask, also ``row`` and ``row_tokens``, the same at
                all positions of a row: its number over all sources in the order of the data's description, -1 for
                padding samples, and how many of its tokens are predicted.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what its loss is")

    def state_dict(self) -> Mapping[str, Any]:
        """What a resumed run needs to continue exactly: plain values and tensors on CPU, equal on all ranks."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` of an earlier run returned."""
