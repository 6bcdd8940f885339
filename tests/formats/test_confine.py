"""What a worker of the sandbox may still do: compute, and read Python itself."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.formats.confine import Confinement
from engine.formats.sandbox import Sandbox
from tests.formats import escapes

ROOT = Path(__file__).parents[2]
REFUSED = {"EPERM", "EACCES"}

#: Runs attempts under one means alone, to show what holds where the kernel has no other.
ALONE = """
import ctypes, json, sys, types
package = sys.modules["engine"] = types.ModuleType("engine")
package.__path__ = [sys.argv[1] + "/engine"]
sys.path.append(sys.argv[1])
from engine.formats import confine, seccomp
from tests.formats import escapes
if sys.argv[2] == "seccomp":
    assert seccomp.install()
else:
    places = [sys.prefix, sys.base_prefix, sys.argv[1]]
    assert confine._landlock(ctypes.CDLL(None, use_errno=True), [*confine._READABLE, *places])
print(json.dumps([escapes._attempt(name, *rest) for name, *rest in json.loads(sys.argv[3])]))
"""


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    made = Sandbox(escapes.__name__, workers=1)
    made.call("environment")
    yield made
    made.close()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "root.key"
    path.write_text("a root key")
    path.chmod(0o600)
    return path


def held(box: Sandbox) -> Confinement:
    assert box.confinement is not None
    return box.confinement


def alone(means: str, *attempts: tuple[object, ...]) -> list[str]:
    """What comes of attempts in a process of this user that one means alone confines."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(ROOT), means, json.dumps(attempts)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    answers: list[str] = json.loads(done.stdout)
    return answers


def needs_landlock(box: Sandbox, version: int = 1) -> None:
    if held(box).landlock < version:
        pytest.skip(f"this kernel has no Landlock {version}")


def needs_seccomp(box: Sandbox) -> None:
    if not held(box).seccomp:
        pytest.skip("this kernel has no filters, or this machine no program for them")


def test_a_worker_reads_no_file_of_its_user(box: Sandbox, key: Path) -> None:
    needs_landlock(box)
    for path in (str(key), "/etc/passwd", f"/proc/{os.getpid()}/environ", "/dev/mem", __file__):
        if os.path.exists(path) and path != __file__:
            assert box.call("try", "read", path) in REFUSED, path
    assert box.call("try", "list", str(key.parent)) in REFUSED
    assert box.call("try", "read", os.__file__) == "done"


@pytest.mark.parametrize(
    "attempt",
    [
        "write", "open to write", "create", "chmod", "chown", "unlink", "rename", "link",
        "symlink", "mkdir", "truncate",
    ],
)  # fmt: skip
def test_a_worker_changes_no_file(box: Sandbox, key: Path, attempt: str) -> None:
    needs_seccomp(box)
    for path in (key, Path(__file__)):
        assert box.call("try", attempt, str(path)) in REFUSED
    assert box.call("try", "unnamed file", str(key.parent)) in REFUSED
    assert key.read_text() == "a root key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in key.parent.iterdir()) == [key.name]


def test_a_worker_makes_no_socket(box: Sandbox, tmp_path: Path) -> None:
    needs_seccomp(box)
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert box.call("try", "tcp", server.getsockname()[1]) in REFUSED
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.bind(("127.0.0.1", 0))
        assert box.call("try", "udp", heard.getsockname()[1]) in REFUSED
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "service"))
        listening.listen()
        assert box.call("try", "unix socket", str(tmp_path / "service")) in REFUSED


def test_a_worker_has_a_network_of_its_own_with_nothing_in_it(box: Sandbox) -> None:
    if not held(box).network:
        pytest.skip("this kernel, or its administrator, gives no network namespace")
    ours = os.readlink("/proc/self/ns/net")
    assert os.readlink(f"/proc/{box.call('process')}/ns/net") != ours


@pytest.mark.parametrize("attempt", ["shell", "program", "fork", "program in memory"])
def test_a_worker_starts_no_program_and_no_process(box: Sandbox, attempt: str) -> None:
    needs_seccomp(box)
    assert box.call("try", attempt) in REFUSED


