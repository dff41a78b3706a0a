"""Logits of a trained checkpoint, in this process and without torchrun: for evaluation and parity tests.

Installs the CPU stand-in for CUDA (:mod:`~megatron_ipt.training.cpu.cuda_stand_in`), which changes torch for the
rest of the process; call it from a process made for the purpose.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import torch

from megatron_ipt.training.cpu import cuda_stand_in


class CheckpointModel:
    """The model of one checkpoint folder (``.../iter_0000100``) in fp32, on a single rank.

    Use as a context manager, or call :meth:`close`: Megatron-Core's groups are global to the process.

    Attributes:
        description: the checkpoint's ``model.json``.
        module: the model, for who wants to look at its layers.

    Raises:
        InputError: the folder is no checkpoint of this package, or is damaged.
    """

    def __init__(self, folder: Path):
        cuda_stand_in.install()
        from megatron_ipt.training.checkpoints.checkpoint import load_model_weights
        from megatron_ipt.training.checkpoints.model_file import ModelFile
        from megatron_ipt.training.config import TrainingConfig
        from megatron_ipt.training.model.build import build_model, transformer_config
        from megatron_ipt.training.ranks.layout import start_model_parallel, start_process_group

        self.description = ModelFile.read(Path(folder))
        config = TrainingConfig()
        self._own_process_group = not torch.distributed.is_initialized()
        if self._own_process_group:
            start_process_group()
        start_model_parallel(config)
        described = self.description
        megatron_config = transformer_config(described.shape, config, "fp32")
        (self.module,) = build_model(
            described.shape, described.vocab_size, described.padded_vocab_size, megatron_config, seed=0
        )
        load_model_weights(self.module, Path(folder))
        self.module.eval()

    @torch.inference_mode()
    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Next-token logits.

        Args:
            tokens: ids, [batch, seq], int64.

        Returns:
            [batch, seq, vocab] in fp32, padding of the vocabulary removed.
        """
        output = self.module(tokens.to(torch.cuda.current_device()), None, None)
        return output[..., : self.description.vocab_size].float()

    def close(self) -> None:
        from megatron.core import parallel_state

        parallel_state.destroy_model_parallel()
        if self._own_process_group:
            torch.distributed.destroy_process_group()

    def __enter__(self) -> CheckpointModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
