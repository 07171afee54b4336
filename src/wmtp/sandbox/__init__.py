"""Isolation of untrusted programs: what goes in, what comes out, and the sandbox between."""

from wmtp.sandbox.pool import Sandbox
from wmtp.sandbox.program import Limits, OutcomeName, Program, Verdict
from wmtp.sandbox.tiers import SandboxStatus, probe

__all__ = [
    "Limits",
    "OutcomeName",
    "Program",
    "Sandbox",
    "SandboxStatus",
    "Verdict",
    "probe",
]
