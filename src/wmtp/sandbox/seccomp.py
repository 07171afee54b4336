"""The system-call filter: an allow-list in classic BPF for x86-64 and 64-bit ARM.

Whatever is not listed fails with EPERM: no network, no new programs or processes (threads only), no
signals, no tracing, no mounts or namespaces, no System V or memfd memory, no kernel extras.
Numbers: Linux `arch/x86/entry/syscalls/syscall_64.tbl` and `include/uapi/asm-generic/unistd.h`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from functools import cache

_X86_64 = """
    read=0 write=1 readv=19 writev=20 pread64=17 pwrite64=18 preadv=295 pwritev=296 preadv2=327
    pwritev2=328 open=2 openat=257 creat=85 close=3 close_range=436 lseek=8 stat=4 fstat=5
    lstat=6 newfstatat=262 statx=332 statfs=137 fstatfs=138 access=21 faccessat=269
    faccessat2=439 readlink=89 readlinkat=267 getdents=78 getdents64=217 getcwd=79 chdir=80
    fchdir=81 mkdir=83 mkdirat=258 rmdir=84 unlink=87 unlinkat=263 rename=82 renameat=264
    renameat2=316 link=86 linkat=265 symlink=88 symlinkat=266 chmod=90 fchmod=91 fchmodat=268
    umask=95 truncate=76 ftruncate=77 fallocate=285 fsync=74 fdatasync=75 sync_file_range=277
    flock=73 fadvise64=221 copy_file_range=326 sendfile=40 utime=132 utimes=235 utimensat=280
    futimesat=261 getxattr=191 lgetxattr=192 fgetxattr=193 listxattr=194 llistxattr=195
    flistxattr=196 dup=32 dup2=33 dup3=292 pipe=22 pipe2=293 poll=7 ppoll=271 select=23
    pselect6=270 epoll_create=213 epoll_create1=291 epoll_ctl=233 epoll_wait=232 epoll_pwait=281
    epoll_pwait2=441 eventfd=284 eventfd2=290 socketpair=53 sendto=44 recvfrom=45 sendmsg=46
    recvmsg=47 shutdown=48 getsockopt=55 getsockname=51 getpeername=52 mmap=9 munmap=11
    mprotect=10 mremap=25 madvise=28 brk=12 msync=26 membarrier=324 rt_sigaction=13
    rt_sigprocmask=14 rt_sigreturn=15 rt_sigpending=127 rt_sigtimedwait=128 rt_sigsuspend=130
    sigaltstack=131 alarm=37 pause=34 getitimer=36 setitimer=38 restart_syscall=219 futex=202
    futex_waitv=449 get_robust_list=274 set_robust_list=273 set_tid_address=218 rseq=334
    arch_prctl=158 nanosleep=35 clock_nanosleep=230 clock_gettime=228 clock_getres=229
    gettimeofday=96 time=201 times=100 getrusage=98 getpid=39 getppid=110 gettid=186 getuid=102
    geteuid=107 getgid=104 getegid=108 getgroups=115 getresuid=118 getresgid=120 getpgrp=111
    getpgid=121 getsid=124 getrlimit=97 uname=63 sysinfo=99 getcpu=309 getpriority=140
    sched_yield=24 sched_getaffinity=204 sched_getparam=143 sched_getscheduler=145
    sched_get_priority_max=146 sched_get_priority_min=147 sched_rr_get_interval=148 getrandom=318
    wait4=61 waitid=247 exit=60 exit_group=231
"""
_AARCH64 = """
    read=63 write=64 readv=65 writev=66 pread64=67 pwrite64=68 preadv=69 pwritev=70 preadv2=286
    pwritev2=287 openat=56 close=57 close_range=436 lseek=62 fstat=80 newfstatat=79 statx=291
    statfs=43 fstatfs=44 faccessat=48 faccessat2=439 readlinkat=78 getdents64=61 getcwd=17
    chdir=49 fchdir=50 mkdirat=34 unlinkat=35 renameat=38 renameat2=276 linkat=37 symlinkat=36
    fchmod=52 fchmodat=53 umask=166 truncate=45 ftruncate=46 fallocate=47 fsync=82 fdatasync=83
    sync_file_range=84 flock=32 fadvise64=223 copy_file_range=285 sendfile=71 utimensat=88
    getxattr=8 lgetxattr=9 fgetxattr=10 listxattr=11 llistxattr=12 flistxattr=13 dup=23 dup3=24
    pipe2=59 ppoll=73 pselect6=72 epoll_create1=20 epoll_ctl=21 epoll_pwait=22 epoll_pwait2=441
    eventfd2=19 socketpair=199 sendto=206 recvfrom=207 sendmsg=211 recvmsg=212 shutdown=210
    getsockopt=209 getsockname=204 getpeername=205 mmap=222 munmap=215 mprotect=226 mremap=216
    madvise=233 brk=214 msync=227 membarrier=283 rt_sigaction=134 rt_sigprocmask=135
    rt_sigreturn=139 rt_sigpending=136 rt_sigtimedwait=137 rt_sigsuspend=133 sigaltstack=132
    getitimer=102 setitimer=103 restart_syscall=128 futex=98 futex_waitv=449 get_robust_list=100
    set_robust_list=99 set_tid_address=96 rseq=293 nanosleep=101 clock_nanosleep=115
    clock_gettime=113 clock_getres=114 gettimeofday=169 times=153 getrusage=165 getpid=172
    getppid=173 gettid=178 getuid=174 geteuid=175 getgid=176 getegid=177 getgroups=158
    getresuid=148 getresgid=150 getpgid=155 getsid=156 getrlimit=163 uname=160 sysinfo=179
    getcpu=168 getpriority=141 sched_yield=124 sched_getaffinity=123 sched_getparam=121
    sched_getscheduler=120 sched_get_priority_max=125 sched_get_priority_min=126
    sched_rr_get_interval=127 getrandom=278 wait4=260 waitid=95 exit=93 exit_group=94
