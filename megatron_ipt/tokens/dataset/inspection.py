"""What is in a dataset, for people: figures, samples as text, and how evenly the sources are mixed.

The figures come from the index only; of the tokens only the samples are read.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import numpy as np

from megatron_ipt.errors import InputError
from megatron_ipt.tokens.dataset.indexed import IndexedReader
from megatron_ipt.tokens.dataset.verify import description_of, index_problems
from megatron_ipt.tokens.tokenizer.interface import Tokenizer
from megatron_ipt.tokens.tokenizer.loading import open_tokenizer
from megatron_ipt.tokens.tokenizer.sentencepiece_model import SentencePieceTokenizer

PERCENTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that a terminal would interpret."""
_WINDOWS = 100
_LEAST_WINDOW_TOKENS = 4096


def inspect(
    prefix: str | Path, samples: int = 3, tokens_each: int = 120, tokenizer: str | None = None, seed: int = 0
) -> dict[str, Any]:
    """Describes the dataset at ``prefix``.

    Args:
        samples: number of documents to decode, chosen by ``seed``.
        tokens_each: at most this many from the start of a sample, and a quarter as many from its end.
        tokenizer: folder or ``.model`` file; by default the one named in the description of the dataset.

    Returns:
        ``{prefix, documents, sequences, empty_documents, tokens, dtype, bytes, lengths: {percentile: tokens},
        mean_length, vocab_size, bos_id, eod_id, sources, samples, problems}``; ``sources`` maps each to its documents,
        tokens, share and ``worst_window`` (see :func:`source_shares`).

    Raises:
        InputError: it is not a dataset, or the tokenizer cannot be read.
    """
    reader = IndexedReader(prefix)
    description = description_of(prefix) or {}
    lengths = reader.lengths
    percentiles = np.percentile(lengths, PERCENTILES, method="nearest").tolist() if len(reader) else []
    opened = _open_tokenizer(tokenizer or description.get("folder"))
    return {
        "prefix": str(prefix),
        "documents": len(reader),
        "sequences": len(reader.sequence_lengths),
        "empty_documents": int((lengths == 0).sum()),
        "tokens": reader.total_tokens,
        "dtype": reader.dtype.name,
        "bytes": reader.total_tokens * reader.dtype.itemsize,
        "mean_length": reader.total_tokens / len(reader) if len(reader) else 0.0,
        "lengths": {str(p): int(value) for p, value in zip(PERCENTILES, percentiles)},
        "vocab_size": description.get("vocab_size"),
        "bos_id": description.get("bos_id"),
        "eod_id": description.get("eod_id"),
        "sources": source_shares(reader, description),
        "samples": [
            _sample(reader, number, description, opened, tokens_each) for number in _choose(reader, samples, seed)
        ],
        "problems": list(index_problems(reader)),
    }


