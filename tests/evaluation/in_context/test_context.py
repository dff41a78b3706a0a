"""Seven ways to say the same, and two that must not be the same, in fp64 on three families."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AttentionInterface, MistralConfig, MistralForCausalLM

from megatron_ipt.errors import InputError
from megatron_ipt.evaluation.in_context.context import ROOT, Context, chain
from tests.evaluation.in_context.small_models import FAMILIES, random_ids, small_model

BOS = 1
GROUPS = [[BOS, *random_ids(size, size)] for size in (9, 14, 6)]
QUESTION = random_ids(7, 99)
EXACT = 1e-12


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return small_model(family)


def after(model, groups, ids=QUESTION):
    """Logits after every token of a chain that follows ``groups``."""
    context = Context(model, groups, len(ids))
    return context.append(ids, chain(0, len(ids)), range(len(ids)))


def plain(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def gap(first, second):
    # Of logits of some size, so that no difference could hide.
    assert first.dtype == second.dtype == torch.float64 and first.std() > 0.3
    return float((first - second).abs().max())


def test_one_group_is_the_plain_prompt(model):
    (group, *_) = GROUPS
    assert gap(after(model, [group]), plain(model, [*group, *QUESTION])[len(group) :]) < EXACT


def test_no_group_is_the_question_alone(model):
    assert gap(after(model, []), plain(model, QUESTION)) < EXACT


@pytest.mark.parametrize("copies", [2, 5])
def test_equal_groups_are_one(model, copies):
    assert gap(after(model, [GROUPS[0]] * copies), after(model, [GROUPS[0]])) < EXACT


def test_groups_have_no_order(model):
    first, second, third = GROUPS
    assert gap(after(model, GROUPS), after(model, [third, first, second])) < EXACT


def test_token_by_token_is_all_at_once(model):
    context = Context(model, GROUPS, len(QUESTION))
    one_by_one = []
    for place, token in enumerate(QUESTION):
        one_by_one.append(context.append_chain([token], place - 1))
    assert gap(torch.stack(one_by_one), after(model, GROUPS)) < EXACT


def test_branches_do_not_see_each_other(model):
    """Two questions and, after the first, two options, in one pass; each as if it were alone."""
    other, options = random_ids(4, 5), ([7, 8, 9], [11, 12])
    context = Context(model, GROUPS, 64)
    ids = [*QUESTION, *other, *options[0], *options[1]]
    end = len(QUESTION) + len(other)
    parents = [
        *chain(0, len(QUESTION)), *chain(len(QUESTION), len(other)), *chain(end, 3, len(QUESTION) - 1),
        *chain(end + 3, 2, len(QUESTION) - 1),
    ]  # fmt: skip
    packed = context.append(ids, parents, range(len(ids)))
    assert gap(packed[: len(QUESTION)], after(model, GROUPS)) < EXACT
    assert gap(packed[len(QUESTION) : end], after(model, GROUPS, other)) < EXACT
    assert gap(packed[end : end + 3], after(model, GROUPS, [*QUESTION, *options[0]])[len(QUESTION) :]) < EXACT
    assert gap(packed[end + 3 :], after(model, GROUPS, [*QUESTION, *options[1]])[len(QUESTION) :]) < EXACT
    # And again in what was cleared.
    context.clear()
    assert gap(context.append(other, chain(0, 4), range(4)), after(model, GROUPS, other)) < EXACT


def test_a_block_mask_over_all_tokens_says_the_same(model):
    """No cache at all: groups and question in one row, with positions and a mask written out."""
    longest = max(map(len, GROUPS))
    ids = [token for group in GROUPS for token in group] + QUESTION
    positions, blocks = [], []
    for number, group in enumerate(GROUPS):
        positions += range(longest - len(group), longest)
        blocks += [number] * len(group)
    positions += range(longest, longest + len(QUESTION))
    blocks += [-1] * len(QUESTION)
    mask = torch.full((len(ids), len(ids)), -math.inf, dtype=torch.float64)
    for query in range(len(ids)):
        for key in range(query + 1):
            if blocks[query] == blocks[key]:
                mask[query, key] = math.log(len(GROUPS)) if blocks[query] == -1 else 0
            elif blocks[query] == -1:
                mask[query, key] = 0
    with torch.no_grad():
        logits = model(torch.tensor([ids]), attention_mask=mask[None, None], position_ids=torch.tensor([positions]))
    assert gap(logits.logits[0, -len(QUESTION) :], after(model, GROUPS)) < EXACT


def test_a_merge_by_log_sum_exp_says_the_same(family, model):
    """Every group gives an output and the logarithm of its weight; the question's own has M times the weight."""
    sizes = [len(group) for group in GROUPS]
    total = sum(sizes)

    def merged(module, query, key, value, attention_mask, scaling, **kwargs):
        if attention_mask is None:
            return AttentionInterface()["sdpa"](module, query, key, value, None, scaling=scaling, **kwargs)
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        scores = query @ key.mT * scaling
        parts = []
        for part, own in zip((*scores.split([*sizes, scores.shape[-1] - total], -1),), (*[False] * len(sizes), True)):
            if own:
                part = part.masked_fill(torch.ones(part.shape[-2:]).triu(1).bool(), -math.inf)
            parts.append((part.softmax(-1), part.logsumexp(-1, keepdim=True) + (math.log(len(sizes)) if own else 0)))
        shares = torch.cat([weight for _, weight in parts], -1).softmax(-1)
        values = value.split([*sizes, scores.shape[-1] - total], -2)
        output = sum(shares[..., n : n + 1] * (parts[n][0] @ values[n]) for n in range(len(parts)))
        return output.transpose(1, 2).contiguous(), None

    AttentionInterface.register("merged", merged)
    expected = after(model, GROUPS)
    attention = model.config._attn_implementation
    context = Context(model, GROUPS, len(QUESTION))
    try:
        model.config._attn_implementation = "merged"
        found = context.append(QUESTION, chain(0, len(QUESTION)), range(len(QUESTION)))
    finally:
        model.config._attn_implementation = attention
    assert gap(found, expected) < EXACT


