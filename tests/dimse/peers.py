"""Peers of the network for tests: a receiver of MedSec's, senders, and a line that can be cut."""

from __future__ import annotations

import gc
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification

import dimse
from engine import Engine

#: pynetdicom leaves sockets to the garbage collector, and its threads complain of cut lines.
FORGIVES_PYNETDICOM = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
SINGLE = "1.2.840.10008.5.1.4.1.1.7"
MULTI = "1.2.840.10008.5.1.4.1.1.3.1"


def program(name: str) -> str:
    """A program of dcmtk; skips where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: dcmtk of Debian has it")
    return path


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def receiving(engine: Engine, port: int = 0) -> Iterator[dimse.Receiver]:
    """MedSec's receiver on an engine whose settings name a port, or on another one."""
    if port:
        live = engine.context.live
        live.use(replace(live.settings, dicom_port=port))
    receiver = dimse.Receiver(engine)
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()
        _let_go()


def _let_go() -> None:
    """Wait for the threads of associations, and have their sockets collected in this test.

    pynetdicom leaves them to the garbage collector; in a later test they would be its warnings.
    """
    until = time.monotonic() + 1
    for thread in threading.enumerate():
        if isinstance(thread, Association):
            thread.join(max(0.0, until - time.monotonic()))
    gc.collect()


@contextmanager
def associated(
    port: int, title: str = "CT1", called: str = "MEDSEC", syntaxes: Sequence[str] = ()
) -> Iterator[Association]:
    """An association of a peer with MedSec; it may be rejected."""
    ae = AE(title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    ae.add_requested_context(Verification)
    for uid in (SINGLE, MULTI):
        for syntax in syntaxes or ("1.2.840.10008.1.2.1",):
            ae.add_requested_context(uid, syntax)
    assoc = ae.associate("127.0.0.1", port, ae_title=called)
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def send(assoc: Association, data: bytes) -> int:
    """The status that a file gets; -1 where no answer came."""
    status = assoc.send_c_store(pydicom.dcmread(BytesIO(data)))
    return int(status.get("Status", -1))


class Line:
    """A line between a peer and MedSec that is cut behind so many PDUs of both directions.

    Args:
        port: Where MedSec listens.
        cut_behind: None for a line that holds.
    """

    def __init__(self, port: int, cut_behind: int | None = None) -> None:
        self._port = port
        self._cut = cut_behind
        self._lock = threading.Lock()
        self.passed = 0
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._door.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._door.close()

    def _accept(self) -> None:
        try:
            caller, _ = self._door.accept()
        except OSError:
            return
        there = socket.create_connection(("127.0.0.1", self._port))
        for one, other in ((caller, there), (there, caller)):
            threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while (head := _exactly(source, 6)) and (
                body := _exactly(source, struct.unpack(">L", head[2:])[0])
            ) is not None:
                with self._lock:
                    if self._cut is not None and self.passed >= self._cut:
                        break
                    self.passed += 1
                    target.sendall(head + body)
        except OSError:
            pass
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _exactly(source: socket.socket, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        part = source.recv(count - len(data))
        if not part:
            return None
        data += part
    return data


@contextmanager
def storescp(folder: Path, *options: str) -> Iterator[int]:
    """dcmtk's storage provider on a free port."""
    port = free_port()
    folder.mkdir(exist_ok=True)
    running = subprocess.Popen(
        [program("storescp"), "-od", str(folder), *options, str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(0.5)
    try:
        yield port
    finally:
        running.kill()
        running.wait(30)
