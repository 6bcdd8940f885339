"""The settings in force; an administrator can change some of them while the server runs."""

from __future__ import annotations

from engine.formats.images import Limits
from engine.settings import Settings


class LiveSettings:
    """Read at each action, so that a change counts from the next one on."""

    def __init__(self, settings: Settings) -> None:
        self.use(settings)

    def use(self, settings: Settings) -> None:
        """Let these settings count from here on."""
        self.settings = settings
        self.limits = Limits.of(settings)
