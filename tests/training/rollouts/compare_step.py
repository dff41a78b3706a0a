"""Holds loss and gradient of a first step on drawn responses against loops over their tokens, in plain torch:
``-m tests.training.rollouts.compare_step ROWS TEACHER``.

Prints, for each objective, how far loss and gradient norm are from those of a model with the same weights.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from megatron_ipt.config import load
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import TOKENS
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.cpu import cuda_stand_in
from megatron_ipt.training.loop.stop import StopRequest
from megatron_ipt.training.ranks import layout

RUN = (
    "model.preset=tiny", "model.num_layers=2", "model.init_method_std=0.1", "data.seq_length=32", "steps=1",
    "global_batch_size=4", "micro_batch_size=2", "optimizer.clip_grad=0", "logging.tensorboard=false",
)  # fmt: skip
ROUND = {"rollouts": 4, "inner_epochs": 1, "max_new_tokens": 9}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "paper": {"objective": "minillm", "on_policy": ROUND, "minillm": {"teacher_share": 0.6}},
    "exact": {
        "objective": "minillm", "on_policy": ROUND, "alpha": 0.5,
        "minillm": {"teacher_share": 0.6, "importance": "exact", "clip": None, "length_norm": False},
    },
    "released": {"objective": "minillm", "on_policy": ROUND, "minillm": {"form": "released", "teacher_share": 0.6}},
    "alone": {"objective": "minillm", "on_policy": ROUND, "minillm": {"form": "released", "teacher_share": 0.0}},
    "dpkd": {"objective": "dpkd", "on_policy": ROUND | {"rollouts": 2}, "dpkd": {"beta": 0.7}},
}  # fmt: skip


class Response:
    """Log-probabilities of both models, one token at a time."""

    def __init__(self, ids: list[int], start: int, model: Any, teacher: Any, vocab_size: int, share: float):
        tokens = torch.tensor([ids])
        log_q = model(tokens, None, None)[0, :, :vocab_size].double().log_softmax(-1)
        with torch.no_grad():
            log_p = teacher(tokens, None, None)[0, :, :vocab_size].double().log_softmax(-1)
        self.q = [log_q[place - 1, ids[place]] for place in range(start, len(ids))]
        self.p = [log_p[place - 1, ids[place]].item() for place in range(start, len(ids))]
        self.kl = [(log_q[i].exp() * (log_q[i] - log_p[i])).sum() for i in range(start - 1, len(ids) - 1)]
        self.then = [value.item() for value in self.q]
        self.r = [p - q for p, q in zip(self.p, self.then)]
        self.w = [math.exp(q) / (share * math.exp(p) + (1 - share) * math.exp(q)) for q, p in zip(self.then, self.p)]


def paper(responses: list[Response]) -> Any:
    total: Any = 0
    for one in responses:
        length = len(one.q)
        for t in range(length):
            behind = sum(one.r[t + 1 :]) / max(length - t - 2, 1)
            ratio = (one.q[t] - one.then[t]).exp() * one.w[t]
            total = total + one.w[t] * one.kl[t] - torch.clamp(ratio, max=1.2) * behind
    return total / len(responses)


def exact(responses: list[Response]) -> Any:
    total: Any = 0
    for one in responses:
        for t in range(len(one.q)):
            behind = sum(math.prod(one.w[: u + 1]) * one.r[u] for u in range(t + 1, len(one.q)))
            total = total + math.prod(one.w[:t]) * one.kl[t] - (one.q[t] - one.then[t]) * behind
    return total / len(responses)


def released(responses: list[Response]) -> Any:
    tables = []
    for one in responses:
        returns: list[float] = []
        for reward in reversed(one.r):
            returns.insert(0, reward / 0.5 + 0.95 * (returns[0] if returns else 0.0))
        divided = [value / (len(returns) - t) for t, value in enumerate(returns)]
        tables.append(divided + [0.0] * (ROUND["max_new_tokens"] - len(divided)))
    flat = [value for table in tables for value in table]
    mean = sum(flat) / len(flat)
    scale = math.sqrt(sum((value - mean) ** 2 for value in flat) / len(flat) + 1e-8)
    total: Any = 0
    for one, table in zip(responses, tables):
        for t in range(len(one.q)):
            advantage = (table[t] - mean) / scale
            ratio = (one.q[t] - one.then[t]).exp() * one.w[t]
            total = total + one.kl[t] - torch.minimum(advantage * ratio, advantage * ratio.clamp(0.8, 1.2))
    return total / sum(len(one.q) for one in responses)


def dpkd(responses: list[Response]) -> Any:
    half = len(responses) // 2
    total: Any = 0
    for preferred, other in zip(responses[:half], responses[half:]):
        a, b = (sum(q - p for q, p in zip(one.q, one.p)) / len(one.q) for one in (preferred, other))
        total = total + torch.log1p(torch.exp(-0.7 * (a - b)))
    return total / half


def compare(name: str, rows: Path, checkpoint: Path) -> dict[str, float]:
    from megatron.core import parallel_state

    from megatron_ipt.training.loop.trainer import Trainer
    from megatron_ipt.training.model.build import build_model, transformer_config
    from megatron_ipt.training.scoring.forward_model import ForwardModel

    section = OBJECTIVES[name] | {"teacher": {"path": str(checkpoint)}}
    config = load(TrainingConfig, None, [*RUN, f"distillation={json.dumps(section)}"])
    layout.start_model_parallel(config)
    with tempfile.TemporaryDirectory() as output:
        trainer = Trainer(config, StageContext("training", Path(output), 17, {TOKENS: rows}), StopRequest())
        trainer._build_data()
        data = list(trainer.train_batches.at(0, 2))
        trainer.run()
    (model,) = build_model(
        trainer.shape,
        trainer.vocab_size,
        trainer.padded_vocab_size,
        transformer_config(trainer.shape, config, "fp32"),
        17,
    )
    teacher = ForwardModel(checkpoint, "fp32", config.parallel).module
    drawn = trainer.objectives.state_dict()["distillation"]
    responses = []
    for ids, start, length in zip(*(drawn[key].tolist() for key in ("ids", "prompt_lengths", "lengths"))):
        share = config.distillation.minillm.teacher_share
        responses.append(Response(ids[: start + length], start, model, teacher, trainer.vocab_size, share))
    formulas = {"paper": paper, "exact": exact, "released": released, "alone": released, "dpkd": dpkd}
    loss = formulas[name](responses)
    own = loss.item()
    if config.distillation.alpha < 1:
        losses = [
            (model(batch["tokens"], None, None, labels=batch["labels"]) * batch["loss_mask"]).sum() for batch in data
        ]
        plain = sum(losses) / sum(batch["loss_mask"].sum() for batch in data)
        loss = 0.5 * loss + 0.5 * plain
    loss.backward()
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm().item()
    parallel_state.destroy_model_parallel()
    lengths = [len(one.q) for one in responses]
    return {
        "loss": trainer.term_metrics["distillation/loss"] - own,
        "gradient": trainer.grad_norm / norm - 1,
        "tokens": trainer.term_metrics["distillation/response_tokens"] - sum(lengths) / len(lengths),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    cuda_stand_in.install()
    layout.start_process_group()
    print(json.dumps({name: compare(name, *map(Path, sys.argv[1:])) for name in OBJECTIVES}))
