"""Parts of the sandbox by themselves: reports, the system-call filter, the codec."""

from __future__ import annotations

import contextlib
import ctypes
import decimal
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections import Counter, OrderedDict, deque
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.sandbox import (
    Limits,
    Verdict,
    analysis,
    codec,
    examination,
    landlock,
    rehearsal,
    seccomp,
    wire,
)
from wmtp.sandbox.conclusion import ENTERED, Again, conclude_inside, conclude_split
from wmtp.sandbox.peer import Peer
from wmtp.sandbox.program import one_line

LIMITS = Limits(cpu_seconds=2.0)


# ---- messages -----------------------------------------------------------------------------------


class LeavesAtOnce(socket.socket):
    """A line whose other end is gone as soon as something has arrived there."""

    def sendall(self, *data: Any) -> None:
        raise BrokenPipeError


@pytest.mark.parametrize("payload", [b"", b"text"])
def test_a_message_that_arrived_was_sent_though_the_other_side_left(payload: bytes) -> None:
    ours, theirs = socket.socketpair()
    with LeavesAtOnce(fileno=ours.detach()) as line, theirs, open("/dev/null") as file:
        wire.send(line, payload, [file.fileno()])
        found, [descriptor] = wire.receive_with_descriptors(theirs)
        os.close(descriptor)
    assert found == payload


# ---- Landlock -----------------------------------------------------------------------------------

