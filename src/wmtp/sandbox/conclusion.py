"""What the reports of the fork servers mean for a program."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from typing import Any, Literal

from wmtp.sandbox.program import DETAIL_LENGTH, Limits, Verdict, one_line

ENTERED = "entered"  # first line of every report: the child is confined
IN_PROCESS = "in-process tests"


@dataclass(frozen=True, slots=True)
class Again:
    """The program has to run once more.

    why: "inside" when its tests need its own classes in their process, "alone" when it ran out of
    wall time without using the CPU, "fault" when the sandbox failed, "fresh" when the process with
    its tests, which ran for another program before, may be why it ended as it did, "next" when its
    next test is due. verdict: what counts if it ends the same way again, alone on this machine.
    cpu_seconds: what its tests have used so far.
    """

    why: Literal["inside", "alone", "fault", "fresh", "next"]
    verdict: Verdict
    cpu_seconds: float = 0.0


Report = dict[str, Any]


def conclude_split(
    judge: Report, candidate: Report, limits: Limits, used: bool = False
) -> Verdict | Again:
    """Combine the reports of both processes of a split run.

    A broken limit outweighs what the tests say; only a judge that reached the end says `passed`.
    used: the judge had run for another program before.
    """
    fault = fault_of(judge) or fault_of(candidate)
    if fault:
        return faulty(judge, fault)
    result = next(iter(results_of(judge)), None)
    if used and (result is None or result[0] == "memory"):
        return Again("fresh", Verdict("error", judge["wall"], "a process that was used before"))
    limit = limit_of(candidate, limits, judge["wall"])
    if limit is not None:
        return limit
    if result is None:
        if judge["cause"] == "ended":
            # It was confined, and all that reached it since came from the tests and the program.
            detail = f"the process with its tests died twice ({_ending(judge)}) {judge['results']}"
            return Again("fault", Verdict("failed", judge["wall"], detail))
        return limit_of(judge, limits, judge["wall"]) or faulty(judge, judge["cause"])
    outcome, detail = result
    seconds = judge["wall"]
    if outcome == "cannot_cross":
        return Again("inside", Verdict("error", seconds, detail))
    if outcome == "gone":
        return ended_early(candidate, limits, seconds)
    if outcome == "malformed":
        return Verdict("failed", seconds, f"an answer that is no plain data ({detail})")
    if outcome == "broken_tests":
        return Verdict("error", seconds, f"the tests cannot be used: {detail}")
    return Verdict(outcome, seconds, detail)


def conclude_inside(report: Report, nonce: str, limits: Limits) -> Verdict | Again:
    """Judge a run of code and tests in one process, which passes only with the secret `nonce`."""
    fault = fault_of(report)
    if fault:
        return faulty(report, fault)
    limit = limit_of(report, limits, report["wall"])
    if limit is not None:
        return limit
    result: list[Any] = next(iter(results_of(report)), [])
    known = len(result) == 3 and list(map(type, result)) == [str] * 3
    if not known or result[0] not in ("passed", "failed", "memory"):
        return ended_early(report, limits, report["wall"])
    outcome, secret = result[0], result[2]
    detail = one_line(result[1], DETAIL_LENGTH - len(IN_PROCESS) - 3)
    if outcome == "passed" and secret != nonce:
        return Verdict("failed", report["wall"], f"a forged result ({IN_PROCESS})")
    detail = f"{detail} ({IN_PROCESS})" if detail else IN_PROCESS
    return Verdict(outcome, report["wall"], detail)


def conclude_died(report: Report, limits: Limits) -> Verdict | Again:
    """Judge a program that took its process with it: it broke a limit, crashed or left."""
    fault = fault_of(report)
    if fault:
        return faulty(report, fault)
    return limit_of(report, limits, report["wall"]) or ended_early(report, limits, report["wall"])


def limit_of(report: Report, limits: Limits, seconds: float) -> Verdict | Again | None:
    """Return the verdict on a run that broke a limit; None when it broke none."""
    cause, cpu = report["cause"], report["cpu"]
    if cause == "output":
        return Verdict("output_limit", seconds, f"more than {limits.output_bytes} bytes of output")
    if cause == "cpu":
        return Verdict("timeout", seconds, f"over the CPU limit of {limits.cpu_seconds:g} s")
    if cause == "wall":
        detail = f"over the wall limit of {limits.wall_seconds:g} s (CPU used: {cpu:.1f} s)"
        verdict = Verdict("timeout", seconds, detail)
        return Again("alone", verdict) if cpu < limits.cpu_seconds / 2 else verdict
    return None


def ended_early(
    report: Report,
    limits: Limits,
    seconds: float,
    what: str = "the program ended before its tests",
) -> Verdict:
    """Judge a program that ended, or broke off the conversation, before its tests were done."""
    if report["ended_itself"] and report["exit"] in (-signal.SIGKILL, -signal.SIGXCPU):
        if report["cpu"] >= limits.cpu_seconds:
            return Verdict("timeout", seconds, f"over the CPU limit of {limits.cpu_seconds:g} s")
        return Verdict("memory", seconds, "killed by the system, most likely for lack of memory")
    return Verdict("failed", seconds, f"{what} ({_ending(report)})")


def _ending(report: Report) -> str:
    status = report["exit"]
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def results_of(report: Report) -> list[Any]:
    """Return the results in a report, up to the first line that is none."""
    found = []
    for line in report["results"][1:]:
        try:
            result = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(result, list):
            break
        found.append(result)
    return found


def fault_of(report: Report) -> str:
    """Return what kept the child from being confined, or "". Later lines are the program's own."""
    if report["cause"] == "died":
        return "a server died"
    lines = report["results"]
    stopped_before = not lines and not report["ended_itself"] and report["cause"] != "ended"
    if lines[:1] == [json.dumps(ENTERED)] or stopped_before:
        return ""
    return f"a child could not be confined ({lines[0] if lines else _ending(report)})"


def faulty(report: Report, detail: str) -> Again:
    """Return that a run is to be repeated because the sandbox failed."""
    return Again("fault", Verdict("error", report["wall"], f"sandbox fault: {detail}"))
