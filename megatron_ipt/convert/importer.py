"""A Hugging Face folder as a Megatron-Core checkpoint, chunk by chunk.

``config.json`` says what model it is; from that follow the names and shapes of all tensors, which the files are held
against before anything is written. Nothing of the folder is executed, no model is built, and neither transformers nor
Megatron-Core is needed. The checkpoint appears as ``CHECKPOINTS/release``, which is what Megatron-LM calls weights
without a history of training: whoever loads it starts at step 0 with a fresh optimizer.
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
from megatron_ipt.convert.hugging_face.folder import read_folder
from megatron_ipt.convert.hugging_face.tokenizer_files import check_tokenizer
from megatron_ipt.convert.output_folder import Output, Segment, Workers, unfinished_folder
from megatron_ipt.convert.tensor_mapping import Joined, tensors
from megatron_ipt.errors import InputError
from megatron_ipt.files import atomic_open, read_json
from megatron_ipt.models.families import ModelShape, padded_vocabulary, resolve_shape
from megatron_ipt.models.hugging_face import config_file, read_model_config
from megatron_ipt.training.checkpoints.megatron_arguments import megatron_arguments
from megatron_ipt.training.checkpoints.model_file import RELEASE, TRACKER, ModelFile

_STATES_FILE = "__0_0.distcp"
_FILE_BYTES = 2_000_000_000
_FEWEST_FILES = 4
_LISTED = 12


@dataclass(frozen=True)
class Source:
    """A Hugging Face folder that was read and found to be what its configuration says."""

    folder: Path
    shape: ModelShape
    vocab_size: int
    weights: dict[str, StoredTensor]


def read_source(folder: Path) -> Source:
    """Reads configuration and headers of ``folder``; no weight is read.

    Raises:
        InputError: it is no model folder, holds an architecture that is not supported, misses tensors or holds others,
            or its configuration contradicts the shapes of its tensors.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected the folder of a Hugging Face model")
    config = read_json(config_file(folder))
    values, vocab_size = read_model_config(folder)
    if "norm_epsilon" not in values:
        raise InputError(f"{config_file(folder)}: key rms_norm_eps is missing; without it the model is not known")
    if config.get("quantization_config"):
        raise InputError(
            f"{config_file(folder)}: the weights are quantized ({config['quantization_config'].get('quant_method')}); "
            "export the model in bf16, fp16 or fp32 first"
        )
    shape = resolve_shape({}, values)
    weights = read_folder(folder)
    _check(folder, shape, vocab_size, weights)
    check_tokenizer(folder, vocab_size)
    return Source(folder, shape, vocab_size, weights)


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
        workers: threads.
        allow_not_finite: convert weights that are infinite or no number, with a warning, instead of refusing them.

    Returns:
        ``{checkpoint, family, parameters, bytes, files, dtype, vocab_size, padded_vocab_size, not_finite}``

    Raises:
        InputError: the folder cannot be used.
        StageError: the target exists.
        StorageError: the checkpoint could not be written.
    """
    source = read_source(folder)
    padded = padded_vocabulary(source.vocab_size, make_vocab_size_divisible_by)
    model = list(tensors(source.shape, source.vocab_size, padded))
    dtypes = _dtypes(source, model, dtype)
    chunks = [chunk for joined in model for chunk in chunks_of(joined, dtypes[joined.megatron])]
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
    expected = {part.name: part.shape for joined in tensors(shape, vocab_size, vocab_size) for part in joined.parts}
    missing, extra = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if not shape.untie_embeddings_and_output_weights and extra == ["lm_head.weight"]:
        # Some tools write the shared matrix twice.
        _check_tied(folder, weights)
        extra = []
    if missing or extra:
        raise InputError(
            f"{folder}: does not hold the {shape.family} model that config.json describes. "
            f"Missing: {_list(missing)}. Unexpected: {_list(extra)}"
        )
    for name, wanted in expected.items():
        tensor = weights[name]
        if tensor.shape != wanted:
            raise InputError(
                f"{tensor.file.path}: {name} is {list(tensor.shape)}, config.json says {list(wanted)}: "
                "configuration and weights are not of the same model"
            )
        if tensor.dtype not in WEIGHTS:
            raise InputError(
                f"{tensor.file.path}: {name} is of {type_name(tensor.dtype)}; supported: "
                f"{', '.join(map(type_name, WEIGHTS))}"
            )


def _check_tied(folder: Path, weights: dict[str, StoredTensor]) -> None:
    one, other = weights["lm_head.weight"], weights["model.embed_tokens.weight"]
    same = one.shape == other.shape and one.dtype == other.dtype
    if not same or _digest(one) != _digest(other):
        raise InputError(
            f"{folder}: config.json ties the output layer to the embedding, but lm_head.weight is another matrix. "
            "Set tie_word_embeddings to false there if it is to be used."
        )


def _digest(tensor: StoredTensor) -> str:
    digest = xxhash.xxh3_128()
    for block in tensor.blocks():
        digest.update(as_bytes(block))
    return str(digest.hexdigest())


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more or "none"


def _dtypes(source: Source, model: list[Joined], dtype: str) -> dict[str, torch.dtype]:
    """The type of each Megatron-Core tensor, all of whose layers and parts share one."""
    if dtype != "auto":
        return {joined.megatron: DTYPES[dtype] for joined in model}
    found: dict[str, torch.dtype] = {}
    for joined in model:
        for part in joined.parts:
            kind = source.weights[part.name].dtype
            if found.setdefault(joined.megatron, kind) != kind:
                raise InputError(
                    f"{source.folder}: {part.name} is {type_name(kind)}, but other parts of the Megatron-Core tensor "
                    f"that it goes into are {type_name(found[joined.megatron])}; choose one type with --dtype"
                )
    return found


def _identity(source: Source) -> list[list[Any]]:
    files = {tensor.file.path: tensor.file.size for tensor in source.weights.values()}
    paths = [*files, config_file(source.folder)]
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(paths)]


def _refuse_other_checkpoints(checkpoints: Path, overwrite: bool) -> None:
    tracker = checkpoints / TRACKER
    if tracker.exists() and not overwrite and tracker.read_text().strip() != RELEASE:
        raise InputError(
            f"{checkpoints}: holds checkpoints of a training ({TRACKER} names {tracker.read_text().strip()}); import "
            "into another folder"
        )


def _write_chunks(
    source: Source, chunks: list[Chunk], folder: Path, workers: int, total: int
) -> tuple[dict[str, dict[str, Any]], dict[str, list[Chunk]]]:
    size = min(_FILE_BYTES, -(-total // _FEWEST_FILES))
    files: dict[str, list[Chunk]] = {}
    used = size
    for chunk in chunks:
        # File 0 is that of the empty FP8 states.
        if used >= size:
            files[f"__0_{len(files) + 1}.distcp"] = []
            used = 0
        files[f"__0_{len(files)}.distcp"].append(chunk)
        used += chunk.size
    pool = Workers("import", total, workers)

    def segment(members: list[Chunk]) -> Segment:
        return Segment(0, lambda output: _write_file(source, members, output, pool))

    return pool.run(folder, {name: [segment(members)] for name, members in files.items()}), files


def _write_file(source: Source, chunks: list[Chunk], output: Output, pool: Workers) -> dict[str, Any]:
    found: dict[str, int] = {}
    places = [
        save_chunk(output, chunk.full_shape, chunk.dtype, _blocks(source, chunk, found, pool)) for chunk in chunks
    ]
    return {"places": places, "not_finite": found}


def _blocks(source: Source, chunk: Chunk, found: dict[str, int], pool: Workers) -> Iterator[torch.Tensor]:
    """The chunk in blocks of whole rows; ``found`` takes up how many values of which parts are not finite."""
    runs = [(run.megatron - chunk.first, part, run) for part in chunk.parts for run in part.runs]
    most = rows_of_block(chunk.shape, chunk.dtype)
    for first in range(0, chunk.shape[0], most):
        count = min(most, chunk.shape[0] - first)
        # Rows that no run fills are those that pad the vocabulary.
        block = torch.zeros((count, *chunk.shape[1:]), dtype=chunk.dtype)
        for place, part, run in runs:
            begin, end = max(first, place), min(first + count, place + run.count)
            if begin >= end:
                continue
            target = block[begin - first : end - first]
            _read(source.weights[part.name], run.hugging_face + begin - place, target)
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
    source: Source,
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
