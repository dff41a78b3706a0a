"""What the rules of ``pseudo_labels`` measure: ROUGE and sentiment against the libraries, topics against a table."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from megatron_ipt.synthesis.from_text.mined.sentences import split
from megatron_ipt.synthesis.from_text.pseudo_labels.rouge import overlaps
from megatron_ipt.synthesis.from_text.pseudo_labels.sentiment import label_of, scores_of, sentiment_of
from megatron_ipt.synthesis.from_text.pseudo_labels.topics import topic_of

# ROUGE.

PIECES = ("the", "mill", "Mill's", "of-the", "7", "1,991", "naïve", "...", "ÉTÉ", "é", "x_y", "\n", "?")
WORDS = st.lists(st.sampled_from(PIECES), max_size=30)


@given(WORDS, WORDS, WORDS)
def test_rouge_is_that_of_the_library(before: list[str], own: list[str], after: list[str]) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    parts = [" ".join(words) + " " for words in (before, own, after)]
    text = "".join(parts)
    found = overlaps(text, [(len(parts[0]), len(parts[0]) + len(parts[1]))])[0]
    expected = RougeScorer(["rouge1"]).score(parts[1], parts[0] + parts[2])["rouge1"].fmeasure
    assert found.f1 == pytest.approx(expected, abs=1e-12)


def test_rouge_of_real_sentences_is_that_of_the_library(test_data) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1"])
    articles = json.loads((test_data / "xquad.en.json").read_text())["data"]
    for article in articles[:12]:
        text = article["paragraphs"][0]["context"]
        sentences = [(each.start, each.end) for each in split(text)]
        for (start, end), found in zip(sentences, overlaps(text, sentences)):
            rest = f"{text[:start]} {text[end:]}"
            assert found.f1 == pytest.approx(scorer.score(text[start:end], rest)["rouge1"].fmeasure, abs=1e-12)


# Sentiment.


@pytest.mark.parametrize(
    ("positive", "negative", "neutral", "expected"),
    [
        (0.2, 0.1, 0.7, "positive"),
        (0.1, 0.2, 0.7, "negative"),
        (0.2, 0.021, 0.779, "positive"),
        (0.2, 0.02, 0.78, None),
        (0.15, 0.1, 0.75, None),  # 0.05 is not more than 0.05, though 0.15 - 0.1 is in floating point.
        (0.151, 0.1, 0.749, "positive"),
        (0.1, 0.151, 0.749, "negative"),
        (0.15, 0.15, 0.7, None),
    ],
)
def test_labels_by_the_shares(positive: float, negative: float, neutral: float, expected: str | None) -> None:
    assert label_of(positive, negative, neutral) == expected


def test_sentiment_of_plain_opinions() -> None:
    assert sentiment_of("A wonderful film with brilliant actors, and I loved every happy minute of it.") == "positive"
    assert sentiment_of("A terrible film with awful actors, and I hated every boring minute of it.") == "negative"
    assert sentiment_of("The film was shot in the north and has a length of two hours.") is None
    assert sentiment_of("") is None


def test_names_carry_no_sentiment() -> None:
    named = "Members of the Labor Party and of the Liberal Party met the Great Eastern Happy Valley Band in town."
    assert scores_of(named)["neu"] < 0.78
    assert sentiment_of(named) is None
    assert sentiment_of(named.lower()) == "positive"


def test_two_strong_words_are_needed() -> None:
    # Valences: happy 2.7, loved 2.9; well 1.1, interested 1.7, share 1.2, popular 1.8.
    assert sentiment_of("I was happy there, and I loved the mill.") == "positive"
    assert sentiment_of("I was happy there, well, and interested in the mill.") is None
    mild = "A popular mill, and interested people share it as well."
    assert scores_of(mild)["neu"] < 0.78
    assert sentiment_of(mild) is None
    assert sentiment_of("It was a terrible, horrible mill.") == "negative"
    assert sentiment_of("It was a terrible mill, and it was lost.") is None  # Lost has -1.3.


TOLD = (
    "not", "never", "without", "doubt", "so", "this", "least", "at", "very", "kind", "sort", "of", "but", "no", "nor",
    "or", "good", "bad", "GREAT", "horrible", "love", "hate", "the", "mill", "isn't", "uber", "barely", "bad.", "bomb",
    "kiss", "death", ":)", "😀", "yeah", "right", "extremely", "VERY", "good,", "despite", "beating", "heart",
)  # fmt: skip


@given(st.lists(st.sampled_from(TOLD), max_size=25))
@example(["kiss", "of", "death", "never", "so", "good", "at", "least", "bad", "but", "GREAT", "kind", "of", "bad"])
def test_scores_are_those_of_the_library(words: list[str]) -> None:
    text = " ".join(words)
    assert scores_of(text) == _library().polarity_scores(text)


@lru_cache(maxsize=1)
def _library() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


# Topics.


@pytest.mark.parametrize(
    ("url", "topic"),
    [
        ("https://example.com/sports/2019/07/cup-final.html", "sport"),
        ("http://www.example.co.uk/news/business/shares-fall", "business"),
        ("https://example.com/en/us/Politics/a-vote#2", "politics"),
        ("https://example.com/uk/news/local/health/flu", None),  # Too deep.
        ("https://example.com/health", None),  # The page itself.
        ("https://example.com/health/", "health"),
        ("https://example.com/mills/sport/x", None),
        ("https://example.com/news/", None),
        ("https://example.com", None),
        ("https://[broken/sport/x", None),
        ("sports/2019/cup-final", None),
        ("passages.jsonl:12", None),
        ("", None),
    ],
)
def test_topic_by_url(url: str, topic: str | None) -> None:
    assert topic_of(url) == topic
