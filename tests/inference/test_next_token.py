"""The choice of tokens, against transformers' own warpers and against the distribution it is to draw from."""

from __future__ import annotations

from typing import Any

import pytest

from megatron_ipt.inference.sampling import Sampling
from megatron_ipt.inference.transformers.next_token import Chooser, StopStrings

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def chooser(sampling: Sampling, rows: int = 1, seeds: list[int] | None = None, mask: Any = None) -> Chooser:
    mask = torch.ones(rows, 4, dtype=torch.long) if mask is None else mask
    return Chooser(torch, sampling, mask, seeds or list(range(rows)))


def ids(rows: int) -> Any:
    return torch.zeros(rows, 4, dtype=torch.long)


WARPERS = {
    "top_k": lambda: transformers.TopKLogitsWarper(7),
    "top_p": lambda: transformers.TopPLogitsWarper(0.6),
    "min_p": lambda: transformers.MinPLogitsWarper(0.2),
}


@pytest.mark.parametrize(
    "sampling", [Sampling(4, 1.0, top_k=7), Sampling(4, 1.0, top_p=0.6), Sampling(4, 1.0, min_p=0.2)], ids=WARPERS
)
def test_leaves_out_what_transformers_leaves_out(sampling: Sampling, request: pytest.FixtureRequest) -> None:
    torch.manual_seed(3)
    logits = 3 * torch.randn(50, 40)
    name = request.node.callspec.id
    expected = WARPERS[name]()(ids(50), logits) == -torch.inf
    assert torch.equal(chooser(sampling, 50)(ids(50), logits) == -torch.inf, expected)
    assert 0 < expected.sum() < expected.numel()


def test_draws_from_the_distribution() -> None:
    """20,000 draws at temperature 0.5: the shares are those of softmax(2 x logits), within five standard deviations."""
    logits = torch.tensor([1.0, 0.0, -0.5, 0.7])
    rows = 20_000
    drawn = chooser(Sampling(4, 0.5), rows)(ids(rows), logits.expand(rows, 4)).argmax(-1)
    shares = torch.bincount(drawn, minlength=4) / rows
    expected = (2 * logits).softmax(-1)
    assert ((shares - expected).abs() < 5 * (expected * (1 - expected) / rows).sqrt()).all()


def test_a_row_s_draws_depend_on_its_seed_alone() -> None:
    torch.manual_seed(4)
    logits = torch.randn(3, 200)
    together = chooser(Sampling(4, 1.0), 3, [7, 8, 7])
    alone = chooser(Sampling(4, 1.0), 1, [8])
    steps = [(together(ids(3), logits), alone(ids(1), logits[1:2])) for _ in range(5)]
    for all_rows, row in steps:
        assert torch.equal(all_rows[1:2], row)
    # Equal seeds draw alike, other seeds and other steps differently.
    noise = [all_rows - logits for all_rows, _ in steps]
    assert torch.allclose(noise[0][0], noise[0][2], atol=1e-5)
    assert not torch.allclose(noise[0][0], noise[0][1], atol=1e-1)
    assert not torch.allclose(noise[0][0], noise[1][0], atol=1e-1)


def test_greedy_changes_nothing() -> None:
    logits = torch.randn(2, 9)
    assert torch.equal(chooser(Sampling(4), 2)(ids(2), logits), logits)


def test_repetition_penalty_is_that_of_transformers_without_padding() -> None:
    torch.manual_seed(5)
    logits = torch.randn(2, 9)
    # The second row is padded with token 2, which it has not seen; one token was generated in each.
    seen = torch.tensor([[3, 4, 2, 5], [2, 2, 6, 7]])
    mask = torch.tensor([[1, 1, 1], [0, 0, 1]])
    got = chooser(Sampling(4, repetition_penalty=1.5), 2, mask=mask)(seen, logits)
    reference = transformers.RepetitionPenaltyLogitsProcessor(1.5)
    assert torch.equal(got[:1], reference(seen[:1], logits[:1].clone()))
    assert torch.equal(got[1:], reference(seen[1:, 2:], logits[1:].clone()))


def test_stop_strings_end_the_rows_that_hold_them(tokenizer: Any) -> None:
    texts = ["stop here </END>", "<CON> a </CON> and on"]
    rows = [tokenizer.encode([text])[0] for text in texts]
    width = max(map(len, rows))
    prompt = tokenizer.encode(["</END>"])[0]
    stop = StopStrings(torch, ["</END>", "\n\n"], tokenizer, len(prompt))
    padded = torch.tensor([[*prompt, *[rows[0][0]] * (width - len(row)), *row] for row in rows])
    assert stop(padded, None).tolist() == [True, False]
    # The prompt's own text does not count.
    assert stop(padded[:, : len(prompt)], None).tolist() == [False, False]
