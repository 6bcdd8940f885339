"""CMS envelopes (RFC 5652) for holders of certificates, as PS3.15 annex E wants them.

AES-256 in CBC for the content, and its key by RSA for each recipient. An envelope is encrypted and
not authenticated, which is what the standard has: nothing that MedSec restores depends on one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from engine.errors import InputError

#: RSA below this is not taken (NIST SP 800-57 part 1, table 2: 112 bits until 2030).
LEAST_BITS = 2048
MOST_RECIPIENTS = 20
_BLOCK = re.compile("-----BEGIN ([A-Z0-9 ]+)-----[^-]*-----END \\1-----\\s*")


@dataclass(frozen=True)
class Recipient:
    """Who can open envelopes: a certificate that was checked.

    Args:
        subject: As RFC 4514 writes it.
        fingerprint: SHA-256 of the certificate, in hex with colons.
        bits: Of its RSA key.
        starts_at, ends_at: When it is valid, UTC.
        der: The certificate.
    """

    subject: str
    fingerprint: str
    bits: int
    starts_at: datetime
    ends_at: datetime
    der: bytes = field(repr=False)

    def valid(self, now: datetime) -> bool:
        return self.starts_at <= now <= self.ends_at


def recipients_of(pem: str) -> tuple[Recipient, ...]:
    """The certificates of a text, one behind the other; none in an empty one.

    Raises:
        InputError: Something else than certificates is in it, a private key above all; a key that
            is not RSA or is short; one that must not encrypt keys; the same one twice.
    """
    rest = pem.strip()
    if "PRIVATE KEY" in rest:
        raise InputError(
            "This text holds a private key. Keep it where it belongs, and enter the certificate"
            " only."
        )
    found: list[Recipient] = []
    while rest:
        block = _BLOCK.match(rest)
        if block is None or block[1] != "CERTIFICATE":
            raise InputError("Enter certificates in PEM form, one behind the other, nothing else.")
        found.append(_recipient(block[0]))
        rest = rest[block.end() :]
    if len(found) > MOST_RECIPIENTS:
        raise InputError(f"At most {MOST_RECIPIENTS} certificates can be named.")
    if len({r.fingerprint for r in found}) < len(found):
        raise InputError("A certificate is there twice. Remove one of both.")
    return tuple(found)


def _recipient(pem: str) -> Recipient:
    try:
        found = x509.load_pem_x509_certificate(pem.encode())
        key = found.public_key()
        usage = _usage(found)
    except ValueError as err:
        raise InputError("A certificate cannot be read. Export it again as PEM.") from err
    name = found.subject.rfc4514_string() or "without a name"
    if not isinstance(key, rsa.RSAPublicKey):
        raise InputError(f"The certificate {name} has no RSA key, which the standard asks for.")
    if key.key_size < LEAST_BITS:
        raise InputError(
            f"The certificate {name} has an RSA key of {key.key_size} bits. Use one of at least"
            f" {LEAST_BITS}."
        )
    if usage is not None and not usage.key_encipherment:
        raise InputError(
            f"The certificate {name} must not be used to encrypt keys (key usage). Use one with"
            " keyEncipherment."
        )
    return Recipient(
        name,
        found.fingerprint(hashes.SHA256()).hex(":"),
        key.key_size,
        found.not_valid_before_utc.astimezone(UTC).replace(tzinfo=None),
        found.not_valid_after_utc.astimezone(UTC).replace(tzinfo=None),
        found.public_bytes(Encoding.DER),
    )


def _usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None


def envelope(content: bytes, recipients: Iterable[Recipient]) -> bytes:
    """CMS EnvelopedData in DER, which the holder of any of the certificates' keys opens.

    Raises:
        ValueError: Nobody is to open it.
    """
    builder = pkcs7.PKCS7EnvelopeBuilder().set_data(content)
    builder = builder.set_content_encryption_algorithm(algorithms.AES256)
    for recipient in recipients:
        builder = builder.add_recipient(x509.load_der_x509_certificate(recipient.der))
    return builder.encrypt(Encoding.DER, [pkcs7.PKCS7Options.Binary])
