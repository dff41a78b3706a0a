"""Logits, scores and texts of a checkpoint in this process, without torchrun: for notebooks, evaluation, parity tests.

Where there is no GPU, the first model installs the CPU stand-in for CUDA
(:mod:`~megatron_ipt.training.cpu.cuda_stand_in`), which changes torch for the rest of the process. To score much text,
or with a model that one device cannot hold, use :mod:`megatron_ipt.training.scoring.ranks`, which starts processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from megatron_ipt.errors import InputError, RecipeError, StageError
from megatron_ipt.inference.scoring import Score, ScoreRequest
from megatron_ipt.seeding import derive
from megatron_ipt.training.checkpoints.model_file import checkpoint_folder
from megatron_ipt.training.config import ParallelConfig
from megatron_ipt.training.scoring import single_rank
from megatron_ipt.training.scoring.texts import Limits, check_requests, collate, plan, scores

if TYPE_CHECKING:
    from megatron_ipt.training.scoring.forward_model import ForwardModel


class CheckpointModel:
    """The model of a checkpoint on a single rank, on the GPU if there is one.

    Any number of them, of any family and size, can be open at the same time and may be closed in any order. They may be
    used from several threads, which then wait for each other. Use as a context manager, or call :meth:`close`.

    Args:
        folder: of the checkpoint (``.../iter_0000100`` or ``.../release``), or the folder that holds its tracker file.
        precision: fp32 or bf16, whatever the checkpoint is in.

    Attributes:
        description: the checkpoint's ``model.json``: sizes, vocabulary, iteration.

    Raises:
        InputError: the folder is not a checkpoint of this package, or is damaged.
        RecipeError: the precision is neither.
        StageError: this process is a rank that holds a model together with others.
    """

    def __init__(self, folder: Path | str, precision: str = "fp32"):
        if precision not in ("fp32", "bf16"):
            raise RecipeError(f"precision: {precision!r} is not one of fp32, bf16")
        self._folder = checkpoint_folder(Path(folder))
        self._model: ForwardModel | None = None
        single_rank.acquire()
        try:
            from megatron_ipt.training.scoring.forward_model import ForwardModel

            self._model = ForwardModel(self._folder, precision, ParallelConfig())
        finally:
            if self._model is None:
                single_rank.release()
        self.description = self._model.description
        shape = self.description.shape
        self._limits = Limits(self.description.vocab_size, shape.max_position_embeddings)

    @property
    def module(self) -> Any:
        """Megatron-Core's model, for a look at its layers."""
        return self._opened().module

    def logits(self, ids: Any) -> torch.Tensor:
        """Next-token logits.

        Args:
            ids: token ids, [batch, seq]: a tensor, an array, or lists of equal length.

        Returns:
            [batch, seq, vocab] in fp32, padding of the vocabulary removed. To score texts use :meth:`score`, which
            never holds that much at once.

        Raises:
            InputError: an id is outside the vocabulary, or there are more tokens than the model has positions.
        """
        model = self._opened()
        array = self._limits.checked_ids(ids.cpu() if torch.is_tensor(ids) else ids, "logits")
        if array.ndim != 2:
            raise InputError(f"logits: expected ids of shape [batch, seq], found {list(array.shape)}")
        self._limits.check_length(array.shape[1], "logits")
        return model.logits(torch.from_numpy(array))[..., : self._limits.vocab_size].float()

    def score(self, requests: Sequence[ScoreRequest], batch_tokens: int = 8192) -> list[Score]:
        """Summed log-likelihoods of texts, batched by length.

        Args:
            batch_tokens: maximum tokens of one forward pass, padding included; a longer text goes alone.

        Returns:
            One score per request, in order.

        Raises:
            InputError: a request cannot be scored; names its index.
            StageError: a score is NaN or infinite; names the index of the request.
        """
        model = self._opened()
        texts = check_requests(requests, self._limits)
        sums = np.zeros(len(texts))
        for indices in plan(texts, batch_tokens):
            found = model.summed_log_probabilities([collate([texts[index] for index in indices])])
            assert found is not None  # There is one stage.
            sums[indices] = found[0]
        return scores(texts, sums)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        end_ids: Sequence[int] = (),
        temperature: float = 0.0,
        seed: int = 0,
        batch_rows: int = 64,
    ) -> list[list[int]]:
        """Continuations of ``prompts``, in their order, without the token that ends them.

        Args:
            prompts: token ids of each.
            max_new_tokens: limit for each; the model's positions are another.
            end_ids: tokens that end a text.
            temperature: 0 always takes the likeliest token.
            seed: of the random choices; prompt i has its own stream, whatever else is generated.
            batch_rows: prompts that are continued together.

        Raises:
            InputError: a prompt is empty, has ids outside the vocabulary or leaves no room; names its index.
            RecipeError: the temperature is negative.
        """
        from megatron_ipt.training.rollouts import choice, generate

        model, positions = self._opened(), self._limits.positions
        ids = [self._limits.checked_ids(prompt, f"prompt {index}") for index, prompt in enumerate(prompts)]
        seeds = [derive(seed, "prompt", index) for index in range(len(prompts))]
        limits = generate.Limits(max_new_tokens, positions, tuple(end_ids), batch_rows)
        found = model.generate([row.tolist() for row in ids], seeds, choice.Choice(temperature), limits)
        return [text.ids[: len(text.ids) - text.finished].tolist() for text in found]

    def close(self) -> None:
        """Frees the model. Closing twice is harmless."""
        if self._model is not None:
            self._model = None
            single_rank.release()

    def _opened(self) -> ForwardModel:
        if self._model is None:
            raise StageError(f"{self._folder}: this CheckpointModel is closed; open the checkpoint again")
        return self._model

    def __enter__(self) -> CheckpointModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
