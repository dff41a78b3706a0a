"""Draws and their probabilities, held against the definitions in plain numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from megatron_ipt.errors import RecipeError

torch = pytest.importorskip("torch")

from megatron_ipt.training.rollouts.choice import Choice, choose, draw, random_numbers  # noqa: E402
from megatron_ipt.training.rollouts.groups import group_by_length  # noqa: E402

LOG_Q = torch.tensor([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]]).log()
LOG_P = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]]).log()


def at(*uniform: float) -> torch.Tensor:
    return torch.tensor(uniform, dtype=torch.float64)


@pytest.mark.parametrize(("number", "token"), [(0.0, 0), (0.49, 0), (0.51, 1), (0.79, 1), (0.81, 2), (1 - 2**-53, 2)])
def test_a_draw_inverts_the_cumulative_distribution(number: float, token: int) -> None:
    assert draw(LOG_Q.double(), at(number, number)).tolist() == [token, 1]


def test_what_has_no_probability_is_never_drawn() -> None:
    logs = torch.tensor([[0.0, 1e-30, 1.0, 0.0, 0.0]], dtype=torch.float64).log()
    for number in (0.0, 1e-40, 1e-20, 0.5, 1 - 2**-53):
        assert draw(logs, at(number)).item() in (1, 2)


def test_texts_have_streams_of_their_own() -> None:
    numbers = random_numbers([3, 5, 2**64 - 1], 6)
    assert numbers.shape == (3, 6) and numbers.dtype is torch.float64
    assert torch.equal(random_numbers([5], 4)[0], numbers[1, :4])
    assert len(set(numbers.flatten().tolist())) == 18
    many = random_numbers([11], 100_000)[0]
    assert abs(many.mean() - 0.5) < 4 * math.sqrt(1 / 12 / 100_000) and many.min() >= 0 and many.max() < 1


def test_mixtures_have_the_frequencies_and_the_log_probabilities_of_the_mixture() -> None:
    number = 50_000
    own, teacher = LOG_Q[:1].expand(number, 3), LOG_P[:1].expand(number, 3)
    found = choose(own, teacher, random_numbers([1], number)[0], Choice(1.0, 0.2))
    mixed = 0.2 * np.array([0.7, 0.2, 0.1]) + 0.8 * np.array([0.5, 0.3, 0.2])
    frequencies = np.bincount(found.ids.numpy(), minlength=3) / number
    assert np.all(np.abs(frequencies - mixed) < 4 * np.sqrt(mixed * (1 - mixed) / number))
    for token in range(3):
        logs = found.log_probabilities[found.ids == token][0].tolist()
        expected = [LOG_Q[0, token].item(), LOG_P[0, token].item(), math.log(mixed[token])]
        assert logs == pytest.approx(expected, abs=1e-6)


def test_temperature_changes_what_is_drawn_and_not_what_is_reported() -> None:
    tempered = np.array([0.5, 0.3, 0.2]) ** (1 / 0.5)
    tempered /= tempered.sum()
    found = choose(LOG_Q[:1], None, at(0.0), Choice(0.5))
    reported = found.log_probabilities[0].tolist()
    assert reported[0] == pytest.approx(math.log(0.5)) and math.isnan(reported[1])
    assert reported[2] == pytest.approx(math.log(tempered[0]))
    both = choose(LOG_Q[:1], LOG_P[:1], at(0.0), Choice(0.5, 0.5)).log_probabilities[0, 2].item()
    teacher = np.array([0.7, 0.2, 0.1]) ** 2
    assert both == pytest.approx(math.log((tempered[0] + (teacher / teacher.sum())[0]) / 2))


def test_greedy_takes_the_lowest_of_equal_ids() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0], [3.0, 3.0, 3.0, 3.0]])
    assert choose(logits, None, at(0.9, 0.9), Choice(0.0)).ids.tolist() == [1, 0]


def test_a_teacher_with_a_larger_vocabulary_is_cut() -> None:
    larger = torch.cat([LOG_P[:1], torch.tensor([[9.0]])], 1)
    cut, whole = (choose(LOG_Q[:1], logits, at(0.3), Choice(1.0, 1.0)) for logits in (larger, LOG_P[:1]))
    assert torch.equal(cut.ids, whole.ids) and torch.allclose(cut.log_probabilities, whole.log_probabilities)


def test_impossible_choices() -> None:
    with pytest.raises(RecipeError, match="temperature: expected a number of at least 0, found -1"):
        Choice(-1.0)
    with pytest.raises(RecipeError, match=r"teacher_share: expected a number from 0 to 1, found 1\.5"):
        Choice(1.0, 1.5)


def test_groups_are_of_similar_length() -> None:
    assert group_by_length([5, 9, 5, 5, 50, 47], 3) == [[4, 5], [1, 0, 2], [3]]
    assert group_by_length([100, 68, 67], 8) == [[0, 1], [2]]
    assert group_by_length([], 8) == []
