"""Grammar checks on a piece of English that use its closed-class words alone.

There is no part-of-speech tagger. A piece passes a check only when its function words leave little doubt: rejecting a
good piece costs nothing, while a bad question does.
"""

from __future__ import annotations

import re
from itertools import pairwise

from megatron_ipt.synthesis.from_text.mined.expressions import PERIOD
from megatron_ipt.synthesis.from_text.mined.lexicon import (
    ADJECTIVE_ENDINGS,
    CLAUSE_WORDS,
    CONNECTIVES,
    CONTEXT_NOUNS,
    DETERMINERS,
    ENGLISH,
    FAITHS,
    NOT_NAMES,
    OBJECT_OPENERS,
    PLAIN_OPENERS,
    PREPOSITIONS,
    PRONOUNS,
    QUANTIFIERS,
    SKIPPED_AFTER_AUXILIARY,
    TYING_SECONDS,
    word_set,
)
from megatron_ipt.synthesis.from_text.mined.sentences import Sentence

_AUXILIARY = re.compile(
    r"^(?P<subject>[^,;:()\"“”]{2,90}?) (?P<aux>is|are|was|were|can|could|will|would|must|should|"
    r"(?:has|have|had)(?= (?:been|become|never been|always been)\b)) (?P<rest>.+)$"
)

_UNFIT = re.compile(r"[<>{}|\\_~^*#\[\]…�]|https?:|www\.|\.\.|@(?![-.,]@)(?<![-.,]@)|[^\W\d_]\.[^\W\d_]{2}")
_NOT_LETTERS = re.compile(r"[\W\d_]")


_NOUN_ENDINGS = (
    "tion",
    "sion",
    "ness",
    "ment",
    "ism",
    "ship",
    "ance",
    "ence",
    "ity",
    "ing",
    "hood",
    "logy",
    "graphy",
    "sis",
)


def is_prose(sentence: Sentence, shortest: int, longest: int) -> bool:
    """Whether ``sentence`` is a finished English sentence that can be quoted."""
    core = sentence.core
    if sentence.stop.strip() != "." or not shortest <= len(core) <= longest:
        return False
    # A single digit in front is more often the rest of a formula or a list than a number of things.
    if not (core[0].isupper() or core[:2].isdigit()) or _UNFIT.search(core):
        return False
    words = core.lower().split()
    if len(words) < 5 or ENGLISH.isdisjoint(words):
        return False
    if core.count('"') % 2 or core.count("(") != core.count(")") or core.count("“") != core.count("”"):
        return False
    if core[-1] in "\"”)’'»" and core[-1] != ")":
        return False
    return len(_NOT_LETTERS.findall(core)) < 0.4 * len(core)


def looks_english(sentences: list[Sentence]) -> bool:
    """Whether the usual function words are as frequent as in English (at least one word in ten)."""
    words = " ".join([sentence.core for sentence in sentences[:40]]).lower().split()
    return len(words) >= 8 and sum(word in ENGLISH for word in words) * 10 >= len(words)


_TYING = re.compile(
    r"^As a (?:result|consequence)\b| (?:there|then|therefore|thus|hence|however|nevertheless|so|here)$| here |"
    r" (?:this|these|such(?! as\b)|those(?! of\b| who\b| that\b)) | ?, (?:however|therefore) ?,| (?:therefore|"
    r"thus|hence) "
)
"""Words inside a statement that point to what was said before it."""

_OBJECT = re.compile(r" (?:it|them|him)\b")
_GOVERNING = word_set(
    "gave took made put saw knew built found cut kept held left sold bought of from with by to for on in at than around"
)


def _dangles(statement: str) -> bool:
    """Whether a pronoun is the object of a verb or preposition, which then speaks of something outside."""
    for pronoun in _OBJECT.finditer(statement):
        before = statement[: pronoun.start()].rsplit(None, 1)[-1].lower()
        if before in _GOVERNING or before.endswith("ed") or pronoun.end() == len(statement):
            return True
        if before.endswith("s") and before[-2:] not in ("as", "is", "us", "ss"):
            return True
    return False


def stands_alone(statement: str) -> bool:
    """Whether a clause opens with a word that needs no earlier sentence."""
    opening = statement.split(None, 2)
    if len(opening) < 3:
        return False
    if _TYING.search(statement) or _dangles(statement):
        return False
    first, second = opening[0].rstrip(",").lower(), opening[1].rstrip(",").lower()
    if first in QUANTIFIERS:
        return second not in CLAUSE_WORDS and second not in PREPOSITIONS and second not in ("others", "more")
    if first in PRONOUNS or first in CONNECTIVES:
        return False
    if first in ("the", "for", "in", "as", "on", "by", "at", "an") and second in TYING_SECONDS:
        return False
    return not (first in PREPOSITIONS and second in PRONOUNS)


