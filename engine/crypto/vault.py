"""Encrypts bytes so that they open only whole, unchanged and in their own place.

Promise: what :func:`encrypt` and :func:`seal_field` return says nothing of its content, not
even its exact length, and opens only with the same data key *and* the same identity: image,
region, class, box, frames and version. Everything else is one error, :class:`SealBroken`,
raised before a byte is decrypted. ``FORMAT.md`` is the byte-by-byte specification; version 1
is frozen by ``tests/vectors``.

Refuses: keys that are not 32 bytes, an algorithm menu (there are two schemes, both AES-256),
and any notion of "decrypt anyway".
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from engine.errors import SealBroken
from engine.records import Region

Randomness = Callable[[int], bytes]
Buffer = bytes | bytearray | memoryview

KEY_BYTES = 32
MAGIC = b"MSEC"
FORMAT_VERSION = 1

_BLOCK = 16
_LENGTH = struct.Struct(">Q")  # true length, the last eight bytes of the padded plaintext
_CHUNK = 1 << 17  # encrypt and authenticate while the bytes are still in the cache
_REGION_FLOOR_LIMIT = 1 << 20
_FIELD_FLOOR = 256

#: Deliberately silent about which check failed: a wrong key, a moved box and a flipped bit
#: must look alike to whoever probes.
_BROKEN = (
    "Sealed data does not open: it was changed, moved, swapped, cut or replayed,"
    " or belongs to something else. Restore it from a backup."
)


class Scheme(IntEnum):
    """How the payload is protected; the number is the byte in the header."""

    CBC_HMAC = 1  # AES-256-CBC, PKCS#7, then HMAC-SHA256 over everything
    GCM = 2  # AES-256-GCM


class _Kind(IntEnum):
    REGION = 1
    FIELD = 2


_IV_BYTES = {Scheme.CBC_HMAC: 16, Scheme.GCM: 12}
_TAG_BYTES = {Scheme.CBC_HMAC: 32, Scheme.GCM: 16}


@dataclass(frozen=True, slots=True)
class RegionIdentity:
    """What a sealed region is bound to. Change any of it and the region does not open.

    Args:
        image_id, region_id: Identifiers of the catalog.
        label: Class name.
        x1, y1, x2, y2: Half-open box in px.
        frame, frame_end: Half-open range of frames.
        version: Version of the image's sealing, so that an older one cannot be played back.

    Raises:
        ValueError: A number that is negative or over 32 bits.
    """

    image_id: str
    region_id: str
    label: str
    x1: int
    y1: int
    x2: int
    y2: int
    frame: int
    frame_end: int
    version: int

    def __post_init__(self) -> None:
        if not all(0 <= number < 1 << 32 for number in self._numbers()):
            raise ValueError(f"not an identity: {self}")

    @classmethod
    def of(
        cls, image_id: str, region_id: str, label: str, region: Region, version: int
    ) -> RegionIdentity:
        """The identity of a region of an image."""
        return cls(
            image_id, region_id, label, *region.xyxy, region.frame, region.frame_end, version
        )

    @property
    def volume_px(self) -> int:
        """Pixels of the box over all its frames."""
        return (self.x2 - self.x1) * (self.y2 - self.y1) * (self.frame_end - self.frame)

    def encode(self) -> bytes:
        """Unambiguous bytes for the tag and the key derivation."""
        names = (self.image_id, self.region_id, self.label)
        return pack(*(n.encode() for n in names), struct.pack(">7I", *self._numbers()))

    def _numbers(self) -> tuple[int, ...]:
        return (self.x1, self.y1, self.x2, self.y2, self.frame, self.frame_end, self.version)


@dataclass(frozen=True)
class Sealing:
    """How :func:`encrypt` seals.

    Args:
        scheme: AES-256-CBC with HMAC-SHA256, or AES-256-GCM.
        floor_bytes: Contents up to this length are all sealed to one length. By default the
            box's volume in px (its raw size at 8 bits grey), at most 1 MiB: a public number,
            so the length of a sealed name does not depend on the name.
    """

    scheme: Scheme = Scheme.CBC_HMAC
    floor_bytes: int | None = None


def encrypt(
    data_key: bytes,
    identity: RegionIdentity,
    plaintext: Buffer,
    randomness: Randomness,
    key_id: str,
    how: Sealing = Sealing(),
) -> bytes:
    """Seal what was under one box.

    Args:
        data_key: The image's 32-byte key.
        identity: What the result is bound to.
        plaintext: Any bytes; up to memory.
        randomness: Source of the IV, fit for keys.
        key_id: Names the data key in the header (at most 64 ASCII characters). Not a root
            key's id: root keys change by re-wrapping while sealed bytes stay.

    Returns:
        Header, IV, ciphertext, tag.
    """
    floor_bytes = how.floor_bytes
    if floor_bytes is None:
        floor_bytes = min(identity.volume_px, _REGION_FLOOR_LIMIT)
    header = _header(how.scheme, _Kind.REGION, key_id)
    return _seal(data_key, header, identity.encode(), plaintext, randomness, floor_bytes)


def decrypt(data_key: bytes, identity: RegionIdentity, sealed: Buffer) -> bytes:
    """Open what :func:`encrypt` sealed, whichever scheme it used.

    Raises:
        SealBroken: For every reason there is, always with the same message.
    """
    return _open(data_key, _Kind.REGION, identity.encode(), sealed)


def without_header(sealed: bytes) -> bytes:
    """IV, ciphertext and tag: the part that must look random. For measuring, not for opening."""
    return sealed[sealed[7] :]


def seal_field(
    data_key: bytes,
    context: str,
    plaintext: Buffer,
    randomness: Randomness,
    scheme: Scheme = Scheme.CBC_HMAC,
    floor_bytes: int = _FIELD_FLOOR,
) -> bytes:
    """Seal a field of the catalog or a whole file; same format and primitives as a region.

    Args:
        context: What the result is bound to, such as ``image/im_x/masked``.
        floor_bytes: Contents up to this length are all sealed to one length.
    """
    header = _header(scheme, _Kind.FIELD, "")
    return _seal(data_key, header, pack(context.encode()), plaintext, randomness, floor_bytes)


def open_field(data_key: bytes, context: str, sealed: Buffer) -> bytes:
    """Open what :func:`seal_field` sealed under the same context.

    Raises:
        SealBroken: For every reason there is, always with the same message.
    """
    return _open(data_key, _Kind.FIELD, pack(context.encode()), sealed)


def blind_index(index_key: bytes, context: str, value: str | Buffer) -> bytes:
    """A keyed hash under which equal values can be found without being readable.

    The value is taken as it is: case, spacing and Unicode form are the caller's to settle.

    Returns:
        16 bytes: HMAC-SHA256, truncated.
    """
    raw = value.encode() if isinstance(value, str) else value
    head = pack(b"medsec index v1", context.encode())
    return hmac_sha256(_checked(index_key), head, raw)[:16]


def derive(key: bytes, context: str, length: int = KEY_BYTES) -> bytes:
    """A key for one purpose from a uniformly random key (HKDF-SHA256, RFC 5869)."""
    return hkdf(_checked(key), pack(b"medsec derive v1", context.encode()), length)


def hkdf(key: bytes, info: bytes, length: int, salt: bytes | None = None) -> bytes:
    """HKDF-SHA256, extract and expand. Source: RFC 5869."""
    return HKDF(SHA256(), length, salt, info).derive(key)


def hmac_sha256(key: bytes, *parts: Buffer) -> bytes:
    """HMAC-SHA256 over the parts, one after the other. Source: RFC 2104."""
    mac = HMAC(key, SHA256())
    for part in parts:
        mac.update(part)
    return mac.finalize()


def pack(*parts: Buffer) -> bytes:
    """Join so that no two lists of parts give the same bytes: each behind its 32-bit length."""
    return b"".join(piece for part in parts for piece in (struct.pack(">I", len(part)), part))


def pad_length(length: int, floor: int = 0) -> int:
    """Length to pad to, so that a length tells little of compressed content.

    PADMÉ: the length is rounded up to a floating-point number whose mantissa is no longer
    than its exponent, which leaves O(log log length) bits and costs at most 12 %. Below the
    floor nothing is left at all.

    Source: Nikitin et al. 2019, "Reducing Metadata Leakage from Encrypted Files and
    Communication with PURBs", section 4.
    """
    wanted = max(length, floor)
    exponent = wanted.bit_length() - 1
    if exponent < 1:
        return wanted
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (wanted + mask) & ~mask


class Signer:
    """Ed25519 (RFC 8032). One key per purpose, or a domain string in front of what is signed.

    Args:
        seed: 32 bytes, random or from :func:`derive`.
    """

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(_checked(seed))
        self.public_bytes = self._key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"Signer(public={self.public_bytes.hex()})"

    def sign(self, data: bytes) -> bytes:
        """64 bytes of signature."""
        return self._key.sign(data)

    @staticmethod
    def verify(public: bytes, data: bytes, signature: bytes) -> None:
        """Raises:
        SealBroken: Not signed by that key, or changed since.
        """
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
        except (InvalidSignature, ValueError):
            raise SealBroken(
                "A signature does not match: this was not signed by the expected key,"
                " or was changed since."
            ) from None


def public_key_pem(raw: bytes) -> bytes:
    """An Ed25519 public key of 32 bytes as PEM (SubjectPublicKeyInfo, RFC 8410)."""
    return Ed25519PublicKey.from_public_bytes(raw).public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )


def raw_public_key(pem: bytes) -> tuple[bytes, bytes]:
    """An Ed25519 public key from PEM: its 32 bytes, and its SubjectPublicKeyInfo in DER.

    Raises:
        SealBroken: Not such a key.
    """
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise SealBroken("This is not an Ed25519 public key in PEM.")
    return key.public_bytes_raw(), key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _header(scheme: Scheme, kind: _Kind, key_id: str) -> bytes:
    name = key_id.encode("ascii")
    if len(name) > 64:
        raise ValueError("a key id has at most 64 characters")
    return MAGIC + bytes((FORMAT_VERSION, scheme, kind, 8 + len(name))) + name


def _keys(data_key: bytes, scheme: Scheme, header: bytes, binding: bytes) -> tuple[bytes, bytes]:
    """Encryption and MAC key of this one sealed thing; GCM needs only the first.

    Header and binding are the info, so one data key never does two jobs with one subkey.
    """
    info = pack(b"medsec sealed v1", header, binding)
    both = hkdf(_checked(data_key), info, 64 if scheme is Scheme.CBC_HMAC else 32)
    return both[:32], both[32:]


def _seal(
    data_key: bytes,
    header: bytes,
    binding: bytes,
    plaintext: Buffer,
    randomness: Randomness,
    floor: int,
) -> bytes:
    content = memoryview(plaintext).cast("B")
    scheme = Scheme(header[5])
    encryption_key, mac_key = _keys(data_key, scheme, header, binding)
    iv = randomness(_IV_BYTES[scheme])
    if len(iv) != _IV_BYTES[scheme]:
        raise ValueError("the source of randomness gave a wrong number of bytes")

    # Whole blocks go straight from the caller's buffer into the result; only the tail,
    # with zeros, true length and PKCS#7, is put together here.
    whole = len(content) // _BLOCK * _BLOCK
    zeros = pad_length(len(content) + _LENGTH.size, floor + _LENGTH.size)
    zeros -= len(content) + _LENGTH.size
    tail = b"".join((content[whole:], bytes(zeros), _LENGTH.pack(len(content))))
    if scheme is Scheme.CBC_HMAC:
        padder = PKCS7(_BLOCK * 8).padder()
        tail = padder.update(tail) + padder.finalize()

    start = len(header) + len(iv)
    end = start + whole + len(tail)
    pieces = (piece for part in (content[:whole], memoryview(tail)) for piece in _chunks(part))
    sealed = io.BytesIO(bytes(end + _TAG_BYTES[scheme]))
    out = sealed.getbuffer()
    out[:start] = header + iv
    associated = pack(header, binding)
    if scheme is Scheme.CBC_HMAC:
        out[end:] = _encrypt_cbc(encryption_key, mac_key, iv, associated, pieces, out[start:])
    else:
        out[end:] = _encrypt_gcm(encryption_key, iv, associated, pieces, out[start:])
    out.release()  # without a view on it, the buffer itself is the result and nothing is copied
    return sealed.getvalue()


def _encrypt_cbc(
    encryption_key: bytes,
    mac_key: bytes,
    iv: bytes,
    associated: bytes,
    pieces: Iterator[memoryview],
    out: memoryview,
) -> bytes:
    """Encrypt into a buffer and return the tag."""
    mac = HMAC(mac_key, SHA256())
    mac.update(associated + iv)
    for written in _stream(_cipher(Scheme.CBC_HMAC, encryption_key, iv).encryptor(), pieces, out):
        mac.update(written)
    return mac.finalize()


def _encrypt_gcm(
    encryption_key: bytes,
    iv: bytes,
    associated: bytes,
    pieces: Iterator[memoryview],
    out: memoryview,
) -> bytes:
    """Encrypt into a buffer and return the tag."""
    aead = _cipher(Scheme.GCM, encryption_key, iv).encryptor()
    aead.authenticate_additional_data(associated)
    for _ in _stream(aead, pieces, out):
        pass
    aead.finalize()
    tag: bytes = aead.tag
    return tag


def _open(data_key: bytes, kind: _Kind, binding: bytes, sealed: Buffer) -> bytes:
    _checked(data_key)  # a mistake of the program, not of the data: stays a ValueError
    try:
        padded, end = _decrypted(data_key, kind, binding, memoryview(sealed).cast("B"))
        end -= _LENGTH.size
        with padded.getbuffer() as view:
            (length,) = _LENGTH.unpack_from(view, end)
        if length > end:
            raise ValueError
    except (InvalidSignature, InvalidTag, ValueError, IndexError, struct.error):
        # One error, one message, no cause chained: see _BROKEN.
        raise SealBroken(_BROKEN) from None
    padded.truncate(length)
    return padded.getvalue()


def _decrypted(
    data_key: bytes, kind: _Kind, binding: bytes, sealed: memoryview
) -> tuple[io.BytesIO, int]:
    """Padded plaintext and where it ends; raises before anything is decrypted or handed out."""
    if sealed[:5] != MAGIC + bytes((FORMAT_VERSION,)) or sealed[6] != kind or sealed[7] < 8:
        raise ValueError
    scheme = Scheme(sealed[5])
    header = bytes(sealed[: sealed[7]])
    start = len(header) + _IV_BYTES[scheme]
    end = len(sealed) - _TAG_BYTES[scheme]
    if end < start + _LENGTH.size:
        raise ValueError
    iv, body, tag = bytes(sealed[len(header) : start]), sealed[start:end], bytes(sealed[end:])
    encryption_key, mac_key = _keys(data_key, scheme, header, binding)
    associated = pack(header, binding)

    if scheme is Scheme.CBC_HMAC:
        mac = HMAC(mac_key, SHA256())
        mac.update(associated)
        mac.update(sealed[len(header) : end])
        mac.verify(tag)  # constant time, and before the first block is decrypted
        if len(body) % _BLOCK:
            raise ValueError
        cipher = _cipher(scheme, encryption_key, iv).decryptor()
        plain = _collect(cipher, body)
        start = max(0, len(body) - _BLOCK)
        unpadder = PKCS7(_BLOCK * 8).unpadder()
        with plain.getbuffer() as view, view[start : len(body)] as block:
            last = unpadder.update(block) + unpadder.finalize()
        return plain, start + len(last)
    aead = _cipher(scheme, encryption_key, iv, tag).decryptor()
    aead.authenticate_additional_data(associated)
    plain = _collect(aead, body)
    aead.finalize()  # a wrong tag raises here, before the plaintext leaves this function
    return plain, len(body)


def _cipher(scheme: Scheme, key: bytes, iv: bytes, tag: bytes | None = None) -> Any:
    """AES-256 without padding; GCM takes the tag to compare with when it decrypts."""
    mode = modes.CBC(iv) if scheme is Scheme.CBC_HMAC else modes.GCM(iv, tag)
    return Cipher(AES256(key), mode)


def _collect(cipher: CipherContext, body: memoryview) -> io.BytesIO:
    """What comes out of a cipher, and room behind it: update_into asks for that margin."""
    out = io.BytesIO(bytes(len(body) + _BLOCK - 1))
    with out.getbuffer() as view:
        for _ in _stream(cipher, _chunks(body), view):
            pass
    return out


def _stream(
    cipher: CipherContext, pieces: Iterator[memoryview], out: memoryview
) -> Iterator[memoryview]:
    """Run whole blocks through a cipher into a buffer; yields what was just written.

    A view that was yielded ends with the next one. Every view is ended here rather than left to
    the collector: a buffer with a view on it cannot be cut to length, and whoever holds a frame
    of this call keeps its views. Dask's profiler does, a hundred times a second.
    """
    position = 0
    for piece in pieces:
        with out[position:] as room:
            written = cipher.update_into(piece, room)
        with out[position : position + written] as done:
            yield done
        position += written


def _chunks(view: memoryview) -> Iterator[memoryview]:
    return (view[at : at + _CHUNK] for at in range(0, len(view), _CHUNK))


def _checked(key: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
    return key
