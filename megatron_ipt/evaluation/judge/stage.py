"""Stage ``judge``: how good the pairs of a run are, for its report; the figures of ``megatron-ipt judge``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from megatron_ipt.evaluation.judge.config import JudgeConfig
from megatron_ipt.evaluation.judge.gold import read_gold
from megatron_ipt.evaluation.judge.measures import in_text
from megatron_ipt.evaluation.judge.output_files import JUDGED
from megatron_ipt.evaluation.judge.read import Output, chains_of, counts_of
from megatron_ipt.evaluation.judge.run import measure
from megatron_ipt.files import list_shards, write_json
from megatron_ipt.manifest import StageContext, fingerprint_file
from megatron_ipt.seeding import derive
from megatron_ipt.stages import CHAINS
from megatron_ipt.synthesis.pairs import Example, Pair

_EXAMPLES = 8


def run(config: JudgeConfig, context: StageContext) -> dict[str, Any]:
    """Judges pairs of the last stage that made chains; writes ``judge.json``.

    Returns:
        ``{texts, pairs, texts_with_pairs}`` and the fractions that the log shows.

    Raises:
        InputError: a file with gold pairs cannot be used.
    """
    gold = read_gold(config.gold) if config.gold else []
    shards = list_shards(context.inputs[CHAINS])
    examples = list(_spread(shards, config.texts))
    output = Output(examples, counts_of(shards))
    result = measure(output, gold, config.retrieval_texts, config.match, context.seed)
    found = [in_text(example) for example in examples]
    result["by_style"] = _grounding_by(examples, found, lambda pair: pair.style)
    result["by_task"] = _grounding_by(examples, found, lambda pair: pair.task)
    result["not_in_text"] = _not_in_text(examples, found, context.seed)
    write_json(context.directory / JUDGED, result)
    amounts, grounding = result["amounts"], result["grounding"]
    shares = {
        "answer_in_text": grounding["answer_in_text"],
        "own_text_first": result["relevance"]["own_text_first"],
        "duplicate_questions": result["repetition"]["duplicate_questions"],
        "gold_coverage": result.get("gold", {}).get("coverage"),
    }
    return {
        "texts": amounts["texts"],
        "pairs": amounts["pairs"],
        "texts_with_pairs": sum(bool(example.pairs) for example in examples),
        **{name: round(share, 3) for name, share in shares.items() if share is not None},
    }


def fingerprints(config: JudgeConfig) -> list[dict[str, Any]]:
    """Fingerprints of the files with gold pairs."""
    return [fingerprint_file(path) for path in config.gold]


def check(config: JudgeConfig) -> None:
    """Finds errors in the files with gold pairs before the run begins.

    Raises:
        InputError: one cannot be used.
    """
    if config.gold:
        read_gold(config.gold)


def _spread(shards: list[Any], texts: int) -> Iterator[Example]:
    """The first texts of up to ``texts`` shards at even distances, about ``texts`` in all, never more."""
    chosen = shards[:: max(1, len(shards) // texts)]
    waiting = [(example for chain in chains_of(shard) for example in chain.examples) for shard in chosen]
    each = -(-texts // max(len(chosen), 1))
    found = itertools.chain.from_iterable(itertools.islice(examples, each) for examples in waiting)
    return itertools.islice(found, texts)


def _grounding_by(
    examples: list[Example], found: list[list[bool]], group: Callable[[Pair], str]
) -> dict[str, dict[str, Any]]:
    """Number of pairs and fraction of answers found in the text, by group, the largest first; without unnamed ones."""
    groups: dict[str, list[bool]] = {}
    for example, are_in in zip(examples, found):
        for pair, is_in in zip(example.pairs, are_in):
            if group(pair):
                groups.setdefault(group(pair), []).append(is_in)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return {name: {"pairs": len(each), "answer_in_text": sum(each) / len(each)} for name, each in ordered}


def _not_in_text(examples: list[Example], found: list[list[bool]], seed: int) -> list[dict[str, str]]:
    """A few pairs whose answer is not in their text, from different texts."""
    shown = []
    for example, are_in in zip(examples, found):
        missing = [pair for pair, is_in in zip(example.pairs, are_in) if not is_in]
        if missing:
            shown.append({"id": example.id} | _shown(missing[0]))
    return sorted(shown, key=lambda record: derive(seed, "judge", record["id"]))[:_EXAMPLES]


def _shown(pair: Pair) -> dict[str, str]:
    named = {"style": pair.style, "task": pair.task}
    return {"question": pair.question, "answer": pair.answer} | {name: value for name, value in named.items() if value}