def is_noun_phrase(phrase: str, most_words: int = 8) -> bool:
    """Whether ``phrase`` can be the whole subject of the verb that follows it."""
    words = phrase.split()
    if not 1 <= len(words) <= most_words:
        return False
    first = words[0].lower()
    if first in PRONOUNS or first in CONNECTIVES or first in PREPOSITIONS or first in CLAUSE_WORDS:
        return False
    if words[-1].lower() in PREPOSITIONS or words[-1].lower() in DETERMINERS or (len(words) == 1 and len(first) < 3):
        return False
    if words[1:2] in (["after"], ["before"]):
        return False
    if words[1:2] in (["example"], ["instance"], ["reason"], ["result"]) or words[-1] in (
        "also",
        "both",
        "all",
        "and",
        "or",
        "but",
    ):
        return False
    if first.endswith("ly") and first not in (
        "family",
        "italy",
        "assembly",
        "july",
        "fly",
        "lily",
        "butterfly",
        "jelly",
    ):
        return False
    for word, following in zip(words[1:], [*words[2:], ""]):
        lower = word.lower()
        if lower in CLAUSE_WORDS and not word[0].isupper():
            return False
        if lower.endswith("ed") and following.lower() in OBJECT_OPENERS:
            return False
    return not (len(words) == 2 and first in ("the", "a") and words[1].lower() in CONTEXT_NOUNS)


_NAME_GOES_ON = re.compile(r"[A-Z]|(?:de|van|von|der|di|da|del|la|le|of) (?:[a-z]+ )?[A-Z]")


class Casing:
    """Which first words of sentences keep their capital inside a sentence.

    Args:
        text: what the words are looked for in; a word also written small there is a common word.
    """

    def __init__(self, text: str, title: str = ""):
        tokens = text.split()
        self._words = frozenset(tokens)
        self._names = frozenset(title.split()).union(
            word.strip(",.;:()") for before, word in pairwise(tokens) if word[0].isupper() and before[-1].islower()
        )

    def is_known(self, phrase: str) -> bool:
        """Whether it is known how the first word is written inside a sentence; a single word may leave it open."""
        return " " in phrase or phrase in self._names or self.inside(phrase) != phrase

    def inside(self, phrase: str, plural: bool = False) -> str:
        """``phrase`` as it is written in the middle of a sentence; ``plural`` if its verb shows that it is one."""
        first, _, rest = phrase.partition(" ")
        return f"{phrase[0].lower()}{phrase[1:]}" if self._is_common(first, rest, plural) else phrase

    def _is_common(self, word: str, rest: str, plural: bool) -> bool:
        lower = word.lower()
        if not word[:1].isupper() or (len(word) > 1 and word[1:] != lower[1:]):
            return False
        if lower in DETERMINERS or lower in PREPOSITIONS or lower in PRONOUNS:
            return True
        if _NAME_GOES_ON.match(rest) or lower in NOT_NAMES or lower in FAITHS:
            return False
        if lower in PLAIN_OPENERS or lower in self._words or f"{lower}," in self._words or f"{lower}." in self._words:
            return True
        # What has a possessive and a capital is mostly a name.
        if word in self._names or lower.endswith((*ADJECTIVE_ENDINGS, "'s", "’s")):
            return False
        return bool(rest) or lower.endswith(_NOUN_ENDINGS) or (plural and lower.endswith("s"))


def invert(clause: str, casing: Casing) -> str:
    """``The bridge was closed in May`` as ``was the bridge closed in May``; empty where that is not safe."""
    match = _AUXILIARY.match(clause)
    if not match or len(clause) > 140 or not is_noun_phrase(match["subject"]) or not casing.is_known(match["subject"]):
        return ""
    rest = match["rest"]
    if ";" in rest or ":" in rest or _first_word(rest) in SKIPPED_AFTER_AUXILIARY:
        return ""
    return f"{match['aux']} {casing.inside(match['subject'])} {rest}"


def _first_word(phrase: str) -> str:
    return phrase.split(None, 1)[0].lower()


_TAIL_CUT = re.compile(
    r" ?;| ?:| [–—-] (?!\d)| -- | ?\((?!\s?\d)|"
    r"(?: ?,)? (?:and|but|or|nor|yet) (?:(?:is|are|was|were|has|have|had|can|could|will|would|it|they|he|she|we|this|"
    r"these|there|then|later|therefore|so|thus|may|might|must|do|does|did|also|often|usually|never|not)\b)|"
    r" because | ?, (?:which|who|whom|whose|where|when|while|whereas|but|although|though|so|because|since|if|"
    r"until|unless|after|"
    r"before|as|with|even|then|later|thus|rather|not|including|such|especially|\w+ing)\b"
)

