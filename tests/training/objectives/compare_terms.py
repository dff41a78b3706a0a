"""Holds loss and gradient of several terms against plain torch on whole logits: ``-m ...compare_terms ROWS``.

Prints, for each combination of terms, how far the first step's loss and gradient norm are from those of a model with
the same weights, whose logits are read with torch's own functions and no padding of the vocabulary.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy, kl_div

from megatron_ipt.config import load
from megatron_ipt.manifest import StageContext
from megatron_ipt.stages import TOKENS
from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.cpu import cuda_stand_in
from megatron_ipt.training.loop.stop import StopRequest
from megatron_ipt.training.ranks import layout
from tests.conftest import REPOSITORY

EXAMPLES = f"{Path(__file__).with_name('examples.py')}"
Z_LOSS = f"{REPOSITORY / 'examples/extensions/z_loss.py'}:ZLoss"
RUN = (
    "model.preset=tiny", "model.num_layers=2", "model.init_method_std=0.1", "data.seq_length=64", "steps=1",
    "global_batch_size=6", "micro_batch_size=2", "optimizer.clip_grad=0", "logging.tensorboard=false",
)  # fmt: skip
TERMS = {
    "weighted": {"next_token": {"weight": 3}},
    "teacher": {"next_token": {"weight": 0.5}, "kl": {"objective": f"{EXAMPLES}:Teacher", "weight": 2}},
    "logits": {"both": {"objective": f"{EXAMPLES}:Both"}, "z": {"objective": Z_LOSS, "weight": 0.01}},
    "counts": {"next_token": {"weight": 0.5}, "sequences": {"objective": f"{EXAMPLES}:SequenceMean", "weight": 2}},
    "all": {
        "next_token": {},
        "kl": {"objective": f"{EXAMPLES}:PipelinedTeacher", "weight": 0.3},
        "z": {"objective": Z_LOSS, "weight": 0},
        "sequences": {"objective": f"{EXAMPLES}:SequenceMean", "weight": -0.2},
    },
}


def overrides(terms: dict[str, dict[str, object]]) -> str:
    return "objectives=" + json.dumps(terms)


def dense_terms(logits: torch.Tensor, teacher: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """(sum, count) of each term over all sequences."""
    mask = batch["loss_mask"]
    losses = cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="none").view_as(mask)
    kl = kl_div(logits.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    log_z = logits.logsumexp(-1)
    tokens = mask.sum()
    return {
        "next_token": (losses * mask).sum() / tokens,
        "kl": (kl * mask).sum() / tokens,
        "both": ((losses + 1e-4 * log_z.square()) * mask).sum() / tokens,
        "z": (log_z.square() * mask).sum() / tokens,
        "sequences": (losses * mask).amax(1).mean(),
    }


def compare(folder: Path, terms: dict[str, dict[str, float]]) -> dict[str, float]:
    from megatron.core import parallel_state

    from megatron_ipt.training.loop.trainer import Trainer
    from megatron_ipt.training.model.build import build_model, transformer_config

    config = load(TrainingConfig, None, [*RUN, overrides(terms)])
    layout.start_model_parallel(config)
    with tempfile.TemporaryDirectory() as output:
        trainer = Trainer(config, StageContext("training", Path(output), 17, {TOKENS: folder}), StopRequest())
        trainer._build_data()
        batches = list(trainer.train_batches.at(0, 3))
        trainer.run()
    sizes = trainer.shape, trainer.vocab_size, trainer.padded_vocab_size
    (model,), (teacher,) = (
        build_model(*sizes, transformer_config(trainer.shape, config, "fp32"), seed) for seed in (17, 5)
    )
    batch = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    logits = model(batch["tokens"], None, None)[..., : trainer.vocab_size]
    with torch.no_grad():
        wanted = teacher(batch["tokens"], None, None)[..., : trainer.vocab_size]
    dense = dense_terms(logits, wanted, batch)
    loss = sum(term.get("weight", 1) * dense[name] for name, term in terms.items())
    loss.backward()
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm()
    parallel_state.destroy_model_parallel()
    return {
        "loss": abs(trainer.loss / float(loss) - 1),
        "gradient": abs(trainer.grad_norm / float(norm) - 1),
        "metrics": max(
            (abs(trainer.term_metrics[f"{name}/loss"] / float(dense[name]) - 1) for name in terms if len(terms) > 1),
            default=0.0,
        ),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    cuda_stand_in.install()
    layout.start_process_group()
    from megatron_ipt.training.objectives import vocabulary

    # Several parts to a micro-batch, the last of them smaller.
    vocabulary.PART = 3000
    print(json.dumps({name: compare(Path(sys.argv[1]), terms) for name, terms in TERMS.items()}))
