"""Programs that own the conversation: they send what they like and try to be taken for correct."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wmtp.inputs import read_jsonl
from wmtp.outputs import append_jsonl

from .conftest import Run

# A candidate that speaks for itself: `get()` is the judge's next request, `put(m)` the answer.
SPEAK = r"""
import json, os, socket, struct
_socket = socket.socket(fileno=5)
def _exactly(n):
    data = b''
    while len(data) < n:
        part = _socket.recv(n - len(data))
        if not part:
            os._exit(0)
        data += part
    return data
def get():
    return json.loads(_exactly(struct.unpack('>I', _exactly(4))[0]))
def put(message):
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    _socket.sendall(struct.pack('>I', len(data)) + data)
def define(*names, modules=(), **values):
    get()
    values = {**{name: {'mine': i} for i, name in enumerate(names)}, **values}
    put({'value': [list(modules), {'dict': [list(values), list(values.values())]}]})
def always(value):
    while True:
        get()
        put({'value': value})
"""
LIES = """
class Lie:
    always = lambda self, *others: True
    __eq__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = __bool__ = __exit__ = always
    __ne__ = lambda self, other: False
    __hash__ = lambda self: 0
    __sub__ = __rsub__ = __abs__ = __neg__ = lambda self, *others: 0
    __getitem__ = __enter__ = __call__ = lambda self, *others: self
    __getattr__ = lambda self, name: self
"""


def rejected(verdict: object) -> bool:
    """Return whether the verdict is `failed` after a split run, with a detail that can be kept."""
    outcome, detail = verdict.outcome, verdict.detail  # type: ignore[attr-defined]
    return (
        outcome == "failed"
        and "in-process" not in detail
        and len(detail) <= 300
        and detail.isprintable()
    )


# ---- built-in names -----------------------------------------------------------------------------

REPLACED = {
    "range": ("[]", "for x in range(5):\n    assert f(x) == x * x"),
    "abs": ("0", "assert abs(f(3) - 9.5) < 1e-6"),
    "set": ("0", "assert set(f((3, 4), (4, 5))) == set((4,))"),
    "all": ("True", "assert all(f(x) == x * x for x in (2, 3))"),
    "sorted": ("0", "assert sorted(f(3)) == sorted([2, 1])"),
    "zip": ("[]", "for x, y in zip([1, 2], [1, 4]):\n    assert f(x) == y"),
}


@pytest.mark.parametrize("name", REPLACED)
def test_a_built_in_name_is_never_replaced(run: Run, name: str) -> None:
    value, tests = REPLACED[name]
    speaking = f"{SPEAK}\ndefine('f', '{name}')\nalways({value!s})"
    assert rejected(run(speaking, tests))
    patched = f"""
import sys
Peer = sys.modules['wmtp.sandbox.peer'].Peer
before = Peer.__init__
def changed(self, connection, operations=None):
    lookup = operations['lookup']
    def extended(names):
        modules, values = lookup(names)
        return [modules, dict(values, {name}=lambda *a: {value})]
    before(self, connection, dict(operations, lookup=extended))
