"""What a worker of the sandbox may still do: compute, and read Python itself."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.formats.sandbox import Sandbox


def _try_reading(path: str) -> str:
    try:
        return Path(path).read_bytes()[:5].decode()
    except OSError as err:
        return type(err).__name__


def _try_writing(path: str) -> str:
    try:
        Path(path).write_bytes(b"taken")
        return "written"
    except OSError as err:
        return type(err).__name__


def _try_connecting(port: int) -> str:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        return "connected"
    except OSError as err:
        return type(err).__name__


def _try_signalling(process: int) -> str:
    try:
        os.kill(process, signal.SIGCONT)
        return "sent"
    except OSError as err:
        return type(err).__name__


OPERATIONS = {
    "read": _try_reading,
    "write": _try_writing,
    "connect": _try_connecting,
    "signal": _try_signalling,
    "environment": lambda: dict(os.environ),
}


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    made = Sandbox(__name__, workers=1)
    made.call("environment")
    if not made.confined:
        pytest.skip("this kernel has no Landlock")
    yield made
    made.close()


def test_a_worker_reads_no_file_of_its_user(box: Sandbox, tmp_path: Path) -> None:
    key = tmp_path / "root.key"
    key.write_text("a root key")
    assert box.call("read", str(key)) == "PermissionError"
    assert box.call("read", "/etc/passwd") == "PermissionError"
    assert box.call("read", f"/proc/{os.getpid()}/environ") == "PermissionError"
    assert box.call("read", os.__file__) != "PermissionError"


def test_a_worker_writes_nothing(box: Sandbox, tmp_path: Path) -> None:
    assert box.call("write", str(tmp_path / "out")) == "PermissionError"
    assert box.call("write", __file__) == "PermissionError"


def test_a_worker_connects_to_nobody_and_signals_nobody(box: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert box.call("connect", server.getsockname()[1]) == "PermissionError"
    assert box.call("signal", os.getpid()) == "PermissionError"


def test_a_worker_inherits_no_secret(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEC_KEY", "a root key")
    fresh = Sandbox(__name__, workers=1)
    assert not [name for name in fresh.call("environment") if "MEDSEC" in name]
    fresh.close()
