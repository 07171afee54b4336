"""Numbers as people read them."""

from __future__ import annotations

from wmtp.report.runs import Estimate
from wmtp.report.verdicts import PASS, Difference

MISSING = "–"
_MINUS = "\N{MINUS SIGN}"


def short_number(value: float | None) -> str:
    """Return 1234567 as "1.23 M": three significant digits and a metric prefix."""
    if value is None:
        return MISSING
    for exponent, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10**exponent:
            return f"{value / 10**exponent:.3g} {prefix}"
    return f"{value:.3g}"


def byte_size(value: float | None) -> str:
    """Return bytes in MiB or GiB."""
    if value is None:
        return MISSING
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def duration(seconds: float | None) -> str:
    """Return seconds as "12.3 s", "4 min 05 s" or "3 h 20 min"."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: float | None, digits: int = 3) -> str:
    """Return a fixed number of decimals, with a true minus sign."""
    return MISSING if value is None else f"{value:.{digits}f}".replace("-", _MINUS)


def percent(rate: Estimate | None) -> tuple[str, str]:
    """Return a rate as ("46.2 %", "39.1 to 53.4")."""
    if rate is None:
        return MISSING, ""
    if rate.low is None or rate.high is None:
        return f"{100 * rate.value:.1f} %", ""
    return f"{100 * rate.value:.1f} %", f"{100 * rate.low:.1f} to {100 * rate.high:.1f}"


def estimate(value: Estimate | None, digits: int = 3) -> tuple[str, str]:
    """Return a number and its interval as two texts; the second is empty without an interval."""
    if value is None:
        return MISSING, ""
    if value.low is None or value.high is None:
        return number(value.value, digits), ""
    return number(
        value.value, digits
    ), f"{number(value.low, digits)} to {number(value.high, digits)}"


def difference(found: Difference | None) -> tuple[str, str]:
    """Return a difference with its sign (rates in percentage points) and its interval."""
    if found is None:
        return MISSING, ""
    scale, digits, unit = (100, 1, " pp") if found.metric == PASS else (1, 3, "")

    def signed(value: float) -> str:
        return f"{scale * value:+.{digits}f}".replace("-", _MINUS)

    if found.low is None or found.high is None:
        return signed(found.value) + unit, ""
    return signed(found.value) + unit, f"{signed(found.low)} to {signed(found.high)}"
