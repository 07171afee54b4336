"""Mutation: what is changed, where, and that it is only that."""

import ast
import inspect
import textwrap
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp.data.mutation import Mutant, mutants

CODE = '''def f(xs, k):
    """Say "x < k"."""
    out = []
    for x in xs[:k]:
        if x > 3 and not x % 2 == 0:
            out.append(min(x, k) - 1)
    total = sum(out)  # a note
    return total if total else -k
'''


def changed(code: str, operator: str, **options: object) -> set[tuple[str, ...]]:
    """The changed texts of one kind of fault."""
    found = mutants(code, **options)  # type: ignore[arg-type]
    return {
        tuple(m.code[start:stop] for start, stop in m.spans)
        for m in found
        if m.operator == operator
    }


@pytest.mark.parametrize(
    ("code", "operator", "expected"),
    [
        ("y = a == b", "comparison", {("!=",)}),
        ("y = a  not   in b", "comparison", {("in",)}),
        ("y = (a) is not (b)", "comparison", {("is",)}),
        ("y = a < b >= c", "boundary", {("<=",), (">",)}),
        ("y = (a + b) # + c\n", "arithmetic", {("-",)}),
        ("y = (a  # + b\n  // c)", "arithmetic", {("%",)}),
        ("y += 2", "arithmetic", {("-=",)}),
        ("y = -a", "arithmetic", {("a",)}),
        ("y = 3", "constant", {("2",), ("4",)}),
        ("y = 0", "constant", {("1",)}),
        ('y = "aei"', "constant", {('"ae"',), ('"aej"',)}),
        ("y = a and b", "boolean", {("or",)}),
        ("y = not(a)", "boolean", {("(",)}),
        ("y = True", "boolean", {("False",)}),
        ("if a: pass", "boolean", {("not ",)}),
        ("y = z[a:]", "off_by_one", {(" + 1",), (" - 1",)}),
        ("y = range(n)", "off_by_one", {(" + 1",), (" - 1",), ("1, ",)}),
        ("y = g(a, b)", "swap", {("b", "a")}),
        ("y = a - (b)", "swap", {("b", "a")}),
        ("y = a if b else c", "swap", {("c", "a")}),
        ("y = z.lower()", "wrong_call", {("upper",), ("swapcase",)}),
        ("y = max(z)", "wrong_call", {("min",), ("len",)}),
        ("a = 1\nb = 2\nc = a", "wrong_variable", {("b",)}),
        ("a = 1\nb = 2\nc = 3", "dropped_statement", {("b",), ("c",), ("",)}),
        ("y = f'{a + 1}'", "arithmetic", set()),
        ("y = 2.5", "constant", {("2.6",)}),
        ("y = 1e9", "constant", set()),
        ("y = z[a - 1]", "constant", {("2",)}),
        ("y = range(n - 1)\n", "off_by_one", {(")",), ("1, ",)}),
        ("y = n - 1\n", "off_by_one", {("\n",)}),
        ("y = n - 1", "off_by_one", {("",)}),
        ("y = (n) - 1", "off_by_one", set()),
        ("def f(a, b):\n    return a, b", "swap", {("b", "a")}),
        ("for x in y:\n    break", "loop_control", {("continue",)}),
        ("for x in y:\n    continue", "loop_control", {("break",)}),
    ],
)
def test_each_operator_changes_what_it_should(
    code: str, operator: str, expected: set[tuple[str, ...]]
) -> None:
    assert changed(code, operator) == expected


def test_scopes_keep_variables_apart() -> None:
    code = "def f(a):\n    return [b for b in a]\n\ndef g(c):\n    return c\n"
    found = {m.code for m in mutants(code) if m.operator == "wrong_variable"}
    assert found == {code.replace("[b for", "[a for")}


def test_a_dropped_last_statement_leaves_no_empty_line() -> None:
    code = "def f(x):\n    y = x\n    return y"
    dropped = {m.code: m.spans for m in mutants(code) if m.operator == "dropped_statement"}
    assert dropped == {
        "def f(x):\n    return y": ((14, 20),),
        "def f(x):\n    y = x": ((19, 19),),
    }


def test_docstrings_and_comments_stay() -> None:
    for mutant in mutants(CODE):
        assert '"""Say "x < k"."""' in mutant.code
        assert "# a note" in mutant.code or mutant.operator == "dropped_statement"


def test_all_kinds_take_turns() -> None:
    every = {m.operator for m in mutants(CODE)}
    assert {*every, "loop_control"} == {
        "comparison", "boundary", "arithmetic", "constant", "boolean", "off_by_one",
        "wrong_variable", "swap", "dropped_statement", "wrong_call", "loop_control",
    }  # fmt: skip
    assert {m.operator for m in mutants(CODE, limit=len(every))} == every


