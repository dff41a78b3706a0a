"""Numbers as people read them. Pure functions from values to text; a missing value is an en dash."""

from __future__ import annotations

import math

MISSING = "–"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_COMPACT = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def exact(value: float | None) -> str:
    """``1234567`` -> ``1,234,567``."""
    return MISSING if _is_missing(value) else f"{value:,.0f}"


def compact(value: float | None) -> str:
    """``1234567`` -> ``1.23M``. Below 10,000 nothing is rounded away: ``9876`` -> ``9,876``."""
    if value is None or _is_missing(value):
        return MISSING
    if abs(value) < 10_000:
        return number(value) if isinstance(value, float) and not value.is_integer() else f"{value:,.0f}"
    return _scaled(value, _COMPACT, "")


def size(value: float | None) -> str:
    """Bytes, in powers of ten: ``1234567`` -> ``1.23 MB``."""
    if value is None or _is_missing(value):
        return MISSING
    return f"{value:,.0f} bytes" if abs(value) < 1000 else _scaled(value, _BYTES, " ")


def number(value: float | None, digits: int = 4) -> str:
    """Four significant digits, powers of ten for the very small and large: ``0.0000021`` -> ``2.1 × 10⁻⁶``."""
    if value is None or _is_missing(value):
        return MISSING
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        power = f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
        return power if mantissa == "1" else f"{mantissa} × {power}"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0") if abs(value) < 1e-3 else text


def tick(value: float) -> str:
    """Label of an axis: as short as it can be without losing a digit that matters."""
    if abs(value) >= 10_000:
        return compact(value)
    text = number(value, 3)
    return text.rstrip("0").rstrip(".") if "." in text and "×" not in text else text


def percent(share: float | None) -> str:
    """``0.4237`` -> ``42.4%``; what is not nothing and not all never reads as none or all."""
    if share is None or _is_missing(share):
        return MISSING
    if 0 < share < 0.0005:
        return "< 0.1%"
    if 0.9995 <= share < 1:
        return "> 99.9%"
    return "0%" if share == 0 else "100%" if share == 1 else f"{share:.1%}"


def time(seconds: float | None) -> str:
    """The two largest units: ``185`` -> ``3 min 05 s``."""
    if seconds is None or _is_missing(seconds):
        return MISSING
    if 0 < seconds < 0.05:
        return "< 0.1 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    if not minutes:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 24 else f"{hours // 24} d {hours % 24:02d} h"


def plural(count: float, noun: str, plural_noun: str = "") -> str:
    """``plural(2, "file")`` -> ``2 files``."""
    return f"{compact(count)} {noun if count == 1 else plural_noun or noun + 's'}"


def _scaled(value: float, scales: tuple[tuple[float, str], ...], gap: str) -> str:
    for index, (scale, suffix) in enumerate(scales):
        if abs(value) >= scale:
            text = f"{value / scale:.3g}"
            # 999,950 rounds to 1000 of its own unit, which is one of the next.
            if float(text) >= 1000 and index:
                scale, suffix = scales[index - 1]
                text = f"{value / scale:.3g}"
            return f"{float(text):,.15g}{gap}{suffix}"
    return f"{value:,.15g}"


def _is_missing(value: float | None) -> bool:
    return value is None or not math.isfinite(value)
