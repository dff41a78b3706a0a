from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core", reason="training needs Megatron-Core")

from megatron_ipt.training.objectives import divergence as d, vocabulary  # noqa: E402
from megatron_ipt.training.objectives.divergence import kinds  # noqa: E402
from tests.training.objectives.divergence.formulas import FORMULAS, bucketed  # noqa: E402

Function = Callable[..., torch.Tensor]
VOCABULARY = 11


def named(name: str) -> Function:
    """The package's function of a name in ``FORMULAS``, whose number is its first setting."""
    function, _, number = name.partition(" ")
    if function == "entropy":
        return lambda student, teacher, *how, **more: d.entropy(student, *how, **more)
    if not number:
        return getattr(d, function)
    return lambda student, teacher, *how, **more: getattr(d, function)(student, teacher, float(number), *how, **more)


def logits(*shape: int, scale: float = 2.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * scale


def with_gradient(function: Function, student: torch.Tensor, *others: Any, **more: Any) -> tuple[Any, Any]:
    student = student.detach().clone().requires_grad_()
    values = function(student, *others, **more)
    return values.detach(), torch.autograd.grad(values.sum(), student)[0]


def of_distributions(q: list[float], p: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    student, teacher = (torch.tensor(numbers, dtype=torch.float64).log() for numbers in (q, p))
    return student, teacher


@pytest.mark.parametrize(
    ("name", "value", "gradient"),
    [
        ("forward_kl", 0.1308120359, (-0.25, 0.25)),
        ("reverse_kl", math.log(4 / 3) / 2, (-math.log(3) / 4, math.log(3) / 4)),
    ],
)
def test_two_entries(name: str, value: float, gradient: tuple[float, ...]) -> None:
    found, slope = with_gradient(named(name), *of_distributions([0.5, 0.5], [0.75, 0.25]), 2)
    assert found.item() == pytest.approx(value, abs=1e-10)
    assert slope.tolist() == pytest.approx(gradient, abs=1e-10)


@pytest.mark.parametrize(
    ("name", "value", "gradient"),
    [
        ("forward_kl", 0.0851228260, (-0.2, 0.1, 0.1)),
        ("reverse_kl", 0.0920328502, (-0.2142525434, 0.0940296774, 0.1202228661)),
        ("jsd 0.5", 0.0219011790, None),
        ("jsd 0.1", 0.0076946877, None),
        ("skew_forward_kl 0.1", 0.0695779665, None),
        ("skew_reverse_kl 0.1", 0.0728275335, None),
    ],
)
def test_three_entries(name: str, value: float, gradient: tuple[float, ...] | None) -> None:
    found, slope = with_gradient(named(name), *of_distributions([0.5, 0.3, 0.2], [0.7, 0.2, 0.1]), 3)
    assert found.item() == pytest.approx(value, abs=1e-10)
    assert gradient is None or slope.tolist() == pytest.approx(gradient, abs=1e-10)


def test_three_entries_of_which_the_teacher_gives_some() -> None:
    student, teacher = of_distributions([0.5, 0.3, 0.2], [0.7, 0.2, 0.1])
    chosen = d.top_k(teacher, 2, 3)
    assert chosen.ids.tolist() == [0, 1]
    assert chosen.log_probabilities.exp().tolist() == pytest.approx([0.7, 0.2])
    assert chosen.log_rest.exp().item() == pytest.approx(0.1)
    top_1 = d.top_k_forward_kl(student, d.top_k(teacher, 1, 3), 3).item()
    top_2 = d.top_k_forward_kl(student, chosen, 3).item()
    assert top_1 == pytest.approx(0.0822828785, abs=1e-10)
    # Two of three entries and the rest are all three; renormalized it would be 0.0538, without the rest 0.1544.
    assert top_2 == pytest.approx(0.0851228260, abs=1e-10)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
def test_values_and_gradients_are_those_of_the_formula(name: str, temperature: float) -> None:
    student, teacher = logits(3, 4, VOCABULARY), logits(3, 4, VOCABULARY, seed=1)
    found = with_gradient(named(name), student, teacher, VOCABULARY, temperature=temperature)

    def formula(student: torch.Tensor) -> torch.Tensor:
        return FORMULAS[name]((student / temperature).softmax(-1), (teacher / temperature).softmax(-1))

    for ours, wanted in zip(found, with_gradient(formula, student)):
        assert torch.allclose(ours, wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("k", [1, 3, VOCABULARY - 1, VOCABULARY])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_top_k_is_the_formula_with_a_bucket(k: int, temperature: float) -> None:
    student, teacher = logits(3, 4, VOCABULARY), logits(3, 4, VOCABULARY, seed=1)
    chosen = d.top_k(teacher, k, VOCABULARY, temperature=temperature)
    found = with_gradient(d.top_k_forward_kl, student, chosen, VOCABULARY, temperature=temperature)
    p = (teacher / temperature).softmax(-1)
    # With the whole vocabulary in it, nothing is left for the bucket.
    formula = FORMULAS["forward_kl"] if k == VOCABULARY else lambda q, p: bucketed(q, p, k)
    for ours, wanted in zip(found, with_gradient(lambda z: formula((z / temperature).softmax(-1), p), student)):
        assert torch.allclose(ours, wanted, rtol=1e-10, atol=1e-12)
    assert found[0].le(d.forward_kl(student, teacher, VOCABULARY, temperature=temperature) + 1e-12).all()


def test_log_softmax_is_torch_s() -> None:
    inputs, weights = logits(3, 4, VOCABULARY), logits(3, 4, VOCABULARY, seed=2)
    ours, plain = (
        with_gradient(lambda z, f=f: f(z) * weights, inputs)
        for f in (lambda z: d.log_softmax(z, VOCABULARY, temperature=1.5), lambda z: (z / 1.5).log_softmax(-1))
    )
    assert all(torch.allclose(one, other, atol=1e-13) for one, other in zip(ours, plain))


@pytest.mark.parametrize("padding", [0.0, -math.inf, 5.0, math.nan])
def test_padding_makes_no_difference(padding: float) -> None:
    """What is behind the vocabulary has neither a probability nor a gradient, whatever it is and in either model."""
    student, teacher = logits(2, 5, VOCABULARY), logits(2, 5, VOCABULARY, seed=1)
    padded = [torch.nn.functional.pad(each, (0, 5), value=padding) for each in (student, teacher)]
    for name in FORMULAS:
        value, gradient = with_gradient(named(name), student, teacher, VOCABULARY)
        of_padded, slope = with_gradient(named(name), *padded, VOCABULARY)
        assert torch.equal(of_padded, value)
        assert torch.equal(slope[..., :VOCABULARY], gradient)
        assert slope[..., VOCABULARY:].eq(0).all()
    assert all(map(torch.equal, d.compare(*padded, VOCABULARY), d.compare(student, teacher, VOCABULARY)))
    assert all(map(torch.equal, d.top_k(padded[0], 4, VOCABULARY), d.top_k(student, 4, VOCABULARY)))
    wide = d.log_softmax(padded[0], VOCABULARY)
    assert torch.equal(wide[..., :VOCABULARY], d.log_softmax(student, VOCABULARY))
    assert wide[..., VOCABULARY:].eq(-math.inf).all()


def test_entries_that_a_model_rules_out() -> None:
    """Minus infinity within the vocabulary is a probability of 0: it costs only the model that gives the other one."""
    student, teacher = logits(1, 4), logits(1, 4, seed=1)
    teacher[0, 2] = -math.inf
    q, p = student.softmax(-1), teacher.softmax(-1)
    forward, slope = with_gradient(d.forward_kl, student, teacher, 4)
    some = [0, 1, 3]
    assert forward.item() == pytest.approx((p[0, some] * (p[0, some] / q[0, some]).log()).sum().item())
    assert torch.allclose(slope, q - p)
    assert d.reverse_kl(student, teacher, 4).item() == math.inf
    skewed, slope = with_gradient(d.skew_reverse_kl, student, teacher, 0.1, 4)
    assert math.isfinite(skewed.item()) and slope.isfinite().all()
    student[0, 2] = -math.inf
    for name in FORMULAS:
        value, slope = with_gradient(named(name), student, teacher, 4)
        assert math.isfinite(value.item()) and slope.isfinite().all() and slope[0, 2] == 0, name


def test_comparison() -> None:
    student, teacher = logits(40, VOCABULARY), logits(40, VOCABULARY, seed=1)
    student[:20] = teacher[:20] + 0.1 * student[:20]
    student[3, 5] = student[3].max()  # A second entry that is as probable.
    q, p = student.softmax(-1), teacher.softmax(-1)
    found = d.compare(student, teacher, VOCABULARY)
    assert torch.allclose(found.forward_kl, FORMULAS["forward_kl"](q, p))
    assert torch.allclose(found.reverse_kl, FORMULAS["reverse_kl"](q, p))
    assert torch.allclose(found.student_entropy, FORMULAS["entropy"](q, p))
    assert torch.allclose(found.teacher_entropy, FORMULAS["entropy"](p, q))
    of_teacher = student.gather(-1, teacher.argmax(-1, keepdim=True)).squeeze(-1)
    assert torch.equal(found.same_top, (of_teacher == student.amax(-1)).double())
    assert 0 < found.same_top.mean() < 1


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_comparison_beside_a_loss_is_at_temperature_1_and_without_gradient(temperature: float) -> None:
    student, teacher = logits(3, VOCABULARY).requires_grad_(), logits(3, VOCABULARY, seed=1)
    kind = kinds.REVERSE_KL
    values, compared = d.divergence_with_comparison(kind, student, teacher, VOCABULARY, temperature=temperature)
    assert torch.equal(values, d.reverse_kl(student, teacher, VOCABULARY, temperature=temperature))
    assert all(map(torch.equal, compared, d.compare(student, teacher, VOCABULARY)))
    assert values.requires_grad and not any(each.requires_grad for each in compared)


def test_of_equal_logits_the_first_counts() -> None:
    rows = torch.tensor([[1.0, 3, 3, 3, 0, 3], [2, 2, 2, 2, 2, 2], [5, 1, 1, 4, 1, 1]])
    chosen = d.top_k(rows, 3, 6)
    assert chosen.ids.tolist() == [[1, 2, 3], [0, 1, 2], [0, 3, 1]]
    assert d.compare(rows, rows.flip(0), 6).same_top.tolist() == [0, 1, 0]
    assert d.compare(rows, torch.eye(6)[:3], 6).same_top.tolist() == [0, 1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    student, teacher = (logits(6, 200, seed=seed, scale=6).to(dtype) for seed in (0, 1))
    for name in FORMULAS:
        value, gradient = with_gradient(named(name), student, teacher, 200)
        wanted, slope = with_gradient(named(name), student.double(), teacher.double(), 200)
        assert value.dtype is torch.float32 and gradient.dtype is dtype
        assert torch.allclose(value.double(), wanted, rtol=1e-5, atol=1e-6)
        assert torch.allclose(gradient.double(), slope, rtol=1e-5 if dtype is torch.float32 else 8e-3, atol=1e-6)


def test_equal_models_have_no_divergence_and_logits_stay_as_they_are() -> None:
    student = logits(4, VOCABULARY, scale=30).float()
    before = student.clone()
    for name in FORMULAS:
        value, gradient = with_gradient(named(name), student, student, VOCABULARY)
        if name != "entropy":
            assert value.abs().max() < 1e-6 and gradient.abs().max() < 1e-6
    assert torch.equal(student, before)


def test_parts_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = logits(7, 3, VOCABULARY), logits(7, 3, VOCABULARY, seed=1)
    results = []
    for size in (1 << 20, 3 * VOCABULARY + 1):
        monkeypatch.setattr(vocabulary, "PART", size)
        chosen = d.top_k(teacher, 3, VOCABULARY)
        of_size = [*chosen, *with_gradient(d.top_k_forward_kl, student, chosen, VOCABULARY)]
        of_size += d.compare(student, teacher, VOCABULARY)
        for name in FORMULAS:
            of_size += with_gradient(named(name), student, teacher, VOCABULARY)
        results.append(of_size)
    assert all(torch.allclose(one, other, rtol=1e-12) for one, other in zip(*results))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: d.jsd(z, z, 0.0, 5), "beta: 0 is not between 0 and 1"),
        (lambda z: d.jsd(z, z, 1.0, 5), "beta: 1 is not between"),
        (lambda z: d.skew_forward_kl(z, z, 1.0, 5), "skew: 1 is not from 0 to below 1"),
        (lambda z: d.forward_kl(z, z[:, :4], 4), r"student's logits are \[2, 5\], the teacher's \[2, 4\]"),
        (lambda z: d.forward_kl(z, z, 6), "1 x 5 columns cannot hold a vocabulary of 6"),
        (lambda z: d.forward_kl(z, z, 5, temperature=0.0), "temperature: 0.0 is not a positive number"),
        (lambda z: d.top_k(z, 6, 5), "k: 6 is not from 1"),
    ],
)
def test_refused(call: Function, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 5))
