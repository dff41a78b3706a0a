"""Computes all metrics of an engine's output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from megatron_ipt.evaluation.judge import measures
from megatron_ipt.evaluation.judge.gold import GoldText, against_gold, read_gold
from megatron_ipt.evaluation.judge.read import Output, read_output
from megatron_ipt.evaluation.judge.relevance import relevance


def judge(
    paths: Sequence[str | Path],
    gold: Sequence[str | Path] = (),
    limit: int | None = None,
    retrieval_texts: int = 1000,
    minimum_f1: float = 0.5,
    tokenizer: str | None = None,
    seed: int = 1234,
) -> dict[str, Any]:
    """Judges folders of the stage ``synthesis`` or files of chains.

    Args:
        gold: files with gold pairs of the same texts.
        limit: judge only the first texts.
        retrieval_texts: maximum number of texts for :func:`.relevance.relevance`.
        minimum_f1: minimum F1 of a generated and a gold question to count as a match.
        tokenizer: folder or file of the tokenizer used to count tokens of pairs.

    Returns:
        ``{amounts, parsing, lengths, grounding, relevance, repetition, diversity}`` and, if gold files are given,
        ``gold``; see the functions of these names.

    Raises:
        InputError: a file cannot be used.
    """
    gold_texts = read_gold(gold) if gold else []
    output = read_output(paths, limit)
    return measure(output, gold_texts, retrieval_texts, minimum_f1, seed, _counter(tokenizer) if tokenizer else None)


def measure(
    output: Output,
    gold: Sequence[GoldText],
    retrieval_texts: int,
    minimum_f1: float,
    seed: int,
    count_tokens: Callable[[str], int] | None = None,
) -> dict[str, Any]:
    """The metrics of pairs that are read already; see :func:`judge`."""
    examples = output.examples
    result = {
        "amounts": measures.amounts(examples),
        "parsing": measures.parsing(output.statistics),
        "lengths": measures.lengths(examples, count_tokens),
        "grounding": measures.grounding(examples),
        "relevance": relevance(examples, retrieval_texts, seed),
        "repetition": measures.repetition(examples),
        "diversity": measures.diversity(examples),
    }
    if gold:
        result["gold"] = against_gold(examples, gold, minimum_f1)
    return result


def _counter(path: str) -> Callable[[str], int]:
    from megatron_ipt.inference.tokenizer import open_prompt_tokenizer

    tokenizer = open_prompt_tokenizer(path, "--tokenizer")
    return lambda text: len(tokenizer.encode([text])[0])
