from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from megatron_ipt.errors import InputError
from megatron_ipt.evaluation.judge.gold import against_gold, best_assignment, read_gold
from megatron_ipt.synthesis.pairs import Example, Pair

SQUAD = {
    "data": [
        {
            "title": "Bridges",
            "paragraphs": [
                {
                    "context": "The bridge was opened in 1932.\nIt crosses the wide harbour of the old city.",
                    "qas": [
                        {"question": "When was the bridge opened?", "answers": [{"text": "1932"}, {"text": "in 1932"}]},
                        {"question": "What does the bridge cross?", "answers": [{"text": "the wide harbour"}]},
                        {"question": "Who built it?", "is_impossible": True, "answers": []},
                    ],
                },
                {"context": "Bees dance.", "qas": [{"question": "Who dances?", "answers": [{"text": "Bees"}]}]},
            ],
        }
    ]
}


@pytest.fixture
def gold(tmp_path):
    path = tmp_path / "gold.json"
    path.write_text(json.dumps(SQUAD))
    return read_gold([path])


def test_gold_holds_every_answer_and_no_unanswerable_question(gold):
    assert [len(text.pairs) for text in gold] == [2, 1]
    assert gold[0].pairs[0].answers == ("1932", "in 1932")


def test_the_figures_worked_out_by_hand(gold):
    text = SQUAD["data"][0]["paragraphs"][0]["context"].replace("\n", "  ")
    pairs = [
        Pair("What does the bridge cross?", "wide river"),
        Pair("When was the bridge opened?", "In 1932!"),
        Pair("When was it?", "1932"),
    ]
    found = against_gold([Example("a", text, pairs=pairs), Example("z", "Something else.", pairs=pairs)], gold, 0.5)
    assert (found["gold_texts"], found["matched_texts"], found["gold_questions"]) == (2, 1, 2)
    assert (found["generated"], found["matched"], found["coverage"], found["question_f1"]) == (3, 2, 1.0, 1.0)
    # "in 1932" is a gold answer; "wide river" shares one of two words with "wide harbour".
    assert (found["exact_match"], found["f1"]) == (0.5, (1.0 + 0.5) / 2)


def test_a_stretch_of_a_gold_text_counts_as_it(gold):
    pairs = [Pair("When was the bridge opened?", "1932")]
    stretch = "It crosses the wide harbour of the old city."
    found = against_gold(
        [Example("a#1", "The bridge was opened in 1932."), Example("a#2", stretch, pairs=pairs)], gold, 0.5
    )
    assert (found["matched_texts"], found["generated"], found["matched"]) == (1, 1, 1)
    # "old cit" is not a stretch of whole words.
    assert (
        against_gold([Example("a", "It crosses the wide harbour of the old cit", pairs=pairs)], gold, 0.5)[
            "matched_texts"
        ]
        == 0
    )


def test_questions_below_the_least_f1_are_no_match(gold):
    # "when was it" and "when was bridge opened" share two of 3 and 4 words: F1 4/7.
    text = SQUAD["data"][0]["paragraphs"][0]["context"]
    examples = [Example("a", text, pairs=[Pair("When was it?", "1932")])]
    assert against_gold(examples, gold, 0.57)["matched"] == 1
    found = against_gold(examples, gold, 0.58)
    assert (found["matched"], found["exact_match"], found["question_f1"]) == (0, None, 4 / 7 / 2)


def test_tasks_in_json_lines_and_what_is_neither(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"context":"A b.","tasks":[{"question":"Which?","options":["x","y"],"answer":"y"}]}\n' * 2)
    (first, _) = read_gold([path])
    assert first.pairs[0].pair.options == ("x", "y") and first.pairs[0].answers == ("y",)
    path.write_text('{"context":"A b.","tasks":[{"question":"Which?","answer":"y"}]}\n{"text": 1}\n')
    with pytest.raises(InputError, match=r"tasks\.jsonl:2: unknown format; known: squad, tasks"):
        read_gold([path])
    path.write_text('{"context":"A b.","tasks":[]}\n')
    with pytest.raises(InputError, match="contains no questions with answers"):
        read_gold([path])
    path.write_text('{"context":"A b.","tasks":[{"question":"W?","answer":"y"}]}\n{"con')
    with pytest.raises(InputError, match=r"tasks\.jsonl:2: not valid JSON"):
        read_gold([path])


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_the_assignment_is_the_best_of_all(rows, columns, data):
    values = st.integers(0, 6).map(lambda n: n / 6)
    scores = np.array(
        data.draw(st.lists(st.lists(values, min_size=columns, max_size=columns), min_size=rows, max_size=rows))
    )
    pairs = best_assignment(scores)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    small, large = sorted(scores.shape)
    table = scores if rows <= columns else scores.T
    best = max(sum(table[i, c] for i, c in enumerate(order)) for order in itertools.permutations(range(large), small))
    assert sum(scores[pair] for pair in pairs) == pytest.approx(best)
