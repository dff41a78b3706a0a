"""Choices: that each is made, alone, from the document's id; and the faults of the method's public scripts, absent."""

import copy
import itertools
from collections import Counter

import pytest

from megatron_ipt.augment.config import AugmentConfig
from megatron_ipt.augment.options import cites_letter
from megatron_ipt.augment.render import render
from megatron_ipt.augment.templates import load_templates
from megatron_ipt.synthesis.pairs import Chain, Example, Pair

PAIRS = [Pair("Who flies?", "Bees"), Pair("Who walks?", "Ants"), Pair("Name a color.", "Yellow")]


def chain_of(number, pairs, texts=1):
    return Chain(
        f"c{number}", "train", [Example(f"e{index}", f"Text {index} of insects.", "", pairs) for index in range(texts)]
    )


def test_an_input_is_never_changed(built_in):
    pairs = [*PAIRS, Pair("Which?", "b.", "", ("a", "B", "a")), Pair("Where?", "")]
    chain = chain_of(1, pairs, 3)
    before = copy.deepcopy(chain)
    first = render(chain, built_in, 1)
    assert chain == before
    assert render(chain, built_in, 1) == first


def test_only_id_and_seed_decide(built_in):
    chains = [chain_of(number, PAIRS) for number in range(50)]
    forwards = [render(chain, built_in, 1).text for chain in chains]
    backwards = [render(chain, built_in, 1).text for chain in reversed(chains)]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) > 35
    assert sum(render(chain, built_in, 2).text != text for chain, text in zip(chains, forwards)) > 40


def test_layouts_come_in_their_weights(built_in):
    several = Counter(render(chain_of(number, PAIRS), built_in, 1).layout for number in range(10_000))
    assert several.keys() == {"plain", "dialogue", "numbered", "examples", "next_turn"}
    assert abs(several["plain"] - 8_000) < 160
    assert all(abs(several[layout] - 500) < 90 for layout in several if layout != "plain")
    few = Counter(render(chain_of(number, PAIRS[:1]), built_in, 1).layout for number in range(10_000))
    assert few.keys() == {"plain", "dialogue"}
    assert abs(few["dialogue"] - 500) < 90


def test_one_text_with_a_single_pair_rules_the_other_layouts_out(built_in):
    for number in range(500):
        chain = chain_of(number, PAIRS, 2)
        chain.examples[1] = Example("x", "Short.", "", PAIRS[:1])
        assert render(chain, built_in, 1).layout in ("plain", "dialogue")


def test_text_last_is_drawn_apart_from_the_layout(built_in):
    drawn = Counter()
    for number in range(20_000):
        rendered = render(chain_of(number, PAIRS[:1]), built_in, 1)
        drawn[rendered.layout, rendered.text_last] += 1
    assert abs(drawn["plain", True] / (drawn["plain", True] + drawn["plain", False]) - 0.05) < 0.008
    assert abs(drawn["dialogue", True] / (drawn["dialogue", True] + drawn["dialogue", False]) - 0.05) < 0.03


def test_pairs_are_shuffled_in_half_of_the_documents(built_in):
    orders = Counter()
    for number in range(2_000):
        rendered = render(chain_of(number, PAIRS), built_in, 1)
        places = sorted(range(3), key=lambda index: rendered.text.index(PAIRS[index].question))
        assert rendered.layout not in ("dialogue", "next_turn") or places == [0, 1, 2]
        if rendered.layout == "plain":
            orders[tuple(places)] += 1
    total = sum(orders.values())
    assert len(orders) == 6
    assert abs(orders[0, 1, 2] / total - (0.5 + 0.5 / 6)) < 0.05


def test_every_question_draws_its_own_order_of_options(make_templates):
    """The first question too: its order is not the same in every document."""
    options = ("ant", "bee", "cat")
    pairs = [Pair(f"Which {number}?", "bee", "", options) for number in range(2)]
    orders = Counter()
    templates = make_templates()
    for number in range(3_600):
        lines = render(chain_of(number, pairs), templates, 1).text.splitlines()
        listed = [line[4:] for line in lines if line.startswith("(")]
        orders[tuple(listed[:3]), tuple(listed[3:])] += 1
    permutations = list(itertools.permutations(options))
    assert orders.keys() == set(itertools.product(permutations, permutations))
    assert max(orders.values()) < 150 and min(orders.values()) > 60


def test_draws_are_independent(built_in):
    """Layout, frame, pattern and separator vary freely: thousands of combinations, not as many as there are seeds."""
    shapes = {
        tuple(
            string for kind, string in render(chain_of(number, PAIRS[:2], 2), built_in, 1).segments if kind == "frame"
        )
        for number in range(6_000)
    }
    assert len(shapes) > 2_500


def test_no_answer_is_ever_lost(built_in):
    pairs = [Pair(f"Question {number}?", f"<answer {number}>") for number in range(5)]
    for number in range(6_000):
        text = render(chain_of(number, pairs), built_in, 1).text
        assert all(text.count(pair.answer) == 1 for pair in pairs)


@pytest.mark.parametrize("layout", ["plain", "dialogue", "numbered", "examples", "next_turn"])
def test_any_number_of_pairs(layout):
    weights = {layout: 1.0}
    config = AugmentConfig(layout_weights=weights, layout_weights_otherwise={"plain": 1.0})
    pairs = [Pair(f"Question <{number}>?", f"Answer <{number}>") for number in range(90)]
    for number in range(10):
        rendered = render(chain_of(number, pairs), load_templates(config), 1)
        assert rendered.pairs == 90
        assert all(rendered.text.count(pair.question) == rendered.text.count(pair.answer) == 1 for pair in pairs)


