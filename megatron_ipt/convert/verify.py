"""Checks that a checkpoint and a Hugging Face folder contain the same model.

There are two checks, from cheap to thorough. Every tensor is read back and its hash compared (streamed, no model is
built). Then transformers and Megatron-Core predict the same text on this machine's CPU, compared layer by layer; this
needs memory for the model in fp32, and runs in a separate process because Megatron-Core on CPU changes torch.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import xxhash

from megatron_ipt.convert.checkpoint.description import describe
from megatron_ipt.convert.checkpoint.reader import CheckpointReader
from megatron_ipt.convert.dtypes import type_name
from megatron_ipt.convert.exporter import blocks, plan_export
from megatron_ipt.convert.formats.stored_tensor import as_bytes
from megatron_ipt.convert.hugging_face.weight_files import read_weights
from megatron_ipt.convert.messages import listed
from megatron_ipt.errors import InputError, StageError
from megatron_ipt.training.checkpoints.model_file import MODEL_FILE, ModelFile

logger = logging.getLogger(__name__)

SAME_TYPE_TOLERANCE = 1e-3
OTHER_TYPE_TOLERANCE = 0.1
"""Largest difference of logits, in units of their standard deviation, with and without weights rounded in between."""
_BYTES_PER_PARAMETER = 5
"""Four for fp32, and some that loading needs; the two models are built one after the other."""


def verify(
    checkpoint: Path, folder: Path, logits: bool = True, text: Path | None = None, model: ModelFile | None = None
) -> dict[str, Any]:
    """Compares the checkpoint with the Hugging Face folder, first tensors, then logits.

    Args:
        logits: also build both models and compare what they predict.
        text: file whose beginning is predicted, tokenized by the folder's tokenizer; random ids if None.
        model: description of the checkpoint, if it does not describe itself.

    Returns:
        ``{tensors, hash, same_type}`` and, for the logits, ``{tokens, max_abs_difference, logit_spread,
        argmax_agreement, layers}``; ``layers`` has the largest difference after each layer, in standard deviations. If
        there is not enough memory to build a model, ``logits_not_compared`` says so instead.

    Raises:
        StageError: they are not the same model; names the tensors, or the first layer that differs.
    """
    reader = CheckpointReader(checkpoint)
    model = model or describe(checkpoint, reader)
    result = compare_tensors(reader, model, folder)
    lacking = _lacking_memory(model) if logits else None
    if lacking:
        logger.warning("verify: the tensors are equal; logits were not compared: %s", lacking)
        result["logits_not_compared"] = lacking
    elif logits:
        result |= _compare_logits(checkpoint, folder, model, text)
        _judge(result, checkpoint, folder)
    return result


def _lacking_memory(model: ModelFile) -> str | None:
    import psutil

    needed = _BYTES_PER_PARAMETER * model.shape.parameters(model.padded_vocab_size)
    free = psutil.virtual_memory().available
    if needed <= free:
        return None
    return f"one model in fp32 needs {needed / 1e9:,.1f} GB of memory, only {free / 1e9:,.1f} GB are free"


def compare_tensors(reader: CheckpointReader, model: ModelFile, folder: Path) -> dict[str, Any]:
    """Hashes every tensor of both sides; if the types differ, in the type of either, as one was made from the other.

    Raises:
        InputError: a side cannot be read.
        StageError: tensors differ; lists them.
    """
    plan = plan_export(reader, model, "auto", "5GB")
    weights = read_weights(folder)
    if not model.shape.untie_embeddings_and_output_weights:
        weights.pop("lm_head.weight", None)
    if weights.keys() != plan.parts.keys():
        others = sorted(weights.keys() ^ plan.parts.keys())
        raise StageError(f"{folder} and {reader.folder} do not have the same tensors: only one has {listed(others)}")
    total, different, same_type = xxhash.xxh3_128(), [], True
    for name, part in plan.parts.items():
        theirs, ours = weights[name], reader.dtype(part.megatron)
        same_type = same_type and theirs.dtype == ours
        equal = theirs.shape == part.shape and any(
            _hash(blocks(reader, part), dtype) == _hash(theirs.blocks(), dtype) for dtype in {ours, theirs.dtype}
        )
        if not equal:
            different.append(name)
        total.update(f"{name}={_hash(theirs.blocks(), theirs.dtype)};".encode())
    if different:
        raise StageError(
            f"{reader.folder} and {folder} differ in {len(different)} of {len(plan.parts)} tensors: {listed(different)}"
        )
    return {"tensors": len(plan.parts), "hash": total.hexdigest(), "same_type": same_type}


def _hash(side: Iterator[torch.Tensor], dtype: torch.dtype) -> str:
    digest = xxhash.xxh3_128()
    for block in side:
        digest.update(as_bytes(block.to(dtype)))
    return str(digest.hexdigest())


def _compare_logits(checkpoint: Path, folder: Path, model: ModelFile, text: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="megatron-ipt-verify-") as temporary:
        described = checkpoint
        if not (checkpoint / MODEL_FILE).is_file():
            described = Path(temporary) / checkpoint.name
            described.mkdir()
            for file in checkpoint.iterdir():
                (described / file.name).symlink_to(file.resolve())
            model.write(described)
        answer = Path(temporary) / "answer.json"
        command = [sys.executable, "-W", "ignore", "-m", "megatron_ipt.convert.compare_logits"]
        arguments = [str(described), str(folder), str(answer), *([str(text)] if text else [])]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        if not answer.is_file():
            raise InputError(f"{folder}: the models could not be compared:\n{done.stderr.strip()[-2000:]}")
        result: dict[str, Any] = json.loads(answer.read_text())
        return result


def _judge(result: dict[str, Any], checkpoint: Path, folder: Path) -> None:
    tolerance = SAME_TYPE_TOLERANCE if result["same_type"] else OTHER_TYPE_TOLERANCE
    relative = result["max_abs_difference"] / max(result["logit_spread"], 1e-12)
    if relative <= tolerance:
        return
    first = next((number for number, difference in enumerate(result["layers"]) if difference > tolerance), None)
    where = "only the output layer differs" if first is None else f"they differ starting with layer {first}"
    types = "" if result["same_type"] else f" (weights rounded to {type_name(torch.bfloat16)} or fp16 in between)"
    raise StageError(
        f"{checkpoint} and {folder} have the same tensors but predict differently{types}: logits differ by up to "
        f"{result['max_abs_difference']:.3g}, {relative:.3g} of their spread; {where}. The cause is the configuration "
        "(rotary base and scaling, epsilon, heads)."
    )
