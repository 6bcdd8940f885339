"""Lockout: failed attempts per user name are counted, and the lock time grows with them.

User names are stored as digests, whether an account exists or not, so that a lock does not reveal
which names exist. Passwords and one-time codes share one counter, so that an attacker who stole
one of them gets no additional attempts at the other.
"""

from __future__ import annotations

import hashlib
import math
from datetime import timedelta

from engine.errors import AccountLocked
from engine.host import Host
from engine.store.database import Cursor, Database

FREE_ATTEMPTS = 5
FIRST_LOCK_SECONDS = 30
LONGEST_LOCK_SECONDS = 3600
FORGET_FAILURES = timedelta(days=1)


class Lockout:
    """Failed attempts in one catalog."""

    def __init__(self, database: Database, host: Host) -> None:
        self._database = database
        self._host = host

    def count(self, username: str) -> int:
        """Count before checking, in one transaction: guesses made at once all count.

        Returns:
            The number of this attempt, for :meth:`take_back`.

        Raises:
            AccountLocked: Too many without success; the wait doubles with each further one.
        """
        now = self._host.now()
        name = _digest(username)
        with self._database.write() as tx:
            tx.run("DELETE FROM sign_in_failures WHERE failed_at < $1", now - FORGET_FAILURES)
            row = tx.one("SELECT * FROM sign_in_failures WHERE name_digest = $1", name)
            if row and row["locked_until"] and row["locked_until"] > now:
                wait = math.ceil((row["locked_until"] - now).total_seconds())
                raise AccountLocked(
                    f"Too many failed attempts. Try again in {wait} seconds.", seconds=wait
                )
            failures = (row["failures"] if row else 0) + 1
            locked_until = None
            if failures >= FREE_ATTEMPTS:
                seconds = FIRST_LOCK_SECONDS * 2 ** min(failures - FREE_ATTEMPTS, 20)
                locked_until = now + timedelta(seconds=min(seconds, LONGEST_LOCK_SECONDS))
            tx.run(
                "INSERT INTO sign_in_failures VALUES ($1, $2, $3, $4) ON CONFLICT (name_digest)"
                " DO UPDATE SET failures = $2, failed_at = $3, locked_until = $4",
                name,
                failures,
                now,
                locked_until,
            )
        return failures

    def take_back(self, username: str, attempt: int) -> None:
        """Undo one :meth:`count`: the password was correct, but the code is still required.

        Other failures stay, and so does a lock that another attempt brought meanwhile: else a
        known password would buy endless tries for the code.
        """
        with self._database.write() as tx:
            tx.run(
                "UPDATE sign_in_failures SET failures = failures - 1, locked_until ="
                " CASE WHEN failures = $2 THEN NULL ELSE locked_until END WHERE name_digest = $1",
                _digest(username),
                attempt,
            )

    def forgive(self, tx: Cursor, username: str) -> None:
        """Reset the failures of a name after complete authentication."""
        tx.run("DELETE FROM sign_in_failures WHERE name_digest = $1", _digest(username))


def _digest(username: str) -> str:
    return hashlib.sha256(username.encode()).hexdigest()
