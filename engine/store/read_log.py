"""Recently logged reads, so that redrawing a page does not log the same read again."""

from __future__ import annotations

from datetime import timedelta

from engine.host import Host
from engine.store.shared import Hold, Shared

#: The same read by the same session within this time is one row in the audit log.
REPEAT = timedelta(minutes=5)


class ReadLog:
    """Reads of all servers. A forgotten read is logged again; no read is ever missing."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def new(self, *read: str | None) -> bool:
        """Must this read be logged? If so, it counts as logged for some time."""
        return self._shared.hold(Hold("read", repr(read), Host.token_of(16)), REPEAT) is None
