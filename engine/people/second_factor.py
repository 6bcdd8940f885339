"""The second factor: codes of an authenticator app (TOTP), passkeys, and recovery codes.

The secret is encrypted with a system key, because unlike a password it must be readable to check
a code. Every code is valid once: the time step of the last code is stored, and no code at or before
it is accepted. Recovery codes have 160 random bits, so a plain digest is enough to store them.

Source: RFC 6238; NIST SP 800-63B-4, sections 3.1.2 and 3.1.4.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, timedelta

import pyotp
from pyotp.exceptions import OTPVerificationError

from engine.errors import InputError, NotSignedIn
from engine.host import Host
from engine.people.passkeys import Passkeys
from engine.records import SecondFactor
from engine.store.database import Cursor, Database
from engine.store.shared import Hold, Shared
from engine.vault import open_field, random_text, seal_field

ISSUER = "MedSec"
SECRET_BYTES = 20  # RFC 4226 section 4 recommends 160 bits
WINDOW_STEPS = 1  # one step of 30 s to either side, for clocks that differ
RECOVERY_CODES = 10
RECOVERY_BYTES = 20
CHALLENGE = timedelta(minutes=5)
_KIND = "sign-in"
_EXPIRED = "This sign-in has expired. Please begin again."


class SecondFactors:
    """Second factors of the accounts in one catalog.

    Args:
        key: 32 bytes under which secrets are sealed.
        origin: Address that people type, for passkeys; empty turns them off.
    """

    def __init__(
        self, database: Database, host: Host, key: bytes, shared: Shared, origin: str = ""
    ) -> None:
        self._database = database
        self._host = host
        self._key = key
        self.passkeys = Passkeys(database, host, key, shared, origin)

    def enabled(self, username: str) -> bool:
        """Does this account require a second proof?"""
        return self.state(username, required=False).enabled_at is not None

    def state(self, username: str, required: bool) -> SecondFactor:
        """State of an account's second factor, without its secret."""
        cursor = self._database.read()
        row = cursor.one("SELECT confirmed_at FROM second_factors WHERE username = $1", username)
        left = cursor.count(
            "SELECT count(*) FROM recovery_codes WHERE username = $1 AND used_at IS NULL", username
        )
        app = row["confirmed_at"] if row else None
        passkeys = self.passkeys.of(username)
        since = [moment for moment in (app, *(p.added_at for p in passkeys)) if moment is not None]
        return SecondFactor(
            min(since, default=None),
            left,
            required,
            app is not None,
            passkeys,
            self.passkeys.offered,
        )

    def begin(self, tx: Cursor, username: str) -> str:
        """A new secret, without effect until :meth:`confirm`.

        Returns:
            Base32, 32 characters.

        Raises:
            InputError: There is a confirmed one.
        """
        row = tx.one("SELECT confirmed_at FROM second_factors WHERE username = $1", username)
        if row and row["confirmed_at"] is not None:
            raise InputError("An authenticator app is already set up. Turn it off first.")
        secret = base64.b32encode(self._host.random(SECRET_BYTES)).decode()
        sealed = seal_field(self._key, _place(username), secret.encode(), self._host.random)
        tx.run("DELETE FROM second_factors WHERE username = $1", username)
        tx.run("INSERT INTO second_factors VALUES ($1, $2, NULL, 0)", username, sealed)
        return secret

    def confirm(self, tx: Cursor, username: str, code: str) -> tuple[str, ...]:
        """Turn the factor on, now that the application shows the right codes.

        Returns:
            Recovery codes; they are shown once and stored as digests. Empty where there was a
            factor before, whose codes stay.

        Raises:
            InputError: Nothing was begun, or the code is not right.
        """
        row = tx.one("SELECT * FROM second_factors WHERE username = $1", username)
        if row is None or row["confirmed_at"] is not None:
            raise InputError("There is no second factor to confirm. Start the setup again.")
        step = self._step(username, row["secret"], code)
        if step is None:
            raise InputError(
                "The code is not correct. Check the clock of your device and enter the next code."
            )
        before = self.enabled(username)
        tx.run(
            "UPDATE second_factors SET confirmed_at = $2, last_step = $3 WHERE username = $1",
            username,
            self._host.now(),
            step,
        )
        return () if before else self.renew_codes(tx, username)

    def confirm_passkey(
        self, tx: Cursor, username: str, response: str, name: str
    ) -> tuple[str, ...]:
        """Keep a passkey, as :meth:`confirm` turns an application on."""
        before = self.enabled(username)
        self.passkeys.confirm(tx, username, response, name)
        return () if before else self.renew_codes(tx, username)

    def remove_passkey(self, tx: Cursor, username: str, credential_id: str) -> None:
        """Forget one passkey; with the last factor go the recovery codes. Raises NotFound."""
        now = self.state(username, required=False)
        self.passkeys.remove(tx, username, credential_id)
        if not now.has_app and len(now.passkeys) == 1:
            self.remove(tx, username)

    def renew_codes(self, tx: Cursor, username: str) -> tuple[str, ...]:
        """Create new recovery codes; the old ones become invalid."""
        codes = tuple(_readable(self._host.random(RECOVERY_BYTES)) for _ in range(RECOVERY_CODES))
        tx.run("DELETE FROM recovery_codes WHERE username = $1", username)
        tx.run_many(
            "INSERT INTO recovery_codes VALUES ($1, $2, NULL)",
            [(username, _digest(_plain(code))) for code in codes],
        )
        return codes

    def spend(self, tx: Cursor, username: str, code: str) -> str:
        """Use a code up.

        Args:
            code: Of the application, a recovery code, or a passkey's answer as JSON.

        Returns:
            ``totp``, ``recovery`` or ``passkey``; empty where it is not right.
        """
        if code.lstrip().startswith("{"):
            return "passkey" if self.passkeys.spend(tx, username, code) else ""
        row = tx.one("SELECT * FROM second_factors WHERE username = $1", username)
        if row is not None and row["confirmed_at"] is not None:
            step = self._step(username, row["secret"], code)
            if step is not None:
                if step <= row["last_step"]:
                    return ""  # seen before, or older than one that was
                tx.run(
                    "UPDATE second_factors SET last_step = $2 WHERE username = $1", username, step
                )
                return "totp"
        digest = _digest(_plain(code))
        kept = tx.one(
            "SELECT 1 AS x FROM recovery_codes WHERE username = $1 AND code_digest = $2"
            " AND used_at IS NULL",
            username,
            digest,
        )
        if kept is None:
            return ""
        tx.run(
            "UPDATE recovery_codes SET used_at = $3 WHERE username = $1 AND code_digest = $2",
            username,
            digest,
            self._host.now(),
        )
        return "recovery"

    def remove(self, tx: Cursor, username: str) -> None:
        """Delete the secret, all passkeys and the recovery codes."""
        self.passkeys.remove_all(tx, username)
        tx.run("DELETE FROM second_factors WHERE username = $1", username)
        tx.run("DELETE FROM recovery_codes WHERE username = $1", username)

    def _step(self, username: str, sealed: bytes, code: str) -> int | None:
        secret = open_field(self._key, _place(username), sealed).decode()
        now = self._host.now().replace(tzinfo=UTC).timestamp()
        try:
            return pyotp.TOTP(secret).verify_and_get_timecode(
                "".join(code.split()), for_time=now, valid_window=WINDOW_STEPS
            )
        except OTPVerificationError:
            return None


