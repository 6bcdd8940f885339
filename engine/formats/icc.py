"""Colour profiles (ICC.1:2022) without their words.

A profile has a description, a copyright, makers, dates, and tags that anybody may add; phones,
scanners and laboratories write owners and serial numbers there. What a viewer needs are numbers:
the primaries and one curve a channel. :func:`without_words` reads these, checks that they are
numbers a colour can have, and writes a new profile around them. A profile that works by large
tables, in which anything could stand, has no such form; it goes with the sealed part.
"""

from __future__ import annotations

import struct
from itertools import pairwise

_HEADER_BYTES = 128
_MAX_BYTES = 1 << 22
_CLASSES = (b"scnr", b"mntr", b"spac")
_CURVES = {b"RGB ": (b"rTRC", b"gTRC", b"bTRC"), b"GRAY": (b"kTRC",)}
_PRIMARIES = (b"rXYZ", b"gXYZ", b"bXYZ")
_PARAMETERS = (1, 3, 4, 5, 7)  # of a parametric curve, by its kind
_LARGEST = 16.0  # of any number: text read as a number is far above
_D50 = struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
_WORDS = b"Colours of the original"


def without_words(profile: bytes) -> bytes | None:
    """A profile with the same colours and nothing else.

    Args:
        profile: As it stands in a picture.

    Returns:
        The same for the same colours, whatever else the profile held; None where the colours
        cannot be told from all else.
    """
    try:
        return _rewritten(profile)
    except (struct.error, KeyError, IndexError, ValueError):
        return None


def _rewritten(profile: bytes) -> bytes | None:
    if not _HEADER_BYTES + 4 <= len(profile) <= _MAX_BYTES or profile[36:40] != b"acsp":
        return None
    kind, colours, connection = profile[12:16], profile[16:20], profile[20:24]
    if kind not in _CLASSES or colours not in _CURVES or connection != b"XYZ ":
        return None
    tags = _tags(profile)
    if any(name[:3] in (b"A2B", b"B2A", b"D2B", b"B2D") for name in tags):
        return None  # tables, which a viewer prefers to the primaries
    new = profile[8] >= 4
    body = {b"wtpt": _xyz(tags[b"wtpt"])}
    for name in _PRIMARIES if colours == b"RGB " else ():
        body[name] = _xyz(tags[name])
    for name in _CURVES[colours]:
        body[name] = _curve(tags[name], new)
    if b"chad" in tags:
        body[b"chad"] = b"sf32\0\0\0\0" + _numbers(tags[b"chad"], 8, 9)
    body[b"desc"], body[b"cprt"] = _description(new), _text(b"None", new)
    head = bytearray(_HEADER_BYTES)
    head[8:12] = b"\x04\x20\0\0" if new else b"\x02\x10\0\0"
    head[12:24] = profile[12:24]
    head[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    head[36:40] = b"acsp"
    head[67] = profile[67] & 3  # rendering intent
    head[68:80] = _D50
    return _file(head, body)


def _tags(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", profile, _HEADER_BYTES)
    if count > 200:
        raise ValueError("too many tags")
    tags: dict[bytes, bytes] = {}
    for number in range(count):
        name, start, size = struct.unpack_from(">4sII", profile, _HEADER_BYTES + 4 + 12 * number)
        if start + size > len(profile):
            raise ValueError("a tag lies outside")
        tags.setdefault(name, profile[start : start + size])
    return tags


def _numbers(tag: bytes, at: int, count: int) -> bytes:
    """Fixed-point numbers as they stand, if each is one that a colour can need."""
    found = struct.unpack_from(f">{count}i", tag, at)
    if any(abs(value) > _LARGEST * 65536 for value in found):
        raise ValueError("not the numbers of a colour")
    return struct.pack(f">{count}i", *found)


def _xyz(tag: bytes) -> bytes:
    if tag[:4] != b"XYZ ":
        raise ValueError("not a colour")
    return b"XYZ \0\0\0\0" + _numbers(tag, 8, 3)


def _curve(tag: bytes, new: bool) -> bytes:
    if tag[:4] == b"para" and new:
        (kind,) = struct.unpack_from(">H", tag, 8)
        return struct.pack(">4s4xHxx", b"para", kind) + _numbers(tag, 12, _PARAMETERS[kind])
    (count,) = struct.unpack_from(">I", tag, 8)
    if tag[:4] != b"curv" or count > 1 << 16:
        raise ValueError("not a curve")
    points = struct.unpack_from(f">{count}H", tag, 12)
    rising = all(a <= b for a, b in pairwise(points))
    if not rising or (count == 1 and points[0] > _LARGEST * 256):
        raise ValueError("a curve rises")
    return struct.pack(f">4s4xI{count}H", b"curv", count, *points)


def _text(words: bytes, new: bool) -> bytes:
    if new:
        wide = words.decode("ascii").encode("utf-16-be")
        return struct.pack(">4s4xII4sII", b"mluc", 1, 12, b"enUS", len(wide), 28) + wide
    return b"text\0\0\0\0" + words + b"\0"


def _description(new: bool) -> bytes:
    if new:
        return _text(_WORDS, new)
    return struct.pack(">4s4xI", b"desc", len(_WORDS) + 1) + _WORDS + bytes(1 + 8 + 3 + 67)


def _file(head: bytearray, body: dict[bytes, bytes]) -> bytes:
    table, out = [struct.pack(">I", len(body))], []
    at = _HEADER_BYTES + 4 + 12 * len(body)
    places: dict[bytes, int] = {}  # channels often share a curve
    for name, tag in body.items():
        if tag not in places:
            places[tag] = at
            out.append(tag + bytes(-len(tag) % 4))
            at += len(out[-1])
        table.append(struct.pack(">4sII", name, places[tag], len(tag)))
    head[0:4] = at.to_bytes(4)
    return b"".join([bytes(head), *table, *out])
