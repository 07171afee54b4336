"""Python source as a tree whose nodes know their place in the text."""

from __future__ import annotations

import ast
import re
import warnings

# The parser ends lines here only; `str.splitlines` also splits at form feeds and other separators.
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|$)")

Range = tuple[int, int]


class ParsedCode:
    """Parsed Python `text`, with character offsets instead of the parser's lines and bytes.

    tree: the module. Text that is not valid Python is a `SyntaxError`.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = parse(text)
        self._lines = _LINE.findall(text)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def line_start(self, number: int) -> int:
        """Return the offset at which line `number` (from 1) starts; past the end, the length."""
        return self._starts[min(number, len(self._starts)) - 1]

    def range(self, node: ast.expr | ast.stmt | ast.arg) -> Range:
        """Return the half-open character range of `node`, without enclosing parentheses."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._offset(node.lineno, node.col_offset)
        return start, self._offset(node.end_lineno, node.end_col_offset)

    def _offset(self, line: int, column: int) -> int:
        """Return the character offset of a line (from 1) and a column in UTF-8 bytes."""
        text = self._lines[line - 1]
        characters = column if text.isascii() else len(text.encode()[:column].decode())
        return self._starts[line - 1] + characters


def parse(text: str) -> ast.Module:
    """Return the tree of `text`; whatever the parser objects to is a `SyntaxError`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes and the like are not ours to report
        try:
            return ast.parse(text)
        except (ValueError, RecursionError, MemoryError) as error:  # NUL bytes, deep nesting
            raise SyntaxError(str(error) or type(error).__name__) from error
