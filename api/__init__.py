"""The HTTP door: pictures and sessions for the browser, REST for systems that have none.

It runs in the server's process on the same engine as the pages and decides nothing itself.
Every refusal of the engine becomes a problem document (RFC 9457) in one place. Whatever may
show a patient is sent with ``no-store`` and only to a session; request bodies stay in memory.
"""

from api.door import door
from api.problems import problem, unexpected
from api.sessions import COOKIE, TICKET_SECONDS, Tickets, tickets

__all__ = ["COOKIE", "TICKET_SECONDS", "Tickets", "door", "problem", "tickets", "unexpected"]
