"""Every layout of small chains, worked out by hand."""

import pytest

from megatron_ipt.augment.render import render
from megatron_ipt.synthesis.pairs import TEXT_COMPLETION, Chain, Example, Pair

FIRST = Example(
    "1", "Bees fly.", "", [Pair("Who flies?", "Bees"), Pair("Do they?", "Yes."), Pair("Name them.", "Bees")]
)
SECOND = Example("2", "Ants walk.", "", [Pair("Who walks?", "Ants"), Pair("Where?", "unanswerable")])
CHAIN = Chain("c", "train", [FIRST, SECOND])


def only(layout, **more):
    weights = {"layout_weights.several": {layout: 1}}
    if layout in ("plain", "dialogue"):
        weights["layout_weights.otherwise"] = {layout: 1}
    return weights | more


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (
            "plain",
            "Bees fly.\n\nQ Who flies?\nA Bees\n\nQ Do they?\nA Yes.\n\nQ Name them.\nA Bees\n==\n"
            "Ants walk.\n\nQ Who walks?\nA Ants\n\nQ Where?\nA Nobody knows.",
        ),
        (
            "dialogue",
            "Bees fly.\n\nTalk:\nU: Who flies?\nS: Bees\nU: Do they?\nS: Yes.\nU: Name them.\nS: Bees\n==\n"
            "Ants walk.\n\nTalk:\nU: Who walks?\nS: Ants\nU: Where?\nS: Nobody knows.",
        ),
        (
            "numbered",
            "Bees fly.\n\nAsked:\n1. Who flies?\n2. Do they?\n3. Name them.\n\nTold:\n1. Bees\n2. Yes.\n3. Bees\n==\n"
            "Ants walk.\n\nAsked:\n1. Who walks?\n2. Where?\n\nTold:\n1. Ants\n2. Nobody knows.",
        ),
        (
            "examples",
            "Bees fly.\n\nSeen:\nQ Who flies?\nA Bees\n\nQ Do they?\nA Yes.\n\nTest:\nQ Name them.\nA Bees\n==\n"
            "Ants walk.\n\nSeen:\nQ Who walks?\nA Ants\n\nTest:\nQ Where?\nA Nobody knows.",
        ),
        (
            "next_turn",
            "Bees fly.\n\nU: Who flies?\nS: Bees\nU: Do they?\nS: Yes.\nU: Name them.\n\nNext?\nBees\n==\n"
            "Ants walk.\n\nU: Who walks?\nS: Ants\nU: Where?\n\nNext?\nNobody knows.",
        ),
    ],
)
def test_layout(make_templates, layout, expected):
    rendered = render(CHAIN, make_templates(only(layout)), 1)
    assert rendered.text == expected
    assert (rendered.layout, rendered.texts, rendered.pairs, rendered.text_last) == (layout, 2, 5, False)
    assert "".join(string for _, string in rendered.segments) == expected


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("plain", "Q Who walks?\nA Ants\n\nQ Where?\nA Nobody knows.\n\nSource: Ants walk."),
        ("dialogue", "U: Who walks?\nS: Ants\nU: Where?\nS: Nobody knows.\n\nAbout: Ants walk."),
    ],
)
def test_text_after_its_pairs(make_templates, layout, expected):
    rendered = render(Chain("c", "train", [SECOND]), make_templates(only(layout, text_last_share=1)), 1)
    assert rendered.text == expected
    assert rendered.text_last


@pytest.mark.parametrize("layout", ["numbered", "examples", "next_turn"])
def test_other_layouts_never_have_the_text_last(make_templates, layout):
    assert not render(CHAIN, make_templates(only(layout, text_last_share=1)), 1).text_last


def test_segments_tell_text_question_and_answer_apart(make_templates):
    rendered = render(Chain("c", "train", [Example("1", "T", "", [Pair("Q", "A")])]), make_templates(), 1)
    assert rendered.segments == [
        ("text", "T"),
        ("frame", "\n\nQ "),
        ("question", "Q"),
        ("frame", "\nA "),
        ("answer", "A"),
    ]


def test_a_text_without_pairs_is_written_once_as_it_is(make_templates):
    chain = Chain("c", "train", [Example("0", "Snow falls."), SECOND, Example("3", "Rain, too.")])
    rendered = render(chain, make_templates(), 1)
    assert rendered.text == (
        "Snow falls.\n==\nAnts walk.\n\nQ Who walks?\nA Ants\n\nQ Where?\nA Nobody knows.\n==\nRain, too."
    )
    assert (rendered.texts, rendered.pairs) == (3, 2)