def test_same_seed_same_mutants() -> None:
    assert mutants(CODE, seed=3) == mutants(CODE, seed=3)
    assert mutants(CODE, seed=3) != mutants(CODE, seed=4)
    assert mutants(CODE, seed=3, limit=5) == mutants(CODE, seed=3)[:5]
    assert mutants(CODE, limit=0) == []


def test_the_region_is_all_that_changes() -> None:
    start, stop = CODE.index("for x"), CODE.index("total =")
    for mutant in mutants(CODE, region=(start, stop)):
        grown = len(mutant.code) - len(CODE)
        assert mutant.code[:start] == CODE[:start]
        assert mutant.code[stop + grown :] == CODE[stop:]
        assert all(
            start <= low < high <= stop + grown or low == high == stop + grown
            for low, high in mutant.spans
        )


def test_broken_code_is_a_syntax_error() -> None:
    with pytest.raises(SyntaxError):
        mutants("def f(:\n")
    with pytest.raises(SyntaxError):
        mutants("x = 1\0")


def test_code_too_deep_to_walk_is_a_syntax_error() -> None:
    with pytest.raises(SyntaxError):
        mutants("x = " + "+".join(["1"] * 3000))


def test_a_fault_is_never_shown_outside_the_region() -> None:
    header, body = 'def f(x):\n    """A note."""\n', "    return x\n"
    found = mutants(header + body, region=(len(header), len(header + body)))
    assert "dropped_statement" not in {m.operator for m in found}
    body = "    y = x\n    return y"
    found = mutants(header + body, region=(len(header), len(header + body)))
    assert "dropped_statement" in {m.operator for m in found}
    assert all(start >= len(header) for m in found for start, _ in m.spans)


def test_columns_are_characters_not_bytes() -> None:
    code = 's = "äöü€𝄞"; y = s + "é" == "é"\n'
    assert ("!=",) in changed(code, "comparison")
    assert ("-",) in changed(code, "arithmetic")
    crlf = "a = 1\r\nif a < 2:\r\n    b = '\x0c'\r\n    c = a\r\n"
    assert {m.code for m in mutants(crlf) if m.operator == "boundary"} == {crlf.replace("<", "<=")}


def check(code: str, mutant: Mutant) -> None:
    assert mutant.code != code
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ast.parse(mutant.code)
    assert mutant.spans
    for start, stop in mutant.spans:
        assert 0 <= start < stop <= len(mutant.code) or start == stop == len(mutant.code)
    first = next(
        (i for i, (a, b) in enumerate(zip(code, mutant.code, strict=False)) if a != b),
        min(len(code), len(mutant.code)),
    )
    if mutant.operator == "dropped_statement":
        assert len(mutant.code) < len(code)
    else:
        last = mutant.spans[-1][1]
        assert not mutant.code[first : mutant.spans[0][0]].strip()  # after what was removed
        assert first <= last
        assert code.endswith(mutant.code[last:])


def test_mutants_of_real_code_parse_differ_and_know_their_place() -> None:
    code = inspect.getsource(textwrap.TextWrapper)
    found = mutants(code, limit=80)
    assert len(found) == len({m.code for m in found}) == 80
    for mutant in found:
        check(code, mutant)


OPERATORS = ["+", "-", "*", "//", "%", "<", "<=", "==", "in", "is", "and", "or"]
NAMES = st.sampled_from(["a", "b", "é", "total"])
EXPRESSIONS = st.recursive(
    NAMES | st.integers(0, 30).map(str) | st.sampled_from(['"ü€"', "'ab'", "True", "b''", "1.5"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(OPERATORS), inner).map(
            lambda t: f"({t[0]}) {t[1]}\t({t[2]})"
        ),
        st.tuples(inner, inner, inner).map(lambda t: f"({t[0]} if {t[1]} else {t[2]})"),
        st.tuples(inner, inner).map(lambda t: f"max({t[0]}, {t[1]})"),
        st.tuples(NAMES, inner, inner).map(lambda t: f"[{t[1]} for {t[0]} in {t[2]} if {t[0]}]"),
        st.tuples(inner, inner).map(lambda t: f"({t[0]})[{t[1]}:]"),
        inner.map(lambda e: f"(not {e})"),
        inner.map(lambda e: f"(lambda a: -{e})"),
    ),
    max_leaves=8,
)
STATEMENTS = st.lists(
    st.tuples(NAMES, EXPRESSIONS, st.sampled_from(["{} = {}", "{} += {}", "if {}: {}"])).map(
        lambda t: t[2].format(t[0], t[1])
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(STATEMENTS, st.sampled_from(["\n", "\r\n"]), st.integers(0, 5))
def test_mutants_always_parse_and_differ(lines: list[str], line_end: str, seed: int) -> None:
    code = line_end.join(lines)
    for mutant in mutants(code, seed=seed, limit=20):
        check(code, mutant)
