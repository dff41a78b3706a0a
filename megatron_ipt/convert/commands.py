"""Conversions between a Hugging Face folder and a folder of checkpoints, as plain functions.

The command line, the script in tools/ and notebooks call the same ones.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from megatron_ipt.convert.checkpoint.description import describe
from megatron_ipt.convert.checkpoint.find import find_checkpoint
from megatron_ipt.convert.checkpoint.reader import CheckpointReader
from megatron_ipt.convert.dtypes import DTYPES
from megatron_ipt.convert.exporter import plan_export, write_export
from megatron_ipt.convert.hugging_face.model_card import model_card
from megatron_ipt.convert.hugging_face.tokenizer_files import check_tokenizer, control_ids, tokenizer_files
from megatron_ipt.convert.importer import import_checkpoint
from megatron_ipt.convert.output_folder import unfinished_folder
from megatron_ipt.convert.verify import verify as verify_both
from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.files import is_remote
from megatron_ipt.models.hugging_face_config import TokenIds

logger = logging.getLogger(__name__)

TYPES = ("auto", *DTYPES)


def import_model(
    folder: str | Path,
    checkpoints: str | Path,
    dtype: str = "auto",
    make_vocab_size_divisible_by: int = 128,
    overwrite: bool = False,
    workers: int = 2,
    allow_not_finite: bool = False,
    verify: bool = False,
    text: str | Path | None = None,
) -> dict[str, Any]:
    """Writes the Hugging Face model in ``folder`` to ``checkpoints``/release.

    Args:
        dtype, make_vocab_size_divisible_by, overwrite, workers, allow_not_finite: see
            :func:`megatron_ipt.convert.importer.import_checkpoint`.
        verify: compare tensors and logits of both sides afterwards.
        text: file whose beginning the logits are compared on; random tokens if None.

    Returns:
        What was written and, under ``verified``, what was compared.

    Raises:
        UserError: with the reason.
    """
    source, target = _local(folder), _local(checkpoints)
    _check(dtype, workers)
    if make_vocab_size_divisible_by < 1:
        raise RecipeError(f"--make-vocab-size-divisible-by {make_vocab_size_divisible_by}: expected 1 or more")
    result = import_checkpoint(
        source, target, dtype, make_vocab_size_divisible_by, overwrite, workers, allow_not_finite
    )
    if verify:
        result["verified"] = verify_both(Path(result["checkpoint"]), source, text=_optional(text))
    return result


def export_model(
    checkpoint: str | Path,
    folder: str | Path,
    iteration: int | None = None,
    dtype: str = "auto",
    max_shard_size: str = "5GB",
    tokenizer: str | Path | None = None,
    family: str | None = None,
    vocab_size: int | None = None,
    overwrite: bool = False,
    workers: int = 2,
    allow_not_finite: bool = False,
    verify: bool = False,
    text: str | Path | None = None,
) -> dict[str, Any]:
    """Writes a checkpoint as a Hugging Face model to ``folder``, a new folder.

    Args:
        checkpoint: an ``iter_*`` folder, or the folder with its tracker file.
        iteration: which of the checkpoints there; the latest complete one if None.
        dtype: ``fp32``, ``bf16``, ``fp16``, or ``auto`` for that of the checkpoint.
        max_shard_size: largest safetensors file, e.g. ``5GB``.
        tokenizer: Hugging Face folder whose tokenizer, control ids and generation settings the model gets.
        family: for a checkpoint that Megatron-LM wrote, if it is not a Llama.
        vocab_size: for a checkpoint that Megatron-LM wrote; its padded size if None and not known.
        overwrite: replace an existing ``folder``.
        workers: number of threads.
        allow_not_finite: convert weights that are NaN or infinite, with a warning, instead of rejecting them.
        verify: compare tensors and logits of both sides afterwards.
        text: file whose beginning the logits are compared on; random tokens if None.

    Returns:
        What was written and, under ``verified``, what was compared.

    Raises:
        UserError: with the reason.
    """
    _check(dtype, workers)
    found = find_checkpoint(_local(checkpoint), iteration)
    reader = CheckpointReader(found)
    model = describe(found, reader, family, vocab_size)
    plan = plan_export(reader, model, dtype, max_shard_size)
    tokens = TokenIds(None, None, None)
    if tokenizer is None:
        logger.warning("export: no tokenizer was given, so the model has neither tokenizer files nor control ids")
    else:
        if not tokenizer_files(_local(tokenizer)):
            raise InputError(f"{tokenizer}: contains no tokenizer files")
        check_tokenizer(_local(tokenizer), model.vocab_size)
        tokens = control_ids(_local(tokenizer))
    target = _local(folder)
    identity = {
        "source": plan.identity(),
        "model": [model.shape.as_dict(), model.vocab_size],
        "dtype": dtype,
        "max_shard_size": max_shard_size,
    }
    with unfinished_folder(target, identity, plan.size, overwrite) as partial:
        result = write_export(plan, partial, tokens, workers, allow_not_finite)
        name = found.parent.resolve().name
        (partial / "README.md").write_text(model_card(name, model, result, {}, "converted"))
        if tokenizer is not None:
            for file in [*tokenizer_files(_local(tokenizer)), _local(tokenizer) / "generation_config.json"]:
                if file.is_file():
                    shutil.copyfile(file, partial / file.name)
    result |= {"checkpoint": str(found), "folder": str(target)}
    if verify:
        result["verified"] = verify_both(found, target, text=_optional(text), model=model)
    return result


def _local(path: str | Path) -> Path:
    if is_remote(path):
        raise RecipeError(f"{path}: conversions need local folders; copy the model first")
    return Path(path)


def _optional(path: str | Path | None) -> Path | None:
    if path is None:
        return None
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    return Path(path)


def _check(dtype: str, workers: int) -> None:
    if dtype not in TYPES:
        raise RecipeError(f"--dtype {dtype}: expected one of {', '.join(TYPES)}")
    if workers < 1:
        raise RecipeError(f"--workers {workers}: expected 1 or more")
