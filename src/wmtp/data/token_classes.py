"""What kind of Python text each token of a completion is, by Python's own tokenizer."""

from __future__ import annotations

import io
import keyword
import tokenize
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

TOKEN_CLASSES = ("keyword", "name", "operator", "literal", "whitespace", "other")
KEYWORD, NAME, OPERATOR, LITERAL, WHITESPACE, OTHER = range(len(TOKEN_CLASSES))

_OF_KIND = {tokenize.OP: OPERATOR, tokenize.NUMBER: LITERAL, tokenize.STRING: LITERAL}
# Formatted strings are tokens of their own since Python 3.12.
_OF_KIND |= {
    getattr(tokenize, name): LITERAL
    for name in ("FSTRING_START", "FSTRING_MIDDLE", "FSTRING_END")
    if hasattr(tokenize, name)
}


def token_classes(prompt: str, completion: str, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return the class [T] of each token, as its place in `TOKEN_CLASSES`.

    spans: half-open character range of each token in the completion. A token has the class of its
    first character that is no white space; `whitespace` are those without one, and comments. Where
    Python's tokenizer refuses the completion, alone and after its prompt, every token is `other`.
    """
    classes = _of_characters(prompt + completion)
    classes = _of_characters(completion) if classes is None else classes[len(prompt) :]
    if classes is None:
        return np.full(len(spans), OTHER, dtype=np.int8)
    found = np.full(len(spans), WHITESPACE, dtype=np.int8)
    for i, (start, stop) in enumerate(spans):
        ink = next((c for c in range(max(start, 0), stop) if not completion[c].isspace()), None)
        if ink is not None:
            found[i] = classes[ink]
    return found


def _of_characters(text: str) -> np.ndarray | None:
    """Return the class of each character of `text`, None where it cannot be told."""
    if "\r" in text:
        return None  # versions of Python differ in whether a line ends there
    starts = [0, *accumulate(len(line) + 1 for line in text.split("\n"))]
    classes = np.full(len(text), WHITESPACE, dtype=np.int8)
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            kind = _OF_KIND.get(token.type)
            if token.type == tokenize.NAME:
                kind = KEYWORD if keyword.iskeyword(token.string) else NAME
            elif token.type == tokenize.ERRORTOKEN and not token.string.isspace():
                return None
            if kind is not None:
                start, stop = (
                    starts[line - 1] + column for line, column in (token.start, token.end)
                )
                classes[start:stop] = kind
    except (tokenize.TokenError, SyntaxError, UnicodeError):
        return None
    return classes
