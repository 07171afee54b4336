"""The tests of HumanEval+ and MBPP+ (Liu et al. 2023, arXiv:2305.01210) as programs of their own.

Two kinds of files are published. Those of evalplus hold inputs, and what is right is what the
reference returns for them; those on the hub hold a test program that needs NumPy. Both become tests
that need the standard library alone, because the sandbox has no other.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from wmtp.data.records import field_of
from wmtp.errors import DataError

_NUMPY = re.compile(r"^import numpy as np$", re.MULTILINE)
_AGREES = "agrees(found, expected, atol)"
_AS_SETS = "set(found) == set(expected)"
_AS_TRUTHS = "truth(found) == truth(expected)"
# Where a task does not decide one answer, evalplus accepts more; by the function's name.
_ACCEPTED = {
    "humaneval": {
        "find_zero": "abs(sum(c * found**i for i, c in enumerate(given[0]))) <= atol",
    },
    "mbpp": {
        "are_equivalent": "True",
        "sum_div": f"{_AGREES} or found == 0",
        "surface_Area": f"{_AGREES} or abs(found - pyramid_surface(*given)) <= atol",
        "digit_distance_nums": f"{_AGREES} or found == digit_distance(*given)",
        "similar_elements": _AS_SETS,
        "find_char_long": _AS_SETS,
        "common_in_nested_lists": _AS_SETS,
        "extract_singly": _AS_SETS,
        "larg_nnum": _AS_SETS,
        "intersection_array": _AS_SETS,
        "find_dissimilar": _AS_SETS,
        "Diff": _AS_SETS,
        "check_str": _AS_TRUTHS,
        "text_match_three": _AS_TRUTHS,
        "text_starta_endb": _AS_TRUTHS,
    },
}


def close(found: Any, expected: Any, rtol: float = 1e-7, atol: float = 0.0) -> bool:
    """Return whether numbers, or sequences of them, are as near as `numpy.allclose` asks."""
    if isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(
            close(one, other, rtol, atol) for one, other in zip(found, expected, strict=True)
        )
    return found == expected or abs(found - expected) <= atol + rtol * abs(expected)


def agrees(found: Any, expected: Any, atol: float) -> bool:
    """Return whether an answer is the expected one; floats may differ by `atol`, by default 1e-6."""
    if found == expected:
        return True
    several = expected if isinstance(expected, (list, tuple)) and expected else [expected]
    if atol == 0 and all(isinstance(value, float) for value in several):
        atol = 1e-6
    return atol != 0 and type(found) is type(expected) and close(found, expected, atol=atol)


def truth(value: Any) -> bool:
    """Return a truth value as it is, and for anything else whether it is something."""
    return value if isinstance(value, bool) else value is not None


def pyramid_surface(base: float, height: float) -> float:
    """Return the surface of a square pyramid, with the height of its tip above the base."""
    return round(base**2 + 2 * base * ((base / 2) ** 2 + height**2) ** 0.5)


def digit_distance(first: int, second: int) -> int:
    """Return the sum of the differences of the digits in the same place."""
    width = max(len(str(first)), len(str(second)))
    pairs = zip(str(first).zfill(width), str(second).zfill(width), strict=True)
    return sum(abs(int(a) - int(b)) for a, b in pairs)


_PARTS = (close, agrees, truth, pyramid_surface, digit_distance)
_ORACLE = "\n\n".join(inspect.getsource(part) for part in _PARTS)
_NUMPY_STAND_IN = f"""from typing import Any


{inspect.getsource(close)}

class np:
    ndarray = type("ndarray", (), {{}})  # no plain value is one
    allclose = staticmethod(close)

    class testing:
        @staticmethod
        def assert_allclose(found, expected, rtol=1e-7, atol=0.0):
            assert close(found, expected, rtol, atol)
"""


def differential_tests(
    record: dict[str, Any], reference: str, inputs: list[Any], family: str, where: str
) -> str:
    """Return tests that hold the program against `reference` on all inputs.

    inputs: lists of arguments. family: "humaneval" or "mbpp", whose exceptions apply.
    """
    name = field_of(record, "entry_point", str, where)
    atol = record.get("atol")
    if not isinstance(atol, (int, float)) or not name.isidentifier():
        raise DataError(f"{where}: entry_point must be a name and atol a number.")
    judge = f"""import copy
from math import inf, nan
from typing import Any


{_ORACLE}

scope = {{}}
exec({reference!r}, scope)
reference = scope[{name!r}]
inputs = {inputs!r}
atol = {atol!r}


def check(given, found):
    expected = reference(*copy.deepcopy(given))
    assert {_ACCEPTED[family].get(name, _AGREES)}, f"{{found!r:.100}} is not {{expected!r:.100}}"
"""
    # Apart, so that the function asked for is the only one of the program's that the tests can mean:
    # that of Mbpp/126 is called `sum`.
    return f"""import builtins
judge = {{}}
builtins.exec({judge!r}, judge)
for given in judge["inputs"]:
    judge["check"](given, {name}(*judge["copy"].deepcopy(given)))
"""


def without_numpy(tests: str) -> str:
    """Return a published test program with the little of NumPy that it needs written out."""
    return _NUMPY.sub(lambda _: _NUMPY_STAND_IN, tests, count=1)


def all_inputs(record: dict[str, Any], where: str) -> list[Any]:
    """Return the inputs of a record of evalplus: those of the original tests, then the new ones."""
    base = field_of(record, "base_input", list, where)
    plus = record.get("plus_input") or []  # that of Mbpp/793 is {}
    if not isinstance(plus, list) or not all(isinstance(given, list) for given in [*base, *plus]):
        raise DataError(f"{where}: base_input and plus_input must be lists of argument lists.")
    return [*base, *plus]
