"""E-mail notices to administrators: stored with the event, sent later.

A notice is written in the same transaction as its audit entry, so neither exists without the
other. A thread sends it later and retries for hours. A notice contains the event, the account and
the time, and nothing about a patient, not even an opaque id. Mail is sent over TLS with a verified
certificate; unencrypted SMTP is allowed only to a server on this machine.

A notice can arrive twice after a crash between sending and recording; both copies have the same
Message-ID.
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

#: Events with a notice: action and outcome of the audit entry, and its ``why`` if it matters.
NOTICES: dict[tuple[str, str, str], tuple[str, str]] = {
    ("account.propose", "ok", ""): (
        "Change of an account waits",
        "An administrator proposed a change of an account that a second one has to confirm.",
    ),
    ("account.request", "ok", ""): (
        "Account requested",
        "Somebody requested an account. Compare the reference before you approve it.",
    ),
    ("account.approve", "ok", ""): (
        "Account approved",
        "An administrator approved a requested account.",
    ),
    # An administrator could create an account with access to images, or take over another one.
    # The other administrators are therefore notified.
    ("account.create", "ok", ""): (
        "Account created",
        "An administrator created an account.",
    ),
    ("account.set-role", "ok", ""): (
        "Role of an account changed",
        "An administrator changed the role of an account.",
    ),
    ("account.reset-password", "ok", ""): (
        "Password reset",
        "An administrator reset the password of another account. Ask its owner whether they wanted"
        " this.",
    ),
    ("account.reset-second-factor", "ok", ""): (
        "Second factor removed",
        "An administrator removed the second factor of an account. Ask its owner whether they"
        " wanted this.",
    ),
    ("account.link-identity", "ok", ""): (
        "Account linked for single sign-on",
        "An administrator changed the e-mail address for single sign-on of an account.",
    ),
    ("session.sign-in", "refused", "account-locked"): (
        "Account locked",
        "Too many sign-ins failed. Further sign-ins are refused for a while.",
    ),
    ("session.refresh", "refused", "used-before"): (
        "Refresh token used twice",
        "A refresh token was used twice, so somebody may have stolen a copy. The session was ended."
        " The log shows where the token was used from.",
    ),
    ("release.suspend", "ok", ""): (
        "Release without a look suspended",
        "Images of a device no longer leave without a person's look, because something was missed,"
        " the images changed, or an administrator said so. See Admin, tab Release.",
    ),
    ("glass.break", "ok", ""): (
        "Emergency access to a patient",
        "A doctor used emergency access to a patient they do not treat. Please review it.",
    ),
    ("image.send", "failed", "*"): (
        "Image not sent",
        "An image could not be sent to another system of the network and is not tried again. See"
        " Admin, tab Network.",
    ),
    ("backup.make", "failed", "*"): (
        "Backup failed",
        "A backup could not be made, or old backups could not be deleted. Check the backup folder"
        " and its disk.",
    ),
    ("backup.make", "ok", "files-missing"): (
        "Files missing in a backup",
        "A backup was made, but some stored files were already lost or damaged, and no earlier"
        " backup has them. The log lists the images. Check the disk of the data folder.",
    ),
    ("files.contest", "failed", "*"): (
        "Another copy uses the stored files",
        "Another copy of this installation uses the same stored files. Neither deletes files any"
        " more. Stop the copy that is not to go on; the page Admin, tab Health, and the manual say"
        " how to go on.",
    ),
    ("audit.checkpoint", "failed", "*"): (
        "A checkpoint of the audit log failed",
        "A checkpoint could not be written. Look at the folder of checkpoints, and verify the"
        " audit log.",
    ),
}
TEST = ("Test e-mail from MedSec", "This is a test. E-mail from MedSec works.")
#: The same notice about the same account is sent once within this time.
REPEAT = timedelta(hours=1)
#: Except these, because each can concern another patient or person.
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
        """Is a mail server configured?"""
        return bool(self._settings.smtp_host)

    def hear(self, tx: Cursor, caller: Caller, event: Event) -> None:
        """Store the notice of an audit entry, if it has one, in the entry's transaction."""
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
            # Not after now: if the clock was ahead, notices must not be suppressed until then.
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
            "Sign in to MedSec for details. MedSec never sends patient data by e-mail."
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
        """Send all due notices. A notice that fails is retried later.

        Returns:
            How many were sent.
        """
        tx = self._database.read()
        now = self._host.now()
        due = tx.all(
            # A due time beyond the longest wait is from a clock that was ahead: send now.
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
                    break  # the server is unavailable: do not try the others
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
        """Delete old notices, sent or not."""
        before = self._host.now() - KEPT
        with self._database.write() as tx:
            tx.run("DELETE FROM outbox WHERE created_at < $1", before)

    def notices(self) -> list[Notice]:
        """All stored notices, newest first."""
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
        """Send one e-mail now to all addresses in ``mail_to``.

        Raises:
            MailFailed: The server is unavailable, its certificate is not valid, or it refuses
                all addresses.
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
                "The mail server did not accept the message. Check the MEDSEC_SMTP settings.",
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
