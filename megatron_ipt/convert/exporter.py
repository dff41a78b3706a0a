"""Writes a Megatron-Core checkpoint as a Hugging Face folder, block of rows by block of rows.

What the folder must contain follows from the model's shape and its family; the checkpoint is compared with that list,
names and shapes, before anything is written, so that a missing or unexpected tensor is an error and not a silent hole.
The checkpoint may be of any parallel layout. Memory holds one block of a tensor per thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from megatron_ipt.convert.checkpoint.reader import METADATA, CheckpointReader
from megatron_ipt.convert.dtypes import DTYPES, WEIGHTS, not_finite, report_not_finite, type_name
from megatron_ipt.convert.formats.safetensors_writer import (
    TensorPlan,
    file_names,
    header,
    pack,
    parse_size,
    write_index,
)
from megatron_ipt.convert.formats.stored_tensor import as_bytes, rows_of_block
from megatron_ipt.convert.messages import listed
from megatron_ipt.convert.output_folder import Output, Segment, Workers
from megatron_ipt.errors import InputError
from megatron_ipt.files import write_json
from megatron_ipt.models.hugging_face_config import TokenIds, generation_config, hugging_face_config
from megatron_ipt.models.tensor_mapping import HuggingFaceTensor, megatron_shapes, megatron_tensors, name_in_layer
from megatron_ipt.models.weights import MEGATRON_LAYERS
from megatron_ipt.training.checkpoints.model_file import ModelFile

_SEGMENT_BYTES = 64_000_000
_NOT_WEIGHTS = ("optimizer", "chained_", "rng_state", "opt_param_scheduler", "iteration", "rerun_state")


@dataclass(frozen=True)
class ExportPlan:
    """What will be written, complete before anything is.

    Attributes:
        parts: Hugging Face tensors in the order of the files.
        files: the same, divided into files.
        dtype: of the model, for its configuration.
    """

    reader: CheckpointReader
    model: ModelFile
    parts: dict[str, HuggingFaceTensor]
    files: list[list[TensorPlan]]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes of all weights."""
        return sum(plan.size for file in self.files for plan in file)

    def identity(self) -> list[list[Any]]:
        """The checkpoint's files with their sizes and times."""
        folder = self.reader.folder
        return [
            [str(path), path.stat().st_size, path.stat().st_mtime_ns]
            for path in sorted(folder.iterdir())
            if path.suffix == ".distcp" or path.name == METADATA
        ]


def plan_export(reader: CheckpointReader, model: ModelFile, dtype: str, max_shard_size: str) -> ExportPlan:
    """Compares the checkpoint with the model that it is said to contain, and plans the files.

    Args:
        dtype: ``fp32``, ``bf16``, ``fp16``, or ``auto`` for that of each tensor in the checkpoint.
        max_shard_size: largest safetensors file, e.g. ``5GB``.

    Raises:
        InputError: the checkpoint has other tensors than its model needs.
        RecipeError: ``max_shard_size`` is not a size.
    """
    stacked = _is_stacked(reader)
    _check(reader, stacked, model)
    parts, plans = {}, []
    for tensor in megatron_tensors(model.shape, model.vocab_size, model.padded_vocab_size):
        name, index = tensor.name, tensor.index
        if index and not stacked:
            name, index = name_in_layer(name, index[0]), index[1:]
        kind = reader.dtype(name) if dtype == "auto" else DTYPES[dtype]
        for part in tensor.parts:
            parts[part.name] = HuggingFaceTensor(part.name, part.shape, name, index, part.ranges)
            plans.append(TensorPlan(part.name, part.shape, kind))
    return ExportPlan(reader, model, parts, pack(plans, parse_size(max_shard_size)), plans[0].dtype)


