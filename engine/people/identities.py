"""Single sign-on: the accounts of e-mail addresses at the identity provider.

An administrator links an address. The first sign-in binds the provider's identifier of the person
(issuer and subject) to it, because an address can be reassigned later. An ID token is accepted once
and only while it is fresh, so that a copy of it is useless.

Source: OpenID Connect Core 1.0, sections 2 and 5.7; RFC 9700.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, timedelta
from typing import Any

from engine.errors import InputError, NotSignedIn
from engine.host import Host
from engine.store.database import Cursor

FRESH = timedelta(minutes=2)
CLOCK_SLACK = timedelta(minutes=1)

_ADDRESS = re.compile(r"[^@\s]{1,64}@[^@\s]{1,189}")
_REFUSAL = (
    "This sign-in does not open an account here: begin again, or ask an administrator whether your"
    " address is linked."
)


class Identities:
    """Links in one catalog."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def link(self, tx: Cursor, username: str, email: str) -> None:
        """Link an address to an account, replacing an earlier one; an empty address removes it.

        Raises:
            InputError: Not an address, or another account's.
        """
        tx.run("DELETE FROM identities WHERE username = $1", username)
        if not email:
            return
        folded = email.strip().casefold()
        if not _ADDRESS.fullmatch(folded) or not folded.isprintable():
            raise InputError("This is not a valid e-mail address.")
        if tx.one("SELECT 1 AS x FROM identities WHERE email = $1", folded):
            raise InputError("This address is already linked to another account.")
        tx.run(
            "INSERT INTO identities VALUES ($1, $2, NULL, NULL, $3)",
            username,
            folded,
            self._host.now(),
        )

    def redeem(self, tx: Cursor, claims: Mapping[str, Any], issuer: str) -> tuple[str, bool]:
        """The account of these claims, accepted once; and whether this is the first sign-in.

        Args:
            claims: Of an ID token whose signature and audience were checked.
            issuer: The one that the settings name.

        Raises:
            NotSignedIn: Another issuer, an address that is not verified or not linked, another
                person than before, stale, or used already.
        """
        said = {name: claims.get(name) for name in ("iss", "sub", "email", "nonce")}
        iat = claims.get("iat")
        if (
            not all(isinstance(v, str) and v and v.isprintable() for v in said.values())
            or said["iss"] != issuer
            or claims.get("email_verified") is not True
            or not isinstance(iat, int | float)
            or not self._fresh(iat)
        ):
            raise NotSignedIn(_REFUSAL)
        self._spend(tx, json.dumps([*said.values(), iat]))
        row = tx.one(
            "SELECT * FROM identities WHERE email = $1", str(said["email"]).strip().casefold()
        )
        if row is None or (
            row["subject"] is not None
            and (row["issuer"], row["subject"]) != (said["iss"], said["sub"])
        ):
            raise NotSignedIn(_REFUSAL)
        first = row["subject"] is None
        if first:
            tx.run(
                "UPDATE identities SET issuer = $2, subject = $3 WHERE username = $1",
                row["username"],
                said["iss"],
                said["sub"],
            )
        return str(row["username"]), first

    def _fresh(self, issued_at: float) -> bool:
        age = self._host.now().replace(tzinfo=UTC).timestamp() - issued_at
        return -CLOCK_SLACK.total_seconds() <= age <= FRESH.total_seconds()

    def _spend(self, tx: Cursor, assertion: str) -> None:
        now = self._host.now()
        tx.run("DELETE FROM spent_assertions WHERE spent_at < $1", now - 2 * (FRESH + CLOCK_SLACK))
        digest = hashlib.sha256(assertion.encode(errors="surrogatepass")).hexdigest()
        if tx.one("SELECT 1 AS x FROM spent_assertions WHERE digest = $1", digest):
            raise NotSignedIn(_REFUSAL)
        tx.run("INSERT INTO spent_assertions VALUES ($1, $2)", digest, now)