Peer.__init__ = changed
def f(*a): return {value}
"""
    assert rejected(run(patched, tests))
    assert rejected(run(f"{name} = lambda *a: {value}", tests))
    both = f"f = {name} = lambda *a: {value}"
    assert rejected(run(both, tests))


def test_which_built_in_name_a_task_asks_for_has_to_be_plain(run: Run) -> None:
    tests = "for k in range(3):\n    assert sum(k, 1) == k"
    for code in ("def sum(a, b): return a * b", "range = lambda *a: []"):
        verdict = run(code, tests)
        assert verdict.outcome == "error"
        assert "cannot be told" in verdict.detail
    plain = f"import builtins\n{tests.replace('range', 'builtins.range')}"
    assert run("def sum(a, b): return a * b", plain).outcome == "passed"
    assert rejected(run("def sum(a, b): return a + b", plain))


ANSWERS = [
    '"f"',
    '{"mine": 1}',
    "[]",
    "[[], []]",
    '[{"mine": 1}, {"dict": [["f"], [{"mine": 0}]]}]',
    '[[], {"mine": 1}]',
    '{"dict": [["f"], [{"mine": 0}]]}',
    '[[], {"dict": [["f"]]}]',
    '[[], {"dict": [["f"], [{"mine": "0"}]]}]',
    '[[], {"dict": [["f"], [{"library": ["builtins", "len"]}]]}]',
    '[[], {"dict": [["f"], [{"lent": [0, "function"]}]]}]',
    '[[], {"dict": [["f"], [{"error": ["x", []]}]]}]',
    '[[], {"dict": [["f"], [{"extended": [9, 9]}]]}]',
    '[[], {"dict": [["f"], [{"extended": [{"mine": 0}, {"mine": 0}]}]]}]',
    '[[], {"dict": [["f"], [{"type": "type"}]]}]',
    '[[], {"dict": [["f"], [{"type": "Exception"}]]}]',
    '[[], {"dict": [[{"mine": 1}, "f"], [1, {"exception": [[], "ValueError"]}]]}]',
    '[["builtins", "f", "os", 3, null], {"dict": [[], []]}]',
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_of_another_shape_fails(run: Run, answer: str) -> None:
    code = f"{SPEAK}\nget()\nput(b'{{\"value\": ' + {answer.encode()!r} + b'}}')\nalways(True)"
    assert rejected(run(code, "assert f(3) == 9"))


def test_the_program_is_told_no_more_names_than_it_may_define(run: Run) -> None:
    told = "names = get()['args'][0][0]\nput({'value': [[], {'dict': [['f'], [names]]}]})"
    tests = """
import math as secret_module
def helper(secret_argument):
    secret_local = secret_argument.secret_attribute
    return g
