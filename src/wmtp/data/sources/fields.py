"""What sources of programs share: code in records, and words for what was left out."""

from __future__ import annotations

from collections import Counter
from typing import Any

from wmtp.data.records import field_of


def with_lf(text: str) -> str:
    """Return `text` with LF line ends."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def code_of(record: dict[str, Any], name: str, where: str, how: str) -> str:
    """Return a field that is code, with LF line ends and without white space at its end."""
    return with_lf(field_of(record, name, str, where, how)).rstrip()


def told(counts: Counter[str]) -> str:
    """Return such as "2 empty programs, 1 repeated programs", the most frequent first, or ""."""
    return ", ".join(f"{number} {what}" for what, number in (+counts).most_common())
