"""Encodes collected examples as ids and masks, one document per example, by split; packing comes later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_ipt.corpus.documents import SPLITS
from megatron_ipt.inference.tokenizer import PromptTokenizer
from megatron_ipt.seeding import derive
from megatron_ipt.tuning.chats import UnusableChatError
from megatron_ipt.tuning.collect import Collected
from megatron_ipt.tuning.config import TuningConfig
from megatron_ipt.tuning.few_shot import FewShotFormat, vary
from megatron_ipt.tuning.rows import RowWriter
from megatron_ipt.tuning.sequences import Masked
from megatron_ipt.tuning.templates import open_layout

CHAT_TOO_LONG = "chat whose first exchange is longer than a row"

_Item = tuple[str, str, Masked, int]
"""Split, id, ids with mask, number of pairs or responses."""


@dataclass
class Encoded:
    """Encoded examples of one dataset and split.

    Attributes:
        prefix: path prefix of the examples, one per row.
        hashes: hashes of their ids, from which every order derives.
        parts: total number of pairs, or of responses.
    """

    prefix: Path
    hashes: list[int] = field(default_factory=list)
    parts: int = 0


def encode(
    config: TuningConfig,
    collected: Collected,
    seed: int,
    tokenizer: PromptTokenizer,
    folder: Path,
    dtype: npt.DTypeLike,
) -> tuple[dict[str, Encoded], Counter[str]]:
    """Encodes a dataset into ``folder``; examples that do not fit go to the rejects.

    Args:
        folder: output folder.

    Returns:
        The splits that have examples, and the number of truncated chats.
    """
    capacity = config.seq_length + 1
    counts: Counter[str] = Counter()
    if config.kind == "synthesizer":
        items = _texts(config, collected, seed, FewShotFormat(tokenizer, capacity))
    else:
        items = _chats(config, collected, capacity, tokenizer, counts)
    found = {split: Encoded(folder / f"{collected.name}-{split}") for split in SPLITS}
    with ExitStack() as stack:
        writers = {split: stack.enter_context(RowWriter(part.prefix, dtype)) for split, part in found.items()}
        for split, name, masked, parts in items:
            ids, mask = np.array(masked.ids, np.int64), np.array(masked.mask, np.uint8)
            writers[split].add(ids, mask, np.array([len(ids)], np.int32))
            found[split].hashes.append(derive(seed, "order", collected.name, name))
            found[split].parts += parts
    return {split: part for split, part in found.items() if part.hashes}, counts


def _texts(config: TuningConfig, collected: Collected, seed: int, layout: FewShotFormat) -> Iterator[_Item]:
    for split, example in collected.examples():
        pairs, drops = layout.parseable(vary(example, config.multiple_choice_share, seed).pairs)
        masked, cut = layout.encode(replace(example, pairs=pairs))
        for drop in (*drops, *cut):
            collected.rejects.add(drop.reason, example.id, sample=drop.sample)
        if masked is not None:
            yield split, example.id, masked, len(pairs) - len(cut)


def _chats(
    config: TuningConfig, collected: Collected, capacity: int, tokenizer: PromptTokenizer, counts: Counter[str]
) -> Iterator[_Item]:
    assert tokenizer.path is not None  # tuning never estimates tokens
    layout = open_layout(config.template, tokenizer.path.parent, tokenizer)
    for split, chat in collected.chats():
        try:
            masked, ends = layout.encode(chat.messages)
        except UnusableChatError as error:
            collected.rejects.add(str(error), chat.source, chat.line, sample=str(chat.messages))
            continue
        fitting = [end for end in ends if end <= capacity]
        if not fitting:
            collected.rejects.add(CHAT_TOO_LONG, chat.source, chat.line, sample=str(chat.messages))
            continue
        counts["chats_cut_short"] += len(fitting) < len(ends)
        yield split, chat.id, Masked(masked.ids[: fitting[-1]], masked.mask[: fitting[-1]]), len(fitting)
