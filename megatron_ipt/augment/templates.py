"""Compiled templates: the entries of template files, sorted into pools by their conditions.

A document's conditions select a pool once, so the cost of a draw does not depend on the number of patterns. Loading
takes a few hundredths of a second; the result is immutable and picklable, and is passed to workers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from megatron_ipt.augment.config import AugmentConfig
from megatron_ipt.augment.patterns import Pattern, Pool
from megatron_ipt.augment.schema import (
    ASKS,
    KINDS,
    LAYOUTS,
    PAIRS,
    SHARES,
    Entry,
    TemplateFile,
    layout_weight_problems,
    read_template_file,
)
from megatron_ipt.errors import RecipeError

T = TypeVar("T")

BUILT_IN = Path(__file__).with_name("templates.yaml")
ANY = "any"
"""Condition of mixed documents: only entries without a condition match."""
NEEDS = ("any", "letter", "upper", "none")
"""Requirements on an option style: none, letters that are readable on their own, capital letters, no letters."""


@dataclass(frozen=True)
class PairPattern:
    """How one pair is written, and the separator before the next one."""

    pattern: Pattern
    separator: str
    inline: bool
    need: str


@dataclass(frozen=True)
class OptionStyle:
    """How options are listed; ``letters`` is a key of ``LETTERINGS`` or empty."""

    item: Pattern
    letters: str
    bullet: str
    join: str


@dataclass(frozen=True)
class Numbered:
    frame: Pattern
    question: Pattern
    answer: Pattern
    separator: str


@dataclass(frozen=True)
class NextTurn:
    frame: Pattern
    turn: Pattern
    separator: str


ByAsks = Mapping[str, Pool[T]]
"""Pools by the condition ``asks``: ``question``, ``instruction`` or ``any``."""
Frames = Mapping[tuple[str, str], Pool[Pattern]]
"""Pools by the conditions ``asks`` and ``pairs`` (pairs per text: ``one``, ``several`` or ``any``)."""


@dataclass(frozen=True)
class Templates:
    """Everything that rendering draws from. See the comments in ``templates.yaml``."""

    layouts: Mapping[str, Pool[str]]
    text_last_share: float
    shuffle_pairs_share: float
    no_answer_share: float
    no_answer_marks: frozenset[str]
    longest_mark: int
    no_answer_wordings: Pool[str]
    text_separators: Pool[str]
    pairs: Mapping[str, ByAsks[PairPattern]]
    apart: Mapping[str, Pool[PairPattern]]
    option_styles: Mapping[tuple[bool, str], Pool[OptionStyle]]
    frames: Mapping[str, Frames]
    turns: ByAsks[PairPattern]
    numbered: ByAsks[Numbered]
    examples: ByAsks[Pattern]
    next_turn: ByAsks[NextTurn]
    counts: Mapping[str, int]


def template_files(config: AugmentConfig) -> list[Path]:
    """Template files of ``config``, base file first."""
    base = BUILT_IN if config.templates == "default" else Path(config.templates)
    return [base, *map(Path, config.extend_templates)]


def load_templates(config: AugmentConfig | None = None) -> Templates:
    """Reads, checks, merges and compiles the template files.

    Lists in later files extend those in earlier ones; shares, layout weights and marks replace them.

    Raises:
        RecipeError: lists all problems, with file, key and entry.
    """
    config = config or AugmentConfig()
    files = template_files(config)
    merged = _merge([read_template_file(path) for path in files])
    missing = [key for key in (*KINDS, *SHARES) if key not in merged.entries and key not in merged.shares]
    missing += [f"layout_weights.{group}" for group in LAYOUTS if group not in merged.layout_weights]
    if missing:
        raise RecipeError(
            f"{files[0]}: missing keys: {', '.join(missing)}; to add to the built-in templates, use "
            "augment.extend_templates"
        )
    _override(merged, config)
    problems = list(_gaps(merged))
    if problems:
        raise RecipeError("\n".join(f"{', '.join(map(str, files))}: {problem}" for problem in problems))
    return _compile(merged)


def normalized_mark(text: str) -> str:
    """Normalizes an answer for comparison with the marks of unanswerable questions."""
    return text.strip(" \t\n.()[]<>").casefold()


def _merge(files: Sequence[TemplateFile]) -> TemplateFile:
    merged = TemplateFile({}, {}, {}, [])
    for file in files:
        for key, entries in file.entries.items():
            merged.entries[key] = merged.entries.get(key, []) + entries
        merged.shares |= file.shares
        merged.layout_weights |= file.layout_weights
        merged.marks = file.marks or merged.marks
    return merged


def _override(merged: TemplateFile, config: AugmentConfig) -> None:
    """Recipe settings override all files."""
    for group, weights in (("several", config.layout_weights), ("otherwise", config.layout_weights_otherwise)):
        problems = list(layout_weight_problems(group, weights))
        if problems:
            name = "layout_weights" if group == "several" else "layout_weights_otherwise"
            raise RecipeError("\n".join(f"augment.{name}: {problem}" for problem in problems))
        if weights:
            merged.layout_weights[group] = weights
    for key, share in zip(SHARES, (config.text_last_share, config.shuffle_pairs_share, config.no_answer_share)):
        if share is not None:
            merged.shares[key] = share


def _gaps(merged: TemplateFile) -> Iterator[str]:
    """Conditions under which a pool would be empty."""
    for group, weights in merged.layout_weights.items():
        if not sum(weights.values()) > 0:
            yield f"layout_weights.{group}: at least one layout needs a positive weight"
    for key, kind in KINDS.items():
        restricting = [name for name in ("asks", "pairs") if name in kind.choices]
        if not any(all(name not in entry.fields for name in restricting) for entry in merged.entries[key]):
            yield f"{key}: needs at least one entry without {' and '.join(restricting)}"
    styles = [_style(entry) for entry in merged.entries["option_styles"]]
    for inline, need in itertools.product((False, True), NEEDS):
        if not any(_fits(style, inline, need) for style in styles):
            where = "options on one line" if inline else "one option per line"
            wanted = {"any": "any", "letter": "upper or lower", "upper": "upper", "none": "no"}[need]
            yield f"option_styles: needs a style with {wanted} letters and {where}"


def _compile(merged: TemplateFile) -> Templates:
    entries = merged.entries

    def literals(key: str) -> Pool[str]:
        return Pool.of([(entry.fields["text"], entry.weight) for entry in entries[key]])

    def by_asks(key: str, make: Callable[[Entry], T]) -> ByAsks[T]:
        return {
            asks: Pool.of([(make(entry), entry.weight) for entry in entries[key] if _matches(entry, "asks", asks)])
            for asks in (*ASKS, ANY)
        }

    def frames(key: str) -> Frames:
        return {
            (asks, pairs): Pool.of(
                [
                    (entry.patterns["pattern"], entry.weight)
                    for entry in entries[key]
                    if _matches(entry, "asks", asks) and _matches(entry, "pairs", pairs)
                ]
            )
            for asks, pairs in itertools.product((*ASKS, ANY), (*PAIRS, ANY))
        }

    def section(prefix: str) -> Iterator[tuple[str, str]]:
        return ((key, key.removeprefix(prefix)) for key in KINDS if key.startswith(prefix))

    styles = [(_style(entry), entry.weight) for entry in entries["option_styles"]]
    marks = frozenset(map(normalized_mark, merged.marks))
    return Templates(
        layouts={group: Pool.of(list(weights.items())) for group, weights in merged.layout_weights.items()},
        text_last_share=merged.shares["text_last_share"],
        shuffle_pairs_share=merged.shares["shuffle_pairs_share"],
        no_answer_share=merged.shares["no_answer.share"],
        no_answer_marks=marks,
        longest_mark=max(map(len, marks), default=0),
        no_answer_wordings=literals("no_answer.wordings"),
        text_separators=literals("text_separators"),
        pairs={name: by_asks(key, _pair_pattern) for key, name in section("patterns.")},
        apart={
            name: Pool.of([(_pair_pattern(entry), entry.weight) for entry in entries[key]])
            for key, name in section("apart.")
        },
        option_styles={
            (inline, need): Pool.of([(style, weight) for style, weight in styles if _fits(style, inline, need)])
            for inline, need in itertools.product((False, True), NEEDS)
        },
        frames={key: frames(key) for key in KINDS if "frames" in key},
        turns=by_asks("dialogue.turns", lambda entry: _pair_pattern(entry, "\n")),
        numbered=by_asks("numbered", _numbered),
        examples=by_asks("examples", lambda entry: entry.patterns["pattern"]),
        next_turn=by_asks("next_turn", _next_turn),
        counts={key: len(items) for key, items in entries.items()},
    )


def _matches(entry: Entry, name: str, value: str) -> bool:
    return entry.fields.get(name, value) == value


def _fits(style: OptionStyle, inline: bool, need: str) -> bool:
    if inline == ("\n" in style.join):
        return False
    if need == "none":
        return not style.letters
    return need == "any" or style.letters == "upper" or (need == "letter" and style.letters == "lower")


def _pair_pattern(entry: Entry, separator: str = "\n\n") -> PairPattern:
    pattern = entry.patterns["pattern"]
    need = "letter" if "letter" in pattern.slots else "any"
    inline = entry.fields.get("options") == "inline"
    return PairPattern(pattern, entry.fields.get("separator", separator), inline, need)


def _style(entry: Entry) -> OptionStyle:
    fields = entry.fields
    return OptionStyle(
        entry.patterns["item"], fields.get("letters", ""), fields.get("bullet", ""), fields.get("join", "\n")
    )


def _numbered(entry: Entry) -> Numbered:
    patterns = entry.patterns
    return Numbered(patterns["frame"], patterns["question"], patterns["answer"], entry.fields.get("separator", "\n"))


def _next_turn(entry: Entry) -> NextTurn:
    return NextTurn(entry.patterns["frame"], entry.patterns["turn"], entry.fields.get("separator", "\n"))
