"""Programs that do not solve the task and try to pass its tests all the same."""

from __future__ import annotations

import pytest

from .conftest import Run

TESTS = "import math\nassert f(3) == 9\nassert sorted(f(k) for k in range(3)) == [0, 1, 4]"

LEAVING = {
    "exit 0": "raise SystemExit(0)",
    "hard exit": "import os\nos._exit(0)",
    "exit in the call": "import sys\ndef f(x): sys.exit(0)",
    "hard exit in the call": "import os\ndef f(x): os._exit(0)",
    "interrupt in the call": "def f(x): raise KeyboardInterrupt",
    "generator exit in the call": "def f(x): raise GeneratorExit",
    "stop iteration in the call": "def f(x): raise StopIteration",
    "close the conversation": "import os\ndef f(x): os.closerange(3, 100)",
    "own exception": "class Done(BaseException): pass\ndef f(x): raise Done('passed')",
    "no such function": "def g(x): return x * x",
    "does not compile": "def f(x) return x * x",
    "null byte": "def f(x): return x * x\0",
    "hostile text": """
class Odd(Exception):
    def __str__(self): raise SystemExit(0)
    __repr__ = __str__
def f(x): raise Odd
""",
    "text that is no text": """
class Odd(Exception):
    def __str__(self): return 5
def f(x): raise Odd
""",
}

ALWAYS_EQUAL = """
class {name}({base}):
    def always(self, *others): return True
    __eq__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = __bool__ = always
    __ne__ = lambda self, other: False
    __hash__ = lambda self: 0
    __sub__ = __rsub__ = __abs__ = lambda self, *others: 0
    __instancecheck__ = __subclasscheck__ = always
    __getattr__ = lambda self, name: self
    __call__ = lambda self, *others, **more: self
    __iter__ = lambda self: iter([0, 1, 4])
def f(x): return {name}({arguments})
"""
LYING = {
    "object": ALWAYS_EQUAL.format(name="Lie", base="object", arguments=""),
    "int": ALWAYS_EQUAL.format(name="Lie", base="int", arguments="1"),
    "str": ALWAYS_EQUAL.format(name="Lie", base="str", arguments=""),
    "list": ALWAYS_EQUAL.format(name="Lie", base="list", arguments=""),
    "class": "class Meta(type):\n    __eq__ = lambda *a: True\n    __hash__ = lambda s: 0\n"
    "class Lie(metaclass=Meta): pass\ndef f(x): return Lie",
    "the name is an object": ALWAYS_EQUAL.format(name="Lie", base="object", arguments="")
    + "f = Lie()",
    "mock": "from unittest.mock import MagicMock\nf = MagicMock()",
    "not a number": "def f(x): return float('nan')",
    "a type": "f = bool",
    "a module": "import math as f",
    "an exception class": "class f(BaseException): pass",
    "itself": "def f(x): return f",
}

PATCHING = {
    "builtins": """
import builtins
for name in ('sorted', 'all', 'any', 'abs', 'isinstance', 'len', 'set', 'exec', 'compile', 'eval'):
    setattr(builtins, name, lambda *a, **k: True)
def f(x): return True
""",
    "int equality through ctypes": """
import ctypes, gc
try:
    slots = ctypes.py_object.from_address(id(int.__dict__) + 16).value
    slots['__eq__'] = lambda a, b: True
except BaseException:
    pass
def f(x): return 0
""",
    "names the tests use": "sorted = lambda x: [0, 1, 4]\ndef f(x): return 9",
    "modules": "import math, sys\nmath.isclose = lambda *a, **k: True\nsys.modules['math'] = sys\n"
    "def f(x): return 0",
    "assertion error": "import builtins\nbuiltins.AssertionError = SystemExit\ndef f(x): return 0",
    "trace function": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\n"
    "def f(x): return 0",
    "audit hook": "import sys\nsys.addaudithook(lambda *a: None)\ndef f(x): return 0",
    "the sandbox's own code": """
import sys
for module in [m for n, m in sys.modules.items() if n.startswith('wmtp')]:
    for name in list(vars(module)):
        if callable(getattr(module, name)) and name != 'Peer':
            setattr(module, name, lambda *a, **k: {'value': True})
def f(x): return True
""",
    "frames": """
import sys
def walk():
    frame = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back
for frame in walk():
    for name, value in list(frame.f_locals.items()):
        if isinstance(value, dict):
            value.update(tests='', outcome='passed')
        if isinstance(value, list):
            value.append('passed')
def f(x): return 0
""",
    "reading the tests": """
import gc, re
texts = [o for held in gc.get_objects() for o in gc.get_referents(held) if type(o) is str]
found = [re.findall(r'assert f\\((\\d+)\\) == (\\d+)', t) for t in texts if 'assert f(3)' in t]
answers = {int(k): int(v) for pairs in found for k, v in pairs}
def f(x): return answers.get(x, -1)
""",
}