def test_only_texts(make_templates):
    templates = make_templates({"text_last_share": 1})
    rendered = render(Chain("c", "train", [Example("0", "Snow falls."), Example("3", "Rain, too.")]), templates, 1)
    assert (rendered.text, rendered.layout, rendered.pairs) == ("Snow falls.\n==\nRain, too.", "text", 0)
    assert not rendered.text_last
    assert render(Chain("c", "train", [Example("0", "Snow falls.")]), templates, 1).text == "Snow falls."
    assert render(Chain("c", "train", []), templates, 1).text == ""


COMPLETION = Pair("How does it go on?", "And they hum.", TEXT_COMPLETION)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("plain", "Q Who flies?\nA Bees\n\nQ Do they?\nA Yes."),
        ("dialogue", "Talk:\nU: Who flies?\nS: Bees\nU: Do they?\nS: Yes."),
        ("numbered", "Asked:\n1. Who flies?\n2. Do they?\n\nTold:\n1. Bees\n2. Yes."),
        ("examples", "Seen:\nQ Who flies?\nA Bees\n\nTest:\nQ Do they?\nA Yes."),
        ("next_turn", "U: Who flies?\nS: Bees\nU: Do they?\n\nNext?\nYes."),
    ],
)
def test_a_completion_directly_follows_its_text(make_templates, layout, expected):
    templates = make_templates(only(layout, text_last_share=1))
    chain = Chain("c", "train", [Example("1", "Bees fly.", "", [COMPLETION, *FIRST.pairs[:2]])])
    assert render(chain, templates, 1).text == f"Bees fly.\n\n[How does it go on?]\nAnd they hum.\n\n{expected}"


def test_a_completion_alone_has_no_frame(make_templates):
    chain = Chain("c", "train", [Example("1", "Bees fly.", "", [COMPLETION])])
    rendered = render(chain, make_templates(only("dialogue")), 1)
    assert rendered.text == "Bees fly.\n\n[How does it go on?]\nAnd they hum."
    assert (rendered.layout, rendered.pairs) == ("plain", 1)


def test_a_completion_is_never_shuffled_away(built_in):
    others = [Pair(f"Question {number}?", f"Answer {number}") for number in range(6)]
    orders = set()
    for number in range(300):
        chain = Chain(f"c{number}", "train", [Example("1", "Bees fly.", "", [COMPLETION, *others])])
        rendered = render(chain, built_in, 1)
        questions = [string for kind, string in rendered.segments if kind == "question"]
        assert questions[0] == COMPLETION.question
        assert not rendered.text_last
        head = rendered.text.index("Bees fly.") + len("Bees fly.\n\n")
        assert COMPLETION.question in rendered.text[head : head + len(COMPLETION.question) + 2]
        orders.add(tuple(questions))
    assert len(orders) > 50


def test_options_and_reasoning_in_one_text(make_templates):
    pairs = [
        Pair("Which?", "ants.", "", ("Ants",)),
        Pair("How many?", "Six.", "", (), "Three pairs are six."),
        Pair("Pick.", "Bees", "", ("Bees",), "They fly."),
        Pair("Which?", "Wasps", "", ("Bees",)),
    ]
    rendered = render(Chain("c", "train", [Example("1", "T", "", pairs)]), make_templates(), 1)
    assert rendered.text == (
        "T\n\nQ Which?\n(A) Ants\nA (A) Ants\n\nQ How many?\nR Three pairs are six.\nA Six.\n\n"
        "Q Pick.\n(A) Bees\nR They fly.\nA A\n\nQ Which? Of: Bees\nA Wasps"
    )
    assert rendered.unmatched_options == 1


def test_options_and_reasoning_in_turns(make_templates):
    pairs = [
        Pair("Which?", "Ants", "", ("Ants",)),
        Pair("How many?", "Six.", "", (), "Three pairs are six."),
        Pair("Pick.", "Bees", "", ("Bees",), "They fly."),
        Pair("Which?", "Wasps", "", ("Bees",)),
    ]
    rendered = render(Chain("c", "train", [Example("1", "T", "", pairs)]), make_templates(only("dialogue")), 1)
    assert rendered.text == (
        "T\n\nTalk:\nU: Which?\n(A) Ants\nS: (A) Ants\nU: How many? Why?\nS: Three pairs are six. So Six.\n"
        "U: Pick.\n(A) Bees Why?\nS: They fly. So (A) Bees.\nU: Which? Of: Bees\nS: Wasps"
    )


@pytest.mark.parametrize("layout", ["plain", "dialogue", "numbered", "next_turn"])
def test_problems_without_a_text_have_no_frame(make_templates, layout):
    problems = Chain("c", "train", [Example("1", "", "", [Pair("1+1?", "2"), Pair("2+2?", "4")])])
    rendered = render(problems, make_templates(only(layout)), 1)
    assert rendered.text == "Q 1+1?\nA 2\n\nQ 2+2?\nA 4"
    assert (rendered.layout, rendered.texts, rendered.pairs) == ("plain", 1, 2)
