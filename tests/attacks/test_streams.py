"""Programs that read standard input and write standard output, and are out to cheat or to break it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wmtp.sandbox import Comparison, Limits, Sandbox, StdioProgram, Verdict

from .conftest import LIMITS

SECRET = "SECRET-524287"
CASES = (("1 2\n", "3\n"), ("2 3\n", "5\n"))
RIGHT = "print(sum(map(int, input().split())))"
RunStreams = Callable[..., Verdict]


def program(code: str, cases: tuple[tuple[str, str], ...] = CASES, **limits: Any) -> StdioProgram:
    bounds = {**LIMITS, "output_bytes": 4096, **limits}
    return StdioProgram(code, cases, Comparison(tolerance=1e-6), Limits(**bounds))


@pytest.fixture
def run(sandbox: Sandbox) -> RunStreams:
    def run(code: str, cases: tuple[tuple[str, str], ...] = CASES, **limits: Any) -> Verdict:
        [(_, verdict)] = sandbox.judge([program(code, cases, **limits)])
        return verdict

    return run


# ---- taking over the output ---------------------------------------------------------------------

FLOODS = {
    "lines": "while True: print('x' * 1000)",
    "deaf": """
import os, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
while True:
    try:
        os.write(1, b'x' * 100_000)
    except OSError:
        pass
""",
    "blank": "print(3)\nprint('\\n' * 10_000)",
    "answer first": "print(3)\nwhile True: print(end=' ' * 1000)",
    "sparse": "import os\nos.ftruncate(1, 1 << 21)\nprint(3)",
    "far away": "import os\nos.lseek(1, 1 << 21, 0)\nos.write(1, b'3')",
}


@pytest.mark.parametrize("name", FLOODS)
def test_output_is_bounded(run: RunStreams, name: str) -> None:
    verdict = run(FLOODS[name])
    assert verdict.outcome == "output_limit"
    assert "test 1 of 2" in verdict.detail


def test_a_hole_in_the_output_is_not_filled_on_this_machine(run: RunStreams) -> None:
    code = "import os\nos.lseek(1, 1 << 40, 0)\nos.write(1, b'3')"
    assert run(code).outcome == "failed"
    assert run("import os\nos.ftruncate(1, 1 << 40)").outcome == "failed"


def test_standard_error_is_bounded_and_no_answer(run: RunStreams) -> None:
    flood = "import os\nwhile True: os.write(2, b'x' * 100_000)"
    assert run(flood).outcome == "failed"
    assert run("import sys\nprint(3, file=sys.stderr)").outcome == "failed"
    noisy = f"import sys\nprint('x' * 10_000, file=sys.stderr)\n{RIGHT}"
    assert run(noisy).outcome == "passed"


NO_ANSWERS = {
    "not a number": "nan",
    "infinity": "inf",
    "overflow": "1e999999999",
    "many digits": "3" * 2000,
    "every answer": "3 5",
    "none": "",
    "zero bytes": "\0003",
    "other digits": "\N{ARABIC-INDIC DIGIT THREE}",
    "almost": "3.00001",
}


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_what_is_no_answer_fails(run: RunStreams, name: str) -> None:
    assert run(f"print({NO_ANSWERS[name]!r})").outcome == "failed"


# ---- leaving early, late or not at all ----------------------------------------------------------

ENDINGS = {
    "exit 0 with nothing": ("raise SystemExit(0)", "failed"),
    "exit 1 with the answer": (f"{RIGHT}\nraise SystemExit(1)", "failed"),
    "exit with a text": (f"{RIGHT}\nraise SystemExit('passed')", "failed"),
    "exit without flushing": (f"{RIGHT}\nimport os\nos._exit(0)", "failed"),
    "exit at once": ("import os\nos._exit(0)", "failed"),
    "abort": (f"{RIGHT}\nimport os\nos.abort()", "failed"),
    "segmentation fault": ("import ctypes\nctypes.string_at(0)", "failed"),
    "an exception that attacks": (
        "class E(Exception):\n    def __str__(self): raise E\nraise E",
        "failed",
    ),
    "a hook": ("import sys\nsys.excepthook = lambda *a: print(3)\nraise ValueError", "failed"),
    "no streams": ("import os\nos.closerange(0, 100)", "failed"),
    "output closed": ("import os\nos.close(1)\nprint(3)", "failed"),
    "lying stream": (
        "import sys\nclass S:\n    closed = False\n    def flush(self): raise OSError\n"
        "sys.stdout = S()",
        "failed",
    ),
    "endless, all closed": ("import os\nos.closerange(0, 100)\nwhile True: pass", "timeout"),
    "endless after the answer": (f"{RIGHT}\nwhile True: pass", "timeout"),
    "endless at exit": (
        "import atexit\ndef spin():\n    while True: pass\natexit.register(spin)",
        "timeout",
    ),
    "endless thread": (
        f"{RIGHT}\nimport threading\ndef spin():\n    while True: pass\n"
        "threading.Thread(target=spin).start()",
        "timeout",
    ),
    "no such language": ("#include <stdio.h>", "failed"),
    "no memory": ("x = ' ' * (1 << 40)", "memory"),
    "all memory": ("x = []\nwhile True: x.append(' ' * (1 << 20))", "memory"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_how_a_program_ends_counts(run: RunStreams, name: str) -> None:
    code, outcome = ENDINGS[name]
    verdict = run(code, cpu_seconds=2.0 if outcome == "memory" else 0.2)
    assert verdict.outcome == outcome
    assert verdict.detail.startswith("test 1 of 2: ")


def test_waiting_for_ever_is_a_timeout(run: RunStreams) -> None:
    code = "import signal\nsignal.pthread_sigmask(0, range(1, 65))\nwhile True: signal.pause()"
    assert run(code, wall_seconds=0.3).outcome == "timeout"


def test_nothing_is_written_after_the_end(run: RunStreams) -> None:
    late = """