SPEAKING = {
    "a marker": "print('passed')\nprint('[\"passed\", \"\"]', flush=True)\ndef f(x): return 0",
    "into every descriptor": """
import os, struct
for text in (b'"entered"\\n["passed", ""]\\n', b'{"value":true}', b'{"value":9}'):
    for descriptor in range(3, 64):
        for data in (text, struct.pack('>I', len(text)) + text):
            try:
                os.write(descriptor, data)
            except OSError:
                pass
def f(x): return 0
""",
    "noise": "import os\ndef f(x): os.write(5, b'\\xff' * 100)",
    "an endless message": "import os\ndef f(x): os.write(5, b'\\0\\0\\x10\\0')",
    "deep nesting": "import os, struct\ntext = b'[' * 100000\n"
    "def f(x): os.write(5, struct.pack('>I', len(text)) + text)",
    "a reference to nothing": 'import os, struct\ntext = b\'{"value":{"yours":-1}}\'\n'
    "def f(x): os.write(5, struct.pack('>I', len(text)) + text)",
    "a dangerous name": 'import os, struct\ntext = b\'{"value":{"type":"eval"}}\'\n'
    "def f(x): os.write(5, struct.pack('>I', len(text)) + text)",
    "an exception of the judge's": "import os, struct\n"
    'text = b\'{"raise":"CannotCross","name":"CannotCross","text":"","classes":[]}\'\n'
    "def f(x): os.write(5, struct.pack('>I', len(text)) + text)",
    "requests without end": "import os, struct\n"
    'text = b\'{"do":"call","args":[{"type":"int"}]}\'\n'
    "def f(x):\n    while True: os.write(5, struct.pack('>I', len(text)) + text)",
    "an object made by the judge": "import os, struct\n"
    'text = b\'{"do":"call","args":[[{"type":"object"}],{"dict":[[],[]]}]}\'\n'
    "def f(x):\n    os.write(5, struct.pack('>I', len(text)) + text)\n    return 0",
    "reading the conversation": "import os\nos.set_blocking(5, False)\n"
    "def f(x):\n    try:\n        return len(os.read(5, 1 << 20))\n"
    "    except OSError:\n        return -1",
}

CHEATS = {
    f"{kind}: {name}": code
    for kind, group in (
        ("leaving", LEAVING),
        ("lying", LYING),
        ("patching", PATCHING),
        ("speaking", SPEAKING),
    )
    for name, code in group.items()
}


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_does_not_pass(run: Run, name: str) -> None:
    verdict = run(CHEATS[name], TESTS, cpu_seconds=1.0, wall_seconds=1.0)
    assert verdict.outcome in ("failed", "timeout", "output_limit"), verdict
    assert "in-process" not in verdict.detail
    assert "\n" not in verdict.detail
    assert len(verdict.detail) < 400


def test_the_honest_program_passes(run: Run) -> None:
    assert run("def f(x): return x * x", TESTS).outcome == "passed"


def test_a_built_in_name_is_the_programs_only_when_the_task_asks_for_it(run: Run) -> None:
    assert run("def sum(a, b): return a * b", "assert sum(2, 5) == 10").outcome == "passed"
    code = "set = lambda x: 1\ndef f(): return [2]"
    assert run(code, "assert set(f()) == set([3])").outcome == "failed"


@pytest.mark.parametrize(
    "code",
    [
        "class f:\n    def __init__(self, x): pass\n    __eq__ = lambda self, other: True",
        "import sys\ndef f(x): return sys if x == 3 else x",
        "class Bad(Exception): pass\ndef f(x): return Bad if x == 3 else x",
        "def f(x): return object if x == 3 else x",
        "def f(x): return (k for k in 'abc')",
        "def f(x): return x if callable(x) else lambda: iter([x])",
    ],
)
def test_a_program_cannot_choose_the_weaker_path(run: Run, code: str) -> None:
    verdict = run(code, "assert f(f(3)) == 81")
    assert verdict.outcome == "failed"
    assert "in-process" not in verdict.detail


def test_in_process_tests_want_their_secret(run: Run) -> None:
    tests = "class More(Base): pass\nassert More().value() == 4"
    honest = "class Base:\n    def value(self): return 4"
    verdict = run(honest, tests)
    assert (verdict.outcome, verdict.detail) == ("passed", "in-process tests")
    forge = """
import os
try:
    os.write(4, b'["passed", "", "secret"]\\n')
    os._exit(0)
except OSError:  # not the run with the tests in it
    pass
"""
    for cheat in (forge, forge.replace("secret", ""), "x = 1"):
        verdict = run(f"class Base: pass\n{cheat}", tests)
        assert verdict.outcome == "failed", verdict
        assert "in-process" in verdict.detail, verdict


def test_a_hostile_program_cannot_make_itself_a_sandbox_fault(run: Run) -> None:
    code = """
import os
for descriptor in range(3, 9):
    try:
        os.write(descriptor, b'{"fault": "x"}\\n')
    except OSError:
        pass
os._exit(3)
"""
    assert run(code, "assert f() == 1").outcome in ("failed", "output_limit")
