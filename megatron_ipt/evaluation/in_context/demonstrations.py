"""Which demonstrations, in which order, and how they are shared out over groups.

The order is that of a hash of (seed, place in the file), so the first 8 are among the first 64, and points of a curve
differ by what was added only. Every demonstration is tokenized by itself: its tokens do not depend on its neighbours,
which is what makes the result independent of the grouping up to the attention itself.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_ipt.errors import InputError
from megatron_ipt.evaluation.in_context.config import InContextConfig
from megatron_ipt.evaluation.in_context.requirements import GIB, Memory, context_length, plan_memory
from megatron_ipt.evaluation.questions import Question
from megatron_ipt.seeding import derive

logger = logging.getLogger(__name__)

SEPARATOR = "\n\n"
"""Stands after every demonstration."""


class TooLong(InputError):
    """The demonstrations do not fit into the context of the model in the way that was asked for."""


def choose(count: int, pool: int, seed: int, source: str | Path) -> list[int]:
    """Places of ``count`` demonstrations among ``pool``, in their order.

    Raises:
        InputError: there are not so many; names ``source``.
    """
    if not pool:
        raise InputError(f"{source}: contains no demonstrations")
    if count > pool:
        raise InputError(
            f"{source}: {count} demonstrations are asked for, but it has {pool}; lower in_context.demonstrations or "
            "add more"
        )
    return sorted(range(pool), key=lambda place: derive(seed, "demonstration", place))[:count]


def prompt_of(question: Question, template: str) -> str:
    """The text before the answer; ``template`` as in the recipe, empty for the one that questions have."""
    if not template:
        return question.prompt
    return template.format(context=question.context.strip(), question=question.question.strip())


def encode(tokenizer: Any, question: Question, template: str) -> list[int]:
    """Ids of a demonstration: prompt, answer, separator, each tokenized as the parts of a question are."""
    parts = [prompt_of(question, template), f" {question.answer.strip()}", SEPARATOR]
    return [token for ids in tokenizer(parts, add_special_tokens=False)["input_ids"] for token in ids]


def refuse_shared(
    demonstrations: Sequence[Question], questions: Sequence[Question], source: str | Path, template: str
) -> None:
    """Raises InputError if a question is also a demonstration: its answer would stand before it."""
    asked = {prompt_of(question, template) for question in questions}
    for place, demonstration in enumerate(demonstrations):
        if prompt_of(demonstration, template) in asked:
            raise InputError(
                f"{source}: demonstration {place + 1} ({demonstration.question or demonstration.context!r:.80}) is "
                "also one of the questions; remove it from one of the two files"
            )


def arrange(
    demonstrations: Sequence[Sequence[int]],
    head: Sequence[int],
    capacity: int,
    groups: int | None,
    source: str | Path,
) -> list[list[int]]:
    """Ids of groups: ``head`` (BOS), then demonstrations in their order; the longest is as short as it can be.

    Args:
        demonstrations: ids of each.
        capacity: most tokens of a group, with ``head``.
        groups: how many; 1 is plain concatenation. None: the fewest that hold all.

    Raises:
        InputError: there are none, or one is longer than a group; names ``source``.
        TooLong: they do not fit.
    """
    if not demonstrations:
        raise InputError(f"{source}: there are no demonstrations to arrange")
    room = capacity - len(head)
    longest = max(range(len(demonstrations)), key=lambda place: len(demonstrations[place]))
    if len(demonstrations[longest]) > room:
        raise InputError(
            f"{source}: demonstration {longest + 1} of those chosen has {len(demonstrations[longest])} tokens, but a "
            f"group takes {max(room, 0)}; shorten it, or raise in_context.group_tokens if the model's context allows"
        )
    lengths = [len(ids) for ids in demonstrations]
    if groups is None:
        groups = len(_cut(lengths, room))
    elif groups > len(lengths):
        raise InputError(
            f"{source}: {groups} groups cannot share {len(lengths)} demonstrations; lower in_context.groups"
        )
    low, high = max(max(lengths), -(-sum(lengths) // groups)), sum(lengths)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_cut(lengths, middle)) <= groups else (middle + 1, high)
    if low > room:
        raise TooLong(
            f"{source}: {len(lengths)} demonstrations have {sum(lengths)} tokens; in {groups} "
            f"group{'s' * (groups > 1)} the longest has {low}, but {room} fit into one; use fewer demonstrations or "
            "mode structured with more groups"
        )
    sizes = _cut(lengths, low)
    while len(sizes) < groups:
        # So many as asked for, even where fewer would do.
        widest = max(range(len(sizes)), key=lambda place: sizes[place])
        sizes[widest : widest + 1] = [sizes[widest] - sizes[widest] // 2, sizes[widest] // 2]
    found, start = [], 0
    for size in sizes:
        found.append([*head, *(token for ids in demonstrations[start : start + size] for token in ids)])
        start += size
    return found


def _cut(lengths: Sequence[int], room: int) -> list[int]:
    """Numbers of consecutive items that fit into ``room`` together, as many as possible each time."""
    sizes: list[int] = []
    left = 0
    for length in lengths:
        if length > left:
            sizes.append(0)
            left = room
        sizes[-1] += 1
        left -= length
    return sizes


def prepare_groups(
    model: Any,
    config: InContextConfig,
    demonstrations: Sequence[Sequence[int]],
    head: Sequence[int],
    longest: int,
    deepest: int,
    source: str,
) -> tuple[list[list[int]], Memory]:
    """Groups for ``model`` as the recipe wants them, and the memory that they take, which is logged.

    Args:
        demonstrations: ids of each.
        head: ids at the beginning of each group.
        longest: most tokens that are computed of one question.
        deepest: most tokens of a question with one answer.

    Raises:
        InputError: see :func:`arrange` and :func:`.requirements.plan_memory`.
    """
    capacity = context_length(model.config) - deepest
    wanted: int | None = 1
    if config.mode == "structured":
        capacity, wanted = min(capacity, config.group_tokens or capacity), config.groups
    groups = arrange(demonstrations, head, capacity, wanted, source)
    tokens = sum(map(len, groups))
    memory = plan_memory(model.config, model.dtype.itemsize, tokens, longest, max(map(len, groups)), config.memory_gib)
    logger.info(
        "%s: %d demonstrations in %d groups, %d tokens; keys and values take %.2f GiB, a pass of %d tokens up to %.2f",
        source, len(demonstrations), len(groups), tokens, memory.keys_and_values / GIB, memory.queries,
        memory.largest_pass / GIB,
    )  # fmt: skip
    return groups, memory
