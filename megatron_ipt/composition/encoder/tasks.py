"""Texts with the task they are of, for training an encoder that finds the task and not the topic.

Pairs of any file that ``synthesis.engine: replay`` reads, mined or written by people, are written in one of several
templates each, drawn by their text. The category of a pair is its task. A negative of the same template and another
task is *hard*: only what is asked tells it from a positive, not how it is laid out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import orjson

from megatron_ipt.augment.templates import ANY, load_templates
from megatron_ipt.errors import InputError
from megatron_ipt.files import iter_lines
from megatron_ipt.rejects import Rejects
from megatron_ipt.seeding import derive, generator
from megatron_ipt.synthesis.from_text.replay.config import ReplayConfig
from megatron_ipt.synthesis.from_text.replay.source import PairReader
from megatron_ipt.synthesis.pairs import Pair

TEMPLATES = 8
"""Of those for pairs without options; each text is in one of them."""


@dataclass(frozen=True)
class Labelled:
    """A text, its task, and the template it is written in."""

    text: str
    task: str
    template: int


@dataclass(frozen=True)
class Group:
    """A query and the texts it is compared with; the first is of its task, the others are not."""

    query: Labelled
    contexts: tuple[Labelled, ...]


def read_labelled(files: Iterable[Path], seed: int, most_per_task: int, work: Path) -> list[Labelled]:
    """Texts of all files, at most ``most_per_task`` of each task, chosen by a hash.

    Args:
        files: JSON Lines of ``{text, task}``, or files of pairs.
        work: folder for the rejects.

    Raises:
        InputError: a file cannot be used, or there are fewer than two tasks with two texts.
    """
    by_task: dict[str, dict[str, Labelled]] = defaultdict(dict)
    for path in files:
        for labelled in _read(path, seed, work):
            by_task[labelled.task].setdefault(labelled.text, labelled)
    kept = {task: texts for task, texts in by_task.items() if len(texts) > 1}
    if len(kept) < 2:
        raise InputError(
            f"{', '.join(map(str, files))}: {len(kept)} tasks with two texts or more; an encoder is trained and "
            "measured on texts of different tasks, so give files of several"
        )
    chosen = []
    for task in sorted(kept):
        texts = sorted(kept[task].values(), key=lambda each: derive(seed, "chosen", each.text))
        chosen += texts[:most_per_task]
    return chosen


def _read(path: Path, seed: int, work: Path) -> Iterator[Labelled]:
    first = next((line for line in iter_lines(path) if line.strip()), b"")
    if not first:
        raise InputError(f"{path}: is empty")
    try:
        record = orjson.loads(first)
    except orjson.JSONDecodeError:
        record = None
    if isinstance(record, dict) and {"text", "task"} <= record.keys():
        yield from _records(path)
    else:
        yield from _pairs(path, seed, work)


def _records(path: Path) -> Iterator[Labelled]:
    for number, line in enumerate(iter_lines(path), 1):
        try:
            record = orjson.loads(line)
            text, task, template = record["text"], record["task"], record.get("template", 0)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}:{number}: expected an object with text and task: {error!r}") from error
        if not (isinstance(text, str) and isinstance(task, str) and isinstance(template, int) and text.strip()):
            raise InputError(f"{path}:{number}: expected a text, the name of a task and the number of a template")
        yield Labelled(text, task, template)


def _pairs(path: Path, seed: int, work: Path) -> Iterator[Labelled]:
    patterns = [each.pattern for each in load_templates().pairs["free"][ANY].entries][:TEMPLATES]
    reader = PairReader(ReplayConfig([str(path)]), 1, seed, "encoder")
    with Rejects(work / f"rejects-{path.stem}.jsonl", 0.5, "encoder") as rejects:
        for chain in reader.read(path, rejects):
            for example in chain.examples:
                for pair in example.pairs:
                    template = derive(seed, "template", pair.question, pair.answer) % len(patterns)
                    parts: list[str] = []
                    patterns[template].fill({"question": pair.question, "answer": pair.answer}, parts, [])
                    yield Labelled("".join(parts), _task(pair, path), template)


def _task(pair: Pair, path: Path) -> str:
    if pair.options:
        return "multiple choice"
    return pair.task or pair.category or path.name.split(".", 1)[0]


def tasks_of(texts: Iterable[Labelled]) -> dict[str, int]:
    """Texts by task, the most first."""
    return dict(Counter(each.task for each in texts).most_common())


def groups(texts: Sequence[Labelled], seed: int, hard: int, easy: int, purpose: str) -> list[Group]:
    """A group for each text: one text of its task, ``easy`` of others at random, ``hard`` of others in its template.

    Where there are fewer hard ones, easy ones take their place, so that all groups have the same size.
    """
    by_task: dict[str, list[Labelled]] = defaultdict(list)
    by_template: dict[int, list[Labelled]] = defaultdict(list)
    for each in texts:
        by_task[each.task].append(each)
        by_template[each.template].append(each)
    made = []
    for query in texts:
        draws = generator(seed, purpose, query.task, query.text)
        positive = _draw(by_task[query.task], 1, lambda each, query=query: each != query, draws)
        others = [each for each in by_template[query.template] if each.task != query.task]
        negatives = draws.sample(others, min(hard, len(others)))
        wanted = hard + easy - len(negatives)
        taken = set(negatives)
        negatives += _draw(
            texts,
            wanted,
            lambda each, query=query, taken=taken: each.task != query.task and each not in taken,
            draws,
        )
        if positive and len(negatives) == hard + easy:
            made.append(Group(query, (*positive, *negatives)))
    return made


def _draw(pool: Sequence[Labelled], count: int, allowed, draws: Random) -> list[Labelled]:  # type: ignore[no-untyped-def]
    found: dict[Labelled, None] = {}
    for _ in range(50 * (count + 1)):
        if len(found) == count:
            break
        each = pool[draws.randrange(len(pool))]
        if allowed(each):
            found[each] = None
    return list(found)
