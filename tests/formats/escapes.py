"""What somebody who took over a worker would try. Runs in the worker, as its module.

Each attempt returns "done" or the name of the error that stopped it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import platform
import resource
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Number on x86-64 and AArch64, arguments. Each is refused before it looks at its arguments.
CALLS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "execve": (59, 221, (0, 0, 0)),
    "execveat": (322, 281, (0, 0, 0, 0, 0)),
    "a process by clone": (56, 220, (signal.SIGCHLD, 0, 0, 0, 0)),
    "a thread with a network namespace": (56, 220, (0x40010100, 0, 0, 0, 0)),
    "ptrace": (101, 117, (16, 1, 0, 0)),
    "process_vm_readv": (310, 270, (1, 0, 0, 0, 0, 0)),
    "process_vm_writev": (311, 271, (1, 0, 0, 0, 0, 0)),
    "pidfd_open": (434, 434, (1, 0)),
    "pidfd_getfd": (438, 438, (0, 0, 0)),
    "pidfd_send_signal": (424, 424, (0, 0, 0, 0)),
    "rt_sigqueueinfo": (129, 138, (1, 0, 0)),
    "tkill": (200, 130, (1, 0)),
    "process_madvise": (440, 440, (0, 0, 0, 0, 0)),
    "kcmp": (312, 272, (1, 1, 0, 0, 0)),
    "perf_event_open": (298, 241, (0, 0, 0, 0, 0)),
    "io_uring_setup": (425, 425, (1, 0)),
    "bpf": (321, 280, (0, 0, 0)),
    "keyctl": (250, 219, (0, 0, 0, 0, 0)),
    "add_key": (248, 217, (0, 0, 0, 0, 0)),
    "userfaultfd": (323, 282, (0,)),
    "unshare": (272, 97, (0x10000000,)),
    "setns": (308, 268, (0, 0)),
    "mount": (165, 40, (0, 0, 0, 0, 0)),
    "umount": (166, 39, (0, 0)),
    "pivot_root": (155, 41, (0, 0)),
    "chroot": (161, 51, (0,)),
    "open_tree": (428, 428, (0, 0, 0)),
    "setresuid": (117, 147, (0, 0, 0)),
    "setgroups": (116, 159, (0, 0)),
    "capset": (126, 91, (0, 0)),
    "setpriority": (141, 140, (0, 1, 19)),
    "sched_setscheduler": (144, 119, (1, 0, 0)),
    "sched_setaffinity of another": (203, 122, (1, 8, 0)),
    "ioprio_set": (251, 30, (1, 1, 0)),
    "migrate_pages": (256, 238, (1, 0, 0, 0)),
    "shmget": (29, 194, (0, 4096, 0o1666)),
    "msgget": (68, 186, (0, 0o1666)),
    "mq_open": (240, 180, (0, 0, 0, 0)),
    "open_by_handle_at": (304, 265, (0, 0, 0)),
    "personality": (135, 92, (0xFFFFFFFF,)),
    "fanotify_init": (300, 262, (0, 0)),
    "init_module": (175, 105, (0, 0, 0)),
    "reboot": (169, 142, (0, 0, 0, 0)),
    "socketpair": (53, 199, (1, 1, 0, 0)),
    "bind": (49, 200, (0, 0, 0)),
    "listen": (50, 201, (0, 0)),
    "accept": (43, 202, (0, 0, 0)),
    "sendmmsg": (307, 269, (0, 0, 0, 0)),
    "truncate": (76, 45, (0, 0)),
    "fchmod": (91, 52, (0, 0o777)),
    "fchown": (93, 55, (0, 0, 0)),
    "setxattr": (188, 5, (0, 0, 0, 0, 0)),
    "utimensat": (280, 88, (0, 0, 0, 0)),
    "mknodat": (259, 33, (0, 0, 0, 0)),
    "mkdirat": (258, 34, (0, 0, 0)),
    "inotify_init1": (294, 26, (0,)),
}


def _raw(name: str) -> int:
    x86, arm, arguments = CALLS[name]
    libc = ctypes.CDLL(None, use_errno=True)
    number = x86 if platform.machine() == "x86_64" else arm
    answer = libc.syscall(number, *(ctypes.c_long(a) for a in arguments))
    if answer < 0:
        raise OSError(ctypes.get_errno(), name)
    if name.startswith("a process") and answer == 0:
        os._exit(0)
    return int(answer)


def _other_numbers() -> None:
    """The same call under the numbers of x32."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(0x40000000 + 39) < 0:
        raise OSError(ctypes.get_errno(), "getpid of x32")


