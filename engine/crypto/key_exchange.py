"""Diffie-Hellman key exchange, signed by the server, and the resulting secure channel.

Promise: both sides share an AES-256 key that nobody in between has, and each message encrypted
with it can be decrypted once, by the session that requested it. The server offers, the client
answers, and the server confirms the whole transcript. An offer is valid for one answer and one
minute. ``FORMAT.md`` lists every signed and hashed byte.

Refuses: parameters chosen by the other side, public values outside the group's prime
subgroup, an offer or a confirmation that the pinned key did not sign, and anything late,
repeated or from another session.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.utils import CryptographyDeprecationWarning

from engine.crypto.vault import (
    Buffer,
    Randomness,
    Signer,
    hkdf,
    hmac_sha256,
    open_field,
    pack,
    seal_field,
)
from engine.errors import ExchangeError, SealBroken
from engine.host import Host

with warnings.catch_warnings():
    # Finite-field Diffie-Hellman is asked for and works in the version that is locked; the
    # day it goes, this import fails loudly and X25519 is what remains to be offered.
    warnings.simplefilter("ignore", CryptographyDeprecationWarning)
    from cryptography.hazmat.primitives.asymmetric.dh import (
        DHParameterNumbers,
        DHPublicNumbers,
    )

OFFER_SECONDS = 60
CHANNEL_SECONDS = 900
CHANNELS_PER_SESSION = 4
MESSAGES_PER_CHANNEL = 1 << 16

_LABEL = b"medsec exchange v1"
_COUNTER_BYTES = 8
_BAD_PUBLIC = (
    "The other side's public value is none that this group allows. Start a new key exchange."
)
_NOT_OPEN = (
    "This key exchange is not open: it was used, has expired, or belongs to another session."
    " Start a new one."
)


class Group(StrEnum):
    """Where the exchange is computed; all of 128 bits of strength or more."""

    FFDHE3072 = "ffdhe3072"
    FFDHE4096 = "ffdhe4096"
    X25519 = "x25519"


class _Agreement(Protocol):
    """One ephemeral key pair, drawn by OpenSSL's own generator and never written down."""

    public: bytes

    def shared(self, peer: bytes) -> bytes:
        """The shared secret, as long as the group's public values; ExchangeError if ``peer``
        is not allowed."""


class FiniteField:
    """Diffie-Hellman in the subgroup of prime order q = (p-1)/2 of a safe prime, g = 2.

    Source: RFC 7919; checks: NIST SP 800-56A rev. 3, section 5.6.2.3.1.
    """

    def __init__(self, group: Group) -> None:
        self._prime = ffdhe_prime(group)
        self._order = (self._prime - 1) // 2
        self._length = self._prime.bit_length() // 8
        self._numbers = DHParameterNumbers(self._prime, 2, self._order)
        self._private = self._numbers.parameters().generate_private_key()
        self.public = self._private.public_key().public_numbers().y.to_bytes(self._length)

    def shared(self, peer: bytes) -> bytes:
        """Raises:
        ExchangeError: Not of the group's length, or outside its prime-order subgroup. The
            library accepts values outside the subgroup, which would leak a bit of the key.
        """
        value = int.from_bytes(peer)
        if (
            len(peer) != self._length
            or not 1 < value < self._prime - 1
            or pow(value, self._order, self._prime) != 1
        ):
            raise ExchangeError(_BAD_PUBLIC)
        public = DHPublicNumbers(value, self._numbers).public_key()
        return self._private.exchange(public).rjust(self._length, b"\0")


