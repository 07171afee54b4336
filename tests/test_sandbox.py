"""The sandbox with benign programs: what passes, what the outcomes are, what is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import wmtp
from wmtp.errors import SandboxError
from wmtp.sandbox import Limits, Program, Sandbox, Verdict, probe, tiers
from wmtp.sandbox.conclusion import Again
from wmtp.sandbox.slot import Attempt, Slot

SOURCE = str(Path(wmtp.__file__).resolve().parents[1])
SHORT = Limits(cpu_seconds=0.2, wall_seconds=5.0)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    status = probe()
    if status.tier is None:
        pytest.skip("; ".join(status.lines))
    with Sandbox(workers=2) as sandbox:
        yield sandbox


def judged(sandbox: Sandbox, code: str, tests: str, limits: Limits = SHORT) -> Verdict:
    [(index, verdict)] = sandbox.judge([Program(code, tests, limits)])
    assert index == 0
    return verdict


# ---- verdicts -----------------------------------------------------------------------------------

PASSING = {
    "a function": ("def f(x): return x + 1", "assert f(1) == 2"),
    "no tests": ("x = 1", ""),
    "several calls": ("n = []\ndef f(): n.append(1); return len(n)", "assert [f(), f()] == [1, 2]"),
    "keywords": ("def f(*, a, b=2): return a - b", "assert f(a=5) == 3"),
    "keywords of any name": (
        "def f(**k): return sorted(k)",
        "k = dict.fromkeys(['self', 'operation', 'function', 'args', 'name'])\n"
        "assert f(**k) == sorted(k)",
    ),
    "a value": ("ANSWER = {'a': (1, 2)}", "assert ANSWER == {'a': (1, 2)}"),
    "human-eval": (
        "from typing import List\ndef f(x: List[int]) -> int: return sum(x)",
        "def check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n"
        "check(f)",
    ),
    "an expected exception": (
        "def f(x): raise KeyError(x)",
        "try:\n    f('a')\nexcept KeyError as error:\n    assert 'a' in str(error)\n"
        "else:\n    raise AssertionError",
    ),
    "an exception of its own": (
        "class Bad(ValueError): pass\ndef f(): raise Bad('why')",
        "try:\n    f()\nexcept Bad as error:\n    assert str(error) == 'why'\n"
        "else:\n    raise AssertionError",
    ),
    "the base of its own exception": (
        "class Bad(ValueError): pass\ndef f(): raise Bad('why')",
        "try:\n    f()\nexcept ValueError:\n    pass\nelse:\n    raise AssertionError",
    ),
    "instances": (
        "class Node:\n    def __init__(self, v): self.v, self.next = v, None\n"
        "def total(n): return n.v + (total(n.next) if n.next else 0)",
        "a = Node(1)\na.next = Node(2)\na.next.next = Node(3)\n"
        "assert total(a) == 6 and a.next.v == 2 and isinstance(a, Node)",
    ),
    "methods": (
        "class Stack:\n    def __init__(self): self.items = []\n"
        "    def push(self, x): self.items.append(x); return self\n"
        "    def __len__(self): return len(self.items)\n"
        "    def __getitem__(self, i): return self.items[i]\n"
        "    def __str__(self): return f'<{self.items}>'",
        "s = Stack().push(1).push(2)\n"
        "assert len(s) == 2 and s[1] == 2 and str(s) == '<[1, 2]>' and s.items == [1, 2]",
    ),
    "equality of its own objects": (
        "from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int\n    y: int\n"
        "def f(x): return Point(x, x)",
        "assert f(1) == Point(1, 1) and f(1) != Point(1, 2) and f(1) != (1, 1)",
    ),
    "a generator": (
        "def f():\n    n = 0\n    while True:\n        yield n\n        n += 1",
        "from itertools import islice\nassert list(islice(f(), 3)) == [0, 1, 2]",
    ),
    "a function as argument": ("def f(g, x): return g(g(x))", "assert f(lambda x: x * 2, 3) == 12"),
    "a built-in as argument": ("def f(g, x): return g(x)", "assert f(len, 'abc') == f(int, '3')"),
    "a function as result": ("def f(k): return lambda x: x + k", "assert f(2)(3) == 5"),
    "its argument back": ("def f(g): return g", "def g(): pass\nassert f(g) is g"),
    "a module of its own": ("import math", "assert math.floor(2.5) == 2"),
    "subclasses of plain types": (
        "from collections import Counter, OrderedDict, namedtuple\nfrom enum import IntEnum\n"
        "class E(IntEnum): A = 1\nPoint = namedtuple('Point', 'x y')\n"
        "def f(): return [Counter('aab'), OrderedDict(a=1), Point(1, 2), E.A]",
        "assert f() == [{'a': 2, 'b': 1}, {'a': 1}, (1, 2), 1]",
    ),
    "many elements": ("def f(n): return list(range(n))", "assert f(10 ** 5)[-1] == 99999"),
    "a long integer": ("def f(): return 7 ** 20000", "assert f() == 7 ** 20000"),
    "temporary files": (
        "import tempfile\ndef f():\n    with tempfile.TemporaryFile() as file:\n"
        "        return file.write(b'abc')",
        "assert f() == 3",
    ),
    "threads": (
        "from concurrent.futures import ThreadPoolExecutor\ndef f():\n"
        "    with ThreadPoolExecutor(4) as pool:\n        return list(pool.map(abs, [-1, -2]))",
        "assert f() == [1, 2]",
    ),
    "an event loop": (
        "import asyncio\nasync def g(): await asyncio.sleep(0); return 1\n"
        "def f(): return asyncio.run(g())",
        "assert f() == 1",
    ),
    "string annotations of a dataclass": (
        "from __future__ import annotations\nfrom dataclasses import dataclass, KW_ONLY\n"
        "@dataclass\nclass P:\n    x: int\n    _: KW_ONLY\n    y: int = 2\n"
        "def f(): return P(1).y",
        "assert f() == 2",
    ),
    "end of input": (
        "try:\n    input()\nexcept EOFError:\n    ended = True",
        "assert ended",
    ),
    "output": ("print('x' * 1000)", ""),
    "its own main is not run": ("if __name__ == '__main__': raise ValueError", ""),
    "an iterator as argument": ("def f(g): return next(g)", "assert f(iter([1])) == 1"),
    "data of the standard library": (
        "from collections import Counter, OrderedDict, deque\nfrom datetime import *\n"
        "from decimal import Decimal\nfrom fractions import Fraction\n"
        "def same(x): return x\n"
        "def f(): return [Decimal('1.5'), Fraction(3, 2), deque([1, 2], 3), Counter('aab'),\n"
        "    date(2020, 1, 2), time(3), datetime(2020, 1, 2, tzinfo=timezone.utc), timedelta(2)]",
        "from collections import Counter, OrderedDict, deque\nfrom datetime import *\n"
        "from decimal import Decimal\nfrom fractions import Fraction\n"
        "wanted = [Decimal('1.5'), Fraction(3, 2), deque([1, 2], 3), Counter('aab'),\n"
        "    date(2020, 1, 2), time(3), datetime(2020, 1, 2, tzinfo=timezone.utc), timedelta(2)]\n"
        "assert f() == wanted == same(wanted) and list(map(type, f())) == list(map(type, wanted))\n"
        "assert f()[3].most_common(1) == [('a', 2)] and f()[1] == 1.5 and f()[2].maxlen == 3\n"
        "assert same(OrderedDict(a=1)) == OrderedDict(a=1) and same(...) is ...",
    ),
    "views": (
        "def f(): d = {1: 2}; return d.keys(), d.items(), d.values()",
        "assert f()[0] == {1} and f()[1] == {(1, 2)} and list(f()[2]) == [2]",
    ),
    "what a subclass of a plain type adds": (
        "from collections import Counter, namedtuple\nfrom enum import IntEnum\n"
        "class E(IntEnum): A = 0\nclass Bag(dict):\n    def size(self): return len(self)\n"
        "P = namedtuple('P', 'x y')\ndef f(): return P(1, Bag(a=E.A))\n"
        "def back(p): return p.x, type(p) is P\n"
        "def count(s): return Counter(s)",
        "p = f()\nassert p == (1, {'a': 0}) and p.x == 1 and p._replace(x=2).x == 2\n"
        "assert p.y.size() == 1 and p.y['a'].name == 'A' and repr(p.y['a']) == '<E.A: 0>'\n"
        "assert str(p).startswith('P(x=1') and isinstance(p, P) and isinstance(p, tuple)\n"
        "assert back(p) == (1, True)\nimport copy\nassert copy.deepcopy(p) == p == copy.copy(p)\n"
        "assert p.y['a'] is p.y['a'] is E.A\ny = p.y\ndel y['a']\nassert y == {}",
    ),
    "operators between its own objects": (
        "class V:\n    def __init__(self, x): self.x = x\n"
        "    def __add__(self, other): return V(self.x + other.x)\n"
        "    def __neg__(self): return V(-self.x)\n"
        "    def __lt__(self, other): return self.x < other.x\n"
        "    def __eq__(self, other): return self.x == other.x\n"
        "    def __hash__(self): return hash(self.x)\n"
        "    def __repr__(self): return f'V({self.x})'\n"
        "    def __float__(self): return float(self.x)",
        "assert (V(1) + V(2)).x == 3 and (-V(1)).x == -1 and V(1) < V(2) and float(V(3)) == 3\n"
        "assert [v.x for v in sorted([V(2), V(1)])] == [1, 2] and repr([V(1)]) == '[V(1)]'\n"
        "assert len({V(1), V(1), V(2)}) == 2 and {V(1): 'a'}[V(1)] == 'a' and V(1) in [V(1)]",
    ),
    "the same object": (
        "class Node: pass\nroot = Node()\ndef f(): return root",
        "assert f() is f() and f() is root",
    ),
    "a decoding error": (
        "def f(b): return b.decode('ascii')",
        "try:\n    f(b'\\xff')\n    raise ValueError\nexcept UnicodeDecodeError as error:\n"
        "    assert error.object == b'\\xff' and 'ordinal not in range' in str(error)",
    ),
    "the arguments of an error": (
        "def f(): raise KeyError('a', 2)",
        "try:\n    f()\nexcept KeyError as error:\n    assert error.args == ('a', 2)\n"
        "else:\n    raise ValueError",
    ),
    "an error as argument": (
        "class Own(KeyError): pass\ndef f(e): return isinstance(e, KeyError), str(e.args[0])",
        "assert f(KeyError(5)) == (True, '5') and f(Own(6)) == (True, '6')\n"
        "assert f(ValueError('x')) == (False, 'x')",
    ),
    "functions and types of Python as arguments": (
        "def f(g, *a): return list(g(*a)) if g in (map, zip, sorted) else g(*a)",
        "import math, operator\nassert f(map, abs, [-1]) == [1] and f(operator.add, 1, 2) == 3\n"
        "assert f(math.sqrt, 9) == 3 and f(sorted, [2, 1]) == [1, 2] and f(str.upper, 'a') == 'A'",
    ),
    "a generator of the tests": (
        "def f(values): return sum(values)",
        "assert f(x * x for x in (1, 2)) == 5 and f(map(abs, [-1])) == 1",
    ),
    "a marker of the tests": (
        "def f(x, default): return default",
        "marker = object()\nassert f(1, marker) is marker",
    ),
    "a missing function": (
        "def f(g=None): return 1 if not g else g() if g == g and {g: 1} and str(g) else 0",
        "assert f() == 1 and f(lambda: 2) == 2",
    ),
    "a built-in that the task asks for": ("def sum(a, b): return a * b", "assert sum(2, 5) == 10"),
    "an object of the tests": (
        "def f(o): return o.v",
        "class O:\n    v = 4\nassert f(O()) == 4",
    ),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_correct_program_passes(sandbox: Sandbox, name: str) -> None:
    code, tests = PASSING[name]
    verdict = judged(sandbox, code, tests, Limits())
    assert verdict.outcome == "passed", verdict
    assert verdict.seconds > 0


FAILING = {
    "a wrong answer": ("def f(): return 1", "x = 2\nassert f() == x", "AssertionError at line 2"),
    "a message": ("def f(): return 1", "assert f() == 2, 'no'", "AssertionError: no"),
    "an exception": ("def f(): return 1 / 0", "f()", "ZeroDivisionError: division by zero at"),
    "its own exception": ("class Bad(Exception): pass\ndef f(): raise Bad", "f()", "Bad at line"),
    "not defined": ("g = 1", "assert f() == 1", "NameError: name 'f' is not defined"),
    "does not compile": ("def f(:", "", "while the program was loaded: SyntaxError"),
    "fails at import": ("import no_such_module", "", "ModuleNotFoundError: No module"),
    "recursion": ("def f(): return f()", "f()", "RecursionError"),
    "nested too deeply": ("x = []\nfor _ in range(9999): x = [x]", "assert x == 1", "Recursion"),
    "its object and a plain value": (
        "class V:\n    def __eq__(self, other): return other == 3\n"
        "    def __contains__(self, other): return other == 3\ndef f(): return V()",
        "assert f() == 3",
        "AssertionError",
    ),
    "what its object contains": (
        "class V:\n    def __contains__(self, other): return other == 3\ndef f(): return V()",
        "assert 3 in f()",
        "TypeError",
    ),
    "arguments are copies": ("def f(x): x.append(1)", "x = []\nf(x)\nassert x", "AssertionError"),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_wrong_program_fails_and_says_where(sandbox: Sandbox, name: str) -> None:
    code, tests, expected = FAILING[name]
    verdict = judged(sandbox, code, tests, Limits())
    assert verdict.outcome == "failed"
    assert expected in verdict.detail


def test_other_outcomes_are_told_apart(sandbox: Sandbox) -> None:
    programs = [
        Program("while True: pass", "", SHORT),
        Program("x = bytearray(1 << 31)", "", SHORT),
        Program("print('x' * (2 << 20))", "", SHORT),
        Program("x = 1", "this is no Python", SHORT),
    ]
    verdicts = dict(sandbox.judge(programs))
    assert [verdicts[i].outcome for i in range(4)] == ["timeout", "memory", "output_limit", "error"]
    assert "tests cannot be used: SyntaxError" in verdicts[3].detail


def test_tests_that_need_the_programs_process_say_so(sandbox: Sandbox) -> None:
    tests = "class Child(Base):\n    pass\nassert Child().f() == 3"
    good = judged(sandbox, "class Base:\n    def f(self): return 3", tests)
    assert (good.outcome, good.detail) == ("passed", "in-process tests")
    bad = judged(sandbox, "class Base:\n    def f(self): return 4", tests)
    assert bad.outcome == "failed"
    assert "in-process tests" in bad.detail


def test_set_order_is_the_same_every_time(sandbox: Sandbox) -> None:
    code = "def f(): return list({'a', 'b', 'c', 'd', 'e'})"
    assert judged(sandbox, code, "first = f()\nassert f() == first").outcome == "passed"
    program = Program(code, "raise AssertionError(f())", SHORT)
    details = {verdict.detail for _, verdict in sandbox.judge([program] * 4)}
    assert len(details) == 1


# ---- many programs ------------------------------------------------------------------------------


def test_every_program_is_judged_once(sandbox: Sandbox) -> None:
    programs = [Program(f"def f(): return {i % 3}", "assert f() == 0", SHORT) for i in range(30)]
    verdicts = list(sandbox.judge(iter(programs)))
    assert sorted(index for index, _ in verdicts) == list(range(30))
    assert all((v.outcome == "passed") == (i % 3 == 0) for i, v in verdicts)


def test_no_programs_are_no_verdicts(sandbox: Sandbox) -> None:
    assert list(sandbox.judge([])) == []
    assert sandbox.screen([]) == []


def test_programs_are_taken_only_as_slots_come_free(sandbox: Sandbox) -> None:
    taken = 0

    def programs() -> Iterator[Program]:
        nonlocal taken
        while True:
            taken += 1
            yield Program("x = 1", "", SHORT)

    stream = sandbox.judge(programs())
    for done in range(1, 6):
        next(stream)
        assert taken <= done + sandbox.workers
    stream.close()
    assert judged(sandbox, "x = 1", "assert x == 1").outcome == "passed"


def test_a_program_that_ran_out_of_wall_time_gets_one_more_try_alone(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[tuple[int, bool, int]] = []
    start = Slot.start

    def count(self: Slot, attempt: Attempt) -> None:
        busy = sum(bool(slot.sockets()) for slot in sandbox._slots if slot is not self)
        tries.append((attempt.index, attempt.alone, busy))
        start(self, attempt)

    monkeypatch.setattr(Slot, "start", count)
    sleep = Program("import time; time.sleep(60)", "", Limits(wall_seconds=0.3))
    programs = [sleep, *[Program("x = 1", "assert x == 1")] * 4, sleep]
    verdicts = dict(sandbox.judge(programs))
    assert [verdicts[i].outcome for i in range(6)] == ["timeout", *["passed"] * 4, "timeout"]
    assert sorted(index for index, alone, _ in tries if alone) == [0, 5]
    assert all(busy == 0 for _, alone, busy in tries if alone)
    assert len(tries) == 8


def test_second_tries_that_change_nothing_are_not_made_for_ever(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = 0
    start = Slot.start

    def count(self: Slot, attempt: Attempt) -> None:
        nonlocal alone
        alone += attempt.alone
        start(self, attempt)

    monkeypatch.setattr(Slot, "start", count)
    sleep = Program("import time; time.sleep(60)", "", Limits(wall_seconds=0.2))
    assert {v.outcome for _, v in sandbox.judge([sleep] * 8)} == {"timeout"}
    assert 3 <= alone < 3 + sandbox.workers


def test_second_tries_after_a_used_judge_are_made_whatever_was_in_vain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[tuple[int, bool]] = []
    start = Slot.start

    def note(self: Slot, attempt: Attempt) -> None:
        tries.append((attempt.index, attempt.alone))
        start(self, attempt)

    monkeypatch.setattr(Slot, "start", note)
    mode: Any = "auto" if probe().tier else "limits-only"
    sleep = Program("import time; time.sleep(60)", "", Limits(wall_seconds=0.2))
    with Sandbox(mode, workers=1) as sandbox:
        tries.clear()
        programs = [sleep, sleep, sleep, sleep, Program("x = 1", "", sleep.limits), sleep]
        verdicts = dict(sandbox.judge(programs))
    assert [verdicts[i].outcome for i in range(6)] == [*["timeout"] * 4, "passed", "timeout"]
    assert [index for index, alone in tries if alone] == [0, 1, 2, 5]


def test_many_open_files_of_the_caller_do_not_matter(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.close()
    (tmp_path / "x").touch()
    files = [os.open(tmp_path / "x", os.O_RDONLY) for _ in range(1100)]
    try:
        assert judged(sandbox, "x = 1", "assert x == 1").outcome == "passed"
        sandbox.close()
    finally:
        for file in files:
            os.close(file)


# ---- the fast path ------------------------------------------------------------------------------


def test_screen_returns_verdicts_in_order_whatever_a_program_does(sandbox: Sandbox) -> None:
    cases = [
        ("def f(): return 1", "passed"),
        ("def f(): return 2", "failed"),
        ("while True: pass", "timeout"),
        ("import os; os._exit(0)", "failed"),
        ("raise SystemExit(0)", "failed"),
        ("def f(): return 1", "passed"),
        ("import ctypes; ctypes.string_at(0)", "failed"),
        ("def f(): return bytearray(1 << 40)", "memory"),
        ("import os\nwhile True: os.write(1, b'x' * 10000)", "output_limit"),
        ("def f(:", "failed"),
        ("import os\nos.fork()", "failed"),
        ("def f(): return 1", "passed"),
    ]
    programs = [Program(code, "assert f() == 1", SHORT) for code, _ in cases]
    verdicts = sandbox.screen(programs, cpu_seconds=0.1)
    assert [v.outcome for v in verdicts] == [outcome for _, outcome in cases]


def test_screen_stops_programs_that_swallow_the_time_limit(sandbox: Sandbox) -> None:
    code = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    programs = [Program(code, ""), Program("x = 1", "assert x == 1")]
    assert [v.outcome for v in sandbox.screen(programs, cpu_seconds=0.05)] == ["timeout", "passed"]


def test_screen_takes_more_programs_than_a_batch(sandbox: Sandbox) -> None:
    programs = [Program(f"x = {i}", "assert x % 7") for i in range(300)]
    verdicts = sandbox.screen(programs)
    assert [v.outcome == "passed" for v in verdicts] == [bool(i % 7) for i in range(300)]


# ---- faults, interruption and what is left ------------------------------------------------------


def descendants(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = int(text.rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


def wait_until_dead(pids: set[int]) -> None:
    for _ in range(200):
        if not alive(pids):
            return
        time.sleep(0.05)
    raise AssertionError(f"still alive: {alive(pids)}")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_is_left_after_closing() -> None:
    mode: Any = "auto" if probe().tier else "limits-only"
    before = descendants(os.getpid())
    with Sandbox(mode, workers=2) as sandbox:
        programs = [Program("x = 1", ""), Program("while True: pass", "", SHORT)]
        assert len(list(sandbox.judge(programs))) == 2
        assert sandbox.screen(programs[:1])[0].outcome == "passed"
        assert descendants(os.getpid()) > before
    assert descendants(os.getpid()) == before


def test_a_dead_server_is_replaced(sandbox: Sandbox) -> None:
    sandbox.close()
    others = descendants(os.getpid())
    assert judged(sandbox, "x = 1", "").outcome == "passed"
    own = descendants(os.getpid()) - others
    for pid in own:
        with suppress(ProcessLookupError):  # gone with its parent
            os.kill(pid, signal.SIGKILL)
    assert judged(sandbox, "x = 1", "assert x == 1").outcome == "passed"
    wait_until_dead(own)


def test_a_server_that_dies_during_a_run_costs_one_retry(sandbox: Sandbox) -> None:
    sandbox.close()
    others = descendants(os.getpid())
    killed = False

    def programs() -> Iterator[Program]:
        nonlocal killed
        yield Program("import time; time.sleep(0.3)", "", SHORT)
        for pid in descendants(os.getpid()) - others:
            with suppress(ProcessLookupError):  # gone with its parent
                os.kill(pid, signal.SIGKILL)
        killed = True

    assert [verdict.outcome for _, verdict in sandbox.judge(programs())] == ["passed"]
    assert killed


def judge_process(sandbox: Sandbox) -> int:
    """Return the process in which the first slot's tests run; it has no children."""
    below = descendants(sandbox._slots[0]._servers["judge"]._process.pid)
    [pid] = [pid for pid in below if not descendants(pid)]
    return pid


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_judge_that_died_after_its_last_program_is_replaced() -> None:
    mode: Any = "auto" if probe().tier else "limits-only"
    program = Program("def f(): return 1", "assert f() == 1", SHORT)
    with Sandbox(mode, workers=1) as sandbox:
        stream = sandbox.judge([program] * 4)
        next(stream)
        pids = set()
        for _, verdict in stream:
            assert verdict.outcome == "passed"
            pids.add(pid := judge_process(sandbox))
            os.kill(pid, signal.SIGKILL)
            wait_until_dead({pid})
    assert len(pids) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_used_judge_may_be_to_blame_for_is_tried_in_a_fresh_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mode: Any = "auto" if probe().tier else "limits-only"
    attempts: list[tuple[int, bool]] = []
    start = Slot.start
    code = "import time\ndef f(x): time.sleep(x / 4); return x"

    with Sandbox(mode, workers=1) as sandbox:

        def start_and_kill(self: Slot, attempt: Attempt) -> None:
            start(self, attempt)
            attempts.append((attempt.index, attempt.fresh))
            if attempts == [(0, False), (1, False)]:
                os.kill(judge_process(sandbox), signal.SIGKILL)

        monkeypatch.setattr(Slot, "start", start_and_kill)
        verdicts = [v for _, v in sandbox.judge([Program(code, "assert f(1) == 1", SHORT)] * 3)]
    assert [verdict.outcome for verdict in verdicts] == ["passed"] * 3
    assert attempts == [(0, False), (1, False), (1, True), (2, False)]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_judge_waits_for_programs_only_so_long() -> None:
    mode: Any = "auto" if probe().tier else "limits-only"
    program = Program("def f(): return 1", "assert f() == 1", Limits(wall_seconds=0.2))
    with Sandbox(mode, workers=1) as sandbox:
        for _ in range(2):
            assert [v.outcome for _, v in sandbox.judge([program] * 2)] == ["passed"] * 2
            wait_until_dead({judge_process(sandbox)})


