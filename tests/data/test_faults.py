"""Fault spans: exact places, properties, planted faults and recorded fault lines."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp.data.faults import fault_spans
from wmtp.data.mutation import mutants


def marked(wrong: str, right: str) -> list[str]:
    return [wrong[start:stop] for start, stop in fault_spans(wrong, right)]


@pytest.mark.parametrize(
    ("wrong", "right", "expected"),
    [
        ("return a < b", "return a <= b", ["<"]),
        ("return f(b, a)", "return f(a, b)", ["b, a"]),
        ("x = left  +  1", "x = 2 * right", ["left  +  1"]),
        ("x = 'a b'", "x = 'a c'", ["'a b'"]),
        # Something is missing: the next symbol, also after comments, or what follows the last one.
        ("f(x)", "f(x + 1)", [")"]),
        ("x = y", "x = y + 1", [""]),
        ("x = y\n", "x = y + 1\n", ["\n"]),
        ("x = y\n", "x = y\nz = 2\n", [""]),
        ("x = y  # done\n", "x = y + 1", ["\n"]),
        ("x = z", "x = y\nreturn x", ["z", ""]),
        ("if (a) b", "if (a) b;", [""]),
        ("x = y\n\n# done\nz = 'text'", "x = y + 1\nz = 'text'", ["z"]),
        ("a = 1\nc = 3", "a = 1\nb = 2\nc = 3", ["c"]),
        ("x = f(1)", "x = f(1, 2)  # two", [")"]),
        # Something is there once too often: the second of the two.
        ("x = n + 1 + 1", "x = n + 1", ["+ 1"]),
        ("x += 1\nx += 1\ny = x", "x += 1\ny = x", ["x += 1"]),
        # Levels of indentation count, their width does not.
        ("for x in y:\n  if x: z()\nreturn 1", "for x in y:\n\tif x: z()\n\treturn 1", ["return"]),
        ("if a:\n    b\n    c\n", "if a:\n    b\nc\n", ["c"]),
        ("if a: b", "if a:\n    b", ["b"]),
        # What is no Python has words.
        ("int x = 1;", "int x = 2;", ["1"]),
        ("if (a > b) { swap(a, b) }", "if (a  > b) { swap(a, b); }", ["}"]),
        ("print 'x', y", "print 'x', z'", ["y"]),
    ],
)  # fmt: skip
def test_only_what_differs_is_marked(wrong: str, right: str, expected: list[str]) -> None:
    assert marked(wrong, right) == expected


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("", "x = 1"),
        ("\n  \n", "x"),
        ("# nothing\n", "x"),
        ("x=1 # one\n\n\ny  = (2,\n 3)", "x = 1\n# two\ny = (2, 3)\n"),
        ("if x:\n  y()\n", "if x:\r\n    y()  # why\r\n\r\n"),
    ],
)
def test_nothing_to_mark(wrong: str, right: str) -> None:
    assert fault_spans(wrong, right) == ()


PIECES = [
    "x",
    "é€",
    "12",
    "+",
    "==",
    "(",
    ")",
    "[",
    "]",
    ":",
    "'a'",
    '"',
    "#",
    "\\",
    "$",
    "def",
    "if",
]
TEXT = st.text() | st.lists(
    st.sampled_from([*PIECES, " ", " ", "\n", "\n", "\r\n", "\t", "    ", "\f"]), max_size=30
).map("".join)


@settings(max_examples=300, deadline=None)
@given(TEXT, TEXT)
def test_spans_of_any_texts_lie_inside_in_order_and_apart(wrong: str, right: str) -> None:
    assert fault_spans(wrong, wrong) == ()
    spans = fault_spans(wrong, right)
    last = 0
    for start, stop in spans:
        assert last <= start <= stop <= len(wrong)
        assert start < stop or stop == len(wrong)
        shown = wrong[start:stop]
        assert shown == shown.strip() or stop == len(wrong)
        last = stop


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["if a:\n    b = 1", "while x:\n\ty()", "c = (1, 2)", "d()"])))
def test_comments_blanks_and_line_ends_do_not_count(statements: list[str]) -> None:
    plain = "\n".join(statements)
    loose = "# first\n" + "\n\n".join(s.replace(" =", "   =") + "  # note" for s in statements)
    assert fault_spans(plain, loose.replace("    b", " b").replace("\n", "\r\n")) == ()
    assert fault_spans(loose, plain) == ()


def test_planted_faults_of_real_code_are_found(shared_data: Path) -> None:
    lines = (shared_data / "mbpp" / "mbpp.jsonl").read_text(encoding="utf-8").splitlines()
    found, apart = 0, []
    for line in lines[::4]:
        code = json.loads(line)["code"].replace("\r\n", "\n")
        for mutant in mutants(code, limit=6):
            found += 1
            spans = fault_spans(mutant.code, code)
            pairs = [(a, b) for a in spans for b in mutant.spans]
            if not any(a == b or (a[0] < b[1] and b[0] < a[1]) for a, b in pairs):
                apart.append((mutant.operator, spans, mutant.spans))
    assert found == 1404
    # `is not None` to `is None`: planted is `is`; what is missing stood before `None`. The other original
    # has a lone carriage return and is no Python, so what is missing may stand before the last line end.
    assert apart == [
        ("comparison", ((90, 94),), ((87, 89),)),
        ("dropped_statement", ((68, 69),), ((69, 69),)),
    ]
