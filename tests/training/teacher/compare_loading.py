"""Weights read from a Hugging Face folder against those of the imported checkpoint: ``-m ...compare_loading JOB.json``.

The job is a list of ``[folder, checkpoint]``; prints how many tensors were equal for each, or fails.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch

from megatron_ipt.training.config import TrainingConfig
from megatron_ipt.training.cpu import cuda_stand_in
from megatron_ipt.training.ranks import layout
from megatron_ipt.training.teacher.config import TeacherConfig
from megatron_ipt.training.teacher.source import TeacherSource


def compare(folder: str, checkpoint: str) -> int:
    from megatron.core.process_groups_config import ProcessGroupCollection

    from megatron_ipt.training.checkpoints.checkpoint import load_model_weights
    from megatron_ipt.training.model.build import build_model, transformer_config
    from megatron_ipt.training.teacher.hugging_face import load_hugging_face_weights

    source, imported = (TeacherSource.read(TeacherConfig(path=path)) for path in (folder, checkpoint))
    assert imported.padded_vocab_size is not None
    assert (source.shape, source.vocab_size) == (imported.shape, imported.vocab_size)
    groups = ProcessGroupCollection.use_mpu_process_groups()
    sizes = source.shape, source.vocab_size, imported.padded_vocab_size
    config = transformer_config(source.shape, TrainingConfig(), "fp32")
    (one,), (other,) = (build_model(*sizes, config, seed) for seed in (1, 2))
    load_hugging_face_weights(one, groups, source.folder, *sizes)
    load_model_weights(other, imported.folder)
    for (name, parameter), wanted in zip(one.named_parameters(), other.parameters()):
        assert torch.equal(parameter, wanted), name
    return len(list(one.parameters()))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    cuda_stand_in.install()
    layout.start_process_group()
    layout.start_model_parallel(TrainingConfig())
    print(json.dumps([compare(*pair) for pair in json.loads(Path(sys.argv[1]).read_text())]))
