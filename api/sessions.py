"""One-time tickets that a browser exchanges for an HttpOnly session cookie."""

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
    """One-time tickets.

    A page cannot set an HttpOnly cookie, and the session token must not be sent to the page. The
    page therefore gets a ticket, and the browser posts it to get the cookie.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def issue(self, token: str) -> str:
        """A new ticket for a session token, valid once within ``TICKET_SECONDS``."""
        ticket = secrets.token_urlsafe(32)
        with self._lock:
            now = self._clock()
            self._held = {k: v for k, v in self._held.items() if v[1] > now}
            self._held[ticket] = (token, now + TICKET_SECONDS)
        return ticket

    def redeem(self, ticket: str) -> str:
        """The token of a ticket.

        Raises:
            NotSignedIn: Unknown, used or expired; the same error for all three.
        """
        with self._lock:
            token, expires = self._held.pop(ticket, ("", -math.inf))
        if expires <= self._clock():
            raise errors.NotSignedIn("This sign-in has expired. Please sign in again.")
        return token


tickets = Tickets()
