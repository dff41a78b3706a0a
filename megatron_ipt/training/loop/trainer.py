"""The training loop, from top to bottom: load, step, log, validate, save."""

from __future__ import annotations

import gc
import logging
import math
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch
from megatron.core import parallel_state
from megatron.core.distributed import finalize_model_grads
from megatron.core.optimizer_param_scheduler import get_canonical_lr_for_logging
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from megatron_ipt.config import as_dict
from megatron_ipt.errors import InputError, RecipeError, StageError
from megatron_ipt.manifest import StageContext
from megatron_ipt.models.config import hugging_face_vocabulary
from megatron_ipt.models.families import padded_vocabulary
from megatron_ipt.models.flops import flops_per_token
from megatron_ipt.progress import counted
from megatron_ipt.seeding import derive
from megatron_ipt.stages import TOKENS
from megatron_ipt.training.checkpoints.checkpoint import Checkpoints
from megatron_ipt.training.checkpoints.model_file import ModelFile, checkpoint_folder
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.data.batches import Batches, TokenData, check_sources, number_of_steps
from megatron_ipt.training.data.sample_index import DatasetBuilder
from megatron_ipt.training.loop.anomalies import Anomaly, LossWatch
from megatron_ipt.training.loop.metrics import Metrics
from megatron_ipt.training.loop.optimizer import build_optimizer, build_schedule, gradient_norm, parameter_norm, update
from megatron_ipt.training.loop.run_state import RunState
from megatron_ipt.training.loop.stop import Checkpointed, StopRequest
from megatron_ipt.training.loop.telemetry import Profile, Telemetry
from megatron_ipt.training.loop.validation import Validation
from megatron_ipt.training.model.build import build_model, transformer_config, whole_parameters, wrap_for_training
from megatron_ipt.training.model.precision import foreign_apex, refuse_what_needs_a_gpu, resolve_precision
from megatron_ipt.training.objectives.loss import Loss
from megatron_ipt.training.objectives.objective import Step, TrainingSetup
from megatron_ipt.training.objectives.terms import load_terms
from megatron_ipt.training.ranks.layout import Layout

logger = logging.getLogger(__name__)