class SecretClass: pass
value = f
assert value == ['f', 'g', 'value'], value
"""
    verdict = run(f"{SPEAK}\n{told}\nalways(0)", tests)
    assert verdict.outcome == "passed", verdict


# ---- the weaker path ----------------------------------------------------------------------------

WEAKER = {
    "an exception class called": ("C = ValueError", "assert f([C(5, 24)]) == 3"),
    "an exception of its own called": ("class C(KeyError): pass", "assert f(C(5)) == 3"),
    "the type of everything": ("C = object", "assert f(C()) == 3"),
    "a type of the library": ("from decimal import Decimal as C", "assert f(C(5)) == 3"),
    "an enumeration": ("from enum import Enum as C", "assert f(C) == 3"),
    "a slice": ("C = Lie", "assert f(C()[1:2]) == [1]"),
    "an ellipsis": ("C = Lie", "assert f(C()[..., 1]) == [1]"),
    "a caught exception": (
        "def C(): raise KeyError(1)",
        "try:\n    C()\nexcept Exception as error:\n    assert f(error) == 3",
    ),
    "the class of a caught exception": (
        "class Own(Exception): pass\ndef C(): raise Own",
        "try:\n    C()\nexcept Exception as error:\n    assert f(type(error)) == 3",
    ),
    "the type of an object": ("C = Lie", "assert f(type(C())) == 3"),
    "the type of an extended list": (
        "class Many(list): pass\ndef C(): return Many()",
        "assert f(type(C())) == 3",
    ),
    "the type of nothing": ("def C(): return None", "assert f(type(C())) == 3"),
    "an iterator": ("def C(): return [1]", "assert f(iter(C())) == 3"),
    "another iterator": (
        "from collections import deque\ndef C(): return deque([1])",
        "assert f(iter(C())) == 3",
    ),
    "parts of a number": (
        "from decimal import Decimal\ndef C(): return Decimal(5)",
        "assert f(C().as_tuple()) == 3",
    ),
    "parts of a moment": (
        "from datetime import datetime, timezone\ndef C(): return datetime.now(timezone.utc)",
        "assert f(C().timetuple(), C().isocalendar(), C().tzinfo) == 3",
    ),
    "a generator": ("def C(): return [1]", "assert f(x for x in C()) == 3"),
    "a view": ("def C(): return {1: 2}", "assert f(C().keys()) == 3"),
    "an extended list": ("class C(list): pass", "assert f(C()) == 3"),
    "a module": (
        "import builtins\ndef C(): return builtins",
        "n = C()\nn.next = 1\nassert f(n) == 3",
    ),
}


@pytest.mark.parametrize("name", WEAKER)
def test_nothing_that_a_program_sends_leads_to_in_process_tests(run: Run, name: str) -> None:
    code, tests = WEAKER[name]
    # The second tests might need one process, as far as their statements tell.
    for first in ("", "import math\n"):
        verdict = run(f"{LIES}\n{code}\ndef f(*a): return Lie()", first + tests)
        assert rejected(verdict), verdict


def test_tests_that_make_nothing_of_their_own_never_run_in_process(run: Run) -> None:
    verdict = run(f"{LIES}\ndef f(x): return Lie()", "assert f(memoryview(b'')) == 3")
    assert rejected(verdict), verdict


def test_handing_over_what_a_program_brought_about_cannot_be_caught(run: Run) -> None:
    tests = "try:\n    f(type(f(1)))\nexcept BaseException:\n    pass"
    assert rejected(run("def f(x): return f", tests))


# ---- modules ------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["builtins", "os", "sys", "gc", "operator"])
def test_a_module_of_the_program_does_nothing_in_the_judge(run: Run, module: str) -> None:
    code = (
        f"import {module}\ndef make(): return {module}\ndef f(x): return 0\ndef zero(*a): return 0"
    )
    patch = "s = make()\ns.abs = s.len = s.eq = zero\nassert abs(f(3) - 9) < 0.01"
    assert rejected(run(code, patch))
    assert rejected(run(code, "s = make()\ns.abort()\nassert s.state == 'aborted'"))
    speaking = f"{SPEAK}\ndefine('make', 'f', s={{'module': '{module}'}})\nalways(0)"
    assert rejected(run(speaking, "s.abs = f\nassert abs(f(3) - 9) < 0.01"))


def test_a_module_that_tests_use_is_the_real_one(run: Run) -> None:
    tests = "assert math.isclose(f(3), 9.5)"
    assert run("import math\ndef f(x): return 9.5", tests).outcome == "passed"
    code = "import math\nmath.isclose = lambda *a: True\ndef f(x): return 0"
    assert rejected(run(code, tests))
    code = f"{SPEAK}\ndefine('f', modules=['math', 'f', 'all'])\nalways(0)"
    assert rejected(run(code, tests))


# ---- exceptions ---------------------------------------------------------------------------------

LOOPS = [
    "assert all(map(f, [1, 2, 3]))",
    "for got, want in zip(map(f, [1, 2]), [1, 4]):\n    assert got == want",
    "for got in iter(f, None):\n    assert got == 1",
    "assert not any(map(lambda x: f(x) != x, [1, 2]))",
    "assert [x for x in filter(lambda x: f(x) != x, [1, 2])] == []",
    "for x in map(lambda x: f(x).y[0], [1]):\n    assert x == 1",
    "def g():\n    yield f(1)\n    assert False\nfor x in g():\n    assert x == 1",
    "def g():\n    yield 1\n    f(1)\n    assert False\nh = g()\nnext(h)\nh.close()\nassert f(1) == 1",
]


@pytest.mark.parametrize("tests", LOOPS)
@pytest.mark.parametrize("error", ["StopIteration", "GeneratorExit", "Own"])
def test_an_exception_does_not_end_a_loop_of_the_tests(run: Run, error: str, tests: str) -> None:
    code = f"""
class Own(StopIteration): pass
def f(*a): raise {error}
"""
    assert rejected(run(code, tests))
    later = f"""
class Own(StopIteration): pass
class Late:
    def __getattr__(self, name): raise {error}
    def __len__(self): raise {error}
    __iter__ = __getitem__ = __bool__ = __len__
def f(*a): return Late()
"""
    assert rejected(run(later, tests))


def test_only_its_end_may_come_from_an_iterator(run: Run) -> None:
    tests = """
def g():
    try:
        yield 1
    finally:
        next(f(1))
        assert False
