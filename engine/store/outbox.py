"""E-mail about what the administrator must look at: kept with the change, sent outside of it.

A notice is a row written in the transaction of the audit entry it tells of, so neither is there
without the other; a thread sends it later and tries again for hours. It names what happened,
the account that did it and when, and nothing of a patient: not even an opaque key. Whoever
wants to know more signs in. Mail leaves under TLS with the server's certificate checked, or
not at all; only a server on this machine may be spoken to in clear.

It can arrive twice (a crash between sending and noting it); both have one Message-ID.
"""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime

from engine.errors import MailFailed
from engine.host import Host
from engine.records import Caller
from engine.settings import Settings
from engine.store.audit import Event
from engine.store.database import Cursor, Database

#: What is told: action and outcome in the audit log, with the code in ``why`` where it matters.
NOTICES: dict[tuple[str, str, str], tuple[str, str]] = {
    ("account.request", "ok", ""): (
        "Somebody asks for an account",
        "Somebody asked for an account. Compare the reference before you approve it.",
    ),
    ("account.approve", "ok", ""): (
        "An account was approved",
        "An account that somebody asked for was approved.",
    ),
    # Whoever manages accounts could make one that sees pictures, or take somebody's over: the
    # others are told.
    ("account.create", "ok", ""): (
        "An account was made",
        "An administrator made an account.",
    ),
    ("account.set-role", "ok", ""): (
        "An account has another role",
        "An administrator gave an account another role.",
    ),
    ("account.reset-password", "ok", ""): (
        "A password was reset",
        "An administrator set the password of somebody else. Ask its owner whether they wanted it.",
    ),
    ("account.reset-second-factor", "ok", ""): (
        "A second factor was taken away",
        "An administrator took the second factor from an account. Ask its owner whether they lost"
        " it.",
    ),
    ("account.link-identity", "ok", ""): (
        "An account was linked for single sign-on",
        "An administrator changed which address signs in as an account.",
    ),
    ("session.sign-in", "refused", "account-locked"): (
        "An account is locked out",
        "Too many sign-ins failed, so further ones are refused for a while.",
    ),
    ("session.refresh", "refused", "used-before"): (
        "A token was used twice",
        "A refresh token came a second time, so somebody else may have a copy of it. The session"
        " was ended.",
    ),
    ("glass.break", "ok", ""): (
        "Emergency access to a patient",
        "A doctor opened a patient they do not treat. It has to be reviewed.",
    ),
    ("backup.make", "failed", "*"): (
        "A backup failed",
        "A backup could not be made, or old ones could not be deleted after it. Look at the backup"
        " folder and its disk.",
    ),
    ("backup.make", "ok", "files-missing"): (
        "A backup lacks stored files",
        "A backup was made, but stored files were lost or damaged before it and are in no earlier"
        " one either. The log names the images; look at the disk of the data folder.",
    ),
    ("audit.checkpoint", "failed", "*"): (
        "A checkpoint of the audit log failed",
        "A checkpoint could not be written. Look at the folder of checkpoints, and verify the"
        " audit log.",
    ),
}
TEST = ("A test of MedSec's e-mail", "If you read this, e-mail from MedSec arrives.")
#: The same notice about the same account within this time is told once.
REPEAT = timedelta(hours=1)
#: But for these, each of which may be another patient's or another person's.
_EACH_TIME = frozenset({"glass.break", "account.reset-password", "account.reset-second-factor"})
MOST_WAITING = 200
MOST_ATTEMPTS = 12
KEPT = timedelta(days=30)
_FIRST_WAIT = timedelta(minutes=1)
_LONGEST_WAIT = timedelta(hours=1)
_TIMEOUT_S = 20


@dataclass(frozen=True)
class Notice:
    """One e-mail, as the administrator sees it."""

    mail_id: str
    subject: str
    created_at: datetime
    attempts: int
    sent_at: datetime | None
    gave_up: bool


