"""What kind of task a pair is: a coarse classification into the kinds of tasks the method is tuned on.

The first matching row decides. Rows look at the form of the pair first (options, reasoning), then at the wording of the
question. The wordings are English; pairs in other languages are classified by form alone. Categories serve counting and
mixing, not grading; no pair is dropped for its category.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from megatron_ipt.synthesis.pairs import Pair

OTHER = "other"

_TRUTH_VALUES = frozenset(("yes", "no", "true", "false", "maybe", "unknown", "not given", "it's impossible to say"))
_NUMBER = re.compile(r"^\W{0,3}(?:rs\.? ?)?-?\d[\d,./: ]*\W{0,3}(?:[^\W\d]+\W?){0,3}$", re.IGNORECASE)


def _asks(pattern: str) -> Callable[[Pair], bool]:
    compiled = re.compile(pattern, re.IGNORECASE)
    return lambda pair: compiled.search(pair.question) is not None


def _is_arithmetic(pair: Pair) -> bool:
    return bool(pair.reasoning) and (_NUMBER.match(pair.answer) is not None or _digits(pair.reasoning) > 0.08)


def _digits(text: str) -> float:
    return sum(character.isdigit() for character in text) / max(len(text), 1)


def _is_truth_value(pair: Pair) -> bool:
    return bool(pair.options) and all(option.casefold().rstrip(".") in _TRUTH_VALUES for option in pair.options)


def _is_yes_or_no(pair: Pair) -> bool:
    return re.match(r"(?:yes|no|true|false)(?:[.,;:!]|$)", pair.answer, re.IGNORECASE) is not None


_RULES: tuple[tuple[str, Callable[[Pair], bool]], ...] = (
    ("inference", _asks(
        r"\b(?:entail|contradict|hypothesis|premise|(?:can|could) (?:we|you|one|it be) (?:infer|conclude))"
    )),
    ("math word problem", _is_arithmetic),
    ("yes or no", _is_truth_value),
    ("sentiment", _asks(r"\b(?:sentiment|positive or negative|emotion|mood|tone of|opinion of the)\b")),
    ("topic", _asks(r"\b(?:topic|genre|what (?:is|kind of).{0,30}(?:about|text)\?|classify|categor(?:y|ies|ize))\b")),
    ("fill in the blank", _asks(r"_{2,}|\bblanks?\b")),
    ("multiple choice with reasoning", lambda pair: bool(pair.options and pair.reasoning)),
    ("multiple choice", lambda pair: bool(pair.options)),
    ("reasoning", lambda pair: bool(pair.reasoning)),
    ("summary", _asks(
        r"\b(?:summar(?:y|ize|ise|ies)|main (?:idea|point|message|argument)s?|tl;?dr|gist|in a nutshell|sum up)\b"
    )),
    ("title", _asks(r"\b(?:title|headline)\b")),
    ("keywords", _asks(r"\bkey ?(?:words|phrases|terms|concepts)\b")),
    ("paraphrase", _asks(r"\b(?:paraphrase|rephrase|rewrite|reword|in other words|simplify)\b")),
    ("translation", _asks(r"\btranslate (?:the|this|it|into|to|from)\b")),
    ("completion", _asks(
        r"\b(?:continue the|complete the|finish the|happens? next|how (?:does|would|will).{0,40} end\b)"
    )),
    ("definition", _asks(
        r"\b(?:define|definition|meaning of|what does .{1,60} (?:mean|stand for|refer to)|what is meant by"
        r"|synonym|antonym)"
    )),
    ("writing", _asks(r"^(?:please )?(?:write|compose|draft|generate|create|make up|come up with|formulate)\b")),
    ("yes or no", _is_yes_or_no),
    ("cause and effect", _asks(
        r"^why\b|\b(?:what (?:is|was|are|were) the (?:reason|cause|effect|result|consequence)"
        r"|(?:caused?|leads?|led) (?:to )?|because of what|effects? of|how come|for what reason)\b"
    )),
    ("comparison", _asks(r"\b(?:differ(?:s|ent|ence|ences)?|compare[ds]?|contrast|in common|similarit(?:y|ies))\b")),
    ("quantity", _asks(
        r"\bhow (?:many|much|long|old|far|often|tall|high|deep|large|big|fast)\b"
        r"|\bwhat (?:percent|percentage|proportion|number|amount|fraction|share)\b"
    )),
    ("date", _asks(r"\bwhen\b|\b(?:what|which|in what) (?:year|date|day|month|century|decade|time)\b")),
    ("procedure", _asks(r"^how (?:do|does|did|can|could|to|is|are|was|were|should|would|might)\b|\bsteps?\b")),
    ("person", _asks(r"\bwho(?:m|se)?\b")),
    ("place", _asks(r"\bwhere\b|\b(?:what|which) (?:country|city|state|place|region|town|continent|county)\b")),
    ("list", _asks(r"^(?:list|name|give|identify|mention)\b|\bwhat are (?:the|some|two|three|four|five)\b")),
    ("question answering", _asks(r"\b(?:what|which|how)\b|\?$")),
)  # fmt: skip


def classify(pair: Pair) -> str:
    """The category of ``pair``."""
    for name, fits in _RULES:
        if fits(pair):
            return name
    return OTHER
