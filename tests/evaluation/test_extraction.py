"""The code in completions as models really write them."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.evaluation.extraction import Extracted, cut_at_stop, extract, fenced_block

ABOVE = "import math\n\ndef helper(x):\n    return x\n\n"
BEFORE = ABOVE + 'def area(r):\n    """The area."""\n'
STOP = ("\ndef", "\nprint")
BODY = "    return math.pi * r * r\n"
WHOLE = f"def area(r):\n{BODY}"


def found(rule: str, text: str, before: str = BEFORE, *, whole: bool = False) -> tuple[str, str]:
    result = extract(rule, before, text, STOP, whole=whole)  # type: ignore[arg-type]
    return result.before, result.code


@pytest.mark.parametrize("rule", ["raw", "code", "cut"])
def test_a_plain_completion_stays_as_it_is(rule: str) -> None:
    assert found(rule, BODY) == (BEFORE, BODY)
    assert found(rule, "") == (BEFORE, "")
    assert found(rule, WHOLE, before="") == ("", WHOLE)


@pytest.mark.parametrize(
    "text",
    [
        f"```python\n{WHOLE}```",
        f"Here is the function:\n\n```python\n{WHOLE}```\n\nIt works as follows.\n",
        f"```\n{WHOLE}```\n",
        f"~~~ python title=x\n{WHOLE}~~~\n",
        f"  ```py\n{WHOLE}  ```\n",
        f"```python\n{WHOLE}",  # cut short by the bound on tokens
        f"First:\n```bash\npip install x\n```\nthen\n```python\n{WHOLE}```\n",
        f"```python\nprint(1)\n```\n```python\n{WHOLE}```\n",
        f"````python\n{WHOLE}````\n",
        "1. As follows:\n   ```python\n" + textwrap.indent(WHOLE, "   ") + "   ```\n2. Done.\n",
        f"```python\r\n{WHOLE}```\r\n".replace("\r", ""),
    ],
)
@pytest.mark.parametrize("rule", ["code", "cut", "fenced"])
def test_the_block_between_fences_is_the_code(rule: str, text: str) -> None:
    assert found(rule, text) == (ABOVE, WHOLE)
    assert found("raw", text) == (BEFORE, text)


@pytest.mark.parametrize(
    "text", [f"{BODY}```", f"{BODY}```\n\nThis is:\n```\narea(1)\n```\n", f"```python\n{BODY}```"]
)
def test_a_body_keeps_what_stands_before_it(text: str) -> None:
    assert found("code", text) == (BEFORE, BODY)


def test_a_repeated_beginning_takes_the_place_of_the_first() -> None:
    assert found("code", WHOLE) == (ABOVE, WHOLE)
    assert found("code", BEFORE + BODY) == (ABOVE, BEFORE + BODY)
    asynchronous = f"async def area(r):\n{BODY}"
    assert found("code", asynchronous) == (ABOVE, asynchronous)
    # Another function is none, and one that comes after the body is the next text of the model.
    assert found("code", f"def other():\n{BODY}")[0] == BEFORE
    assert found("code", f"{BODY}\n{WHOLE}") == (BEFORE, f"{BODY}\n{WHOLE}")


def test_cut_ends_at_a_stop_string_after_the_function_began() -> None:
    assert found("cut", f"{BODY}\ndef more():\n    pass\n") == (BEFORE, BODY)
    assert found("cut", f"{WHOLE}\nprint(area(1))\n") == (ABOVE, WHOLE)
    assert found("cut", f"x = 1\n\n{WHOLE}\nprint(1)") == (ABOVE, f"x = 1\n\n{WHOLE}")
    # Inside of fences these say where the code ends.
    more = f"{WHOLE}\ndef more():\n    pass\n"
    assert found("cut", f"```python\n{more}```") == (ABOVE, more)
    assert found("code", f"{BODY}\nprint(1)") == (BEFORE, f"{BODY}\nprint(1)")


def test_fenced_takes_nothing_else() -> None:
    assert found("fenced", BODY) == (BEFORE, "")


def test_a_solution_needs_nothing_before_it() -> None:
    assert found("raw", WHOLE, whole=True) == ("", WHOLE)
    assert found("code", f"```\n{WHOLE}```", whole=True) == ("", WHOLE)


@pytest.mark.parametrize("mark", ["````", "```"])
def test_fences_inside_of_the_code_do_not_end_it(mark: str) -> None:
    inner = "```" if len(mark) > 3 else "    ```"
    code = f'{WHOLE}    """\n{inner}\n    >>> area(1)\n{inner}\n    """\n'
    assert found("code", f"{mark}python\n{code}{mark}\nThat is all.\n") == (ABOVE, code)


def test_ever_so_many_fences_take_no_longer_each() -> None:
    """A completion of megabytes ends; with a list that is emptied from its front half a minute."""
    assert fenced_block("```\n" * 300_000) == ""
    assert fenced_block("```python\n" * 100_000, "f").count("python") == 99_999


def test_fences_within_a_line_are_none() -> None:
    assert fenced_block("x = '```'\ny = 1  # ``` here\n") is None
    assert fenced_block("```one line```") is None


@given(st.text(alphabet="`~ \ndefpython()ar:\t", max_size=80))
def test_any_text_has_an_extract(text: str) -> None:
    for rule in ("code", "cut", "fenced", "raw"):
        result = extract(rule, BEFORE, text, STOP)  # type: ignore[arg-type]
        assert isinstance(result, Extracted)
        assert "".join(result.code.split()) in "".join(text.split())
        assert result.before in (BEFORE, ABOVE)


def test_the_first_stop_string_ends() -> None:
    assert cut_at_stop("a\nprint\ndef", STOP) == "a"
    assert cut_at_stop("a", STOP) == "a"
