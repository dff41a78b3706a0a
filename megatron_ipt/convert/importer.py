"""Writes a Hugging Face folder as a Megatron-Core checkpoint, chunk by chunk.

``config.json`` describes the model; from that follow the names and shapes of all tensors, which are compared with the
files before anything is written. No code in the folder is run, no model is built, and neither transformers nor
Megatron-Core is needed. The checkpoint appears as ``CHECKPOINTS/release``, which is what Megatron-LM calls weights
without a training history: a training that loads it starts at step 0 with a new optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash

from megatron_ipt.convert.checkpoint.reader import METADATA
from megatron_ipt.convert.checkpoint.writer import (
    Chunk,
    chunks_of,
    extra_states,
    write_common,
    write_metadata,
)
from megatron_ipt.convert.dtypes import DTYPES, WEIGHTS, not_finite, report_not_finite, type_name
from megatron_ipt.convert.formats.chunk_file import save_chunk
from megatron_ipt.convert.formats.stored_tensor import StoredTensor, as_bytes, rows_of_block
from megatron_ipt.convert.hugging_face.tokenizer_files import check_tokenizer
from megatron_ipt.convert.hugging_face.weight_files import read_weights
from megatron_ipt.convert.messages import listed
from megatron_ipt.convert.output_folder import Output, Segment, Workers, unfinished_folder
from megatron_ipt.errors import InputError
from megatron_ipt.files import atomic_open, read_json
from megatron_ipt.models.families import ModelShape, padded_vocabulary
from megatron_ipt.models.hugging_face_config import config_file, read_model_config
from megatron_ipt.models.presets import resolve_shape
from megatron_ipt.models.tensor_mapping import (
    MegatronTensor,
    count_hugging_face_tensors,
    hugging_face_shapes,
    megatron_tensors,
)
from megatron_ipt.training.checkpoints.megatron_arguments import megatron_arguments
from megatron_ipt.training.checkpoints.model_file import RELEASE, TRACKER, ModelFile

_STATES_FILE = "__0_0.distcp"
_FILE_BYTES = 2_000_000_000
_MINIMUM_FILES = 4
_MOST_MISSING = 1000


@dataclass(frozen=True)
class SourceModel:
    """A Hugging Face folder whose headers were read and found to match its configuration."""

    folder: Path
    shape: ModelShape
    vocab_size: int
    weights: dict[str, StoredTensor]


def read_source(folder: Path) -> SourceModel:
    """Reads configuration and headers of ``folder``; no weight is read.

    Raises:
        InputError: it is not a model folder, has an architecture that is not supported, lacks tensors or has others, or
            its configuration contradicts the shapes of its tensors.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected the folder of a Hugging Face model")
    values, vocab_size = read_model_config(folder)
    quantized = read_json(config_file(folder)).get("quantization_config")
    if quantized:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        raise InputError(
            f"{config_file(folder)}: quantization_config: the weights are quantized ({method}); export the model in "
            "bf16, fp16 or fp32 first"
        )
    shape = resolve_shape({}, values)
    weights = read_weights(folder)
    _check(folder, shape, vocab_size, weights)
    check_tokenizer(folder, vocab_size)
    return SourceModel(folder, shape, vocab_size, weights)