import threading, time
def write():
    time.sleep(0.05)
    print(3, flush=True)
threading.Thread(target=write, daemon=True).start()
"""
    assert run(late).outcome == "failed"
    assert run(late.replace(", daemon=True", ""), (("", "3"),)).outcome == "passed"


def test_no_second_process(run: RunStreams) -> None:
    code = """
import os, subprocess
for start in (os.fork, lambda: subprocess.run(['/bin/sh']), lambda: os.execv('/bin/sh', ['sh'])):
    try:
        start()
    except OSError:
        continue
    print('started')
print('none')
"""
    assert run(code, (("", "none"),)).outcome == "passed"


# ---- the input ----------------------------------------------------------------------------------


def test_a_large_input_that_is_not_read_harms_nobody(run: RunStreams) -> None:
    large = ("x" * 80 + "\n") * 100_000
    assert run("print(3)", ((large, "3"),)).outcome == "passed"
    assert run("import os\nos.close(0)\nprint(3)", ((large, "3"),)).outcome == "passed"
    count = "import sys\nprint(sum(len(line) for line in sys.stdin))"
    assert run(count, ((large, str(len(large))),), cpu_seconds=2.0).outcome == "passed"


def test_the_input_cannot_be_changed(run: RunStreams) -> None:
    code = """
import os
changed = []
for attack in (lambda: os.write(0, b'0 0'), lambda: os.ftruncate(0, 0), lambda: os.pwrite(0, b'0', 0),
               lambda: os.open('/dev/fd/0', os.O_RDWR), lambda: os.open('/proc/self/fd/0', os.O_RDWR)):
    try:
        attack()
    except OSError:
        continue
    changed.append(attack)
print('changed' if changed else sum(map(int, input().split())))
"""
    assert run(code).outcome == "passed"


# ---- looking for the answer ---------------------------------------------------------------------

LOOK = r"""
import gc, os, re, sys
seen = []
def look(data):
    if b'SECRET-' in data:
        seen.extend(re.findall(rb'SECRET-[0-9]{6}', data))
