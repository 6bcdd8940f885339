"""The boxes of HEIC and AVIF files (ISO/IEC 14496-12 and 23008-12): what is said of the primary
picture before anything is decoded.

One file holds many pictures: thumbnails, tiles, depth and gain maps, bursts. Only the primary one
is what viewers show; sizes are read of all of them, since a decoder may touch each.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.errors import CorruptImage, UnsupportedFormat

_MAX_BOXES = 20_000
_DAMAGED = "This file is damaged: its parts cannot be found. Export the picture again."
_EARLY = "This file ends too early: send the complete file."


@dataclass(frozen=True)
class Primary:
    """What the file says of the picture that viewers show.

    Args:
        coding: Type of the item or of its first tile, such as ``hvc1`` or ``av01``.
        width, height: As coded, before it is turned.
        sizes: Width and height of every picture in the file.
        turns: Quarter turns against the clock.
        mirror: None, or the axis: 0 swaps top and bottom, 1 left and right.
        primaries, transfer: Code points of ISO/IEC 23091-2; 2 where nothing is said.
        icc: Colour profile, empty where there is none.
        bits: Per sample; 0 where nothing is said.
        frames: Of the longest track of moving pictures; 0 where there is none.
    """

    coding: str
    width: int
    height: int
    sizes: tuple[tuple[int, int], ...]
    turns: int = 0
    mirror: int | None = None
    primaries: int = 2
    transfer: int = 2
    icc: bytes = field(default=b"", repr=False)
    bits: int = 0
    frames: int = 0


def boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, first byte and end of the content of each box between two places.

    Raises:
        CorruptImage: A box leaves the space that holds it.
    """
    count = 0
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1:
            if start + 8 > end:
                raise CorruptImage(_EARLY)
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        stop = end if size == 0 else at + size
        count += 1
        if stop < start or count > _MAX_BOXES:
            raise CorruptImage(_DAMAGED)
        if stop > end:
            raise CorruptImage(_EARLY)
        yield kind, start, stop
        at = stop


def brands(data: bytes) -> set[bytes]:
    """Major and compatible brands of a file that begins with ``ftyp``."""
    size = min(int.from_bytes(data[:4]), len(data), 1024)
    return {data[8:12], *(data[at : at + 4] for at in range(16, size - 3, 4))}


def primary(data: bytes) -> Primary:
    """Read what is said of the primary picture.

    Raises:
        CorruptImage: Cut off, or contradictory.
        UnsupportedFormat: There is no still picture.
    """
    try:
        return _primary(data)
    except (struct.error, IndexError, KeyError) as err:
        raise CorruptImage(_DAMAGED) from err


def _primary(data: bytes) -> Primary:
    top = {kind: (at, end) for kind, at, end in boxes(data, 0, len(data))}
    frames = _samples(data, *top[b"moov"]) if b"moov" in top else 0
    if b"meta" not in top:
        if frames:
            raise UnsupportedFormat(
                "This file holds a moving picture only. Export the frames that you need as PNG or"
                " JPEG files."
            )
        raise CorruptImage("This file contains no picture. Choose another file.")
    at, end = top[b"meta"]
    meta = {kind: place for kind, *place in boxes(data, at + 4, end)}
    at, _ = meta[b"pitm"]
    item = int.from_bytes(data[at + 4 : at + (6 if data[at] == 0 else 8)])
    properties, belongs = _properties(data, *meta[b"iprp"])
    mine = [properties[i - 1] for i in belongs.get(item, ()) if 0 < i <= len(properties)]
    size = next((body for kind, body in mine if kind == b"ispe"), b"")
    kinds = _items(data, *meta[b"iinf"])
    coding, seen = kinds[item], {item}
    if b"iref" in meta:
        parts = _references(data, *meta[b"iref"])
        # a picture made of others: grids of tiles, overlays, one that is only turned
        while coding in (b"grid", b"iovl", b"iden", b"tmap") and parts.get(item):
            item = parts[item][0]
            if item in seen:
                raise CorruptImage(_DAMAGED)
            seen.add(item)
            coding = kinds[item]
    width, height = struct.unpack(">II", size[4:12])
    turns, mirror = 0, None
    primaries = transfer = 2
    icc = b""
    for kind, body in mine:
        if kind == b"irot":
            turns = body[0] & 3
        elif kind == b"imir":
            mirror = body[0] & 1
        elif kind == b"colr" and body[:4] == b"nclx":
            primaries, transfer = struct.unpack_from(">HH", body, 4)
        elif kind == b"colr" and body[:4] in (b"prof", b"rICC"):
            icc = body[4:]
    sizes = tuple(struct.unpack(">II", body[4:12]) for kind, body in properties if kind == b"ispe")
    return Primary(
        coding.decode("latin-1"), width, height, sizes, turns, mirror, primaries, transfer, icc,
        _bits(mine), frames,
    )  # fmt: skip


