"""What a word is where texts are compared: for contamination and for near-duplicates.

Words are runs of letters and digits of the text in NFKC, case-folded. Case, punctuation, layout and the form in which
Unicode writes a letter make no difference; the order of words does. Marks that cannot be composed with their letter end
a word, and scripts without spaces have one word where the text has no punctuation.
"""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+")


def folded(text: str) -> str:
    """``text`` in NFKC, then case-folded."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", text).casefold()


def words_of(text: str) -> list[str]:
    """``"Café №5_b"`` -> ``["café", "no5", "b"]``."""
    return _WORD.findall(folded(text))
