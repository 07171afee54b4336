"""Kinds of problems of the levels 1, 3, 4 and 5; level 2 are the pipelines."""

from __future__ import annotations

from functools import cache

from wmtp.data.sources.minicode.kinds import machines, nested, recursion, reductions
from wmtp.data.sources.minicode.kinds.kind import Kind

LEVELS = 5
PIPELINE_LEVEL = 2


@cache
def kinds(largest: int) -> dict[int, tuple[Kind, ...]]:
    """Return the kinds of each level but that of the pipelines; constants are 2 to `largest`."""
    return {
        1: reductions.kinds(largest),
        3: nested.kinds(largest),
        4: recursion.kinds(largest),
        5: machines.kinds(largest),
    }
