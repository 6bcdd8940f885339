"""Recently logged reads, so that redrawing a page does not log the same read again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from engine.store.shared import Hold, Shared

#: The same read by the same session within this time is one row in the audit log.
REPEAT = timedelta(minutes=5)
_KIND = "read"


class ReadLog:
    """Reads of all servers. A forgotten read is logged again; no read is ever missing."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def new(self, *read: str | None) -> bool:
        """Must this read be logged?"""
        return self._shared.get(_KIND, repr(read)) is None

    def once(self, log: Callable[[], object], *read: str | None) -> None:
        """Log a read, unless it is in the log already."""
        if self.new(*read):
            log()
            self.logged(*read)

    def logged(self, *read: str | None) -> None:
        """It is in the audit log: it is not logged again for some time.

        After the entry, never before: one that could not be written is written with the next try.
        """
        self._shared.hold(Hold(_KIND, repr(read), _KIND), REPEAT)
