import math
import re

import pytest
from hypothesis import given, strategies as st

from megatron_ipt.report.charts import draw, thin_out
from megatron_ipt.report.stage import _asset
from megatron_ipt.stages.page import COLORS, ORANGE, Chart, Curve

FINITE = st.floats(-1e6, 1e6)


@given(st.lists(FINITE, min_size=1, max_size=500), st.integers(4, 60))
def test_thinning_keeps_ends_and_extremes_in_order(y, points):
    x = list(range(len(y)))
    thin_x, thin_y = thin_out(x, y, points)
    assert len(thin_x) <= max(points, 4)
    assert (thin_x[0], thin_x[-1]) == (0, len(y) - 1)
    assert (min(thin_y), max(thin_y)) == (min(y), max(y))
    assert thin_x == sorted(set(thin_x))
    assert [y[index] for index in thin_x] == thin_y


def test_a_single_spike_among_thousands_survives():
    y = [1.0] * 5000
    y[3211] = 40.0
    x, thinned = thin_out(range(5000), y, 100)
    assert 40.0 in thinned and x[thinned.index(40.0)] == 3211


def test_short_curves_stay_whole_and_what_is_no_number_is_left_out():
    assert thin_out([1, 2, 3], [5.0, math.nan, 4.0], 10) == ([1, 3], [5.0, 4.0])


@pytest.fixture(scope="module")
def svg():
    steps = list(range(1, 1001))
    losses = [3 + 4 * math.exp(-step / 300) for step in steps]
    curves = [Curve("training", steps, losses), Curve("unigram entropy", [1, 1000], [6.5, 6.5], ORANGE, True)]
    return draw(Chart("Loss", curves, "step", upper_label="tokens", upper_per_x=4096), 700, 300, "chart 1")


def test_colors_come_from_the_page(svg):
    assert "var(--grey)" in svg and "var(--orange)" in svg and "currentColor" in svg
    assert not re.findall(r"#[0-9a-f]{6}\b", svg)


def test_the_page_has_every_color_for_light_and_dark():
    style = _asset("style.css")
    assert [name for name in (*COLORS, "line") if style.count(f"--{name}: #") != 2] == []


def test_text_stays_text_without_a_font_of_its_own(svg):
    assert ">step</text>" in svg and ">tokens</text>" in svg
    assert ">1,000</text>" in svg and ">4M</text>" in svg
    assert "font-family" not in svg and "DejaVu" not in svg


def test_asks_for_nothing_and_carries_no_date(svg):
    assert "http" not in svg and "<metadata" not in svg and "<style" not in svg and "xlink" not in svg


def test_every_reference_inside_has_its_target(svg):
    references = set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'href="#([^"]+)"', svg))
    assert references
    assert references == set(re.findall(r' id="([^"]+)"', svg))


def test_ids_of_two_charts_differ():
    chart = Chart("Learning rate", [Curve("a", [1, 2], [1.0, 2.0])])
    ids = [set(re.findall(r' id="([^"]+)"', draw(chart, 340, 200, name))) for name in ("chart 1", "chart 2")]
    assert all(ids) and not ids[0] & ids[1]


def test_a_curve_over_decades_is_logarithmic_only_where_allowed():
    curve = Curve("grad", [1, 2, 3], [0.1, 1.0, 1000.0])
    assert ">100</text>" in draw(Chart("a", [curve], log=True), 340, 170, "a")
    assert ">100</text>" not in draw(Chart("b", [curve]), 340, 170, "b")


def test_labels_are_not_formulas():
    chart = Chart("a", [Curve("a", [1, 2], [1.0, 2.0])], "$x_1$ & more")
    assert ">$x_1$ &amp; more</text>" in draw(chart, 340, 170, "a")


@pytest.mark.parametrize("values", [[], [math.nan], [2.0], [0.0, 0.0]])
def test_draws_what_little_there_is(values):
    assert draw(Chart("few", [Curve("a", list(range(len(values))), values)], "step", log=True), 340, 170, "few")