_COMMA = re.compile(r" ?,(?=\s)")
_AND = re.compile(r" (?:and|or|&) ")


def tail(rest: str) -> str:
    """The phrase that ``rest`` of a sentence opens with, up to where another clause begins."""
    cut = _TAIL_CUT.search(rest)
    phrase = rest[: cut.start()] if cut else rest
    pieces = _COMMA.split(phrase)
    # With a single comma, "and" joins a clause; a list has more.
    if len(pieces) == 2 or not _AND.search(pieces[-1]):
        phrase = pieces[0]
    if phrase.endswith((" and", " or", " but")):
        return ""
    timed = _TIME_END.search(phrase)
    # "a market built in 1808" would be left as "a market built".
    if timed and timed.start() > 3 and not _PARTICIPLE.search(phrase, 0, timed.start()):
        phrase = phrase[: timed.start()]
    return phrase.rstrip(" ,;:–—-")


_PARTICIPLE = re.compile(r"(?:ed|en|built|held|made|born|sold|led|won)$")
_TIME_END = re.compile(
    rf" (?:(?:in|on|from|between|since|until|during|by|around) (?:{PERIOD})\b.*|as well|too|again|instead)$"
)
_CLAUSE_CUT = re.compile(
    r" ?[;:]|(?: ?,)? (?:and|but|or) (?:is|are|was|were|has|have|had|can|it|they|he|she|this|there|then|later|also)\b|"
    r" ?, (?:but|so|yet) | because | and (?:the|its|their|his|her|a|an) (?:[^ ,]+ ){1,6}(?:is|are|was|were|has|"
    r"have|had) "
)


_AND_CLAUSE = re.compile(r" and (?:the|its|their|his|her|a|an) ")
_RELATIVE = re.compile(r" (?:that|which|who|where) ")


def definition(rest: str) -> str:
    """What ``rest`` of a sentence says a thing is, relative clauses included, up to where a main clause begins."""
    cut = _CLAUSE_CUT.search(rest)
    if cut and _AND_CLAUSE.match(cut.group()) and _RELATIVE.search(rest, 0, cut.start()):
        # The clause after "and" may go on with the relative clause.
        cut = None
    phrase = rest[: cut.start()] if cut else rest
    head, comma, last = phrase.partition(",")
    return head.rstrip() if comma and last.startswith(" and ") else phrase.rstrip(" ,")


_INTRODUCTION = re.compile(
    r"^(?:(?:In|At|On|During|By|From|Since|After|Before|Under|Over|For|Throughout|Within|Among|Across|With|To)"
    r" [^,;:()\"“”]{2,60}|However|Therefore|Moreover|Furthermore|Additionally|Today|Currently|Traditionally|"
    r"Originally|Historically|Generally|Usually|Typically|Sometimes|Often|Nevertheless|Similarly|Likewise|Consequently|"
    r"Thus|Meanwhile|Also|Initially|Finally|Later|Instead|Indeed) ?,(?= )(?! [^,]{2,40} ?, (?:and|or) ) "
)


def without_introduction(core: str) -> str:
    """``In most countries, the law is a ...`` as ``The law is a ...``; a sentence without introduction as it is."""
    opening = _INTRODUCTION.match(core)
    return capitalise(core[opening.end() :]) if opening else core


def finish(answer: str, stop: str = ".") -> str:
    """An answer of more than three words as a sentence, a shorter one as it is."""
    answer = answer.strip(" ,;")
    words = answer.split()
    if len(words) <= 3:
        return capitalise(answer) if words and words[0] in PREPOSITIONS else answer
    return f"{capitalise(answer)}{stop}"


def capitalise(phrase: str) -> str:
    """``phrase`` with its first letter in upper case."""
    return phrase[:1].upper() + phrase[1:]


def is_balanced(piece: str) -> bool:
    """Whether every parenthesis and quotation mark in ``piece`` has its partner there."""
    return (
        piece.count("(") == piece.count(")")
        and piece.count('"') % 2 == 0
        and piece.count("“") == piece.count("”")
        and piece.find(")") >= piece.find("(")
    )


def quote(statement: str, stop: str = ".") -> str:
    """``statement`` in quotation marks that do not occur in it."""
    body = f"{capitalise(statement)}{stop}"
    return f"“{body}”" if '"' in body else f'"{body}"'
