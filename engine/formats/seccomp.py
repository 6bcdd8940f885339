"""A seccomp filter: the process may compute, read what Landlock lets it open, and answer.

What is not in ``ALLOWED`` or ``GUARDED`` is refused with EPERM: sockets, programs, processes,
signals to others, changes of files and their modes, namespaces, tracing, io_uring, BPF, keys of
the kernel. Linux has filters since 3.5 and needs no privileges for them. A filter cannot be lifted
again. It holds for the calling thread and for all that it starts, so it must run before a library
starts threads. Programs for x86-64 and AArch64; elsewhere there is none.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass

# Source: linux/audit.h, linux/seccomp.h, linux/bpf_common.h, linux/prctl.h
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _AND, _JUMP_EQUAL, _JUMP_FROM, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2

#: Numbers on x86-64 and AArch64; None where an architecture has no such call.
#: Source: asm/unistd_64.h and asm-generic/unistd.h of Linux 6.1.
_Numbers = tuple[int | None, int | None]

ALLOWED: dict[str, _Numbers] = {
    # Files that are open, and looking at those that are not.
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66),
    "pread64": (17, 67), "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70),
    "lseek": (8, 62), "close": (3, 57), "close_range": (436, 436), "fstat": (5, 80),
    "newfstatat": (262, 79), "stat": (4, None), "lstat": (6, None), "statx": (332, 291),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getdents64": (217, 61),
    "getcwd": (79, 17), "fstatfs": (138, 44), "fadvise64": (221, 223), "dup": (32, 23),
    "dup2": (33, None), "dup3": (292, 24), "pipe": (22, None), "pipe2": (293, 59),
    "memfd_create": (319, 279), "ftruncate": (77, 46),
    # Waiting.
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72),
    "epoll_create": (213, None), "epoll_create1": (291, 20), "epoll_ctl": (233, 21),
    "epoll_wait": (232, None), "epoll_pwait": (281, 22), "epoll_pwait2": (441, 441),
    "eventfd2": (290, 19), "futex": (202, 98), "futex_waitv": (449, 449),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "sched_yield": (24, 124),
    "restart_syscall": (219, 128),
    # Memory.
    "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226),
    "madvise": (28, 233), "brk": (12, 214), "mincore": (27, 232), "membarrier": (324, 283),
    "get_mempolicy": (239, 236),
    # Itself: threads, signals that arrive, and what it is.
    "set_robust_list": (273, 99), "rseq": (334, 293), "set_tid_address": (218, 96),
    "exit": (60, 93), "exit_group": (231, 94), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "getresuid": (118, 148), "getresgid": (120, 150), "getgroups": (115, 158),
    "getpgrp": (111, None), "getpgid": (121, 155), "getsid": (124, 156),
    "getrlimit": (97, 163), "setrlimit": (160, 164), "getrusage": (98, 165),
    "sched_getaffinity": (204, 123), "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120), "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126), "getcpu": (309, 168),
    # The machine.
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169),
    "time": (201, None), "times": (100, 153), "uname": (63, 160), "sysinfo": (99, 179),
    "getrandom": (318, 278),
    # The sockets that it was given; it can make and connect none.
    "recvmsg": (47, 212), "sendmsg": (46, 211), "recvfrom": (45, 207),
    "getsockopt": (55, 209), "getsockname": (51, 204), "getpeername": (52, 205),
    "shutdown": (48, 210),
}  # fmt: skip

#: The C library tries these first and takes an older one where the kernel knows none.
UNKNOWN: dict[str, _Numbers] = {"clone3": (435, 435), "openat2": (437, 437)}

#: Calls of later kernels: whoever tries one takes an older one where there is none. The other
#: calling convention of x86-64 (x32) has numbers from 0x40000000 on, and is refused with them.
_LATER = 450

_THREAD = 0x00010000 | 0x00000100  # CLONE_THREAD, CLONE_VM
#: ... without a namespace or a tracer: CLONE_NEWNS to CLONE_NEWNET, CLONE_PTRACE.
_NOT_PLAIN = 0x7E000000 | 0x00020000 | 0x00002000
_CHANGING = 0o3 | 0o100 | 0o1000 | 0o20000000  # access modes, O_CREAT, O_TRUNC, O_TMPFILE


@dataclass(frozen=True)
class Guard:
    """Lets a call pass if one of its arguments is right.

    Args:
        argument: Which one, from 0.
        mask: Bits that count, of the lower 32.
        values: What they may be.
        high: The upper 32 bits must be 0; else they do not count, as for an int.
        refused: Error number otherwise.
        paired: Values that it may have only if the next argument is the one beside it.
    """

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    high: bool = False
    refused: int = errno.EPERM
    paired: tuple[tuple[int, int], ...] = ()


def _guarded(process: int) -> dict[str, tuple[_Numbers, Guard]]:
    itself = (process,)
    return {
        "clone": ((56, 220), Guard(0, (_THREAD,), _THREAD | _NOT_PLAIN)),
        "open": ((2, None), Guard(1, (0,), _CHANGING, refused=errno.EACCES)),
        "openat": ((257, 56), Guard(2, (0,), _CHANGING, refused=errno.EACCES)),
        # Of its own descriptors; not F_SETOWN, by which the kernel signals another process.
        # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_ADD_SEALS, F_GET_SEALS
        "fcntl": ((72, 25), Guard(1, (0, 1, 2, 3, 4, 1030, 1033, 1034))),
        # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIOCLEX, FIONCLEX: what opening a file asks
        "ioctl": ((16, 29), Guard(1, (0x5401, 0x5413, 0x541B, 0x5421, 0x5451, 0x5450))),
        # PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_GET_SECCOMP, PR_CAPBSET_READ,
        # PR_GET_NO_NEW_PRIVS, PR_SET_VMA; PR_SET_PDEATHSIG to SIGKILL, never to nothing
        "prctl": ((157, 167), Guard(0, (3, 15, 16, 21, 23, 39, 0x53564D41), paired=((1, 9),))),
        # ARCH_GET_XCOMP_SUPP, ARCH_GET_XCOMP_PERM, ARCH_REQ_XCOMP_PERM: the processor's tiles (AMX)
        "arch_prctl": ((158, None), Guard(0, (0x1021, 0x1022, 0x1023))),
        "prlimit64": ((302, 261), Guard(0, (0, process))),
        "kill": ((62, 129), Guard(0, itself)),
        "tgkill": ((234, 131), Guard(0, itself)),
        "sched_setaffinity": ((203, 122), Guard(0, (0, process))),
        "sendto": ((44, 206), Guard(4, (0,), high=True)),  # to its peer, not to an address
    }


def program(machine: str, process: int) -> bytes | None:
    """The filter for a process, as ``struct sock_filter`` after each other.

    Args:
        machine: As ``platform.machine()`` names it.
        process: Its number: signals to itself are let through.

    Returns:
        None where there is none for this machine.
    """
    if machine not in _ARCHITECTURES:
        return None
    place = list(_ARCHITECTURES).index(machine)
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_JUMP_EQUAL, _ARCHITECTURES[machine], 1, 0),
        _step(_RETURN, _KILL_PROCESS),
        _step(_LOAD, _NUMBER),
    ]
    steps += [_step(_JUMP_FROM, _LATER, 0, 1), _step(_RETURN, _ERRNO | errno.ENOSYS)]
    for numbers in ALLOWED.values():
        if (number := numbers[place]) is not None:
            steps += [_step(_JUMP_EQUAL, number, 0, 1), _step(_RETURN, _ALLOW)]
    for numbers in UNKNOWN.values():
        if (number := numbers[place]) is not None:
            steps += [_step(_JUMP_EQUAL, number, 0, 1), _step(_RETURN, _ERRNO | errno.ENOSYS)]
    for numbers, guard in _guarded(process).values():
        if (number := numbers[place]) is not None:
            block = _checks(guard)
            steps += [_step(_JUMP_EQUAL, number, 0, len(block)), *block]
    steps.append(_step(_RETURN, _ERRNO | errno.EPERM))
    return b"".join(steps)


def _checks(guard: Guard) -> list[bytes]:
    """Ends in an answer whatever the argument is. Both machines are little-endian."""
    at = _ARGUMENTS + 8 * guard.argument
    refuse = _step(_RETURN, _ERRNO | guard.refused)
    steps = []
    if guard.high:
        steps += [_step(_LOAD, at + 4), _step(_JUMP_EQUAL, 0, 1, 0), refuse]
    steps += [_step(_LOAD, at), _step(_AND, guard.mask)]
    for value in guard.values:
        steps += [_step(_JUMP_EQUAL, value, 0, 1), _step(_RETURN, _ALLOW)]
    for value, beside in guard.paired:
        steps += [
            _step(_JUMP_EQUAL, value, 0, 4),
            _step(_LOAD, at + 8),
            _step(_JUMP_EQUAL, beside, 0, 1),
            _step(_RETURN, _ALLOW),
            refuse,
        ]
    return [*steps, refuse]


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("<HBBI", code, then, otherwise, value)


def install() -> bool:
    """Put the filter on this thread, and on all that it starts from now on.

    Returns:
        False where the kernel has no filters, or there is none for this machine.

    Raises:
        OSError: The kernel has filters and refused this one.
    """
    steps = program(platform.machine(), os.getpid())
    if steps is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "new privileges cannot be given up")
    held = ctypes.create_string_buffer(steps, len(steps))
    told = struct.pack("HxxxxxxP", len(steps) // 8, ctypes.addressof(held))  # struct sock_fprog
    if libc.prctl(_PR_SET_SECCOMP, _FILTER, told, 0, 0) == 0:
        return True
    failed = ctypes.get_errno()
    if failed == errno.EINVAL:  # a kernel without CONFIG_SECCOMP_FILTER
        return False
    raise OSError(failed, "seccomp refused")
