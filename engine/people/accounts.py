"""Accounts and passwords (authentication); :mod:`engine.permissions` has the authorisation.

Passwords are bcrypt hashes of SHA-384, so that long pass phrases count to the last
character (bcrypt alone reads 72 bytes).
"""

from __future__ import annotations

import base64
import hashlib
import unicodedata

import bcrypt
from zxcvbn import zxcvbn
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from engine.errors import InputError, NotFound, NotSignedIn, PermissionDenied
from engine.host import Host
from engine.people.lockout import Lockout
from engine.permissions import ACCOUNT_ROLES, Role
from engine.records import Account, Caller
from engine.store.database import Cursor, Database, Row

MAX_PASSWORD_LENGTH = 256
SERVICE = "medsec"
#: Fewer guesses than this and a password is among those that are tried first.
MIN_GUESSES = 10**8
_SELECT = (
    "SELECT a.*, f.confirmed_at IS NOT NULL AS second_factor, coalesce(i.email, '') AS email"
    " FROM accounts a LEFT JOIN second_factors f USING (username)"
    " LEFT JOIN identities i USING (username)"
)


class Accounts:
    """People in one catalog.

    Args:
        bcrypt_cost: Work factor, 2**cost rounds.
        min_length: Shortest password in characters.
    """

    def __init__(
        self, database: Database, host: Host, lockout: Lockout, bcrypt_cost: int, min_length: int
    ) -> None:
        self._database = database
        self._host = host
        self._lockout = lockout
        self._cost = bcrypt_cost
        self.min_length = min_length
        # Compared with if the user name is unknown, so that the answer takes equally long.
        self._dummy = self.hash(base64.b64encode(host.random(24)).decode())

    def any_administrator(self) -> bool:
        """Does an administrator exist?"""
        return self._administrators(self._database.read()) > 0

    def check_new_password(self, username: str, password: str, name: str = "") -> None:
        """Check the length, and refuse common and predictable passwords; no composition rules.

        Raises:
            InputError: The message says what to choose instead.

        Source: NIST SP 800-63B-4, section 3.1.1.2.
        """
        if len(password) < self.min_length:
            raise InputError(
                f"The password is too short. Use at least {self.min_length} characters."
            )
        if len(password) > MAX_PASSWORD_LENGTH:
            raise InputError(
                f"The password is too long. Use at most {MAX_PASSWORD_LENGTH} characters."
            )
        folded = password.casefold()
        expected = [username.casefold(), SERVICE, *name.casefold().split()]
        if (
            folded in _COMMON
            or username.casefold() in folded
            # The estimate is slow for long passwords; their beginning is enough.
            or zxcvbn(password[:64], user_inputs=expected)["guesses"] < MIN_GUESSES
        ):
            raise InputError(
                "This password is easy to guess. Choose another one, for example four unrelated"
                " words."
            )

    def check_new(self, username: str, name: str, role: Role, password: str) -> tuple[str, str]:
        """Check name, role and password of a new account, and hash the password.

        Returns:
            User name and name as they are stored.

        Raises:
            InputError: Bad user name, name, role or password.
        """
        username, name = folded(username), name.strip()
        if not (1 <= len(username) <= 64) or not all(c.isalnum() or c in "._-@" for c in username):
            raise InputError("The user name is not valid. Use 1 to 64 letters, digits or . _ - @.")
        if not (1 <= len(name) <= 100) or not name.isprintable():
            raise InputError("The name is not valid. Use 1 to 100 characters.")
        if role not in ACCOUNT_ROLES:
            raise InputError("This role cannot be given to an account.")
        self.check_new_password(username, password, name)
        return username, name

    def create(self, tx: Cursor, username: str, name: str, role: Role, password: str) -> Account:
        """Add an account.

        Raises:
            InputError: Bad or taken user name, or bad password.
        """
        username, name = self.check_new(username, name, role, password)
        return self.add(tx, username, name, role, self.hash(password))

    def add(self, tx: Cursor, username: str, name: str, role: Role, password_hash: str) -> Account:
        """Add an account whose parts were checked by :meth:`check_new`.

        Raises:
            InputError: The user name is taken, or the role cannot be given.
        """
        if role not in ACCOUNT_ROLES:
            raise InputError("This role cannot be given to an account.")
        if tx.one("SELECT 1 AS x FROM accounts WHERE username = $1", username):
            raise InputError("This user name is taken. Choose another one.")
        tx.run(
            "INSERT INTO accounts (username, name, role, password_hash, enabled, created_at)"
            " VALUES ($1, $2, $3, $4, true, $5)",
            username,
            name,
            str(role),
            password_hash,
            self._host.now(),
        )
        return self.get(tx, username)

    def get(self, tx: Cursor, username: str) -> Account:
        """One account.

        Raises:
            NotFound: No such account.
        """
        return _account(self._row(tx, username))

    def password_hash(self, tx: Cursor, username: str) -> str:
        """The stored hash, to detect a change of the password. Raises NotFound."""
        return str(self._row(tx, username)["password_hash"])

    def _row(self, tx: Cursor, username: str) -> Row:
        row = tx.one(f"{_SELECT} WHERE username = $1", folded(username))
        if row is None:
            raise NotFound("There is no such account. Check the user name.")
        return row

    def list(self) -> list[Account]:
        """All accounts, by user name."""
        rows = self._database.read().all(f"{_SELECT} ORDER BY username")
        return [_account(r) for r in rows]

    def verify(self, username: str, password: str) -> tuple[Account, int]:
        """Whose password this is. The attempt stays counted until the sign-in is whole.

        Unknown names, wrong passwords and disabled accounts answer alike, take equally
        long and are locked alike, so that nobody learns which names exist.

        Returns:
            The account, and the attempt's number for :meth:`Lockout.take_back`.

        Raises:
            NotSignedIn: Name and password do not match an enabled account.
            AccountLocked: Too many failures.
        """
        username = folded(username)
        attempt = self._lockout.count(username)
        row, right = self._check(username, password)
        if row is None or not right or not row["enabled"]:
            raise NotSignedIn("User name and password do not match. Check both and try again.")
        return _account(row), attempt

    def signed_in(self, tx: Cursor, username: str) -> Account:
        """Record a complete sign-in."""
        tx.run(
            "UPDATE accounts SET last_sign_in_at = $2 WHERE username = $1",
            username,
            self._host.now(),
        )
        self._lockout.forgive(tx, username)
        return self.get(tx, username)

    def check_password(self, username: str, password: str) -> bool:
        """Is this the account's password? Failures count towards the lockout.

        Where there is a second factor, the password alone forgives no failures: it would buy
        endless tries for the code.

        Raises:
            AccountLocked: Too many failures.
        """
        attempt = self._lockout.count(username)
        row, right = self._check(username, password)
        if row is None or not right:
            return False
        if row["second_factor"]:
            self._lockout.take_back(username, attempt)
        else:
            with self._database.write() as tx:
                self._lockout.forgive(tx, username)
        return True

    def set_password(self, tx: Cursor, username: str, password: str) -> None:
        """Replace a password.

        Raises:
            InputError: The password breaks the rules.
        """
        self.check_new_password(username, password, self.get(tx, username).name)
        self.set_password_hash(tx, username, self.hash(password))

    def set_password_hash(self, tx: Cursor, username: str, password_hash: str) -> None:
        """Replace a password that was checked by :meth:`check_new_password`."""
        tx.run(
            "UPDATE accounts SET password_hash = $2 WHERE username = $1", username, password_hash
        )

    def others_administer(self, tx: Cursor, *usernames: str) -> bool:
        """Is there an administrator besides these accounts who can sign in?"""
        rows = tx.all(
            "SELECT username FROM accounts WHERE role = $1 AND enabled", str(Role.ADMINISTRATOR)
        )
        return any(row["username"] not in usernames for row in rows)

    def set_role(self, tx: Cursor, caller: Caller, username: str, role: Role) -> None:
        """Give an account another role.

        Raises:
            PermissionDenied: One's own role, or the last administrator's.
        """
        account = self.get(tx, username)
        if account.username == caller.username:
            raise PermissionDenied("You cannot change your own role. Ask another administrator.")
        if role not in ACCOUNT_ROLES:
            raise InputError("This role cannot be given to an account.")
        tx.run("UPDATE accounts SET role = $2 WHERE username = $1", account.username, str(role))
        self._keep_an_administrator(tx)

    def set_enabled(self, tx: Cursor, caller: Caller, username: str, enabled: bool) -> None:
        """Enable or disable an account.

        Raises:
            PermissionDenied: One's own account, or the last administrator's.
        """
        account = self.get(tx, username)
        if account.username == caller.username:
            raise PermissionDenied(
                "You cannot disable your own account. Ask another administrator."
            )
        tx.run("UPDATE accounts SET enabled = $2 WHERE username = $1", account.username, enabled)
        self._keep_an_administrator(tx)

    def hash(self, password: str) -> str:
        """The hash of a password, as stored."""
        return bcrypt.hashpw(_prepare(password), bcrypt.gensalt(self._cost)).decode()

    def _administrators(self, tx: Cursor) -> int:
        return tx.count(
            "SELECT count(*) FROM accounts WHERE role = $1 AND enabled", str(Role.ADMINISTRATOR)
        )

    def _keep_an_administrator(self, tx: Cursor) -> None:
        if self._administrators(tx) == 0:
            raise PermissionDenied(
                "The last administrator cannot be removed. Create another one first."
            )

    def _check(self, username: str, password: str) -> tuple[Row | None, bool]:
        row = self._database.read().one(f"{_SELECT} WHERE username = $1", username)
        stored = row["password_hash"] if row else self._dummy
        return row, bcrypt.checkpw(_prepare(password), stored.encode())


_COMMON = frozenset(word for words in FREQUENCY_LISTS.values() for word in words)


def _prepare(password: str) -> bytes:
    """64 printable bytes for any length: bcrypt stops at 72 bytes and at a NUL.

    The same letters typed on another keyboard are the same password (NIST SP 800-63B-4,
    section 3.1.1.2).
    """
    same = unicodedata.normalize("NFKC", password)
    return base64.b64encode(hashlib.sha384(same.encode(errors="surrogatepass")).digest())


def folded(username: str) -> str:
    """A user name in its stored form."""
    same = unicodedata.normalize("NFKC", username).strip().casefold()
    return same.encode(errors="replace").decode()  # what is no text is no name


def _account(row: Row) -> Account:
    return Account(
        username=row["username"],
        name=row["name"],
        role=Role(row["role"]),
        enabled=row["enabled"],
        created_at=row["created_at"],
        last_sign_in_at=row["last_sign_in_at"],
        second_factor=row["second_factor"],
        email=row["email"],
    )
