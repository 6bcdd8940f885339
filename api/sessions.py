"""One-time tickets that a browser exchanges for an HttpOnly session cookie.

A page cannot set an HttpOnly cookie, and the session token must not be sent to the page. The page
therefore gets a ticket, and the browser posts it, to whichever server, to get the cookie.
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Final

from engine import Engine, Hold, errors

COOKIE: Final = "medsec_session"
TICKET_SECONDS: Final = 30.0
_KIND: Final = "ticket"


def issue_ticket(engine: Engine, token: str) -> str:
    """A new ticket for a session token, valid once within ``TICKET_SECONDS``."""
    ticket = secrets.token_urlsafe(32)
    hold = Hold(_KIND, ticket, secrets.token_hex(16), token)
    engine.shared.hold(hold, timedelta(seconds=TICKET_SECONDS))
    return ticket


def redeem_ticket(engine: Engine, ticket: str) -> str:
    """The token of a ticket.

    Raises:
        NotSignedIn: Unknown, used or expired; the same error for all three.
    """
    token = engine.shared.take(_KIND, ticket)
    if token is None:
        raise errors.NotSignedIn("This sign-in has expired. Please sign in again.")
    return token