class Trainer:
    """One rank's part of a training run. The process group and Megatron-Core's groups must be started.

    Raises (on every rank):
        InputError: the data or a checkpoint cannot be used.
        RecipeError: the settings do not match the data, the ranks or the machine.
    """

    def __init__(self, config: TrainingConfig, context: StageContext, stop: StopRequest):
        self.config = config
        self.context = context
        self.stop = stop
        self.rank = torch.distributed.get_rank()
        self.layout = Layout.of(config, torch.distributed.get_world_size())
        self.shape = config.model.shape()
        self.seq_length = config.seq_length()
        self.ramp = config.ramp()
        refuse_what_needs_a_gpu(config)
        self.precision = resolve_precision(config.precision, config.fp8)
        if self.rank == 0 and foreign_apex() is not None:
            logger.warning(
                "training: the installed apex %s is not NVIDIA's, but a web toolkit of the same name; it is not used",
                foreign_apex(),
            )
        self.initial_checkpoint = initial_checkpoint(config, context)

        self.tokens = TokenData.read(context.inputs[TOKENS])
        self.vocab_size = self._vocabulary()
        self.padded_vocab_size = padded_vocabulary(self.vocab_size, config.model.make_vocab_size_divisible_by)
        epoch = self.tokens.tokens_of_epoch(self.seq_length)
        self.steps = number_of_steps(config.steps, config.tokens, config.epochs, epoch, self.seq_length, self.ramp)
        self._on_first_rank(partial(check_sources, self.tokens, self.seq_length, config.data.eod_mask_loss))
        self.builder = self._data_builder()
        self.objectives = Loss(load_terms(config.objectives, config.distillation), self.precision != "fp32")
        self.validation = Validation(
            config, self.tokens, self.builder, self.layout, self.objectives, partial(self._forward, True)
        )
        self._build_model()
        self.checkpoints = Checkpoints(
            context.directory / "checkpoints",
            self.modules,
            self.optimizer,
            self.scheduler,
            self._describe,
            config.checkpoint,
            self.objectives,
        )
        self.state = RunState()
        self.watch = LossWatch(config.anomalies)
        self.telemetry = Telemetry(
            self.rank,
            self.layout.world_size,
            flops_per_token(self.shape, self.padded_vocab_size, self.seq_length),
            self.precision,
            config.logging.peak_tflops,
        )
        self.profile = Profile(context.directory, self.rank, config.logging.profile_step, config.logging.profile_steps)
        self.loss = math.nan
        self.term_metrics: dict[str, float] = {}
        self.grad_norm = math.nan

    def run(self) -> dict[str, Any]:
        """Trains to the last step, starting from the last checkpoint; returns counts for the manifest.

        Raises:
            Checkpointed: was asked to stop, and has saved a checkpoint.
            StageError: a loss was anomalous, and the recipe says to stop.
        """
        config, started = self.config, time.monotonic()
        self.prepare()
        self._log_beginning()
        with self._metrics() as self.metrics:
            while self.state.step < self.steps:
                asked = self._train_step()
                step = self.state.step
                last = step == self.steps
                if self.metrics is not None:
                    self.metrics.advance(self.loss)
                logs = last or step % config.logging.log_interval == 0
                validates = last or (step % config.validation.eval_interval == 0 and not asked)
                saves = last or asked or step % config.checkpoint.save_interval == 0
                if logs:
                    self._log_step(started)
                if validates or saves:
                    with self.telemetry.paused(), whole_parameters(self.chunks):
                        if validates:
                            self._validate()
                        if saves:
                            self.checkpoints.save(self.state, wait=last or asked)
                if asked and not last:
                    raise Checkpointed(
                        f"training: stopped as asked at step {step} of {self.steps}; a checkpoint is saved, rerun "
                        "the same command to resume"
                    )
        return self._counts()

    def prepare(self) -> None:
        """Everything before the first step: weights and state, samples, garbage collection."""
        self._load()
        self._build_data()
        # Megatron-Core collects garbage at every save, and need not scan again what lives as long as the run.
        gc.collect()
        gc.freeze()

    def _log_beginning(self) -> None:
        counts = self._counts()
        logger.info(
            "training: %s in %s on %s, %s %d of %d, %s each",
            counted(counts["parameters"], "parameter"),
            self.precision,
            counted(self.layout.world_size, "rank"),
            "resuming with step" if self.state.step else "step",
            self.state.step + 1,
            self.steps,
            counted(self.config.global_batch_size * self.seq_length, "token"),
        )

    def _load(self) -> None:
        """Loads the last checkpoint, or else the initial weights if there are any."""
        state = self.checkpoints.load_latest()
        if state is not None:
            self.state = state
        elif self.initial_checkpoint is not None:
            self.checkpoints.load_weights(self.initial_checkpoint)

    def _train_step(self) -> bool:
        """Runs steps until one counts; returns whether any rank was asked to stop."""
        while True:
            step, size = self.state.step + 1, self.ramp.size_at(self.state.samples)
            self.profile.before(step)
            for chunk in self.chunks:
                chunk.zero_grad_buffer()
            self.optimizer.zero_grad()
            self.learning_rate = get_canonical_lr_for_logging(self.optimizer.param_groups)
            began = time.monotonic()
            micro_batches = size // (self.config.micro_batch_size * self.layout.data)
            sums = self._forward(False, self.train_batches, self.state.position, micro_batches)
            asked, writing = self._exchange(sums, time.monotonic() - began, size)
            if self.checkpoints.is_pending and not writing:
                self.checkpoints.finish()
            anomaly = self.watch.judge(self.loss, self.state, self.term_metrics)
            if anomaly is None:
                self.grad_norm = gradient_norm(self.optimizer)
                anomaly = self.watch.judge_gradient(self.grad_norm, self.state)
            if anomaly is not None and anomaly.action == "rollback":
                self._roll_back(anomaly, size)
                continue
            if anomaly is None:
                update(self.optimizer, self.grad_norm)
                self.watch.accept(self.loss, self.state)
            else:
                self._skip(anomaly)
            self.scheduler.step(size)
            self._count(size)
            self.profile.after(step)
            return asked

    def _skip(self, anomaly: Anomaly) -> None:
        """Leaves the weights unchanged, or stops the run if the recipe says so."""
        if anomaly.action == "stop":
            raise StageError(
                f"training: {anomaly.found} at step {self.state.step + 1}. The last checkpoint is intact. Lower "
                "training.optimizer.lr or training.optimizer.clip_grad, increase training.schedule.lr_warmup_iters, "
                f"or set training.anomalies.{anomaly.kind} to skip or rollback."
            )
        self.state.interventions += 1
        self._log_event(self.state.step + 1, "skip", found=anomaly.found)

    def _roll_back(self, anomaly: Anomaly, size: int) -> None:
        """Returns to the last checkpoint, and continues with the data after the anomalous batch."""
        step, position, interventions = self.state.step + 1, self.state.position + size, self.state.interventions + 1
        self.checkpoints.finish()
        state = self.checkpoints.load_latest()
        if state is None:
            raise StageError(f"training: {anomaly.found} at step {step}, and there is no checkpoint to roll back to")
        skipped = position - state.position
        self.state = state
        self.state.position, self.state.interventions = position, interventions
        self._build_data()
        if self.metrics is not None:
            self.metrics.go_back(state.step)
        self._log_event(step, "rollback", found=anomaly.found, to_step=state.step, samples_left_out=skipped)

    def _count(self, size: int) -> None:
        state = self.state
        samples = numpy.arange(state.position, state.position + size)
        for name, tokens in zip(self.train_data.names, self.train_data.tokens(samples).tolist()):
            state.tokens_by_source[name] = state.tokens_by_source.get(name, 0) + tokens
        state.step += 1
        state.samples += size
        state.position += size

    def _forward(self, forward_only: bool, batches: Batches, position: int, micro_batches: int) -> torch.Tensor:
        """Runs the pipeline over one global batch; the sums of this rank's last stage, see :class:`Loss`."""
        training = not forward_only
        step = Step(self.state.step + training, training)
        read = partial(batches.at, position, micro_batches)
        iterators, micro_batches = self.objectives.micro_batches(step, read, micro_batches, len(self.chunks))
        iterator: Any = iterators if len(iterators) > 1 else iterators[0]
        results = self.forward_backward(
            forward_step_func=self.objectives.forward_step(training),
            data_iterator=iterator,
            model=self.chunks if len(self.chunks) > 1 else self.chunks[0],
            num_microbatches=micro_batches,
            seq_length=self.seq_length,
            micro_batch_size=self.config.micro_batch_size,
            forward_only=forward_only,
        )
        if not results:
            return self.objectives.zeros(training)
        return torch.stack([result["sums"] for result in results]).sum(0)

    def _exchange(self, sums: torch.Tensor, seconds: float, size: int) -> tuple[bool, bool]:
        """Everything that ranks exchange in a step, in one call: sums, stop requests, unfinished saves, seconds.

        Tensor-parallel ranks count the same tokens, in numerator and denominator alike.
        """
        flags = torch.tensor([self.stop.requested, self.checkpoints.is_writing()], dtype=torch.float64)
        together = torch.cat([sums, flags.to(sums.device), self.telemetry.slots(seconds).to(sums.device)])
        torch.distributed.all_reduce(together)
        width = len(sums)
        *totals, asked, writing = together[: width + 2].tolist()
        self.loss, self.term_metrics = self.objectives.figures(True, totals)
        self.telemetry.count(size * self.seq_length, together[width + 2 :].cpu())
        return asked > 0, writing > 0

    def _validate(self) -> None:
        figures = self.validation.figures(self.chunks)
        if self.metrics is not None and figures:
            losses = {name: of_set.loss for name, of_set in figures.items()}
            metrics = {name: of_set.metrics for name, of_set in figures.items() if of_set.metrics}
            self.metrics.log_validation(self.state.step, losses, metrics)

    def _data_builder(self) -> DatasetBuilder:
        cache = self.config.data.index_cache
        folder = Path(cache) if cache else self.context.directory / "index-cache"
        return DatasetBuilder(self.tokens, self.seq_length, self.config.data, self.context.seed, folder)

    def _build_data(self) -> None:
        """Builds the training samples from the current position to the end of the run."""
        left = self.ramp.samples_after(self.steps) - self.state.samples
        self.train_data = self.builder.train(self.state.position + max(left, 0))
        self.builder.finish()
        self.train_batches = Batches(
            self.train_data,
            self.config.micro_batch_size,
            self.layout,
            parallel_state.get_data_parallel_rank(),
            parallel_state.get_context_parallel_rank(),
        )

    def _build_model(self) -> None:
        config = self.config
        model_parallel_cuda_manual_seed(derive(self.context.seed, "model parallel") % 2**31)
        megatron_config = transformer_config(self.shape, config, self.precision)
        attention = "torch" if config.data.reset_attention_mask else config.model.attention
        self.modules = build_model(
            self.shape, self.vocab_size, self.padded_vocab_size, megatron_config, self.context.seed, attention
        )
        self.chunks = wrap_for_training(self.modules, megatron_config, config.parallel, config.fp8.fp8_param)
        self.optimizer = build_optimizer(
            config.optimizer, config.parallel, self.precision, self.chunks, config.fp8.recipe
        )
        self.scheduler = build_schedule(config.optimizer, config.schedule, self.optimizer, self.steps, self.ramp)
        megatron_config.finalize_model_grads_func = finalize_model_grads
        if config.parallel.overlap_grad_reduce:
            syncs = [chunk.no_sync for chunk in self.chunks]
            megatron_config.no_sync_func = syncs[0] if len(syncs) == 1 else syncs
        self.forward_backward = get_forward_backward_func()
        self.objectives.setup(
            TrainingSetup(
                config=config,
                layout=self.layout,
                shape=self.shape,
                vocab_size=self.vocab_size,
                padded_vocab_size=self.padded_vocab_size,
                precision=self.precision,
                model_config=megatron_config,
                chunks=self.modules,
                device=torch.cuda.current_device(),
                tokens=self.tokens,
                whole_weights=partial(whole_parameters, self.chunks),
                seed=self.context.seed,
                directory=self.context.directory,
                rows=sum(source.documents for source in self.tokens.train if source.loss_mask is not None),
            )
        )

    def _vocabulary(self) -> int:
        """Size of the vocabulary without padding: the tokenizer's, or that of the initial weights."""
        if self.config.model.from_hf is not None:
            given = hugging_face_vocabulary(self.config.model.from_hf)
        elif self.initial_checkpoint is not None:
            given = ModelFile.read(checkpoint_folder(self.initial_checkpoint)).vocab_size
        else:
            return self.tokens.vocab_size
        if given < self.tokens.vocab_size:
            raise InputError(
                f"{self.tokens.directory / 'dataset.json'}: tokenized with a vocabulary of {self.tokens.vocab_size}, "
                f"but the initial model has {given} embeddings; tokenize with the tokenizer of that model"
            )
        return given

    def _on_first_rank(self, check: Any) -> None:
        """Runs a check of shared files once instead of on every rank; an error there ends all ranks."""
        if self.rank == 0:
            check()
        torch.distributed.barrier()

    def _metrics(self) -> Any:
        if self.rank != 0:
            return nullcontext()
        settings = self.config.logging
        return Metrics(
            self.context.directory,
            self.state.step,
            self.steps,
            settings.tensorboard,
            settings.wandb_project,
            as_dict(self.config),
        )

    def _log_event(self, step: int, kind: str, **details: Any) -> None:
        if self.metrics is not None:
            self.metrics.log_event(step, kind, **details)

    def _log_step(self, started: float) -> None:
        record: dict[str, Any] = {
            "step": self.state.step,
            "loss": self.loss,
            "lr": self.learning_rate,
            "grad_norm": self.grad_norm,
            "tokens": self.state.samples * self.seq_length,
            "seconds": time.monotonic() - started,
            "batch_size": self.ramp.size_at(self.state.samples),
            "tokens_by_source": dict(self.state.tokens_by_source),
            **self.telemetry.read(),
        }
        if self.term_metrics:
            record["metrics"] = self.term_metrics
        if self.config.logging.params_norm:
            with whole_parameters(self.chunks):
                record["params_norm"] = parameter_norm(self.modules)
        if self.metrics is not None:
            self.metrics.log_step(record)

    def _describe(self, state: RunState) -> ModelFile:
        return ModelFile(
            shape=self.shape,
            vocab_size=self.vocab_size,
            padded_vocab_size=self.padded_vocab_size,
            dtype="float32" if self.precision == "fp32" else "bfloat16",
            seq_length=self.seq_length,
            iteration=state.step,
            consumed_train_samples=state.position,
            consumed_tokens=state.samples * self.seq_length,
            files={},
        )

    def _counts(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "tokens": self.state.samples * self.seq_length,
            "parameters": self.shape.parameters(self.padded_vocab_size),
            "ranks": self.layout.world_size,
            "precision": self.precision,
            "interventions": self.state.interventions,
        }


def initial_checkpoint(config: TrainingConfig, context: StageContext) -> Path | None:
    """The checkpoint with the initial weights: the recipe's, or that of an import stage before this one.

    Raises:
        RecipeError: the recipe names a Hugging Face folder whose weights have not been converted.
    """
    if config.initial_checkpoint is not None:
        return Path(config.initial_checkpoint)
    if "import" in context.inputs:
        return context.inputs["import"]
    folder = config.model.hugging_face_weights()
    if folder is not None:
        raise RecipeError(
            f"training.model.from_hf: the weights of {folder} have not been converted; run `megatron-ipt import` and "
            "set training.initial_checkpoint to its output, or name the folder's config.json to start from random "
            "weights of the same sizes"
        )
    return None