def _bits(properties: list[tuple[bytes, bytes]]) -> int:
    """Bits per sample, from the pixel information or the configuration of AV1."""
    for kind, body in properties:
        if kind == b"pixi" and len(body) > 5:
            return max(body[5 : 5 + body[4]])
        if kind == b"av1C" and len(body) > 2:
            return (12 if body[2] & 0x20 else 10) if body[2] & 0x40 else 8
    return 0


def _samples(data: bytes, at: int, end: int) -> int:
    """Number of samples of the longest track."""
    most = 0
    for kind, start, stop in boxes(data, at, end):
        if kind in (b"trak", b"mdia", b"minf", b"stbl"):
            most = max(most, _samples(data, start, stop))
        elif kind == b"stsz":
            most = max(most, int.from_bytes(data[start + 8 : start + 12]))
    return most


def _properties(
    data: bytes, at: int, end: int
) -> tuple[list[tuple[bytes, bytes]], dict[int, list[int]]]:
    """Properties in their order, and for each item the numbers (from 1) of its own."""
    found: list[tuple[bytes, bytes]] = []
    belongs: dict[int, list[int]] = {}
    for kind, start, stop in boxes(data, at, end):
        if kind == b"ipco":
            found = [(k, data[a:b]) for k, a, b in boxes(data, start, stop)]
        elif kind == b"ipma":
            version, wide = data[start], data[start + 3] & 1
            (count,) = struct.unpack_from(">I", data, start + 4)
            place = start + 8
            for _ in range(count):
                long = 4 if version else 2
                item = int.from_bytes(data[place : place + long])
                number = data[place + long]
                place += long + 1
                step = 2 if wide else 1
                if place + number * step > stop:
                    raise CorruptImage(_DAMAGED)
                mask = 0x7FFF if wide else 0x7F
                belongs.setdefault(item, []).extend(
                    int.from_bytes(data[place + i * step : place + (i + 1) * step]) & mask
                    for i in range(number)
                )
                place += number * step
    return found, belongs


def _items(data: bytes, at: int, end: int) -> dict[int, bytes]:
    """Type of each item."""
    found: dict[int, bytes] = {}
    for kind, start, _ in boxes(data, at + (6 if data[at] == 0 else 8), end):
        if kind == b"infe" and data[start] >= 2:
            long = 2 if data[start] == 2 else 4
            item = int.from_bytes(data[start + 4 : start + 4 + long])
            found[item] = data[start + 6 + long : start + 10 + long]
    return found


def _references(data: bytes, at: int, end: int) -> dict[int, list[int]]:
    """For each item that is made of others (``dimg``), which ones."""
    long = 4 if data[at] else 2
    found: dict[int, list[int]] = {}
    for kind, start, stop in boxes(data, at + 4, end):
        if kind == b"dimg":
            item = int.from_bytes(data[start : start + long])
            (count,) = struct.unpack_from(">H", data, start + long)
            places = range(start + long + 2, min(stop, start + long + 2 + count * long), long)
            found[item] = [int.from_bytes(data[p : p + long]) for p in places]
    return found
