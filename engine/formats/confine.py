"""Confinement of a worker: it can read Python and its libraries, compute and answer, nothing else.

Four means, each for itself, as far as the kernel has it; what holds is reported, not assumed:

- a user of its own, where the server runs as root, and no capability in any case;
- a network namespace of its own, in which there is nothing;
- Landlock (Linux 5.13 and later) for what it can open;
- a seccomp filter for everything else that a kernel does for a program.

None can be lifted again. Must run before a library starts threads, because existing threads stay
unrestricted.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.formats import seccomp

# Source: linux/landlock.h and asm-generic/unistd.h
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION_ONLY = 1
_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
#: How many kinds of file access each version of the interface knows.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_LATEST_FILE_RIGHTS = 16
_NET_RIGHTS = 0b11  # bind and connect, TCP; from version 4
_SCOPES = 0b11  # abstract sockets and signals; from version 6

# Source: linux/prctl.h, linux/sched.h, linux/capability.h
_GET_DEATH_SIGNAL, _SET_DEATH_SIGNAL = 2, 1
_NO_NEW_PRIVILEGES = 38
_DROP_BOUNDING, _AMBIENT, _AMBIENT_CLEAR = 24, 47, 4
_NEW_USER, _NEW_NETWORK, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000
_KEEP_CAPABILITIES = 8
_CAPABILITIES = 41  # how many there are
_READ_ANYTHING = 1 << 2  # CAP_DAC_READ_SEARCH
_CAPABILITIES_V3 = 0x20080522

#: Numbers from here on are given to nobody: systemd's list of ranges calls them unassigned.
_FIRST_USER = 1_900_000_000
_NOBODY = 65534

_READABLE = (
    "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/sys/devices/system", "/proc/cpuinfo",
    "/proc/meminfo", "/proc/self", "/dev/null", "/dev/urandom",
)  # fmt: skip


@dataclass(frozen=True)
class Confinement:
    """What holds a worker.

    Args:
        landlock: Version of Landlock that keeps files from it; 0 where the kernel has none.
        seccomp: Is there a filter of system calls?
        network: Has it a network namespace of its own?
        user: Is it another user than root, or than the server if that is root?
    """

    landlock: int = 0
    seccomp: bool = False
    network: bool = False
    user: bool = False

    @classmethod
    def told(cls, facts: object) -> Confinement:
        """What a worker said of itself before it read anything hostile. Raises ValueError."""
        if not isinstance(facts, Mapping) or set(facts) != set(asdict(cls())):
            raise ValueError("not what a worker says of its confinement")
        return cls(int(facts["landlock"]), *(bool(facts[k]) for k in list(asdict(cls()))[1:]))

    @property
    def complete(self) -> bool:
        """Does everything hold that this release can ask for?"""
        return self.landlock > 0 and self.seccomp and self.network and self.user

    def facts(self) -> dict[str, int | bool]:
        return asdict(self)


def confine(*code: str) -> Confinement:
    """Give up everything but reading Python, its packages and some folders of code.

    Returns:
        What the kernel holds from now on.

    Raises:
        OSError: The kernel has Landlock or filters, and refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    packages = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    places = [sys.prefix, sys.base_prefix, *code, *packages]
    signal = ctypes.c_int()
    libc.prctl(_GET_DEATH_SIGNAL, ctypes.byref(signal), 0, 0, 0)
    for number in range(_CAPABILITIES):
        libc.prctl(_DROP_BOUNDING, number, 0, 0, 0)  # without CAP_SETPCAP there is none to drop
    # As root without a namespace of users, so that the number of another user is still to be had.
    network = libc.unshare(_NEW_NETWORK | _NEW_IPC) == 0
    kept = _another_user(libc, places)
    user = os.geteuid() != 0
    if not network and not kept:
        network = libc.unshare(_NEW_USER | _NEW_NETWORK | _NEW_IPC) == 0
    _keep_capabilities(libc, kept)
    version = _landlock(libc, [*_READABLE, *places])
    if signal.value:  # the kernel forgets it with a change of user
        libc.prctl(_SET_DEATH_SIGNAL, signal.value, 0, 0, 0)
    return Confinement(version, seccomp.install(), network, user)


def _landlock(libc: ctypes.CDLL, places: Iterable[str]) -> int:
    """Open nothing but these, and only to read; returns the version, 0 where there is none."""
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
    for place in places:
        if not os.path.exists(place):
            continue
        # No right to execute: loading a library needs none, and Python runs already.
        allowed = _READ_FILE | (_READ_DIR if os.path.isdir(place) else 0)
        descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("<Qi", allowed, descriptor)
        _checked(libc.syscall(_ADD, rules, _PATH_BENEATH, rule, 0))
        os.close(descriptor)
    _checked(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _checked(libc.syscall(_RESTRICT, rules, 0))
    os.close(rules)
    return version


def _another_user(libc: ctypes.CDLL, places: Iterable[str]) -> int:
    """From root to a user whom no file belongs to.

    Each worker gets a number of its own where the machine has so many, so that one cannot trace
    another. If MedSec or Python is below a folder that only root may enter, the right to read
    everything stays, within Landlock; where root has not even that to give, root it remains.

    Returns:
        The capabilities that stay, as a mask.
    """
    if os.geteuid() != 0:
        return 0
    for user in (_FIRST_USER + os.getpid(), _NOBODY):
        try:
            os.seteuid(user)
        except OSError:  # a container that maps fewer numbers, or root without the capability
            continue
        readable = all(os.access(path, _needs(path), effective_ids=True) for path in _seen(places))
        os.seteuid(0)
        kept = 0 if readable else _READ_ANYTHING & _permitted(libc)
        if not readable and not kept:
            return 0
        libc.prctl(_KEEP_CAPABILITIES, 1, 0, 0, 0)
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        return kept
    return 0


def _seen(places: Iterable[str]) -> Iterator[str]:
    """Folders of code, what lies in them, and in MedSec's own all below."""
    for place in places:
        yield place
        below = Path(place).rglob("*") if os.path.basename(place) == "engine" else []
        yield from (str(path) for path in below)
        yield from (entry.path for entry in os.scandir(place) if not entry.is_symlink())


def _needs(path: str) -> int:
    return os.R_OK | os.X_OK if os.path.isdir(path) else os.R_OK


def _permitted(libc: ctypes.CDLL) -> int:
    """The first 32 capabilities that it may use."""
    header = struct.pack("<Ii", _CAPABILITIES_V3, 0)
    held = ctypes.create_string_buffer(24)
    _checked(libc.capget(header, held))
    return int(struct.unpack_from("<I", held, 4)[0])


def _keep_capabilities(libc: ctypes.CDLL, kept: int) -> None:
    """Give up all others, also those that a namespace of users brings with it."""
    libc.prctl(_AMBIENT, _AMBIENT_CLEAR, 0, 0, 0)
    header = struct.pack("<Ii", _CAPABILITIES_V3, 0)
    _checked(libc.capset(header, struct.pack("<6I", kept, kept, 0, 0, 0, 0)))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "the kernel refused to confine a worker")
    return int(result)
