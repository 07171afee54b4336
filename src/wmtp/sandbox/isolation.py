"""Linux namespaces through ctypes: the room of a fork server, and the cell of each child in it.

The room is made once per server: user, mount, pid, network, ipc and uts namespaces, and a read-only
root that holds the system libraries, the Python installation and five device nodes; no /proc, no
/etc, no home. The cell is made per run: a pid namespace that dies with its first process, a private
/tmp, no capabilities, resource limits and a system-call filter.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import socket
import struct
import sys

from wmtp.sandbox import landlock, seccomp
from wmtp.sandbox.program import Limits

INNER_ID = 1000
NOBODY = 65534

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
SYS_MOUNT_SETATTR = 442
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

DEVICES = ("null", "zero", "full", "random", "urandom")
WRITABLE_DEVICES = ("/dev/null", "/dev/zero", "/dev/full")
STACK_BYTES = 8 << 20
SCRATCH_INODES = 2048

_CAPABILITY_HEADER = struct.pack("=II", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
_NO_CAPABILITIES = bytes(24)

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _call(name: str, *arguments: object) -> int:
    result = getattr(_libc, name)(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        shown = f"system call {arguments[0]}" if name == "syscall" else name
        raise OSError(number, f"{shown}: {os.strerror(number)}")
    return result


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode(), flags, data.encode())


def _restrict(path: str, attributes: int, recursive: bool) -> None:
    request = struct.pack("=QQQQ", attributes, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    _call("syscall", SYS_MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, request, len(request))


# ---- the room -----------------------------------------------------------------------------------


def enter_room() -> None:
    """Move this process into fresh namespaces; return in a child that is the first process there.

    The process that called stays behind as a waiting shell, which exits with the child.
    """
    _new_namespaces()
    child = os.fork()
    if child:
        _wait_for(child)
    _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _build_root()
    socket.sethostname("sandbox")


def _wait_for(child: int) -> None:
    os.closerange(0, os.sysconf("SC_OPEN_MAX"))
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _new_namespaces() -> None:
    """Unshare; as root map a second id, so that children can be another, limited user."""
    user, group = os.geteuid(), os.getegid()
    kinds = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    if user != 0:
        _call("unshare", kinds)
        _write_maps("self", f"{INNER_ID} {user} 1", f"{INNER_ID} {group} 1", deny_groups=True)
        return
    here = os.getpid()
    ready, go = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(go)
        os.read(ready, 1)
        ids = f"0 0 1\n{INNER_ID} {NOBODY} 1"
        try:
            _write_maps(str(here), ids, ids, deny_groups=False)
        except OSError:
            os._exit(1)
        os._exit(0)
    try:
        _call("unshare", kinds)
    finally:
        os.close(ready)
        os.close(go)
        _, status = os.waitpid(helper, 0)
    if status:
        raise OSError("the user id map cannot be written")


def _write_maps(process: str, users: str, groups: str, deny_groups: bool) -> None:
    if deny_groups:
        _write(f"/proc/{process}/setgroups", "deny")
    _write(f"/proc/{process}/uid_map", users)
    _write(f"/proc/{process}/gid_map", groups)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def readable_paths() -> list[str]:
    """Return what is visible inside: system libraries, the Python installation, time zones."""
    wanted = ["/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64"]
    wanted += [f"{sys.base_prefix}/lib", f"{sys.base_prefix}/lib64", "/usr/share/zoneinfo"]
    found: list[str] = []
    for path in wanted:
        inside = any(path == f or path.startswith(f + "/") for f in found)
        if os.path.lexists(path) and not inside:
            found.append(path)
    return found


def _build_root() -> None:
    paths = readable_paths()
    _mount("none", "/", "none", MS_REC | MS_PRIVATE)
    _mount("base", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=64k")
    os.makedirs("/tmp/new")
    os.makedirs("/tmp/old")
    _call("syscall", SYS_PIVOT_ROOT[platform.machine()], b"/tmp", b"/tmp/old")
    os.chdir("/")
    _mount("root", "/new", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=256k")
    for path in paths:
        _show(path, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
    for name in DEVICES:
        _show(f"/dev/{name}", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)
    os.mkdir("/new/tmp")
    os.chdir("/new")
    _call("syscall", SYS_PIVOT_ROOT[platform.machine()], b".", b".")
    _call("umount2", b".", MNT_DETACH)
    os.chdir("/")
    _restrict("/", MOUNT_ATTR_RDONLY, recursive=False)


def _show(path: str, attributes: int) -> None:
    """Bind `path` of the old root into the new one, or copy it when it is a symbolic link."""
    source, target = "/old" + path, "/new" + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
        return
    if os.path.isdir(source):
        os.makedirs(target)
    else:
        _write(target, "")
    _mount(source, target, "none", MS_BIND | MS_REC)
    _restrict(target, attributes, recursive=True)


# ---- the cell -----------------------------------------------------------------------------------


class Cells:
    """Where children run: `prepare` before each fork, `enter` in the child.

    namespaces: each child gets its own pid, mount and ipc namespace (needs `enter_room`); otherwise
    children share those of the server. own_user: processes are counted apart from those of this
    machine's users, and write to /tmp alone (Landlock, where the kernel has it). filtered: install the
    system-call filter.
    """

    def __init__(self, namespaces: bool, own_user: bool, filtered: bool) -> None:
        self.namespaces = namespaces
        self.own_user = own_user
        self.filtered = filtered
        if filtered:
            seccomp.program()  # built once, here, not in every child
        if _libc is not None:
            for name in ("mount", "unshare", "capset", "prctl"):  # looked up once, as well
                getattr(_libc, name)
        self._own = os.pidfd_open(os.getpid()) if namespaces else -1
        self._landlock = landlock.version(_libc) if own_user else 0

    def prepare(self) -> None:
        """Make the next fork the first process of a new pid namespace."""
        if self.namespaces:
            # Back to our own first: nothing can be forked into a namespace whose init has died.
            _call("setns", self._own, CLONE_NEWPID)
            _call("unshare", CLONE_NEWPID)

    def enter(self, limits: Limits) -> None:
        """Confine this process, the child, for good."""
        if self.namespaces:
            _call("unshare", CLONE_NEWNS | CLONE_NEWIPC)
            size = f"size={2 * limits.file_bytes},nr_inodes={SCRATCH_INODES}"
            identity = f"mode=700,uid={INNER_ID},gid={INNER_ID}"
            flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
            _mount("tmp", "/tmp", "tmpfs", flags, f"{size},{identity}")
            os.chdir("/tmp")
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(INNER_ID, INNER_ID, INNER_ID)
                os.setresuid(INNER_ID, INNER_ID, INNER_ID)
        limit_resources(limits, self.own_user or not self.filtered)
        if _libc is not None:
            _drop_capabilities()
            _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            if self._landlock:
                landlock.confine(_libc, self._landlock, "/tmp", WRITABLE_DEVICES)
            if self.filtered:
                seccomp.install(_libc)


def _drop_capabilities() -> None:
    _call("capset", _CAPABILITY_HEADER, _NO_CAPABILITIES)


def limit_resources(limits: Limits, count_processes: bool) -> None:
    """Set the resource limits of this process; those that the system lacks are left out.

    count_processes: limit processes and threads too. The count is over all of the user's, so it
    must be a user of its own, or forks must have no other bound.
    """
    seconds = int(limits.cpu_seconds) + 2  # a second line behind the server's own measurement
    wanted = {
        "AS": limits.memory_bytes,
        "DATA": limits.memory_bytes,
        "FSIZE": limits.file_bytes,
        "NPROC": limits.processes,
        "NOFILE": limits.open_files,
        "CPU": seconds,
        "STACK": STACK_BYTES,
        "CORE": 0,
        "MSGQUEUE": 0,
        "MEMLOCK": 0,
        "NICE": 0,
        "RTPRIO": 0,
    }
    if not count_processes:
        del wanted["NPROC"]
    for name, value in wanted.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is None:
            continue
        _, hard = resource.getrlimit(kind)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (bound, bound))
        except (OSError, ValueError):
            if sys.platform == "linux":  # elsewhere some limits exist and cannot be set
                raise
