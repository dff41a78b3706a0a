"""DPKD's loss of sequences and of tokens: worked examples, and the expectation over a small language."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from megatron_ipt.training.objectives.dpkd.loss import sequence_dpkd, token_dpkd  # noqa: E402
from tests.training.objectives.languages import Language, two_letters  # noqa: E402


def pair(language: Language, logits: torch.Tensor, of_teacher: int, of_student: int, length_norm: bool) -> torch.Tensor:
    log_q = language.logs(logits.log_softmax(-1))
    log_p = language.logs(language.teacher)
    both = [(log_q[[row]], log_p[[row]], language.mask[[row]]) for row in (of_teacher, of_student)]
    return sequence_dpkd(both[0], both[1], 0.1, length_norm)[0][0]


def row(language: Language, *text: int) -> int:
    """Where the response ``text`` is."""
    fits = [
        language.responses[index, : len(text)].tolist() == list(text) and language.mask[index].sum() == len(text)
        for index in range(len(language.responses))
    ]
    return fits.index(True)


@pytest.mark.parametrize(
    ("length_norm", "loss", "gradient"),
    [
        (False, math.log(1 + 2**0.2), (-0.0534601961, -0.0267300981)),
        (True, math.log(1 + 2**0.15), (-0.0394477222, -0.0131492407)),
    ],
)
def test_a_pair_of_two_letters(length_norm: bool, loss: float, gradient: tuple[float, float]) -> None:
    language = two_letters()
    logits = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    found = pair(language, logits, row(language, 0, 0), row(language, 1), length_norm)
    assert found.item() == pytest.approx(loss, abs=1e-10)
    assert torch.autograd.grad(found, logits)[0][:, 0].tolist() == pytest.approx(gradient, abs=1e-10)


@pytest.mark.parametrize(("length_norm", "expected"), [(False, 0.7114511348), (True, 0.7067065071)])
def test_expected_loss_over_the_responses_of_both(length_norm: bool, expected: float) -> None:
    language = two_letters()
    logits = torch.zeros(2, 2, dtype=torch.float64)
    q, p = language.log_of(logits.log_softmax(-1)).exp(), language.log_of(language.teacher).exp()
    total = sum(p[t] * q[s] * pair(language, logits, t, s, length_norm) for t in range(len(p)) for s in range(len(q)))
    assert float(total) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("length_norm", [True, False])
def test_the_teacher_itself_has_nothing_to_learn(length_norm: bool) -> None:
    language = Language.of(3, 3)
    logits = language.teacher.clone().requires_grad_()
    p = language.log_of(language.teacher).exp()
    total = torch.zeros_like(logits)
    for t in range(len(p)):
        for s in range(len(p)):
            loss = pair(language, logits, t, s, length_norm)
            assert loss.item() == pytest.approx(math.log(2), abs=1e-12)
            total += p[t] * p[s] * torch.autograd.grad(loss, logits)[0]
    assert total.abs().max() < 1e-12


def test_tokens() -> None:
    student = torch.tensor([[0.0, 0.5, -0.5]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    loss, same = token_dpkd(student, teacher, 3)
    assert loss.item() == pytest.approx(0.7709570478, abs=1e-10) and not same.item()
    (slope,) = torch.autograd.grad(loss.sum(), student)
    assert slope[0].tolist() == pytest.approx([-0.0537429845, 0.0537429845, 0.0], abs=1e-10)


@pytest.mark.parametrize("padding", [0.0, -math.inf, 5.0])
def test_tokens_are_those_of_whole_softmaxes_whatever_pads_the_vocabulary(padding: float) -> None:
    generator = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(2, 4, 6, 11, generator=generator, dtype=torch.float64)
    padded = [torch.cat([part, torch.full((4, 6, 2), padding)], -1) for part in (student, teacher)]
    padded[0].requires_grad_()
    loss, same = token_dpkd(padded[0], padded[1], 11, beta=0.3)

    own = student.clone().requires_grad_()
    log_q, log_p = own.log_softmax(-1), teacher.log_softmax(-1)
    preferred, chosen = log_p.argmax(-1, keepdim=True), log_q.argmax(-1, keepdim=True)
    margin = 0.3 * ((log_q - log_p).gather(-1, preferred) - (log_q - log_p).gather(-1, chosen))[..., 0]
    expected = (1 + (-margin).exp()).log()
    assert torch.allclose(loss, expected) and torch.equal(same, (preferred == chosen)[..., 0])
    assert same.any() and not same.all() and loss.min() >= math.log(2) - 1e-12
    assert torch.allclose(loss[same], torch.tensor(math.log(2), dtype=torch.float64))
    slope, reference = torch.autograd.grad(loss.sum(), padded[0])[0], torch.autograd.grad(expected.sum(), own)[0]
    assert torch.allclose(slope[..., :11], reference) and torch.equal(
        slope[..., 11:], torch.zeros_like(slope[..., 11:])
    )
    assert not slope[same].any()