class Curve25519:
    """Diffie-Hellman on Curve25519. Source: RFC 7748."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()

    def shared(self, peer: bytes) -> bytes:
        """Raises:
        ExchangeError: Not 32 bytes, or a point of small order (the result would be zero).
        """
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError:
            raise ExchangeError(_BAD_PUBLIC) from None


def agreement(group: Group) -> _Agreement:
    """A fresh ephemeral key pair in a group."""
    return Curve25519() if group is Group.X25519 else FiniteField(group)


@functools.cache
def ffdhe_prime(group: Group) -> int:
    """p = 2^b - 2^(b-64) + (floor(2^(b-130) e) + X) 2^64 - 1. Source: RFC 7919, appendix A."""
    bits, extra = {Group.FFDHE3072: (3072, 2_625_351), Group.FFDHE4096: (4096, 5_736_041)}[group]
    scale = term = total = 1 << bits  # e = sum 1/n!, with 130 bits to spare
    for n in range(1, scale.bit_length()):
        term //= n
        total += term
    return (1 << bits) - (1 << bits - 64) + ((total >> 130) + extra << 64) - 1


class Channel:
    """One side of what an exchange opened: seals what it sends, opens what it gets.

    Every message is bound to the exchange, its sender, its number and a context that both
    sides name, such as the address that was asked for; the same message opens once.

    Args:
        exchange_id: Public name of the exchange.
        key: The shared AES-256 key.
        side: ``server`` or ``client``.
        randomness: Source of IVs.
    """

    def __init__(self, exchange_id: str, key: bytes, side: str, randomness: Randomness) -> None:
        self.exchange_id = exchange_id
        self._key = key
        self._side = side
        self._peer = {"server": "client", "client": "server"}[side]
        self._randomness = randomness
        self._lock = threading.Lock()
        self._sent = 0
        self._received: set[int] = set()

    def __repr__(self) -> str:
        return f"Channel({self.exchange_id}, {self._side})"

    def encrypt(self, payload: Buffer, context: str) -> bytes:
        """Number and sealed payload, for the other side only.

        Raises:
            ExchangeError: The channel has carried as much as it may.
        """
        with self._lock:
            self._sent += 1
            number = self._sent
        if number > MESSAGES_PER_CHANNEL:
            raise ExchangeError("This key exchange has reached its message limit. Start a new one.")
        sealed = seal_field(
            self._key, self._context(self._side, number, context), payload, self._randomness
        )
        return number.to_bytes(_COUNTER_BYTES) + sealed

    def decrypt(self, message: Buffer, context: str) -> bytes:
        """The other side's payload.

        Raises:
            SealBroken: Changed, for another context or session, or seen before.
        """
        view = memoryview(message).cast("B")
        number = int.from_bytes(view[:_COUNTER_BYTES])
        bound = self._context(self._peer, number, context)
        payload = open_field(self._key, bound, view[_COUNTER_BYTES:])
        with self._lock:  # only after the tag has matched: a forgery must not block the real one
            if number in self._received:
                raise SealBroken(
                    "A message of a key exchange was replayed. Start a new key exchange."
                )
            self._received.add(number)
        return payload

    def _context(self, sender: str, number: int, context: str) -> str:
        return f"exchange/{self.exchange_id}/{sender}/{number}/{context}"


@dataclass(frozen=True)
class _Pending:
    exchange_id: str
    agreement: _Agreement
    offered: bytes
    until: datetime


@dataclass(frozen=True)
class _Open:
    channel: Channel
    session_id: str
    until: datetime


class Exchanges:
    """The server's side of all exchanges of one process.

    Args:
        signer: Key that clients have pinned.
        host: Clock, and randomness for identifiers and IVs.
        offer_seconds: How long an offer waits for its answer.
        channel_seconds: How long what it opened may be used.
    """

    def __init__(
        self,
        signer: Signer,
        host: Host,
        offer_seconds: int = OFFER_SECONDS,
        channel_seconds: int = CHANNEL_SECONDS,
    ) -> None:
        self._signer = signer
        self._host = host
        self._offer_seconds = offer_seconds
        self._channel_seconds = channel_seconds
        self._lock = threading.Lock()
        self._pending: dict[str, _Pending] = {}  # by session: a new offer replaces the last
        self._open: dict[str, _Open] = {}

    def offer(self, session_id: str, group: Group = Group.FFDHE3072) -> dict[str, Any]:
        """Parameters and public key for one answer by this session.

        Returns:
            Ready for JSON: exchange_id, group, p and g (hex; finite field only), public
            (base64), expires_in_s, signature (base64).
        """
        pair = agreement(group)
        exchange_id = self._host.token("ex")
        offered = _offered(exchange_id, session_id, group, pair.public, self._offer_seconds)
        until = self._host.now() + timedelta(seconds=self._offer_seconds)
        with self._lock:
            self._sweep()
            self._pending[session_id] = _Pending(exchange_id, pair, offered, until)
        return {
            "exchange_id": exchange_id,
            "group": group.value,
            **({} if group is Group.X25519 else {"p": f"{ffdhe_prime(group):x}", "g": "2"}),
            "public": _text(pair.public),
            "expires_in_s": self._offer_seconds,
            "signature": _text(self._signer.sign(offered)),
        }

    def accept(self, session_id: str, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Take a client's public value and open the channel. One try per offer.

        Args:
            answer: exchange_id and public (base64).

        Returns:
            Ready for JSON: exchange_id, confirmation, expires_in_s, signature.

        Raises:
            ExchangeError: Not open for this session, or a public value that is not allowed.
        """
        exchange_id = _string(answer, "exchange_id")
        public = _bytes(answer, "public")
        with self._lock:
            self._sweep()
            pending = self._pending.get(session_id)
            if pending is None or pending.exchange_id != exchange_id:
                raise ExchangeError(_NOT_OPEN)
            del self._pending[session_id]
        transcript = pack(_LABEL + b" transcript", pending.offered, public)
        key, confirmation = _agree(pending.agreement.shared(public), transcript)
        confirmed = _confirmed(transcript, confirmation, self._channel_seconds)
        until = self._host.now() + timedelta(seconds=self._channel_seconds)
        channel = Channel(exchange_id, key, "server", self._host.random)
        with self._lock:
            mine = [i for i, held in self._open.items() if held.session_id == session_id]
            for oldest in mine[: max(0, len(mine) + 1 - CHANNELS_PER_SESSION)]:
                del self._open[oldest]
            self._open[exchange_id] = _Open(channel, session_id, until)
        return {
            "exchange_id": exchange_id,
            "confirmation": _text(confirmation),
            "expires_in_s": self._channel_seconds,
            "signature": _text(self._signer.sign(confirmed)),
        }

    def channel(self, session_id: str, exchange_id: str) -> Channel:
        """What an exchange of this session opened.

        Raises:
            ExchangeError: There is none, it has expired, or it is another session's.
        """
        with self._lock:
            self._sweep()
            held = self._open.get(exchange_id)
        if held is None or held.session_id != session_id:
            raise ExchangeError(_NOT_OPEN)
        return held.channel

    def close(self, session_id: str) -> None:
        """Forget everything of a session, when it signs out or ends."""
        with self._lock:
            self._pending.pop(session_id, None)
            for i in [i for i, held in self._open.items() if held.session_id == session_id]:
                del self._open[i]

    def _sweep(self) -> None:
        now = self._host.now()
        self._pending = {s: p for s, p in self._pending.items() if now < p.until}
        self._open = {i: o for i, o in self._open.items() if now < o.until}


