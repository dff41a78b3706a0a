"""Holds divergences of a vocabulary that ranks split against those of the whole one: ``torchrun ... OUTPUT.json``.

The first rank writes the greatest difference of each figure, and the number of collectives of the backward passes.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from megatron_ipt.training.objectives import divergence as d, vocabulary
from megatron_ipt.training.objectives.divergence import shard
from tests.training.objectives.divergence.formulas import FORMULAS
from tests.training.objectives.divergence.test_divergence import logits, named

COLUMNS = 12
"""On each rank."""


class Split:
    """The columns of this rank, and back to all of them."""

    def __init__(self, group: Any):
        self.group = group
        self.backward_collectives = 0

    def part(self, whole: torch.Tensor) -> torch.Tensor:
        return whole.chunk(self.group.size(), -1)[self.group.rank()] if self.group else whole

    def whole(self, part: torch.Tensor) -> torch.Tensor:
        if self.group is None:
            return part
        parts = [torch.empty_like(part) for _ in range(self.group.size())]
        dist.all_gather(parts, part.contiguous(), group=self.group)
        return torch.cat(parts, -1)

    def gradient(self, values: torch.Tensor, weights: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
        with mock.patch.object(shard, "all_reduce", side_effect=dist.all_reduce) as called:
            (slope,) = torch.autograd.grad(values, student, weights)
        self.backward_collectives += called.call_count
        return self.whole(slope)


def everything(split: Split, student: torch.Tensor, teacher: torch.Tensor, size: int) -> dict[str, list[torch.Tensor]]:
    """Values and gradients of all functions, the latter for the whole vocabulary."""
    group, weights = split.group, logits(*student.shape[:-1], seed=3).to(student)
    found = {}
    for name in FORMULAS:
        own = split.part(student).requires_grad_()
        values = named(name)(own, split.part(teacher), size, group, temperature=1.3)
        found[name] = [values.detach(), split.gradient(values, weights, own)]
    chosen = d.top_k(split.part(teacher), 9, size, group, temperature=1.3)
    own = split.part(student).requires_grad_()
    values = d.top_k_forward_kl(own, chosen, size, group, temperature=1.3)
    found["top_k"] = [each.to(student.dtype) for each in chosen]
    found["top_k_forward_kl"] = [values.detach(), split.gradient(values, weights, own)]
    found["compare"] = list(d.compare(split.part(student), split.part(teacher), size, group))
    return found


def log_softmax(split: Split, student: torch.Tensor, size: int) -> list[torch.Tensor]:
    own = split.part(student).requires_grad_()
    values = d.log_softmax(own, size, split.group)
    weights = split.part(logits(*student.shape, seed=4).to(student))
    return [split.whole(values.detach())[..., :size], split.whole(torch.autograd.grad(values, own, weights)[0])]


def main(output: Path) -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    vocabulary.PART = 3 * COLUMNS
    split, alone = Split(dist.group.WORLD), Split(None)
    width = COLUMNS * dist.get_world_size()
    differences: dict[str, float] = {}
    # One entry is padding, or the last rank has nothing else.
    for size in (width - 1, width - COLUMNS - 2):
        for dtype in (torch.float32, torch.float64):
            student, teacher = (logits(2, 5, width, seed=seed).to(dtype) for seed in (0, 1))
            student[..., size:], teacher[..., size:] = -math.inf, 5.0
            student[0, 0] = teacher[0, 0].round()
            teacher[0, 1] = teacher[0, 1].round()
            results = [everything(each, student, teacher, size) for each in (split, alone)]
            for each, found in zip((split, alone), results):
                found["log_softmax"] = log_softmax(each, student, size)
            for name, pairs in results[0].items():
                for ours, wanted in zip(pairs, results[1][name]):
                    difference = ((ours - wanted).abs().max() / wanted.abs().max().clamp(min=1)).item()
                    differences[f"{name} {dtype}"] = max(differences.get(f"{name} {dtype}", 0.0), difference)
    if dist.get_rank() == 0:
        output.write_text(json.dumps({"collectives": split.backward_collectives, "differences": differences}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
