"""The kinds of fault that `mutation` plants, found by walking the tree."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from wmtp.data.mutation_tables import (
    ARITHMETIC,
    BOOLEAN,
    BOUNDARY,
    CALLS,
    COMPARISON,
    NOT_COMMUTATIVE,
    SYMBOLS,
)
from wmtp.data.syntax import ParsedCode, Range

Replacement = tuple[int, int, str]  # half-open range in the original, new text

_BETWEEN = re.compile(r"#[^\r\n]*|(not\s+in\b|is\s+not\b|[^\s()\\#]+)")
_FLOAT = re.compile(r"\d*\.\d*[0-9]")
_ONE_MORE = re.compile(r"\s*[+-]\s*1")
_PLAIN_STRING = re.compile(r"""(["'])([^"'\\\r\n]+)\1""")
_SIMPLE = (ast.Assign, ast.AugAssign, ast.Expr, ast.Return, ast.Raise, ast.Break, ast.Continue)
_CONDITION = (ast.Compare, ast.Call, ast.Name, ast.Attribute, ast.Subscript)


class Edit(NamedTuple):
    """One fault: its kind, and what to replace by what."""

    operator: str
    replacements: tuple[Replacement, ...]


def edits(code: ParsedCode) -> list[Edit]:
    """Return all edits of `code` in a fixed order; not all of them leave valid Python.

    Code that is nested too deeply to be walked is a `SyntaxError`.
    """
    finder = _Finder(code)
    try:
        finder.visit(code.tree)
    except RecursionError as error:
        raise SyntaxError("nested too deeply") from error
    return finder.found


class _Finder(ast.NodeVisitor):
    def __init__(self, code: ParsedCode) -> None:
        self.code = code
        self.found: list[Edit] = []
        self._scopes: list[dict[str, None]] = [{}]  # dictionaries as ordered sets of variables
        self._never_zero: set[ast.expr] = set()

    # What an edit is made of.

    def _add(self, operator: str, *replacements: Replacement) -> None:
        self.found.append(Edit(operator, replacements))

    def _text(self, node: ast.expr) -> str:
        start, stop = self.code.range(node)
        return self.code.text[start:stop]

    def _replace(self, operator: str, node: ast.expr, new: str) -> None:
        self._add(operator, (*self.code.range(node), new))

    def _insert(self, operator: str, position: int, text: str) -> None:
        self._add(operator, (position, position, text))

    def _swap(self, first: ast.expr, second: ast.expr) -> None:
        one, two = self._text(first), self._text(second)
        if one != two:
            ranges = self.code.range(first), self.code.range(second)
            self._add("swap", (*ranges[0], two), (*ranges[1], one))

    def _operator(self, left: ast.expr, right: ast.expr, symbol: str) -> Range | None:
        """Return where `symbol` stands between two operands, or None when it is written oddly."""
        low, high = self.code.range(left)[1], self.code.range(right)[0]
        for match in _BETWEEN.finditer(self.code.text, low, high):
            if match[1] is not None:
                return match.span(1) if " ".join(match[1].split()) == symbol else None
        return None

    def _replace_operator(
        self, left: ast.expr, right: ast.expr, symbol: str, **tables: dict[str, str]
    ) -> None:
        where = self._operator(left, right, symbol)
        for operator, table in tables.items():
            new = table.get(symbol)
            if where and new:
                self._add(operator, (*where, new))

    # Scopes: which variables could be confused.

    def _bind(self, name: str) -> None:
        self._scopes[-1][name] = None

    def _visit_all(self, nodes: list[ast.expr] | list[ast.stmt]) -> None:
        for node in nodes:
            self.visit(node)

    def visit(self, node: ast.AST) -> None:
        """Find the edits at and below `node`."""
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list) and len(block) > 1:
                for statement in block:
                    self._drop(statement)
        super().visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        arguments = node.args
        self._visit_all([*arguments.defaults, *[d for d in arguments.kw_defaults if d]])
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        self._scopes.append({argument.arg: None for argument in named})
        self._visit_all([node.body] if isinstance(node, ast.Lambda) else node.body)
        self._scopes.pop()

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_Lambda = visit_FunctionDef

    def _visit_comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    ) -> None:
        self._scopes.append({})
        for generator in node.generators:
            self._visit_all([generator.iter, generator.target])
            for condition in generator.ifs:
                self._negate(condition)
                self.visit(condition)
        self._visit_all([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt])
        self._scopes.pop()

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _visit_comprehension

    def visit_Assign(self, node: ast.Assign) -> None:
        self._visit_all([node.value, *node.targets])

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._visit_all([*([node.value] if node.value else []), node.target])

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self._visit_all([node.iter, node.target])
        self._visit_all([*node.body, *node.orelse])

    visit_AsyncFor = visit_For

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self._bind(node.id)
            return
        known = list(dict.fromkeys(name for scope in self._scopes for name in scope))
        if node.id in known and self._text(node) == node.id:
            for other in known:
                if other != node.id:
                    self._replace("wrong_variable", node, other)

    # Operators, constants and calls.

    def visit_Compare(self, node: ast.Compare) -> None:
        for (left, right), kind in zip(
            pairwise([node.left, *node.comparators]), node.ops, strict=True
        ):
            symbol = SYMBOLS[type(kind)]
            self._replace_operator(left, right, symbol, comparison=COMPARISON, boundary=BOUNDARY)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        symbol = SYMBOLS.get(type(node.op), "@")
        self._replace_operator(node.left, node.right, symbol, arithmetic=ARITHMETIC)
        if symbol in NOT_COMMUTATIVE:
            self._swap(node.left, node.right)
        low, high = self.code.range(node.left)[1], self.code.range(node.right)[1]
        if _ONE_MORE.fullmatch(self.code.text, low, high):
            self._add("off_by_one", (low, high, ""))
            self._never_zero.add(node.right)  # nobody writes `n - 0`
        self.generic_visit(node)

    def visit_Tuple(self, node: ast.Tuple) -> None:
        if isinstance(node.ctx, ast.Load):
            for first, second in pairwise(node.elts):
                if not isinstance(first, ast.Starred) and not isinstance(second, ast.Starred):
                    self._swap(first, second)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        symbol = SYMBOLS.get(type(node.op), "@")
        where = self._operator(node.target, node.value, f"{symbol}=")
        if where and symbol in ARITHMETIC:
            self._add("arithmetic", (*where, f"{ARITHMETIC[symbol]}="))
        self.visit(node.value)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in pairwise(node.values):
            self._replace_operator(left, right, SYMBOLS[type(node.op)], boolean=BOOLEAN)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        sign = {ast.Not: ("boolean", r"not\b\s*"), ast.USub: ("arithmetic", r"-\s*")}
        if type(node.op) in sign:
            operator, pattern = sign[type(node.op)]
            found = re.compile(pattern).match(self.code.text, self.code.range(node)[0])
            if found:
                self._add(operator, (*found.span(), ""))
        self.generic_visit(node)

    def visit_If(self, node: ast.If | ast.While | ast.IfExp) -> None:
        self._negate(node.test)
        if isinstance(node, ast.IfExp):
            self._swap(node.body, node.orelse)
        self.generic_visit(node)

    visit_While = visit_If
    visit_IfExp = visit_If

    def _negate(self, condition: ast.expr) -> None:
        if isinstance(condition, _CONDITION):
            self._insert("boolean", self.code.range(condition)[0], "not ")

    def visit_Constant(self, node: ast.Constant) -> None:
        text = self._text(node)
        if text in BOOLEAN:
            self._replace("boolean", node, BOOLEAN[text])
        elif text.isascii() and text.isdigit():
            self._replace("constant", node, str(int(text) + 1))
            if int(text) > (node in self._never_zero):
                self._replace("constant", node, str(int(text) - 1))
        elif _FLOAT.fullmatch(text):
            self._replace("constant", node, _other_end(text))
        elif found := _PLAIN_STRING.fullmatch(text):
            quote, content = found.groups()
            for new in _other_strings(content):
                self._replace("constant", node, f"{quote}{new}{quote}")

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Leave f-strings alone: before Python 3.12 their parts do not know their place."""

    def visit_Expr(self, node: ast.Expr) -> None:
        if not _is_docstring(node):
            self.visit(node.value)

    def visit_Slice(self, node: ast.Slice) -> None:
        for bound in (node.lower, node.upper):
            self._shift(bound)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.slice, ast.Name):
            self._shift(node.slice)
        self.generic_visit(node)

    def _shift(self, bound: ast.expr | None) -> None:
        """Move a bound by one that does not end in a number; `constant` does the numbers."""
        last = bound.right if isinstance(bound, ast.BinOp) else bound
        if bound is not None and not isinstance(last, ast.Constant | ast.UnaryOp):
            for change in (" + 1", " - 1"):
                self._insert("off_by_one", self.code.range(bound)[1], change)

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        stop = self.code.range(node.func)[1]
        start = stop - len(name)
        for pair in CALLS:
            if name in pair and self.code.text[start:stop] == name:
                self._add("wrong_call", (start, stop, pair[name == pair[0]]))
        positional = [a for a in node.args if not isinstance(a, ast.Starred)]
        if len(positional) == len(node.args):
            for first, second in pairwise(positional):
                self._swap(first, second)
        if isinstance(node.func, ast.Name) and node.func.id == "range" and positional:
            self._shift(positional[min(1, len(positional) - 1)])
            if len(node.args) == 1:
                self._insert("off_by_one", self.code.range(positional[0])[0], "1, ")
        if isinstance(node.func, ast.Attribute) and not isinstance(node.func.value, ast.Name):
            self.visit(node.func.value)  # a bare receiver stays: `x.append` for `out.append` is odd
        self._visit_all([*node.args, *[keyword.value for keyword in node.keywords]])

    def visit_Break(self, node: ast.Break) -> None:
        self._add("loop_control", (*self.code.range(node), "continue"))

    def visit_Continue(self, node: ast.Continue) -> None:
        self._add("loop_control", (*self.code.range(node), "break"))

    def _drop(self, statement: ast.stmt) -> None:
        """Remove a simple statement that has its lines for itself."""
        if not isinstance(statement, _SIMPLE) or _is_docstring(statement):
            return
        text = self.code.text
        start, stop = self.code.range(statement)
        low = self.code.line_start(statement.lineno)
        high = self.code.line_start((statement.end_lineno or 0) + 1)
        if text[low:start].strip() or re.sub("#.*", "", text[stop:high]).strip():
            return
        if high == len(text) and not text.endswith(("\r", "\n")):
            low = len(
                text[:low].rstrip("\r\n")
            )  # the line end before goes instead of the one after
        self._add("dropped_statement", (low, high, ""))


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _other_strings(content: str) -> Iterator[str]:
    """Yield slips of a string: one character short, or its last character another one."""
    if len(content) > 1:
        yield content[:-1]
    if content[-1].isascii() and content[-1].isalnum():
        yield _other_end(content)


def _other_end(content: str) -> str:
    """Return `content` with its last letter or digit replaced by its neighbour."""
    last = content[-1]
    return content[:-1] + {"z": "y", "Z": "Y", "9": "8"}.get(last, chr(ord(last) + 1))