"""
# Machine: audit architecture, plain allow-list, numbers of the calls whose arguments are looked at.
_MACHINES = {
    "x86_64": (
        0xC000003E,
        _X86_64,
        {"clone": 56, "clone3": 435, "prctl": 157, "fcntl": 72, "ioctl": 16, "prlimit64": 302},
    ),
    "aarch64": (
        0xC00000B7,
        _AARCH64,
        {"clone": 220, "clone3": 435, "prctl": 167, "fcntl": 25, "ioctl": 29, "prlimit64": 261},
    ),
}

# Argument number and the values of it that are allowed.
_ALLOWED_VALUES: dict[str, tuple[int, tuple[int, ...]]] = {
    # PR_SET_NAME, PR_GET_NAME, PR_SET_VMA
    "prctl": (0, (15, 16, 0x53564D41)),
    # Duplicate, flags, record locks, open-file-description locks, duplicate close-on-exec, pipe
    # size (read); never F_SETOWN or F_SETSIG, which send signals.
    "fcntl": (1, (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)),
    # TCGETS, TCGETS2, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
    "ioctl": (1, (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)),
    # Only the process itself
    "prlimit64": (0, (0,)),
}

_CLONE_THREAD = 0x00010000
_CLONE_NEW = 0x7E020080  # every namespace flag

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_ALLOWED = [(_RETURN, 0, 0, _ALLOW)]
_REFUSED = [(_RETURN, 0, 0, _ERRNO | errno.EPERM)]
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2


def is_supported() -> bool:
    """Return whether there is a table for this machine's system calls."""
    return os.uname().sysname == "Linux" and platform.machine() in _MACHINES


Code = list[tuple[int, int, int, int]]


@cache
def filter_program() -> bytes:
    """Return the BPF program for this machine."""
    architecture, table, special = _MACHINES[platform.machine()]
    bodies: dict[int, Code] = {}
    for entry in table.split():
        bodies[int(entry.partition("=")[2])] = _ALLOWED
    for name, (argument, values) in _ALLOWED_VALUES.items():
        bodies[special[name]] = [(_LOAD, 0, 0, 16 + 8 * argument)]
        for value in values:
            bodies[special[name]] += [(_JUMP_EQUAL, 0, 1, value), *_ALLOWED]
        bodies[special[name]] += _REFUSED
    bodies[special["clone"]] = [
        (_LOAD, 0, 0, 16),
        (_AND, 0, 0, _CLONE_THREAD | _CLONE_NEW),
        (_JUMP_EQUAL, 0, 1, _CLONE_THREAD),
        *_ALLOWED,
        *_REFUSED,
    ]
    # The C library then falls back to clone, whose flags can be checked.
    bodies[special["clone3"]] = [(_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    code: Code = [
        (_LOAD, 0, 0, 4),  # struct seccomp_data: nr at 0, arch at 4, arguments from 16
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, 0),
        *_search(_intervals(bodies)),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in code)


def _intervals(bodies: dict[int, Code]) -> list[tuple[int, Code]]:
    """Return the first number of each run of system calls with one body, and that body."""
    found: list[tuple[int, Code]] = [(0, _REFUSED)]
    for number in range(max(bodies) + 2):
        body = bodies.get(number, _REFUSED)
        if body is not found[-1][1]:
            found.append((number, body))
    return found


def _search(intervals: list[tuple[int, Code]]) -> Code:
    """Return a binary search: the kernel walks the filter for every number when it is installed."""
    if len(intervals) == 1:
        return intervals[0][1]
    middle = len(intervals) // 2
    lower, upper = _search(intervals[:middle]), _search(intervals[middle:])
    return [(_JUMP_AT_LEAST, len(lower), 0, intervals[middle][0]), *lower, *upper]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


@cache
def program() -> _Program:
    """Return the program as the kernel takes it."""
    code = filter_program()
    return _Program(len(code) // 8, code)


def install(libc: ctypes.CDLL) -> None:
    """Confine this thread and all it starts, for good. Needs no_new_privs."""
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program()), 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")
