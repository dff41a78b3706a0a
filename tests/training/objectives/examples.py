"""Objectives for the tests: with a frozen second model, with a count of its own, with a state, and with faults."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from megatron.core.parallel_state import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import reduce_from_tensor_model_parallel_region

from megatron_ipt.config import key
from megatron_ipt.training.checkpoints.checkpoint import load_model_weights
from megatron_ipt.training.config import ParallelConfig
from megatron_ipt.training.model.build import build_model, transformer_config
from megatron_ipt.training.objectives.objective import LOGITS, TOKEN_LOSSES, Objective
from megatron_ipt.training.objectives.vocabulary import log_sum_exp


@dataclass
class SecondModel:
    seed: int = key(5, "Of the second model's random weights.", minimum=0)
    checkpoint: str | None = key(None, "To take its weights from.")


class Teacher(Objective):
    """KL divergence from a frozen second model of the same shape and layout to the model that is trained."""

    Options = SecondModel
    needs = frozenset({LOGITS})
    metrics = ("teacher_entropy",)

    def setup(self, setup):
        config = transformer_config(setup.shape, setup.config, setup.precision)
        self.seq_length, self.micro_batch_size = setup.config.seq_length(), setup.config.micro_batch_size
        self.chunks = build_model(setup.shape, setup.vocab_size, setup.padded_vocab_size, config, self.options.seed)
        for chunk in self.chunks:
            chunk.eval().requires_grad_(False)
            if self.options.checkpoint:
                load_model_weights(chunk, Path(self.options.checkpoint))

    @torch.no_grad()
    def before_forward(self, batch, computes_loss):
        assert computes_loss
        batch["teacher_logits"] = self.chunks[0](batch["tokens"], None, batch.get("attention_mask"))

    def loss(self, outputs, batch):
        teacher, mask = batch["teacher_logits"], batch["loss_mask"]
        real = torch.isfinite(teacher)
        log_p = torch.where(real, teacher - log_sum_exp(teacher).unsqueeze(-1), 0)
        p = torch.where(real, log_p.exp(), 0)
        entropy = -reduce_from_tensor_model_parallel_region((p * log_p).sum(-1))
        cross = reduce_from_tensor_model_parallel_region((p * torch.where(real, outputs.logits, 0)).sum(-1))
        kl = log_sum_exp(outputs.logits) - cross - entropy
        return (kl * mask).sum(), {"teacher_entropy": ((entropy * mask).sum(), mask.sum())}


class WholeTeacher(Teacher):
    """The same in a layout of its own: whole on each rank that computes the loss, whatever the student's layout is."""

    def setup(self, setup):
        own, _ = torch.distributed.new_subgroups(1)
        names = {field.name for field in fields(ProcessGroupCollection)} - {"hcp"}
        groups = ProcessGroupCollection(**dict.fromkeys(names, own))
        alone = replace(setup.config, parallel=ParallelConfig(use_distributed_optimizer=False))
        config = transformer_config(setup.shape, alone, setup.precision)
        self.chunks = []
        if setup.chunks[-1].post_process:
            sizes = setup.vocab_size, setup.padded_vocab_size
            (model,) = build_model(setup.shape, *sizes, config, self.options.seed, groups=groups)
            self.chunks = [model.eval().requires_grad_(False)]

    def before_forward(self, batch, computes_loss):
        if computes_loss:
            super().before_forward(batch, computes_loss)
            parts = batch["teacher_logits"].chunk(get_tensor_model_parallel_world_size(), -1)
            batch["teacher_logits"] = parts[get_tensor_model_parallel_rank()]


class PipelinedTeacher(Teacher):
    """The same where the second model has pipeline stages: it runs through a schedule of its own before the step."""

    def before_forward(self, batch, computes_loss):
        assert "teacher_logits" in batch or not computes_loss

    @torch.no_grad()
    def before_step(self, step, batches):
        def forward(remaining, chunk):
            batch = next(remaining)
            logits = chunk(batch["tokens"], None, batch.get("attention_mask"))
            return logits, lambda logits: (logits.new_zeros(()), torch.ones(()).int(), {"teacher_logits": logits})

        several = len(self.chunks) > 1
        outputs = get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=[iter(batches) for _ in self.chunks] if several else iter(batches),
            model=self.chunks if several else self.chunks[0],
            num_microbatches=len(batches),
            seq_length=self.seq_length,
            micro_batch_size=self.micro_batch_size,
            forward_only=True,
        )
        return [batch | output for batch, output in zip(batches, outputs)] if outputs else batches


class SequenceMean(Objective):
    """Mean over sequences of the largest token loss: counts sequences, not tokens."""

    def count(self, batch):
        return batch["loss_mask"].any(1).sum()

    def loss(self, outputs, batch):
        return (outputs.token_losses * batch["loss_mask"]).amax(1).sum(), {}


class Rotating(Objective):
    """Shifts the tokens of each batch by what it has seen so far, so that a run depends on its state."""

    metrics = ("shift",)

    def __init__(self, options):
        super().__init__(options)
        self.seen = 0
        self.history = torch.zeros(3)

    def before_step(self, step, batches):
        if not step.training:
            return batches
        self.seen += 1
        assert step.number == self.seen
        self.history[step.number % 3] += self.seen
        shift = int(self.history.sum()) % 5
        return [
            batch | {"tokens": (batch["tokens"] + shift) % 500, "shift": torch.tensor(float(shift))}
            for batch in batches
        ]

    def loss(self, outputs, batch):
        one = torch.ones(())
        metrics = {"shift": (batch["shift"], one)} if "shift" in batch else {}
        return (outputs.token_losses * batch["loss_mask"]).sum(), metrics

    def state_dict(self):
        return {"seen": self.seen, "history": self.history.clone()}

    def load_state_dict(self, state):
        self.seen, self.history = state["seen"], state["history"].clone()


class Both(Objective):
    """Reads logits and token losses, and is not a part of validation."""

    needs = frozenset({LOGITS, TOKEN_LOSSES})
    in_validation = False

    def loss(self, outputs, batch):
        mask = batch["loss_mask"]
        return ((outputs.token_losses + 1e-4 * log_sum_exp(outputs.logits).square()) * mask).sum(), {}


class Faulty(Objective):
    """Does not keep to the interface."""

    Options = dataclass(type("Options", (), {"__annotations__": {"fault": "str"}, "fault": key("", "Which.")}))

    def loss(self, outputs, batch):
        total = outputs.token_losses.sum()
        return {
            "no tuple": total,
            "shape": (outputs.token_losses, {}),
            "gradient": (total.detach(), {}),
            "metric": (total, {"extra": (total, total)}),
            "nan": (total * float("nan"), {}),
        }[self.options.fault]
