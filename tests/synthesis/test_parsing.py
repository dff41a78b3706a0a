from __future__ import annotations

import string

import pytest
from hypothesis import given, strategies as st

from megatron_ipt.synthesis.from_text.prompted import parsing
from megatron_ipt.synthesis.from_text.prompted.marks import MARKS, render_pair, render_pairs
from megatron_ipt.synthesis.from_text.prompted.parsing import parse_answer, question_key
from megatron_ipt.synthesis.pairs import Pair


def reasons(drops: list[parsing.Drop]) -> list[str]:
    return [drop.reason for drop in drops]


def test_reads_the_documented_format() -> None:
    text = "<QUE> Who wrote it? <ANS> Ann Lee. </END>\n\n<QUE> When? <ANS> In 1931. </END>"
    assert parse_answer(text) == ([Pair("Who wrote it?", "Ann Lee."), Pair("When?", "In 1931.")], [])


def test_recognises_options() -> None:
    text = "<QUE> What falls?\nOptions:\n- a stone\n- Rain\n- rain <ANS> rain. </END>"
    assert parse_answer(text)[0] == [Pair("What falls?", "Rain", options=("a stone", "Rain"))]


def test_recognises_reasoning() -> None:
    text = (
        "<QUE> How many?\nLet's think step by step. <ANS> Two and two.\nThat makes four.\n"
        "Therefore, the answer is 4 </END>"
    )
    assert parse_answer(text)[0] == [Pair("How many?", "4", reasoning="Two and two.\nThat makes four.")]


def test_recognises_options_with_reasoning() -> None:
    text = (
        "<QUE> How many?\nOptions:\n- 3\n- 4\nLet's think step by step. <ANS> Two and two.\n"
        "Therefore, the answer is 4 </END>"
    )
    assert parse_answer(text)[0] == [Pair("How many?", "4", options=("3", "4"), reasoning="Two and two.")]


@pytest.mark.parametrize(
    ("text", "finished", "pairs", "expected"),
    [
        ("", True, 0, []),
        ("<QUE> a? <ANS> b </END>\n\n<QUE> c? <ANS> d", False, 1, [parsing.CUT_OFF]),
        ("<QUE> a? <ANS> b </END>\n\n<QUE> c? <ANS> d", True, 1, [parsing.UNFINISHED]),
        ("<QUE> A  b? <ANS> c </END>\n\n<QUE> a B? <ANS> d </END>", True, 1, [parsing.REPEATED]),
        ("<QUE> a? <QUE> b? <ANS> c </END>", True, 0, [parsing.MALFORMED]),
        ("<QUE> a? b </END>", True, 0, [parsing.MALFORMED]),
        ("<ANS> b </END>", True, 0, [parsing.MALFORMED]),
        ("<QUE> a? <ANS> b <CON> c </END>", True, 0, [parsing.MALFORMED]),
        ("well, <QUE> a? <ANS> b </END>", True, 1, [parsing.OUTSIDE]),
        ("<QUE>  <ANS> b </END>", True, 0, [parsing.NO_QUESTION]),
        ("<QUE> a? <ANS>  </END>", True, 0, [parsing.NO_ANSWER]),
        ("<QUE> a?\nOptions:\n- b\n- c <ANS> d </END>", True, 0, [parsing.NOT_AN_OPTION]),
        ("<QUE> a?\nOptions:\n- b\n- b <ANS> b </END>", True, 0, [parsing.BAD_OPTIONS]),
        ("<QUE> a?\nOptions:\nb, c <ANS> d </END>", True, 1, []),
        ("</END></END>", True, 0, [parsing.MALFORMED, parsing.MALFORMED]),
    ],
)
def test_drops_with_a_reason(text: str, finished: bool, pairs: int, expected: list[str]) -> None:
    found, drops = parse_answer(text, finished)
    assert len(found) == pairs
    assert reasons(drops) == expected


def test_request_for_reasoning_without_it_is_a_plain_pair() -> None:
    assert parse_answer("<QUE> Why?\nLet's think step by step. <ANS> Because. </END>")[0] == [Pair("Why?", "Because.")]


words = st.text(string.ascii_letters + string.digits + " .,?!äλ中", min_size=1, max_size=30).map(
    lambda text: " ".join(text.split())
)
word = words.filter(lambda text: bool(text.strip(" .")))
options = st.lists(word, min_size=2, max_size=5, unique_by=lambda text: text.casefold().rstrip("."))


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    choices = tuple(draw(options)) if draw(st.booleans()) else ()
    answer = draw(st.sampled_from(choices)) if choices else draw(word)
    return Pair(draw(word), answer, options=choices, reasoning=draw(st.just("") | word))


@given(st.lists(pairs(), max_size=6, unique_by=lambda pair: question_key(pair.question)))
def test_what_is_rendered_is_read_back(written: list[Pair]) -> None:
    assert parse_answer(render_pairs(written)) == (written, [])


@given(st.lists(pairs(), min_size=1, max_size=4, unique_by=lambda pair: question_key(pair.question)), st.data())
def test_a_cut_answer_gives_the_whole_pairs_before_the_cut(written: list[Pair], data: st.DataObject) -> None:
    text = render_pairs(written)
    cut = data.draw(st.integers(0, len(text)))
    whole = sum(len(render_pairs(written[:n])) <= cut for n in range(1, len(written) + 1))
    found, drops = parse_answer(text[:cut], finished=False)
    assert found == written[:whole]
    assert reasons(drops) in ([], [parsing.CUT_OFF])


@given(st.lists(st.sampled_from((*MARKS, " ", "a", "B?", "\n", "\nOptions:\n- a\n- b", "Let's think step by step."))))
def test_any_order_of_marks_gives_only_whole_pairs(pieces: list[str]) -> None:
    text = "".join(pieces)
    found, drops = parse_answer(text)
    assert len(found) + len([drop for drop in drops if drop.reason != parsing.OUTSIDE]) <= text.count("</END>") + 1
    for pair in found:
        assert pair.question.strip() == pair.question != ""
        assert pair.answer.strip() == pair.answer != ""
        assert not any(mark in field for mark in MARKS for field in (pair.question, pair.answer, pair.reasoning))
        assert not pair.options or pair.answer in pair.options
    assert len({question_key(pair.question) for pair in found}) == len(found)


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    parse_answer(text)
    parse_answer(f"<QUE> {text} <ANS> {text} </END>")


def test_one_pair_is_one_rendered_pair() -> None:
    assert render_pair(Pair("Who?", "Ann")) == "<QUE> Who? <ANS> Ann </END>"
