"""Programs that try to leave something in the process that judges the next program."""

from __future__ import annotations

from typing import Any

import pytest

from wmtp.sandbox import Limits, Program, Sandbox, Verdict
from wmtp.sandbox.judge_process import JudgeProcess

from .conftest import LIMITS
from .test_forgery import FRAMES, LIES, SPEAK
from .test_integrity import CHEATS

HONEST = """
class Own(ValueError): pass
def f(x):
    if x < 0: raise Own(x)
    return x * x
def g(h, *a): return h(*a)
def each(values): return list(values)
"""
WRONG = HONEST.replace("x * x", "x + x")
# Everything that tests may hand over and take back, so that a program has all there is to reach.
TESTS = """
import copy, math
def check(f, seen=[]):
    seen.append(f(3))
    assert seen == [9], seen
    assert sorted(f(k) for k in range(3)) == [0, 1, 4]
    assert math.isclose(f(0.5), 0.25) and copy.deepcopy(f(2)) in {4, 5} and {f(1): 'a'}[1] == 'a'
    given = []
    g(given.append, 5)
    assert given == [5] and g(lambda *a: len(a), 1, 2) == 2 and g(abs, -1) == 1
    assert each(x for x in (1, 2)) == [1, 2] and each(iter([3])) == [3]
    try:
        f(-1)
    except Own as error:
        assert error.args == ('-1',)
    else:
        raise AssertionError
limit, marker = 9, object()
assert g(lambda: marker) is marker
check(f)
"""


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For every program that a judge was given, which one of that judge it was."""
    numbers: list[int] = []
    begin = JudgeProcess.begin

    def count(self: JudgeProcess, conversation: Any) -> bool:
        begun = begin(self, conversation)
        numbers.append(self.programs)
        return begun

    monkeypatch.setattr(JudgeProcess, "begin", count)
    return numbers


def judged(sandbox: Sandbox, codes: list[str], tests: str, **limits: Any) -> list[Verdict]:
    bounds = Limits(**{**LIMITS, "cpu_seconds": 1.0, **limits})
    verdicts = dict(sandbox.judge([Program(code, tests, bounds) for code in codes]))
    return [verdicts[i] for i in range(len(codes))]


def outcomes(verdicts: list[Verdict]) -> list[str]:
    return [verdict.outcome for verdict in verdicts]


# With these the conversation takes its course, so that the next program meets the same process.
LENT = """
kept = []
def f(x): return x * x
def g(h, *a):
    for arguments in ((), a, (9,) * 3, ([],), ({},), (h,), (f,), (float('nan'),), ('x' * 1000,)):
        for k in ({}, {'seen': [9]}, {'__class__': 1}):
            try:
                kept.append(h(*arguments, **k))
            except BaseException as error:
                kept.append(error)
    return h(*a)
def each(values):
    for name in ('gi_frame', '__class__', '__next__', 'send', 'close', 'throw'):
        try:
            kept.append(getattr(values, name)())
        except BaseException as error:
            kept.append(error)
    return [values, *values]
"""
QUIET = {
    "lies": f"{LIES}\ndef f(x): return Lie()\ng = each = f",
    "an object for everything": f"{LIES}\nf = g = each = Own = limit = marker = seen = Lie()",
    "calls of what is lent": LENT,
    "the function of the tests back": "def f(x): return f\ndef g(h, *a): return h\neach = g",
    "a generator without end": "def f(x):\n    while True: yield x",
    "an iterator that is kept": "def f(x):\n    yield from (9, 9)\ng = each = f",
    "classes of exceptions": "class Own(Exception): pass\nkinds = [type(f'E{i}', (Own,), {}) "
    "for i in range(50)]\ndef f(x): raise kinds[x]",
    "a class that stands for all": "Own = BaseException\ndef f(x): raise AssertionError(9)",
    "exceptions with a hold on each other": "def f(x):\n    try: raise KeyError\n"
    "    except KeyError as error: raise ValueError([error]) from error",
    "names of modules": "import copy, math, random as limit\ncopy.deepcopy = math.isclose = "
    "lambda *a, **k: 4\nf = g = each = math",
    "mutable values": "shared = [9]\ndef f(x): shared.append(shared); return shared[:1]\n"
    "class L(list): pass\ndef g(h, *a): return L([h])\ndef each(v): return {1: L(v)}",
    "odd values": "from decimal import *\nfrom fractions import Fraction\ndef f(x): return [Decimal("
    "'sNaN'), Decimal('1E+999999'), Fraction(1, 3), float('nan'), 10 ** 5000, type, ..., b'']",
    "values of its own kinds": "from enum import IntEnum\nfrom collections import namedtuple\n"
    "E = IntEnum('E', 'A B')\nP = namedtuple('P', 'a b')\ndef f(x): return P(E.A, E)\ng = each = f",
    "recursion": "def f(x): return g(f, x)\ndef g(h, *a): return h(*a)\n",
    "nothing at all": "",
    "an exception at the start": "raise ValueError('x' * 5000)",
    "its own messages": f"{SPEAK}\ndefine('f', 'g', 'each', 'Own')\nalways({{'mine': 0}})",
    "names that were not asked for": f"""{SPEAK}
