r"""Compares final answers symbolically, one child process per answer; run as a script by `answers`.

Reads JSON lines `{expected, given, cpu_seconds, wall_seconds, memory_bytes}` and answers each with
`{outcome, detail}`. It imports nothing of ours, so that it starts alone.

Answers are parsed as LaTeX only: math-verify's other grammar hands text to `eval`. What an answer can
still do is take time and memory (`9^{9^{9^9}}`), also inside one call of C code, where no alarm is
delivered, and exceptions are caught by the libraries on the way. So math-verify's own time limit, an
alarm, is off, and a child with resource limits that can be killed stands in its place.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import select
import signal
import sys
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

_EQUAL, _DIFFERENT, _NO_MEMORY = b"=", b"!", b"m"


def equal(expected: str, given: str) -> bool:
    r"""Return whether two answers, such as "\frac{1}{2}" and "0.5", mean the same; without a limit."""
    parsed = [
        parse(f"${answer}$", extraction_config=[LatexExtractionConfig()], parsing_timeout=None)
        for answer in (expected, given)
    ]
    return bool(verify(*parsed, timeout_seconds=None))


def _limit(name: str, value: int, grace: int = 0) -> None:
    kind = getattr(resource, f"RLIMIT_{name}")
    _, hard = resource.getrlimit(kind)
    most = value + grace if hard == resource.RLIM_INFINITY else min(value + grace, hard)
    try:
        resource.setrlimit(kind, (min(value, most), most))
    except (OSError, ValueError):
        if sys.platform == "linux":  # elsewhere some limits exist and cannot be set
            raise


def _compare(request: dict[str, Any], out: int) -> None:
    """Confine this process, the child, and write one byte to `out`."""
    _limit("CPU", request["cpu_seconds"], grace=1)  # SIGXCPU first, which tells it from other ends
    _limit("AS", request["memory_bytes"])
    _limit("FSIZE", 0)
    _limit("CORE", 0)
    try:
        answer = _EQUAL if equal(request["expected"], request["given"]) else _DIFFERENT
    except MemoryError:
        answer = _NO_MEMORY
    os.write(out, answer)


def _outcome(request: dict[str, Any]) -> dict[str, str]:
    """Return what became of one comparison, made in a child of this process."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _compare(request, theirs)
        finally:
            os._exit(0)  # never back into the loop, whatever was raised: no answer is a wrong one
    os.close(theirs)
    ready, _, _ = select.select([ours], [], [], request["wall_seconds"])
    said = os.read(ours, 1) if ready else b""
    os.close(ours)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if said == _EQUAL:
        return {"outcome": "passed", "detail": ""}
    if said == _DIFFERENT:
        return {"outcome": "failed", "detail": "another answer"}
    if said == _NO_MEMORY:
        return {"outcome": "memory", "detail": "the comparison took too much memory"}
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if not ready or ended == signal.SIGXCPU:
        return {"outcome": "timeout", "detail": "the comparison took too long"}
    return {"outcome": "failed", "detail": "the comparison broke off"}


def main() -> None:
    """Answer requests until the input ends."""
    logging.disable(logging.CRITICAL)
    equal("1", r"\frac{2}{2}")  # builds the parsers once, here, not in every child
    for line in sys.stdin:
        print(json.dumps(_outcome(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
