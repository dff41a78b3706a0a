"""One rank that decodes with checkpoints of several families: ``-m tests.training.rollouts.texts JOBS.json``.

A job names a layout and, by family, the folder of a model and of its teacher; what was found goes to its ``output``.
"""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from megatron_ipt.seeding import derive
from megatron_ipt.training.config import ParallelConfig, TrainingConfig
from tests.convert.models import VOCABULARY

END = 2
POSITIONS = 64
PIECES = (3, 1, 1, 4, 2, 9, 1, 1)
"""Tokens read at a time of :func:`whole_text`."""


def prompts() -> list[list[int]]:
    """Lengths that share a batch, that need one of their own, and that leave room for one token."""
    generator = np.random.default_rng(3)
    return [generator.integers(3, VOCABULARY, length).tolist() for length in (5, 5, 9, 1, 40, 20, 63, 60, 33)]


def whole_text() -> list[int]:
    return np.random.default_rng(4).integers(3, VOCABULARY, sum(PIECES)).tolist()


def found_by(model: Any, teacher: Any) -> dict[str, Any]:
    import torch

    from megatron_ipt.training.rollouts.choice import Choice
    from megatron_ipt.training.rollouts.decoder import Decoder, Feed
    from megatron_ipt.training.rollouts.generate import Limits, generate

    decoder, other = (Decoder(each.module, VOCABULARY) for each in (model, teacher))
    texts, limits = prompts(), Limits(25, POSITIONS, (END,), 4)
    seeds = [derive(7, "prompt", index) for index in range(len(texts))]

    def made(choice: Choice, limits: Limits = limits, which: range = range(len(texts)), **beside: Any) -> list[Any]:
        results = generate(decoder, [texts[i] for i in which], [seeds[i] for i in which], choice, limits, **beside)
        return [{name: np.asarray(value).tolist() for name, value in asdict(text).items()} for text in results]

    steps = []
    with decoder.ready():
        cache, ids = decoder.cache(2, POSITIONS), torch.tensor([whole_text()] * 2)
        for end, size in zip(np.cumsum(PIECES), PIECES):
            steps += [part[1].tolist() for part in decoder.read([Feed(ids[:, end - size : end], cache)])]
    found = {
        "steps": steps,
        "greedy": made(Choice(0.0)),
        "mixed": made(Choice(1.0, 0.4), teacher=other),
        "left": [model.module.config.sequence_parallel, model.module.training],
    }
    if torch.distributed.get_world_size() == 1:
        found |= {
            "sampled": made(Choice(0.9)),
            "alone": made(Choice(0.9), Limits(25, POSITIONS, (END,), 1)),
            "some": made(Choice(0.9), which=range(2, 7)),
            "teacher": made(Choice(0.0, 1.0), teacher=other),
        }
    return found


def main(jobs: list[dict[str, Any]]) -> None:
    from megatron_ipt.training.cpu import cuda_stand_in
    from megatron_ipt.training.ranks import layout

    cuda_stand_in.install()
    layout.start_process_group()

    import torch

    for job in jobs:
        decode(job)
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def decode(job: dict[str, Any]) -> None:
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    from megatron_ipt.training.ranks import layout
    from megatron_ipt.training.scoring.forward_model import ForwardModel

    parallel = ParallelConfig(**job["parallel"])
    layout.start_model_parallel(TrainingConfig(parallel=parallel))
    model_parallel_cuda_manual_seed(1)
    found = {}
    for family, folders in job["families"].items():
        model, teacher = (ForwardModel(Path(folder), "fp32", parallel) for folder in folders)
        found[family] = found_by(model, teacher)
    # Every rank knows the texts; the last stage knows the logits.
    if parallel_state.is_pipeline_last_stage() and parallel_state.get_tensor_model_parallel_rank() == 0:
        Path(job["output"]).write_text(json.dumps(found))
    parallel_state.destroy_model_parallel()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(json.loads(Path(sys.argv[1]).read_text()))
