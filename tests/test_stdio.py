"""Programs on standard streams: the order of their tests, second tries, and what an ending means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from wmtp.sandbox import Limits, Program, Sandbox, StdioProgram, Verdict, probe
from wmtp.sandbox.codec import decode, dumps, encode, loads
from wmtp.sandbox.slot import Attempt, Slot

LIMITS = Limits(cpu_seconds=1.0, wall_seconds=5.0, memory_bytes=512 << 20)
ECHO = "print(input())"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("auto" if probe().tier else "limits-only", workers=2) as sandbox:
        yield sandbox


def echoes(number: int) -> tuple[tuple[str, str], ...]:
    return tuple((str(k), str(k)) for k in range(number))


def judge(sandbox: Sandbox, *programs: Program | StdioProgram) -> list[Verdict]:
    verdicts = dict(sandbox.judge(programs))
    return [verdicts[index] for index in range(len(programs))]


PROGRAMS = {
    "a function that is called": "def main():\n    print(input())\nif __name__ == '__main__': main()",
    "a thread with a large stack": "import sys, threading\nsys.setrecursionlimit(10**6)\n"
    "threading.stack_size(1 << 27)\n"
    "threading.Thread(target=lambda: print(input())).start()",
    "all of the input": "import sys\nprint(sys.stdin.read())",
    "bytes": "import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())",
    "descriptors": "import os\nos.write(1, os.read(0, os.fstat(0).st_size))",
    "an opened descriptor": "print(*open(0))",
    "exit": "import sys\nprint(input())\nsys.exit()",
    "exit 0": "print(input())\nexit(0)",
    "quit": "print(input())\nquit()",
    "at exit": "import atexit\natexit.register(print, input())",
    "closed output": "import sys\nprint(input())\nsys.stdout.close()",
    "another output": "import io, os, sys\nout = sys.stdout = io.StringIO()\nprint(input())\n"
    "os.write(1, out.getvalue().encode())",
    "a module of its own": "import __main__\nx = 1\nprint(input() if __main__.x else 0)",
    "letters": "print(input()) if len('\N{GREEK SMALL LETTER ALPHA}') else 0",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_as_people_write_them(sandbox: Sandbox, name: str) -> None:
    cases = (("7\n", "7"), ("\N{GREEK SMALL LETTER BETA}\n", "\N{GREEK SMALL LETTER BETA}\n"))
    [verdict] = judge(sandbox, StdioProgram(PROGRAMS[name], cases, limits=LIMITS))
    assert verdict.outcome == "passed", verdict


def test_the_first_failing_test_ends_a_program(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[int, int]] = []
    start = Slot.start

    def recording(self: Slot, attempt: Attempt) -> None:
        started.append((attempt.index, attempt.case))
        start(self, attempt)

    monkeypatch.setattr(Slot, "start", recording)
    fails = "x = input()\nprint(0 if x == '2' else x)"
    kinds: list[Program | StdioProgram] = [
        StdioProgram(ECHO, echoes(4), limits=LIMITS),
        Program("def f(): return 1", "assert f() == 1"),
        StdioProgram(fails, echoes(4), limits=LIMITS),
    ]
    found = judge(sandbox, *kinds)
    assert [verdict.outcome for verdict in found] == ["passed", "passed", "failed"]
    assert found[2].detail == "test 3 of 4: word 1 is '0', expected '2'"
    assert sorted(started) == [*((0, k) for k in range(4)), (1, 0), *((2, k) for k in range(3))]


def test_a_test_that_ran_out_of_wall_time_is_tried_again_alone(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[int, int, bool]] = []
    beside: list[int] = []
    start = Slot.start

    def recording(self: Slot, attempt: Attempt) -> None:
        started.append((attempt.index, attempt.case, attempt.alone))
        if attempt.alone:
            beside.append(sum(bool(s.sockets()) for s in sandbox._slots))
        start(self, attempt)

    monkeypatch.setattr(Slot, "start", recording)
    sleeps = "import time\nx = input()\nif x == '1': time.sleep(100)\nprint(x)"
    short = Limits(cpu_seconds=1.0, wall_seconds=0.4)
    programs: list[Program | StdioProgram] = [
        StdioProgram(sleeps, echoes(3), limits=short),
        *[StdioProgram(ECHO, echoes(2), limits=LIMITS)] * 6,
    ]
    found = judge(sandbox, *programs)
    assert [v.outcome for v in found] == ["timeout", *["passed"] * 6]
    assert found[0].detail.startswith("test 2 of 3: over the wall limit")
    assert [s for s in started if s[0] == 0] == [(0, 0, False), (0, 1, False), (0, 1, True)]
    assert beside == [0]


def test_seconds_are_those_of_all_tests(sandbox: Sandbox) -> None:
    one, five = judge(
        sandbox,
        StdioProgram("import time\ntime.sleep(0.05)", (("", ""),), limits=LIMITS),
        StdioProgram("import time\ntime.sleep(0.05)", (("", ""),) * 5, limits=LIMITS),
    )
    assert one.seconds >= 0.05
    assert five.seconds >= 0.25


@pytest.mark.parametrize(
    "value", [10**5000, -(2**4096), 2**4095, {"x": [(10**2000,)]}], ids=range(4)
)
def test_large_integers_cross_unchanged(value: Any) -> None:
    def refer(other: Any) -> Any:
        raise AssertionError(other)

    payload = dumps(encode(value, refer, reduce=True))
    assert decode(loads(payload), lambda tag, body: refer((tag, body))) == value
