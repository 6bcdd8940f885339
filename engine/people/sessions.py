"""Sessions: random tokens, stored as digests, that end by idleness, age, or at once.

A session remembers when its holder last proved who they are, so that the engine can ask
again before it decrypts. What a token is worth is read afresh on every call.

A browser that has proven anew who sits there gets another token. The one before is good for some
seconds more, until the browser has stored the new one.

A token ends with a keyed tag over its owner: a row that an attacker wrote into the catalog's
file for a token of their own making, or moved to another account, opens nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Literal

from engine.errors import NotFound, NotSignedIn
from engine.host import Host
from engine.permissions import Role
from engine.records import Caller, OpenSession
from engine.store.database import Cursor, Database, Row
from engine.vault import TaggedTokens, token_digest

#: So long after a fresh proof the token before it is good: for pictures that are on their way.
GRACE = timedelta(seconds=10)
_ENDED = "Your session has ended: please sign in again."


class Sessions:
    """Who is signed in.

    Args:
        idle: A session ends after this time without a call.
        absolute: A session ends after this time at the latest.
        key: 32 bytes, for the tags of tokens.
        factor_roles: Roles that may do nothing but set up a second factor until they have one.
    """

    def __init__(
        self,
        database: Database,
        host: Host,
        idle: timedelta,
        absolute: timedelta,
        key: bytes,
        factor_roles: frozenset[Role] = frozenset(),
    ) -> None:
        self._database = database
        self._host = host
        self.idle = idle
        self.absolute = absolute
        self._tokens = TaggedTokens(host, key, "session")
        self.factor_roles = factor_roles
        #: Digests of tokens before the last proof, with the session's id and their end.
        self._before: dict[str, tuple[str, datetime]] = {}
        self._lock = threading.Lock()

    def begin(self, tx: Cursor, username: str, client: str, origin: str) -> tuple[str, datetime]:
        """Open a session for an authenticated account.

        Args:
            client: ``browser`` or ``API``.

        Returns:
            The token, which is stored nowhere, and when it ends at the latest.
        """
        now = self._host.now()
        session_id = self._host.token("se")
        token = self._tokens.new(session_id, username)
        expires_at = now + self.absolute
        tx.run("DELETE FROM sessions WHERE expires_at < $1", now - timedelta(days=30))
        tx.run(
            "INSERT INTO sessions (token_digest, session_id, username, created_at, seen_at,"
            " expires_at, origin, proven_at, door) VALUES ($1, $2, $3, $4, $4, $5, $6, $4, $7)",
            token_digest(token),
            session_id,
            username,
            now,
            expires_at,
            origin,
            client,
        )
        return token, expires_at

    def resolve(self, token: object, *, activity: bool = True) -> Caller:
        """The caller of this token, read anew, so that disabling an account works immediately.

        Args:
            token: As given by a cookie or header; anything but a good string is refused.
            activity: False for automatic refreshes, which must not keep a session alive.

        Raises:
            NotSignedIn: Unknown, ended, idle too long, too old, or account disabled.
        """
        if not isinstance(token, str) or not (16 <= len(token) <= 128):
            raise NotSignedIn("Please sign in.")
        digest = token_digest(token)
        with self._lock:
            before = self._before.get(digest)
        if before is not None and self._host.now() < before[1]:
            return self._live("session_id", before[0], activity, token)
        return self._live("token_digest", digest, activity, token)

    def resolve_id(
        self, session_id: str, username: str | None = None, *, activity: bool = True
    ) -> Caller:
        """As :meth:`resolve`, for a session that was proven in another way.

        Args:
            username: Whose it has to be, as an access token says.
        """
        caller = self._live("session_id", session_id, activity)
        if username is not None and caller.username != username:
            raise NotSignedIn(_ENDED)
        return caller

    def resolve_work(self, session_id: str) -> Caller:
        """As :meth:`resolve`, for work that goes on without a person, such as sealing a batch.

        It never counts as activity: the session idles and then ends for its person. What it has
        begun goes on, or a page that is closed would stop it; it ends when the session is ended,
        at its absolute limit, and when the account is disabled.

        Raises:
            NotSignedIn: Unknown, ended, too old, or account disabled.
        """
        return self._live("session_id", session_id, activity=False, idles=False)

    def _live(
        self,
        column: Literal["token_digest", "session_id"],
        value: str,
        activity: bool,
        token: str | None = None,
        idles: bool = True,
    ) -> Caller:
        row = self._database.read().one(
            "SELECT s.*, a.role, a.enabled FROM sessions s JOIN accounts a USING (username)"  # noqa: S608
            f" WHERE s.{column} = $1",
            value,
        )
        now = self._host.now()
        if row is None or not row["enabled"] or not self._open(row, now, idles):
            raise NotSignedIn(_ENDED)
        if token is not None and not self._tokens.fits(token, row["session_id"], row["username"]):
            raise NotSignedIn(_ENDED)
        if activity and now - row["seen_at"] > min(timedelta(seconds=30), self.idle / 4):
            with self._database.write() as tx:
                tx.run(
                    "UPDATE sessions SET seen_at = $2 WHERE session_id = $1",
                    row["session_id"],
                    now,
                )
        role = Role(row["role"])
        return Caller(
            row["username"],
            role,
            row["session_id"],
            row["origin"],
            proven_at=row["proven_at"] or row["created_at"],
            # Asked for every call, so only of those who must have one.
            factor_due=role in self.factor_roles and not self._has_factor(row["username"]),
        )

    def _has_factor(self, username: str) -> bool:
        found = self._database.read().one(
            "SELECT 1 AS x FROM second_factors WHERE username = $1 AND confirmed_at IS NOT NULL"
            " UNION ALL SELECT 1 FROM passkeys WHERE username = $1",
            username,
        )
        return found is not None

    def _open(self, row: Row, now: datetime, idles: bool = True) -> bool:
        return (
            row["ended_at"] is None
            and now < row["expires_at"]
            and (not idles or now - row["seen_at"] < self.idle)
            # A clock that jumped back must not bring an old session to life.
            and now >= row["created_at"] - timedelta(minutes=5)
        )

    def open_of(self, username: str, current: str = "") -> list[OpenSession]:
        """Open sessions of an account, the last used first.

        Args:
            current: Id of the session that asks.
        """
        now = self._host.now()
        rows = self._database.read().all(
            "SELECT * FROM sessions WHERE username = $1 AND ended_at IS NULL ORDER BY seen_at DESC",
            username,
        )
        return [
            OpenSession(
                session_id=row["session_id"],
                started_at=row["created_at"],
                seen_at=row["seen_at"],
                expires_at=row["expires_at"],
                door=row["door"],
                origin=row["origin"],
                current=row["session_id"] == current,
            )
            for row in rows
            if self._open(row, now)
        ]

    def prove(self, tx: Cursor, session_id: str) -> None:
        """The holder has just proven again who they are."""
        tx.run(
            "UPDATE sessions SET proven_at = $2 WHERE session_id = $1", session_id, self._host.now()
        )

    def renew(self, tx: Cursor, session_id: str, username: str) -> str:
        """Another token for a session; the one before ends within seconds.

        Returns:
            The token, which is stored nowhere.
        """
        row = tx.one("SELECT token_digest FROM sessions WHERE session_id = $1", session_id)
        if row is None:
            raise NotSignedIn(_ENDED)
        token, now = self._tokens.new(session_id, username), self._host.now()
        tx.run(
            "UPDATE sessions SET token_digest = $2 WHERE session_id = $1",
            session_id,
            token_digest(token),
        )
        with self._lock:
            self._before = {d: kept for d, kept in self._before.items() if kept[1] > now}
            self._before[row["token_digest"]] = (session_id, now + GRACE)
        return token

    def end(self, tx: Cursor, session_id: str) -> None:
        """End a session: its tokens are worthless from now on."""
        tx.run(
            "UPDATE sessions SET ended_at = $2 WHERE session_id = $1 AND ended_at IS NULL",
            session_id,
            self._host.now(),
        )

    def end_of(self, tx: Cursor, username: str, session_id: str) -> None:
        """End one session of an account.

        Raises:
            NotFound: It has no such open session.
        """
        if session_id not in self._open_ids(tx, username):
            raise NotFound("There is no such open session. It may have ended already.")
        self.end(tx, session_id)

    def end_all(self, tx: Cursor, username: str, keep: str = "") -> list[str]:
        """End every session of an account, but for the one to keep.

        Returns:
            Ids of the sessions that were open.
        """
        ids = [i for i in self._open_ids(tx, username) if i != keep]
        for session_id in ids:
            self.end(tx, session_id)
        return ids

    def ended(self, session_ids: Collection[str]) -> list[str]:
        """Those of these sessions that were ended, on whichever server."""
        rows = self._database.read().all(
            "SELECT session_id FROM sessions WHERE ended_at IS NOT NULL"
            " AND session_id IN (SELECT unnest($1::VARCHAR[]))",
            list(session_ids),
        )
        return [row["session_id"] for row in rows]

    def _open_ids(self, tx: Cursor, username: str) -> list[str]:
        rows = tx.all(
            "SELECT session_id FROM sessions WHERE username = $1 AND ended_at IS NULL", username
        )
        return [row["session_id"] for row in rows]
