"""Landlock: what a process may change is decided by its own kernel rules too, beside mounts and filter.

Rights, structures and numbers: Linux `include/uapi/linux/landlock.h` and `scripts/syscall.tbl`, the same
for all machines.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
_GET_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEVICE = 1 << 14, 1 << 15
_TCP = 0b11  # bind, connect
_SCOPES = 0b11  # abstract Unix sockets, signals
# The first version with TRUNCATE; those before would also keep files from moving between folders.
OLDEST = 3


def version(libc: ctypes.CDLL | None) -> int:
    """Return the version of Landlock in this kernel; 0 where there is none that is of use."""
    if libc is None:
        return 0
    found = libc.syscall(CREATE_RULESET, None, 0, _GET_VERSION)
    return found if found >= OLDEST else 0


def confine(libc: ctypes.CDLL, kernel: int, folder: str, devices: Sequence[str]) -> None:
    """Let this thread and all it starts write below `folder` and to `devices` alone, for good.

    kernel: what `version` returned. Reading is as it was; no file can be executed, and as far as the
    version has it, no TCP and no signals or abstract sockets to others. Needs no_new_privs.
    """
    handled = (_IOCTL_DEVICE << 1) - 1 if kernel >= 5 else _IOCTL_DEVICE - 1
    handled &= ~(_READ_FILE | _READ_DIR)
    rules = struct.pack("=QQQ", handled, _TCP if kernel >= 4 else 0, _SCOPES if kernel >= 6 else 0)
    rules = rules[: 24 if kernel >= 6 else 16 if kernel >= 4 else 8]
    ruleset = _call(libc, CREATE_RULESET, rules, len(rules), 0)
    try:
        _allow(libc, ruleset, folder, handled & ~_EXECUTE)
        for device in devices:
            _allow(libc, ruleset, device, handled & (_WRITE_FILE | _TRUNCATE | _IOCTL_DEVICE))
        _call(libc, RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _call(libc, ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)


def _call(libc: ctypes.CDLL, *arguments: object) -> int:
    result = int(libc.syscall(*arguments))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result
