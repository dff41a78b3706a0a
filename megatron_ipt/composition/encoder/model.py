"""A sentence encoder in a Hugging Face folder, as its own files say it is to be used.

Folders of sentence-transformers say in ``modules.json`` how the states of a text become one vector and whether that is
scaled to length 1, and in ``sentence_bert_config.json`` how many tokens are read. A folder without them gets the mean
over the tokens, unscaled. Batches are fixed by the order and the lengths of the texts, so the same texts give the same
bits on the same machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.composition.config import EncoderConfig
from megatron_ipt.errors import InputError
from megatron_ipt.files import read_json

if TYPE_CHECKING:
    import torch

Vectors = npt.NDArray[np.float32]
_MODES = {
    "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max",
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """How states become vectors.

    Attributes:
        pooling: ``mean``, ``cls`` or ``max``.
        normalize: scale to length 1.
        max_tokens: that are read, special ones included; None for what the model takes.
    """

    pooling: str
    normalize: bool
    max_tokens: int | None


def recipe_of(config: EncoderConfig, key: str = "composition.encoder") -> Recipe:
    """What the folder says, where the section does not say otherwise.

    Raises:
        InputError: there is no such folder, or it pools in a way that is not known here.
    """
    folder = Path(config.model)
    if not (folder / "config.json").is_file():
        raise InputError(f"{key}.model: {folder} is not a Hugging Face folder: it has no config.json")
    pooling, normalize = "mean", False
    if (folder / "modules.json").is_file():
        for module in read_json(folder / "modules.json"):
            kind = str(module.get("type", "")).rpartition(".")[2]
            if kind == "Pooling":
                pooling = _pooling(folder / module["path"] / "config.json", config.pooling, key)
            elif kind == "Normalize":
                normalize = True
            elif kind != "Transformer":
                raise InputError(f"{folder / 'modules.json'}: module {kind} is not supported; use a folder without it")
    path = folder / "sentence_bert_config.json"
    stated = read_json(path).get("max_seq_length") if path.is_file() else None
    return Recipe(
        pooling if config.pooling == "auto" else config.pooling,
        normalize if config.normalize is None else config.normalize,
        config.max_tokens or stated,
    )


def _pooling(path: Path, asked: str, key: str) -> str:
    modes = [name for name, on in read_json(path).items() if name.startswith("pooling_mode_") and on is True]
    if asked == "auto" and (len(modes) != 1 or modes[0] not in _MODES):
        raise InputError(f"{path}: {' and '.join(modes) or 'no mode'} is not supported; set {key}.pooling")
    return _MODES.get(modes[0], "mean") if modes else "mean"


def pool(states: torch.Tensor, mask: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Vectors of texts, [batch, hidden] in float32.

    Args:
        states: last states of the model, [batch, tokens, hidden].
        mask: 1 where there is a token, [batch, tokens].
    """
    import torch

    states = states.float()
    there = mask[..., None].to(states.dtype)
    if recipe.pooling == "cls":
        vectors = states[:, 0]
    elif recipe.pooling == "max":
        vectors = states.masked_fill(there == 0, float("-inf")).amax(1)
    else:
        vectors = (states * there).sum(1) / there.sum(1).clamp(min=1)
    return torch.nn.functional.normalize(vectors, dim=-1) if recipe.normalize else vectors


class SentenceEncoder:
    """A loaded encoder.

    Attributes:
        model: ``AutoModel``.
        tokenizer: ``AutoTokenizer``, fast.
        recipe: how states become vectors.

    Raises:
        InputError: the folder cannot be loaded.
    """

    def __init__(self, config: EncoderConfig, key: str = "composition.encoder"):
        self.recipe = recipe_of(config, key)
        import torch
        from transformers import AutoModel, AutoTokenizer

        cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
        self._batch_tokens = config.batch_tokens
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(config.model, local_files_only=True)
            self.model: Any = AutoModel.from_pretrained(
                config.model, local_files_only=True, dtype=getattr(torch, config.dtype)
            )
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{key}.model: {config.model}: cannot be loaded: {error}") from error
        self.model.to("cuda" if cuda else "cpu").eval()
        stated = getattr(self.model.config, "max_position_embeddings", None)
        self.max_tokens: int = self.recipe.max_tokens or stated or self.tokenizer.model_max_length

    @property
    def dimension(self) -> int:
        """Of vectors."""
        return int(self.model.config.hidden_size)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts, with special tokens, cut to what is read."""
        if not texts:
            return []
        found: list[list[int]] = self.tokenizer(
            list(texts), truncation=True, max_length=self.max_tokens, padding=False
        )["input_ids"]
        return found

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Vectors of texts, [texts, dimension]."""
        import torch

        ids = self.tokenize(texts)
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        with torch.inference_mode():
            for batch in batches(ids, self._batch_tokens):
                vectors[batch] = self.forward([ids[place] for place in batch]).cpu().numpy()
        return vectors

    def forward(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Vectors of one batch of ids, [batch, dimension]; with gradients where they are enabled."""
        import torch

        width = max(map(len, ids))
        pad = self.tokenizer.pad_token_id or 0
        device = self.model.device
        rows = torch.tensor([[*each] + [pad] * (width - len(each)) for each in ids], device=device)
        mask = torch.tensor([[1] * len(each) + [0] * (width - len(each)) for each in ids], device=device)
        states = self.model(input_ids=rows, attention_mask=mask).last_hidden_state
        return pool(states, mask, self.recipe)


def batches(ids: Sequence[Sequence[int]], tokens: int) -> Iterator[list[int]]:
    """Places of texts, the longest first, at most ``tokens`` with padding at a time, one text at least."""
    order = sorted(range(len(ids)), key=lambda place: -len(ids[place]))
    batch: list[int] = []
    for place in order:
        if batch and (len(batch) + 1) * len(ids[batch[0]]) > tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
