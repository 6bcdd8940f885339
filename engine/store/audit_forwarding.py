"""The audit log to an audit repository: DICOM audit messages by syslog over TLS (RFC 5425).

Syslog acknowledges nothing. A batch is counted as sent only once both sides closed the connection
behind it as TLS says; else the batch is sent again. So the repository gets every entry in the log's
order, and after a break some twice, which it can tell by their numbers. What was sent is kept in
the catalog.
"""

from __future__ import annotations

import socket
import ssl
from datetime import timedelta

from engine.errors import ForwardingFailed
from engine.settings import Settings
from engine.store.audit import AuditLog
from engine.store.audit_messages import syslog_line
from engine.store.database import Database
from engine.store.shared import Hold, Shared

#: Entries in one connection.
BATCH = 1000
_TIMEOUT_S = 20.0
_TROUBLE, _SHOWN = "forwarding", timedelta(days=1)


class AuditForwarding:
    """What the repository has, and sending the rest."""

    def __init__(
        self, database: Database, audit: AuditLog, settings: Settings, shared: Shared
    ) -> None:
        self._database = database
        self._audit = audit
        self._settings = settings
        self._shared = shared

    @property
    def trouble(self) -> str:
        """Why the last batch was not sent, by whichever server sends; empty if it was."""
        return self._shared.get(_TROUBLE, "") or ""

    @property
    def on(self) -> bool:
        """Is a repository configured?"""
        return bool(self._settings.syslog_host)

    def waiting(self) -> int:
        """How many entries the repository does not have yet."""
        return self._audit.count() - self._sent()

    def deliver(self) -> int:
        """Send the next entries.

        Returns:
            How many were sent, ``BATCH`` at most; 0 when the repository has everything.

        Raises:
            ForwardingFailed: It is unavailable, its certificate is not valid, or it broke off.
        """
        entries = self._audit.after(self._sent(), BATCH)
        if not entries:
            return 0
        self._database.settle()
        lines = b"".join(syslog_line(entry, self._settings.site) for entry in entries)
        try:
            self._send(lines)
        except OSError as err:  # ssl errors are OSErrors
            kind = type(err).__name__
            self._shared.take(_TROUBLE, "")
            self._shared.hold(Hold(_TROUBLE, "", _TROUBLE, kind), _SHOWN)
            raise ForwardingFailed(
                "The audit repository did not take the entries. Check the MEDSEC_SYSLOG settings;"
                " they are sent again.",
                kind=kind,
            ) from err
        self._shared.take(_TROUBLE, "")
        with self._database.write() as tx:
            tx.run("DELETE FROM audit_forwarded")
            tx.run("INSERT INTO audit_forwarded VALUES ($1)", entries[-1].sequence)
        return len(entries)

    def _sent(self) -> int:
        return self._database.read().count("SELECT max(sequence) FROM audit_forwarded")

    def _send(self, lines: bytes) -> None:
        settings = self._settings
        ca = settings.syslog_ca_file
        trust = ssl.create_default_context(cafile=None if ca is None else str(ca))
        # As ATNA asks. In TLS 1.3 a client learns only after its first bytes that its certificate
        # was refused, and OpenSSL takes that refusal for the farewell.
        trust.minimum_version = trust.maximum_version = ssl.TLSVersion.TLSv1_2
        if settings.syslog_certificate is not None:
            trust.load_cert_chain(settings.syslog_certificate)
        host = settings.syslog_host
        with (
            socket.create_connection((host, settings.syslog_port), _TIMEOUT_S) as raw,
            trust.wrap_socket(raw, server_hostname=host) as connection,
        ):
            connection.sendall(lines)
            connection.unwrap().close()  # waits for the receiver's own close_notify