def test_a_worker_reaches_no_other_process(box: Sandbox) -> None:
    needs_seccomp(box)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        for process in (os.getpid(), other.pid):
            for attempt in ("kill", "prlimit", "signal by owner"):
                assert box.call("try", attempt, process) in REFUSED
        assert resource.prlimit(other.pid, resource.RLIMIT_CPU)[1] == resource.RLIM_INFINITY
        other.communicate(b"\n")
    assert other.returncode == 0


@pytest.mark.parametrize("attempt", [*escapes.CALLS, "outlive the server"])
def test_a_worker_asks_the_kernel_for_nothing_else(box: Sandbox, attempt: str) -> None:
    needs_seccomp(box)
    assert box.call("try", attempt) in REFUSED


def test_a_worker_has_no_other_numbers_for_the_same_calls(box: Sandbox) -> None:
    needs_seccomp(box)
    if platform.machine() == "x86_64":
        assert box.call("try", "x32") == "ENOSYS"


def test_a_worker_has_no_privileges_and_gets_none(box: Sandbox) -> None:
    status = box.call("status")
    assert status["NoNewPrivs"] == "1"
    assert int(status["CapPrm"], 16) & ~0x4 == 0  # at most reading, where root alone can read
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["Seccomp"] == ("2" if held(box).seccomp else "0")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a process another user")
def test_a_worker_of_root_is_a_user_whom_no_file_belongs_to(box: Sandbox) -> None:
    assert held(box).user
    assert len(set(box.call("status")["Uid"].split())) == 1
    mine = int(box.call("status")["Uid"].split()[0])
    assert mine not in (0, os.getuid())
    second = Sandbox(escapes.__name__, workers=1)
    theirs = int(second.call("status")["Uid"].split()[0])
    second.close()
    assert mine == 65534 or mine != theirs


def test_a_worker_inherits_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEDSEC_KEY", "a root key")
    with (tmp_path / "catalog").open("wb") as held_open:
        os.set_inheritable(held_open.fileno(), True)
        fresh = Sandbox(escapes.__name__, workers=1)
        assert not [name for name in fresh.call("environment") if "MEDSEC" in name]
        kinds = {re.sub(r"\d+", "N", name) for name in fresh.call("descriptors")}
        assert kinds <= {"/dev/null", "socket:[N]", "/memfd:medsec (deleted)"}
        fresh.close()


def test_a_worker_still_computes(box: Sandbox) -> None:
    assert box.call("compute") == sum(n * n for n in range(100))


def test_filters_alone_change_no_file_and_reach_nobody(box: Sandbox, key: Path) -> None:
    """What holds on a kernel without Landlock and without namespaces."""
    needs_seccomp(box)
    changing = [
        (name, str(key)) for name in ("write", "open to write", "create", "chmod", "chown",
                                      "unlink", "rename", "link", "symlink", "mkdir", "truncate")
    ]  # fmt: skip
    reaching = [("udp", 9), ("tcp", 9), ("unix socket", "x"), ("shell",), ("fork",),
                ("kill", os.getpid()), ("prlimit", os.getpid()),
                ("signal by owner", os.getpid())]  # fmt: skip
    raw = [(name,) for name in escapes.CALLS]
    attempts = [*changing, *reaching, *raw]
    for attempt, answer in zip(attempts, alone("seccomp", *attempts), strict=True):
        assert answer in REFUSED, attempt
    # ... but it still reads what its user can read: that takes Landlock.
    assert alone("seccomp", ("read", str(key))) == ["done"]


def test_landlock_alone_opens_no_file(box: Sandbox, key: Path) -> None:
    """What holds on a machine whose filters have no program, or are switched off."""
    needs_landlock(box)
    attempts = [(name, str(key)) for name in ("read", "write", "create", "unlink", "link")]
    attempts.append(("shell",))
    assert [a for a in alone("landlock", *attempts) if a not in REFUSED | {"ENOENT"}] == []
