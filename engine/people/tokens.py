"""Tokens for API clients: short-lived JWTs and rotating refresh tokens.

An access token (RFC 7519, HS256 only) names a session and is valid only while that session is
open. A refresh token is random, valid once, and stored as a digest. If it is used twice, it was
probably stolen, and its session ends (RFC 9700, section 4.14). It contains a keyed tag over its
session, so that a row that an attacker wrote into the catalog's file is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, timedelta

import jwt

from engine.errors import NotSignedIn
from engine.host import Host
from engine.store.database import Cursor, Row
from engine.vault import TaggedTokens, derive, token_digest

ISSUER = "medsec"
AUDIENCE = "medsec-api"
ACCESS = timedelta(minutes=15)
REFRESH = timedelta(hours=8)
_ALGORITHM = "HS256"
_INVALID = "This refresh token is not valid: sign in again."
_REQUIRED = ["iss", "aud", "sub", "sid", "jti", "iat", "exp"]


@dataclass(frozen=True)
class TokenPair:
    """The tokens that a client gets for a password or a refresh token."""

    access: str = field(repr=False)
    refresh: str = field(repr=False)
    expires_in_s: int


class Tokens:
    """Issues and checks tokens of the sessions in one catalog.

    Args:
        key: 32 bytes that sign access tokens, and the tags of refresh tokens by way of another.
    """

    def __init__(self, host: Host, key: bytes) -> None:
        self._host = host
        self._key = key
        self._refresh = TaggedTokens(host, derive(key, "refresh tokens"), "refresh")

    def issue(self, tx: Cursor, session_id: str, username: str) -> TokenPair:
        """A new pair for a session."""
        now = self._host.now()
        access = jwt.encode(
            {
                "iss": ISSUER,
                "aud": AUDIENCE,
                "sub": username,
                "sid": session_id,
                "jti": self._host.token("jt"),
                "iat": int(now.replace(tzinfo=UTC).timestamp()),
                "exp": int((now + ACCESS).replace(tzinfo=UTC).timestamp()),
            },
            self._key,
            algorithm=_ALGORITHM,
        )
        refresh = self._refresh.new(session_id)
        tx.run("DELETE FROM refresh_tokens WHERE expires_at < $1", now - REFRESH)
        tx.run(
            "INSERT INTO refresh_tokens VALUES ($1, $2, $3, NULL)",
            token_digest(refresh),
            session_id,
            now + REFRESH,
        )
        return TokenPair(access, refresh, int(ACCESS.total_seconds()))

    def session_of(self, access: str) -> tuple[str, str]:
        """Session and account of an access token; whether the session is open is checked elsewhere.

        Raises:
            NotSignedIn: Foreign, altered, expired, or with another algorithm or audience.
        """
        try:
            claims = jwt.decode(
                access,
                self._key,
                algorithms=[_ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                # The host's clock decides below, so that tests can turn it.
                options={"require": _REQUIRED, "verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidTokenError as err:
            raise NotSignedIn("This access token is not valid. Sign in again.") from err
        now = self._host.now().replace(tzinfo=UTC).timestamp()
        if not all(isinstance(claims[name], int) for name in ("iat", "exp")):
            raise NotSignedIn("This access token is not valid. Sign in again.")
        if not claims["iat"] - 300 <= now < claims["exp"]:
            raise NotSignedIn("This access token has expired. Refresh it.")
        return str(claims["sid"]), str(claims["sub"])

    def holder(self, tx: Cursor, refresh: str) -> str:
        """The session of a refresh token, used or not. Raises NotSignedIn."""
        return str(self._row(tx, refresh)["session_id"])

    def redeem(self, tx: Cursor, refresh: str) -> tuple[str, bool]:
        """Use a refresh token, which invalidates it.

        Returns:
            Its session, and whether it had been used before: then the session must end.

        Raises:
            NotSignedIn: Unknown or expired.
        """
        row = self._row(tx, refresh)
        now = self._host.now()
        if now >= row["expires_at"]:
            raise NotSignedIn(_INVALID)
        used = row["used_at"] is not None
        digest = row["token_digest"]
        tx.run("UPDATE refresh_tokens SET used_at = $2 WHERE token_digest = $1", digest, now)
        return row["session_id"], used

    def _row(self, tx: Cursor, refresh: str) -> Row:
        row = tx.one("SELECT * FROM refresh_tokens WHERE token_digest = $1", token_digest(refresh))
        if row is None:
            raise NotSignedIn(_INVALID)
        if not self._refresh.fits(refresh, row["session_id"]):
            raise NotSignedIn(_INVALID)
        return row
