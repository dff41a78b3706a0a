from __future__ import annotations

from hypothesis import given, strategies as st

from megatron_ipt.seeding import derive, generator, unit_interval


def test_values_never_change():
    # Output of runs made with other releases depends on these.
    assert derive(1, "split", "doc:1") == 0x4CF50EA5234E1272
    assert generator(7, "a").random() == generator(7, "a").random()


@given(st.text(), st.text())
def test_parts_do_not_run_together(left, right):
    if right:
        assert derive(0, left, right) != derive(0, left + right)


def test_draws_are_uniform():
    draws = [unit_interval(3, "x", number) for number in range(10_000)]
    for tenth in range(10):
        share = sum(tenth <= 10 * draw < tenth + 1 for draw in draws) / len(draws)
        # Five standard deviations of a binomial share.
        assert abs(share - 0.1) < 5 * (0.1 * 0.9 / len(draws)) ** 0.5
