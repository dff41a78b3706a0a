import math

import pytest

from megatron_ipt.stages import readable


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (64, "64"), (9_999, "9,999"), (12_345, "12.3K"), (40_000, "40K"), (1_234_567, "1.23M"),
        (999_999, "1M"), (999_960_000, "1B"), (250e9, "250B"), (1.5e15, "1,500T"), (21.69, "21.69"), (None, "–"),
    ],
)  # fmt: skip
def test_compact(value, text):
    assert readable.compact(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (3.0769, "3.077"), (52.67, "52.67"), (12345.6, "12,346"), (2.1e-6, "2.1 × 10⁻⁶"), (1e-5, "10⁻⁵"),
        (0.0003, "0.0003"), (3.5e8, "3.5 × 10⁸"), (-0.5, "-0.5000"), (math.nan, "–"), (math.inf, "–"),
    ],
)  # fmt: skip
def test_number(value, text):
    assert readable.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"), (0.04, "< 0.1 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"),
        (59.6, "1 min 00 s"), (185, "3 min 05 s"),
        (3 * 3600 + 59.7 * 60, "3 h 59 min"), (86_400 * 3 + 3600 * 4, "3 d 04 h"),
    ],
)  # fmt: skip
def test_time(seconds, text):
    assert readable.time(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0%"), (1, "100%"), (0.4237, "42.4%"), (None, "–"),
        (0.0001, "< 0.1%"), (0.000499, "< 0.1%"), (0.0005, "0.1%"), (0.003, "0.3%"),
        (0.997, "99.7%"), (0.9994, "99.9%"), (0.9995, "> 99.9%"), (0.9999, "> 99.9%"),
    ],
)  # fmt: skip
def test_percent(share, text):
    assert readable.percent(share) == text


@pytest.mark.parametrize(
    ("size", "text"), [(12, "12 bytes"), (61_250, "61.2 kB"), (1_234_567, "1.23 MB"), (999_999, "1 MB")]
)
def test_size(size, text):
    assert readable.size(size) == text


@pytest.mark.parametrize(("value", "text"), [(0.0015, "0.0015"), (4.0, "4"), (2.5, "2.5"), (20_000, "20K"), (0.0, "0")])
def test_ticks_are_short_and_lose_nothing(value, text):
    assert readable.tick(value) == text


def test_plural():
    assert readable.plural(1, "file") == "1 file"
    assert readable.plural(1200, "entry", "entries") == "1,200 entries"
