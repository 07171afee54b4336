"""Contest rules of comparison, on outputs that are right and wrong for all common reasons."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.sandbox import EXACT, Comparison, StdioProgram

CLOSE = Comparison(tolerance=1e-6)
LINES = Comparison(by_line=True)
CLOSE_LINES = Comparison(by_line=True, tolerance=1e-6)
ANY_CASE = Comparison(ignore_case=True)


@pytest.mark.parametrize(
    ("found", "expected", "rule"),
    [
        ("1 2\n3\n", "1 2 3", EXACT),
        ("1\r\n2\r\n\r\n", "1\n2\n", EXACT),
        ("\n\n  1\t2  \n", "1 2\n", EXACT),
        ("", "\n", EXACT),
        ("a \nb\n\n\n", "a\nb", LINES),
        ("a\r\nb", "a\nb\n", LINES),
        ("0.3333333", "0.333333333333", CLOSE),
        ("1000000.5", "1000000.0", CLOSE),
        ("2", "2.0000000", CLOSE),
        ("2.0000001", "2", CLOSE),
        ("1e-7", "0.0", CLOSE),
        ("-.5 +1.5E+1", "-0.5 15.0", CLOSE),
        ("x 1.0000001\ny", "x 1.0\ny\n", CLOSE_LINES),
        ("Yes no", "YES NO", ANY_CASE),
    ],
)
def test_right(found: str, expected: str, rule: Comparison) -> None:
    assert rule.difference(found, expected) is None


@pytest.mark.parametrize(
    ("found", "expected", "rule", "where"),
    [
        ("1 2 4", "1 2 3", EXACT, "word 3 is '4', expected '3'"),
        ("1 2", "1 2 3", EXACT, "word 3 is missing, expected '3'"),
        ("1 2 3 4", "1 2 3", EXACT, "word 4 is '4', expected missing"),
        ("Yes", "YES", EXACT, "word 1 is 'Yes', expected 'YES'"),
        ("12", "1 2", EXACT, "word 1 is '12', expected '1'"),
        ("0.3333333", "0.333333333333", EXACT, "word 1"),
        ("01", "1", EXACT, "word 1"),
        ("a b", "a\nb", LINES, "line 1 is 'a b', expected 'a'"),
        ("a  b", "a b", LINES, "line 1"),
        ("a\n\nb", "a\nb", LINES, "line 2 is '', expected 'b'"),
        ("0.33333", "0.333333333333", CLOSE, "word 1"),
        ("1000000007", "1000000008", CLOSE, "word 1"),  # whole numbers are exact
        ("nan", "1.0", CLOSE, "word 1"),
        ("inf", "1.0", CLOSE, "word 1"),
        ("1e999", "1.0", CLOSE, "word 1"),
        ("1_0.0", "10.0", CLOSE, "word 1"),
        ("0x1.0", "1.0", CLOSE, "word 1"),
        ("1." + "0" * 200, "1.0", CLOSE, "word 1"),
        ("x 1.0 y", "x 1.0\ny", CLOSE_LINES, "line 1"),
    ],
)
def test_wrong(found: str, expected: str, rule: Comparison, where: str) -> None:
    difference = rule.difference(found, expected)
    assert difference is not None
    assert difference.startswith(where)


@given(
    st.lists(st.text(alphabet="01.-eE+ \nab", max_size=8), max_size=6).map(" ".join),
    st.sampled_from([EXACT, CLOSE, LINES, CLOSE_LINES, ANY_CASE]),
)
def test_an_output_is_always_the_answer_to_itself(text: str, rule: Comparison) -> None:
    assert rule.difference(text, text) is None
    assert rule.difference(text + " \n\n", text) is None
    assert rule.difference(text + " more", text) is not None


def test_a_difference_is_short() -> None:
    difference = EXACT.difference("x" * 10_000, "y" * 10_000)
    assert difference is not None
    assert len(difference) < 150


def test_a_program_without_tests_is_refused() -> None:
    with pytest.raises(ValueError, match="without tests"):
        StdioProgram("", ())
