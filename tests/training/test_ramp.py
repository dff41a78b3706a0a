from __future__ import annotations

import pytest

from megatron_ipt.training.loop.batch_ramp import BatchRamp

RAMP = BatchRamp(full=8, start=2, increment=2, samples=24)


def test_size_grows_by_equal_parts_of_the_samples() -> None:
    assert [RAMP.size_at(consumed) for consumed in (0, 7, 8, 15, 16, 23, 24, 25, 1000)] == [2, 2, 4, 4, 6, 6, 8, 8, 8]
    assert RAMP.sizes() == [2, 4, 6, 8]


def test_steps_and_samples_are_each_others_inverse() -> None:
    # 2, 2, 2, 2, 4, 4, 6, 6, then 8 each.
    assert [RAMP.samples_after(steps) for steps in (0, 1, 4, 6, 8, 9, 11)] == [0, 2, 8, 16, 28, 36, 52]
    assert RAMP.steps_for(28) == (8, 0)
    assert RAMP.steps_for(35) == (8, 7)
    assert RAMP.steps_for(10) == (4, 2)


def test_constant_size() -> None:
    ramp = BatchRamp.constant(16)
    assert (ramp.size_at(0), ramp.samples_after(10), ramp.steps_for(100), ramp.sizes()) == (16, 160, (6, 4), [16])


@pytest.mark.parametrize(("full", "start", "increment", "samples"), [(8, 2, 2, 24), (64, 16, 16, 1000), (12, 4, 4, 7)])
def test_agrees_with_megatron_core(full: int, start: int, increment: int, samples: int) -> None:
    calculator = pytest.importorskip("megatron.core.num_microbatches_calculator")
    theirs = calculator.RampupBatchsizeNumMicroBatchesCalculator(full, 1, 1, False, 0, start, increment, samples)
    ours = BatchRamp(full, start, increment, samples)
    for consumed in range(0, 2 * samples):
        theirs.update(consumed, False)
        assert ours.size_at(consumed) == theirs.current_global_batch_size