define('f', 'g', 'each', 'sorted', 'math', 'copy', 'check', 'limit', '__builtins__', '__name__')
always(9)""",
    "requests in place of answers": f"""{SPEAK}
define('f')
for what in ({{'yours': 0}}, {{'mine': 0}}, 5):
    for do in ('call', 'next', 'getattr', 'lookup', 'setattr', '__class__'):
        get(), put({{'do': do, 'args': [[what, 'x', 9], {{'dict': [[], []]}}]}})
put({{'value': 9}})
always(9)""",
}


@pytest.mark.parametrize("name", QUIET)
def test_what_a_program_does_does_not_reach_the_next(
    sandbox: Sandbox, used: list[int], name: str
) -> None:
    sandbox.close()
    codes = [HONEST, WRONG, QUIET[name], HONEST, WRONG, QUIET[name], WRONG, HONEST]
    first, second, attack, *rest = judged(sandbox, codes, TESTS)
    assert outcomes([first, second, attack]) == ["passed", "failed", "failed"]
    assert outcomes(rest) == ["passed", *["failed"] * 3, "passed"]
    assert [v.detail for v in rest] == ["", second.detail, attack.detail, second.detail, ""]
    assert used == list(range(1, 9))  # all in one process, or this would show nothing


LOUD = {
    **CHEATS,
    **{
        f"frame {i}": f"TEXT = 'x' * 9\n{SPEAK}\ndefine('f')\nget()\nput({frame})\nalways(9)"
        for i, frame in enumerate(FRAMES)
    },
    "much memory": "def f(x): return 'x' * (20 << 20)",
    "much memory at once": "def f(x): return [0] * 10 ** 6",
    "output": "print('x' * 200_000)\ndef f(x): return 9",
    "dead in a call": "import ctypes\ndef f(x): ctypes.string_at(0)",
    "out of memory": "def f(x): raise MemoryError",
}


@pytest.mark.parametrize("name", LOUD)
def test_an_attack_does_not_reach_the_next_program(sandbox: Sandbox, name: str) -> None:
    [before, attack, right, wrong] = judged(
        sandbox, [WRONG, LOUD[name], HONEST, WRONG], TESTS, wall_seconds=1.0
    )
    assert attack.outcome != "passed"
    assert right.outcome == "passed", right
    assert (wrong.outcome, wrong.detail) == (before.outcome, before.detail)


# ---- what tests leave behind --------------------------------------------------------------------

# Tests that change something in their process, and would see it again.
CHANGING = {
    "a module": "import math\nassert math.pi > 3\nmath.pi = f(0)",
    "random numbers": "import random\nassert random.getstate()[2] is None\nrandom.gauss(0, 1)",
    "a module of the program": "assert random.getstate()[2] is None\nrandom.gauss(0, 1)",
    "decimal numbers": "import decimal\nassert decimal.getcontext().prec == 28\n"
    "decimal.getcontext().prec = 5",
    "recursion": "import sys\nassert sys.getrecursionlimit() == 1000\nsys.setrecursionlimit(2000)",
    "environment": "import os\nassert 'LEFT' not in os.environ\nos.environ['LEFT'] = 'x'",
    "a module by its other name": "import fractions\nassert not hasattr(fractions.sys, 'left')\n"
    "fractions.sys.left = 1",
    "built-in names": "import builtins\nassert not hasattr(builtins, 'left')\nbuiltins.left = f",
    "built-in names in a frame": "g = (i for i in ())\nnames = g.gi_frame.f_builtins\n"
    "assert 'left' not in names\nnames['left'] = 1",
    "a function of the library": "from copy import deepcopy\nassert not vars(deepcopy)\n"
    "deepcopy.left = 1",
    "warnings": "import warnings\nassert not any(w[0] == 'ignore' and w[1] for w in warnings.filters)"
    "\nwarnings.filterwarnings('ignore', 'x')",
    "a table": "import copy\nassert len(copy.dispatch_table) + f(0) < 9\n"
    "copy.dispatch_table.update(dict.fromkeys(range(99)))",
    "a file": "assert not open('/tmp/x', 'a').tell()\nopen('/tmp/x', 'w').write('x')",
    "code in a text": "exec('import math\\nassert math.e > 2\\nmath.e = 1')",
    "an attribute in a pattern": "import copy\nmatch copy.deepcopy:\n    case object(__globals__=g):"
    " pass\nassert 'left' not in g\ng['left'] = 1",
    "an attribute in a text": "import copy, string\ng, _ = string.Formatter().get_field("
    "'0.__globals__', [copy.deepcopy], {})\nassert 'left' not in g\ng['left'] = 1",
    "code in an annotation": 'import math, typing\ndef g(x: \'__import__("math").__dict__.pop('
    '"tau")\'): pass\nassert math.tau > 6\ntyping.get_type_hints(g)',
    "code of the library": "import copy, functools\nassert copy.copy(f(0)) == 0\n"
    "functools.wraps(lambda x: 4, ('__code__',), ())(copy.copy)",
    "a name from a star": "from copy import *\nfrom functools import *\nassert copy(f(0)) == 0\n"
    "wraps(lambda x: 4, ('__code__',), ())(copy)",
    "a class without its statement": "import copy, math\nC = type('C', (), {'__reduce_ex__': lambda s, p: "
    "(lambda: math, (), {'pi': 4})})\nassert math.pi < 4\ncopy.copy(C())",
    "a list of the library": "import typing\nassert 'left' not in typing.EXCLUDED_ATTRIBUTES\n"
    "typing.EXCLUDED_ATTRIBUTES.append('left')",
    "an abstract class": "from collections.abc import Sized\nassert not isinstance(f(0), Sized)\n"
    "Sized.register(int)",
}


@pytest.mark.parametrize("name", CHANGING)
def test_tests_that_change_their_process_have_one_for_every_program(
    sandbox: Sandbox, used: list[int], name: str
) -> None:
    code = "import random\ndef f(x): return 0"
    assert outcomes(judged(sandbox, [code] * 3, CHANGING[name])) == ["passed"] * 3
    assert used == [1, 1, 1]


def test_an_object_that_is_left_ends_the_process(sandbox: Sandbox, used: list[int]) -> None:
    tests = "from typing import overload\ndef g(): return f(2)\noverload(g)\nassert g() == 4"
    assert outcomes(judged(sandbox, [HONEST] * 3, tests)) == ["passed"] * 3
    assert used == [1, 1, 1]


def test_memory_that_was_used_ends_the_process(sandbox: Sandbox, used: list[int]) -> None:
    tests = "assert len(f(2)) > 1"
    code = "def f(x): return 'x' * (10 << 20)"
    assert outcomes(judged(sandbox, [code, code, "f = str"], tests)) == ["passed"] * 2 + ["failed"]
    assert used == [1, 1, 1]


# ---- limits are those of one program ------------------------------------------------------------


def test_cpu_time_is_counted_for_each_program(sandbox: Sandbox, used: list[int]) -> None:
    """Together they use more than the judge's limit for one, which is 2.2 s."""
    tests = "for _ in range(2):\n    for i in range(4_000_000):\n        pass\nassert f(1) == 1"
    verdicts = judged(sandbox, [HONEST] * 14, tests, cpu_seconds=0.2, wall_seconds=20.0)
    assert outcomes(verdicts) == ["passed"] * 14
    assert max(used) > 1


def test_wall_time_is_counted_for_each_program(sandbox: Sandbox, used: list[int]) -> None:
    code = "import time\ndef f(x): time.sleep(0.4); return x"
    verdicts = judged(sandbox, [code] * 8, "assert f(1) == 1", wall_seconds=1.0)
    assert outcomes(verdicts) == ["passed"] * 8
    assert used == list(range(1, 9))


def test_output_of_the_tests_is_counted_for_each_program(sandbox: Sandbox, used: list[int]) -> None:
    tests = "print('x' * 300_000)\nassert f(1) == 1"
    assert outcomes(judged(sandbox, [HONEST] * 8, tests)) == ["passed"] * 8
    assert used == list(range(1, 9))


def test_descriptors_do_not_run_out(sandbox: Sandbox, used: list[int]) -> None:
    codes = [HONEST, WRONG] * 20
    found = outcomes(judged(sandbox, codes, "assert f(3) == 9", open_files=16))
    assert found == ["passed", "failed"] * 20
    assert max(used) > 16