def enrolment_uri(username: str, secret: str) -> str:
    """The otpauth URI for the QR code."""
    return pyotp.TOTP(secret).provisioning_uri(name=username, issuer_name=ISSUER)


@dataclass(frozen=True)
class Challenge:
    """A sign-in that waits.

    Args:
        first_factor: What was proven, for the log.
    """

    username: str
    first_factor: str
    password_hash: str


class Challenges:
    """Sign-ins that wait for a code after a correct password; no session is open yet.

    A change of the password invalidates them.
    """

    def __init__(self, host: Host, shared: Shared) -> None:
        self._host = host
        self._shared = shared

    def issue(self, username: str, first_factor: str, password_hash: str) -> str:
        """A handle for :meth:`get`, good for minutes."""
        handle = random_text(self._host)
        value = json.dumps([username, first_factor, password_hash])
        self._shared.hold(Hold(_KIND, handle, Host.token_of(16), value), CHALLENGE)
        return handle

    def get(self, handle: str) -> Challenge:
        """Whose sign-in waits.

        Raises:
            NotSignedIn: Unknown, expired or finished.
        """
        return self._challenge(self._shared.get(_KIND, handle))

    def finish(self, handle: str, password_hash: str) -> None:
        """Use the handle up, once the code was right.

        Raises:
            NotSignedIn: Unknown, expired, finished, or the password is another one by now.
        """
        if self._challenge(self._shared.take(_KIND, handle)).password_hash != password_hash:
            raise NotSignedIn(_EXPIRED)

    @staticmethod
    def _challenge(kept: str | None) -> Challenge:
        if kept is None:
            raise NotSignedIn(_EXPIRED)
        return Challenge(*json.loads(kept))


def _place(username: str) -> str:
    return f"second-factor/{username}"


def _readable(random: bytes) -> str:
    text = base64.b32encode(random).decode()
    return "-".join(text[i : i + 4] for i in range(0, len(text), 4))


def _plain(code: str) -> str:
    """A recovery code in its canonical form."""
    return "".join(c for c in code.upper() if c.isalnum())


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
