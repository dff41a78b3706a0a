"""Holds loss and gradient of rows with a loss mask against transformers: ``-m tests.training.compare_masked ROWS``.

Prints, for rows read whole and for rows whose sequences are kept apart, how far first-step loss and gradient norm are
from those of transformers on the same rows, with label -100 where nothing is to be predicted.
"""

from __future__ import annotations

import json
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
from megatron_ipt.tuning.rows import Row, RowReader
from tests.training.compare_first_step import hugging_face_model, hugging_face_weights

RUN = (
    "model.preset=tiny",
    "model.num_layers=2",
    "model.init_method_std=0.1",
    "data.seq_length=64",
    "steps=1",
    "global_batch_size=6",
    "micro_batch_size=2",
    "optimizer.clip_grad=0",
    "logging.tensorboard=false",
)


def pieces_of(row: Row, apart: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(ids, labels) [1, tokens] of the row, or of each of its sequences."""
    lengths = row.lengths.tolist() if apart else [len(row.ids)]
    ids = torch.from_numpy(row.ids)
    labels = torch.where(torch.from_numpy(row.mask), ids, -100)
    return list(zip(ids[None].split(lengths, dim=1), labels[None].split(lengths, dim=1)))


def compare(folder: Path, apart: bool) -> dict[str, float]:
    from megatron.core import parallel_state

    from megatron_ipt.training.loop.trainer import Trainer

    config = load(TrainingConfig, None, [*RUN, f"data.reset_attention_mask={str(apart).lower()}"])
    layout.start_model_parallel(config)
    with tempfile.TemporaryDirectory() as output:
        trainer = Trainer(config, StageContext("training", Path(output), 17, {TOKENS: folder}), StopRequest())
        trainer._build_data()
        state = trainer.modules[0].state_dict().items()
        weights = {name: tensor.clone() for name, tensor in state if torch.is_tensor(tensor)}
        batches = list(trainer.train_batches.at(0, 3))
        order = trainer.train_data._rounds[0]._order[:6]
        trainer.run()
    parallel_state.destroy_model_parallel()
    reader = RowReader(folder / "train", folder / "train-loss-mask")
    model = hugging_face_model(trainer.shape, trainer.padded_vocab_size, hugging_face_weights(weights, trainer.shape))
    pieces = [piece for index in order for piece in pieces_of(reader[int(index)], apart)]
    predicted = sum(int((labels[:, 1:] != -100).sum()) for _, labels in pieces)
    loss: Any = sum(model(ids, labels=labels, num_items_in_batch=predicted).loss for ids, labels in pieces)
    loss.backward()
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm()
    return {
        "loss": abs(trainer.loss - float(loss)),
        "gradient": abs(trainer.grad_norm / float(norm) - 1),
        "least": min(int(batch["loss_mask"].sum()) for batch in batches),
        "most": max(int(batch["loss_mask"].sum()) for batch in batches),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    cuda_stand_in.install()
    layout.start_process_group()
    print(json.dumps({name: compare(Path(sys.argv[1]), name == "apart") for name in ("whole", "apart")}))
