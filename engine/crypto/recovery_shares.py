"""Recovery shares: a root key on n sheets of paper, any k of which give it back.

Promise: fewer than k shares say nothing about the key (Shamir 1979). A share is printable,
bears the id of its key, and tells which of its lines was mistyped.

Refuses: shares of different splits together, mistyped ones, and a result that is not the key
whose id is on the sheet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from Crypto.Protocol.SecretSharing import Shamir

from engine.crypto.vault import KEY_BYTES, Randomness
from engine.errors import InputError, SealBroken

_VERSION = 1
_HALF = KEY_BYTES // 2  # what pycryptodome's Shamir takes: an element of GF(2^128)
_MOST = 16
_CHECKSUM = 6
_LINES, _LINE_CHARACTERS, _GROUP = 4, 20, 5
#: Crockford's base 32: no I, L, O or U, so that nothing on paper reads two ways.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_MISREAD = str.maketrans("IiLlOo", "111100")


@dataclass(frozen=True)
class _Share:
    """50 bytes on paper: version, k, n, number, split (4), key (4), halves (32), checksum (6)."""

    needed: int
    total: int
    number: int
    split: bytes
    key_check: bytes
    value: bytes

    @property
    def key_id(self) -> str:
        return f"r1-{self.key_check.hex()}"

    def encode(self) -> bytes:
        head = bytes((_VERSION, self.needed, self.total, self.number))
        body = head + self.split + self.key_check + self.value
        return body + hashlib.sha256(b"medsec share" + body).digest()[:_CHECKSUM]

    @classmethod
    def decode(cls, raw: bytes) -> _Share:
        share = cls(raw[1], raw[2], raw[3], raw[4:8], raw[8:12], raw[12:-_CHECKSUM])
        if raw != share.encode():
            raise InputError(
                "The checksum of a recovery share does not match. Type the share again."
            )
        return share


def split(
    key_id: str, key: bytes, randomness: Randomness, needed: int = 2, total: int = 3
) -> tuple[str, ...]:
    """Cut a root key into printable shares; show each one once, to a different holder.

    Args:
        key_id: As in ``r1-1f0c93ab``.
        key: 32 bytes; its halves are shared by independent polynomials, whose coefficients
            pycryptodome draws from the operating system.
        randomness: For the number by which shares of one split know each other.
        needed: How many restore the key, 2 or more.
        total: How many there are, at most 16.

    Raises:
        ValueError: Numbers outside these ranges.
    """
    if not 2 <= needed <= total <= _MOST:
        raise ValueError(f"{needed} of {total} shares: expected 2 <= k <= n <= {_MOST}")
    mark, check = randomness(4), bytes.fromhex(key_id.removeprefix("r1-"))
    halves = (Shamir.split(needed, total, half) for half in (key[:_HALF], key[_HALF:]))
    return tuple(
        _print(_Share(needed, total, number, mark, check, first + second))
        for (number, first), (_, second) in zip(*halves, strict=True)
    )


def combine(texts: Sequence[str]) -> tuple[str, bytes]:
    """The root key and its id from k shares or more; every share given is put to use.

    The caller compares the key with its id: :class:`engine.crypto.keyring.Keyring` does.

    Raises:
        InputError: Mistyped, too few, the same one twice, or of different splits.
        SealBroken: More than k were given and they do not agree.
    """
    shares = [_Share.decode(_scan(text)) for text in texts]
    if not shares:
        raise InputError("No recovery share was given.")
    first = shares[0]
    if any((s.split, s.key_check, s.needed) != (first.split, first.key_check, first.needed)
           for s in shares):  # fmt: skip
        raise InputError("These recovery shares belong to different keys or different splits.")
    if len({s.number for s in shares}) != len(shares):
        raise InputError("The same recovery share was given twice.")
    if len(shares) < first.needed:
        raise InputError(
            f"{first.needed} recovery shares are needed, {len(shares)} given.",
            expected=first.needed,
            found=len(shares),
        )
    common, rest = shares[: first.needed - 1], shares[first.needed - 1 :]
    keys = {_interpolate([*common, last]) for last in rest}
    if len(keys) != 1:
        raise SealBroken("These recovery shares do not match. One of them was altered.")
    return first.key_id, keys.pop()


def _interpolate(shares: Sequence[_Share]) -> bytes:
    return b"".join(
        Shamir.combine([(s.number, s.value[at : at + _HALF]) for s in shares]) for at in (0, _HALF)
    )


def _print(share: _Share) -> str:
    number = int.from_bytes(share.encode())
    letters = "".join(
        _ALPHABET[number >> 5 * place & 31] for place in reversed(range(_LINES * _LINE_CHARACTERS))
    )
    lines = [
        f"MEDSEC RECOVERY SHARE {share.number} OF {share.total} FOR ROOT KEY {share.key_id}",
        f"ANY {share.needed} OF {share.total} RESTORE THE KEY: KEEP THIS ONE APART FROM THE OTHERS",
    ]
    for at in range(_LINES):
        line = letters[at * _LINE_CHARACTERS : (at + 1) * _LINE_CHARACTERS]
        groups = [line[i : i + _GROUP] for i in range(0, _LINE_CHARACTERS, _GROUP)]
        lines.append("-".join([*groups, _line_check(at, line)]))
    return "\n".join(lines) + "\n"


def _scan(text: str) -> bytes:
    """The bytes of a typed share, with or without its two header lines."""
    lines = [
        line.translate(_MISREAD).upper().replace("-", "").replace(" ", "")
        for line in text.splitlines()
        if line.strip() and not line.lstrip().upper().startswith(("MEDSEC ", "ANY "))
    ]
    if len(lines) != _LINES:
        raise InputError(
            f"A recovery share has {_LINES} lines of letters and digits, not {len(lines)}."
        )
    number = 0
    for at, line in enumerate(lines):
        letters, check = line[:_LINE_CHARACTERS], line[_LINE_CHARACTERS:]
        if check != _line_check(at, letters) or not set(letters) <= set(_ALPHABET):
            raise InputError(
                f"Line {at + 1} of a recovery share has a typing error. Type it again.", line=at + 1
            )
        for letter in letters:
            number = number << 5 | _ALPHABET.index(letter)
    return number.to_bytes(_LINES * _LINE_CHARACTERS * 5 // 8)


def _line_check(at: int, letters: str) -> str:
    """Two letters (10 bits) that find most mistakes where they were made."""
    value = int.from_bytes(hashlib.sha256(f"{at}{letters}".encode()).digest()[:2])
    return _ALPHABET[value & 31] + _ALPHABET[value >> 5 & 31]