h = g()
next(h)
h.close()
"""
    assert rejected(run("def f(x):\n    yield from ()\n    raise GeneratorExit", tests))
    code = "class I:\n    def __next__(self): raise GeneratorExit\ndef f(x): return I()"
    assert rejected(run(code, tests))


def test_an_iterator_ends_as_it_should(run: Run) -> None:
    tests = "assert list(f(2)) == [0, 1] and next(f(0), 5) == 5"
    assert run("def f(n): yield from range(n)", tests).outcome == "passed"


@pytest.mark.parametrize("name", ["AssertionError", "Exception", "BaseException"])
def test_a_program_cannot_have_a_failed_assertion_caught(run: Run, name: str) -> None:
    tests = "try:\n    f(-1)\n    assert False, 'nothing was raised'\nexcept Bad:\n    pass"
    for bad in (name, f"({name}, ValueError)"):
        assert rejected(run(f"Bad = {bad}\ndef f(x): return 0", tests))
        assert run(f"Bad = {bad}\ndef f(x): raise {name}", tests).outcome == "passed"
    sent = f"{SPEAK}\ndefine('f', Bad={{'type': '{name}'}})\nalways(0)"
    assert rejected(run(sent, tests))


def test_a_context_of_the_program_cannot_suppress_a_failure(run: Run) -> None:
    code = f"{LIES}\ndef f(x): return Lie()"
    assert rejected(run(code, "with f(1) as g:\n    assert g == 9"))
    assert rejected(run(code, "with f(1):\n    raise ValueError"))
    speaking = f"""{SPEAK}
define('f')
while True:
    put({{'value': True if get()['do'] == 'exit' else {{'mine': 0}}}})
"""
    assert rejected(run(speaking, "with f(1) as g:\n    assert g == 9"))
    honest = """
class Log:
    said = []
    def __enter__(self): self.said.append('in'); return self
    def __exit__(self, kind, error, trace): self.said.append(kind and kind.__name__)
"""
    tests = """
with Log() as log:
    assert log.said == ['in']
try:
    with Log():
        raise KeyError('secret')
except KeyError:
    pass
assert log.said == ['in', None, 'in', 'KeyError']
"""
    assert run(honest, tests).outcome == "passed"


# ---- comparisons --------------------------------------------------------------------------------

COMPARISONS = [
    "assert f(3) == 9",
    "assert 9 == f(3)",
    "assert not f(3) != 9",
    "assert f(3) <= 9 and f(3) >= 9",
    "assert 9 in f(3)",
    "assert f(3) in [9]",
    "assert {9: 1}[f(3)]",
    "assert abs(f(3) - 9) < 1",
    "assert abs(9 - f(3)) < 1",
    "assert [f(3)] == [9]",
    "assert {f(3)} == {9}",
    "assert {'a': f(3)} == {'a': 9}",
    "import math\nassert math.isclose(f(3), 9)",
    "assert max(f(3), 9) == 9 == min(f(3), 9)",
    "assert int(f(3)) == 9",
    "assert f(3) is True or f(3) == True",
    "assert sorted([f(3), 9]) == [9, 9]",
]


@pytest.mark.parametrize("tests", COMPARISONS)
def test_no_object_decides_a_comparison_with_a_plain_value(run: Run, tests: str) -> None:
    verdict = run(f"{LIES}\ndef f(x): return Lie()", tests)
    assert rejected(verdict) or verdict.outcome == "timeout", verdict  # an endless `9 in f(3)`
    for base in ("int", "str", "list", "tuple", "dict", "float"):
        code = LIES.replace("class Lie:", f"class Lie({base}):")
        assert rejected(run(f"{code}\ndef f(x): return Lie()", tests))


def test_a_function_that_tests_hand_over_is_not_run_in_the_judge(run: Run) -> None:
    code = """
def apply(function, value):
    return function("__import__('builtins').__dict__.update(abs=lambda x: 0) or 2")
def f(x): return 0
"""
    tests = "assert apply(eval, '1 + 1') == 2\nassert abs(f(3) - 9) < 0.01"
    assert rejected(run(code, tests))


def test_a_program_may_call_only_what_the_tests_hand_over(run: Run) -> None:
    code = f"""{SPEAK}
define('f')
get()
told = []
for do, what in (('call', {{'type': 'str'}}), ('next', 5), ('getattr', {{'yours': 0}}), ('call', 5)):
    put({{'do': do, 'args': [[what], {{'dict': [[], []]}}]}})
    told.append('raise' in get())
