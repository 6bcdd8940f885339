"""The filter of system calls as a program, on both machines; test_confine runs it in the kernel."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from engine.formats import seccomp

ME = 4711
KILL, REFUSE, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def verdict(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the kernel makes of a call, by the rules of its interpreter for these instructions."""
    steps = seccomp.program(machine, ME)
    assert steps is not None
    said = ARCHITECTURES[machine] if architecture is None else architecture
    data = struct.pack("<iIQ6Q", number, said, 0, *arguments, *[0] * (6 - len(arguments)))
    at = held = 0
    while True:
        code, then, otherwise, value = struct.unpack_from("<HBBI", steps, 8 * at)
        at += 1
        if code == 0x20:  # load
            (held,) = struct.unpack_from("<I", data, value)
        elif code == 0x54:  # and
            held &= value
        elif code == 0x15:  # jump if equal
            at += then if held == value else otherwise
        elif code == 0x35:  # jump if greater or equal
            at += then if held >= value else otherwise
        else:
            assert code == 0x06  # return
            return int(value)


#: Numbers on x86-64 and AArch64, arguments, what comes of it.
CASES = [
    ("read", (0, 63), (), ALLOW),
    ("futex", (202, 98), (), ALLOW),
    ("socket", (41, 198), (1, 1, 0), REFUSE | errno.EPERM),
    ("execve", (59, 221), (), REFUSE | errno.EPERM),
    ("a number of tomorrow", (999, 999), (), REFUSE | errno.ENOSYS),
    ("clone3, so that the C library takes clone", (435, 435), (), REFUSE | errno.ENOSYS),
    # CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID
    ("a thread of the C library", (56, 220), (0x3D0F00,), ALLOW),
    ("a process", (56, 220), (17,), REFUSE | errno.EPERM),
    ("vfork by clone", (56, 220), (0x4111,), REFUSE | errno.EPERM),
    ("a thread in a new user namespace", (56, 220), (0x10010100,), REFUSE | errno.EPERM),
    ("a thread in a new network", (56, 220), (0x40010100,), REFUSE | errno.EPERM),
    ("a thread in a new cgroup", (56, 220), (0x02010100,), REFUSE | errno.EPERM),
    ("a thread in new mounts", (56, 220), (0x00030100,), REFUSE | errno.EPERM),
    ("reading a file", (257, 56), (0, 0, os.O_RDONLY | os.O_CLOEXEC), ALLOW),
    ("listing a folder", (257, 56), (0, 0, os.O_RDONLY | os.O_DIRECTORY), ALLOW),
    ("writing a file", (257, 56), (0, 0, os.O_WRONLY), REFUSE | errno.EACCES),
    ("reading and writing", (257, 56), (0, 0, os.O_RDWR), REFUSE | errno.EACCES),
    ("making a file", (257, 56), (0, 0, os.O_CREAT), REFUSE | errno.EACCES),
    ("cutting a file", (257, 56), (0, 0, os.O_TRUNC), REFUSE | errno.EACCES),
    ("an unnamed file", (257, 56), (0, 0, os.O_TMPFILE | os.O_RDWR), REFUSE | errno.EACCES),
    # The upper half of an int is not looked at by the kernel either.
    ("writing, with a high bit", (257, 56), (0, 0, 1 << 32 | 1), REFUSE | errno.EACCES),
    ("seals of a message", (72, 25), (3, 1033, 15), ALLOW),
    ("F_SETOWN", (72, 25), (3, 8, 1), REFUSE | errno.EPERM),
    ("F_SETSIG", (72, 25), (3, 10, 9), REFUSE | errno.EPERM),
    ("is it a terminal?", (16, 29), (0, 0x5401), ALLOW),
    ("typing into a terminal", (16, 29), (0, 0x5412), REFUSE | errno.EPERM),
    ("own limits", (302, 261), (0, 9), ALLOW),
    ("own limits, by number", (302, 261), (ME, 9), ALLOW),
    ("limits of another", (302, 261), (1, 0), REFUSE | errno.EPERM),
    ("abort", (234, 131), (ME, ME, 6), ALLOW),
    ("a signal to another", (234, 131), (1, 1, 9), REFUSE | errno.EPERM),
    ("kill itself", (62, 129), (ME, 9), ALLOW),
    ("kill its group", (62, 129), (0, 9), REFUSE | errno.EPERM),
    ("kill all", (62, 129), (0xFFFFFFFF, 9), REFUSE | errno.EPERM),
    ("to its peer", (44, 206), (3, 0, 0, 0, 0), ALLOW),
    ("to an address", (44, 206), (3, 0, 0, 0, 0x7F00_0000_1000), REFUSE | errno.EPERM),
    ("to a high address", (44, 206), (3, 0, 0, 0, 1 << 40), REFUSE | errno.EPERM),
    ("end with the parent", (157, 167), (1, 9), ALLOW),
    ("do not end with the parent", (157, 167), (1, 0), REFUSE | errno.EPERM),
    ("a thread's name", (157, 167), (15, 0x7F00), ALLOW),
    ("let another trace it", (157, 167), (0x59616D61, 1), REFUSE | errno.EPERM),
    ("own processors", (203, 122), (0,), ALLOW),
    ("processors of another", (203, 122), (1,), REFUSE | errno.EPERM),
]  # fmt: skip


@pytest.mark.parametrize("machine", list(ARCHITECTURES))
@pytest.mark.parametrize(("numbers", "arguments", "expected"), [c[1:] for c in CASES],
                         ids=[c[0] for c in CASES])  # fmt: skip
def test_the_filter_lets_work_through_and_nothing_else(
    machine: str, numbers: tuple[int, int], arguments: tuple[int, ...], expected: int
) -> None:
    number = numbers[list(ARCHITECTURES).index(machine)]
    assert verdict(machine, number, *arguments) == expected


def test_older_calls_of_x86_are_no_way_around() -> None:
    for number in (57, 58, 82, 83, 84, 85, 86, 87, 88, 90, 92, 94, 132, 133, 235, 261):
        assert verdict("x86_64", number) == REFUSE | errno.EPERM
    assert verdict("x86_64", 2, 0, os.O_WRONLY) == REFUSE | errno.EACCES


def test_calls_of_another_architecture_end_the_process() -> None:
    # int 0x80 on x86-64: numbers of i386, where 11 is execve.
    assert verdict("x86_64", 11, architecture=0x40000003) == KILL
    assert verdict("aarch64", 11, architecture=0x40000028) == KILL
    assert verdict("x86_64", 0x40000000 + 59) == REFUSE | errno.ENOSYS


def test_every_call_ends_in_one_of_the_known_answers() -> None:
    for machine in ARCHITECTURES:
        answers = {verdict(machine, number) for number in range(600)}
        assert answers <= {ALLOW, *(REFUSE | e for e in (errno.EPERM, errno.EACCES, errno.ENOSYS))}
        allowed = sum(verdict(machine, number) == ALLOW for number in range(600))
        assert 60 < allowed < 120


def test_another_machine_has_no_filter() -> None:
    assert seccomp.program("riscv64", ME) is None


def test_the_processors_tiles_can_be_asked_for_and_nothing_else_of_that_call() -> None:
    """Without them, networks compute otherwise in the process without keys than beside it."""
    for code in (0x1021, 0x1022, 0x1023):
        assert verdict("x86_64", 158, code, 18) == ALLOW
    for code in (0x1001, 0x1002, 0x1003, 0x1012):  # ARCH_SET_GS, ARCH_SET_FS, ..., ARCH_SET_CPUID
        assert verdict("x86_64", 158, code, 0) == REFUSE | errno.EPERM
