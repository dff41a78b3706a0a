"""Texts on which two implementations of one tokenizer are most likely to disagree, and the comparison.

An encoder is trusted if it gives the ids of the original library on all of them, including control tokens of the
vocabulary that are written out as text. A few hundred short texts take milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from megatron_ipt.tokens.tokenizer.long_texts import Encode

TEXTS = (
    "",
    " ",
    "\n",
    "a",
    "A plain sentence, with 1,234.5 numbers and a  double space.",
    " leading and trailing blanks \n\n\tand lines\r\n",
    "x" + " " * 40 + "y" + "\t" * 9 + "z" + "\n" * 17,
    "   \n \t \r \x0b\x0c \u00a0\u2003\u3000 \u2028\u2029 end",
    "naïve café – “quotes” … 漢字かな кириллица العربية 🙂👩‍🚀",
    "e\u0301 \u1100\u1161\u11a8 \ufb01 \u212b \u0130 ß ẞ \u03c2 Ⅷ ½ ２ \u200b\u200d\ufeff\u00ad",
    "null \x00 bell \x07 delete \x7f \x80\x9f private \ue000 last \U0010ffff \ufffd",
    "</s><s><unk><pad><mask><|endoftext|><|im_start|>[INST] [/INST]<CLS><EOD> literal control tokens",
    "<0x0A> <0xFF> and ▁ the mark of a blank ▁▁ Ġ Ċ ##x",
    "def f(x):\n    return {'a': [x] * 3}  # code\n\n\n        deep\n",
    "It's I'LL we'd CAN'T o'clock 'tis don''t",
    "1234567890 12 123 1234 12345 3.14159 1e-10 0x1F ٣٤٥ ४५६",
    "http://example.org/a?b=c&d=%20#e user@example.com C:\\path\\file",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbb !!!!!!!!!! ---------- ====== ......",
    "คนไทย नमस्ते עברית 한국어 日本語の文章です。 中文，标点。",
    "Supercalifragilisticexpialidocious antidisestablishmentarianism",
)


def texts(control_tokens: Iterable[str]) -> Iterator[str]:
    """All probing texts, with ``control_tokens`` of the vocabulary by themselves, inside words and between blanks."""
    yield from TEXTS
    for token in control_tokens:
        yield from (token, f"a{token}b", f" {token} {token}\n", token[:-1])


def first_difference(one: Encode, other: Encode, control_tokens: Iterable[str] = ()) -> str | None:
    """The first probing text that ``one`` and ``other`` encode differently, or None when they agree on all."""
    probing = list(texts(control_tokens))
    for text, first, second in zip(probing, one(probing), other(probing)):
        if not np.array_equal(first, second):
            return text
    return None
