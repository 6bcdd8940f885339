"""E-mail to the administrators: what waits, a test, and the thread that sends."""

from __future__ import annotations

from engine.audit import Event
from engine.errors import EngineError, InputError
from engine.outbox import TEST, Notice, Outbox
from engine.permissions import Permission
from engine.records import Caller
from engine.service.guard import Core, needs
from engine.tracing import unexpected

SEND_SECONDS = 15.0


class Mailing(Core):
    """Methods of the Engine."""

    outbox_: Outbox

    @needs(Permission.VIEW_HEALTH)
    def notices(self, caller: Caller) -> list[Notice]:
        """E-mails of the last weeks and what became of them, newest first."""
        return self.outbox_.notices()

    @needs(Permission.MANAGE_SETTINGS)
    def send_test_mail(self, caller: Caller) -> None:
        """Send a test to everybody in MEDSEC_MAIL_TO, now.

        Raises:
            InputError: There is no mail server in the settings.
            MailFailed: It did not take the message.
        """
        if not self.outbox_.on:
            raise InputError("Set MEDSEC_SMTP_HOST, MEDSEC_MAIL_FROM and MEDSEC_MAIL_TO first.")
        try:
            self.outbox_.send(self.host.token("ml"), *TEST, self.host.now())
        except EngineError as err:
            self.audit.record(caller, Event("mail.test", "failed", detail={"why": err.code}))
            raise
        self.audit.record(caller, Event("mail.test"))

    def _send_mail(self) -> None:
        """One round of sending; whatever happens, there will be a next one."""
        try:
            self.outbox_.deliver()
            self.outbox_.forget_old()
        except Exception as err:  # noqa: BLE001 - the next round must come
            unexpected(f"mail failed: {getattr(err, 'code', type(err).__name__)}", err)
