"""Holds gradients of a student under many layouts against the dense formula: ``torchrun ... JOBS.json OUTPUT.json``.

A job is ``{"name", "overrides", "tokens", "teacher"}``. The reference is a whole student on every rank with the same
weights, a teacher that transformers runs, and the divergence as textbooks have it, over the whole batch at once. The
first rank writes, for each job, the greatest difference of a gradient relative to the greatest gradient, and of figures
that were logged.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megatron_ipt.config import load
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import TOKENS
from megatron_ipt.training.config import ParallelConfig, TrainingConfig
from megatron_ipt.training.cpu import cuda_stand_in
from megatron_ipt.training.loop.stop import StopRequest
from megatron_ipt.training.ranks import layout
from tests.training.objectives.divergence.formulas import FORMULAS
from tests.training.teacher.models import read_teacher

RUN = (
    "model.preset=tiny", "model.num_layers=2", "model.num_query_groups=4", "model.init_method_std=0.1",
    "data.seq_length=64", "steps=1", "global_batch_size=8", "micro_batch_size=1", "optimizer.clip_grad=0",
    "logging.tensorboard=false", "parallel.use_distributed_optimizer=false",
)  # fmt: skip


def shards(chunk: Any, of: str) -> Iterator[tuple[tuple[Any, ...], tuple[slice, ...], torch.Tensor]]:
    """(name and layer, place in the whole tensor, this rank's part) of every parameter's attribute ``of``."""
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories

    weights = {name: parameter.data for name, parameter in chunk.named_parameters()}
    for parameter in chunk.parameters():
        parameter.data = getattr(parameter, of)
    state = chunk.sharded_state_dict()
    apply_factories(state)
    for shard in nested_values(state):
        if isinstance(shard, ShardedTensor):
            axes = shard.prepend_axis_num
            place = tuple(slice(a, a + b) for a, b in zip(shard.global_offset[axes:], shard.data.shape))
            yield (shard.key, *shard.global_offset[:axes]), place, shard.data.detach().clone()
    for name, parameter in chunk.named_parameters():
        parameter.data = weights[name]


def whole_batch(trainer: Any) -> dict[str, torch.Tensor]:
    """All sequences of the step, whatever this rank trains on."""
    from megatron_ipt.training.data.batches import Batches
    from megatron_ipt.training.ranks.layout import Layout

    size = trainer.config.global_batch_size
    alone = Batches(trainer.train_data, 1, Layout(1, 1, 1, 1, size), 0, 0)
    batches = list(alone.at(0, size))
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


@torch.no_grad()
def teacher_logits(folder: Path, tokens: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Of the entries that the models have in common, from transformers. That takes long to import: one rank does."""
    logits = torch.empty(*tokens.shape, vocabulary)
    if dist.get_rank() == 0:
        logits = read_teacher(folder)(tokens).logits[..., :vocabulary].contiguous()
    dist.broadcast(logits, 0)
    return logits


def reference(trainer: Any, teacher: Path) -> tuple[dict[Any, torch.Tensor], dict[str, float]]:
    """Gradients of all parameters by name and layer, and figures."""
    from megatron.core.process_groups_config import ProcessGroupCollection

    from megatron_ipt.training.model.build import build_model, transformer_config

    own, _ = dist.new_subgroups(1)
    names = {field.name for field in fields(ProcessGroupCollection)} - {"hcp"}
    groups = ProcessGroupCollection(**dict.fromkeys(names, own))
    alone = replace(trainer.config, parallel=ParallelConfig(use_distributed_optimizer=False))
    config = transformer_config(trainer.shape, alone, "fp32")
    (model,) = build_model(trainer.shape, trainer.vocab_size, trainer.padded_vocab_size, config, 17, groups=groups)
    for module in model.modules():
        # The attention takes the context-parallel size from the groups of the run; this model has whole sequences.
        if hasattr(module, "context_size"):
            module.context_size = 1
    batch, settings = whole_batch(trainer), trainer.config.distillation
    student = model(batch["tokens"], None, None)[..., : trainer.vocab_size]
    taught = teacher_logits(teacher, batch["tokens"], trainer.vocab_size)
    q, p = ((logits.double() / settings.temperature).softmax(-1) for logits in (student, taught))
    number = {"jsd": f" {settings.beta}", "skew_reverse_kl": f" {settings.skew}"}.get(settings.objective, "")
    mask, count = batch["loss_mask"], batch["loss_mask"].sum()
    kd = (FORMULAS[settings.objective + number](q, p) * mask).sum() / count

    def next_token(logits: torch.Tensor) -> torch.Tensor:
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).double(), batch["labels"].flatten(), reduction="none"
        )
        return (losses.view_as(mask) * mask).sum() / count

    (settings.alpha * kd + (1 - settings.alpha) * next_token(student)).backward()
    q, p = student.detach().double().softmax(-1), taught.double().softmax(-1)
    means = {name: ((FORMULAS[name](q, p) * mask).sum() / count).item() for name in ("forward_kl", "reverse_kl")}
    means["top1_agreement"] = ((student.argmax(-1) == taught.argmax(-1)) * mask).sum().item() / count.item()
    means["teacher_loss"] = next_token(taught).item()
    figures = {"next_token/loss": next_token(student).item(), "distillation/loss": kd.item()}
    return whole_gradients(model), figures | {f"distillation/{name}": value for name, value in means.items()}


def whole_gradients(model: Any) -> dict[Any, torch.Tensor]:
    """By name and layer; gate and up, which are separate shards, as the one tensor that they are."""
    joined: dict[Any, list[torch.Tensor]] = {}
    for name, _, data in shards(model, "grad"):
        joined.setdefault(name, []).append(data)
    return {name: torch.cat(parts) for name, parts in joined.items()}


def compare(job: dict[str, Any]) -> dict[str, float]:
    from megatron.core import parallel_state

    from megatron_ipt.training.loop.trainer import Trainer

    teacher = Path(job["teacher"])
    overrides = [*RUN, f"distillation.teacher.path={job.get('checkpoint', teacher)}", *job["overrides"]]
    config = load(TrainingConfig, None, overrides)
    layout.start_model_parallel(config)
    with tempfile.TemporaryDirectory() as output:
        context = StageContext("training", Path(output), 17, {TOKENS: Path(job["tokens"])})
        trainer = Trainer(config, context, StopRequest())
        trainer._build_data()
        for chunk in trainer.chunks:
            chunk.zero_grad_buffer()
        sums = trainer._forward(False, trainer.train_batches, 0, trainer.layout.micro_batches)
        trainer._exchange(sums, 0.0, config.global_batch_size)
    wanted, figures = reference(trainer, teacher)
    largest = max(gradient.abs().max() for gradient in wanted.values())
    difference = torch.zeros(())
    for chunk in trainer.modules:
        for name, place, data in shards(chunk, "main_grad"):
            difference = torch.maximum(difference, (data - wanted[name][place]).abs().max() / largest)
    dist.all_reduce(difference, dist.ReduceOp.MAX)
    parallel_state.destroy_model_parallel()
    found = trainer.term_metrics
    assert found["distillation/teacher_seconds"] > 0
    return {"gradient": difference.item()} | {
        name: abs(found[name] - value) / max(1.0, abs(value)) for name, value in figures.items()
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    cuda_stand_in.install()
    layout.start_process_group()
    results = {job["name"]: compare(job) for job in json.loads(Path(sys.argv[1]).read_text())}
    if dist.get_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(results))
    dist.destroy_process_group()
