"""Programs that try to run on, to take resources, to see this machine, change it or break out."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from pathlib import Path

import pytest

from wmtp.sandbox import Limits, Program, Sandbox, landlock
from wmtp.sandbox.launch import ENVIRONMENT

from .conftest import LIMITS, Run

# ---- running on ---------------------------------------------------------------------------------

ENDLESS = {
    "loop": "while True: pass",
    "deaf": """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass
""",
    "swallowing": """
def spin():
    while True:
        try:
            while True: pass
        except BaseException:
            pass
spin()
""",
    "regular expression": "import re\nre.match('(a+)+$', 'a' * 40 + 'b')",
    "power": "x = 7 ** 7 ** 9",
    "threads": """
import threading
def spin():
    while True: pass
for _ in range(4):
    threading.Thread(target=spin).start()
spin()
""",
    "at exit": "import atexit\ndef spin():\n    while True: pass\natexit.register(spin)\nspin()",
    "in str of an exception": """
class Slow(Exception):
    def __str__(self):
        while True: pass
raise Slow
""",
    "in a destructor": """
class Slow:
    def __del__(self):
        while True: pass
Slow()
""",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_program_times_out(run: Run, name: str) -> None:
    assert run(ENDLESS[name], "assert f() == 1").outcome == "timeout"


def test_a_sleeping_program_times_out_after_one_more_try(run: Run) -> None:
    verdict = run("import time\ntime.sleep(60)", wall_seconds=0.3)
    assert verdict.outcome == "timeout"
    assert "wall limit" in verdict.detail


def test_an_endless_loop_inside_a_call_times_out(run: Run) -> None:
    assert run("def f():\n    while True: pass", "f()").outcome == "timeout"


def test_tests_that_never_end_because_of_the_program_time_out(run: Run) -> None:
    code = "def f():\n    while True:\n        yield 1"
    assert run(code, "for _ in f(): pass").outcome == "timeout"


# ---- taking resources ---------------------------------------------------------------------------

GREEDY = {
    "heap": ("x = bytearray(1 << 30)", {"memory"}),
    "list": ("x = []\nwhile True: x.append(' ' * 1000000)", {"memory"}),
    "anonymous map": ("import mmap\nx = mmap.mmap(-1, 1 << 30)", {"failed", "memory"}),
    "string": ("x = 'a' * (1 << 30)", {"memory"}),
    "huge range": ("x = list(range(10 ** 10))", {"memory"}),
    "compiled constant": ("x = " + "-" * 200_000 + "1", {"failed", "memory"}),
    "deep recursion": (
        "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(): f()\nf()",
        {"failed", "memory", "timeout", "output_limit"},
    ),
    "segmentation fault": ("import ctypes\nctypes.string_at(0)", {"failed"}),
    "abort": ("import os\nos.abort()", {"failed"}),
    "print": ("while True: print('x' * 10000)", {"output_limit"}),
    "standard error": ("import os\nwhile True: os.write(2, b'x' * 10000)", {"output_limit"}),
    "many threads": (
        "import threading, time\n"
        "while True: threading.Thread(target=time.sleep, args=(60,)).start()",
        {"failed", "memory"},
    ),
    "fork bomb": ("import os\nwhile True: os.fork()", {"failed"}),
    "giant file": (
        "with open('/tmp/x', 'wb') as file:\n    while True: file.write(b'x' * (1 << 20))",
        {"failed"},
    ),
    "many files": ("for i in range(10 ** 6): open(f'/tmp/{i}', 'w').close()", {"failed"}),
    "full disk": (
        "for i in range(100):\n    open(f'/tmp/{i}', 'wb').write(b'x' * (1 << 20))",
        {"failed"},
    ),
    "many descriptors": ("import os\nwhile True: os.open('/dev/null', 0)", {"failed"}),
}


@pytest.mark.parametrize("name", GREEDY)
def test_a_greedy_program_is_stopped(run: Run, name: str) -> None:
    code, outcomes = GREEDY[name]
    assert run(code, "assert f() == 1", cpu_seconds=1.0).outcome in outcomes


def test_a_huge_result_is_an_output_limit(run: Run) -> None:
    code = "def f(): return 'x' * (40 << 20)"
    assert run(code, "assert f() == ''", cpu_seconds=2.0).outcome == "output_limit"


# ---- seeing this machine ------------------------------------------------------------------------


def test_files_of_this_machine_are_not_there(run: Run, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("for nobody")
    here = Path(__file__).resolve()
    paths = [str(path) for path in (secret, here, Path("/etc/passwd"), Path("/proc/self"))]
    code = f"""
