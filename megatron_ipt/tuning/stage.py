"""Stage ``tuning``: packs datasets of tasks or chats into rows with a loss mask, and saves their tokenizer.

The folder has the same structure as that of the stage ``tokens``: ``dataset.json`` lists one training dataset, and
validation and test data per dataset; training, export and evaluation read either. Entries also name a loss mask. Rows
never mix datasets; each repetition is packed separately.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_ipt.corpus.documents import SPLITS
from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.files import atomic_open, write_json
from megatron_ipt.inference.chat_template import TEMPLATE_FILE
from megatron_ipt.inference.tokenizer import PromptTokenizer, open_prompt_tokenizer
from megatron_ipt.manifest import StageContext, fingerprint_file
from megatron_ipt.progress import Progress
from megatron_ipt.rejects import Rejects
from megatron_ipt.seeding import derive
from megatron_ipt.stages import CHAINS
from megatron_ipt.tokens.dataset.description import DATASET, tokenizer_keys
from megatron_ipt.tokens.dataset.indexed import dtype_for
from megatron_ipt.tokens.dataset.verify import checksums
from megatron_ipt.tokens.stage import prepare_tokenizer, tokenizer_fingerprints
from megatron_ipt.tokens.tokenizer.loading import open_tokenizer
from megatron_ipt.tuning import few_shot, templates
from megatron_ipt.tuning.collect import Collected, collect, files_of
from megatron_ipt.tuning.config import TuningConfig
from megatron_ipt.tuning.encode import Encoded, encode
from megatron_ipt.tuning.packing import pack
from megatron_ipt.tuning.rows import MASK_SUFFIX, RowReader, RowWriter

logger = logging.getLogger(__name__)


def fingerprints(config: TuningConfig) -> list[dict[str, Any]]:
    """Fingerprints of the given tokenizer and of all input files."""
    files = [file.path for name in config.datasets for file in files_of(config, name)]
    return [*tokenizer_fingerprints(config.tokenizer), *map(fingerprint_file, files)]


def run(config: TuningConfig, context: StageContext) -> dict[str, Any]:
    """Writes rows of every split, the tokenizer and ``dataset.json``; returns the counts.

    Raises:
        InputError: an input is missing or damaged, a dataset has no usable example, or too many records are rejected.
        RecipeError: rows are too short for the format.
    """
    if config.pairs:
        if CHAINS not in context.inputs:
            raise RecipeError(
                "tuning.pairs: this recipe makes no pairs; set taxonomy.file or corpus.inputs, or remove it"
            )
        config = config.with_pairs(context.inputs[CHAINS])
    work = context.directory / "parts"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    tokenizer_folder = context.directory / "tokenizer"
    with ExitStack() as stack:
        sets = []
        for name in config.datasets:
            path = context.directory / f"rejects-{name}.jsonl"
            rejects = stack.enter_context(Rejects(path, config.maximum_reject_share, "tuning.maximum_reject_share"))
            sets.append(collect(config, name, context.seed, work, rejects))
        prepare_tokenizer(config.tokenizer, _training_lines(config, sets), tokenizer_folder)
        if config.kind == "instructions" and config.template == "chat":
            (tokenizer_folder / TEMPLATE_FILE).write_text(templates.SIMPLE_CHAT, encoding="utf-8")
        tokenizer = open_tokenizer(tokenizer_folder)
        dtype = dtype_for("auto", tokenizer.vocab_size, "tuning").name
        prompt_tokenizer = open_prompt_tokenizer(tokenizer_folder)
        encoded, counts = _encode_all(config, context, sets, prompt_tokenizer, work, dtype)
        rejected = {collected.name: collected.rejects.count for collected in sets}
    dataset: dict[str, Any] = {
        **tokenizer_keys(tokenizer_folder, tokenizer, dtype),
        "train": [_write_train(config, context, encoded, dtype)],
        **{split: _write_held_out(split, config, context, encoded, dtype) for split in SPLITS[1:]},
    }
    for split in SPLITS:
        for entry in dataset[split]:
            entry["files"] = checksums(context.directory / entry["prefix"])
            entry["loss_mask_files"] = checksums(context.directory / entry["loss_mask"])
    write_json(context.directory / DATASET, dataset)
    shutil.rmtree(work)
    train = dataset["train"][0]
    return {
        "vocab_size": tokenizer.vocab_size,
        **{
            split: {
                key: sum(entry[key] for entry in dataset[split])
                for key in ("documents", "examples", "tokens", "loss_tokens")
            }
            for split in SPLITS
        },
        "train_by_source": train["by_source"],
        "packing_efficiency": train["tokens"] / (train["documents"] * (config.seq_length + 1)),
        "loss_share": train["loss_tokens"] / train["tokens"],
        **counts,
        "rejected": {name: count for name, count in rejected.items() if count},
    }


def _training_lines(config: TuningConfig, sets: list[Collected]) -> Iterator[str]:
    """Lines of training examples, equal amounts per dataset, about ``tokenizer.training_characters`` in total."""
    share = config.tokenizer.training_characters // max(1, len(sets))
    for collected in sets:
        left = share
        for line in _lines_of(config, collected):
            yield line
            left -= len(line)
            if left <= 0:
                break


def _lines_of(config: TuningConfig, collected: Collected) -> Iterator[str]:
    if config.kind == "synthesizer":
        for split, example in collected.examples():
            yield from few_shot.training_lines(example) if split == "train" else ()
    else:
        for split, chat in collected.chats():
            yield from templates.training_lines(chat.messages) if split == "train" else ()


def _encode_all(
    config: TuningConfig,
    context: StageContext,
    sets: list[Collected],
    tokenizer: PromptTokenizer,
    work: Path,
    dtype: npt.DTypeLike,
) -> tuple[dict[str, dict[str, Encoded]], Counter[str]]:
    """Encoded examples by dataset and split."""
    encoded = {}
    counts: Counter[str] = Counter()
    with Progress("tuning", len(sets), "datasets") as bar:
        for collected in sets:
            name = collected.name
            encoded[name], dataset_counts = encode(config, collected, context.seed, tokenizer, work, dtype)
            counts += dataset_counts
            collected.check_rejects()
            if "train" not in encoded[name]:
                reason = "all examples were held out; lower tuning.valid_share" if encoded[name] else (
                    f"no usable example in {', '.join(config.datasets[name].inputs)}"
                    + (f"; see {collected.rejects.path}" if collected.rejects.count else "")
                )  # fmt: skip
                raise InputError(f"tuning.datasets.{name}: {reason}")
            if config.valid_share and "valid" not in encoded[name]:
                logger.warning("tuning: no example of %s was held out; raise tuning.valid_share to hold some out", name)
            bar.advance(1)
    return encoded, counts


def _write_train(
    config: TuningConfig, context: StageContext, encoded: dict[str, dict[str, Encoded]], dtype: str
) -> dict[str, Any]:
    """Writes the training rows of all datasets; ``train.sources.npy`` has the index of the dataset of every row."""
    by_source: dict[str, dict[str, int]] = {}
    sources: list[int] = []
    with RowWriter(context.directory / "train", dtype) as writer:
        for number, (name, parts) in enumerate(encoded.items()):
            before = writer.rows, writer.tokens, writer.loss_tokens
            repeat = config.datasets[name].repeat
            for repetition in range(repeat):
                _write_rows(config, writer, parts["train"], repetition)
            sources += [number] * (writer.rows - before[0])
            by_source[name] = {
                "documents": writer.rows - before[0],
                "examples": len(parts["train"].hashes) * repeat,
                _PARTS[config.kind]: parts["train"].parts * repeat,
                "tokens": writer.tokens - before[1],
                "loss_tokens": writer.loss_tokens - before[2],
                "left_out_documents": 0,
            }
    with atomic_open(context.directory / "train.sources.npy") as stream:
        np.save(stream, np.array(sources, np.uint8))
    examples = sum(counts["examples"] for counts in by_source.values())
    return _entry("tuning", "train", writer, config, examples) | {"weight": 1.0, "by_source": by_source}


_PARTS = {"synthesizer": "pairs", "instructions": "responses"}


def _write_held_out(
    split: str, config: TuningConfig, context: StageContext, encoded: dict[str, dict[str, Encoded]], dtype: str
) -> list[dict[str, Any]]:
    entries = []
    for name, parts in encoded.items():
        if split in parts:
            prefix = f"{split}-{name}"
            with RowWriter(context.directory / prefix, dtype) as writer:
                _write_rows(config, writer, parts[split], 0)
            entries.append(_entry(name, prefix, writer, config, len(parts[split].hashes)))
    return entries


def _entry(name: str, prefix: str, writer: RowWriter, config: TuningConfig, examples: int) -> dict[str, Any]:
    return {
        "name": name,
        "prefix": prefix,
        "loss_mask": f"{prefix}{MASK_SUFFIX}",
        "seq_length": config.seq_length,
        "documents": writer.rows,
        "examples": examples,
        "tokens": writer.tokens,
        "loss_tokens": writer.loss_tokens,
    }


def _write_rows(config: TuningConfig, writer: RowWriter, part: Encoded, repetition: int) -> None:
    """Packs the examples of ``part`` into rows, in an order that depends on the repetition."""
    examples = RowReader(part.prefix, f"{part.prefix}{MASK_SUFFIX}")
    order = [derive(code, "repetition", repetition) for code in part.hashes]
    numbers = sorted(range(len(order)), key=order.__getitem__)
    for row in pack(examples.lengths.tolist(), config.seq_length + 1, numbers):
        # Examples packed last filled gaps and are mostly short, so shuffle: position must not correlate with length.
        row.sort(key=lambda number: derive(order[number], "place"))
        parts = [examples[number] for number in row]
        lengths = np.array([len(example.ids) for example in parts], np.int32)
        if config.kind == "synthesizer":
            # One sequence: every example attends to the earlier ones.
            lengths = lengths.sum(keepdims=True, dtype=np.int32)
        writer.add(
            np.concatenate([example.ids for example in parts]),
            np.concatenate([example.mask for example in parts]),
            lengths,
        )
