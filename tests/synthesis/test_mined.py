"""The miner: pairs worked out by hand, what it must never do, and what holds for any text."""

from __future__ import annotations

import random
import re
import time

import pytest
from hypothesis import given, settings, strategies as st

from megatron_ipt.seeding import unit_interval
from megatron_ipt.synthesis.from_text.mined import MinedConfig, Miner
from megatron_ipt.synthesis.from_text.mined.sentences import split
from megatron_ipt.synthesis.from_text.mined.values import keyword_count
from megatron_ipt.synthesis.pairs import Pair

EXTRACTIVE = {
    "title", "cloze", "definition", "cause and "
    "effect", "contrast", "paraphrase", "purpose", "facts", "who or what", "who",
    "place", "quantity", "date", "acronym", "name", "list", "example", "order of events",
}  # fmt: skip


def everything(**changes: object) -> MinedConfig:
    """Settings under which whatever can be mined is."""
    settings = {"max_pairs": 100, "max_pairs_per_category": 100, "completion_share": 0.0, "title_share": 1.0}
    return MinedConfig(**{**settings, "options_share": 0.0, **changes})  # type: ignore[arg-type]


def mine(text: str, title: str = "", **changes: object) -> list[Pair]:
    return Miner(1, everything(**changes)).mine("id", text, title)[1]


def of(category: str, pairs: list[Pair]) -> list[Pair]:
    return [pair for pair in pairs if pair.category == category]


def answers(text: str, category: str) -> list[str]:
    return [pair.answer for pair in of(category, mine(text))]


FILL = "The harbour of the old town was full of ships in those days. "


@pytest.mark.parametrize(
    ("category", "text", "asked", "answer"),
    [
        (
            "cause and effect",
            "The old bridge was closed because the river had damaged its piers.",
            "why was the old bridge closed?",
            "Because the river had damaged its piers.",
        ),
        (
            "cause and effect",
            "The milk of the farm turned sour because of the heat.",
            '"The milk of the farm turned sour."',
            "Because of the heat.",
        ),
        (
            "cause and effect",
            "Because ice is lighter than water, it floats on the lake.",
            '"Ice is lighter than water."',
            "It floats on the lake.",
        ),
        (
            "cause and effect",
            "Heavy rain fell on the hills for a week. As a result, the valley was flooded.",
            '"Heavy rain fell on the hills for a week."',
            "The valley was flooded.",
        ),
        (
            "contrast",
            "Dolphins breathe air at the surface, whereas sharks take oxygen from the water.",
            '"Dolphins breathe air at the surface."',
            "Sharks take oxygen from the water.",
        ),
        (
            "contrast",
            "Most owls hunt at night in the woods. However, the snowy owl is active by day.",
            '"Most owls hunt at night in the woods."',
            "The snowy owl is active by day.",
        ),
        (
            "paraphrase",
            "Sound does not cross an empty space. In other words, a vacuum is silent.",
            '"Sound does not cross an empty space."',
            "A vacuum is silent.",
        ),
        (
            "definition",
            "A sextant is an instrument that measures the angle between two objects.",
            "a sextant",
            "An instrument that measures the angle between two objects.",
        ),
        (
            "purpose",
            "The monks drained the marsh in order to grow barley for their bread.",
            '"The monks drained the marsh."',
            "To grow barley for their bread.",
        ),
        ("date", "The tower was finished in 1889 by a company of builders.", "the tower", "In 1889"),
        ("date", "In May 1931, the mayor opened the tallest building of the city.", '"The mayor opened', "In May 1931"),
        ("acronym", "The treaty set up the World Health Organization (WHO) in Geneva.", "WHO", "World Health "
        "Organization"),
        ("quantity", "The castle has seven towers that look out on the sea.", "towers", "seven"),
        ("quantity", "The tunnel under the pass is 15 kilometres long and was dug by "
        "hand.", "how long", "15 kilometres"),
        ("facts", "A barometer is used to measure the pressure of the air.", "barometer", "To measure the "
        "pressure of the air."),
        ("who", "The opera was composed by Giuseppe Verdi in the year of the war.", "composed", "Giuseppe Verdi"),
        ("place", "The museum is located in the old harbour of Genoa.", "where", "In the old harbour of Genoa."),
    ],
)  # fmt: skip
def test_mines_what_a_person_reads(category: str, text: str, asked: str, answer: str) -> None:
    found = of(category, mine(FILL + text))
    assert [pair.answer for pair in found] == [answer]
    assert asked.lower() in found[0].question.lower()