# Alone, without namespaces and filter, so that what is refused is refused by Landlock.
CONFINED = """
import ctypes, errno, os, socket, subprocess, sys
from wmtp.sandbox import landlock
folder, outside, port = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
landlock.confine(libc, landlock.version(libc), folder, ["/dev/null"])
def refused(do, *given):
    try:
        do(*given)
    except OSError as error:  # EXDEV: a file cannot get more rights by moving
        return error.errno in (errno.EACCES, errno.EPERM, errno.EXDEV)
    return False
os.chdir(folder)
os.makedirs("a/b")
open("a/x", "w").write("text")
os.rename("a/x", "a/b/x")
os.truncate("a/b/x", 1)
os.symlink(outside, "link")
open("/dev/null", "w").close()
print(open(outside).read(), os.listdir("a/b"), os.path.getsize("a/b/x"))
print([
    refused(open, outside, "a"),
    refused(open, "link", "a"),
    refused(open, "/dev/zero", "w"),
    refused(os.truncate, outside, 0),
    refused(os.unlink, outside),
    refused(os.rename, outside, "here"),
    refused(os.link, outside, "here"),
    refused(os.mkdir, outside + ".d"),
    refused(subprocess.run, [sys.executable, "-c", ""]),
])
print(landlock.version(libc) < 4 or refused(socket.create_connection, ("127.0.0.1", int(port))))
print(landlock.version(libc) < 6 or refused(os.kill, os.getppid(), 0))
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not landlock.version(ctypes.CDLL(None)),
    reason="this kernel has no Landlock",
)
def test_landlock_alone_leaves_one_folder_to_change(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.write_text("kept")
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = subprocess.run(
            [sys.executable, "-c", CONFINED, folder, outside, str(server.getsockname()[1])],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.stdout.splitlines() == ["kept ['x'] 1", str([True] * 9), "True", "True"], (
        done.stderr
    )
    assert outside.read_text() == "kept"


# ---- reports ------------------------------------------------------------------------------------


def report(*results: Any, **fields: Any) -> dict[str, Any]:
    lines = [json.dumps(line) for line in (ENTERED, *results)]
    base = {"cause": "ended", "ended_itself": True, "exit": 0, "cpu": 0.1, "wall": 0.5}
    return {**base, "results": lines, **fields}


PASSED = report(["passed", ""])
GONE = report(["gone", ""])
STOPPED = report(cause="stopped", ended_itself=False, exit=-signal.SIGKILL)


def test_only_a_judge_that_reached_the_end_passes() -> None:
    assert conclude_split(PASSED, STOPPED, LIMITS) == Verdict("passed", 0.5, "")


@pytest.mark.parametrize(
    ("judge", "candidate", "outcome"),
    [
        (PASSED, report(cause="cpu", exit=-9), "timeout"),
        (PASSED, report(cause="output", exit=-9), "output_limit"),
        (GONE, STOPPED, "failed"),
        (GONE, report(exit=0, cause="stopped"), "failed"),
        (GONE, report(exit=-signal.SIGSEGV, cause="stopped"), "failed"),
        (GONE, report(exit=-signal.SIGKILL, cause="stopped"), "memory"),
        (GONE, report(exit=-signal.SIGKILL, cause="stopped", cpu=3.0), "timeout"),
        (report(["malformed", "x"]), STOPPED, "failed"),
        (report(["output_limit", "x"]), STOPPED, "output_limit"),
        (report(["broken_tests", "x"]), STOPPED, "error"),
        (report(["broken_tests", "x"]), {**STOPPED, "results": []}, "error"),
        (report(cause="cpu", exit=-9), STOPPED, "timeout"),
        (PASSED, report(cause="wall", cpu=1.9, exit=-9), "timeout"),
    ],
)
def test_what_reports_mean(judge: Any, candidate: Any, outcome: str) -> None:
    found = conclude_split(judge, candidate, LIMITS)
    assert isinstance(found, Verdict)
    assert found.outcome == outcome


@pytest.mark.parametrize(
    ("judge", "candidate", "why"),
    [
        (report(cause="died"), STOPPED, "fault"),
        (GONE, {**report(), "results": ['{"fault": "unshare"}']}, "fault"),
        (GONE, {**report(), "results": []}, "fault"),
        (report(["cannot_cross", "x"]), STOPPED, "inside"),
        (GONE, report(cause="wall", exit=-9), "alone"),
    ],
)
def test_what_has_to_be_repeated(judge: Any, candidate: Any, why: str) -> None:
    found = conclude_split(judge, candidate, LIMITS)
    assert isinstance(found, Again)
    assert found.why == why
    assert found.verdict.outcome == ("timeout" if why == "alone" else "error")


@pytest.mark.parametrize(
    ("judge", "candidate", "fresh"),
    [
        (PASSED, STOPPED, False),
        (report(["failed", "x"]), STOPPED, False),
        (report(["memory", "x"]), STOPPED, True),
        (report(), STOPPED, True),
        (report(cause="cpu", exit=-9), STOPPED, True),
        (report(cause="wall", exit=-9), STOPPED, True),
        (report(cause="output", exit=-9), STOPPED, True),
        (GONE, report(cause="wall", cpu=1.9, exit=-9), False),
        (GONE, report(cause="wall", exit=-9), False),  # and is tried alone, in a fresh one
        (GONE, report(cause="cpu", exit=-9), False),
        (GONE, report(cause="output", exit=-9), False),
    ],
)
def test_what_a_used_judge_can_be_to_blame_for(judge: Any, candidate: Any, fresh: bool) -> None:
    found = conclude_split(judge, candidate, LIMITS, used=True)
    assert (isinstance(found, Again) and found.why == "fresh") == fresh


TESTS_AGAIN = [
    "METADATA = {}\ndef check(candidate):\n    assert candidate([1]) == [(1, 'a')], 'no'\ncheck(f)",
    "import math\nfrom itertools import count as c\nassert math.isclose(f(next(c())), 1.5)",
    "try:\n    f()\nexcept (ValueError, Own) as error:\n    assert error.args[0].strip() == 'x'",
    "with f() as g, h:\n    g[1], *rest = [k for k in g if (n := k)]\n    del g[1], rest",
    "def g(*a, k=lambda: 1):\n    global n\n    n = yield from a\nassert list(map(f, g(1))) and _",
]
TESTS_ONCE = [
    "import random",
    "import os.path",
    "from math import __dict__",
    "from fractions import sys",
    "from . import x",
    "from copy import dispatch_table",
    "f.x = 1",
    "del f.x",
    "f.x += 1",
    "for f.x in g: pass",
    "(f.x for f.x in g)",
    "f.__class__",
    "(i for i in f).gi_frame",
    "error.with_traceback(0).tb_frame",
    "f().f_builtins",
    "Sized.register(f)",
    "random.seed(f())",
    "f.sys",
    "class A: pass",
    "async def g(): await f()",
    "[exec, f]",
    "setattr(f, 'x', 1)",
    "getattr(f, 'x')",
    "vars(f)",
    "globals()",
    "open(f)",
    "__builtins__",
    "__name__",
]


def test_which_tests_may_be_run_again_in_their_process() -> None:
    assert [t for t in TESTS_AGAIN if not examination.prepare(t).again] == []
    assert [t for t in TESTS_ONCE if analysis.leave_nothing(t)] == []
    deep = "assert f() == " + "-" * 800 + "1"
    assert examination.prepare(deep).problem == ""


@pytest.mark.parametrize(
    "judge", [report(), report({"fault": "MemoryError"}), report(exit=-signal.SIGSEGV)]
)
def test_a_program_that_takes_its_judge_with_it_twice_has_failed(judge: Any) -> None:
    found = conclude_split(judge, STOPPED, LIMITS)
    assert isinstance(found, Again)
    assert (found.why, found.verdict.outcome) == ("fault", "failed")


@pytest.mark.parametrize(
    "result",
    [
        ["passed", "", ""],
        ["passed", "", "b"],
        ["passed"],
        [],
        [["passed"], 1, 2],
        ["passed", [], "a"],
        ["error", "", "a"],
    ],
)
def test_an_in_process_pass_needs_the_secret(result: list[Any]) -> None:
    found = conclude_inside(report(result), "a", LIMITS)
    assert isinstance(found, Verdict)
    assert found.outcome == "failed"
    nested = {**report(), "results": [json.dumps(ENTERED), '["passed",' + "[" * 100_000]}
    assert conclude_inside(nested, "a", LIMITS) == Verdict(
        "failed", 0.5, "the program ended before its tests (exit status 0)"
    )
    honest = conclude_inside(report(["passed", "", "a"]), "a", LIMITS)
    assert honest == Verdict("passed", 0.5, "in-process tests")


# ---- the system-call filter ---------------------------------------------------------------------


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_system_call_filter_decides_as_the_table_says(
    machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interpret the filter: listed calls pass, others are refused, other machines killed."""
    monkeypatch.setattr("platform.machine", lambda: machine)
    seccomp.filter_program.cache_clear()
    code = seccomp.filter_program()
    seccomp.filter_program.cache_clear()
    architecture, table, special = seccomp._MACHINES[machine]
    listed = {int(entry.partition("=")[2]) for entry in table.split()}
    looked_at = set(special.values())
    for number in set(range(600)) - looked_at:
        expected = 0x7FFF0000 if number in listed else 0x00050001
        assert _decision(code, architecture, number) == expected, number
    assert _decision(code, architecture ^ 1, 0) == 0x80000000
    assert _decision(code, architecture, 0x40000000) == 0x00050001  # the x32 interface
    clone = special["clone"]
    assert _decision(code, architecture, clone, 0x00010F00) == 0x7FFF0000  # a thread
    assert _decision(code, architecture, clone, 17) == 0x00050001  # a process
    assert _decision(code, architecture, clone, 0x10010F00) == 0x00050001  # a namespace
    assert _decision(code, architecture, special["clone3"]) == 0x00050026
    assert _decision(code, architecture, special["prlimit64"], 1) == 0x00050001


