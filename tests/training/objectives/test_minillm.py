"""MiniLLM's estimators: their expectation over all responses of a small language, and their mean over many samples."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from megatron_ipt.training.objectives.minillm.paper import IMPORTANCE, Sampled, paper_loss  # noqa: E402
from megatron_ipt.training.objectives.minillm.released import (  # noqa: E402
    released_advantages,
    released_loss,
    released_rewards,
)
from megatron_ipt.training.rollouts.choice import draw, random_numbers  # noqa: E402
from tests.training.objectives.languages import Language, two_letters  # noqa: E402

LN2 = math.log(2)


def mixture(language: Language, logits: torch.Tensor, alpha: float) -> torch.Tensor:
    """Log-probabilities that tokens are drawn from."""
    q = logits.detach().log_softmax(-1).exp()
    return (alpha * language.teacher.exp() + (1 - alpha) * q).log()


def sampled(language: Language, logits: torch.Tensor, alpha: float, which: torch.Tensor | None = None) -> Sampled:
    prefixes, mask = (part if which is None else part[which] for part in (language.prefixes, language.mask))
    return Sampled(
        language.logs(logits.log_softmax(-1), which), language.logs(language.teacher, which),
        language.logs(mixture(language, logits, alpha), which), language.single(logits)[prefixes], mask,
    )  # fmt: skip


def expected_gradient(
    language: Language, logits: torch.Tensor, alpha: float, importance: str, clip: float | None = None
) -> torch.Tensor:
    """Of the loss of one response, over all of them by the probability that they are drawn."""
    shares = language.log_of(mixture(language, logits, alpha)).exp()
    total = torch.zeros_like(logits)
    for index, share in enumerate(shares):
        one = sampled(language, logits, alpha, torch.tensor([index]))
        loss = paper_loss(one, importance, length_norm=False, clip=clip).loss
        total += share * torch.autograd.grad(loss, logits)[0]
    return total


@pytest.mark.parametrize(
    ("importance", "alpha", "root", "after"),
    [
        ("none", 0.0, -3 / 8 * LN2, -LN2 / 8),
        ("exact", 0.5, -3 / 8 * LN2, -LN2 / 8),
        ("token", 0.5, -0.2743707590, -0.1083042470),
        ("prefix", 0.5, -0.2743707590, -0.0866433976),
        ("none", 0.5, -0.2743001807, -0.1083042470),
    ],
)
def test_two_letters(importance: str, alpha: float, root: float, after: float) -> None:
    language = two_letters()
    logits = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    assert language.sequence_kl(logits).item() == pytest.approx(LN2 / 4, abs=1e-12)
    found = expected_gradient(language, logits, alpha, importance)
    assert found[:, 0].tolist() == pytest.approx([root, after], abs=1e-10)
    assert torch.allclose(found.sum(-1), torch.zeros(2, dtype=torch.float64), atol=1e-12)


def test_single_step_and_long_term() -> None:
    language = two_letters()
    logits = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    q = logits.log_softmax(-1)
    # The prefix a has probability 1/2.
    single = language.single(logits) @ torch.tensor([1.0, 0.5], dtype=torch.float64)
    of_root = torch.autograd.grad(single, logits)[0][0, 0].item()
    assert of_root == pytest.approx(-math.log(3) / 4, abs=1e-10)
    whole = expected_gradient(language, logits, 0.0, "none")[0, 0].item()
    assert whole - of_root == pytest.approx(0.0147228795, abs=1e-10)
    assert q.exp().tolist() == [[0.5, 0.5]] * 2


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.7])
def test_exact_weights_give_the_gradient_of_the_sequence_kl(alpha: float) -> None:
    language = Language.of(3, 3)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(7, 3, generator=generator, dtype=torch.float64).requires_grad_()
    exact = torch.autograd.grad(language.sequence_kl(logits), logits)[0]
    assert torch.allclose(expected_gradient(language, logits, alpha, "exact"), exact, atol=1e-12)
    for importance in IMPORTANCE:
        found = expected_gradient(language, logits, alpha, importance)
        assert torch.allclose(found, exact, atol=1e-12) == (alpha == 0 or importance == "exact"), importance


def test_the_mean_over_many_samples_is_the_exact_gradient() -> None:
    """100,000 responses, drawn token by token from the mixture."""
    language, alpha, number = Language.of(3, 3), 0.2, 100_000
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(7, 3, generator=generator, dtype=torch.float64).requires_grad_()
    shares = language.log_of(mixture(language, logits, alpha)).exp()
    assert shares.sum().item() == pytest.approx(1)

    drawn_from, known = mixture(language, logits, alpha), torch.zeros(number, dtype=torch.int64)
    uniform = random_numbers([3, 4, 5], number)
    matching = torch.ones(number, len(shares), dtype=torch.bool)
    for position in range(3):
        # All responses that go on from what was drawn so far have the same prefix there.
        letters = draw(drawn_from[language.prefixes[known, position]], uniform[position])
        goes_on = language.mask[known, position] > 0
        fits = (language.responses[:, position] == letters[:, None]) & (language.mask[:, position] > 0)
        matching &= fits | ~goes_on[:, None]
        known = matching.int().argmax(-1)
    assert torch.allclose(known.bincount(minlength=len(shares)).double() / number, shares, atol=0.01)

    # A copy of the logits for each response keeps their gradients apart.
    own = logits.detach().repeat(number, 1, 1).requires_grad_()
    before, responses, mask = language.prefixes[known], language.responses[known], language.mask[known]
    rows = own.gather(1, before[..., None].expand(-1, -1, 3))
    log_q = rows.log_softmax(-1)
    teacher = language.teacher[before]
    batch = Sampled(
        log_q.gather(-1, responses[..., None])[..., 0], teacher.gather(-1, responses[..., None])[..., 0],
        language.logs(drawn_from, known), (log_q.exp() * (log_q - teacher)).sum(-1), mask,
    )  # fmt: skip
    loss = paper_loss(batch, "exact", length_norm=False, clip=None).loss
    gradients = torch.autograd.grad(loss, own)[0]
    exact = torch.autograd.grad(language.sequence_kl(logits), logits)[0]
    errors = gradients.std(0) / math.sqrt(number)
    away = ((gradients.mean(0) - exact).abs() / errors).flatten()
    assert away.max() < 3.5 and (away < 3).float().mean() > 0.95 and away.max() > 0.1
    assert errors.max() < 0.02 * exact.abs().max()


def test_lengths_and_clipping_of_the_paper() -> None:
    log_q = torch.log(torch.tensor([[0.5, 0.9, 0.25, 0.4, 0.5]], dtype=torch.float64)).requires_grad_()
    log_p = torch.log(torch.tensor([[0.25, 0.3, 0.5, 0.8, 0.9]], dtype=torch.float64))
    log_s = torch.log(torch.tensor([[0.5, 0.6, 0.5, 0.4, 0.1]], dtype=torch.float64))
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    zero = torch.zeros(1, 5, dtype=torch.float64)
    found = paper_loss(Sampled(log_q, log_p, log_s, zero, mask), clip=0.2)
    r = [math.log(0.5), math.log(1 / 3), LN2, LN2]
    assert found.reward[0].tolist() == pytest.approx([*r, 0.0])
    assert found.weights[0].tolist() == pytest.approx([1.0, 1.5, 0.5, 1.0, 1.0])
    assert found.clipped[0].tolist() == [0, 1, 0, 0, 0]
    # T = 4: three rewards by 2, two by 1, one by 0, which is held at 1; a clipped weight has no gradient.
    future = [sum(r[1:]) / 2, sum(r[2:]) / 1, r[3]]
    (slope,) = torch.autograd.grad(found.loss, log_q)
    assert slope[0].tolist() == pytest.approx([-future[0], 0.0, -0.5 * future[2], 0.0, 0.0])
    unclipped = paper_loss(Sampled(log_q, log_p, log_s, zero, mask), clip=None).loss
    assert torch.autograd.grad(unclipped, log_q)[0][0, 1].item() == pytest.approx(-1.5 * future[1])


def test_rewards_and_returns_of_the_program() -> None:
    logs = torch.tensor([[-1.0, -2.0, -300.0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1]])
    assert released_rewards(logs, torch.zeros_like(logs), mask)[0].tolist() == [-2, -4, -100]
    assert released_rewards(logs, torch.zeros_like(logs), torch.tensor([[1, 0, 0]]))[0].tolist() == [-2, 0, 0]
    rewards = torch.tensor([[1, -2, 0.5, 0, 0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    for whiten, expected in {
        "none": (-0.1495833333, -0.7625, 0.5),
        "all": (-0.1658745755, -1.6795315271, 1.4383342535),
        "response": (-0.0237100986, -1.2127176586, 1.2364277572),
    }.items():
        found = released_advantages(rewards, mask, whiten=whiten)
        assert found[0, :3].tolist() == pytest.approx(expected, abs=1e-10), whiten


def test_the_loss_of_the_program_counts_rewards_twice() -> None:
    """Without discount, division and whitening, on the two letters; the paper's is half of it."""
    language = two_letters()
    logits = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    shares = language.log_of(logits.detach().log_softmax(-1)).exp()
    total = torch.zeros_like(logits)
    for index, share in enumerate(shares):
        one = sampled(language, logits, 0.0, torch.tensor([index]))
        then = one.log_q.detach()
        rewards = released_rewards(one.log_p, then, one.mask, scaling=1.0)
        advantages = released_advantages(rewards, one.mask, 1.0, "none", length_norm=False)
        loss, _ = released_loss(one.log_q, then, advantages, torch.ones_like(then), one.single, one.mask)
        total += share * torch.autograd.grad(loss, logits)[0]
    assert total[:, 0].tolist() == pytest.approx([-0.5345832649, -0.1732867951], abs=1e-10)


@pytest.mark.parametrize(
    ("advantage", "ratio", "slope"),
    # Clipped only where the step would go further than allowed, as in PPO.
    [(1.0, 1.1, -1.1), (1.0, 1.3, 0.0), (-1.0, 1.3, 1.3), (1.0, 0.7, -0.7), (-1.0, 0.7, 0.0)],
)
def test_the_program_clips_as_ppo_does(advantage: float, ratio: float, slope: float) -> None:
    log_q = torch.tensor([[math.log(ratio), 5.0]], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, 2, dtype=torch.float64)
    for weight, then in ((1.0, 0.0), (2.0, LN2)):
        loss, clipped = released_loss(log_q, zero + then, zero + advantage, zero + weight, zero, torch.tensor([[1, 0]]))
        assert torch.autograd.grad(loss, log_q)[0][0].tolist() == pytest.approx([slope, 0.0])
        assert clipped[0].tolist() == [float(slope == 0), 0]