def test_connectives_in_a_row_each_serve_once() -> None:
    """A. Therefore, B. However, C.: no connective is quoted, and no sentence is the source of two such pairs."""
    a = "The summer was very dry along the whole of the northern coast."
    b = "The farmers sold most of their cattle before the winter."
    c = "The price of grain stayed low in the inland towns."
    pairs = mine(f"{a} Therefore, {b[0].lower()}{b[1:]} However, {c[0].lower()}{c[1:]}")
    linked = [pair for pair in pairs if pair.category in ("cause and effect", "contrast")]
    assert len(linked) == 1
    (pair,) = linked
    asked, answer = (a, b) if pair.category == "cause and effect" else (b, c)
    assert f'"{asked}"' in pair.question
    assert pair.answer == answer
    assert not any("Therefore" in pair.question and "However" in pair.question for pair in pairs)


def test_commas_decimals_and_short_sentences_do_not_hide_a_link() -> None:
    text = "In spring, the level rose by 3.5 metres. Therefore, boats, rafts and barges were moved to higher ground."
    assert answers(text, "cause and effect") == ["Boats, rafts and barges were moved to higher ground."]


def test_first_and_last_sentence_of_a_text_count() -> None:
    text = "Heavy rain fell on the hills for a week. As a result, the valley was flooded."
    assert answers(text, "cause and effect") == ["The valley was flooded."]


def test_abbreviations_do_not_cut_sentences() -> None:
    text = "The bell was cast by Dr. J. Smith of St. Albans because the U.S. Navy had asked for it in 1901."
    for pair in mine(text):
        assert not re.search(r"\bSmith of St\.$|\bDr\.\"|the U\.S\.$", pair.question + pair.answer)
    assert answers(text, "cause and effect") in ([], ["Because the U.S. Navy had asked for it in 1901."])


def test_due_to_is_read_inside_its_sentence_only() -> None:
    text = "The old pier was strong. Due to the storm the pier broke in two. The town was sad about the loss."
    assert "The old pier was strong" not in " ".join(pair.question for pair in of("cause and effect", mine(text)))
    text = "The red colour of the rock is due to small amounts of iron."
    assert answers(text, "cause and effect") == ["Small amounts of iron."]


def test_no_yes_or_no_is_read_off_a_connective() -> None:
    text = "Most owls hunt at night in the woods. However, the snowy owl is active by day. Moreover, it is white."
    assert not {"Yes", "No", "Maybe"} & {pair.answer for pair in mine(text)}


def test_is_about_is_not_a_topic() -> None:
    assert not [
        p for p in mine(FILL + "The old ship is about ready to sail for the southern islands.") if "ready" in p.answer
    ]


def test_a_term_of_several_words_stays_whole() -> None:
    (pair,) = of("definition", mine("A heat exchanger is defined as a device that passes heat between two liquids."))
    assert "a heat exchanger" in pair.question


@pytest.mark.parametrize("opening", ["It", "They", "This", "These", "He", "She"])
def test_a_bare_pronoun_is_never_asked_about(opening: str) -> None:
    text = f"{opening} was closed because the river had damaged the piers of the old bridge. "
    assert not mine(text + "The end of the story is told in another book.", max_pairs=100) or all(
        f'"{opening} ' not in pair.question and f"was {opening.lower()} " not in pair.question
        for pair in mine(text + "The end of the story is told in another book.")
    )


def test_wordings_differ_within_a_category() -> None:
    sentences = [f"The {noun} was closed because the {cause} had damaged the walls of the yard." for noun, cause in (
        ("mill", "river"), ("inn", "storm"), ("barn", "snow"), ("forge", "fire"), ("school", "frost"),
        ("dairy", "wind"),
    )]  # fmt: skip
    questions = [pair.question for pair in of("cause and effect", mine(" ".join(sentences)))]
    assert len({re.sub(r"\b(mill|inn|barn|forge|school|dairy)\b", "X", question) for question in questions}) > 1


def test_blanks_and_code_are_left_as_they_are() -> None:
    text = "A table  of   values:\n\n    x = 1   # two\n"
    assert Miner(1, MinedConfig()).mine("id", text) == (text, [])


def test_a_text_without_newline_is_not_its_own_title() -> None:
    assert of("title", mine(FILL + "A sextant is an instrument that measures angles.")) == []


