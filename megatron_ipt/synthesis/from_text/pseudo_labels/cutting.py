"""Rules that take their answer out of the text: the lead, or the sentence that shares most with the rest.

Both return the text that is left to show. Together with the answer and with what is left out, it is the whole text:
nothing is lost by a rule, only moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_ipt.synthesis.from_text.mined.sentences import Sentence
from megatron_ipt.synthesis.from_text.pseudo_labels.prose import is_plain, joined, leans_back, without
from megatron_ipt.synthesis.from_text.pseudo_labels.rouge import overlaps

HEADING_CHARACTERS = 100
"""A first paragraph shorter than this is a heading or a byline, and no part of the summary."""
LEAD_SENTENCES = 3
LEAST_SENTENCES = 10
"""Of which the lead is three, without the last sentence of the text."""

LEAST_ROUGE_PERCENT = 20
LEAST_OTHERS = 5
_SHORTEST_GAP = 30


@dataclass(frozen=True, slots=True)
class Cut:
    """A text, taken apart.

    Attributes:
        answer: what was taken out, on one line.
        shown: the text without it.
        span: of the answer in the text.
        heading, ending: what is neither shown nor asked for; empty if nothing.
        rouge: ROUGE-1 F1 of the answer with what is shown, for a gap sentence.
        opens: whether a gap sentence was the first sentence of the text.
    """

    answer: str
    shown: str
    span: tuple[int, int]
    heading: str = ""
    ending: str = ""
    rouge: float = 0.0
    opens: bool = False


def lead_summary(text: str, sentences: Sequence[Sentence]) -> Cut | None:
    """The first three sentences as the summary of the rest.

    A first paragraph of fewer than 100 characters and the last sentence, often "read more", are left out; at least ten
    sentences must remain. Unfinished lines do not count, and none may be among the three. What is left to show must
    not begin with a sentence that leans on them.
    """
    body = list(sentences)
    first = [sentence for sentence in body if sentence.paragraph == body[0].paragraph]
    if first and first[-1].end - first[0].start < HEADING_CHARACTERS:
        del body[: len(first)]
    ending = body.pop() if body else None
    if ending is None or sum(bool(sentence.stop) for sentence in body) < LEAST_SENTENCES:
        return None
    lead = body[:LEAD_SENTENCES]
    if not all(map(is_plain, lead)) or leans_back(lead[0]) or leans_back(body[LEAD_SENTENCES]):
        return None
    start, end = lead[0].start, body[LEAD_SENTENCES].start
    return Cut(
        joined(text[start:end]),
        text[end : ending.start].rstrip(),
        (start, end),
        text[:start].strip(),
        text[ending.start :].strip(),
    )


def gap_sentence(text: str, sentences: Sequence[Sentence]) -> Cut | None:
    """The sentence whose words the rest of the text repeats most, if their ROUGE-1 F1 is at least 0.20.

    F1 cannot reach 0.20 if the rest has more than nine times the words of the sentence, so long texts have none. A
    question scores 0, and so does a sentence that is not plain, leans on the one before it or has the next one lean on
    it, or shares with the rest fewer than half of its telling words: F1 counts function words as well, and favours any
    long sentence. At least five other sentences are needed; of equals, the first is taken.
    """
    if sum(bool(sentence.stop) for sentence in sentences) <= LEAST_OTHERS:
        return None
    fit = [
        each
        for each, following in zip(sentences, [*sentences[1:], None])
        if is_plain(each, _SHORTEST_GAP) and not leans_back(each) and not _carries(each, following)
    ]
    scored = zip(fit, overlaps(text, [(each.start, each.end) for each in fit]))
    about_the_rest = [each for each in scored if 2 * each[1].telling_shared >= each[1].telling]
    best = max(about_the_rest, key=lambda each: each[1].f1, default=None)
    if best is None or not best[1].reaches(LEAST_ROUGE_PERCENT):
        return None
    sentence, overlap = best
    span = sentence.start, sentence.end
    first = next(each for each in sentences if each.stop)
    return Cut(joined(text[slice(*span)]), without(text, *span), span, rouge=overlap.f1, opens=sentence is first)


def _carries(sentence: Sentence, following: Sentence | None) -> bool:
    """Whether the sentence after it leans on ``sentence``, and would say something else without it."""
    return following is not None and following.paragraph == sentence.paragraph and leans_back(following)