import os
found = [path for path in {paths!r} if os.path.lexists(path)]
home = [name for name in os.listdir('/') if name in ('home', 'etc', 'proc', 'sys', 'var', 'run')]
"""
    verdict = run(code, "assert found == [] and home == [], (found, home)")
    assert verdict.outcome == "passed", verdict


def test_the_environment_carries_no_secret(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "for nobody")
    code = "import os\nfound = sorted(os.environ)"
    known = {*ENVIRONMENT, "LC_CTYPE", "PWD"}
    verdict = run(code, f"assert set(found) <= {known!r}, found")
    assert verdict.outcome == "passed", verdict


def test_only_the_standard_streams_and_the_conversation_are_open(run: Run) -> None:
    code = """
import os
found = []
for descriptor in range(1024):
    try:
        os.fstat(descriptor)
    except OSError:
        continue
    found.append(descriptor)
"""
    verdict = run(code, "assert found == [0, 1, 2, 5], found")
    assert verdict.outcome == "passed", verdict


def test_nothing_answers_on_the_network(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"""
import socket
from socket import AF_INET, AF_NETLINK, AF_UNIX, SOCK_DGRAM, SOCK_RAW
tried = []
def attempt(name, action):
    try:
        action()
    except OSError:
        return
    tried.append(name)
attempt("tcp", lambda: socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), 0.2))
attempt("udp", lambda: socket.socket(AF_INET, SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)))
attempt("unix", lambda: socket.socket(AF_UNIX).connect("\\0abstract"))
attempt("netlink", lambda: socket.socket(AF_NETLINK, SOCK_RAW, 0))
"""
        verdict = run(code, "assert tried == [], tried")
    assert verdict.outcome == "passed", verdict


# ---- changing this machine and breaking out -----------------------------------------------------

_FORBIDDEN = """
import ctypes, os, signal, subprocess
libc = ctypes.CDLL(None, use_errno=True)
def system_call(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)
attempts = {
    "fork": os.fork,
    "vfork": lambda: system_call("vfork"),
    "libc fork": lambda: system_call("fork"),
    "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "subprocess": lambda: subprocess.run(["/bin/true"]),
    "execute": lambda: os.execv("/usr/bin/python3", ["python3", "-c", ""]),
    "kill all": lambda: os.kill(-1, signal.SIGKILL),
    "kill parent": lambda: os.kill(os.getppid(), signal.SIGKILL),
    "kill group": lambda: os.killpg(0, signal.SIGTERM),
    "kill init": lambda: os.kill(1, signal.SIGKILL),
    "become root": lambda: os.setuid(0),
    "trace": lambda: system_call("ptrace", 16, 1, 0, 0),
    "new user namespace": lambda: system_call("unshare", 0x10000000),
    "mount": lambda: system_call("mount", b"x", b"/tmp", b"tmpfs", 0, None),
    "new root": lambda: os.chroot("/tmp"),
    "device": lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(8, 0)),
    "memory file": lambda: os.memfd_create("x"),
    "shared memory": lambda: system_call("shmget", 1, 4096, 0o1600),
    "dumpable": lambda: system_call("prctl", 4, 1, 0, 0, 0),
    "parent-death signal": lambda: system_call("prctl", 1, 0, 0, 0, 0),
    "signal owner": lambda: __import__("fcntl").fcntl(0, 8, 1),
    "higher limits": lambda: __import__("resource").setrlimit(7, (4096, 4096)),
    "write to root": lambda: open("/x", "w"),
    "write to libraries": lambda: open(os.__file__, "a"),
    "remove library": lambda: os.unlink(os.__file__),
    "key ring": lambda: system_call("syscall", 250, 0, -3, 0, 0, 0),
    "performance counters": lambda: system_call("syscall", 298, 0, 0, -1, -1, 0),
    "io_uring": lambda: system_call("syscall", 425, 8, 0),
    "bpf": lambda: system_call("syscall", 321, 0, 0, 0),
}
succeeded = []
for name, attempt in attempts.items():
    try:
        attempt()
    except (OSError, ValueError, AttributeError):
        continue
    succeeded.append(name)
