"""DICOM files as devices write them against the standard, made from the builders' files."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np

from engine.formats import images
from engine.records import Image, Region
from engine.settings import Settings

LIMITS = images.Limits.of(Settings())
KEY = b"secret of one patient, 32 bytes."


def read(data: bytes) -> Image:
    return images.decode("any.dcm", data, LIMITS)


def corner(image: Image) -> list[Region]:
    """One box over all frames, on the grid."""
    box = Region(0, 0, 16, 16, 0, image.frames).aligned(image.grid)
    clipped = box.clipped(image.width, image.height, image.frames)
    return [] if clipped is None else [clipped]


def both_ways(data: bytes, regions: Sequence[Region] | None = None) -> tuple[Image, Image]:
    """The original and the masked file, decoded; proves that the very file comes back."""
    image = read(data)
    boxes = corner(image) if regions is None else list(regions)
    made = images.dissect(image, boxes, KEY)
    back = images.assemble(made.masked, boxes, dict(enumerate(made.patches)), made.remainder)
    assert back == data
    return image, read(made.masked)


def items(fragments: Sequence[bytes], table: bytes | None = b"", *, end: bool = True) -> bytes:
    """Encapsulated pixel data as it is asked for, right or wrong; table None leaves it out."""
    out = [] if table is None else [_item(table)]
    out += [_item(fragment) for fragment in fragments]
    return b"".join(out) + (struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) if end else b"")


def _item(body: bytes) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body


def even(frame: bytes) -> bytes:
    return frame + b"\0" * (len(frame) % 2)


def with_pixels(data: bytes, value: bytes, *, defined: bool = False) -> bytes:
    """The file with other bytes in its pixel data element, of undefined length."""
    at = data.rindex(b"\xe0\x7f\x10\x00")
    length = len(value) if defined else 0xFFFFFFFF
    return data[:at] + b"\xe0\x7f\x10\x00OB\0\0" + struct.pack("<I", length) + value


def with_syntax(data: bytes, syntax: str) -> bytes:
    """The file with another transfer syntax in its meta information."""
    front, rest = meta_of(data)
    values = {**front, (2, 0x10): even(syntax.encode())}
    return data[:132] + write_meta(values) + rest


def meta_of(data: bytes) -> tuple[dict[tuple[int, int], bytes], bytes]:
    """Values of the meta information of a file that is right, and the data set behind it."""
    at, found = 132, {}
    while data[at : at + 2] == b"\x02\0":
        group, element = struct.unpack_from("<HH", data, at)
        if data[at + 4 : at + 6] in (b"OB", b"UN"):
            (length,), at = struct.unpack_from("<I", data, at + 8), at + 12
        else:
            (length,), at = struct.unpack_from("<H", data, at + 6), at + 8
        found[group, element] = data[at : at + length]
        at += length
    return found, data[at:]


def write_meta(
    values: Mapping[tuple[int, int], bytes], *, implicit: bool = False, order: str = "<"
) -> bytes:
    """Meta information in a form that may be wrong; the group length stays as it was."""
    out = []
    for (group, element), value in sorted(values.items()):
        out.append(struct.pack(order + "HH", group, element))
        vr = {0: b"UL", 1: b"OB"}.get(element, b"SH" if element == 0x13 else b"UI")
        if implicit:
            out.append(struct.pack(order + "I", len(value)))
        elif vr == b"OB":
            out.append(vr + b"\0\0" + struct.pack(order + "I", len(value)))
        else:
            out.append(vr + struct.pack(order + "H", len(value)))
        out.append(value)
    return b"".join(out)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b))
