"""Isolation of untrusted programs: what goes in, what comes out, and the sandbox between."""

from wmtp.sandbox.comparison import EXACT, Comparison
from wmtp.sandbox.pool import Sandbox
from wmtp.sandbox.program import (
    AnyProgram,
    Limits,
    OutcomeName,
    Program,
    StdioProgram,
    Verdict,
)
from wmtp.sandbox.tiers import SandboxStatus, probe

__all__ = [
    "EXACT",
    "AnyProgram",
    "Comparison",
    "Limits",
    "OutcomeName",
    "Program",
    "Sandbox",
    "SandboxStatus",
    "StdioProgram",
    "Verdict",
    "probe",
]
