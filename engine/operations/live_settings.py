"""The settings in force; an administrator can change some of them while the server runs."""

from __future__ import annotations

from datetime import datetime

from engine.errors import InputError, SettingsError
from engine.formats.images import Limits
from engine.settings import Settings
from engine.vault import Recipient, recipients_of


class LiveSettings:
    """Read at each action, so that a change counts from the next one on.

    Raises:
        SettingsError: The certificates of recipients cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.use(settings)

    def use(self, settings: Settings) -> None:
        """Let these settings count from here on. Raises SettingsError."""
        try:
            named = recipients_of(settings.recipient_certificates)
        except InputError as err:
            raise SettingsError(f"MEDSEC_RECIPIENT_CERTIFICATES: {err.message}") from err
        self.settings = settings
        self.limits = Limits.of(settings)
        #: All that are named, whether they are valid now or not.
        self.named_recipients = named

    def recipients(self, now: datetime) -> tuple[Recipient, ...]:
        """For whom original attributes are encrypted now: nobody whose certificate is over."""
        return tuple(r for r in self.named_recipients if r.valid(now))
