"""An authenticator in software: makes passkeys and answers with them, as WebAuthn says."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

_PRESENT, _VERIFIED, _ATTESTED = 0x01, 0x04, 0x40


def text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Authenticator:
    """A device with one key.

    Args:
        origin: That its browser shows.
        domain: Relying party that it is asked for; what the origin says by default.
    """

    def __init__(self, origin: str, name: bytes = b"one key of sixteen") -> None:
        self.origin = origin
        self.credential_id = name
        self.count = 0
        self._key = ec.generate_private_key(ec.SECP256R1())

    def create(self, options: str) -> str:
        """What the browser answers to ``navigator.credentials.create``."""
        asked = json.loads(options)
        numbers = self._key.public_key().public_numbers()
        public = cbor2.dumps(
            {
                1: 2,
                3: -7,
                -1: 1,
                -2: numbers.x.to_bytes(32, "big"),
                -3: numbers.y.to_bytes(32, "big"),
            }
        )
        attested = b"\0" * 16 + struct.pack(">H", len(self.credential_id)) + self.credential_id
        data = self._data(asked["rp"]["id"], _PRESENT | _VERIFIED | _ATTESTED) + attested + public
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        client = self._client("webauthn.create", asked["challenge"])
        return self._answer(
            {"clientDataJSON": text(client), "attestationObject": text(attestation)}
        )

    def get(self, options: str) -> str:
        """What it answers to ``navigator.credentials.get``."""
        asked = json.loads(options)
        self.count += 1
        data = self._data(asked["rpId"], _PRESENT | _VERIFIED)
        client = self._client("webauthn.get", asked["challenge"])
        signature = self._key.sign(
            data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256())
        )
        return self._answer(
            {
                "clientDataJSON": text(client),
                "authenticatorData": text(data),
                "signature": text(signature),
                "userHandle": None,
            }
        )

    def _data(self, domain: str, flags: int) -> bytes:
        return hashlib.sha256(domain.encode()).digest() + struct.pack(">BI", flags, self.count)

    def _client(self, kind: str, challenge: str) -> bytes:
        said = {"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": False}
        return json.dumps(said).encode()

    def _answer(self, response: dict[str, Any]) -> str:
        name = text(self.credential_id)
        return json.dumps(
            {"id": name, "rawId": name, "type": "public-key", "response": response,
             "clientExtensionResults": {}}
        )  # fmt: skip
