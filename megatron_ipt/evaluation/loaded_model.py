"""A model to look at from Python: the same three methods for a Hugging Face folder and a Megatron-Core checkpoint.

Texts are framed as in training, with BOS where the tokenizer has one. Any number of models may be open in one process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.evaluation.language_model import LanguageModel
from megatron_ipt.files import read_json
from megatron_ipt.inference.scoring import Score, ScoreRequest
from megatron_ipt.tokens.dataset.description import DATASET
from megatron_ipt.training.checkpoint_model import CheckpointModel
from megatron_ipt.training.checkpoints.model_file import TRACKER, checkpoint_folder

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_BATCH_TOKENS = 4096


class LoadedModel(ABC):
    """A model with its tokenizer. Use as a context manager, or call :meth:`close`.

    Attributes:
        tokenizer: as transformers loads it; None for a checkpoint without one, which then takes ids only.
    """

    tokenizer: Any

    @abstractmethod
    def logits(self, ids: Any) -> torch.Tensor:
        """Next-token logits: ids [batch, seq] to [batch, seq, vocabulary] in fp32, on the CPU."""

    @abstractmethod
    def _score(self, requests: list[ScoreRequest]) -> list[Score]: ...

    @abstractmethod
    def _continue(self, ids: list[int], max_new_tokens: int, temperature: float, seed: int) -> list[int]:
        """Continuation, without ``ids``, up to EOS."""

    def score(self, texts: Sequence[str | Sequence[int]]) -> list[Score]:
        """Summed log-likelihood of each text and how many tokens it sums over.

        Args:
            texts: strings, or token ids as the model is to see them.

        Raises:
            InputError: a text is empty or longer than the model's context.
        """
        requests = [ScoreRequest(self.encode(text) if isinstance(text, str) else list(text)) for text in texts]
        for number, request in enumerate(requests):
            if len(request.ids) < 2:
                raise InputError(f"score: text {number} has {len(request.ids)} tokens; a score takes at least 2")
        return self._score(requests)

    def generate(self, prompt: str, max_new_tokens: int = 50, temperature: float = 0.0, seed: int = 0) -> str:
        """Continuation of ``prompt``, without the prompt.

        Args:
            temperature: 0 always takes the likeliest token.
            seed: of the draws at a temperature.

        Raises:
            InputError: the prompt leaves no room, or the model came without a tokenizer.
            RecipeError: the temperature is negative.
        """
        new = self._continue(self.encode(prompt), max_new_tokens, temperature, seed)
        return str(self._known_tokenizer().decode(new, skip_special_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, with BOS where the tokenizer has one.

        Raises:
            InputError: the model came without a tokenizer.
        """
        tokenizer = self._known_tokenizer()
        head = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        return [*head, *tokenizer(text, add_special_tokens=False)["input_ids"]]

    @abstractmethod
    def close(self) -> None:
        """Frees the memory of the model."""

    def _known_tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise InputError("this checkpoint has no tokenizer beside it; pass load_model(..., tokenizer=FOLDER)")
        return self.tokenizer

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _HuggingFace(LoadedModel):
    def __init__(self, folder: Path, tokenizer: Path, precision: str):
        self.tokenizer = _open_tokenizer(tokenizer)
        try:
            self._model: Any = LanguageModel(folder, self.tokenizer, _DTYPES[precision])
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: transformers cannot load it: {error}") from error

    def logits(self, ids: Any) -> torch.Tensor:
        logits: torch.Tensor = self._model.logits(torch.as_tensor(ids))
        return logits

    def _score(self, requests: list[ScoreRequest]) -> list[Score]:
        from megatron_ipt.inference.transformers.likelihood import score_batch

        limit = getattr(self._model.model.config, "max_position_embeddings", None)
        for number, request in enumerate(requests):
            if limit is not None and len(request.ids) > limit:
                raise InputError(f"score: text {number} has {len(request.ids)} tokens, the model takes up to {limit}")
        order = sorted(range(len(requests)), key=lambda index: len(requests[index].ids))
        scores: dict[int, Score] = {}
        while order:
            # Neighbours in length, so that little is padded; at least one.
            width = len(requests[order[-1]].ids)
            batch, order = order[-max(1, _BATCH_TOKENS // width) :], order[: -max(1, _BATCH_TOKENS // width)]
            pad = self.tokenizer.eos_token_id or 0
            scores |= dict(zip(batch, score_batch(self._model.model, [requests[index] for index in batch], pad)))
        return [scores[index] for index in range(len(requests))]

    def _continue(self, ids: list[int], max_new_tokens: int, temperature: float, seed: int) -> list[int]:
        new: list[int] = self._model.continuation(ids, max_new_tokens, temperature, seed)
        return new

    def close(self) -> None:
        self._model = None


class _Checkpoint(LoadedModel):
    def __init__(self, folder: Path, tokenizer: Path | None, precision: str):
        self.tokenizer = None if tokenizer is None else _open_tokenizer(tokenizer)
        self._model = CheckpointModel(folder, precision)

    def logits(self, ids: Any) -> torch.Tensor:
        return self._model.logits(ids).cpu()

    def _score(self, requests: list[ScoreRequest]) -> list[Score]:
        return self._model.score(requests)

    def _continue(self, ids: list[int], max_new_tokens: int, temperature: float, seed: int) -> list[int]:
        end = self.tokenizer.eos_token_id
        return self._model.generate([ids], max_new_tokens, () if end is None else (end,), temperature, seed)[0]

    def close(self) -> None:
        self._model.close()


def load_model(path: Path, tokenizer: Path | None = None, precision: str = "fp32") -> LoadedModel:
    """See :func:`megatron_ipt.api.load_model`.

    Raises:
        InputError: ``path`` is neither, or is damaged; or a Hugging Face folder has no tokenizer.
        RecipeError: the precision is unknown.
    """
    if precision not in _DTYPES:
        raise RecipeError(f"precision: {precision!r} is not one of {', '.join(_DTYPES)}")
    if (path / "config.json").is_file():
        return _HuggingFace(path, tokenizer or path, precision)
    if (path / TRACKER).is_file() or (path / "model.json").is_file():
        folder = checkpoint_folder(path)
        return _Checkpoint(folder, tokenizer or _tokenizer_of_run(folder), precision)
    raise InputError(
        f"{path}: not a model; expected a Hugging Face folder (config.json), a checkpoint (iter_*) or the folder of "
        f"checkpoints ({TRACKER})"
    )


def _tokenizer_of_run(checkpoint: Path) -> Path | None:
    """The tokenizer that a run keeps beside its checkpoints: the one of its token data."""
    root = checkpoint.resolve().parent.parent.parent
    for dataset in sorted(root.glob(f"*/{DATASET}")) if root.is_dir() else ():
        return Path(dataset.parent / read_json(dataset)["tokenizer"])
    return None


def _open_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: transformers finds no tokenizer that it can load: {error}") from error
