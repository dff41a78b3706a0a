"""Which language a text is in, guessed from its script and its most common function words.

Enough to notice a pair that is not in the language of its text; undecided where there is too little evidence. No model,
a few microseconds per call.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_FUNCTION_WORDS = {
    "en": "the of and to in is that was for it with as his on be at by he this had are but from they which not were",
    "de": "der die und das von zu mit den ist des im nicht ein eine auf für dem sich als auch es an werden aus wird",
    "fr": "le la les et des du une est dans que qui pour pas sur au avec par plus ce sont il elle aux ont cette",
    "es": "el los las y del que una es en por con para se su como más pero fue son este entre está ha también lo",
    "it": "il di che è per una sono del della con non gli nel anche più alla dei delle ha si lo le come da questo",
    "pt": "o os as e da do que uma é em não para com por mais foi são como dos das ao na no também pelo se",
    "nl": "de het een van en dat niet zijn op te met voor er aan ook als bij maar werd wordt naar uit deze door",
    "pl": "i w na z że się nie do jest to o jak ale po od przez dla oraz który był są tym jego za",
    "sv": "och att det som en på är av för med den till ett om har de inte var från vid kan eller också",
}
_WORDS = {name: frozenset(words.split()) for name, words in _FUNCTION_WORDS.items()}
_COMPARED_CHARACTERS = 1000
_LEAST_LETTERS = 8
_LEAST_HITS = 3
_WORD = re.compile(r"[^\W\d_]+")


def dominant_script(text: str) -> str | None:
    """The script of most letters of the first 2,000 characters (``LATIN``, ``CYRILLIC``, ``CJK``, ...)."""
    scripts = Counter(
        unicodedata.name(character, "").split(" ", 1)[0] for character in text[:2000] if character.isalpha()
    )
    if scripts.total() < _LEAST_LETTERS:
        return None
    script, count = scripts.most_common(1)[0]
    return script if count > scripts.total() / 2 else None


def guess_language(text: str) -> str | None:
    """One of nine European languages, when its function words clearly lead; else None."""
    words = Counter(word.casefold() for word in _WORD.findall(text[:4000]))
    hits = {name: sum(words[word] for word in known) for name, known in _WORDS.items()}
    (first, most), (_, next_most) = Counter(hits).most_common(2)
    return first if most >= _LEAST_HITS and most >= 1.5 * next_most else None


def in_another_language(text: str, other: str) -> bool | None:
    """Whether ``other`` is in another language than ``text``, by their beginnings; None where that is unclear."""
    text, other = text[:_COMPARED_CHARACTERS], other[:_COMPARED_CHARACTERS]
    # The names of characters are slow to look up, and most text needs none.
    scripts = ["LATIN" if each.isascii() else dominant_script(each) for each in (text, other)]
    if None in scripts:
        return None
    if scripts[0] != scripts[1]:
        return True
    if scripts[0] != "LATIN":
        return False
    languages = guess_language(text), guess_language(other)
    return None if None in languages else languages[0] != languages[1]


def same_language(text: str, other: str) -> bool:
    """False only if both scripts, or both languages, are clear and different."""
    for guess in (dominant_script, guess_language):
        left, right = guess(text), guess(other)
        if left is not None and right is not None and left != right:
            return False
    return True
