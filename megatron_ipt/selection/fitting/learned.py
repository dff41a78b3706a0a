"""A learned scorer: a model that reads a text and says what it is worth, and the folder in which it is kept.

=============== ==========================================================================================
``trunk/``      Hugging Face folder of the model that reads, with its tokenizer
``head.npy``    fp64 [width + 1], weights and bias of the linear head on the mean of its hidden states
``scorer.json`` how it was fitted, how well it orders held-out documents, and hashes of the other files
=============== ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from megatron_ipt.errors import InputError, RecipeError, StageError
from megatron_ipt.files import read_json, write_json
from megatron_ipt.inference.tokenizer import find_tokenizer
from megatron_ipt.manifest import fingerprint_file
from megatron_ipt.selection.pds.fit import linear_head, mean_pool

if TYPE_CHECKING:
    import torch

SCORER_FOLDER = "scorer"
"""In the folder of the stage."""
TRUNK, HEAD, ABOUT = "trunk", "head.npy", "scorer.json"
FORMAT = 1
_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json")


class Texts(NamedTuple):
    """Texts that are read at once, padded on the right.

    Attributes:
        ids: int64 [texts, seq].
        mask: 1 for tokens of a text, int64 [texts, seq].
    """

    ids: torch.Tensor
    mask: torch.Tensor


def texts_of(rows: Sequence[Sequence[int]], device: Any = None) -> Texts:
    """``rows`` of token ids as one batch."""
    import torch

    width = max(map(len, rows))
    ids, mask = np.zeros((2, len(rows), width), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return Texts(*(torch.from_numpy(array).to(device) for array in (ids, mask)))


def pooled(trunk: torch.nn.Module, texts: Texts) -> torch.Tensor:
    """Means of the last hidden states over the tokens of each text, [texts, width]."""
    return mean_pool(trunk(input_ids=texts.ids, attention_mask=texts.mask).last_hidden_state, texts.mask)


def regressor(trunk: torch.nn.Module, head: torch.nn.Module) -> torch.nn.Module:
    """A model that maps :class:`Texts` to predicted scores, [texts]."""
    import torch

    class Regressor(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.head = trunk, head

        def forward(self, texts: Texts) -> torch.Tensor:
            predicted: torch.Tensor = self.head(pooled(self.trunk, texts))
            return predicted

    return Regressor()


def load_trunk(folder: str | Path, key: str, dtype: str = "float32") -> Any:
    """The model without its language head.

    Args:
        key: recipe key that names it, for errors.

    Raises:
        InputError: transformers cannot load it.
    """
    import torch
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    # Weights of the language head, which are not needed, are no reason for a warning.
    logging.set_verbosity_error()
    try:
        return AutoModel.from_pretrained(folder, dtype=dtype if dtype == "auto" else getattr(torch, dtype))
    except (OSError, ValueError) as error:
        raise InputError(f"{key}: {folder} cannot be loaded by transformers: {error}") from error


def save(folder: Path, trunk: Any, head: torch.nn.Module, tokenizer: str | Path, about: dict[str, Any]) -> None:
    """Writes a scorer to a folder that is there and empty.

    Args:
        tokenizer: folder or file of the tokenizer.
        about: for ``scorer.json``; ``spearman``, ``seq_length``, ``prepend_bos`` and ``append_eod`` among them.
    """
    trunk.save_pretrained(folder / TRUNK)
    source = find_tokenizer(tokenizer)
    for file in (source, *(source.parent / name for name in _TOKENIZER_FILES)):
        if file.is_file():
            (folder / TRUNK / file.name).write_bytes(file.read_bytes())
    np.save(folder / HEAD, _flat(head))
    files = {str(path.relative_to(folder)): _content(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    write_json(folder / ABOUT, {"format": FORMAT, **about, "files": files})


def read_about(folder: Path, key: str) -> dict[str, Any]:
    """``scorer.json`` of a scorer that may be used.

    Args:
        key: recipe key that names the folder, for errors.

    Raises:
        InputError: there is no scorer, its files are not those that were written, or it is of a newer format.
        StageError: it orders held-out documents no better than chance.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise InputError(f"{key}: {folder}: no learned scorer (no {ABOUT}); `megatron-ipt fit-scorer` makes one")
    about: dict[str, Any] = read_json(path)
    if about.get("format") != FORMAT:
        raise InputError(f"{path}: format {about.get('format')}, and this version reads {FORMAT}; fit the scorer again")
    for name, content in about["files"].items():
        if not (folder / name).is_file() or _content(folder / name) != content:
            raise InputError(f"{folder / name}: is missing or was changed after it was written; fit the scorer again")
    if not about["spearman"] > 0:
        raise StageError(
            f"{key}: {folder}: the Spearman correlation of its predictions with the scores of held-out documents is "
            f"{about['spearman']:.3f}: it would select at random; fit it again with more documents or epochs"
        )
    return about


def check_framing(folder: Path, prepend_bos: bool, append_eod: bool, prefix: str) -> None:
    """Refuses to score texts that are framed otherwise than those that the scorer learned from.

    Args:
        prefix: path of the section of the scorer in the recipe.

    Raises:
        RecipeError: names the key.
        InputError, StageError: the scorer cannot be used, see :func:`read_about`.
    """
    about = read_about(folder, f"{prefix}.generation.model")
    for name, value in (("prepend_bos", prepend_bos), ("append_eod", append_eod)):
        if about[name] != value:
            raise RecipeError(
                f"{prefix}.{name}: is {str(value).lower()}, and the scorer in {folder} was fitted with "
                f"{str(about[name]).lower()}; set it to that"
            )


def load(folder: Path, key: str, dtype: str = "float32") -> torch.nn.Module:
    """The scorer in ``folder``, in evaluation mode on the CPU.

    Raises:
        InputError, StageError: it cannot be used, see :func:`read_about`.
    """
    import torch

    read_about(folder, key)
    trunk = load_trunk(folder / TRUNK, key, dtype)
    try:
        values = np.load(folder / HEAD, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{folder / HEAD}: cannot be read: {error}; fit the scorer again") from error
    head = linear_head(len(values) - 1)
    with torch.no_grad():
        for parameter, value in zip(head.parameters(), (values[None, :-1], values[-1:])):
            parameter.copy_(torch.from_numpy(value))
    return regressor(trunk, head.to(trunk.dtype)).eval()


def _flat(head: torch.nn.Module) -> np.ndarray[Any, np.dtype[np.float64]]:
    weight, bias = (parameter.detach().double().cpu().numpy() for parameter in head.parameters())
    return np.concatenate([weight[0], bias])


def _content(path: Path) -> list[Any]:
    printed = fingerprint_file(path)
    return [printed["bytes"], printed["xxh128"]]