def write_export(
    plan: ExportPlan, folder: Path, tokens: TokenIds, workers: int = 2, allow_not_finite: bool = False
) -> dict[str, Any]:
    """Writes configuration and weights into the existing ``folder``; files of an interrupted attempt are kept.

    Returns:
        ``{parameters, bytes, files, dtype, family, not_finite}``

    Raises:
        InputError: a file of the checkpoint is damaged, or weights are not finite and that is not allowed.
        StorageError: a file could not be written.
    """
    pool = Workers("export", plan.size, workers)

    names = file_names(len(plan.files))
    records = pool.run(folder, {name: _segments(plan, file, pool) for name, file in zip(names, plan.files)})
    found = {name: count for record in records.values() for name, count in record["not_finite"].items()}
    report_not_finite(plan.reader.folder, found, allow_not_finite)
    if len(plan.files) > 1:
        write_index(folder, plan.files)
    shape, vocab_size = plan.model.shape, plan.model.vocab_size
    write_json(folder / "config.json", hugging_face_config(shape, vocab_size, tokens, type_name(plan.dtype)))
    write_json(folder / "generation_config.json", generation_config(tokens))
    return {
        "parameters": sum(prod(part.shape) for part in plan.parts.values()),
        "bytes": plan.size,
        "files": len(plan.files),
        "dtype": type_name(plan.dtype),
        "family": shape.family,
        "not_finite": found,
    }


def blocks(reader: CheckpointReader, part: HuggingFaceTensor) -> Iterator[torch.Tensor]:
    """The Hugging Face tensor ``part`` in blocks of whole rows, in the checkpoint's type.

    Raises:
        InputError: a file of the checkpoint is damaged.
    """
    dtype = reader.dtype(part.megatron)
    most = rows_of_block(part.shape, dtype)
    for first in range(0, part.shape[0], most):
        count = min(most, part.shape[0] - first)
        block = torch.empty((count, *part.shape[1:]), dtype=dtype)
        for rows in part.ranges:
            begin = max(first, rows.hugging_face)
            end = min(first + count, rows.hugging_face + rows.count)
            if begin < end:
                start = rows.megatron + begin - rows.hugging_face
                reader.read_rows(part.megatron, part.index, start, block[begin - first : end - first])
        yield block


def _segments(plan: ExportPlan, file: list[TensorPlan], pool: Workers) -> list[Segment]:
    """The file divided into pieces of whole tensors; the first also has the header."""
    beginning = header(file)
    pieces: list[list[TensorPlan]] = [[]]
    positions, position, used = [0], len(beginning), 0
    for tensor in file:
        if used >= _SEGMENT_BYTES:
            pieces.append([])
            positions.append(position)
            used = 0
        pieces[-1].append(tensor)
        used += tensor.size
        position += tensor.size

    def segment(number: int) -> Segment:
        first = beginning if number == 0 else b""
        return Segment(positions[number], lambda output: _write(plan, pieces[number], first, output, pool))

    return [segment(number) for number in range(len(pieces))]


def _write(plan: ExportPlan, members: list[TensorPlan], first: bytes, output: Output, pool: Workers) -> dict[str, Any]:
    found: dict[str, int] = {}
    output.write(first)
    for member in members:
        bad = 0
        for block in blocks(plan.reader, plan.parts[member.name]):
            values = block.to(member.dtype)
            # After the conversion: fp16 cannot hold what bf16 can.
            bad += not_finite(values)
            output.write(as_bytes(values))
            pool.advance(values.nbytes)
        if bad:
            found[member.name] = bad
    return {"not_finite": found}


def _is_stacked(reader: CheckpointReader) -> bool:
    """Whether layers share one tensor, as they do unless Megatron-LM was told that layers differ."""
    prefix = f"{MEGATRON_LAYERS}."
    names = [name.removeprefix(prefix) for name in reader.names() if name.startswith(prefix)]
    return not any(name.split(".")[0].isdigit() for name in names)


def _check(reader: CheckpointReader, stacked: bool, model: ModelFile) -> None:
    folder = reader.folder
    expected = dict(megatron_shapes(model.shape, model.padded_vocab_size, stacked))
    found = {name for name in reader.names() if not name.startswith(_NOT_WEIGHTS) and "_extra_state" not in name}
    missing, unknown = sorted(expected.keys() - found), sorted(found - expected.keys())
    if missing or unknown:
        raise InputError(
            f"{folder}: does not contain a {model.shape.family} model. Missing: {listed(missing)}. "
            f"Unexpected: {listed(unknown)}"
        )
    for name, shape in expected.items():
        if reader.shape(name) != shape:
            raise InputError(
                f"{folder}: {name} has shape {list(reader.shape(name))}, the description of the model says "
                f"{list(shape)}"
            )
        if reader.dtype(name) not in WEIGHTS:
            raise InputError(f"{folder}: {name} has type {type_name(reader.dtype(name))}, which cannot be exported")
