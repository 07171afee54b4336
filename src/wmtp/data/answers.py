"""Final answers of worked solutions in mathematics."""

from __future__ import annotations

import re

_MARK = "####"
_BOXED = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_NUMBER = re.compile(r"[-+]?\$?(?P<whole>\d{1,3}(,\d{3})+|\d+)?(?P<part>\.\d+)?%?\.?")


def marked_answer(solution: str) -> str | None:
    """Return what stands after the last `####` of a GSM8K solution, or None without one.

    A number comes without thousands separators, as `plain_number` writes it.
    """
    _, mark, answer = solution.rpartition(_MARK)
    answer = answer.strip()
    if not mark or not answer:
        return None
    return plain_number(answer) or answer


def boxed_answer(solution: str) -> str | None:
    r"""Return the contents of the last `\boxed{...}` (or `\fbox`, or `\boxed 3`), or None.

    Braces inside are matched; `\{` and `\}` are characters, not braces. An open box is no answer.
    """
    for found in reversed(list(_BOXED.finditer(solution))):
        answer = _argument(solution, found.end())
        if answer is not None:
            return answer.strip()
    return None


def plain_number(text: str) -> str | None:
    """Return the decimal number that `text` is, such as "-1234.5" for "-$1,234.50", or None.

    Separators of thousands, a dollar or percent sign and a full stop at the end go, and so do zeros
    that change nothing.
    """
    found = _NUMBER.fullmatch(text.strip())
    if not found or (found["whole"] is None and found["part"] is None):
        return None
    whole = (found["whole"] or "").replace(",", "").lstrip("0") or "0"
    part = (found["part"] or "").rstrip("0").rstrip(".")
    sign = "-" if text.strip().startswith("-") and (whole, part) != ("0", "") else ""
    return sign + whole + part


def _argument(text: str, start: int) -> str | None:
    r"""Return the argument of a TeX command that begins at `start`: a group, `\name`, or a sign."""
    if text[start : start + 1] != "{":
        found = re.match(r"\\[A-Za-z]+|[^\s$]", text[start:])
        return found[0] if found else None
    depth = 0
    for token in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return text[start + 1 : start + token.start()]
    return None
