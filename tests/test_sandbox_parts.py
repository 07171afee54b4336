"""Parts of the sandbox by themselves: reports, the system-call filter, the codec."""

from __future__ import annotations

import contextlib
import json
import signal
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.sandbox import Limits, Verdict, codec, seccomp
from wmtp.sandbox.conclusion import ENTERED, Again, conclude_inside, conclude_split

LIMITS = Limits(cpu_seconds=2.0)


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
        (report(), STOPPED, "fault"),
        (report({"fault": "KeyError"}), STOPPED, "fault"),
        (report(exit=-signal.SIGSEGV), STOPPED, "fault"),
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
    "result",
    [
        ["passed", "", ""],
        ["passed", "", "b"],
        ["passed"],
        [],
        [["passed"], 1, 2],
        ["error", "", "a"],
    ],
)
def test_an_in_process_pass_needs_the_secret(result: list[Any]) -> None:
    found = conclude_inside(report(result), "a", LIMITS)
    assert isinstance(found, Verdict)
    assert found.outcome == "failed"
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
    st.one_of(scalars, st.complex_numbers(allow_nan=False), st.sampled_from([int, KeyError])),
    lambda inner: st.one_of(
        st.lists(inner),
        st.tuples(inner),
        st.sets(hashable),
        st.dictionaries(hashable, inner),
        st.binary().map(bytearray),
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
    assert repr(back) == repr(value) or isinstance(value, (set, frozenset, dict, tuple, list))


TAGS = ("tuple", "set", "dict", "bytes", "complex", "range", "type", "mine", "yours", "module", "x")
messages = st.recursive(
    scalars.filter(lambda value: not isinstance(value, bytes)),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(TAGS), inner, max_size=2),
    max_leaves=8,
)


@given(messages)
def test_any_message_decodes_to_a_value_or_is_malformed(node: Any) -> None:
    with contextlib.suppress(codec.Malformed):
        codec.decode(node, lambda tag, body: None)


@given(st.binary())
def test_any_bytes_load_or_are_malformed(payload: bytes) -> None:
    with contextlib.suppress(codec.Malformed):
        codec.loads(payload)
