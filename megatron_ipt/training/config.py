"""The ``training`` section of a recipe. Field names are Megatron's wherever Megatron has one.

Impossible combinations are rejected here, before any process starts, with the nearest values that are possible. What
depends on the number of ranks is checked again by :class:`~megatron_ipt.training.ranks.layout.Layout`, once that number
is known. Importing this module must not import torch: every command reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from megatron_ipt.config import key
from megatron_ipt.errors import did_you_mean
from megatron_ipt.models import divisibility
from megatron_ipt.models.config import ModelConfig
from megatron_ipt.training.loop.batch_ramp import BatchRamp
from megatron_ipt.training.objectives.table import DEFAULT, DISTILLATION, OBJECTIVES
from megatron_ipt.training.teacher.config import DistillationConfig

DECAY_STYLES = ("cosine", "linear", "WSD", "inverse-square-root", "constant")


@dataclass
class ParallelConfig:
    """How the model is split over ranks; the rest of the world size is data parallel."""

    tensor_model_parallel_size: int = key(1, "Ranks that split each layer.", minimum=1)
    pipeline_model_parallel_size: int = key(1, "Pipeline stages: ranks that hold consecutive layers.", minimum=1)
    virtual_pipeline_model_parallel_size: int | None = key(
        None, "Model chunks per pipeline rank (interleaved schedule); one if empty.", minimum=2
    )
    context_parallel_size: int = key(1, "Ranks that split each sequence.", minimum=1)
    expert_model_parallel_size: int = key(1, "Data-parallel ranks that split the experts of a layer.", minimum=1)
    sequence_parallel: bool = key(False, "Split norms and residuals along the sequence over the tensor-parallel ranks.")
    use_distributed_optimizer: bool = key(
        True,
        "Shard optimizer state over data-parallel ranks. Checkpoints written with and without are not interchangeable.",
    )
    overlap_grad_reduce: bool = key(False, "Reduce gradients while the backward pass is running.", affects_output=False)
    overlap_param_gather: bool = key(
        False, "Gather parameters while the forward pass is running (distributed optimizer).", affects_output=False
    )
    distributed_timeout_minutes: float = key(
        30, "Minutes that a rank waits for the others before it fails.", minimum=0.1, affects_output=False
    )

    def model_ranks(self) -> int:
        """Ranks that hold one copy of the model for one sequence."""
        return self.tensor_model_parallel_size * self.pipeline_model_parallel_size * self.context_parallel_size

    def least_ranks(self) -> int:
        """The minimum number of ranks: experts are split over ranks that differ in data or context."""
        shared = math.lcm(self.context_parallel_size, self.expert_model_parallel_size)
        return self.tensor_model_parallel_size * self.pipeline_model_parallel_size * shared

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.sequence_parallel and self.tensor_model_parallel_size == 1:
            yield "sequence_parallel", "needs tensor_model_parallel_size of 2 or more"
        if self.virtual_pipeline_model_parallel_size and self.pipeline_model_parallel_size == 1:
            yield "virtual_pipeline_model_parallel_size", "needs pipeline_model_parallel_size of 2 or more"
        if self.overlap_param_gather and not (self.use_distributed_optimizer and self.overlap_grad_reduce):
            yield "overlap_param_gather", "needs use_distributed_optimizer and overlap_grad_reduce"


@dataclass
class Fp8Config:
    """FP8 with Transformer Engine; only used with ``precision: fp8``."""

    format: str = key("hybrid", "hybrid: e4m3 forward, e5m2 gradients.", choices=("hybrid", "e4m3"))
    recipe: str = key(
        "delayed", "How scaling factors are computed.", choices=("delayed", "tensorwise", "blockwise", "mxfp8")
    )
    fp8_param: bool = key(False, "Store the weights themselves in FP8 (main weights stay fp32).")
    first_last_layers_bf16: bool = key(False, "Compute the first and last layers in bf16; not with recipe delayed.")
    num_layers_at_start_in_bf16: int = key(1, "Number of first layers in bf16.", minimum=0)
    num_layers_at_end_in_bf16: int = key(1, "Number of last layers in bf16.", minimum=0)
    amax_history_len: int = key(1024, "delayed: number of past steps whose maximum sets the scale.", minimum=1)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.first_last_layers_bf16 and self.recipe == "delayed":
            yield "first_last_layers_bf16", "not with recipe delayed; use tensorwise, blockwise or mxfp8"
        if self.fp8_param and self.recipe == "mxfp8":
            yield "fp8_param", "not with recipe mxfp8; use delayed, tensorwise or blockwise"


@dataclass
class RecomputeConfig:
    """Activations that are recomputed in the backward pass instead of stored: trades time for memory."""

    granularity: str = key(
        "none",
        "none, the modules named below (selective), or whole layers (full).",
        choices=("none", "selective", "full"),
    )
    modules: list[str] = key(
        ["core_attn"], "selective: parts of a layer to recompute.", choices=("core_attn", "mlp", "moe", "layernorm")
    )
    method: str = key(
        "uniform",
        "full: every layer in groups of num_layers (uniform), or the first num_layers of each stage (block).",
        choices=("uniform", "block"),
    )
    num_layers: int = key(1, "full: see method.", minimum=1)


@dataclass
class OptimizerSettings:
    """AdamW. One-dimensional parameters (norms, biases) have no weight decay."""

    lr: float = key(3e-4, "Peak learning rate.", minimum=0)
    min_lr: float | None = key(None, "Learning rate at the end of the decay; a tenth of lr if empty.", minimum=0)
    weight_decay: float = key(0.1, "Weight decay, decoupled.", minimum=0)
    adam_beta1: float = key(0.9, "Decay rate of the first moment.", minimum=0, maximum=1)
    adam_beta2: float = key(0.95, "Decay rate of the second moment.", minimum=0, maximum=1)
    adam_eps: float = key(1e-8, "Added to the denominator.", minimum=0)
    clip_grad: float = key(1.0, "Maximum global gradient norm; 0 disables clipping.", minimum=0)
    offload_fraction: float = key(
        0.0, "Fraction of the optimizer state that is kept and updated in host memory (GPU only).", minimum=0, maximum=1
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.min_lr is not None and self.min_lr > self.lr:
            yield "min_lr", f"{self.min_lr:g} is above lr={self.lr:g}"


@dataclass
class ScheduleConfig:
    """Learning-rate schedule, in steps."""

    lr_decay_style: str = key("cosine", "Shape of the decay after warm-up.", choices=DECAY_STYLES)
    lr_warmup_iters: int | None = key(None, "Steps of linear warm-up; lr_warmup_fraction if empty.", minimum=0)
    lr_warmup_fraction: float = key(0.02, "Warm-up as a fraction of the decay steps.", minimum=0, maximum=0.99)
    lr_decay_iters: int | None = key(None, "Steps until min_lr is reached; the whole run if empty.", minimum=1)
    lr_wsd_decay_iters: int | None = key(None, "WSD: steps of the final decay; a tenth of the run if empty.", minimum=1)
    lr_wsd_decay_style: str = key(
        "exponential", "WSD: shape of the final decay.", choices=("exponential", "linear", "cosine", "minus_sqrt")
    )


@dataclass
class BatchRampConfig:
    """Batch size ramp-up: from start to global_batch_size in increments, over the first samples."""

    start: int | None = key(None, "Batch size of the first step; no ramp-up if empty.", minimum=1)
    increment: int = key(16, "Sequences added at each increase.", minimum=1)
    samples: int = key(0, "Sequences over which the batch size grows.", minimum=0)


@dataclass
class DataConfig:
    """How sequences are cut from the indexed datasets. Sequences cross documents."""

    seq_length: int | None = key(
        None, "Tokens per sequence. Null: tuning.seq_length for tuning data, else the model's max_position_embeddings.",
        minimum=2,
    )  # fmt: skip
    blend: dict[str, float] = key({}, "Fraction of the tokens by training source; as in the tokens stage if empty.")
    eod_mask_loss: bool = key(False, "No loss at positions whose input is the end-of-document token.")
    reset_attention_mask: bool = key(
        False, "No attention across documents. Needs a mask of seq_length squared per sequence, and torch attention."
    )
    reset_position_ids: bool = key(
        False, "Restart positions at each document. Rotary embeddings are relative, so within a document this is "
        "equivalent to reset_attention_mask alone."
    )  # fmt: skip
    index_cache: str | None = key(
        None, "Folder for the sample indices, if not in the run's folder; may be read-only once they exist.",
        affects_output=False,
    )  # fmt: skip

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.reset_position_ids and not self.reset_attention_mask:
            yield (
                "reset_position_ids",
                "has no effect on its own, since rotary embeddings are relative; also set reset_attention_mask",
            )


@dataclass
class CheckpointConfig:
    """Distributed checkpoints in ``checkpoints/``. The last step is always saved."""

    save_interval: int = key(500, "Steps between checkpoints.", minimum=1, affects_output=False)
    keep_last: int = key(2, "Number of most recent checkpoints to keep; 0 keeps all.", minimum=0, affects_output=False)
    keep_every: int | None = key(
        None, "Also keep every checkpoint whose step is a multiple of this.", minimum=1, affects_output=False
    )
    async_save: bool = key(
        True, "Write in a background process; training only pauses for the snapshot.", affects_output=False
    )
    verify_load: bool = key(True, "Verify the checksum of every file before loading.", affects_output=False)
    on_damage: str = key(
        "stop",
        "If the newest checkpoint is incomplete or damaged: stop, or resume from the newest intact one (previous).",
        choices=("stop", "previous"),
        affects_output=False,
    )


@dataclass
class AnomalyConfig:
    """What to do about a loss that is not finite or that spikes. Each case is logged to ``events.jsonl``.

    stop: exit with an error. skip: discard the update and continue with the next batch. rollback: load the last
    checkpoint and continue after the offending batch, skipping the data in between.
    """

    non_finite: str = key("stop", "If loss or gradient norm is NaN or infinite.", choices=("stop", "skip", "rollback"))
    spike: str = key("ignore", "If the loss spikes.", choices=("ignore", "stop", "skip", "rollback"))
    spike_threshold: float = key(
        8.0, "A spike exceeds the median of recent losses by this many median absolute deviations.", minimum=1
    )
    spike_window: int = key(
        64, "Number of recent losses to compare with; no spike is detected before half of them exist.", minimum=4
    )
    limit: int = key(10, "Maximum number of skips and rollbacks in a run; the next anomaly stops it.", minimum=0)


@dataclass
class ValidationConfig:
    """Loss on held-out data, separately for each validation set."""

    eval_interval: int = key(500, "Steps between validations; always validates after the last step.", minimum=1)
    eval_iters: int | None = key(
        None, "Global batches per validation set; the whole set if empty, no validation if 0.", minimum=0
    )


@dataclass
class LoggingConfig:
    log_interval: int = key(1, "Steps between lines of metrics.jsonl.", minimum=1, affects_output=False)
    tensorboard: bool = key(True, "Also write TensorBoard events.", affects_output=False)
    wandb_project: str | None = key(None, "Also log to this Weights & Biases project.", affects_output=False)
    params_norm: bool = key(True, "Log the norm of the parameters.", affects_output=False)
    peak_tflops: float | None = key(
        None, "Dense TFLOP/s of one GPU in this precision, for the MFU; known GPUs are looked up if empty.", minimum=0,
        affects_output=False,
    )  # fmt: skip
    profile_step: int | None = key(None, "First step to record with torch's profiler.", minimum=1, affects_output=False)
    profile_steps: int = key(2, "Number of steps to record.", minimum=1, affects_output=False)


@dataclass
class ObjectiveTerm:
    """One term of the loss."""

    objective: str | None = key(
        None, f"One of {', '.join(OBJECTIVES)}, or module:Class or FILE.py:Class; the name of the term if empty."
    )
    weight: float = key(1.0, "Factor of the term in the loss; 0 only reports it.")
    options: dict[str, Any] = key({}, "Options of the objective.")

    def problems(self) -> Iterator[tuple[str, str]]:
        if not math.isfinite(self.weight):
            yield "weight", f"{self.weight} is not a finite number"


@dataclass
class TrainingConfig:
    """Training with Megatron-Core. The length is set by one of steps, tokens and epochs."""

    model: ModelConfig = key(ModelConfig, "Architecture and sizes.")
    initial_checkpoint: str | None = key(
        None, "Checkpoint with the initial weights: an iter_* folder, or the folder that contains it."
    )
    objectives: dict[str, ObjectiveTerm] = key(
        {}, "Terms of the loss by name, added up by weight; next-token prediction alone if empty."
    )
    distillation: DistillationConfig = key(DistillationConfig, "Learning from a teacher.")
    parallel: ParallelConfig = key(ParallelConfig, "Parallelism.")
    precision: str = key(
        "auto",
        "auto: bf16 on GPU, fp32 on CPU. Main weights and accumulated gradients are always fp32.",
        choices=("auto", "fp32", "bf16", "fp8"),
    )
    fp8: Fp8Config = key(Fp8Config, "FP8 recipe.")
    recompute: RecomputeConfig = key(RecomputeConfig, "Activation recomputation.")
    optimizer: OptimizerSettings = key(OptimizerSettings, "AdamW.")
    schedule: ScheduleConfig = key(ScheduleConfig, "Learning-rate schedule.")
    data: DataConfig = key(DataConfig, "Sequences.")
    batch_ramp: BatchRampConfig = key(BatchRampConfig, "Batch size ramp-up.")
    checkpoint: CheckpointConfig = key(CheckpointConfig, "Checkpointing.")
    anomalies: AnomalyConfig = key(AnomalyConfig, "Loss anomalies.")
    validation: ValidationConfig = key(ValidationConfig, "Held-out loss.")
    logging: LoggingConfig = key(LoggingConfig, "Metrics.")
    steps: int | None = key(None, "Optimizer steps.", minimum=1)
    tokens: int | None = key(None, "Tokens to train on; rounded up to whole steps.", minimum=1)
    epochs: float | None = key(None, "Passes over the training data; 1 if steps and tokens are empty too.", minimum=0)
    micro_batch_size: int = key(4, "Sequences per rank and forward pass.", minimum=1)
    global_batch_size: int = key(16, "Sequences per optimizer step, over all ranks.", minimum=1)
    nproc: int | None = key(
        None,
        "Ranks to start on this machine; as many as the parallel sizes need if empty.",
        minimum=1,
        affects_output=False,
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        lengths = [name for name in ("steps", "tokens", "epochs") if getattr(self, name) is not None]
        if len(lengths) > 1:
            yield lengths[-1], f"the length of the run is set by {' and '.join(lengths)}; keep only one"
        if self.epochs is not None and self.epochs <= 0:
            yield "epochs", f"must be above 0, found {self.epochs:g}"
        yield from self._problems_of_objectives()
        yield from self._problems_of_batches()
        if self.model.is_readable():
            yield from self._problems_of_layout()
        if self.fp8.fp8_param and self.precision != "fp8":
            yield "fp8.fp8_param", f"needs precision fp8, which is {self.precision}"
        if self.optimizer.offload_fraction and not self.parallel.use_distributed_optimizer:
            yield "optimizer.offload_fraction", "needs parallel.use_distributed_optimizer"

    def ranks(self) -> int:
        """Ranks to start on this machine."""
        return self.nproc or self.parallel.least_ranks()

    def take_rows_of(self, tokens: int) -> None:
        """Makes sequences as long as the longest rows of tuning data, unless the recipe says or the model takes less.

        A row is a sample; what a sequence is longer would be padding.
        """
        fits = not self.model.is_readable() or tokens <= self.model.shape().max_position_embeddings
        if self.data.seq_length is None and fits:
            self.data.seq_length = tokens

    def seq_length(self) -> int:
        """Tokens per sequence."""
        return self.data.seq_length or self.model.shape().max_position_embeddings

    def ramp(self) -> BatchRamp:
        """Batch size over the run."""
        ramp = self.batch_ramp
        if ramp.start is None:
            return BatchRamp.constant(self.global_batch_size)
        return BatchRamp(self.global_batch_size, ramp.start, ramp.increment, ramp.samples)

    def _problems_of_objectives(self) -> Iterator[tuple[str, str]]:
        for name, term in self.objectives.items():
            objective = term.objective or name
            if objective not in OBJECTIVES and ":" not in objective:
                yield (
                    f"objectives.{name}" + ".objective" * (term.objective is not None),
                    f"{objective!r} is not one of {', '.join(OBJECTIVES)}, nor module:Class or FILE.py:Class."
                    f"{did_you_mean(objective, OBJECTIVES)}",
                )
        if self.distillation.is_on:
            yield from self.distillation.problems_in_run(self)
            for name in {DEFAULT, DISTILLATION} & self.objectives.keys():
                yield f"objectives.{name}", "is added by training.distillation, with a weight that follows from alpha"
            return
        if self.objectives and not any(term.weight for term in self.objectives.values()):
            yield "objectives", "every weight is 0, so there is nothing to train on; give at least one term a weight"

    def _problems_of_batches(self) -> Iterator[tuple[str, str]]:
        if self.global_batch_size % self.micro_batch_size:
            yield (
                "global_batch_size",
                f"{self.global_batch_size} is not divisible by micro_batch_size={self.micro_batch_size}; "
                f"nearest that are: {divisibility.multiples(self.global_batch_size, self.micro_batch_size)}",
            )
        least = self.parallel.least_ranks()
        if self.nproc is not None and self.nproc % least:
            yield (
                "nproc",
                f"{self.nproc} ranks cannot be divided into groups of {least} (tensor x pipeline x context or expert "
                f"parallel); nearest that can: {divisibility.multiples(self.nproc, least)}",
            )
            return
        data_ranks = max(1, self.ranks() // self.parallel.model_ranks())
        samples = self.micro_batch_size * data_ranks
        if self.global_batch_size % self.micro_batch_size == 0 and self.global_batch_size % samples:
            yield (
                "global_batch_size",
                f"{self.global_batch_size} is not divisible by micro_batch_size={self.micro_batch_size} x {data_ranks} "
                f"data-parallel ranks; nearest that are: {divisibility.multiples(self.global_batch_size, samples)}",
            )
        start, increment = self.batch_ramp.start, self.batch_ramp.increment
        if start is None:
            return
        if start > self.global_batch_size or (self.global_batch_size - start) % increment:
            yield "batch_ramp.increment", f"steps of {increment} do not lead from {start} to {self.global_batch_size}"
        for name, size in (("start", start), ("increment", increment)):
            if size % samples:
                yield (
                    f"batch_ramp.{name}",
                    f"{size} is not divisible by micro_batch_size={self.micro_batch_size} x {data_ranks} data-parallel "
                    f"ranks; nearest that are: {divisibility.multiples(size, samples)}",
                )

    def _problems_of_layout(self) -> Iterator[tuple[str, str]]:
        shape, parallel = self.model.shape(), self.parallel
        tensor, pipeline = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
        sizes = [
            ("num_attention_heads", shape.num_attention_heads),
            ("num_query_groups", shape.num_query_groups),
            ("ffn_hidden_size", shape.ffn_hidden_size),
            ("make_vocab_size_divisible_by", self.model.make_vocab_size_divisible_by),
        ]
        for name, size in sizes:
            if size % tensor:
                yield (
                    "parallel.tensor_model_parallel_size",
                    f"{tensor} does not divide model.{name}={size}; nearest that do: "
                    f"{divisibility.divisors(size, tensor)}",
                )
        chunks = pipeline * (parallel.virtual_pipeline_model_parallel_size or 1)
        if shape.num_layers % chunks:
            yield (
                "parallel.pipeline_model_parallel_size",
                f"model.num_layers={shape.num_layers} cannot be divided into {chunks} equal stages; nearest numbers of "
                f"layers that can: {divisibility.multiples(shape.num_layers, chunks)}",
            )
        if self.seq_length() > shape.max_position_embeddings:
            yield (
                "data.seq_length",
                f"{self.seq_length()} is above model.max_position_embeddings={shape.max_position_embeddings}; "
                "lower it, or raise model.max_position_embeddings",
            )
        if parallel.sequence_parallel and self.seq_length() % tensor:
            yield (
                "data.seq_length",
                f"{self.seq_length()} is not divisible by tensor_model_parallel_size={tensor}, as sequence_parallel "
                f"needs; nearest that are: {divisibility.multiples(self.seq_length(), tensor)}",
            )
        data_ranks = max(1, self.ranks() // parallel.model_ranks())
        microbatches = self.global_batch_size // (self.micro_batch_size * data_ranks)
        if parallel.virtual_pipeline_model_parallel_size and microbatches % pipeline:
            needed = pipeline * self.micro_batch_size * data_ranks
            yield (
                "global_batch_size",
                f"{microbatches} micro-batches cannot be interleaved over {pipeline} pipeline stages; nearest batch "
                f"sizes that can: {divisibility.multiples(self.global_batch_size, needed)}",
            )
        yield from self._problems_of_experts()
        context = parallel.context_parallel_size
        if context > 1 and self.seq_length() % (2 * context):
            yield (
                "data.seq_length",
                f"{self.seq_length()} cannot be divided into {2 * context} parts, as context_parallel_size={context} "
                f"needs; nearest that can: {divisibility.multiples(self.seq_length(), 2 * context)}",
            )
        if context > 1 and self.data.reset_attention_mask:
            yield (
                "data.reset_attention_mask",
                "not with context parallelism, where each rank holds only parts of a sequence",
            )

    def _problems_of_experts(self) -> Iterator[tuple[str, str]]:
        shape, parallel = self.model.shape(), self.parallel
        expert = parallel.expert_model_parallel_size
        if expert > 1 and not shape.num_moe_experts:
            yield "parallel.expert_model_parallel_size", f"{expert}, but family {shape.family} has no experts"
        elif shape.num_moe_experts and shape.num_moe_experts % expert:
            yield (
                "parallel.expert_model_parallel_size",
                f"{expert} does not divide model.num_moe_experts={shape.num_moe_experts}; nearest that do: "
                f"{divisibility.divisors(shape.num_moe_experts, expert)}",
            )
        if shape.num_moe_experts and parallel.tensor_model_parallel_size > 1 and not parallel.sequence_parallel:
            yield "parallel.sequence_parallel", "must be true for a model with experts under tensor parallelism"
        if shape.num_moe_experts and "mlp" in self.recompute.modules and self.recompute.granularity == "selective":
            yield "recompute.modules", f"family {shape.family} has no mlp; the experts are called moe"
