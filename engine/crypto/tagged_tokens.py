"""Bearer tokens (RFC 6750): random text that grants access to its holder.

Each token ends with an HMAC tag over what it grants. A token that an attacker makes up and writes
into the catalog's file, or a row moved to another owner, is therefore refused.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from engine.crypto.vault import blind_index, pack
from engine.host import Host

_RANDOM_LENGTH = 43  # 32 bytes in base64


class TaggedTokens:
    """Tokens of one kind.

    Args:
        key: 32 bytes.
        kind: Part of every tag, so that no token of one kind is one of another.
    """

    def __init__(self, host: Host, key: bytes, kind: str) -> None:
        self._host, self._key, self._kind = host, key, kind

    def new(self, *bound: str) -> str:
        """A token bound to these parts; it is not stored."""
        return self._tagged(random_text(self._host), bound)

    def fits(self, token: str, *bound: str) -> bool:
        """Was this token issued here for these parts?"""
        right = self._tagged(token[:_RANDOM_LENGTH], bound)
        return hmac.compare_digest(right.encode(), token.encode(errors="replace"))

    def _tagged(self, random: str, bound: tuple[str, ...]) -> str:
        parts = pack(*(part.encode() for part in (random, *bound)))
        return random + _text(blind_index(self._key, self._kind, parts))


def random_text(host: Host) -> str:
    """256 random bits in characters that need no escape."""
    return _text(host.random(32))


def token_digest(token: str) -> str:
    """SHA-256 in hex: what is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
