"""Account requests that wait for approval.

A request grants nothing. Its password is stored as a hash until an administrator approves it and
chooses the role. The response is the same whether a user name is taken or not, because every
request is kept. The reference lets the administrator tell a genuine request from an impostor's.
"""

from __future__ import annotations

from datetime import timedelta

from engine.errors import NotFound, TooManyRequests
from engine.fairness import source
from engine.host import Host
from engine.permissions import Role
from engine.records import AccountRequest
from engine.store.database import Cursor, Database

MOST_WAITING = 200
MOST_PER_ORIGIN = 10
#: Of them from one address, so that one cannot fill the list for all.
MOST_WAITING_PER_ORIGIN = 20
PER = timedelta(hours=1)
KEPT = timedelta(days=30)


class Registrations:
    """Requests in one catalog."""

    def __init__(self, database: Database, host: Host) -> None:
        self._database = database
        self._host = host

    def check_room(self, tx: Cursor, origin: str) -> None:
        """Request an account without a session; the number of requests is limited.

        Raises:
            TooManyRequests: From this origin within an hour or waiting, or altogether.
        """
        origin = source(origin)
        now = self._host.now()
        recent = tx.count(
            "SELECT count(*) FROM account_requests WHERE origin = $1 AND requested_at > $2",
            origin,
            now - PER,
        )
        waiting = tx.all(
            "SELECT origin = $2 AS own FROM account_requests WHERE requested_at > $1",
            now - KEPT,
            origin,
        )
        own = sum(bool(row["own"]) for row in waiting)
        if (
            recent >= MOST_PER_ORIGIN
            or own >= MOST_WAITING_PER_ORIGIN
            or len(waiting) >= MOST_WAITING
        ):
            raise TooManyRequests(
                "Too many account requests. Try again later, or ask an administrator.",
                seconds=int(PER.total_seconds()),
            )

    def add(
        self, tx: Cursor, username: str, name: str, role: Role, password_hash: str, origin: str
    ) -> str:
        """Store a request.

        Returns:
            Its reference.
        """
        now = self._host.now()
        self.check_room(tx, origin)
        tx.run("DELETE FROM account_requests WHERE requested_at < $1", now - KEPT)
        request_id = "rq_" + self._host.random(5).hex()
        tx.run(
            "INSERT INTO account_requests VALUES ($1, $2, $3, $4, $5, $6, $7)",
            request_id,
            username,
            name,
            str(role),
            password_hash,
            now,
            source(origin),
        )
        return request_id

    def list(self) -> list[AccountRequest]:
        """Open requests, oldest first."""
        rows = self._database.read().all(
            "SELECT r.*, a.username IS NOT NULL AS taken FROM account_requests r"
            " LEFT JOIN accounts a USING (username) WHERE requested_at > $1 ORDER BY requested_at",
            self._host.now() - KEPT,
        )
        return [
            AccountRequest(
                request_id=row["request_id"],
                username=row["username"],
                name=row["name"],
                role=Role(row["role"]),
                requested_at=row["requested_at"],
                taken=row["taken"],
            )
            for row in rows
        ]

    def take(self, tx: Cursor, request_id: str) -> tuple[str, str, Role, str]:
        """End a request.

        Returns:
            User name, name, wished role and password hash.

        Raises:
            NotFound: No such request, or too old.
        """
        row = tx.one(
            "SELECT * FROM account_requests WHERE request_id = $1 AND requested_at > $2",
            request_id,
            self._host.now() - KEPT,
        )
        if row is None:
            raise NotFound("This request no longer exists. Reload the page.")
        tx.run("DELETE FROM account_requests WHERE request_id = $1", request_id)
        return row["username"], row["name"], Role(row["role"]), row["password_hash"]