def _decision(code: bytes, architecture: int, number: int, argument: int = 0) -> int:
    """Return what the BPF program answers for one call, whose arguments are all `argument`."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *([argument] * 6))
    lines = list(struct.iter_unpack("=HBBI", code))
    place = accumulator = 0
    while True:
        kind, when_true, when_false, value = lines[place]
        place += 1
        if kind == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif kind == 0x54:
            accumulator &= value
        elif kind == 0x06:
            return value
        else:
            holds = accumulator == value if kind == 0x15 else accumulator >= value
            place += when_true if holds else when_false


# ---- what crosses -------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary()
)
hashable = scalars | st.tuples(scalars, scalars) | st.frozensets(scalars)
plain = st.recursive(
    st.one_of(
        *(scalars, st.complex_numbers(allow_nan=False), st.sampled_from([int, KeyError, ...])),
        *(st.decimals(allow_nan=False), st.fractions(), st.dates(), st.times(), st.datetimes()),
        st.timedeltas(),
    ),
    lambda inner: st.one_of(
        st.lists(inner),
        st.tuples(inner),
        st.sets(hashable),
        st.dictionaries(hashable, inner),
        st.binary().map(bytearray),
        st.lists(inner).map(deque),
        st.dictionaries(hashable, inner).map(OrderedDict),
        st.text().map(Counter),
        st.dictionaries(hashable, inner).map(dict.items),
        st.builds(slice, inner, inner),
        st.builds(range, st.integers(-9, 9), st.integers(-9, 9)),
    ),
    max_leaves=5,
)


def _refuse(*values: Any) -> Any:
    raise AssertionError(values)


@given(plain)
def test_plain_data_crosses_unchanged(value: Any) -> None:
    encoded = codec.dumps(codec.encode(value, _refuse, reduce=False))
    back = codec.decode(codec.loads(encoded), _refuse)
    assert back == value
    assert type(back) is type(value)
    sets = (set, frozenset, dict, tuple, list, deque, slice, type({}.items()))
    assert repr(back) == repr(value) or isinstance(value, sets)


TAGS = (
    *codec.NAMED,
    *("bytes", "bytearray", "complex", "range", "type", "ellipsis", "extended", "exception"),
    *("mine", "yours", "lent", "library", "error", "module", "x"),
)
messages = st.recursive(
    scalars.filter(lambda value: not isinstance(value, bytes)),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(TAGS), inner, max_size=2),
    max_leaves=8,
)


@given(messages)
def test_any_message_decodes_to_a_value_or_is_malformed(node: Any) -> None:
    with contextlib.suppress(codec.Malformed):
        codec.decode(node, lambda tag, body: None)


TESTS = """
assert f(3) == "expected", str(f)
assert f.x[1:2] == "expected" and len(f) == 7 and {f: 1}
f(lambda x: x, iter([1]), f)
assert abs(f(1) - f(2)) < 1e-6
for x in f: assert x == "expected"
"""
fields = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("value", "args", "classes", "name"), messages),
        "raise": st.sampled_from(sorted(codec.EXCEPTIONS)) | messages,
        "do": st.sampled_from(["call", "next", "getattr"]) | messages,
        "overflow": messages,
    },
)


@given(messages, st.lists(fields | messages, max_size=4))
def test_no_conversation_with_the_judge_passes_or_breaks_it(values: Any, frames: list[Any]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        first = {"value": [[], {"dict": [["f"], [values]]}]}
        for frame in (first, *frames):
            wire.send(theirs, json.dumps(frame).encode())
        theirs.shutdown(socket.SHUT_WR)
        outcome, detail, whole = examination.examine(Peer(ours), examination.prepare(TESTS))
    assert outcome not in ("passed", "cannot_cross", "broken_tests")
    assert outcome == "failed" or not whole
    assert len(Verdict("failed", 0.0, detail).detail) <= 300


def test_values_of_other_types_than_they_claim_are_malformed() -> None:
    for node in ({"Fraction": [1, 0]}, {"Decimal": "x"}, {"deque": []}, {"date": 5}, {"dict": []}):
        with pytest.raises(codec.Malformed):
            codec.decode(node, _refuse)
    assert codec.decode({"Fraction": [1, 2]}, _refuse) == Fraction(1, 2)
    assert codec.decode({"Decimal": "1.5"}, _refuse) == Decimal("1.5")


@given(st.text(), st.integers(1, 50))
def test_a_detail_is_one_printable_line(text: str, length: int) -> None:
    line = one_line(text, length)
    assert len(line) <= length
    assert line.isprintable()
    line.encode()
    if text.isascii() and text.isprintable():
        assert line == " ".join(text[: 10 * length].split())[:length]


@given(st.binary())
def test_any_bytes_load_or_are_malformed(payload: bytes) -> None:
    with contextlib.suppress(codec.Malformed):
        codec.loads(payload)


# ---- runs one after another in a judge -----------------------------------------------------------


def test_what_a_run_changes_of_the_decimal_context_stays_in_the_run() -> None:
    thirds = {"value": [{"Decimal": "1"}, {"Decimal": "3"}]}
    tests = examination.prepare("a, b = f()\nassert a / b < 1")
    ours, theirs = socket.socketpair()
    with theirs:
        for message in (rehearsal.REPLIES[0], thirds):
            wire.send(theirs, json.dumps(message).encode())
        found = examination.converse(ours.detach(), tests)
    assert found == ("passed", "", True)
    assert not decimal.getcontext().flags[decimal.Inexact]


# ---- the rehearsal of a fork server -------------------------------------------------------------


def test_a_rehearsal_leaves_no_program_and_no_descriptor_behind() -> None:
    with socket.socket() as before:
        lowest_free = before.fileno()
    rehearsal.rehearse(("candidate", "judge"))
    assert "solution" not in sys.modules
    with socket.socket() as after:
        assert after.fileno() == lowest_free


def test_a_rehearsal_that_goes_wrong_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "TESTS", "assert f([]) == 1")
    with pytest.raises(RuntimeError, match="rehearsal: .*AssertionError"):
        rehearsal.rehearse(("judge",))