def source_shares(reader: IndexedReader, description: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Share of the tokens of each source, overall and in windows.

    ``worst_window`` is the largest difference between a window's share and the overall share, over a hundred windows of
    at least 4,096 tokens; ``window_tokens`` is their size. A long document can make one window differ more than others.
    """
    path = Path(f"{reader.prefix}.sources.npy")
    names = list(description.get("by_source", ()))
    if not path.is_file() or not names or not reader.total_tokens:
        return {}
    source = np.load(path, mmap_mode="r")
    window = max(reader.total_tokens // _WINDOWS, _LEAST_WINDOW_TOKENS)
    of_window = np.minimum(reader.offsets[:-1] // window, max(reader.total_tokens // window - 1, 0))
    totals = np.bincount(of_window, reader.lengths)
    shares = {}
    for number, name in enumerate(names):
        mine = source == number
        tokens = int(reader.lengths[mine].sum(dtype=np.int64))
        share = tokens / reader.total_tokens
        local = np.bincount(of_window[mine], reader.lengths[mine], len(totals)) / np.maximum(totals, 1)
        shares[name] = {
            "documents": int(mine.sum()),
            "tokens": tokens,
            "share": share,
            "worst_window": float(np.abs(local - share)[totals > 0].max()),
            "window_tokens": int(window),
        }
    return shares


def render(found: dict[str, Any]) -> str:
    """``inspect``'s result as lines for a terminal."""
    lines = [
        f"{found['prefix']}",
        f"  {found['documents']:,} documents, {found['tokens']:,} tokens, {found['dtype']}, {_size(found['bytes'])}",
    ]
    if found["sequences"] != found["documents"]:
        lines.append(f"  {found['sequences']:,} sequences, {found['empty_documents']:,} documents without tokens")
    if found["vocab_size"] is not None:
        lines.append(f"  vocabulary {found['vocab_size']:,}, BOS {found['bos_id']}, EOD {found['eod_id']}")
    if found["lengths"]:
        lines.append(f"  tokens per document: mean {found['mean_length']:,.1f}")
        lines.append("    percentile " + " ".join(f"{name:>8}" for name in found["lengths"]))
        lines.append("               " + " ".join(f"{value:>8,}" for value in found["lengths"].values()))
    for name, source in found["sources"].items():
        lines.append(
            f"  {name}: {source['share']:.2%} of the tokens, {source['documents']:,} documents; in windows of "
            f"{source['window_tokens']:,} tokens the share differs by at most {source['worst_window']:.2%}"
        )
    for sample in found["samples"]:
        of_source = f", {sample['source']}" if sample["source"] else ""
        lines.append(f"  document {sample['document']:,} ({sample['tokens']:,} tokens{of_source})")
        lines += [f"  │ {line}" for line in sample["text"].splitlines()]
    lines += [f"  problem: {problem}" for problem in found["problems"]] or ["  index: no problems"]
    return "\n".join(lines)


def _open_tokenizer(path: str | None) -> Tokenizer | None:
    if path is None or not Path(path).exists():
        return None
    return open_tokenizer(path) if Path(path).is_dir() else SentencePieceTokenizer.read(path)


def _choose(reader: IndexedReader, samples: int, seed: int) -> list[int]:
    return sorted(random.Random(seed).sample(range(len(reader)), min(samples, len(reader))))


def _sample(
    reader: IndexedReader, number: int, description: dict[str, Any], tokenizer: Tokenizer | None, tokens_each: int
) -> dict[str, Any]:
    ids = reader[number].tolist()
    tail = tokens_each // 4
    if len(ids) <= tokens_each + tail:
        text = _visible(ids, description, tokenizer)
    else:
        left_out = len(ids) - tokens_each - tail
        head_text = _visible(ids[:tokens_each], description, tokenizer)
        text = f"{head_text}\n[… {left_out:,} tokens …]\n{_visible(ids[len(ids) - tail :], description, tokenizer)}"
    return {"document": number, "tokens": len(ids), "source": _source(reader, number, description), "text": text}


def _visible(ids: list[int], description: dict[str, Any], tokenizer: Tokenizer | None) -> str:
    """Text of ``ids``, with BOS and EOD marked; the ids themselves if there is no tokenizer."""
    marks = {description.get("bos_id"): "⟦BOS⟧", description.get("eod_id"): "⟦EOD⟧"}
    pieces: list[str] = []
    run: list[int] = []
    for identifier in [*ids, None]:
        if identifier is not None and identifier not in marks:
            run.append(identifier)
            continue
        if run:
            pieces.append(_decode(run, tokenizer))
            run = []
        if identifier is not None:
            pieces.append(marks[identifier])
    return "".join(pieces)


def _decode(ids: list[int], tokenizer: Tokenizer | None) -> str:
    if tokenizer is None:
        return " ".join(map(str, ids))
    if max(ids) >= tokenizer.vocab_size:
        raise InputError(
            f"id {max(ids)} is not in the tokenizer ({tokenizer.vocab_size} ids): the dataset was made with another one"
        )
    return _CONTROL_CHARACTERS.sub(lambda match: f"\\x{ord(match[0]):02x}", tokenizer.decode(ids))


def _source(reader: IndexedReader, number: int, description: dict[str, Any]) -> str | None:
    path = Path(f"{reader.prefix}.sources.npy")
    names = list(description.get("by_source", ()))
    return names[int(np.load(path, mmap_mode="r")[number])] if path.is_file() and names else None


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"