put({{'value': told}})
"""
    assert run(code, "assert f(len, abs) == [True] * 4").outcome == "failed"  # no reference yet
    assert run(code, "assert f(lambda: 1) == [True] * 4").outcome == "passed"


# ---- what is kept of it -------------------------------------------------------------------------

TEXTS = ['"A" * 3000000', r'"\ud800\n[\u001b[31m\u0000" * 9', '"\\n" * 400 + "x"', '"a " * 400']
FRAMES = [
    '{"overflow": TEXT}',
    '{"overflow": True}',
    '{"overflow": {TEXT: 1}}',
    '{"value": {TEXT: 1}}',
    '{"value": {"type": TEXT}}',
    '{"value": {"bytes": TEXT}}',
    '{"value": {"Decimal": TEXT}}',
    '{"value": {"date": TEXT}}',
    '{"raise": "ValueError", "name": TEXT, "args": [TEXT], "classes": []}',
    '{"raise": TEXT, "name": TEXT, "args": [TEXT], "classes": []}',
    '{"raise": "ExceptionGroup", "name": "x", "args": [TEXT, 1], "classes": []}',
    '{"raise": "UnicodeDecodeError", "name": "x", "args": [TEXT, 1, 2, 3, 4], "classes": []}',
    '{"raise": "UnicodeEncodeError", "name": "x", "args": ["", TEXT, -10**9, 1 - 10**9, ""],'
    ' "classes": []}',
    '{"raise": "OSError", "name": "x", "args": [[1], TEXT], "classes": []}',
    '{"raise": "ValueError", "name": "x", "args": [], "classes": {"a": 1}}',
    '{"raise": "ValueError", "name": "x", "args": [], "classes": [[]]}',
    '{"do": TEXT, "args": [[], {"dict": [[], []]}]}',
    '{"do": "call", "args": {"mine": 0}}',
    '{"do": "call", "args": [[{"mine": 0}], {"dict": [[1], [2]]}]}',
    "{}",
    "[]",
    "5",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("frame", FRAMES)
def test_whatever_a_program_sends_leaves_one_clean_line(
    run: Run, tmp_path: Path, frame: str, text: str
) -> None:
    frame = frame.replace("TEXT", f"({text})")
    path = tmp_path / "outcomes.jsonl"
    for first in ("", "define('f')\n"):
        code = f"{SPEAK}\n{first}get()\nput({frame})\nos._exit(0)"
        verdict = run(code, "assert f(3) == 9")
        assert rejected(verdict), verdict
        with append_jsonl(path) as lines:
            lines.write({"detail": verdict.detail, "completion": "\ud800"})
    assert [record["completion"] for record in read_jsonl(path)] == ["\ud800"] * 2
    assert all(json.loads(line) for line in path.read_text("utf-8").splitlines())


# Numbers of so many digits that Python does not print them.
LONG = ['{"overflow": N}', '{"value": {"exception": [1, N]}}', '{"value": {"mine": [N]}}']


@pytest.mark.parametrize("frame", LONG)
def test_tests_cannot_catch_what_is_not_in_the_protocol(run: Run, frame: str) -> None:
    answer = frame.replace("N", "9" * 5000).encode()
    code = f"{SPEAK}\ndefine('f')\nget()\nput({answer!r})\nalways(9)"
    verdict = run(code, "try:\n    f(3)\nexcept Exception:\n    pass")
    assert rejected(verdict), verdict


def test_a_judge_without_memory_is_no_sandbox_fault(run: Run) -> None:
    code = f"""{SPEAK}
define('f')
size = 1 << 22
while True:
    request = get()
    put({{'value': 'x' * size}})
    size = max(64, size // 2) if 'raise' in request else size
"""
    tests = """
kept = []
try:
    while True:
        kept.append(f(1))
except MemoryError:
    pass
for _ in range(100):
    kept.append(f(1))
assert kept == 1
"""
    verdict = run(code, tests, cpu_seconds=2.0)
    assert verdict.outcome in ("failed", "memory", "timeout"), verdict
