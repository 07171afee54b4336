from __future__ import annotations

import pytest

from wmtp.report import text
from wmtp.report.runs import Estimate
from wmtp.report.verdicts import HELD_OUT, PASS, Difference


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (12.345, "12.3"), (1234567, "1.23 M"), (3.1e13, "31 T")]
)
def test_short_number(value: float | None, shown: str) -> None:
    assert text.short_number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "–"), (9.96, "10.0 s"), (245, "4 min 05 s"), (12000, "3 h 20 min")],
)
def test_duration(seconds: float | None, shown: str) -> None:
    assert text.duration(seconds) == shown


def test_sizes_and_estimates() -> None:
    assert text.byte_size(None) == "–"
    assert text.byte_size(300 * 2**20) == "300 MiB"
    assert text.byte_size(1.5 * 2**30) == "1.50 GiB"
    assert text.estimate(None) == ("–", "")
    assert text.estimate(Estimate(-0.5)) == ("−0.500", "")
    assert text.percent(Estimate(0.5)) == ("50.0 %", "")
    assert text.percent(Estimate(0.5, 0.4, 0.6)) == ("50.0 %", "40.0 to 60.0")


def test_differences_have_signs_and_units() -> None:
    rate = Difference(PASS, "minicode", "a", "b", 0.031, -0.02, 0.08, 1, 100)
    assert text.difference(rate) == ("+3.1 pp", "−2.0 to +8.0")
    loss = Difference(HELD_OUT, None, "a", "b", -0.02, None, None, 1, None)
    assert text.difference(loss) == ("−0.020", "")
    assert text.difference(None) == ("–", "")
