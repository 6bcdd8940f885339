"""The browser's session: a one-time ticket becomes a cookie that scripts cannot read."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable

from engine import errors

COOKIE = "medsec_session"
TICKET_SECONDS = 30.0


class Tickets:
    """One-time tickets that turn a sign-in on a page into a cookie that scripts cannot read.

    A page cannot set an HttpOnly cookie, and the session's token must not travel through the
    page. So the page sends a ticket, the browser posts it here, and it is worth one cookie.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def issue(self, token: str) -> str:
        """A new ticket for a session's token, good once and for ``TICKET_SECONDS``."""
        ticket = secrets.token_urlsafe(32)
        with self._lock:
            now = self._clock()
            self._held = {k: v for k, v in self._held.items() if v[1] > now}
            self._held[ticket] = (token, now + TICKET_SECONDS)
        return ticket

    def redeem(self, ticket: str) -> str:
        """The token for which it was issued.

        Raises:
            NotSignedIn: Unknown, used or expired; one answer for all three.
        """
        with self._lock:
            token, expires = self._held.pop(ticket, ("", -math.inf))
        if expires <= self._clock():
            raise errors.NotSignedIn("This sign-in has expired: please sign in again.")
        return token


tickets = Tickets()
