"""What a slip puts in the place of what: operators, words and names of functions."""

from __future__ import annotations

import ast

COMPARISON = {
    "==": "!=", "!=": "==", "<": ">", ">": "<", "<=": ">=", ">=": "<=",
    "in": "not in", "not in": "in", "is": "is not", "is not": "is",
}  # fmt: skip
BOUNDARY = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
ARITHMETIC = {
    "+": "-", "-": "+", "*": "+", "/": "*", "//": "%", "%": "//", "**": "*",
    "&": "|", "|": "&", "^": "&", "<<": ">>", ">>": "<<",
}  # fmt: skip
BOOLEAN = {"and": "or", "or": "and", "True": "False", "False": "True"}
NOT_COMMUTATIVE = {"-", "/", "//", "%", "**"}
CALLS = [
    ("min", "max"), ("any", "all"), ("sum", "len"), ("len", "max"), ("sorted", "list"),
    ("set", "list"), ("ceil", "floor"), ("append", "extend"), ("add", "discard"),
    ("keys", "values"), ("upper", "lower"), ("lower", "swapcase"), ("isupper", "islower"),
    ("isalpha", "isalnum"), ("isdigit", "isalnum"), ("startswith", "endswith"), ("find", "rfind"),
    ("lstrip", "rstrip"), ("sort", "reverse"), ("ljust", "rjust"), ("popleft", "pop"),
    ("strip", "lstrip"), ("union", "intersection"), ("difference", "symmetric_difference"),
    ("issubset", "issuperset"), ("index", "count"), ("int", "float"), ("title", "capitalize"),
    ("gcd", "lcm"), ("sin", "cos"), ("nlargest", "nsmallest"), ("combinations", "permutations"),
    ("appendleft", "append"), ("insort_left", "insort_right"), ("bisect_left", "bisect_right"),
]  # fmt: skip

SYMBOLS: dict[type[ast.AST], str] = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
    ast.In: "in", ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not",
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
    ast.Pow: "**", ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<",
    ast.RShift: ">>", ast.And: "and", ast.Or: "or",
}  # fmt: skip