def import_checkpoint(
    folder: Path,
    checkpoints: Path,
    dtype: str = "auto",
    make_vocab_size_divisible_by: int = 128,
    overwrite: bool = False,
    workers: int = 2,
    allow_not_finite: bool = False,
) -> dict[str, Any]:
    """Writes ``checkpoints``/release from the Hugging Face model in ``folder``, and names it in the tracker file.

    Args:
        dtype: ``fp32``, ``bf16``, ``fp16``, or ``auto`` for that of each tensor.
        make_vocab_size_divisible_by: rows of zeros are added to the vocabulary up to a multiple of this; the tensor
            parallel size of a training must divide it.
        overwrite: replace an earlier import.
        workers: number of threads.
        allow_not_finite: convert weights that are NaN or infinite, with a warning, instead of rejecting them.

    Returns:
        ``{checkpoint, family, parameters, bytes, files, dtype, vocab_size, padded_vocab_size, not_finite}``

    Raises:
        InputError: the folder cannot be used.
        StageError: the target exists.
        StorageError: the checkpoint could not be written.
    """
    source = read_source(folder)
    padded = padded_vocabulary(source.vocab_size, make_vocab_size_divisible_by)
    tensors = list(megatron_tensors(source.shape, source.vocab_size, padded))
    dtypes = _dtypes(source, tensors, dtype)
    chunks = [chunk for tensor in tensors for chunk in chunks_of(tensor, dtypes[tensor.name])]
    total = sum(chunk.size for chunk in chunks)
    final = checkpoints / RELEASE
    _refuse_other_checkpoints(checkpoints, overwrite)
    identity = {"source": _identity(source), "dtype": dtype, "padded_vocab_size": padded, "format": 1}
    with unfinished_folder(final, identity, total + 2000 * len(chunks), overwrite) as partial:
        records, files = _write_chunks(source, chunks, partial, workers, total)
        found = {name: count for record in records.values() for name, count in record["not_finite"].items()}
        report_not_finite(folder, found, allow_not_finite)
        places = [
            (chunk, name, (place[0], place[1]))
            for name, members in files.items()
            for chunk, place in zip(members, records[name]["places"])
        ]
        _write_rest(source, padded, partial, places, records)
    with atomic_open(checkpoints / TRACKER, "w") as stream:
        stream.write(RELEASE)
    return {
        "checkpoint": str(final),
        "family": source.shape.family,
        "parameters": source.shape.parameters(source.vocab_size),
        "bytes": total,
        "files": len(files),
        "dtype": type_name(chunks[0].dtype),
        "vocab_size": source.vocab_size,
        "padded_vocab_size": padded,
        "not_finite": found,
    }


def _check(folder: Path, shape: ModelShape, vocab_size: int, weights: dict[str, StoredTensor]) -> None:
    count = count_hugging_face_tensors(shape)
    if count > 2 * len(weights) + _MOST_MISSING:
        # Listing them could take forever.
        experts = f" and {shape.num_moe_experts:,} experts each" if shape.num_moe_experts else ""
        raise InputError(
            f"{config_file(folder)}: describes {shape.num_layers:,} layers{experts}, {count:,} tensors in all, but the "
            f"folder has {len(weights):,}: configuration and weights do not belong to the same model"
        )
    expected = dict(hugging_face_shapes(shape, vocab_size))
    missing, extra = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if not shape.untie_embeddings_and_output_weights and extra == ["lm_head.weight"]:
        # Some tools write the shared matrix twice.
        _check_tied(folder, weights)
        extra = []
    if missing or extra:
        raise InputError(
            f"{folder}: does not contain the {shape.family} model that config.json describes. "
            f"Missing: {listed(missing)}. Unexpected: {listed(extra)}"
        )
    for name, wanted in expected.items():
        tensor = weights[name]
        if tensor.shape != wanted:
            raise InputError(
                f"{tensor.file.path}: {name} has shape {list(tensor.shape)}, config.json says {list(wanted)}: "
                "configuration and weights do not belong to the same model"
            )
        if tensor.dtype not in WEIGHTS:
            raise InputError(
                f"{tensor.file.path}: {name} has type {type_name(tensor.dtype)}; supported: "
                f"{', '.join(map(type_name, WEIGHTS))}"
            )


def _check_tied(folder: Path, weights: dict[str, StoredTensor]) -> None:
    one, other = weights["lm_head.weight"], weights["model.embed_tokens.weight"]
    same = one.shape == other.shape and one.dtype == other.dtype
    if not same or _digest(one) != _digest(other):
        raise InputError(
            f"{folder}: config.json ties the output layer to the embedding, but lm_head.weight is another matrix. "
            "Set tie_word_embeddings to false there to use it."
        )


def _digest(tensor: StoredTensor) -> str:
    digest = xxhash.xxh3_128()
    for block in tensor.blocks():
        digest.update(as_bytes(block))
    return str(digest.hexdigest())


def _dtypes(source: SourceModel, tensors: list[MegatronTensor], dtype: str) -> dict[str, torch.dtype]:
    """The type of each Megatron-Core tensor, which all its layers and parts share."""
    if dtype != "auto":
        return {tensor.name: DTYPES[dtype] for tensor in tensors}
    found: dict[str, torch.dtype] = {}
    for tensor in tensors:
        for part in tensor.parts:
            kind = source.weights[part.name].dtype
            if found.setdefault(tensor.name, kind) != kind:
                raise InputError(
                    f"{source.folder}: {part.name} is {type_name(kind)}, but other parts of the same Megatron-Core "
                    f"tensor are {type_name(found[tensor.name])}; choose one type with --dtype"
                )
    return found


