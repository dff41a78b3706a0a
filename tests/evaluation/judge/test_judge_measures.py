"""Figures worked out by hand on three small texts, and TF-IDF held against scikit-learn."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from megatron_ipt.evaluation.judge import measures
from megatron_ipt.evaluation.judge.relevance import TextIndex, relevance
from megatron_ipt.evaluation.judge.text import best_f1, exact_match, normalised, token_f1
from megatron_ipt.synthesis.pairs import Example, Pair
from megatron_ipt.synthesis.statistics import Statistics

EXAMPLES = [
    Example(
        "a",
        "The bridge was opened in 1932. It crosses the harbour.",
        pairs=[
            Pair("When was the bridge opened?", "In 1932.", "date"),
            Pair("What does it cross?", "the harbour", "question answering", options=("the harbour", "a river")),
            Pair("Was it opened?", "Yes", "yes or no", reasoning="It was opened in 1932."),
        ],
    ),
    Example("b", "Bees dance to show where clover blooms.", pairs=[Pair("When was the bridge opened?", "in 1932")]),
    Example("c", "Salt keeps fish from going bad."),
    Example("d", "Ice floats on water.", pairs=[Pair("What floats?", "Ice floats on oil", "question answering")]),
]


def test_normalisation_exact_match_and_f1_are_those_of_squad():
    assert normalised("  The Eiffel-Tower, a  tower. ") == "eiffeltower tower"
    assert exact_match("the Broncos!", ["Denver Broncos", "Broncos"])
    assert not exact_match("Broncos of Denver", ["Denver Broncos"])
    # prediction: denver, broncos, won; gold: denver, broncos: precision 2/3, recall 1.
    assert token_f1("Denver Broncos won", "the Denver Broncos") == pytest.approx(0.8)
    # Bags, not sets: of two "very" in the prediction one is matched: precision 2/3, recall 2/2.
    assert token_f1("very very old", "very old") == pytest.approx(0.8)
    assert best_f1("1932", ["in 1932", "1932"]) == 1.0
    assert token_f1("the", "a") == 1.0 and token_f1("", "x") == 0.0


def test_amounts():
    found = measures.amounts(EXAMPLES)
    assert (found["texts"], found["pairs"], found["share_with_pairs"]) == (4, 5, 0.75)
    assert found["pairs_per_text"] == {
        "mean": 1.25, "p50": 1, "p95": 3, "most": 3, "histogram": {"0": 1, "1": 2, "3": 1},
    }  # fmt: skip
    assert found["multiple_choice_share"] == 0.2 and found["reasoning_share"] == 0.2


def test_parse_rate_counts_what_was_begun():
    statistics = Statistics(
        Counter(requests=10, pairs=12, texts_with_pairs=8),
        dropped=Counter(
            {
                "cut off by the token limit": 3, "without </END>": 1, "question repeated": 2, "answer length": 2,
                "empty answer of the engine": 1, "refused by the engine": 1,
            }
        ),
    )  # fmt: skip
    found = measures.parsing(statistics)
    # Begun: 12 kept, 3 cut off, 1 without end, 2 repeated, 2 filtered = 20; of these 16 could be read.
    assert found["parse_rate"] == 16 / 20 and found["kept_share"] == 12 / 20
    assert found["share_with_pairs"] == 0.8 and found["cut_off_share"] == 0.3
    assert measures.parsing(None) == {} and measures.parsing(Statistics(Counter(pairs=3))) == {}


def test_lengths():
    found = measures.lengths(EXAMPLES, count_tokens=len)
    # Questions of 5, 4, 3, 5 and 2 words; answers of 2, 2, 1, 2 and 4.
    assert found["question_words"]["mean"] == 19 / 5 and found["question_words"]["p50"] == 4
    assert found["answer_words"]["mean"] == 11 / 5 and found["answer_words"]["most"] == 4
    # Options of 2 + 2 words and reasoning of 5 stand in the pairs as well.
    assert found["words_per_pair"]["mean"] == (19 + 11 + 4 + 5) / 5
    assert found["tokens_per_pair"]["most"] == len(
        "<QUE> Was it opened?\nLet's think step by step. <ANS> It was opened in 1932.\n"
        "Therefore, the answer is Yes </END>"
    )


def test_grounding():
    found = measures.grounding(EXAMPLES)
    # "in 1932" and "harbour" stand in their text; "yes", and "1932" about bees, do not; nor does "ice floats on oil".
    assert found["answer_in_text"] == 2 / 5
    # Content words: 1932 (1 of 1), harbour (1 of 1), none of "Yes", 1932 about bees (0 of 1), ice floats oil (2 of 3).
    assert found["without_content"] == 1 / 5
    assert found["content_words_in_text"] == pytest.approx((1 + 1 + 0 + 2 / 3) / 4)
    assert found["fully_supported"] == 2 / 4


def test_an_answer_must_be_whole_words_of_the_text():
    example = Example("a", "The carpet is red.", pairs=[Pair("Which pet is it?", "pet"), Pair("Colour?", "Red!")])
    assert measures.grounding([example])["answer_in_text"] == 0.5


def test_repetition():
    # The question about the bridge comes back with an answer that is normalised alike.
    assert measures.repetition(EXAMPLES) == {
        "duplicate_pairs": 1 / 5, "duplicate_questions": 1 / 5, "repeated_in_text": 0.0,
    }  # fmt: skip
    twice = [Example("a", "x", pairs=[Pair("Why?", "1"), Pair("why", "2"), Pair("Why?", "3", options=("3", "4"))])]
    assert measures.repetition(twice) == {
        "duplicate_pairs": 0.0, "duplicate_questions": 1 / 3, "repeated_in_text": 1 / 3,
    }  # fmt: skip


def test_diversity():
    found = measures.diversity(EXAMPLES)
    assert found["categories"]["distinct"] == 4
    # Shares 2/5, 1/5, 1/5, 1/5.
    entropy = -(0.4 * math.log2(0.4) + 3 * 0.2 * math.log2(0.2))
    assert found["categories"]["entropy"] == pytest.approx(entropy)
    assert found["categories"]["effective"] == pytest.approx(2**entropy)
    assert next(iter(found["openings"]["most_common"].items())) == ("when was", 2)


def test_nothing_to_judge_gives_no_figures_instead_of_errors():
    for measure in (measures.amounts, measures.lengths, measures.grounding, measures.repetition, measures.diversity):
        measure([])
    assert measures.grounding([])["answer_in_text"] is None
    assert relevance([], 10, 0)["own_text_first"] is None


def test_relevance_by_hand():
    found = relevance(EXAMPLES, 100, seed=1)
    assert found["texts"] == 4 and found["pairs"] == 5 and found["chance"] == 0.25
    # The pair about the bridge that stands with the bees finds the bridge; the other four find their own text.
    assert found["own_text_first"] == 4 / 5
    # No word of it is in its own text, so every text is as near: it comes last of four.
    assert found["mean_reciprocal_rank"] == pytest.approx((4 + 1 / 4) / 5)


def test_pairs_that_say_nothing_are_not_first_anywhere():
    examples = [Example(str(n), f"text number {n}", pairs=[Pair("Why so?", "Because!")]) for n in range(5)]
    assert relevance(examples, 100, seed=1)["own_text_first"] == 0.0


def test_similarities_are_those_of_scikit_learn():
    text = pytest.importorskip("sklearn.feature_extraction.text")
    texts = [example.text for example in EXAMPLES] + ["the the the bees and the ice, the ice"]
    vectors = text.TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+")
    documents = vectors.fit_transform(texts)
    index = TextIndex(texts)
    for query in ("the ice on the water", "bees bees opened", "unknown words only", "Ice, unknown"):
        expected = (documents @ vectors.transform([query]).T).toarray().ravel()
        assert index.similarities(query).tolist() == pytest.approx(expected.tolist(), abs=1e-12)