class Outbox:
    """Notices of one catalog."""

    def __init__(self, database: Database, host: Host, settings: Settings) -> None:
        self._database = database
        self._host = host
        self._settings = settings

    @property
    def on(self) -> bool:
        """Is there a mail server to send to?"""
        return bool(self._settings.smtp_host)

    def hear(self, tx: Cursor, caller: Caller, event: Event) -> None:
        """Keep a notice of an audit entry that somebody wants to know of, in its transaction."""
        if not self.on:
            return
        why = str((event.detail or {}).get("why", ""))
        key = (event.action, event.outcome)
        told = NOTICES.get((*key, why)) or NOTICES.get((*key, "*"))
        if told is None:
            return
        now = self._host.now()
        about = f"{event.action} {caller.username}"
        waiting = tx.count(
            "SELECT count(*) FROM outbox WHERE sent_at IS NULL AND attempts < $1", MOST_ATTEMPTS
        )
        again = tx.one(
            # Not after now: a clock that was ahead must not silence what happens until then.
            "SELECT 1 AS x FROM outbox WHERE about = $1 AND created_at BETWEEN $2 AND $3",
            about,
            now - REPEAT,
            now,
        )
        if waiting >= MOST_WAITING or (again is not None and event.action not in _EACH_TIME):
            return
        subject, text = told
        body = (
            f"{text}\n\nAccount: {caller.username}\nWhen: {now:%Y-%m-%d %H:%M} UTC\n\n"
            "Sign in to MedSec to see more. Nothing of a patient is ever sent by e-mail."
        )
        tx.run(
            "INSERT INTO outbox VALUES ($1, $2, $3, $4, $5, 0, $5, NULL)",
            self._host.token("ml"),
            about,
            subject,
            body,
            now,
        )

    def deliver(self) -> int:
        """Send what is due; says how many were sent. One that fails waits for its next turn.

        Returns:
            How many were sent.
        """
        tx = self._database.read()
        now = self._host.now()
        due = tx.all(
            # Nobody waits longer than the longest wait, but for a clock that was ahead.
            "SELECT * FROM outbox WHERE sent_at IS NULL AND attempts < $1"
            " AND (next_at <= $2 OR next_at > $3) ORDER BY created_at, mail_id",
            MOST_ATTEMPTS,
            now,
            now + _LONGEST_WAIT,
        )
        sent = 0
        for row in due:
            try:
                self.send(row["mail_id"], row["subject"], row["body"], row["created_at"])
            except MailFailed:
                self._failed(row["mail_id"], row["attempts"])
                if row is due[0]:
                    break  # the server is away: the others wait too, and count no attempt
            else:
                sent += 1
                with self._database.write() as write:
                    write.run(
                        "UPDATE outbox SET sent_at = $2, attempts = attempts + 1"
                        " WHERE mail_id = $1",
                        row["mail_id"],
                        self._host.now(),
                    )
        return sent

    def forget_old(self) -> None:
        """Drop what was sent, or given up, long ago."""
        before = self._host.now() - KEPT
        with self._database.write() as tx:
            tx.run("DELETE FROM outbox WHERE created_at < $1", before)

    def notices(self) -> list[Notice]:
        """Every notice of the last weeks, newest first."""
        rows = self._database.read().all("SELECT * FROM outbox ORDER BY created_at DESC, mail_id")
        return [
            Notice(
                r["mail_id"],
                r["subject"],
                r["created_at"],
                r["attempts"],
                r["sent_at"],
                r["sent_at"] is None and r["attempts"] >= MOST_ATTEMPTS,
            )
            for r in rows
        ]

    def send(self, mail_id: str, subject: str, body: str, at: datetime) -> None:
        """Send one e-mail now, to everybody in ``mail_to``.

        Raises:
            MailFailed: The server is away, its certificate is not good, or it takes none of
                the addresses.
        """
        settings = self._settings
        message = EmailMessage()
        message["From"] = settings.mail_from
        message["To"] = ", ".join(settings.mail_recipients)
        message["Subject"] = f"[MedSec] {subject}"
        message["Date"] = format_datetime(at.replace(tzinfo=UTC))
        message["Message-ID"] = f"<{mail_id}@{settings.mail_from.rpartition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(body)
        try:
            with self._server() as server:
                server.send_message(message)
        except (OSError, smtplib.SMTPException) as err:  # ssl errors are OSErrors
            raise MailFailed(
                "The mail server did not take the message: check the MEDSEC_SMTP settings.",
                kind=type(err).__name__,
            ) from err

    @contextmanager
    def _server(self) -> Iterator[smtplib.SMTP]:
        settings = self._settings
        address = (settings.smtp_host, settings.smtp_port)
        if settings.smtp_security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                *address, timeout=_TIMEOUT_S, context=self._trust()
            )
        else:
            server = smtplib.SMTP(*address, timeout=_TIMEOUT_S)
        with server:
            if settings.smtp_security == "starttls":
                server.starttls(context=self._trust())
            if settings.smtp_user:
                server.login(settings.smtp_user, settings.smtp_password or "")
            yield server

    def _trust(self) -> ssl.SSLContext:
        file = self._settings.smtp_ca_file
        return ssl.create_default_context(cafile=None if file is None else str(file))

    def _failed(self, mail_id: str, attempts: int) -> None:
        wait = min(_FIRST_WAIT * 2**attempts, _LONGEST_WAIT)
        with self._database.write() as tx:
            tx.run(
                "UPDATE outbox SET attempts = attempts + 1, next_at = $2 WHERE mail_id = $1",
                mail_id,
                self._host.now() + wait,
            )
