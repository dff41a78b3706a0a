from collections import Counter

import pytest

from megatron_ipt.augment.patterns import ANSWER, FRAME, QUESTION, PatternError, Pool, compile_pattern
from megatron_ipt.seeding import generator


def test_a_pattern_is_split_once_into_literals_and_slots():
    pattern = compile_pattern("Q: {question}\nA: {answer}!")
    assert pattern.slots == ("question", "answer")
    parts, kinds = [], []
    pattern.fill({"question": "why", "answer": "so"}, parts, kinds)
    assert list(zip(kinds, parts)) == [
        (FRAME, "Q: "),
        (QUESTION, "why"),
        (FRAME, "\nA: "),
        (ANSWER, "so"),
        (FRAME, "!"),
    ]


def test_doubled_braces_are_literal():
    assert compile_pattern("{{{question}}} {{answer}}").text({"question": "x"}) == "{x} {answer}"


@pytest.mark.parametrize("content", ["{answer}", "{0}", "%s %(a)s %", "{{}}", "\\n", "{", "}", "$x", "\x00", "\ud800"])
def test_content_is_never_parsed(content):
    filled = compile_pattern("{question}|{answer}").text({"question": content, "answer": "secret"})
    assert filled == f"{content}|secret"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{question", "unbalanced '{' at character 1"),
        ("a } b", "unbalanced '}' at character 3"),
        ("{a {b}", "unbalanced '{' at character 1"),
        ("{a} {a}", "slot {a} appears twice"),
    ],
)
def test_what_is_wrong_with_a_pattern_is_named(source, message):
    with pytest.raises(PatternError, match=message.replace("{", r"\{").replace("}", r"\}")):
        compile_pattern(source)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("7", "It is 7."), ("Seven.", "It is Seven."), ("Really?", "It is Really?"), ("", "It is .")],
)
def test_a_full_stop_is_not_doubled(answer, expected):
    pattern = compile_pattern("It is {answer}.")
    parts = []
    pattern.fill({"answer": answer}, parts, [])
    assert "".join(parts) == pattern.text({"answer": answer}) == expected


def test_dots_of_an_ellipsis_stay():
    assert compile_pattern("{answer}...").text({"answer": "So."}) == "So...."


def test_a_pool_draws_by_weight():
    pool = Pool.of([("a", 8), ("b", 0), ("c", 2)])
    uniform = generator(1, "pool").random
    drawn = Counter(pool.draw(uniform) for _ in range(10_000))
    assert set(drawn) == {"a", "c"}
    assert 7_850 < drawn["a"] < 8_150


def test_a_pool_survives_the_largest_uniform_number():
    assert Pool.of([("a", 0.1), ("b", 0.2)]).draw(lambda: 1.0) == "b"