def test_programs_of_several_tasks_meet_their_own_tests(sandbox: Sandbox) -> None:
    programs = [
        Program(f"def f(): return {i % 3}", f"assert f() == {i // 2 % 3}", SHORT) for i in range(18)
    ]
    verdicts = dict(sandbox.judge(programs))
    passed = [verdicts[i].outcome == "passed" for i in range(18)]
    assert passed == [i % 3 == i // 2 % 3 for i in range(18)]


def test_a_lasting_sandbox_fault_is_an_error_never_a_failure(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def conclude(self: Slot, reports: dict[str, Any]) -> Again:
        nonlocal calls
        calls += 1
        return Again("fault", Verdict("error", 0.0, "sandbox fault: made up"))

    monkeypatch.setattr(Slot, "conclude", conclude)
    verdict = judged(sandbox, "x = 1", "")
    assert (verdict.outcome, calls) == ("error", 2)


_SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may ignore it
from wmtp.sandbox import Limits, Program, Sandbox, probe
mode = "auto" if probe().tier else "limits-only"
with Sandbox(mode, workers=2) as sandbox:
    endless = Program("while True: pass", "", Limits(cpu_seconds=60, wall_seconds=60))
    print("ready", flush=True)
    list(sandbox.judge([endless] * 4))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_an_interrupted_caller(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": SOURCE},
    ) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"ready\n"
        time.sleep(0.7)
        started = descendants(caller.pid)
        assert started
        caller.send_signal(number)
        assert caller.wait(30) != 0
        wait_until_dead(started)


# ---- tiers --------------------------------------------------------------------------------------


def test_without_isolation_it_refuses_and_names_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "why_unavailable", lambda tier: f"{tier} is made up to fail")
    status = probe()
    assert status.tier is None
    assert status.unavailable["namespaces"] == "namespaces is made up to fail"
    with pytest.raises(SandboxError, match=r"namespaces is made up to fail.*limits-only"):
        Sandbox()


def test_an_unknown_mode_is_refused() -> None:
    mode: Any = "none"
    with pytest.raises(SandboxError, match="Known: auto, limits-only"):
        Sandbox(mode)


def test_limits_only_keeps_the_limits_and_the_verdicts() -> None:
    with Sandbox("limits-only", workers=1) as sandbox:
        assert sandbox.tier == "limits-only"
        programs = [
            Program("def f(): return 1", "assert f() == 1", SHORT),
            Program("import os\nos._exit(0)", "assert f() == 1", SHORT),
            Program("while True: pass", "", SHORT),
            Program("import os\nx = sorted(os.environ)\ny = os.listdir()", "assert 'HOME' in x"),
            Program("while True: print('x' * 1000)", "", SHORT),
            Program("open('left', 'w').write('x')\nimport os\nx = os.getcwd()", "raise OSError(x)"),
        ]
        verdicts = dict(sandbox.judge(programs))
        screened = sandbox.screen(programs[:3], cpu_seconds=0.1)
    outcomes = [verdicts[i].outcome for i in range(6)]
    assert outcomes == ["passed", "failed", "timeout", "passed", "output_limit", "failed"]
    folder = verdicts[5].detail.split()[1]
    assert Path(folder).name.startswith("wmtp-")
    assert not Path(folder).exists()
    assert [v.outcome for v in screened] == ["passed", "failed", "timeout"]


@pytest.mark.parametrize("home", ["/", "//", "", "/usr", "here", "/proc/none"])
def test_a_home_folder_that_is_none_is_not_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").touch()
    assert tiers._home_entries() == [str(tmp_path / "mine")]
    monkeypatch.setenv("HOME", home)
    assert tiers._home_entries() == []


def test_bubblewrap_isolates_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = tiers.why_unavailable("bubblewrap")
    if reason is not None:
        pytest.skip(f"bubblewrap: {reason}")
    monkeypatch.setattr(tiers, "ISOLATED", ("bubblewrap",))
    secret = tmp_path / "secret"
    secret.write_text("for nobody")
    code = f"""
import os
seen = os.path.exists({str(secret)!r})
left = os.listdir('/tmp')
open('/tmp/x', 'w').write('x')
try:
    os.kill(-1, 9)
    killed = True
except PermissionError:
    killed = False
"""
    tests = "assert (seen, left, killed) == (False, [], False), (seen, left, killed)"
    with Sandbox(workers=1) as sandbox:
        assert sandbox.tier == "bubblewrap"
        verdicts = [v for _, v in sandbox.judge([Program(code, tests, SHORT)] * 3)]
        assert [v.outcome for v in verdicts] == ["passed"] * 3, verdicts
        assert sandbox.screen([Program("x = 1", "assert x == 1")])[0].outcome == "passed"


_AS_USER = """
import os
from wmtp.sandbox import Program, Sandbox
assert os.getuid() != 0
with Sandbox(workers=1) as sandbox:
    code = "import os\\ndef f(): return os.listdir('/tmp'), os.getuid()"
    print(sandbox.tier, *[v.outcome for _, v in sandbox.judge([Program(code, "assert f()")])])
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to be root")
def test_an_ordinary_user_gets_the_same_isolation() -> None:
    """As root the suite runs as root; this is the other half."""
    if probe().tier is None:
        pytest.skip("; ".join(probe().lines))
    as_nobody: dict[str, Any] = {
        "user": 65534,
        "group": 65534,
        "extra_groups": [],
        "cwd": "/",
        "env": {"PATH": os.environ["PATH"], "PYTHONPATH": SOURCE, "PYTHONDONTWRITEBYTECODE": "1"},
        "capture_output": True,
        "text": True,
    }
    check = "import sys, wmtp.sandbox; assert sys.version_info >= (3, 11)"
    for python in (sys.executable, shutil.which("python3", path="/usr/local/bin:/usr/bin")):
        try:
            usable = python and subprocess.run([python, "-c", check], **as_nobody).returncode == 0
        except PermissionError:
            continue
        if usable:
            done = subprocess.run([python, "-c", _AS_USER], **as_nobody)
            assert done.stdout.split() == [probe().tier, "passed"], done.stderr
            return
    pytest.skip("no Python of version 3.11 or later that another user may run")


def test_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, wmtp.sandbox\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'transformers', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_programs_find_an_ordinary_interpreter(sandbox: Sandbox) -> None:
    """What servers leave out or switch off for themselves is there for the programs."""
    modules = "array cmath hashlib inspect random statistics struct tempfile textwrap unicodedata"
    code = (
        f"import gc, {modules.replace(' ', ', ')}\n"
        "def f():\n    return gc.isenabled(), random.random(), hashlib.md5(b'x').hexdigest()[:4]"
    )
    tests = "enabled, drawn, digest = f()\nassert enabled and 0 <= drawn < 1 and digest == '9dd4'"
    verdicts = dict(sandbox.judge([Program(code, tests)] * 2))
    assert [verdict.outcome for verdict in verdicts.values()] == ["passed"] * 2
