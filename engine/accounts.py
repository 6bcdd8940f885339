"""Accounts, passwords and sessions. Decides who somebody is; permissions decide what they may.

Passwords are bcrypt hashes of SHA-384, so that long pass phrases count to the last
character (bcrypt alone reads 72 bytes). Session tokens are random and stored as digests:
a copy of the catalog signs nobody in.
"""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import dataclass
from datetime import timedelta

import bcrypt
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from engine.database import Cursor, Database, Row
from engine.errors import AccountLocked, InputError, NotFound, NotSignedIn, PermissionDenied
from engine.host import Host
from engine.permissions import ACCOUNT_ROLES, Role
from engine.records import Account, Caller, Session

FREE_ATTEMPTS = 5
FIRST_LOCK_SECONDS = 30
LONGEST_LOCK_SECONDS = 3600
FORGET_FAILURES = timedelta(days=1)
MAX_PASSWORD_LENGTH = 256


@dataclass(frozen=True)
class Rules:
    """How accounts and sessions behave.

    Args:
        bcrypt_cost: Work factor, 2**cost rounds.
        min_length: Shortest password in characters.
        idle: A session ends after this time without a call.
        absolute: A session ends after this time at the latest.
    """

    bcrypt_cost: int
    min_length: int
    idle: timedelta
    absolute: timedelta