def test_title_is_asked_for_where_it_fits_the_text() -> None:
    text = FILL + "The lighthouse of the town was built from stone of the island."
    assert [pair.answer for pair in of("title", mine(text, "The_lighthouse"))] == ["The lighthouse"]
    assert of("title", mine(text, "Document 17")) == []


def test_tokenised_prose() -> None:
    text = " The old bridge was closed because the river had damaged its piers . \n The <unk> was an owl that "
    "hunts by day . "
    pairs = mine(text)
    assert [pair.answer for pair in of("cause and effect", pairs)] == ["Because the river had damaged its piers ."]
    assert not any("<unk>" in pair.question + pair.answer for pair in pairs)


def test_options_are_values_of_one_type_from_the_text() -> None:
    text = (
        "The first mill of the town was built in 1702 on the river. The church of the parish was finished in 1755. "
        "The school in the square was opened in 1811 by the bishop. The railway came to the valley in 1864."
    )
    pairs = [pair for pair in mine(text, options_share=1.0) if pair.options]
    assert pairs
    for pair in pairs:
        assert pair.answer in pair.options
        assert len(set(pair.options)) == len(pair.options)
        if pair.category in ("date", "cloze"):
            assert set(pair.options) <= {"1702", "1755", "1811", "1864"}
            assert not any(option in pair.question for option in pair.options)


def test_claims_are_true_or_false_as_the_text_says() -> None:
    text = "The mill of the town was built in 1702 on the river. The church of the parish was finished in 1755."
    labels = set()
    for seed in range(40):
        for pair in of("entailment", Miner(seed, everything()).mine("id", text)[1]):
            statement = re.search(r'"(.*)"', pair.question)
            assert statement is not None
            assert pair.answer == str(statement[1] in text)
            labels.add(pair.answer)
    assert labels == {"True", "False"}


def test_completion_conserves_the_text_and_comes_first() -> None:
    text = " ".join(
        f"The {noun} of the village was painted green in the spring of that year." for noun in
        ("mill", "inn", "barn", "forge", "school", "dairy", "church", "bridge", "well", "gate")
    )  # fmt: skip
    shown, pairs = Miner(1, everything(completion_share=1.0)).mine("id", text)
    assert pairs[0].category == "text completion"
    assert len(of("text completion", pairs)) == 1
    assert f"{shown} {pairs[0].answer}" == text
    assert 80 <= len(pairs[0].answer) <= 800


def test_completion_share_is_decided_by_the_id() -> None:
    text = FILL * 12
    for number in range(50):
        _, pairs = Miner(3, MinedConfig(completion_share=0.4)).mine(f"d{number}", text)
        assert bool(of("text completion", pairs)) == (unit_interval(3, f"d{number}", "completion") < 0.4)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\n ",
        "Der Hafen war voll, weil die Schiffe nicht auslaufen konnten. Die Stadt wurde 1250 gegründet und wuchs "
        "schnell.",
        "Le pont fut fermé parce que la rivière avait endommagé ses piles. La ville de Lyon est connue pour la soie.",
        "橋は川のために閉鎖された。だから人々は船で渡った。",
        "def f(x):\n    return x + 1  # because of the caller\n\nclass A(B):\n    pass\n",
        "\x00\ud800\u202e. . . ! ? \u2028 a.b.c",
        "Click here! Buy now! $$$ 1234 5678",
    ],
)
def test_finds_nothing_where_there_is_nothing(text: str) -> None:
    assert Miner(1, everything()).mine("id", text, "") == (text, [])


PIECES = st.sampled_from(
    [
        *("The", "old", "bridge", "was", "closed", "because", "river", "is", "a", "kind", "of", "that", "in", "1905"),
        *("Paris", "However,", "but", "the", "such as", "and", "(", ")", '"', ".", ". ", ", ", "\n", "\n\n", "due to"),
        *("whereas", "led to", "<unk>", "@-@", "Dr.", "U.S.", "3.5", "seven", "metres", "long", "known as", "by"),
        *("John Smith", "it", "{x}", "%s", "é"),
    ]
)
TEXTS = st.one_of(st.text(max_size=400), st.lists(PIECES, max_size=120).map(" ".join))


