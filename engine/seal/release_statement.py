"""What a cohort that leaves the hospital carries: a list of its files and a signed statement.

The receiver checks it with ``sha256sum`` and ``openssl`` alone: ``SHA256SUMS`` has the digest of
every file, ``statement.json`` has the digest of that list and says how the files were made, and
``statement.sig`` is its Ed25519 signature (RFC 8032). Whose key that is, the receiver must know
from elsewhere: a key that came along proves only that nothing changed on the way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import ReleaseBroken, SealBroken
from engine.vault import Signer, public_key_pem, raw_public_key

VERSION = "medsec-release-1"
SUMS, STATEMENT, SIGNATURE, KEY = "SHA256SUMS", "statement.json", "statement.sig", "public-key.pem"
HOW = "VERIFY.txt"
#: Files that are no part of the list: they speak about it.
ABOUT = (SUMS, STATEMENT, SIGNATURE, KEY, HOW)

_HOW = """\
How to check what you received. You need sha256sum and OpenSSL 3; MedSec is not needed.

1. Who signed it? Compare this fingerprint with the one that the hospital gave you by another way
   (telephone, contract). The key in this folder proves nothing by itself.

     openssl pkey -pubin -in public-key.pem -outform DER | openssl dgst -sha256

   {fingerprint}

2. Is the statement the signed one? OpenSSL must answer "Signature Verified Successfully".

     openssl pkeyutl -verify -pubin -inkey public-key.pem -rawin -in statement.json \\
       -sigfile statement.sig

3. Does the list belong to the statement? This digest must be "sha256sums" in statement.json.

     sha256sum SHA256SUMS

4. Is every file there, and as it was? Each line must end with OK.

     sha256sum --check SHA256SUMS

5. Is nothing else there? Besides the files of the list there are only
   {about}.
"""


@dataclass(frozen=True)
class Checked:
    """What a verified cohort says of itself.

    Args:
        statement: Its content.
        fingerprint: SHA-256 of the signing key (DER, SubjectPublicKeyInfo), 64 hex digits.
        files: How many files were compared.
    """

    statement: Mapping[str, Any]
    fingerprint: str
    files: int


def fingerprint(pem: bytes) -> str:
    """SHA-256 of a public key's SubjectPublicKeyInfo, as ``openssl dgst`` shows it.

    Raises:
        ReleaseBroken: Not an Ed25519 public key in PEM.
    """
    try:
        return hashlib.sha256(raw_public_key(pem)[1]).hexdigest()
    except SealBroken as err:
        raise ReleaseBroken(f"{KEY} is not an Ed25519 public key.") from err


def closing_files(
    digests: Mapping[str, str], facts: Mapping[str, Any], signer: Signer
) -> dict[str, bytes]:
    """The files that speak about the others.

    Args:
        digests: SHA-256 as hex by path, of every file of the cohort.
        facts: What the statement says besides.
        signer: The installation's.
    """
    sums = "".join(f"{digest}  {path}\n" for path, digest in sorted(digests.items())).encode()
    pem = public_key_pem(signer.public_bytes)
    statement = {
        "format": VERSION,
        **facts,
        "files": len(digests),
        "sha256sums": hashlib.sha256(sums).hexdigest(),
        "signed_by": fingerprint(pem),
    }
    text = json.dumps(statement, indent=2, ensure_ascii=False).encode() + b"\n"
    how = _HOW.format(fingerprint=fingerprint(pem), about=", ".join(ABOUT))
    return {
        SUMS: sums,
        STATEMENT: text,
        SIGNATURE: signer.sign(text),
        KEY: pem,
        HOW: how.encode(),
    }


def check(
    paths: Iterable[str], read: Callable[[str], bytes], trusted: str | None = None
) -> Checked:
    """Check a cohort as it was received.

    Args:
        paths: Of all files that are there, relative, their parts joined by ``/``.
        read: The content of one.
        trusted: The fingerprint that the signing key must have; None takes the key that came along.

    Raises:
        ReleaseBroken: Something is missing, was added or changed, or another key signed.
    """
    every = list(paths)
    there = set(every)
    if len(there) < len(every):
        raise ReleaseBroken("Two files have one name: another program may show you the other one.")
    missing = sorted({*ABOUT} - {HOW} - there)
    if missing:
        raise ReleaseBroken(f"This is not a whole cohort: {', '.join(missing)} is missing.")
    pem, text, sums = read(KEY), read(STATEMENT), read(SUMS)
    signed_by = fingerprint(pem)
    if trusted is not None and trusted.lower().replace(":", "") != signed_by:
        raise ReleaseBroken(
            "Another key signed this cohort. Ask the hospital for its fingerprint, and do not use"
            " the files until it matches."
        )
    try:
        Signer.verify(raw_public_key(pem)[0], text, read(SIGNATURE))
        statement = json.loads(text)
        listed = _listed(sums)
    except (SealBroken, ValueError) as err:
        raise ReleaseBroken(
            "The statement was changed after it was signed. Ask the hospital to send it again."
        ) from err
    if statement.get("sha256sums") != hashlib.sha256(sums).hexdigest():
        raise ReleaseBroken(f"{SUMS} is not the list that was signed.")
    added = sorted(there - set(listed) - {*ABOUT})
    gone = sorted(set(listed) - there)
    if added or gone:
        what = f"{added[0]} was added" if added else f"{gone[0]} is missing"
        raise ReleaseBroken(f"The files are not those that were signed: {what}.")
    for path, digest in listed.items():
        if hashlib.sha256(read(path)).hexdigest() != digest:
            raise ReleaseBroken(f"{path} was changed after it was signed.")
    return Checked(statement, signed_by, len(listed))


def _listed(sums: bytes) -> dict[str, str]:
    """Digests by path. Raises ValueError."""
    found = {}
    for line in sums.decode().splitlines():
        digest, _, path = line.partition("  ")
        if len(digest) != 64 or not path:
            raise ValueError("not a line of sha256sum")
        found[path] = digest
    return found