"""


def test_forbidden_system_calls_fail(run: Run) -> None:
    verdict = run(_FORBIDDEN, "assert succeeded == [], succeeded", cpu_seconds=2.0)
    assert verdict.outcome == "passed", verdict


def test_a_thread_that_outlives_its_call_does_not_outlive_the_run(run: Run) -> None:
    code = """
import threading, time
def beat():
    while True:
        time.sleep(0.01)
        open('/tmp/beat', 'a').write('x')
threading.Thread(target=beat).start()
def f(): return 1
"""
    assert run(code, "assert f() == 1").outcome == "passed"
    tests = "import time\nassert not exists()\ntime.sleep(0.05)\nassert not exists()"
    code = "import os\ndef exists(): return os.path.exists('/tmp/beat')"
    assert run(code, tests).outcome == "passed"


def test_files_do_not_pass_from_run_to_run_or_to_this_machine(run: Run) -> None:
    mark = f"left-{os.getpid()}"
    code = f"open('/tmp/{mark}', 'w').write('x')\nimport os\ndef f(): return os.listdir('/tmp')"
    assert run(code, f"assert f() == ['{mark}']").outcome == "passed"
    code = "import os\ndef f(): return os.listdir('/tmp')"
    assert run(code, "assert f() == []").outcome == "passed"
    assert not Path("/tmp", mark).exists()


def test_memory_of_an_earlier_program_is_not_there(sandbox: Sandbox) -> None:
    """Servers never read programs or tests, so freed memory cannot hold a solution or an answer."""
    needle = "needle-" * 4
    limits = Limits(**{**LIMITS, "cpu_seconds": 5.0})
    earlier = Program(f"def f(): return '{needle}'", f"assert f() == '{needle}'", limits)
    # Backwards, so that the search does not find itself.
    code = f"""
import ctypes, gc
def count(needle):
    objects = gc.get_objects()
    places = {{id(o) >> 12 for held in objects for o in (held, *gc.get_referents(held))}}
    return sum(needle in ctypes.string_at(place << 12, 4096)[::-1] for place in places)
def own(): return count(b"stnerefer_teg"), count({needle[::-1].encode()!r})
"""
    later = Program(code, "own_name, found = own()\nassert own_name > 0 and found == 0", limits)
    outcomes = [verdict.outcome for _, verdict in sandbox.judge([earlier, later])]
    assert outcomes == ["passed", "passed"]


@pytest.mark.skipif(
    sys.platform != "linux" or not landlock.version(ctypes.CDLL(None)),
    reason="this kernel has no Landlock",
)
def test_landlock_is_on_top_of_mounts_and_users(run: Run) -> None:
    """Mode and mount of the device allow writing to it."""
    code = """
def writes(path):
    try:
        open(path, 'wb').close()
    except PermissionError:
        return False
    return True
"""
    wanted = {"/dev/urandom": False, "/dev/null": True, "/dev/full": True, "/tmp/x": True}
    tests = f"assert {{path: writes(path) for path in {list(wanted)}}} == {wanted}"
    assert run(code, tests).outcome == "passed"


def test_hostile_programs_leave_the_sandbox_usable(run: Run) -> None:
    hostile = "import os\nos.closerange(0, 100)\nos._exit(0)"
    assert run(hostile, "assert f() == 1").outcome == "failed"
    assert run("def f(): return 1", "assert f() == 1").outcome == "passed"
