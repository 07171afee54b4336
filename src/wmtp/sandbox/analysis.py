"""What can be read off the text of tests before they run."""

from __future__ import annotations

import ast
import builtins
import re
import symtable
import sys
from collections.abc import Iterator

# Modules that hold no state which using them could change, apart from setting their attributes.
STATELESS = frozenset(
    {
        *("bisect", "collections", "copy", "datetime", "fractions", "functools", "heapq"),
        *("itertools", "math", "string", "typing"),
    }
)
# Of the built-in names, those through which nothing is reached that outlives the tests.
HARMLESS = frozenset(
    {
        *("abs", "all", "any", "ascii", "bin", "bool", "bytearray", "bytes", "callable", "chr"),
        *("complex", "dict", "divmod", "enumerate", "filter", "float", "format", "frozenset"),
        *("hash", "hex", "id", "int", "isinstance", "issubclass", "iter", "len", "list", "map"),
        *("max", "min", "next", "object", "oct", "ord", "pow", "print", "range", "repr"),
        *("reversed", "round", "set", "slice", "sorted", "str", "sum", "tuple", "type", "zip"),
        *("Ellipsis", "NotImplemented"),
    }
)
# What leads to frames and what they hold, and `*`, which hides what is imported.
REACHING_OUT = re.compile(r"_|\*|(gi|cr|ag|tb|f)_")
# Names of the modules above that are tables, enter something in one, set attributes of what they are
# given, or take the names of attributes or code as text.
CHANGING = frozenset(
    {
        *("dispatch_table", "EXCLUDED_ATTRIBUTES", "register"),
        *("total_ordering", "update_wrapper", "wraps", "dataclass_transform", "final"),
        *("no_type_check", "no_type_check_decorator", "runtime_checkable"),
        *("Formatter", "get_type_hints"),
    }
)
MAKERS = (ast.ClassDef, ast.Import, ast.ImportFrom, ast.AsyncFunctionDef)


def leave_nothing(tests: str) -> bool:
    """Return whether running `tests` can change nothing that is there after their globals are gone.

    The state of a process is that of its modules. Such tests neither set attributes nor use a module,
    a built-in function or an attribute by which they could come at it. Tests are not hostile; what a
    program hands them is plain data or a reference to what stays with it.
    """
    try:
        return all(map(_leaves_nothing, ast.walk(ast.parse(tests))))
    except (RecursionError, MemoryError):  # more nested than a tree can be, though it compiles
        return False


def _leaves_nothing(node: ast.AST) -> bool:
    match node:
        case ast.ClassDef() | ast.AsyncFunctionDef():
            return False
        case ast.Call(func=ast.Name(id="type"), args=arguments):  # of several, it defines a class
            return len(arguments) == 1 and not isinstance(arguments[0], ast.Starred)
        case ast.Attribute(attr=name, ctx=context):
            return isinstance(context, ast.Load) and _stays_inside(name)
        case ast.MatchClass(kwd_attrs=names):
            return all(map(_stays_inside, names))
        case ast.Import(names=names):
            return all(alias.name in STATELESS for alias in names)
        case ast.ImportFrom(module=module, names=names):
            return module in STATELESS and all(_stays_inside(alias.name) for alias in names)
        case ast.Name(id=name):
            harmless = not hasattr(builtins, name) or name in HARMLESS or is_exception(name)
            return harmless and not name.startswith("__") and _has_no_state(name)
    return True


def _stays_inside(name: str) -> bool:
    """Return whether an attribute `name` leads neither to frames nor to a module with a state."""
    return not REACHING_OUT.match(name) and name not in CHANGING and _has_no_state(name)


def _has_no_state(name: str) -> bool:
    """Return whether `name`, where it is that of a module of the library, is one without a state."""
    return name in STATELESS or name not in sys.stdlib_module_names


def may_need_one_process(tests: str) -> bool:
    """Return whether `tests` have a statement that can make what does not cross.

    Where there is none, only a program can have brought about that something does not cross.
    """
    return any(isinstance(node, MAKERS) for node in ast.walk(ast.parse(tests)))


def names_left_to_the_program(tests: str) -> list[str]:
    """Return the global names that `tests` read and that neither they nor Python define.

    A name that the tests assign is among them, for it may be read before: `f = cache(f)`. Built-in
    names are Python's, or a program could redefine `set` to pass a test that compares sets. Where
    the tests read no name but a built-in one, that is what the task asks for and the program's.
    Where they read several, which one it is cannot be told: a `ValueError`.
    """
    top = symtable.symtable(tests, "<tests>", "exec")
    defined = {s.get_name() for s in top.get_symbols() if s.is_imported() or s.is_namespace()}
    assigned = {s.get_name() for s in top.get_symbols() if s.is_assigned()}
    read = sorted({n for n in _global_reads(top) if not n.startswith("__")} - defined)
    own = [name for name in read if not hasattr(builtins, name)]
    if assigned.issuperset(own):
        functions = [name for name in read if name not in own and not is_exception(name)]
        if len(functions) > 1:
            raise ValueError(
                f"all functions that they call are Python's own ({', '.join(functions)}), and which "
                "one the program has to define cannot be told; write those of Python as "
                "`builtins.name` after `import builtins`"
            )
        return own + functions
    return own


def _global_reads(table: symtable.SymbolTable) -> Iterator[str]:
    module = table.get_type() == "module"
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (module or symbol.is_global()):
            yield symbol.get_name()
    for inner in table.get_children():
        yield from _global_reads(inner)


def is_exception(name: str) -> bool:
    """Return whether the built-in `name` is a class of exceptions."""
    value = getattr(builtins, name)
    return isinstance(value, type) and issubclass(value, BaseException)
