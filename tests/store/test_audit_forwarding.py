"""The audit log to an audit repository over TLS, against a receiver of the test's own."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import ForwardingFailed
from engine.permissions import Role
from engine.records import Caller
from engine.settings import Settings
from engine.store.audit import AuditLog, Event
from engine.store.audit_forwarding import BATCH, AuditForwarding
from engine.store.database import Database
from engine.store.shared import SharedHere
from tests.fakes import FakeHost
from tests.store.conftest import Opener
from tests.store.test_outbox import certificate

WHO = Caller("doctor", Role.DOCTOR, "se_1", "127.0.0.1")


class Repository:
    """Takes connections one after the other and keeps what was sent in each.

    Args:
        stops_after: Ends the next connection with a reset behind so many bytes.
        farewell: Ends connections as TLS says, not by closing the socket.
    """

    def __init__(self, folder: Path, farewell: bool = True, asks: bool = False) -> None:
        self.files = certificate(folder)
        self.got: list[bytes] = []
        self.stops_after = 0
        self._farewell = farewell
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.files)
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.files[0])
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()

    def messages(self) -> list[bytes]:
        """The syslog messages, taken out of their frames."""
        found, rest = [], b"".join(self.got)
        while rest:
            size, _, rest = rest.partition(b" ")
            found.append(rest[: int(size)])
            rest = rest[int(size) :]
        return found

    def _serve(self) -> None:
        while True:
            try:
                raw, _ = self._listening.accept()
            except OSError:
                return
            with raw:
                try:
                    self._take(self._context.wrap_socket(raw, server_side=True))
                except OSError:
                    continue

    def _take(self, connection: ssl.SSLSocket) -> None:
        with connection:
            self._read(connection)

    def _read(self, connection: ssl.SSLSocket) -> None:
        read = bytearray()
        while True:
            if self.stops_after and len(read) >= self.stops_after:
                self.stops_after = 0
                linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # close at once: a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                connection.close()
                return
            part = connection.recv(1 << 16 if not self.stops_after else 256)
            if not part:
                break
            read += part
        self.got.append(bytes(read))
        if self._farewell:
            connection.unwrap().close()


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    made = Repository(tmp_path)
    yield made
    made.close()


@pytest.fixture
def database(tmp_path: Path, open_database: Opener) -> Database:
    return open_database(FakeHost(tmp_path))


def forwarding(
    tmp_path: Path, repository: Repository, database: Database
) -> tuple[AuditForwarding, AuditLog]:
    host = FakeHost(tmp_path)
    audit = AuditLog(database, host, b"k" * 32)
    settings = Settings(
        data=tmp_path,
        site="Ward 3",
        syslog_host="127.0.0.1",
        syslog_port=repository.port,
        syslog_ca_file=repository.files[0],
    )
    return AuditForwarding(database, audit, settings, SharedHere(host)), audit


def fill(audit: AuditLog, count: int) -> None:
    audit.record(WHO, *(Event("image.restore", image_id=f"im_{i}") for i in range(count)))


def test_the_repository_gets_every_entry_once_and_in_order(
    tmp_path: Path, repository: Repository, database: Database
) -> None:
    sending, audit = forwarding(tmp_path, repository, database)
    fill(audit, BATCH + 3)
    assert sending.waiting() == BATCH + 3
    assert [sending.deliver(), sending.deliver(), sending.deliver()] == [BATCH, 3, 0]
    assert sending.waiting() == 0
    fill(audit, 1)
    assert sending.deliver() == 1
    messages = repository.messages()
    assert len(messages) == BATCH + 4
    for i, message in enumerate(messages[:-1]):
        assert f'ParticipantObjectID="im_{i}"'.encode() in message


def test_a_receiver_that_ends_without_the_farewell_is_not_believed(
    tmp_path: Path, database: Database
) -> None:
    repository = Repository(tmp_path, farewell=False)
    sending, audit = forwarding(tmp_path, repository, database)
    fill(audit, 2)
    with pytest.raises(ForwardingFailed):
        sending.deliver()
    assert sending.waiting() == 2
    repository.close()


def test_what_a_broken_connection_swallowed_is_sent_again(
    tmp_path: Path, repository: Repository, database: Database
) -> None:
    sending, audit = forwarding(tmp_path, repository, database)
    fill(audit, 500)
    repository.stops_after = 3000
    with pytest.raises(ForwardingFailed):
        sending.deliver()
    assert sending.trouble
    assert sending.waiting() == 500
    assert sending.deliver() == 500
    assert sending.trouble == ""
    assert len(repository.messages()) == 500


def test_nobody_there_is_a_named_error(
    tmp_path: Path, repository: Repository, database: Database
) -> None:
    sending, audit = forwarding(tmp_path, repository, database)
    fill(audit, 1)
    sending._settings = replace(sending._settings, syslog_port=1)
    with pytest.raises(ForwardingFailed, match="MEDSEC_SYSLOG"):
        sending.deliver()
    assert sending.waiting() == 1


def test_a_certificate_of_somebody_else_gets_nothing(
    tmp_path: Path, repository: Repository, database: Database
) -> None:
    sending, audit = forwarding(tmp_path, repository, database)
    fill(audit, 1)
    other = tmp_path / "other"
    other.mkdir()
    sending._settings = replace(sending._settings, syslog_ca_file=certificate(other)[0])
    with pytest.raises(ForwardingFailed):
        sending.deliver()
    assert repository.got == []


def test_a_repository_that_asks_for_a_certificate_gets_it(
    tmp_path: Path, database: Database
) -> None:
    repository = Repository(tmp_path, asks=True)
    sending, audit = forwarding(tmp_path, repository, database)
    fill(audit, 1)
    with pytest.raises(ForwardingFailed):
        sending.deliver()
    own = tmp_path / "own.pem"
    own.write_bytes(b"".join(file.read_bytes() for file in repository.files))
    sending._settings = replace(sending._settings, syslog_certificate=own)
    assert sending.deliver() == 1
    repository.close()
