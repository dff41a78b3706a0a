from __future__ import annotations

from megatron_ipt.config import load
from megatron_ipt.synthesis.from_text.categories import OTHER, classify
from megatron_ipt.synthesis.from_text.prompted import filters
from megatron_ipt.synthesis.from_text.prompted.filters import FilterConfig, filter_pairs, repetition, support
from megatron_ipt.synthesis.from_text.prompted.language import dominant_script, guess_language, same_language
from megatron_ipt.synthesis.pairs import Pair

TEXT = "The harbour was deepened in 1931 so that larger ships could reach the grain stores of the old town."


def reasons(pairs: list[Pair], **settings: object) -> list[str]:
    config = load(FilterConfig, None, [f"{name}={value}" for name, value in settings.items()])
    kept, drops = filter_pairs(TEXT, pairs, config)
    assert len(kept) + len(drops) == len(pairs)
    return [drop.reason for drop in drops]


def test_defaults_keep_ordinary_pairs() -> None:
    assert reasons([Pair("When was it deepened?", "In 1931."), Pair("Why?", "For ships nobody has heard of.")]) == []


def test_lengths() -> None:
    assert reasons([Pair("Q?", "a")]) == [filters.QUESTION_LENGTH]
    assert reasons([Pair("What?", "a" * 11)], max_answer_characters=10) == [filters.ANSWER_LENGTH]


def test_repetition_is_the_share_of_repeated_sequences() -> None:
    assert repetition("one two three four") == 0
    assert repetition(" ".join(map(str, range(30)))) == 0
    assert repetition("a b c d " * 10) == 1 - 4 / 37
    assert reasons([Pair("What?", "and then it went on and on " * 8)]) == [filters.REPETITION]


def test_support_looks_at_telling_words() -> None:
    words = frozenset(("the", "harbour", "was", "deepened", "in", "1931"))
    assert support(words, "In 1931.") == 1
    assert support(words, "The bridge in 1931") == 0.5
    assert support(words, "the") == 1
    pairs = [Pair("When?", "In 1931."), Pair("Where?", "In Paris."), Pair("Is it old?", "No, it is not.")]
    pairs.append(Pair("Which?", "Rome", options=("Rome", "Bonn")))
    assert reasons(pairs, answer_support=0.6) == [filters.UNSUPPORTED]


def test_language() -> None:
    assert guess_language("Der Hafen wurde im Jahr vertieft und die Schiffe sind nicht mehr auf dem Land.") == "de"
    assert guess_language(TEXT) == "en"
    assert guess_language("Panama 1931") is None
    assert dominant_script("Гавань была углублена") == "CYRILLIC"
    assert same_language(TEXT, "1931")
    assert not same_language(TEXT, "Гавань была углублена")
    assert not same_language(TEXT, "Der Hafen wurde vertieft und die Schiffe sind nicht auf dem Land.")
    assert reasons([Pair("Когда это было?", "В тысяча девятьсот году")], same_language=True) == [filters.LANGUAGE]


def test_categories_by_form_and_wording() -> None:
    expected = {
        Pair("How many apples are left?", "4", reasoning="5 - 1 = 4"): "math word problem",
        Pair("Is the premise true?", "Yes", options=("Yes", "No")): "inference",
        Pair("Is it old?", "Yes", options=("Yes", "No")): "yes or no",
        Pair("What floats?", "wood", options=("wood", "iron")): "multiple choice",
        Pair("Summarize the text.", "A harbour."): "summary",
        Pair("Suggest a title.", "Harbours"): "title",
        Pair("What does 'dredge' mean?", "To deepen."): "definition",
        Pair("Why was it deepened?", "For ships."): "cause and effect",
        Pair("How much did it cost?", "A lot."): "quantity",
        Pair("When was it deepened?", "1931"): "date",
        Pair("Who deepened it?", "The town."): "person",
        Pair("Where is it?", "By the sea."): "place",
        Pair("The capital of Peru", "Lima"): OTHER,
    }
    assert {pair: classify(pair) for pair in expected} == expected