def _identity(source: SourceModel) -> list[list[Any]]:
    files = {tensor.file.path: tensor.file.size for tensor in source.weights.values()}
    paths = [*files, config_file(source.folder)]
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(paths)]


def _refuse_other_checkpoints(checkpoints: Path, overwrite: bool) -> None:
    tracker = checkpoints / TRACKER
    if tracker.exists() and not overwrite and tracker.read_text().strip() != RELEASE:
        raise InputError(
            f"{checkpoints}: contains the checkpoints of a training ({TRACKER} names {tracker.read_text().strip()}); "
            "import into another folder"
        )


def _write_chunks(
    source: SourceModel, chunks: list[Chunk], folder: Path, workers: int, total: int
) -> tuple[dict[str, dict[str, Any]], dict[str, list[Chunk]]]:
    size = min(_FILE_BYTES, -(-total // _MINIMUM_FILES))
    files: dict[str, list[Chunk]] = {}
    used = size
    for chunk in chunks:
        # File 0 has the empty FP8 states.
        if used >= size:
            files[f"__0_{len(files) + 1}.distcp"] = []
            used = 0
        files[f"__0_{len(files)}.distcp"].append(chunk)
        used += chunk.size
    pool = Workers("import", total, workers)

    def segment(members: list[Chunk]) -> Segment:
        return Segment(0, lambda output: _write_file(source, members, output, pool))

    return pool.run(folder, {name: [segment(members)] for name, members in files.items()}), files


def _write_file(source: SourceModel, chunks: list[Chunk], output: Output, pool: Workers) -> dict[str, Any]:
    found: dict[str, int] = {}
    places = [
        save_chunk(output, chunk.full_shape, chunk.dtype, _blocks(source, chunk, found, pool)) for chunk in chunks
    ]
    return {"places": places, "not_finite": found}


def _blocks(source: SourceModel, chunk: Chunk, found: dict[str, int], pool: Workers) -> Iterator[torch.Tensor]:
    """The chunk in blocks of whole rows; counts in ``found``, by part, the values that are not finite."""
    placed = [(rows.megatron - chunk.first, part, rows) for part in chunk.parts for rows in part.ranges]
    most = rows_of_block(chunk.shape, chunk.dtype)
    for first in range(0, chunk.shape[0], most):
        count = min(most, chunk.shape[0] - first)
        # Rows that no range fills pad the vocabulary.
        block = torch.zeros((count, *chunk.shape[1:]), dtype=chunk.dtype)
        for place, part, rows in placed:
            begin, end = max(first, place), min(first + count, place + rows.count)
            if begin >= end:
                continue
            target = block[begin - first : end - first]
            _read(source.weights[part.name], rows.hugging_face + begin - place, target)
            bad = not_finite(target)
            if bad:
                found[part.name] = found.get(part.name, 0) + bad
        yield block
        pool.advance(block.nbytes)


def _read(stored: StoredTensor, first: int, target: torch.Tensor) -> None:
    if stored.dtype == target.dtype:
        stored.read_rows(first, target)
        return
    values = torch.empty(target.shape, dtype=stored.dtype)
    stored.read_rows(first, values)
    target.copy_(values)


def _write_rest(
    source: SourceModel,
    padded: int,
    folder: Path,
    places: list[tuple[Chunk, str, tuple[int, int]]],
    records: dict[str, dict[str, Any]],
) -> None:
    shape = source.shape
    seq_length = shape.max_position_embeddings
    arguments = megatron_arguments(
        shape, seq_length, source.vocab_size, padded, tensor_model_parallel_size=1, pipeline_model_parallel_size=1,
        no_save_optim=True, no_save_rng=True, consumed_train_samples=0,
    )  # fmt: skip
    write_common(folder, arguments)
    write_metadata(folder, places, list(extra_states(shape)), _STATES_FILE)
    sizes, checksums = {}, {name: record["checksum"] for name, record in records.items()}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") and path.name != METADATA:
            continue
        sizes[path.name] = path.stat().st_size
        if path.name not in checksums:
            checksums[path.name] = xxhash.xxh3_128(path.read_bytes()).hexdigest()
    ModelFile(
        shape=shape,
        vocab_size=source.vocab_size,
        padded_vocab_size=padded,
        dtype=type_name(places[0][0].dtype),
        seq_length=seq_length,
        iteration=0,
        consumed_train_samples=0,
        consumed_tokens=0,
        files=sizes,
        checksums=checksums,
    ).write(folder)
