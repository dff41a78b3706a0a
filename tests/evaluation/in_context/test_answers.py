"""Likelihoods against plain passes, and beam search against all answers there are."""

from __future__ import annotations

import itertools

import pytest
import torch

from megatron_ipt.errors import InputError
from megatron_ipt.evaluation.in_context.answers import Asked, Search, generate, score_options
from megatron_ipt.evaluation.in_context.context import Context, chain
from tests.evaluation.in_context.small_models import random_ids, small_model

EOS = 2
GROUPS = [[1, *random_ids(size, size)] for size in (9, 14)]
PROMPTS = [random_ids(size, 50 + size) for size in (4, 6, 3)]


@pytest.fixture(scope="module")
def model():
    return small_model("mistral")


def log_likelihood(model, prompt, option):
    """Of one option, in a context of its own, token by token; and whether it is what greedy search finds."""
    context = Context(model, GROUPS, len(prompt) + len(option))
    logits = context.append_chain(prompt)
    total, greedy = 0.0, True
    for token in option:
        logs = logits.log_softmax(-1)
        total, greedy = total + logs[token].item(), greedy and int(logs.argmax()) == token
        logits = context.append_chain([token], context.used - 1)
    return total, greedy


@pytest.mark.parametrize("queries", [16, 40, 512])
def test_scores_do_not_depend_on_what_shares_a_pass(model, queries):
    asked = [
        Asked(prompt, [random_ids(size, size + len(prompt)) for size in (1, 3, 2)]) for prompt in (*PROMPTS, *PROMPTS)
    ]
    scores = score_options(Context(model, GROUPS, queries), asked, queries, "test")
    for row, found in zip(asked, scores):
        for option, score in zip(row.options, found):
            assert score.log_likelihood == pytest.approx(log_likelihood(model, row.prompt, option)[0], abs=1e-11)


def test_greedy_options_are_told(model):
    (likeliest,) = generate(Context(model, GROUPS, 32), [PROMPTS[0]], search(3, beams=1), "test")
    asked = [Asked(PROMPTS[0], [likeliest, [*likeliest[:-1], (likeliest[-1] + 1) % 50 + 3]])]
    first, second = score_options(Context(model, GROUPS, 32), asked, 32, "test")[0]
    assert first.greedy and not second.greedy
    assert first.greedy == log_likelihood(model, PROMPTS[0], likeliest)[1]


def search(tokens, beams, penalty=0.6, stops=lambda ids: False):
    return Search(tokens, beams, penalty, stops, EOS)


def test_greedy_search_is_that_of_transformers(model):
    """One group: a plain prompt, which ``generate`` of transformers takes."""
    group = GROUPS[0]
    found = generate(Context(model, [group], 64), PROMPTS, search(8, beams=1), "test")
    for prompt, answer in zip(PROMPTS, found):
        ids = torch.tensor([[*group, *prompt]])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, eos_token_id=EOS,
            pad_token_id=EOS,
        )  # fmt: skip
        expected = output[0, ids.shape[1] :].tolist()
        assert answer == (expected[: expected.index(EOS)] if EOS in expected else expected)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0])
def test_a_search_with_all_beams_finds_the_best_of_all_answers(model, penalty):
    """Four tokens are allowed, of which one ends the answer; with as many beams as answers, nothing is missed."""
    letters, longest = (EOS, 5, 9, 17), 3
    allowed = torch.full((61,), -torch.inf, dtype=torch.float64)
    allowed[list(letters)] = 0

    class Restricted(Context):
        def append(self, ids, parents, wanted):
            return super().append(ids, parents, wanted) + allowed

    def best(prompt):
        context = Restricted(model, GROUPS, 64)
        found = {}
        for answer in itertools.chain(*(itertools.product(letters, repeat=n) for n in range(1, longest + 1))):
            if EOS in answer[:-1] or (len(answer) < longest and answer[-1] != EOS):
                continue
            context.clear()
            rows = context.append(
                [*prompt, *answer],
                chain(0, len(prompt) + len(answer)),
                range(len(prompt) - 1, len(prompt) + len(answer) - 1),
            )
            logs = rows.log_softmax(-1)
            total = sum(logs[place, token].item() for place, token in enumerate(answer))
            found[answer] = total / len(answer) ** penalty
        winner = max(found, key=found.__getitem__)
        return [token for token in winner if token != EOS]

    context = Restricted(model, GROUPS, 600)
    found = generate(context, PROMPTS, search(longest, beams=40, penalty=penalty), "test")
    assert found == [best(prompt) for prompt in PROMPTS]
    assert len({tuple(answer) for answer in found}) > 1


def test_answers_end_where_they_are_to_stop(model):
    free = generate(Context(model, GROUPS, 64), PROMPTS, search(6, beams=1), "test")
    stop = free[0][2]
    stopped = generate(Context(model, GROUPS, 64), PROMPTS, search(6, 1, stops=lambda ids: ids[-1] == stop), "test")
    assert stopped[0] == free[0][: free[0].index(stop) + 1]


def test_answers_do_not_depend_on_what_is_searched_beside_them(model):
    together = generate(Context(model, GROUPS, 400), PROMPTS, search(5, beams=3), "test")
    alone = [generate(Context(model, GROUPS, 40), [prompt], search(5, beams=3), "test")[0] for prompt in PROMPTS]
    assert together == alone


def test_nothing_to_ask_is_refused(model):
    with pytest.raises(InputError, match="question 1: the prompt or an option has no tokens"):
        score_options(Context(model, GROUPS, 8), [Asked([4], [[5]]), Asked([], [[5]])], 8, "test")
    with pytest.raises(InputError, match="a prompt has no tokens"):
        generate(Context(model, GROUPS, 8), [[]], search(2, 1), "test")
    with pytest.raises(InputError, match="room was made for 8"):
        score_options(Context(model, GROUPS, 8), [Asked([4] * 9, [[5]])], 8, "test")
