"""The rules of ``pseudo_labels`` on single texts: values worked out by hand, other implementations, any text at all."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings, strategies as st

from megatron_ipt.synthesis.from_text.categories import classify
from megatron_ipt.synthesis.from_text.mined.sentences import split
from megatron_ipt.synthesis.from_text.passages import divide
from megatron_ipt.synthesis.from_text.pseudo_labels.config import PseudoLabelsConfig
from megatron_ipt.synthesis.from_text.pseudo_labels.cutting import Cut, gap_sentence, lead_summary
from megatron_ipt.synthesis.from_text.pseudo_labels.labeller import (
    CATEGORIES,
    NOT_ENGLISH,
    TOO_LONG,
    Labelled,
    Labeller,
)
from megatron_ipt.synthesis.from_text.pseudo_labels.prose import is_english, without
from megatron_ipt.synthesis.from_text.pseudo_labels.questions import NaturalQuestion, natural_questions, option
from megatron_ipt.synthesis.from_text.pseudo_labels.rouge import overlaps
from megatron_ipt.synthesis.from_text.pseudo_labels.topics import TOPICS
from megatron_ipt.synthesis.from_text.pseudo_labels.wordings import SENTIMENTS, WORDINGS
from megatron_ipt.synthesis.pairs import Example, Pair

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
SENTENCES = [f"The mill of number {number} stands on the bank of the river." for number in NUMBERS]
BEES = (
    "Bees dry nectar in wax cells. Is honey dry? Honey is nectar that bees dry in cells. Wax melts. Drones hum. Queens "
    "lay. Frost kills."
)
DIALOGUE = (
    "The mill was built when the valley had no road. Why was it built here?\n\n"
    "The river falls by two metres at this place. A wheel needs such a fall.\n\n"
    "The miller left in the year of the flood. Nobody has lived there since."
)


def lead(text: str) -> Cut | None:
    return lead_summary(text, split(text))


def gap(text: str) -> Cut | None:
    return gap_sentence(text, split(text))


def asked(text: str) -> list[NaturalQuestion]:
    return list(natural_questions(text, split(text)))


def label(text: str, url: str = "", seed: int = 1, begins: bool = True, **changes: object) -> Labelled:
    everything = {"lead_summary_share": 1.0, "gap_sentence_share": 1.0, "max_pairs": 100, "max_pairs_per_category": 100}
    config = PseudoLabelsConfig(**{**everything, **changes})  # type: ignore[arg-type]
    return Labeller(seed, config).label(Example("id", text), url, begins)


def pairs(found: Labelled, seed: int = 1, easy: tuple[str, ...] = ()) -> list[Pair]:
    labeller = Labeller(seed, PseudoLabelsConfig())
    return [labeller.pair("id", each, easy if each.rule == "natural_question" else ()) for each in found.findings]


def squeezed(text: str) -> str:
    return "".join(text.split())


# Lead summary.


def test_eleven_sentences_give_three_and_seven() -> None:
    found = lead(" ".join(SENTENCES[:11]))
    assert found is not None
    assert found.answer == " ".join(SENTENCES[:3])
    assert found.shown == " ".join(SENTENCES[3:10])
    assert (found.heading, found.ending) == ("", SENTENCES[10])


def test_ten_sentences_give_none() -> None:
    assert lead(" ".join(SENTENCES[:10])) is None


@pytest.mark.parametrize(("length", "goes"), [(99, True), (100, False)])
def test_a_short_first_paragraph_is_left_out(length: int, goes: bool) -> None:
    heading = "The mills on the bank of our river " + "a" * (length - 36) + "."
    assert len(heading) == length
    found = lead(heading + "\n\n" + " ".join(SENTENCES[:11]))
    assert found is not None
    assert found.heading == (heading if goes else "")
    assert found.answer.startswith(SENTENCES[0] if goes else heading)


def test_a_heading_alone_or_nothing_has_no_lead() -> None:
    assert [lead(text) for text in ("", "A heading", "A heading\n\nOne sentence stands here.")] == [None] * 3


def test_unfinished_lines_are_no_sentences_of_a_lead() -> None:
    lines = [*SENTENCES[:4], "\n\nA list of things\n\n", *SENTENCES[4:10]]
    assert lead(" ".join(lines)) is None  # Nine finished ones are left.
    found = lead(" ".join([*lines, *SENTENCES[10:12]]))
    assert found is not None
    assert found.shown.startswith(SENTENCES[3] + " \n\nA list of things\n\n " + SENTENCES[4])
    assert lead(" ".join(["\n\nOne\n\nTwo\n\n", *SENTENCES])) is None  # The second heading would be in the summary.


def test_a_sentence_cut_off_after_an_initial_is_in_no_lead() -> None:
    broken = "The mills were found by Ann Marcy and R. Paul Butler of the old town."
    assert split(broken)[0].core.endswith(" R")
    assert lead(" ".join([SENTENCES[0], broken, *SENTENCES])) is None


def test_what_is_left_does_not_lean_on_the_lead() -> None:
    assert lead(" ".join([*SENTENCES[:3], "It stands there still.", *SENTENCES[4:12]])) is None
    assert lead(" ".join(["It is an old mill on a river.", *SENTENCES])) is None


def test_only_the_beginning_of_a_document_has_a_lead() -> None:
    text = " ".join(SENTENCES)
    changes = {"gap_sentence_share": 0.0}
    assert [each.rule for each in label(text, **changes).findings] == ["lead_summary"]
    found = label(text, begins=False, **changes)
    assert (found.findings, found.example.text) == ([], text)


# Gap sentence.


def test_the_bees() -> None:
    found = gap(BEES)
    assert found is not None
    # 8 and 17 words share 7: honey, is, nectar, bees, dry, in, cells.
    assert (found.answer, found.rouge) == ("Honey is nectar that bees dry in cells.", 2 * 7 / (8 + 17))
    assert found.shown == BEES.replace(" Honey is nectar that bees dry in cells.", "")


def test_only_a_sentence_that_opened_the_text_is_called_a_summary() -> None:
    sentence = "Honey is nectar that bees dry in cells."
    moved = f"On bees\n\n{sentence} " + BEES.replace(f" {sentence}", "")
    for text, category, opens in ((BEES, "missing sentence", False), (moved, "summary", True)):
        found = label(text)
        assert found.cut is not None
        assert (found.cut.answer, found.cut.opens) == (sentence, opens)
        (pair,) = pairs(found)
        assert (pair.answer, pair.category, pair.task) == (sentence, category, "gap_sentence")
        assert (pair.question in WORDINGS["gap_opening"]) is opens


def test_five_other_sentences_are_needed() -> None:
    text = "Honey is nectar that bees dry in cells. Bees dry nectar. Honey is dry. Wax melts. Drones hum."
    assert gap(text) is None
    assert gap(f"{text} Queens lay.") is not None


def test_a_question_is_no_gap_sentence() -> None:
    assert gap(BEES.replace("dry in cells. Wax", "dry in cells? Wax")) is None


def test_what_leans_on_a_sentence_before_it_is_no_gap_sentence() -> None:
    assert gap(BEES.replace("Honey is nectar that", "They say that honey is nectar that")) is None


def test_what_the_next_sentence_leans_on_is_no_gap_sentence() -> None:
    assert gap(BEES.replace("cells. Wax melts", "cells. It melts")) is None
    assert gap(BEES.replace("cells. Wax melts", "cells.\n\nIt melts")) is not None


def test_function_words_alone_do_not_make_a_gap_sentence() -> None:
    other = "The roof of the house is in the shade of the trees and the wall is in the light of the sun."
    rest = "The sea is in the north. The lake is in the south. The moor is in the east. The wood is in the west."
    text = f"{other} {rest} The town is in the middle of it."
    found = overlaps(text, [(0, len(other))])[0]
    assert found.reaches(20)
    assert (found.telling, found.telling_shared) == (6, 0)  # Roof, house, shade, trees, wall, light.
    assert gap(text) is None


def test_the_rest_has_at_most_nine_times_the_words() -> None:
    sentence = "Honey is nectar that bees dry in cells."  # 8 words, so 72 are too many for any F1 of 0.20.
    words = "Bees dry nectar in wax cells that is honey."  # 9 words, among them all 8.
    for number, expected in ((8, True), (9, False)):
        found = overlaps(f"{sentence} " + " ".join([words] * number), [(0, len(sentence))])[0]
        assert (found.shared, found.own, found.rest) == (8, 8, 9 * number)
        assert found.reaches(20) is expected


def test_of_equals_the_first_is_taken() -> None:
    sentences = ["The red mill grinds the corn.", "The red mill grinds the rye.", *["Queens lay."] * 4]
    found = gap(" ".join(sentences))
    assert found is None  # 29 characters: too short.
    longer = [each.replace("mill", "mill of the village") for each in sentences]
    found = gap(" ".join(longer))
    assert found is not None
    assert found.answer == longer[0]


@pytest.mark.parametrize(
    ("text", "taken", "left"),
    [
        ("One. Two. Three.", "Two.", "One. Three."),
        ("One. Two.\n\nThree.", "Two.", "One.\n\nThree."),
        ("One.\n\nTwo. Three.", "Two.", "One.\n\nThree."),
        ("One.\n\nTwo.\nThree.", "Two.", "One.\n\nThree."),
        ("One. Two. ", "Two.", "One."),
        ("One. Two.", "One.", "Two."),
        ("One.", "One.", ""),
        ("A (see 3). Two. B (4).", "Two.", "A (see 3). B (4)."),
    ],
)
def test_what_is_left_keeps_its_breaks(text: str, taken: str, left: str) -> None:
    start = text.index(taken)
    assert without(text, start, start + len(taken)) == left


# Natural questions.


def test_a_question_of_the_text() -> None:
    assert asked(DIALOGUE) == [
        NaturalQuestion(
            "Why was it built here?",
            "The river falls by two metres at this place. A wheel needs such a fall.",
            "The miller left in the year of the flood. Nobody has lived there since.",
        )
    ]


def test_the_answer_begins_in_the_rest_of_the_paragraph() -> None:
    found = asked(DIALOGUE.replace("built here?", "built here? There is a reason."))
    assert [each.answer for each in found] == [
        "There is a reason. The river falls by two metres at this place. A wheel needs such a fall."
    ]
    assert [each.wrong for each in found] == ["The miller left in the year of the flood. Nobody has lived there since."]


def test_the_last_question_of_a_paragraph_is_asked() -> None:
    found = asked(DIALOGUE.replace("Why was it built here?", "Who built it? Why was it built here?"))
    assert [each.question for each in found] == ["Why was it built here?"]


def test_the_context_may_be_the_paragraph_before() -> None:
    assert len(asked(DIALOGUE.replace("no road. Why", "no road.\n\nWhy"))) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("The mill was built when the valley had no road. ", ""),  # No context.
        ("The mill was built when the valley had no road.", "A mill stands in the valley."),  # 28 characters.
        ("had no road.", "had no road. " + "It was a lonely place. " * 45),  # More than a thousand.
        ("\n\nThe miller left in the year of the flood. Nobody has lived there since.", ""),  # No wrong option.
        ("The river falls by two metres at this place.", "Is it the river?"),  # Options ask nothing.
        ("The miller left in the year of the flood.", "Who was the miller?"),
        ("The miller left in the year of the flood.", "The miller left " + "and left " * 20 + "the mill."),  # Over 150.
        ("The miller left in the year of the flood. Nobody has lived there since.", "He left."),  # Under 10.
        ("here?\n\n", "here?\n\nOn rivers and wheels\n\n"),  # A heading ends it.
        ("Why was it built here?", "He asked: \"Why was it built here?\""),
        ("Why was it built here?", "Why was it built here??"),
        ("Why was it built here?", "Why was it built here?!"),
        ("Why was it built here?", "Why (was it built here?"),
        ("Why was it built here?", "Why?"),
    ],
)  # fmt: skip
def test_not_every_question_can_be_asked(old: str, new: str) -> None:
    assert old in DIALOGUE
    assert asked(DIALOGUE.replace(old, new)) == []


def test_options_are_whole_sentences_of_150_characters_at_most() -> None:
    sentence = "The river falls by two metres at this place."  # 44 characters, with a blank 45.
    for number, expected in ((1, 1), (3, 3), (4, 3)):
        assert option(split(" ".join([sentence] * number))) == " ".join([sentence] * expected)
    assert option(split("The miller [4] left the mill.")) == ""


# One text.


def test_a_topic_is_asked_with_three_others() -> None:
    found = label(DIALOGUE, "https://example.com/travel/mills.html", natural_question_share=0.0)
    (pair,) = pairs(found)
    assert (pair.answer, pair.category, pair.task) == ("travel", "topic", "topic")
    assert len(set(pair.options)) == 4
    assert pair.answer in pair.options
    assert set(pair.options) <= set(TOPICS)


def test_at_most_one_rule_cuts_and_the_others_see_what_is_left() -> None:
    short = ["The bees of the mill dry honey."] * 12
    long = "The honey of the bees of the mill is the honey that the bees dry for the mill."
    body = " ".join([*short[:4], long, *short[4:]])
    drawn = set()
    for seed in range(20):
        found = label(body, seed=seed)
        assert found.cut is not None
        assert found.example.text == found.cut.shown
        rules = [finding.rule for finding in found.findings]
        assert len(set(rules) & {"lead_summary", "gap_sentence"}) == 1
        drawn.update(rules)
        assert label(body, seed=seed) == found
    assert drawn == {"lead_summary", "gap_sentence"}


def test_a_rule_that_does_not_fit_makes_room_for_the_other() -> None:
    for seed in range(8):
        assert [each.rule for each in label(BEES, seed=seed).findings] == ["gap_sentence"]


def test_a_question_whose_answer_was_taken_out_is_not_asked() -> None:
    taken = "The wheel of the mill in the valley needs a fall of two metres at the mill."
    text = DIALOGUE.replace("The river falls by two metres at this place.", taken)
    text = text.replace("such a fall", "a fall") + " The wheel of the mill is old. The valley is deep."
    assert [each.answer for each in asked(text)] == [f"{taken} A wheel needs a fall."]
    found = label(text, lead_summary_share=0.0)
    assert found.cut is not None
    assert found.cut.answer == taken
    assert [each.answer for each in found.findings if each.question] == ["A wheel needs a fall."]


def test_number_of_pairs() -> None:
    def rules(**changes: object) -> list[str]:
        text = "\n\n".join([DIALOGUE, DIALOGUE.replace("built here", "ever built"), DIALOGUE.replace("Why", "When")])
        return sorted(each.rule for each in label(text, "http://example.com/food/x", **changes).findings)

    assert rules() == ["natural_question"] * 3 + ["topic"]
    assert rules(max_pairs_per_category=2) == ["natural_question"] * 2 + ["topic"]
    assert len(rules(max_pairs=2)) == 2
    assert rules(max_pairs=0) == []
    assert rules(natural_question_share=0.0) == ["topic"]
    assert label(BEES, max_pairs=0).example.text == BEES


def test_with_a_single_pair_the_text_is_cut_only_for_it() -> None:
    for seed in range(10):
        found = label(BEES, "http://example.com/food/x", seed=seed, max_pairs=1)
        assert [each.rule for each in found.findings] == ["gap_sentence"]


@pytest.mark.parametrize(
    "text",
    [
        "Die Mühle steht am Fluss, und der Müller mahlt das Korn für die Leute aus dem Dorf. Das Rad ist alt.",
        "Мельница стоит на берегу реки. Мельник мелет зерно. Колесо старое. Дорога длинная. Река глубокая. Дом новый.",
        "水車は川のほとりに立っています。粉屋は穀物を挽きます。村の人々はパンを焼きます。the of and to in is",
        "1 2 3 4 5",
        "",
    ],
)
def test_other_languages_are_left_alone(text: str) -> None:
    found = label(text, "http://example.com/food/x")
    assert (found.findings, found.example.text, found.skipped) == ([], text, NOT_ENGLISH)


def test_english_with_foreign_names_is_english() -> None:
    text = "The town of Þórshöfn, in Icelandic Þórshöfn, is small. " * 3
    assert is_english(text, split(text))


def test_long_texts_are_left_alone() -> None:
    assert label("x" * 16_001).skipped == TOO_LONG
    assert label(BEES, max_text_characters=len(BEES)).findings
    assert label(BEES, max_text_characters=len(BEES) - 1).skipped == TOO_LONG


def test_wordings_ask_for_their_category() -> None:
    for rule, wordings in WORDINGS.items():
        assert len(set(wordings)) >= 5
        for wording in wordings:
            options = ("a", "b") if rule in ("natural_question", "topic") else ()
            question = wording.replace("{question}", "Is it far?")
            category = classify(Pair(question, "a", options=options))
            assert (category == CATEGORIES[rule]) == (rule != "gap_sentence"), question
            assert rule != "gap_sentence" or category != "summary"
            assert "??" not in question
            assert "{" not in question
    for question, positive, negative in SENTIMENTS:
        assert classify(Pair(question, positive, options=(positive, negative))) == "sentiment", question


def test_a_question_with_braces_is_no_wording() -> None:
    found = label(DIALOGUE.replace("built here?", "built (with {0} and {question}) here?"))
    assert found.findings == []
    labeller = Labeller(1, PseudoLabelsConfig())
    finding = label(DIALOGUE).findings[0]
    odd = labeller.pair("id", type(finding)(**{**vars(finding), "question": "Is {question} or {0}?"}))
    assert odd.question.count("Is {question} or {0}?") == 1


def test_all_wordings_and_places_of_the_right_option_are_drawn() -> None:
    finding = label(DIALOGUE).findings[0]
    made = [Labeller(seed, PseudoLabelsConfig()).pair("id", finding, ("Other.", "Another.")) for seed in range(60)]
    assert len({pair.question for pair in made}) == len(WORDINGS["natural_question"])
    assert {pair.options.index(pair.answer) for pair in made} == {0, 1, 2, 3}


PIECES = st.sampled_from(
    [
        *SENTENCES[:8], BEES, DIALOGUE, "A heading", "\n\n", "\n", "\r\n", " ", "Is it (now?", "What??", "Who is it ?!",
        'He said: "Why?"', "A stone (see 3) on a stone.", "A beam (4) bends [12].", "))((", '"', "“", "\x00", "\x1b[1m",
        "\u2028", "\ufffd", "\ud800", "…", "...", ". . .", "e.g. this", "5.", "- item", "= = Part = =", "<unk>", "�",
        "I love this wonderful, happy place and its great people.", "It was a terrible, sad and horrible death.",
    ]
)  # fmt: skip


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=30), st.integers(0, 5))
def test_any_text(pieces: list[str], seed: int) -> None:
    text = " ".join(pieces)
    found = label(text, "https://example.com/food/x", seed=seed)
    cut = found.cut
    if cut is None:
        assert found.example.text == text
    else:
        start, end = cut.span
        assert squeezed(cut.answer) == squeezed(text[start:end])
        # Nothing is lost, and no two words grow together.
        before, after = text[:start].split(), text[end:].split()
        assert [*cut.heading.split(), *cut.shown.split(), *cut.ending.split()] == before + after
        assert cut.shown == found.example.text
    for pair in pairs(found, seed, ("An option of another document.",)):
        for field in (pair.question, pair.answer, *pair.options):
            assert "??" not in field or "??" in text
            assert field.strip() == field != ""
        if pair.task == "natural_question":
            assert pair.question.count("?") in (1, 2)
            assert all(10 <= len(each) <= 150 and "?" not in each for each in pair.options)
            assert squeezed(pair.answer) in squeezed(re.sub(r"(?<=[.!])(?:\[\d+\])+", "", found.example.text))
        if pair.options:
            assert pair.answer in pair.options
            assert len(set(pair.options)) == len(pair.options)
    assert label(text, "https://example.com/food/x", seed=seed) == found


def test_real_texts_lose_nothing(test_data) -> None:
    text = (test_data / "wikitext2.valid.txt").read_text()[:300_000]
    cuts = 0
    for passage in divide(text, 1200):
        found = label(passage)
        if found.cut is not None:
            cuts += 1
            start, end = found.cut.span
            rest = [*found.cut.heading.split(), *found.cut.shown.split(), *found.cut.ending.split()]
            assert rest == passage[:start].split() + passage[end:].split()
    assert cuts
