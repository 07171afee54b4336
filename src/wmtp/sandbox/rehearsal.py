"""What a fork server does once before it serves, so that its children need not do it each.

A child shares the memory of its server until one of them writes to it, and every page written to costs
a page fault and a copy. The first runs of Python code write much: bytecode is specialised, caches are
filled, objects that live on are allocated. So the server goes through a conversation of each kind
itself, over prepared messages and with a fixed program. Nothing here comes from outside.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from wmtp.sandbox import wire
from wmtp.sandbox.candidate import answer_calls
from wmtp.sandbox.codec import dumps
from wmtp.sandbox.examination import examine, prepare
from wmtp.sandbox.peer import Peer

ROUNDS = 16  # more than the runs after which CPython specialises bytecode
CODE = """
from typing import List


def f(x: List[int]) -> str:
    return str(sorted(i for i in x if i))
"""
TESTS = """
def check(f):
    assert f([2.5, 1]) == "[1, 2.5]"
    assert f([]) == "[]"


check(f)
"""
KEYWORDS: dict[str, Any] = {"dict": [[], []]}
REQUESTS = (
    {"do": "lookup", "args": [[["f"]], KEYWORDS]},
    {"do": "call", "args": [[{"yours": 0}, [2.5, 1]], KEYWORDS]},
    {"do": "call", "args": [[{"yours": 0}, []], KEYWORDS]},
)
REPLIES = (
    {"value": [[], {"dict": [["f"], [{"mine": 0}]]}]},
    {"value": "[1, 2.5]"},
    {"value": "[]"},
)


def rehearse(jobs: Sequence[str]) -> None:
    """Go through the conversation from each side that this server's children will have."""
    for _ in range(ROUNDS):
        json.loads(json.dumps([CODE, 1.5, None]).encode())
        if "candidate" in jobs:
            with _after(REQUESTS) as channel:
                answer_calls(CODE, channel)
        if "judge" in jobs:
            with _after(REPLIES) as channel:
                result = examine(Peer(channel), prepare(TESTS))
            if result != ("passed", "", True):
                raise RuntimeError(f"rehearsal: {result}")
    sys.modules.pop("solution", None)


@contextmanager
def _after(messages: Sequence[dict[str, Any]]) -> Iterator[socket.socket]:
    """Give a channel whose other end has said `messages` and nothing more."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for message in messages:
            wire.send(ours, dumps(message))
        ours.shutdown(socket.SHUT_WR)
        yield theirs