class Client:
    """The client's side: pins the server's key, answers one offer, checks the confirmation.

    Args:
        server_public: The server's Ed25519 public key (32 bytes), from a trusted source.
        session_id: The session that the client signed in to, as sign-in told it.
        randomness: Source of IVs.
    """

    def __init__(self, server_public: bytes, session_id: str, randomness: Randomness) -> None:
        self._server_public = server_public
        self._session_id = session_id
        self._randomness = randomness

    def handshake(
        self,
        get: Callable[[], Mapping[str, Any]],
        post: Callable[[dict[str, Any]], Mapping[str, Any]],
    ) -> Channel:
        """The whole exchange.

        Args:
            get: Asks the server for an offer.
            post: Sends the answer, returns the confirmation.

        Raises:
            ExchangeError: A public value or a parameter is not allowed, or keys differ.
            SealBroken: Not signed by the pinned key.
        """
        offer = get()
        try:
            group = Group(_string(offer, "group"))
        except ValueError:
            raise ExchangeError("The server offers a group that is not allowed.") from None
        exchange_id, theirs = _string(offer, "exchange_id"), _bytes(offer, "public")
        seconds = _seconds(offer)
        offered = _offered(exchange_id, self._session_id, group, theirs, seconds)
        Signer.verify(self._server_public, offered, _bytes(offer, "signature"))
        pair = agreement(group)
        shared = pair.shared(theirs)

        reply = post({"exchange_id": exchange_id, "public": _text(pair.public)})
        transcript = pack(_LABEL + b" transcript", offered, pair.public)
        key, expected = _agree(shared, transcript)
        confirmation = _bytes(reply, "confirmation")
        confirmed = _confirmed(transcript, confirmation, _seconds(reply))
        Signer.verify(self._server_public, confirmed, _bytes(reply, "signature"))
        if not hmac.compare_digest(confirmation, expected):
            raise ExchangeError("The two sides have different keys. Start a new key exchange.")
        return Channel(exchange_id, key, "client", self._randomness)


def _offered(exchange_id: str, session_id: str, group: Group, public: bytes, seconds: int) -> bytes:
    """What the server signs before it knows the client's value."""
    names = (exchange_id, session_id, group.value, str(seconds))
    return pack(_LABEL + b" offer", *(n.encode() for n in names), public)


def _confirmed(transcript: bytes, confirmation: bytes, seconds: int) -> bytes:
    """What the server signs when it holds the key."""
    return pack(_LABEL + b" confirmation", transcript, confirmation, str(seconds).encode())


def _agree(shared: bytes, transcript: bytes) -> tuple[bytes, bytes]:
    """AES-256 key and the proof of holding it; both depend on everything that was said."""
    salt = hashlib.sha256(transcript).digest()
    keys = hkdf(shared, _LABEL + b" keys", 64, salt)
    return keys[:32], hmac_sha256(keys[32:], transcript)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _string(message: Mapping[str, Any], name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str):
        raise ExchangeError(f"A message of the key exchange lacks its field {name!r}.")
    return value


def _bytes(message: Mapping[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(_string(message, name), validate=True)
    except ValueError:
        raise ExchangeError(f"The field {name!r} of the key exchange is not base64.") from None


def _seconds(message: Mapping[str, Any]) -> int:
    value = message.get("expires_in_s")
    if not isinstance(value, int):
        raise ExchangeError("A message of the key exchange lacks its field 'expires_in_s'.")
    return value
