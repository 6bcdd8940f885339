"""Landlock confinement: the process can read Python and its libraries only, and cannot write files,
open connections or send signals.

Landlock is part of the Linux kernel since 5.13 and needs no privileges. The restriction cannot be
lifted again. Must run before a library starts threads, because existing threads stay unrestricted.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

# Source: linux/landlock.h and asm-generic/unistd.h
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION_ONLY = 1
_PATH_BENEATH = 1
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
#: How many kinds of file access each version of the interface knows.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_LATEST_FILE_RIGHTS = 16
_NET_RIGHTS = 0b11  # bind and connect, TCP; from version 4
_SCOPES = 0b11  # abstract sockets and signals; from version 6
_NO_NEW_PRIVILEGES = 38

_READABLE = (
    "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/sys/devices/system", "/proc/cpuinfo",
    "/proc/meminfo", "/proc/self", "/dev/null", "/dev/urandom",
)  # fmt: skip


def confine(*code: str) -> int:
    """Give up everything but reading Python, its packages and some folders of code.

    Returns:
        Version of Landlock that keeps it so; 0 where the kernel has none.

    Raises:
        OSError: The kernel has it and refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = int(libc.syscall(_CREATE, None, 0, _VERSION_ONLY))
    if version < 1:
        return 0
    rights = (1 << _FILE_RIGHTS.get(version, _LATEST_FILE_RIGHTS)) - 1
    attributes = struct.pack("<Q", rights)
    if version >= 4:
        attributes += struct.pack("<Q", _NET_RIGHTS)
    if version >= 6:
        attributes += struct.pack("<Q", _SCOPES)
    rules = _checked(libc.syscall(_CREATE, attributes, len(attributes), 0))
    packages = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    for place in (*_READABLE, sys.prefix, sys.base_prefix, *code, *packages):
        if not os.path.exists(place):
            continue
        folder = os.path.isdir(place)
        allowed = _EXECUTE | _READ_FILE | (_READ_DIR if folder else 0)
        descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("<Qi", allowed, descriptor)
        _checked(libc.syscall(_ADD, rules, _PATH_BENEATH, rule, 0))
        os.close(descriptor)
    _checked(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _checked(libc.syscall(_RESTRICT, rules, 0))
    os.close(rules)
    return version


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "Landlock refused")
    return int(result)