def _own_signal(process: int) -> None:
    """Let the kernel send a signal for us: to the owner of a descriptor that has news."""
    _, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETOWN, process)


def _executable_memory_file() -> None:
    """A program that was never a file, by its descriptor."""
    descriptor = os.memfd_create("program")
    os.write(descriptor, b"#!/bin/sh\n")
    os.execve(descriptor, ["program"], {})  # noqa: S606 - has to be refused


def _forget_parent() -> None:
    """Stay alive when the server ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(1, 0, 0, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _run(*command: str) -> None:
    pid = os.posix_spawn(command[0], list(command), {})
    os.waitpid(pid, 0)


def _open(path: str, flags: int) -> None:
    os.close(os.open(path, flags))


def _send_udp(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.sendto(b"pixels", ("127.0.0.1", port))


def _connect_unix(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.connect(path)


def _limit(process: int) -> None:
    """The penetration test killed a process outside with this."""
    resource.prlimit(process, resource.RLIMIT_CPU, (0, 0))


ATTEMPTS: dict[str, Callable[..., Any]] = {
    "read": lambda path: Path(path).read_bytes(),
    "write": lambda path: Path(path).write_bytes(b"taken"),
    "open to write": lambda path: _open(path, os.O_RDWR),
    "create": lambda path: _open(path, os.O_WRONLY | os.O_CREAT),
    "unnamed file": lambda path: _open(path, os.O_TMPFILE | os.O_RDWR),
    "list": os.listdir,
    "chmod": lambda path: os.chmod(path, 0o666),  # noqa: S103
    "chown": lambda path: os.chown(path, 0, 0),
    "unlink": os.unlink,
    "rename": lambda path: os.rename(path, path + ".away"),
    "link": lambda path: os.link(path, path + ".second"),
    "symlink": lambda path: os.symlink(path, path + ".link"),
    "mkdir": lambda path: os.mkdir(path + ".folder"),
    "truncate": lambda path: os.truncate(path, 0),
    "udp": _send_udp,
    "tcp": lambda port: socket.create_connection(("127.0.0.1", port), timeout=5).close(),
    "unix socket": _connect_unix,
    "shell": lambda: _run("/bin/sh", "-c", "true"),
    "program": lambda: _run("/usr/bin/env", "true"),
    "fork": lambda: os.fork() or os._exit(0),
    "program in memory": _executable_memory_file,
    "prlimit": _limit,
    "kill": lambda process: os.kill(process, signal.SIGCONT),
    "signal by owner": _own_signal,
    "outlive the server": _forget_parent,
    "x32": _other_numbers,
}


def _attempt(name: str, *arguments: Any) -> str:
    try:
        if name in CALLS:
            _raw(name)
        else:
            ATTEMPTS[name](*arguments)
    except OSError as err:
        return errno.errorcode.get(err.errno or 0, type(err).__name__)
    return "done"


def _compute() -> float:
    """What a worker must still be able to do: threads, memory files, randomness, time."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as threads:
        total = sum(threads.map(lambda n: n * n, range(100)))
    descriptor = os.memfd_create("message")
    os.write(descriptor, struct.pack("<d", float(total)))
    (value,) = struct.unpack("<d", mmap.mmap(descriptor, 8)[:8])
    os.close(descriptor)
    assert len(os.urandom(8)) == 8
    return float(value)


def _descriptors() -> list[str]:
    """What is open; the folder that lists it is closed again when this is read."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return found


def _status() -> dict[str, str]:
    """What the kernel says of this process."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


OPERATIONS = {
    "try": _attempt,
    "environment": lambda: dict(os.environ),
    "descriptors": _descriptors,
    "compute": _compute,
    "status": _status,
    "interfaces": lambda: [name for _, name in socket.if_nameindex()],
    "process": os.getpid,
}
