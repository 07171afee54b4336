"""Starting a fork server of one tier, and ending it for certain."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wmtp.errors import SandboxError
from wmtp.sandbox import wire
from wmtp.sandbox.isolation import DEVICES, INNER_ID, readable_paths

START_SECONDS = 20.0
END_SECONDS = 10.0
PACKAGE = Path(__file__).resolve().parent
ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "LD_BIND_NOW": "1",  # else every child looks up the same symbols again
    "MALLOC_ARENA_MAX": "2",  # an arena per thread would use up the address space
    "PATH": "/usr/bin:/bin",
    "PYTHONHASHSEED": "0",
    "TMPDIR": "/tmp",
}
# Stands in for the package's own __init__ files, which import what a server does not need.
BOOTSTRAP = """
import sys, types
folder, control, tier, *jobs = sys.argv[1:]
for name in ("wmtp", "wmtp.sandbox"):
    module = types.ModuleType(name)
    module.__path__ = [folder] if "." in name else []
    sys.modules[name] = module
from wmtp.sandbox.server import main
main(int(control), tier, tuple(jobs))
"""


class ServerProcess:
    """A running fork server: its control socket and the process that holds it."""

    def __init__(self, tier: str, jobs: Sequence[str]) -> None:
        self.tier = tier
        self.control, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            _command(tier, theirs.fileno(), jobs),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            cwd="/",
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        try:
            self._await_ready()
        except BaseException:
            self.close()
            raise

    def _await_ready(self) -> None:
        try:
            answer = self.receive(START_SECONDS)
        except TimeoutError:
            raise SandboxError(
                f"a {self.tier} server did not start in {START_SECONDS:.0f} s."
            ) from None
        except (EOFError, OSError):
            self._process.kill()
            said = self._process.communicate()[1].decode(errors="replace").strip()
            last = said.splitlines()[-1] if said else "it said nothing"
            raise SandboxError(f"a {self.tier} server ended at its start: {last}") from None
        if "failed" in answer:
            raise SandboxError(answer["failed"])

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send a request; an `OSError` when the server is gone."""
        wire.send(self.control, json.dumps(message).encode(), descriptors)

    def receive(self, timeout_seconds: float | None = None) -> dict[str, Any]:
        """Return the next report; `EOFError` or `OSError` when the server is gone or silent."""
        if timeout_seconds is None:
            return json.loads(wire.receive(self.control))
        self.control.settimeout(timeout_seconds)
        report = self.receive()
        self.control.settimeout(None)
        return report

    def close(self) -> None:
        """End the server and everything in it; returns when all of it is dead."""
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_WR)
            self.control.settimeout(END_SECONDS)
            while self.control.recv(1 << 16):
                pass
        self.control.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()


def _command(tier: str, control: int, jobs: Sequence[str]) -> list[str]:
    python = getattr(sys, "_base_executable", None) or sys.executable
    folder = str(PACKAGE)
    wrapper: list[str] = []
    if tier == "bubblewrap":
        folder = "/sandbox"
        wrapper = _bubblewrap(python)
    return [
        *wrapper,
        python,
        "-S",
        "-s",
        "-P",
        "-B",
        "-c",
        BOOTSTRAP,
        folder,
        str(control),
        tier,
        *jobs,
    ]


def _bubblewrap(python: str) -> list[str]:
    program = shutil.which("bwrap")
    if program is None:
        raise SandboxError("bwrap is not on PATH")
    command = [program, "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc"]
    command += ["--unshare-uts", "--unshare-cgroup-try", "--die-with-parent", "--new-session"]
    command += ["--uid", str(INNER_ID), "--gid", str(INNER_ID), "--hostname", "sandbox"]
    for path in [*readable_paths(), python]:
        if Path(path).is_symlink() and path != python:
            command += ["--symlink", str(Path(path).readlink()), path]
        else:
            command += ["--ro-bind", path, path]
    for name in DEVICES:
        command += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    command += ["--ro-bind", str(PACKAGE), "/sandbox", "--size", str(64 << 20), "--tmpfs", "/tmp"]
    return [*command, "--remount-ro", "/", "--chdir", "/tmp", "--"]
