"""Choice and grouping of demonstrations, and what is refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, strategies as st

from megatron_ipt.config import load
from megatron_ipt.errors import InputError, RecipeError
from megatron_ipt.evaluation.config import EvaluationConfig
from megatron_ipt.evaluation.in_context.demonstrations import (
    TooLong,
    arrange,
    choose,
    encode,
    prompt_of,
    refuse_shared,
)
from megatron_ipt.evaluation.questions import Question
from tests.evaluation.test_questions import CharacterTokenizer

BOS = 1


def test_fewer_demonstrations_are_the_first_of_more():
    many = choose(60, 100, 7, "pool.jsonl")
    assert choose(8, 100, 7, "pool.jsonl") == many[:8]
    assert len(set(many)) == 60 and max(many) < 100
    assert choose(8, 100, 8, "pool.jsonl") != many[:8]


def test_more_than_there_are_is_refused():
    with pytest.raises(InputError, match=r"pool.jsonl: 11 demonstrations are asked for, but it has 10"):
        choose(11, 10, 7, "pool.jsonl")
    with pytest.raises(InputError, match=r"pool.jsonl: contains no demonstrations"):
        choose(1, 0, 7, "pool.jsonl")


def demonstrations(*lengths):
    return [[10 + number] * length for number, length in enumerate(lengths)]


def test_groups_keep_order_and_begin_with_bos():
    # Three are needed; with the second one in the second group, none is longer than it has to be.
    groups = arrange(demonstrations(3, 2, 2, 4), [BOS], 6, None, "x")
    assert groups == [[BOS, 10, 10, 10], [BOS, 11, 11, 12, 12], [BOS, 13, 13, 13, 13]]
    assert arrange(demonstrations(3, 2), [BOS], 6, 1, "x") == [[BOS, 10, 10, 10, 11, 11]]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.data())
def test_the_longest_group_is_as_short_as_it_can_be(lengths, data):
    count = data.draw(st.integers(1, len(lengths)))
    groups = arrange(demonstrations(*lengths), [], 1000, count, "x")
    assert len(groups) == count
    assert [token for group in groups for token in group] == [t for ids in demonstrations(*lengths) for t in ids]
    best = min(
        max(sum(lengths[a:b]) for a, b in itertools.pairwise((0, *cuts, len(lengths))))
        for cuts in itertools.combinations(range(1, len(lengths)), count - 1)
    )
    assert max(map(len, groups)) == best


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(9, 30))
def test_there_are_as_few_groups_as_possible(lengths, room):
    groups = arrange(demonstrations(*lengths), [BOS], room + 1, None, "x")
    assert max(map(len, groups)) <= room + 1
    fewer = len(groups) - 1
    if fewer:
        with pytest.raises(TooLong):
            arrange(demonstrations(*lengths), [BOS], room + 1, fewer, "x")


def test_what_cannot_be_arranged_is_refused():
    with pytest.raises(InputError, match=r"demonstration 2 of those chosen has 8 tokens, but a group takes 7"):
        arrange(demonstrations(1, 8), [BOS], 8, None, "pool.jsonl")
    with pytest.raises(InputError, match=r"pool.jsonl: there are no demonstrations"):
        arrange([], [BOS], 8, None, "pool.jsonl")
    with pytest.raises(TooLong, match=r"3 demonstrations have 12 tokens; in 1 group the longest has 12, but 9 fit"):
        arrange(demonstrations(4, 4, 4), [BOS], 10, 1, "pool.jsonl")
    with pytest.raises(InputError, match=r"5 groups cannot share 3 demonstrations"):
        arrange(demonstrations(4, 4, 4), [BOS], 10, 5, "pool.jsonl")


def test_a_demonstration_is_a_question_with_its_answer():
    tokenizer = CharacterTokenizer()
    question = Question("A text.", "What?", "this ")
    expected = "A text.\n\nQuestion: What?\nAnswer: this\n\n"
    assert encode(tokenizer, question, "") == tokenizer(expected, False)["input_ids"]
    assert prompt_of(question, "{context}\nTopic:") == "A text.\nTopic:"
    assert encode(tokenizer, question, "{question}")[:5] == tokenizer("What?", False)["input_ids"]


def test_questions_among_the_demonstrations_are_refused():
    one, other = Question("A", "x?", "y"), Question("B", "x?", "z")
    refuse_shared([one], [other], "pool.jsonl", "")
    with pytest.raises(InputError, match=r"pool.jsonl: demonstration 2 \('x\?'\) is also one of the questions"):
        refuse_shared([one, other], [Question("B", "x?", "other answer")], "pool.jsonl", "")
    # The same as far as the template shows.
    with pytest.raises(InputError, match="demonstration 1"):
        refuse_shared([one], [other], "pool.jsonl", "{question}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["in_context.mode=structured", "questions.a=q.jsonl"], "in_context.files.a: missing"),
        (["in_context.mode=concat", "in_context.files.b=d.jsonl"], "in_context.files.b: there are no .*questions"),
        (["in_context.mode=concat", "in_context.groups=2"], "groups: is for mode structured"),
        (["in_context.mode=structured", "in_context.groups=40"], "40 groups cannot share 32"),
        (["in_context.demonstrations=0"], "demonstrations: 0 is below the minimum 1"),
        (["in_context.template='{text}:'"], "{text} is not {context} or {question}"),
        (["in_context.template='Topic:'"], "neither {context} nor {question}"),
        (["in_context.template='{context'"], "in_context.template: "),
        (["in_context.mode=structure"], "Did you mean structured"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        load(EvaluationConfig, None, settings)