class Accounts:
    """People in one catalog."""

    def __init__(self, database: Database, host: Host, rules: Rules) -> None:
        self._database = database
        self._host = host
        self._rules = rules
        # Checked against when a name is unknown, so that the answer takes equally long.
        self._dummy = self._hash(base64.b64encode(host.random(24)).decode())

    def any_administrator(self) -> bool:
        """Has the first administrator been made?"""
        return self._administrators(self._database.read()) > 0

    def check_new_password(self, username: str, password: str) -> None:
        """NIST SP 800-63B section 3.1.1.2: length and a list of common ones; no composition rules.

        Raises:
            InputError: With a sentence that says what to choose instead.
        """
        if len(password) < self._rules.min_length:
            raise InputError(f"A password needs at least {self._rules.min_length} characters.")
        if len(password) > MAX_PASSWORD_LENGTH:
            raise InputError(f"A password has at most {MAX_PASSWORD_LENGTH} characters.")
        folded = password.casefold()
        if folded in _COMMON or len(set(folded)) < 4 or username.casefold() in folded:
            raise InputError(
                "This password is among the first that would be tried: choose another one,"
                " for instance four unrelated words."
            )

    def create(self, tx: Cursor, username: str, name: str, role: Role, password: str) -> Account:
        """Add an account.

        Raises:
            InputError: Bad or taken user name, or bad password.
        """
        username = username.strip().casefold()
        if not (1 <= len(username) <= 64) or not all(c.isalnum() or c in "._-@" for c in username):
            raise InputError("A user name has 1 to 64 letters, digits or . _ - @.")
        if not (1 <= len(name.strip()) <= 100):
            raise InputError("A name has 1 to 100 characters.")
        if role not in ACCOUNT_ROLES:
            raise InputError("This role cannot be given to an account.")
        self.check_new_password(username, password)
        if tx.one("SELECT 1 AS x FROM accounts WHERE username = $1", username):
            raise InputError("This user name is taken.")
        tx.run(
            "INSERT INTO accounts (username, name, role, password_hash, enabled, created_at)"
            " VALUES ($1, $2, $3, $4, true, $5)",
            username,
            name.strip(),
            str(role),
            self._hash(password),
            self._host.now(),
        )
        return self.get(tx, username)

    def get(self, tx: Cursor, username: str) -> Account:
        """One account.

        Raises:
            NotFound: No such account.
        """
        row = tx.one("SELECT * FROM accounts WHERE username = $1", username.strip().casefold())
        if row is None:
            raise NotFound("There is no such account.")
        return _account(row)

    def list(self) -> list[Account]:
        """Every account, by user name."""
        rows = self._database.read().all("SELECT * FROM accounts ORDER BY username")
        return [_account(r) for r in rows]

    def sign_in(self, username: str, password: str, origin: str) -> Session:
        """Check a password and open a session.

        Unknown names, wrong passwords and disabled accounts answer alike, take equally
        long and are locked alike, so that nobody learns which names exist.

        Raises:
            NotSignedIn: Name and password do not match an enabled account.
            AccountLocked: Too many failures; the wait doubles with each further one.
        """
        username = username.strip().casefold()
        now = self._host.now()
        self._count_attempt(username)
        row, right = self._check(username, password)
        if row is None or not right or not row["enabled"]:
            raise NotSignedIn("User name and password do not match.")
        token = base64.urlsafe_b64encode(self._host.random(32)).decode().rstrip("=")
        expires_at = now + self._rules.absolute
        with self._database.write() as tx:
            tx.run("UPDATE accounts SET last_sign_in_at = $2 WHERE username = $1", username, now)
            self._forget_attempts(tx, username)
            tx.run("DELETE FROM sessions WHERE expires_at < $1", now - timedelta(days=30))
            tx.run(
                "INSERT INTO sessions VALUES ($1, $2, $3, $4, $4, $5, NULL, $6)",
                _digest(token),
                self._host.token("se"),
                username,
                now,
                expires_at,
                origin,
            )
            account = self.get(tx, username)
        return Session(token, account, expires_at)

    def resolve(self, token: object, *, activity: bool = True) -> Caller:
        """Who holds this token, read afresh, so that disabling somebody works at once.

        Args:
            token: As given by a cookie or header; anything but a good string is refused.
            activity: False for automatic refreshes, which must not keep a session alive.

        Raises:
            NotSignedIn: Unknown, ended, idle too long, too old, or account disabled.
        """
        if not isinstance(token, str) or not (16 <= len(token) <= 128):
            raise NotSignedIn("Please sign in.")
        return self._live("token_digest", _digest(token), activity)

    def resolve_session(self, session_id: str) -> Caller:
        """As :meth:`resolve`, for a session that was proven by an access token."""
        return self._live("session_id", session_id, activity=True)

    def _live(self, column: str, value: str, activity: bool) -> Caller:
        row = self._database.read().one(
            "SELECT s.*, a.role, a.enabled FROM sessions s JOIN accounts a USING (username)"
            " WHERE CASE $1 WHEN 'token_digest' THEN token_digest ELSE session_id END = $2",
            column,
            value,
        )
        now = self._host.now()
        if (
            row is None
            or row["ended_at"] is not None
            or not row["enabled"]
            or now >= row["expires_at"]
            or now - row["seen_at"] >= self._rules.idle
            # A clock that jumped back must not bring an old session to life.
            or now < row["created_at"] - timedelta(minutes=5)
        ):
            raise NotSignedIn("Your session has ended: please sign in again.")
        if activity and now - row["seen_at"] > min(timedelta(seconds=30), self._rules.idle / 4):
            with self._database.write() as tx:
                tx.run(
                    "UPDATE sessions SET seen_at = $2 WHERE session_id = $1",
                    row["session_id"],
                    now,
                )
        return Caller(row["username"], Role(row["role"]), row["session_id"], row["origin"])

    def end_session(self, tx: Cursor, session_id: str) -> None:
        """Sign out: the token is worthless from now on."""
        tx.run(
            "UPDATE sessions SET ended_at = $2 WHERE session_id = $1 AND ended_at IS NULL",
            session_id,
            self._host.now(),
        )

    def end_all_sessions(self, tx: Cursor, username: str, keep: str = "") -> None:
        """End every session of an account, but for the one to keep."""
        tx.run(
            "UPDATE sessions SET ended_at = $3 WHERE username = $1 AND session_id <> $2"
            " AND ended_at IS NULL",
            username,
            keep,
            self._host.now(),
        )

    def check_password(self, username: str, password: str) -> bool:
        """Is this the account's password? Failures count towards the lock.

        Raises:
            AccountLocked: Too many failures.
        """
        self._count_attempt(username)
        row, right = self._check(username, password)
        if row is not None and right:
            with self._database.write() as tx:
                self._forget_attempts(tx, username)
        return row is not None and right

    def set_password(self, tx: Cursor, username: str, password: str) -> None:
        """Replace a password; other sessions of the account end.

        Raises:
            InputError: The password breaks the rules.
        """
        self.check_new_password(username, password)
        tx.run(
            "UPDATE accounts SET password_hash = $2 WHERE username = $1",
            username,
            self._hash(password),
        )
        self._forget_attempts(tx, username)

    def set_role(self, tx: Cursor, caller: Caller, username: str, role: Role) -> None:
        """Give an account another role; its sessions end.

        Raises:
            PermissionDenied: One's own role, or the last administrator's.
        """
        account = self.get(tx, username)
        if account.username == caller.username:
            raise PermissionDenied("Nobody changes their own role: ask another administrator.")
        if role not in ACCOUNT_ROLES:
            raise InputError("This role cannot be given to an account.")
        tx.run("UPDATE accounts SET role = $2 WHERE username = $1", account.username, str(role))
        self._keep_an_administrator(tx)
        self.end_all_sessions(tx, account.username)

    def set_enabled(self, tx: Cursor, caller: Caller, username: str, enabled: bool) -> None:
        """Open or close an account; closing ends its sessions.

        Raises:
            PermissionDenied: One's own account, or the last administrator's.
        """
        account = self.get(tx, username)
        if account.username == caller.username:
            raise PermissionDenied("Nobody closes their own account: ask another administrator.")
        tx.run("UPDATE accounts SET enabled = $2 WHERE username = $1", account.username, enabled)
        self._keep_an_administrator(tx)
        if not enabled:
            self.end_all_sessions(tx, account.username)

    def _administrators(self, tx: Cursor) -> int:
        return tx.count(
            "SELECT count(*) FROM accounts WHERE role = $1 AND enabled", str(Role.ADMINISTRATOR)
        )

    def _keep_an_administrator(self, tx: Cursor) -> None:
        if self._administrators(tx) == 0:
            raise PermissionDenied("The last administrator cannot be removed.")

    def _check(self, username: str, password: str) -> tuple[Row | None, bool]:
        row = self._database.read().one("SELECT * FROM accounts WHERE username = $1", username)
        stored = row["password_hash"] if row else self._dummy
        return row, bcrypt.checkpw(_prepare(password), stored.encode())

    def _count_attempt(self, username: str) -> None:
        """Count before checking, in one transaction: guesses made at once all count.

        Raises:
            AccountLocked: Too many without success.
        """
        now = self._host.now()
        name = _digest(username)
        with self._database.write() as tx:
            tx.run("DELETE FROM sign_in_failures WHERE failed_at < $1", now - FORGET_FAILURES)
            row = tx.one("SELECT * FROM sign_in_failures WHERE name_digest = $1", name)
            if row and row["locked_until"] and row["locked_until"] > now:
                wait = math.ceil((row["locked_until"] - now).total_seconds())
                raise AccountLocked(
                    f"Too many failed attempts: try again in {wait} seconds.", seconds=wait
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

    def _forget_attempts(self, tx: Cursor, username: str) -> None:
        tx.run("DELETE FROM sign_in_failures WHERE name_digest = $1", _digest(username))

    def _hash(self, password: str) -> str:
        salt = bcrypt.gensalt(self._rules.bcrypt_cost)
        return bcrypt.hashpw(_prepare(password), salt).decode()


_COMMON = frozenset(word for words in FREQUENCY_LISTS.values() for word in words)


def _prepare(password: str) -> bytes:
    """64 printable bytes for any length: bcrypt stops at 72 bytes and at a NUL."""
    return base64.b64encode(hashlib.sha384(password.encode()).digest())


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _account(row: Row) -> Account:
    return Account(
        username=row["username"],
        name=row["name"],
        role=Role(row["role"]),
        enabled=row["enabled"],
        created_at=row["created_at"],
        last_sign_in_at=row["last_sign_in_at"],
    )
