"""The sealed format a second time: from FORMAT.md, on pycryptodome alone, nothing shared.

Slow and plain on purpose. Where this and ``engine.crypto.vault`` agree byte for byte, the
specification says all there is, and neither library has a quirk of its own in it.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from Crypto.Cipher import AES
from Crypto.Hash import HMAC, SHA256
from Crypto.Protocol.KDF import HKDF
from Crypto.Util.Padding import pad, unpad

CBC_HMAC, GCM = 1, 2
REGION, FIELD = 1, 2


def pack(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(p)) + p for p in parts)


def region_binding(identity: dict[str, Any]) -> bytes:
    numbers = ("x1", "y1", "x2", "y2", "frame", "frame_end", "version")
    return pack(
        identity["image_id"].encode(),
        identity["region_id"].encode(),
        identity["label"].encode(),
        struct.pack(">7I", *(identity[name] for name in numbers)),
    )


def field_binding(context: str) -> bytes:
    return pack(context.encode())


def padme(length: int) -> int:
    """Algorithm 1 of the paper, in its own words."""
    if length < 2:
        return length
    e = math.floor(math.log2(length))
    s = math.floor(math.log2(e)) + 1 if e else 0
    mask = 2 ** (e - s) - 1
    return (length + mask) & ~mask


def header(scheme: int, kind: int, key_id: str) -> bytes:
    return b"MSEC" + bytes([1, scheme, kind, 8 + len(key_id)]) + key_id.encode("ascii")


def subkeys(data_key: bytes, head: bytes, binding: bytes) -> tuple[bytes, bytes]:
    length = 64 if head[5] == CBC_HMAC else 32
    info = pack(b"medsec sealed v1", head, binding)
    both = HKDF(data_key, length, b"", SHA256, context=info)
    assert isinstance(both, bytes)
    return both[:32], both[32:]


def seal(
    data_key: bytes,
    scheme: int,
    kind: int,
    key_id: str,
    binding: bytes,
    plaintext: bytes,
    iv: bytes,
    floor: int,
) -> bytes:
    head = header(scheme, kind, key_id)
    encryption_key, mac_key = subkeys(data_key, head, binding)
    length = padme(max(len(plaintext), floor) + 8)
    padded = plaintext.ljust(length - 8, b"\0") + struct.pack(">Q", len(plaintext))
    if scheme == CBC_HMAC:
        body = AES.new(encryption_key, AES.MODE_CBC, iv=iv).encrypt(pad(padded, 16))
        tag = HMAC.new(mac_key, pack(head, binding) + iv + body, SHA256).digest()
    else:
        gcm = AES.new(encryption_key, AES.MODE_GCM, nonce=iv, mac_len=16)
        gcm.update(pack(head, binding))
        body, tag = gcm.encrypt_and_digest(padded)
    return head + iv + body + tag


def open_sealed(data_key: bytes, binding: bytes, sealed: bytes) -> bytes:
    """Raises ValueError where anything is wrong."""
    head = sealed[: sealed[7]]
    encryption_key, mac_key = subkeys(data_key, head, binding)
    if head[5] == CBC_HMAC:
        iv, body, tag = sealed[len(head) :][:16], sealed[len(head) + 16 : -32], sealed[-32:]
        HMAC.new(mac_key, pack(head, binding) + iv + body, SHA256).verify(tag)
        padded = unpad(AES.new(encryption_key, AES.MODE_CBC, iv=iv).decrypt(body), 16)
    else:
        iv, body, tag = sealed[len(head) :][:12], sealed[len(head) + 12 : -16], sealed[-16:]
        gcm = AES.new(encryption_key, AES.MODE_GCM, nonce=iv, mac_len=16)
        gcm.update(pack(head, binding))
        padded = gcm.decrypt_and_verify(body, tag)
    return padded[: struct.unpack(">Q", padded[-8:])[0]]


def derive(key: bytes, context: str, length: int = 32) -> bytes:
    made = HKDF(key, length, b"", SHA256, context=pack(b"medsec derive v1", context.encode()))
    assert isinstance(made, bytes)
    return made


def wrap(kek: bytes, key: bytes, context: str = "") -> bytes:
    if context:
        kek = derive(kek, f"wrap/{context}")
    return AES.new(kek, AES.MODE_KWP).seal(key)


def blind_index(key: bytes, context: str, value: bytes) -> bytes:
    message = pack(b"medsec index v1", context.encode()) + value
    return HMAC.new(key, message, SHA256).digest()[:16]
