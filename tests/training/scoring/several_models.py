"""Opens checkpoints of several families in one process and prints what they give.

``several_models.py FOLDERS.json DAMAGED``: ``FOLDERS.json`` maps a family to the folder of its checkpoints; ``DAMAGED``
is a folder that cannot be loaded. A process of its own, because the stand-in for CUDA changes torch.
"""

from __future__ import annotations

import json
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import torch

from megatron_ipt.errors import UserError
from megatron_ipt.inference.scoring import ScoreRequest
from megatron_ipt.training.checkpoint_model import CheckpointModel
from tests.training.scoring.conftest import POSITIONS, VOCABULARY, make_requests

IDS = torch.arange(2 * POSITIONS).view(2, POSITIONS) % VOCABULARY


def logits(model: CheckpointModel) -> list[Any]:
    found = model.logits(IDS)
    assert found.dtype is torch.float32 and found.shape == (2, POSITIONS, VOCABULARY)
    return found.tolist()


def message(call: Any, *arguments: Any) -> str:
    try:
        call(*arguments)
    except UserError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def groups_exist() -> bool:
    from megatron.core import parallel_state

    return torch.distributed.is_initialized() or parallel_state.model_parallel_is_initialized()


def main(folders: dict[str, str], damaged: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    torch.manual_seed(5)
    models = {family: CheckpointModel(folder) for family, folder in folders.items()}
    bf16 = CheckpointModel(folders["llama"], "bf16")
    found["random"] = torch.rand(1).item()
    found["logits"] = {family: logits(model) for family, model in models.items()}
    found["again"] = {family: logits(model) for family, model in reversed(models.items())}
    requests = make_requests()
    for name, budget in (("scores", 300), ("one by one", 1), ("at once", 10**6)):
        found[name] = {
            family: [(score.log_likelihood, score.tokens) for score in model.score(requests, budget)]
            for family, model in models.items()
        }
    found["bf16"] = [score.log_likelihood for score in bf16.score(requests)]
    found["errors"] = [
        message(models["llama"].logits, [[1, VOCABULARY]]),
        message(models["llama"].logits, [1, 2]),
        message(models["llama"].logits, [[1] * (POSITIONS + 1)]),
        message(models["llama"].score, [ScoreRequest([1, 2]), ScoreRequest([])]),
        message(CheckpointModel, Path(folders["llama"]) / "nowhere"),
        message(CheckpointModel, folders["llama"], "fp8"),
        message(CheckpointModel, damaged),
    ]

    # Closed in the order in which they were opened: the last one still works.
    first, *_, last = models
    bf16.close()
    for family in list(models)[:-1]:
        models[family].close()
        models[family].close()
    found["last"] = logits(models[last])
    found["closed"] = message(models[first].logits, IDS)
    models[last].close()
    found["left"] = groups_exist()

    # Anew after all were closed, from several threads.
    with CheckpointModel(folders[first], "bf16") as one, CheckpointModel(folders[first], "bf16") as other:
        alone = one.score(requests)
        together: list[Any] = []
        threads = [
            threading.Thread(target=lambda model=model: together.append(model.score(requests)))
            for model in (one, other)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found["threads"] = [scores == alone for scores in together]
        found["while open"] = groups_exist()
    found["left"] = found["left"] or groups_exist()

    # A training's groups stay where they are; those that divide a model are refused.
    from megatron.core import parallel_state

    from megatron_ipt.training.config import TrainingConfig
    from megatron_ipt.training.ranks import layout

    layout.start_process_group()
    layout.start_model_parallel(TrainingConfig())
    with CheckpointModel(folders[first]) as model:
        found["beside a training"] = logits(model)
    found["training's groups"] = parallel_state.model_parallel_is_initialized() and torch.distributed.is_initialized()
    parallel_state.set_tensor_model_parallel_world_size(2)
    found["errors"].append(message(CheckpointModel, folders[first]))
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2])))