def test_without_the_weight_of_own_tokens_it_differs(model):
    context = Context(model, GROUPS, len(QUESTION))
    context._own_weight = 0.0
    without = context.append(QUESTION, chain(0, len(QUESTION)), range(len(QUESTION)))
    assert gap(without, after(model, GROUPS)) > 1e-3


def test_groups_aligned_on_the_left_differ(model):
    """Groups that begin at position 0, as far as they are shorter than the longest."""
    context = Context(model, GROUPS, len(QUESTION))
    context._cache.cut(0)
    for group in GROUPS:
        context._cache.begin_group()
        with torch.no_grad():
            positions = torch.arange(len(group))[None]
            model(torch.tensor([group]), position_ids=positions, past_key_values=context._cache, use_cache=True)
    context._cache.show_all()
    left = context.append(QUESTION, chain(0, len(QUESTION)), range(len(QUESTION)))
    assert gap(left, after(model, GROUPS)) > 1e-3


def test_eager_attention_agrees_as_far_as_it_rounds(family):
    # transformers' eager attention takes its softmax in fp32.
    assert 0 < gap(after(small_model(family, "eager"), GROUPS), after(small_model(family), GROUPS)) < 1e-4


def test_weights_of_a_worked_example():
    """M = 2, scores (0, 1), (2, -1) and .5 for the token itself: exp(s) over the sum, own twice."""
    config = MistralConfig(
        vocab_size=8, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=4, max_position_embeddings=16, sliding_window=None,
    )  # fmt: skip
    model = MistralForCausalLM._from_config(config, attn_implementation="sdpa", dtype=torch.float64).eval()
    scores = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5], dtype=torch.float64)
    seen = {}

    def worked(module, query, key, value, attention_mask, **kwargs):
        if attention_mask is not None:
            seen["weights"] = (scores + attention_mask[0, 0, -1]).softmax(-1)
        return query.transpose(1, 2).contiguous(), None

    AttentionInterface.register("worked", worked)
    context = Context(model, [[1, 2], [3, 4]], 1)
    model.config._attn_implementation = "worked"
    context.append([5], [ROOT], [0])
    expected = [0.0676926164, 0.1840076090, 0.5001845398, 0.0249027219, 0.2232125129]
    assert seen["weights"].tolist() == pytest.approx(expected, abs=5e-11)


def test_what_does_not_fit_is_refused(model):
    with pytest.raises(InputError, match="group 1 of demonstrations is empty"):
        Context(model, [[1], []], 4)
    with pytest.raises(InputError, match="group 0 of demonstrations has 256 tokens, but the model takes 256"):
        Context(model, [[3] * 256], 4)
    with pytest.raises(InputError, match=r"begins after 250 tokens .* ends at 257, but the model's context has 256"):
        Context(model, [[3] * 250], 16).append([3] * 7, chain(0, 7), [6])
    with pytest.raises(InputError, match="room was made for 4"):
        Context(model, GROUPS, 4).append([3] * 5, chain(0, 5), [4])
    with pytest.raises(InputError, match="token 0 follows token 3"):
        Context(model, GROUPS, 4).append([3], [3], [0])
