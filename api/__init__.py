"""The REST API, and the routes that the pages need for pictures and sessions.

It runs in the server's process with the same engine as the pages; the engine makes all decisions.
One module turns engine errors into problem documents (RFC 9457). Responses that can contain
patient data require a session and are sent with ``no-store``. Request bodies stay in memory.
"""

from api.app import app, paths, seals
from api.bodies import announced, bodies
from api.fair_pool import FairPool, jobs
from api.middleware import room_for_bodies, stranger
from api.problems import problem, unexpected
from api.sealing import Seal, Sealing
from api.sessions import COOKIE, TICKET_SECONDS, issue_ticket, redeem_ticket

__all__ = [
    "COOKIE",
    "TICKET_SECONDS",
    "FairPool",
    "Seal",
    "Sealing",
    "announced",
    "app",
    "bodies",
    "issue_ticket",
    "jobs",
    "paths",
    "problem",
    "redeem_ticket",
    "room_for_bodies",
    "seals",
    "stranger",
    "unexpected",
]
