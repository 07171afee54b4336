"""The caller's end of a process that runs the tests of a task, for one program after another."""

from __future__ import annotations

import json
import socket
from typing import Any

from wmtp.sandbox import wire
from wmtp.sandbox.conclusion import ENTERED, Report
from wmtp.sandbox.program import Limits, Program


class JudgeProcess:
    """One judge: which tests it has, and the line over which it gets programs and gives results.

    run: the number by which its fork server knows it. line: readable when there is a result, or
    when the process has ended. programs: how many were given to it.
    """

    def __init__(self, tests: str, limits: Limits, run: int, line: socket.socket) -> None:
        self.tests = tests
        self.limits = limits
        self.run = run
        self.line = line
        self.programs = 0
        self.result: list[Any] | None = None

    def suits(self, program: Program) -> bool:
        """Return whether it has the tests of `program`, within the same limits."""
        return self.tests == program.tests and self.limits == program.limits

    def begin(self, conversation: socket.socket) -> bool:
        """Give it the judge's end of the conversation with a program; False when it has ended."""
        self.result = None
        try:
            wire.send(self.line, b"", [conversation.fileno()])
        except OSError:
            return False
        self.programs += 1
        return True

    def hear(self) -> bool:
        """Take in a result; return whether the process goes on after it."""
        try:
            *self.result, goes_on = json.loads(wire.receive(self.line))
        except (OSError, EOFError):
            return False
        return bool(goes_on)

    def report(self, ending: Report | None = None) -> Report:
        """Return the report on the last program, given that on the `ending` if it has ended."""
        if self.result is None:
            assert ending is not None
            return ending
        *result, seconds = self.result
        base = ending or {"cause": "ended", "ended_itself": True, "exit": 0, "cpu": 0.0}
        lines = [json.dumps(ENTERED), json.dumps(result)]
        return {**base, "wall": seconds, "results": lines}