def test_any_number_of_options(built_in):
    options = tuple(f"<option {number}>" for number in range(40))
    for number in range(300):
        right = options[number % 40]
        rendered = render(chain_of(number, [Pair("Which?", right, "", options)]), built_in, 1)
        asked = "".join(string for kind, string in rendered.segments if kind == "question")
        assert all(asked.count(option) == 1 for option in options)
        assert [string for kind, string in rendered.segments if kind == "answer"]


def test_the_letter_given_is_that_of_the_right_option(make_templates):
    templates = make_templates({"patterns.choice": ["{question}\n{options}\n= {letter}"]})
    options = tuple(f"option {number}" for number in range(30))
    for number in range(100):
        right = options[number % 30]
        lines = render(chain_of(number, [Pair("Which?", right, "", options)]), templates, 1).text.splitlines()
        letter = lines[-1].removeprefix("= ")
        assert f"({letter}) {right}" in lines
        letters = [line[1 : line.index(")")] for line in lines if line.startswith("(")]
        assert letters[25:] == ["Z", "AA", "AB", "AC", "AD"]


@pytest.mark.parametrize("answer", ["Bees.", "bees", "BEES", " bees "])
def test_an_option_that_differs_in_case_or_full_stop_is_found(make_templates, answer):
    rendered = render(chain_of(1, [Pair("Which?", answer, "", ("Bees",))]), make_templates(), 1)
    assert rendered.text.endswith("Q Which?\n(A) Bees\nA (A) Bees")
    assert rendered.unmatched_options == 0


@pytest.mark.parametrize("answer", ["Wasps", "Bees and ants", "A) Bees", "Bees </END> Ants"])
def test_an_answer_that_is_no_option_is_kept_and_counted(make_templates, answer):
    rendered = render(chain_of(1, [Pair("Which?", answer, "", ("Bees", "Ants"))]), make_templates(), 1)
    assert rendered.text.endswith(f"\nA {answer}")
    assert "Bees" in rendered.text and "Ants" in rendered.text
    assert (rendered.pairs, rendered.unmatched_options) == (1, 1)


def test_a_repeated_option_is_listed_once(make_templates):
    rendered = render(chain_of(1, [Pair("Which?", "b", "", ("b", "b", "b"))]), make_templates(), 1)
    assert rendered.text.endswith("Q Which?\n(A) b\nA (A) b")


def test_letters_that_the_reasoning_names_stay(built_in):
    reasoning = "2 + 2 is 4.\nThe correct answer is C"
    assert cites_letter(reasoning)
    pair = Pair("2 + 2?", "four", "", ("two", "three", "four", "five"), reasoning)
    for number in range(300):
        rendered = render(chain_of(number, [pair]), built_in, 1)
        if rendered.layout == "plain":
            places = [rendered.text.index(option) for option in pair.options]
            assert places == sorted(places)
            before = rendered.text[: places[2]]
            assert "C" in before[-6:], rendered.text


def test_settings_of_one_text_do_not_reach_the_next(make_templates):
    alone = Example("2", "Ants walk.", "", [Pair("Who walks?", "Ants")])
    with_options = Example("1", "Bees fly.", "", [Pair("Which?", "Bees", "", ("Bees",), "They fly.")])
    rendered = render(Chain("c", "train", [with_options, alone]), make_templates(), 1)
    assert rendered.text.endswith("\n==\nAnts walk.\n\nQ Who walks?\nA Ants")


def test_a_slot_in_a_question_reveals_nothing(built_in):
    pair = Pair("What does {answer} mean in {question}, {0} and %s?", "SECRET")
    for number in range(500):
        rendered = render(chain_of(number, [pair]), built_in, 1)
        assert rendered.text.count("SECRET") == 1
        assert rendered.text.count(pair.question) == 1


@pytest.mark.parametrize(("texts", "chains"), [(10, 4), (7, 3), (1, 5)])
def test_chains_of_any_length(built_in, texts, chains):
    assert all(render(chain_of(number, PAIRS, texts), built_in, 1).texts == texts for number in range(chains))


def test_unanswerable_questions_get_varied_wordings(built_in):
    wordings = Counter()
    for number in range(2_000):
        rendered = render(chain_of(number, [Pair("Who sings?", "(Unanswerable.)")]), built_in, 1)
        wordings["".join(string for kind, string in rendered.segments if kind == "answer")] += 1
    assert abs(wordings.pop("(Unanswerable.)") - 200) < 60
    assert wordings.keys() == set(built_in.no_answer_wordings.entries)
    assert max(wordings.values()) < 160
    empty = render(chain_of(1, [Pair("Who sings?", " ")]), built_in, 1)
    assert any(wording in empty.text for wording in built_in.no_answer_wordings.entries)


def test_patterns_for_questions_are_kept_from_instructions(built_in):
    for number in range(1_500):
        text = render(chain_of(number, [Pair("Sum it up.", "Bees fly.")]), built_in, 1).text.lower()
        assert "question" not in text and "q:" not in text
    for number in range(1_500):
        text = render(chain_of(number, [Pair("Who flies?", "Bees")]), built_in, 1).text.lower()
        assert "task" not in text and "instruction:" not in text
    for number in range(1_500):
        text = render(chain_of(number, [Pair("Who fills the gap? ____ fly.", "Bees")]), built_in, 1).text.lower()
        assert not any(word in text for word in ("question", "q:", "task", "instruction:"))
