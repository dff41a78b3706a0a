"""The language model of the paper, on sentences of a text of which half are damaged.

Two layers, 128 wide, 8 heads, sentences of up to 64 tokens, words beyond the vocabulary as one unknown token. Half of
the training sentences are damaged by twenty random edits: replace a token, delete the last one, repeat one
(arXiv:2402.17759, appendix D). The paper trains on TinyStories; any plain text does. Its size in steps and sentences is
beyond a CPU, so the defaults here are smaller.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from megatron_ipt.config import key
from megatron_ipt.errors import InputError
from megatron_ipt.research.learning_law.policy import Model
from megatron_ipt.seeding import derive, generator
from megatron_ipt.selection.pds.forward_mode import ForwardMode
from megatron_ipt.selection.pds.language_model import TokenRow, row_losses, token_batches, token_losses_of
from megatron_ipt.selection.pds.problem import Problem
from megatron_ipt.selection.pds.target import mean_loss
from megatron_ipt.selection.pds.vectors import Theta

if TYPE_CHECKING:
    import torch

UNKNOWN, BEGIN = 0, 1
_WORD = re.compile(r"\w+|[^\w\s]")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_FEWEST_WORDS = 5


@dataclass
class TransformerConfig:
    text: str = key("", "File of plain text; its sentences are training, desired and test examples.")
    vocabulary: int = key(1000, "Most frequent words; others are one unknown token.", minimum=3)
    width: int = key(128, "Hidden size.", minimum=2)
    layers: int = key(2, "Layers.", minimum=1)
    heads: int = key(8, "Attention heads.", minimum=1)
    max_tokens: int = key(64, "Tokens of a sentence; longer ones are cut.", minimum=3)
    examples: int = key(512, "Training sentences.", minimum=1)
    desired: int = key(128, "Sentences of the desired loss; as many more for the test.", minimum=1)
    damaged_share: float = key(0.5, "Share of training sentences that are damaged.", minimum=0, maximum=1)
    edits: int = key(20, "Random edits of a damaged sentence.", minimum=0)
    micro_batch_size: int = key(64, "Sentences computed at once.", minimum=1, affects_output=False)

    def needed(self) -> Iterator[tuple[str, str]]:
        """Problems that matter only where this model is chosen."""
        if not self.text:
            yield "text", "required for model=transformer: a file of plain text"
        if self.width % self.heads or (self.width // self.heads) % 2:
            yield "heads", f"{self.heads} heads do not divide a width of {self.width} into even parts"


def sentences(text: str) -> list[list[str]]:
    """Words and marks of each sentence of five words or more, without repetitions, in order."""
    found = (_WORD.findall(sentence.lower()) for line in text.splitlines() for sentence in _SENTENCE_END.split(line))
    return [list(words) for words in dict.fromkeys(tuple(words) for words in found if len(words) >= _FEWEST_WORDS)]


def damage(ids: list[int], edits: int, vocabulary: int, draws: Random) -> list[int]:
    """``ids`` after random edits, without BEGIN; never shorter than one token."""
    ids = list(ids)
    for _ in range(edits):
        edit, place = draws.randrange(3), draws.randrange(len(ids))
        if edit == 0:
            ids[place] = draws.randrange(2, vocabulary)
        elif edit == 1 and len(ids) > 1:
            ids.pop()
        else:
            ids.insert(place, ids[place])
    return ids


def transformer(
    config: TransformerConfig, learning_rate: float, seed: int, dtype: torch.dtype
) -> tuple[Model, list[bool]]:
    """The problem, drawn from ``seed``, and which training sentences are damaged.

    Raises:
        InputError: the text cannot be read or has too few sentences.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    try:
        text = Path(config.text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{config.text}: cannot be read as UTF-8 text: {error}") from error
    found = sentences(text)
    wanted = config.examples + 2 * config.desired
    if len(found) < wanted:
        raise InputError(
            f"{config.text}: has {len(found)} different sentences of {_FEWEST_WORDS} words or more; "
            f"{wanted} are needed (examples and twice desired)"
        )
    chosen = generator(seed, "sentences").sample(found, wanted)
    counts = Counter(word for words in chosen for word in words)
    words = {word: number for number, (word, _) in enumerate(counts.most_common(config.vocabulary - 2), 2)}
    rows = [[words.get(word, UNKNOWN) for word in sentence] for sentence in chosen]
    marks = [generator(seed, "damaged", place).random() < config.damaged_share for place in range(config.examples)]
    size = len(words) + 2
    for place, mark in enumerate(marks):
        if mark:
            rows[place] = damage(rows[place], config.edits, size, generator(seed, "edits", place))
    token_rows = [TokenRow(np.array([BEGIN, *ids][: config.max_tokens], np.int64)) for ids in rows]
    parts = [
        token_rows[: config.examples],
        token_rows[config.examples : config.examples + config.desired],
        token_rows[config.examples + config.desired :],
    ]
    training, desired, test = (token_batches(part, config.micro_batch_size) for part in parts)
    torch.manual_seed(derive(seed, "transformer"))
    shape = LlamaConfig(
        vocab_size=size, hidden_size=config.width, intermediate_size=4 * config.width,
        num_hidden_layers=config.layers, num_attention_heads=config.heads, max_position_embeddings=config.max_tokens,
        tie_word_embeddings=False,
    )  # fmt: skip
    # Fused attention has no forward mode.
    network = LlamaForCausalLM._from_config(shape, attn_implementation="eager", dtype=dtype)
    losses = row_losses(token_losses_of(network))
    tests = mean_loss(losses, test)

    @torch.no_grad()
    def test_loss(theta: Theta) -> torch.Tensor:
        return torch.stack([part(theta).double() for part in tests]).sum()

    model = Model(
        calculus=ForwardMode(Problem(losses, mean_loss(losses, desired))),
        test=test_loss,
        start={name: tensor.detach().clone() for name, tensor in network.named_parameters()},
        batches=training,
        sizes=[len(batch.tokens) for batch in training],
        learning_rate=learning_rate,
        vocabulary=size,
        name="transformer",
    )
    return model, marks
