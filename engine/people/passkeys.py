"""Passkeys as a second factor: keys in a device, which answer this address only.

A passkey signs what the server asks, together with the address in the browser's bar, so a page that
imitates this one gets nothing that it can use here. The stored public key is sealed to its account
and its id: a key that was written into the catalog's file opens nothing.

Source: W3C Web Authentication Level 3, sections 7.1 and 7.2; NIST SP 800-63B-4, section 3.2.5.
"""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import webauthn
from webauthn.helpers import structs
from webauthn.helpers.exceptions import WebAuthnException

from engine.errors import InputError, NotFound
from engine.host import Host
from engine.records import Passkey
from engine.store.database import Cursor, Database, Row
from engine.store.shared import Hold, Shared
from engine.vault import open_field, seal_field

NAME = "MedSec"
CHALLENGE_BYTES = 32
#: As long as a sign-in waits for its second step.
PATIENCE = timedelta(minutes=5)
MOST_ASKED = 8
_KIND = "passkey"
MOST_OF_ACCOUNT = 20
_MOST_CHARACTERS = 20_000
#: What reading somebody's answer raises where it is none.
_NO_ANSWER = (WebAuthnException, KeyError, TypeError, ValueError)


class Passkeys:
    """Passkeys of the accounts in one catalog.

    Args:
        key: 32 bytes under which public keys are sealed.
        origin: Address that people type, such as ``https://medsec.hospital.example``; empty
            turns passkeys off.
    """

    def __init__(
        self, database: Database, host: Host, key: bytes, shared: Shared, origin: str
    ) -> None:
        self._database = database
        self._host = host
        self._key = key
        self._origin = origin
        self._domain = urlsplit(origin).hostname or ""
        #: Has what each account was asked; each challenge is answered once.
        self._shared = shared

    @property
    def offered(self) -> bool:
        """Can passkeys be used on this installation?"""
        return bool(self._origin)

    def of(self, username: str) -> tuple[Passkey, ...]:
        """Passkeys of an account, the oldest first."""
        rows = self._database.read().all(
            "SELECT * FROM passkeys WHERE username = $1 ORDER BY added_at", username
        )
        return tuple(
            Passkey(row["credential_id"], self._kept(row)["name"], row["added_at"], row["used_at"])
            for row in rows
        )

    def begin(self, username: str) -> str:
        """Options for the browser's ``navigator.credentials.create``, as JSON.

        Raises:
            InputError: Passkeys are turned off, or there are too many.
        """
        if not self.offered:
            raise InputError(
                "Passkeys are turned off. Ask an administrator to set MEDSEC_WEB_ORIGIN."
            )
        known = self.of(username)
        if len(known) >= MOST_OF_ACCOUNT:
            raise InputError("There are too many passkeys. Remove one that you do not use.")
        options = webauthn.generate_registration_options(
            rp_id=self._domain,
            rp_name=NAME,
            user_name=username,
            challenge=self._ask(username),
            authenticator_selection=structs.AuthenticatorSelectionCriteria(
                resident_key=structs.ResidentKeyRequirement.DISCOURAGED,
                user_verification=structs.UserVerificationRequirement.PREFERRED,
            ),
            exclude_credentials=_described(known),
        )
        return webauthn.options_to_json(options)

    def confirm(self, tx: Cursor, username: str, response: str, name: str) -> None:
        """Keep a new passkey.

        Args:
            response: What the browser answered, as JSON.
            name: By which its owner knows the device.

        Raises:
            InputError: Nothing was begun, or it is not what was asked for.
        """
        challenge = self._answered(username, response)
        try:
            made = webauthn.verify_registration_response(
                credential=response,
                expected_challenge=challenge,
                expected_rp_id=self._domain,
                expected_origin=self._origin,
            )
        except _NO_ANSWER as err:
            raise InputError("The passkey was not accepted. Try again.") from err
        credential_id = _text(made.credential_id)
        if tx.one("SELECT 1 AS x FROM passkeys WHERE credential_id = $1", credential_id):
            raise InputError("This passkey is already set up.")
        kept = {
            "name": name.strip()[:64] or "Passkey",
            "public_key": base64.b64encode(made.credential_public_key).decode(),
            "sign_count": made.sign_count,
        }
        tx.run(
            "INSERT INTO passkeys VALUES ($1, $2, $3, NULL, $4)",
            credential_id,
            username,
            self._host.now(),
            self._sealed(username, credential_id, kept),
        )

    def ask(self, username: str) -> str:
        """Options for the browser's ``navigator.credentials.get``, as JSON; empty without any."""
        known = self.of(username)
        if not known or not self.offered:
            return ""
        options = webauthn.generate_authentication_options(
            rp_id=self._domain,
            challenge=self._ask(username),
            allow_credentials=_described(known),
            user_verification=structs.UserVerificationRequirement.PREFERRED,
        )
        return webauthn.options_to_json(options)

    def spend(self, tx: Cursor, username: str, response: str) -> bool:
        """Is this the answer of one of the account's passkeys to what it was asked, just now?"""
        try:
            challenge = self._answered(username, response)
            credential_id = _text(webauthn.base64url_to_bytes(json.loads(response)["rawId"]))
        except (InputError, *_NO_ANSWER):
            return False
        row = tx.one(
            "SELECT * FROM passkeys WHERE credential_id = $1 AND username = $2",
            credential_id,
            username,
        )
        if row is None:
            return False
        kept = self._kept(row)
        try:
            proven = webauthn.verify_authentication_response(
                credential=response,
                expected_challenge=challenge,
                expected_rp_id=self._domain,
                expected_origin=self._origin,
                credential_public_key=base64.b64decode(kept["public_key"]),
                # A counter that does not grow is that of a copy of the key.
                credential_current_sign_count=kept["sign_count"],
            )
        except _NO_ANSWER:
            return False
        tx.run(
            "UPDATE passkeys SET sealed = $2, used_at = $3 WHERE credential_id = $1",
            credential_id,
            self._sealed(username, credential_id, kept | {"sign_count": proven.new_sign_count}),
            self._host.now(),
        )
        return True

    def remove(self, tx: Cursor, username: str, credential_id: str) -> None:
        """Forget one passkey.

        Raises:
            NotFound: The account has no such one.
        """
        if credential_id not in {passkey.credential_id for passkey in self.of(username)}:
            raise NotFound("There is no such passkey.")
        tx.run("DELETE FROM passkeys WHERE credential_id = $1", credential_id)

    def remove_all(self, tx: Cursor, username: str) -> None:
        """Forget all passkeys of an account."""
        tx.run("DELETE FROM passkeys WHERE username = $1", username)

    def _ask(self, username: str) -> bytes:
        """A challenge that this account may answer once, within minutes."""
        challenge = self._host.random(CHALLENGE_BYTES)
        asked = self._asked(username) | {_text(challenge): self._host.now() + PATIENCE}
        self._keep(username, dict(list(asked.items())[-MOST_ASKED:]))
        return challenge

    def _asked(self, username: str) -> dict[str, datetime]:
        """Taken away, so that no two answers find the same; who asks meanwhile asks again."""
        kept: dict[str, str] = json.loads(self._shared.take(_KIND, username) or "{}")
        asked = {c: datetime.fromisoformat(until) for c, until in kept.items()}
        return {c: until for c, until in asked.items() if until > self._host.now()}

    def _keep(self, username: str, asked: dict[str, datetime]) -> None:
        value = json.dumps({c: until.isoformat() for c, until in asked.items()})
        self._shared.hold(Hold(_KIND, username, username, value), PATIENCE)

    def _answered(self, username: str, response: str) -> bytes:
        """The challenge that a response answers; it is used up. Raises InputError."""
        try:
            said: Any = json.loads(response[:_MOST_CHARACTERS])
            client = json.loads(webauthn.base64url_to_bytes(said["response"]["clientDataJSON"]))
            challenge = webauthn.base64url_to_bytes(client["challenge"])
        except _NO_ANSWER as err:
            raise InputError("This is no answer of a passkey. Try again.") from err
        asked = self._asked(username)
        known = asked.pop(_text(challenge), None)
        self._keep(username, asked)
        if known is None:
            raise InputError("This took too long. Try again.")
        return challenge

    def _kept(self, row: Row) -> dict[str, Any]:
        place = _place(row["username"], row["credential_id"])
        kept: dict[str, Any] = json.loads(open_field(self._key, place, row["sealed"]))
        return kept

    def _sealed(self, username: str, credential_id: str, kept: dict[str, Any]) -> bytes:
        place = _place(username, credential_id)
        return seal_field(self._key, place, json.dumps(kept).encode(), self._host.random)


def _described(known: tuple[Passkey, ...]) -> list[structs.PublicKeyCredentialDescriptor]:
    return [
        structs.PublicKeyCredentialDescriptor(id=webauthn.base64url_to_bytes(p.credential_id))
        for p in known
    ]


def _place(username: str, credential_id: str) -> str:
    return f"passkey/{username}/{credential_id}"


def _text(credential_id: bytes) -> str:
    return base64.urlsafe_b64encode(credential_id).decode().rstrip("=")
