"""Who works on which draft now, so that two people never work on the same one.

A claim ends when its holder leaves the draft, or some minutes after they last did something with
it. A draft that is being sealed stays held until its sealing has ended, however long it waits for
its turn, or until the server that was to seal it has ended.
"""

from __future__ import annotations

import json
from datetime import timedelta

from engine.errors import NotFound
from engine.records import Caller
from engine.store.shared import Hold, Shared

LIFETIME = timedelta(minutes=10)
#: Longer than any server runs: whoever holds a draft leaves it.
_HELD = timedelta(days=3650)
_KIND = "claim"


class Claims:
    """All claims, on all servers."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def claim(self, caller: Caller, image_id: str) -> None:
        """Claim a draft, or hold it for longer. The log has who opened it.

        Raises:
            NotFound: Somebody else works on it.
        """
        self._hold(caller, image_id, LIFETIME, lasting=False)

    def hold(self, caller: Caller, image_id: str) -> None:
        """As :meth:`claim`, until it is left, however long that takes."""
        self._hold(caller, image_id, _HELD, lasting=True)

    def _hold(self, caller: Caller, image_id: str, lifetime: timedelta, *, lasting: bool) -> None:
        value = json.dumps([image_id, caller.username])
        hold = Hold(_KIND, image_id, caller.username, value, lasting)
        other = self._shared.hold(hold, lifetime)
        if other is not None:
            holder = json.loads(other)[1] if other else "Somebody"
            raise NotFound(f"{holder} is working on this image. Choose another one.")

    def leave(self, caller: Caller, image_id: str) -> None:
        """End a claim of this caller, if there is one."""
        self.leave_as(caller.username, image_id)

    def leave_as(self, username: str, image_id: str) -> None:
        """End a claim of this account, if there is one, whether or not it has a session still."""
        self._shared.leave(_KIND, image_id, username)

    def others(self, caller: Caller) -> dict[str, str]:
        """Drafts that others work on, and who."""
        held: list[list[str]] = [json.loads(value) for value in self._shared.all(_KIND)]
        return {image_id: who for image_id, who in held if who != caller.username}
