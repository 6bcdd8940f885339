"""Who works on which draft now, so that two people never work on the same one.

In memory, because one server holds a data folder. A claim ends when its holder leaves the draft, or
some minutes after they last did something with it. A draft that is being sealed stays held until
its sealing has ended, however long it waits for its turn.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

from engine.errors import NotFound
from engine.host import Host
from engine.records import Caller

LIFETIME = timedelta(minutes=10)
#: Longer than any server runs: whoever holds a draft leaves it.
_HELD = timedelta(days=3650)


class Claims:
    """All claims of a server."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._held: dict[str, tuple[str, datetime]] = {}
        self._lock = threading.Lock()

    def claim(self, caller: Caller, image_id: str) -> None:
        """Claim a draft, or hold it for longer. The log has who opened it.

        Raises:
            NotFound: Somebody else works on it.
        """
        now = self._host.now()
        with self._lock:
            holder, until = self._held.get(image_id, ("", now))
            if until > now and holder != caller.username:
                raise NotFound(f"{holder} is working on this image. Choose another one.")
            self._held[image_id] = (caller.username, max(until, now + LIFETIME))

    def hold(self, caller: Caller, image_id: str) -> None:
        """As :meth:`claim`, until it is left, however long that takes."""
        self.claim(caller, image_id)
        with self._lock:
            self._held[image_id] = (caller.username, self._host.now() + _HELD)

    def leave(self, caller: Caller, image_id: str) -> None:
        """End a claim of this caller, if there is one."""
        self.leave_as(caller.username, image_id)

    def leave_as(self, username: str, image_id: str) -> None:
        """End a claim of this account, if there is one, whether or not it has a session still."""
        with self._lock:
            if self._held.get(image_id, ("",))[0] == username:
                del self._held[image_id]

    def others(self, caller: Caller) -> dict[str, str]:
        """Drafts that others work on, and who."""
        now = self._host.now()
        with self._lock:
            for image_id in [i for i, (_, until) in self._held.items() if until <= now]:
                del self._held[image_id]
            return {i: who for i, (who, _) in self._held.items() if who != caller.username}
