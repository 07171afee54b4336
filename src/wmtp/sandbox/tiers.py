"""Which isolation works on this machine, found out by trying it."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from wmtp.errors import SandboxError
from wmtp.sandbox import seccomp
from wmtp.sandbox.judging import Judging
from wmtp.sandbox.program import Limits, OutcomeName, Program
from wmtp.sandbox.slot import Slot

ISOLATED = ("namespaces", "bubblewrap")
LIMITS_ONLY = "limits-only"
FIX = (
    "Allow unprivileged user namespaces (in a container: run it with seccomp=unconfined), or "
    "install bubblewrap. To accept resource limits without isolation, add --sandbox limits-only or "
    "--set-env sandbox.mode=limits-only."
)


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """What the self-test found.

    tier: the isolation that `mode="auto"` takes, or None. unavailable: for each tier that does not
    work here, why. lines: the same for people.
    """

    tier: str | None
    unavailable: dict[str, str]

    @property
    def lines(self) -> tuple[str, ...]:
        """One line per isolated tier."""
        shown = [
            f"{tier}: {self.unavailable.get(tier, 'works' if tier == self.tier else 'not needed')}"
            for tier in (*ISOLATED, LIMITS_ONLY)
        ]
        return tuple(shown)


def probe() -> SandboxStatus:
    """Try each tier on a few programs, the strongest first, and return what works.

    A benign program must pass; programs that read files of this machine, open a connection, start a
    process, outlive their time or leave early must be contained. Takes about half a second.
    """
    unavailable: dict[str, str] = {}
    for tier in ISOLATED:
        reason = why_unavailable(tier)
        if reason is None:
            return SandboxStatus(tier, unavailable)
        unavailable[tier] = reason
    return SandboxStatus(None, unavailable)


def choose(mode: str) -> str:
    """Return the tier that `mode` stands for; `SandboxError` naming the failed probe if none."""
    if mode == LIMITS_ONLY:
        reason = why_unavailable(LIMITS_ONLY)
        if reason is not None:
            raise SandboxError(f"programs cannot be run here, even without isolation: {reason}.")
        return LIMITS_ONLY
    if mode != "auto":
        raise SandboxError(f"unknown sandbox mode {mode!r}. Known: auto, limits-only.")
    status = probe()
    if status.tier is None:
        reasons = "; ".join(f"{tier}: {reason}" for tier, reason in status.unavailable.items())
        raise SandboxError(f"model-written programs cannot be isolated here ({reasons}). {FIX}")
    return status.tier


@cache
def why_unavailable(tier: str) -> str | None:
    """Return None when `tier` works here, else one phrase that says what failed."""
    if tier != LIMITS_ONLY:
        if sys.platform != "linux":
            return "needs Linux"
        if not seccomp.is_supported():
            return f"there is no system-call table for {os.uname().machine}"
    if tier == "bubblewrap" and shutil.which("bwrap") is None:
        return "bwrap is not on PATH"
    try:
        return _self_test(tier)
    except SandboxError as error:
        return str(error)


_PEEK = """
import os, socket
def readable(paths):
    return [p for p in paths if os.path.lexists(p)]
def connects(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.5).close()
    except OSError:
        return False
    return True
def forks():
    try:
        child = os.fork()
    except OSError:
        return False
    if child == 0:
        os._exit(0)
    return True
"""


def _self_test(tier: str) -> str | None:
    limits = Limits(cpu_seconds=0.2)
    checks: list[tuple[str, Program, OutcomeName]] = [
        ("a correct program", Program("def f(x): return x + 1", "assert f(1) == 2"), "passed"),
        ("an endless loop", Program("while True: pass", "", limits), "timeout"),
        ("a faked exit", Program("import os; os._exit(0)", "assert f() == 1"), "failed"),
    ]
    with tempfile.NamedTemporaryFile() as secret, socket.create_server(("127.0.0.1", 0)) as server:
        if tier != LIMITS_ONLY:
            paths = ["/etc/passwd", "/proc/self", secret.name, *_home_entries()]
            port = server.getsockname()[1]
            checks += [
                ("reading files", Program(_PEEK, f"assert not readable({paths!r})"), "passed"),
                ("a connection", Program(_PEEK, f"assert not connects({port})"), "passed"),
                ("a new process", Program(_PEEK, "assert not forks()"), "passed"),
            ]
        slot = Slot(tier)
        try:
            verdicts = dict(Judging([slot], [program for _, program, _ in checks]).run())
        finally:
            slot.close()
    for index, (name, _, expected) in enumerate(checks):
        verdict = verdicts[index]
        if verdict.outcome != expected:
            return (
                f"self-test with {name}: {verdict.outcome} instead of {expected} ({verdict.detail})"
            )
    return None


def _home_entries() -> list[str]:
    """Return a few files of the home directory, those above the Python installation left out."""
    prefix = Path(sys.base_prefix).resolve()
    try:
        home = Path.home()
        if not home.is_absolute() or any(home.samefile(path) for path in ("/", "/usr")):
            return []  # no home; programs do see some of the folders in it
        entries = [path for path in home.iterdir() if path not in (prefix, *prefix.parents)]
    except (OSError, RuntimeError):
        return []
    return [str(path) for path in entries[:20]]