for value in gc.get_objects():
    for part in gc.get_referents(value):
        if isinstance(part, str) and 'SECRET-' in part:
            look(part.encode('utf-8', 'replace'))
        elif isinstance(part, (bytes, bytearray)):
            look(part)
frame = sys._getframe()
while frame:
    for value in frame.f_locals.values():
        if isinstance(value, (str, list, tuple)):
            look(repr(value)[:100_000].encode('utf-8', 'replace'))
    frame = frame.f_back
for descriptor in range(200):
    try:
        look(os.pread(descriptor, 1 << 20, 0))
    except OSError:
        pass
look(repr(dict(os.environ)).encode() + repr(sys.argv).encode())
for folder in ('/tmp', '/dev/shm', '/proc/self', '/var', '/etc', '/run'):
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                with open(os.path.join(place, name), 'rb') as file:
                    look(file.read(1 << 20))
            except OSError:
                pass
# The whole heap, without a fault: the kernel refuses to write what is not mapped.
pages = os.open('/tmp/pages', os.O_RDWR | os.O_CREAT)
import ctypes
libc = ctypes.CDLL(None)
libc.pwrite.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
libc.sbrk.restype = ctypes.c_void_p
for centre in (libc.sbrk(0), id(object()), id(seen), ctypes.addressof(ctypes.c_int())):
    for page in range(max(0, centre - (1 << 20)) & ~4095, centre + (1 << 20), 4096):
        if libc.pwrite(pages, page, 4096, 0) == 4096:
            look(os.pread(pages, 4096, 0))
print(seen[0].decode() if seen else 'nothing')
"""


def test_the_answer_is_nowhere_to_be_found(run: RunStreams) -> None:
    verdict = run(LOOK, (("", SECRET),), cpu_seconds=5.0, wall_seconds=30.0)
    assert verdict.outcome == "failed"
    assert "'nothing', expected" in verdict.detail
    # It does find what is there.
    found = run(LOOK, ((SECRET, SECRET),), cpu_seconds=5.0, wall_seconds=30.0)
    assert found.outcome == "passed"


def test_nor_is_that_of_the_program_before(sandbox: Sandbox) -> None:
    """A program that knows the answer and writes it everywhere, then one that looks for it."""
    number = SECRET.partition("-")[2]
    knows = f"""
import os, sys
answer = 'SECRET-' + str({number})
for _ in range(1000):
    print(answer, file=sys.stderr)
with open('/tmp/answer', 'w') as file:
    file.write(answer)
print(answer)
"""
    cases = (("", SECRET),)
    one = program(knows, cases, output_bytes=1 << 20)
    other = program(LOOK, cases, cpu_seconds=5.0, wall_seconds=30.0)
    verdicts = dict(sandbox.judge([one, one, other]))
    assert [verdicts[k].outcome for k in range(3)] == ["passed", "passed", "failed"]
    assert "'nothing', expected" in verdicts[2].detail


def test_what_a_program_leaves_is_gone_in_its_next_test(run: RunStreams) -> None:
    code = """
import os
print(len(os.listdir('/tmp')), len(os.listdir('.')), getattr(os, 'mark', 0))
os.mark = 1
open('/tmp/mark', 'w').write('x')
"""
    assert run(code, (("", "0 0 0"),) * 3).outcome == "passed"


def test_no_file_is_left(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    codes = [RIGHT, *FLOODS.values(), "while True: pass"]
    outcomes = [v.outcome for _, v in sandbox.judge(map(program, codes))]
    assert outcomes.count("passed") == 1
    assert os.listdir(tmp_path) == []


def test_limits_over_all_tests(sandbox: Sandbox) -> None:
    spin = "import time\nwhile time.process_time() < 0.06: pass\nprint(input())"
    cases = tuple((str(k), str(k)) for k in range(20))
    bounded = StdioProgram(spin, cases, limits=Limits(**LIMITS), total_cpu_seconds=0.15)
    [(_, verdict)] = sandbox.judge([bounded])
    assert verdict.outcome == "timeout"
    assert "for all tests" in verdict.detail