def flat(text: str) -> str:
    return " ".join(text.split()).casefold()


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.text(max_size=30), st.integers(0, 5))
def test_any_text(text: str, title: str, seed: int) -> None:
    miner = Miner(seed, everything(completion_share=0.5, min_shown_characters=1, min_completion_characters=1))
    shown, pairs = miner.mine("id", text, title)
    assert miner.mine("id", text, title) == (shown, pairs)
    if of("text completion", pairs):
        answer = pairs[0].answer
        assert pairs[0].category == "text completion"
        assert text.startswith(shown)
        assert text.rstrip().endswith(answer)
        assert not text.rstrip()[len(shown) : len(text.rstrip()) - len(answer)].strip()
    else:
        assert shown == text
    assert len({pair.question.casefold() for pair in pairs}) == len(pairs)
    for pair in pairs:
        assert pair.question.strip() and pair.answer.strip() and pair.category
        assert not pair.options or pair.answer in pair.options
        if pair.category in EXTRACTIVE - {"title", "order of events", "purpose"} and not pair.options:
            assert flat(pair.answer).rstrip(". ") in flat(text)


def test_pairs_do_not_depend_on_the_order_of_mining() -> None:
    texts = {f"d{n}": FILL + f"The {noun} was closed in 18{n}2 because of the fire in the yard." for n, noun in
             enumerate(("mill", "inn", "barn", "forge", "school"))}  # fmt: skip
    alone = {name: Miner(1, MinedConfig()).mine(name, text) for name, text in texts.items()}
    names = list(texts)
    random.Random(0).shuffle(names)
    miner = Miner(1, MinedConfig())
    assert {name: miner.mine(name, texts[name]) for name in names} == alone


@pytest.mark.parametrize(
    ("sentence", "written"),
    [
        ("Warsaw's first exchange was opened in 1817 by a group of merchants.", " Warsaw's first exchange"),
        ("Old mills were opened in 1817 by a group of merchants.", " old mills"),
        ("Vincent van Dam was elected in 1817 by a group of merchants.", " Vincent van Dam"),
        ("The mill of A. B. Carter was opened in 1817 by a group of merchants.", " the mill of A. B. Carter"),
    ],
)
def test_first_words_keep_their_capital_only_if_they_are_names(sentence: str, written: str) -> None:
    (pair,) = of("date", mine(sentence))
    assert written in pair.question


def test_limits() -> None:
    text = " ".join(
        f"The {n}th mill was closed in 18{n} because the river had damaged the wheel." for n in range(20, 60)
    )
    pairs = Miner(1, MinedConfig(max_pairs=5, max_pairs_per_category=2)).mine("id", text)[1]
    assert len(pairs) == 5
    assert max(len(of(pair.category, pairs)) for pair in pairs) <= 2
    assert Miner(1, MinedConfig(max_pairs=0)).mine("id", text) == (text, [])


def test_a_run_of_marks_that_ends_no_sentence_is_read_once() -> None:
    """Read anew from each of its marks, this takes hours."""
    for run in (".", "?!", '."'):
        assert len(split(run * 2_000_000 + "x")) == 1


@pytest.mark.parametrize(
    "unit",
    ["The old bridge was closed in 1905 because the river had damaged it, but the ferry ran on. "
    "", "a", "A ", "( ", '" ',
     "The the ", ". ", "1905 ", "such as ", "\n", "A.B.", ", "],
)  # fmt: skip
def test_ten_megabytes_take_seconds(unit: str) -> None:
    text = unit * (10_000_000 // len(unit))
    begin = time.process_time()
    Miner(1, MinedConfig(completion_share=1.0)).mine("id", text, "Title of it")
    assert time.process_time() - begin < 10


@pytest.mark.parametrize(("words", "expected"), [(8, 3), (15, 3), (16, 4), (20, 4), (21, 5)])
def test_a_fifth_of_the_words_are_keywords(words, expected):
    assert keyword_count(words) == expected


def test_longer_sentences_get_more_keywords():
    sentence = (
        "The provincial gardens contain ancient cypress terraces, marble fountains, painted pavilions, quarried "
        "limestone staircases, orchards and carefully restored aqueducts from distant mountains."
    )
    assert len(sentence.split()) == 22
    found = [pair for number in range(20) for pair in Miner(number, everything()).mine("id", sentence, "")[1]]
    asked = [pair for pair in found if pair.category == "word to text" and pair.answer == sentence]
    assert asked
    counts = {
        sum(word in pair.question for word in sentence.rstrip(".").replace(",", "").split() if len(word) > 6)
        for pair in asked
    }
    assert counts == {5}
