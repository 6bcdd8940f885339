"""The structure of a JPEG file (ITU-T T.81): segments, coefficients, and new plain files.

Coefficients are decoded by ``jpeglib``; encoding is our own (:mod:`engine.formats.huffman`).
CMYK, 12 bit, arithmetic and lossless files have no coefficients that are masked here: see
:mod:`engine.formats.jpeg_rare`. Refuses hierarchical ones.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jpeglib._bind import CJpegLib

from engine.errors import CorruptImage, UnsupportedFormat
from engine.formats import icc
from engine.formats.exif import block_of, orientation_of
from engine.formats.huffman import ZIGZAG, Table, best_tables, blocks_of_scan, tokenize, write
from engine.records import Region

SOI, EOI, SOS, DQT, DHT, DRI, DAC, COM = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xCC, 0xFE
APP0, APP1, APP2, APP14 = 0xE0, 0xE1, 0xE2, 0xEE
_SOFS = frozenset(range(0xC0, 0xD0)) - {DHT, 0xC8, DAC}
_KNOWN = _SOFS | {DHT, DQT, DRI, SOS, COM} | frozenset(range(APP0, APP0 + 16))
_KINDS = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive"}
_RARE_KINDS = {0xC3: "lossless", 0xC9: "arithmetic", 0xCA: "progressive arithmetic"}
CJpegLib.set_version("turbo210")


@dataclass(frozen=True)
class Component:
    """One colour plane as the frame header has it."""

    id: int
    h: int
    v: int
    quantiser: int


@dataclass(frozen=True)
class Segment:
    """A marker with its payload, or (marker None) a stretch of entropy-coded bytes."""

    marker: int | None
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """What the segments of a JPEG say, before any pixel is decoded."""

    sof: int
    width: int
    height: int
    components: tuple[Component, ...]
    segments: tuple[Segment, ...]
    end: int  # first byte after the EOI marker
    adobe: int | None  # colour transform of the Adobe marker
    jfif: bool
    orientation: int
    precision: int = 8

    @property
    def is_rare(self) -> bool:
        """Of a kind whose coefficients are not masked: see :mod:`engine.formats.jpeg_rare`."""
        return self.sof not in _KINDS or self.precision != 8 or len(self.components) == 4

    @property
    def mcu(self) -> tuple[int, int]:
        """Width and height of an MCU in px."""
        if len(self.components) == 1:
            return (8, 8)
        return (
            8 * max(c.h for c in self.components),
            8 * max(c.v for c in self.components),
        )

    @property
    def kind(self) -> str:
        return _KINDS[self.sof]

    @property
    def is_rgb(self) -> bool:
        """Three planes that are red, green and blue rather than luma and chroma."""
        if len(self.components) != 3:
            return False
        if self.jfif:
            return False
        if self.adobe is not None:
            return self.adobe == 0
        return bytes(c.id for c in self.components) == b"RGB"

    def blocks(self, component: Component) -> tuple[int, int]:
        """Rows and columns of blocks that hold pixels of the image."""
        if len(self.components) == 1:
            return -(-self.height // 8), -(-self.width // 8)
        h_max = max(c.h for c in self.components)
        v_max = max(c.v for c in self.components)
        return (
            -(-self.height * component.v // (8 * v_max)),
            -(-self.width * component.h // (8 * h_max)),
        )

    def window(self, component: Component, region: Region) -> tuple[slice, slice]:
        """Rows and columns of a component's blocks under an aligned region."""
        rows, columns = self.blocks(component)
        mcu_w, mcu_h = self.mcu
        h, v = (component.h, component.v) if len(self.components) > 1 else (1, 1)
        return (
            slice(region.y1 // mcu_h * v, min(rows, -(-region.y2 // mcu_h) * v)),
            slice(region.x1 // mcu_w * h, min(columns, -(-region.x2 // mcu_w) * h)),
        )


def parse(data: bytes, *, rare: bool = False) -> Header:
    """Read the segments.

    Args:
        rare: Take kinds too whose coefficients are not masked.

    Raises:
        CorruptImage: Not a JPEG, cut off, or with contradictory headers.
        UnsupportedFormat: A kind of JPEG that MedSec does not take.
    """
    if data[:2] != b"\xff\xd8":
        raise CorruptImage("This is not a JPEG file.")
    segments: list[Segment] = []
    sof = 0
    frame: tuple[int, int, tuple[Component, ...], int] | None = None
    adobe: int | None = None
    jfif, orientation, scans = False, 1, 0
    at = 2
    while True:
        if at + 2 > len(data):
            raise CorruptImage("This JPEG file ends too early: send the complete file.")
        if data[at] != 0xFF:
            raise CorruptImage("This JPEG file is damaged: a marker is missing.")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == EOI:
            end = at + 2
            break
        if marker == 0xF7:
            raise UnsupportedFormat(
                "This is a JPEG-LS picture, which is not supported. Save it as PNG, and send that."
            )
        if marker not in _KNOWN and not (
            rare and marker == DAC
        ):  # the C library trips over some of the others
            raise CorruptImage("This JPEG file is damaged: it has an unknown or misplaced marker.")
        if at + 4 > len(data):
            raise CorruptImage("This JPEG file ends too early: send the complete file.")
        length = int.from_bytes(data[at + 2 : at + 4])
        stop = at + 2 + length
        if length < 2 or stop > len(data):
            raise CorruptImage("This JPEG file ends too early: send the complete file.")
        body = data[at + 4 : stop]
        segments.append(Segment(marker, at + 4, stop))
        if marker in _SOFS:
            if frame is not None:
                raise CorruptImage("This JPEG file is damaged: it has two frame headers.")
            sof = marker
            frame = _frame(marker, body, rare)
        elif marker == APP0 and body[:5] == b"JFIF\0":
            jfif = True
        elif marker == APP14 and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif marker == APP1 and body[:6] == b"Exif\0\0":
            orientation = orientation_of(body)
        at = stop
        if marker == SOS:
            scans += 1
            at = _skip_entropy(data, stop)
            segments.append(Segment(None, stop, at))
    if frame is None or not scans:
        raise CorruptImage("This JPEG file contains no picture. Choose another file.")
    width, height, components, precision = frame
    return Header(
        sof, width, height, components, tuple(segments), end, adobe, jfif, orientation, precision
    )  # fmt: skip


def _frame(marker: int, body: bytes, rare: bool) -> tuple[int, int, tuple[Component, ...], int]:
    if marker not in (_KINDS | _RARE_KINDS if rare else _KINDS):
        raise UnsupportedFormat(
            "This kind of JPEG (hierarchical, or lossless with arithmetic coding) is not supported."
            " Save it as a baseline or progressive JPEG, or as PNG."
        )
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise CorruptImage("This JPEG file is damaged: its frame header has a wrong length.")
    precision, height, width, count = struct.unpack_from(">BHHB", body)
    if not rare and (precision != 8 or count == 4):
        raise UnsupportedFormat("This kind of JPEG is not supported here. Save it as PNG.")
    if count not in (1, 3, 4):
        raise UnsupportedFormat(
            "This JPEG has an unsupported number of colour components. Save it as RGB."
        )
    if not width or not height:
        raise CorruptImage("This JPEG file is damaged: it has no width or height. Export it again.")
    components = []
    for i in range(count):
        number, factors, table = body[6 + 3 * i : 9 + 3 * i]
        h, v = factors >> 4, factors & 15
        if not (1 <= h <= 4 and 1 <= v <= 4 and table < 4):
            raise CorruptImage("This JPEG file is damaged: impossible sampling factors.")
        components.append(Component(number, h, v, table))
    return width, height, tuple(components), precision


def _skip_entropy(data: bytes, at: int) -> int:
    """First byte after a stretch of entropy-coded data."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            raise CorruptImage("This JPEG file ends too early: send the complete file.")
        following = data[at + 1]
        if following == 0 or 0xD0 <= following <= 0xD7:
            at += 2
        elif following == 0xFF:
            at += 1
        else:
            return at


@dataclass
class Coefficients:
    """Quantised DCT coefficients.

    Args:
        header: Of the file that they come from.
        planes: Per component, shape (rows, columns, 64), int16, natural order.
        quantisers: Slot to 64 steps, natural order.
    """

    header: Header
    planes: list[np.ndarray]
    quantisers: dict[int, np.ndarray] = field(default_factory=dict)


def read(data: bytes, header: Header | None = None) -> Coefficients:
    """Decode the coefficients, not the pixels.

    Raises:
        CorruptImage, UnsupportedFormat: As :func:`parse`, or the scans cannot be read.
    """
    header = header or parse(data)
    planes = [np.zeros((*header.blocks(c), 64), np.int16) for c in header.components]
    quantisers = np.zeros((4, 64), np.uint16)
    slots = np.zeros(4, np.int16)
    # jpeglib reads files only; a memfd is a file that never touches a disk
    descriptor = os.memfd_create("jpeg", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(memoryview(data)[: header.end])
        padded = [p.ctypes.data for p in planes] + [None] * (4 - len(planes))
        pointers = [ctypes.c_void_p(p) for p in padded]
        CJpegLib.read_jpeg_dct(
            f"/proc/self/fd/{descriptor}",
            *pointers,
            ctypes.c_void_p(quantisers.ctypes.data),
            ctypes.c_void_p(slots.ctypes.data),
        )
    except OSError as err:
        raise CorruptImage("This JPEG file is damaged: its picture cannot be decoded.") from err
    finally:
        os.close(descriptor)
    used = {c.quantiser for c in header.components}
    return Coefficients(header, planes, {slot: quantisers[slot] for slot in used})


def put_segment(marker: int, body: bytes) -> bytes:
    """A marker segment with its length."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def write_plain(coefficients: Coefficients, data: bytes, *, keep_orientation: bool = True) -> bytes:
    """A new baseline file with its own Huffman tables and harmless metadata only.

    Args:
        data: The file that the coefficients come from; its colour profile, density, Adobe
            transform and orientation are taken over, all else is left behind.
    """
    header = coefficients.header
    out = [b"\xff\xd8", *_harmless(header, data, keep_orientation)]
    for slot, steps in sorted(coefficients.quantisers.items()):
        wide = bool((steps > 255).any())
        zigzag = steps[ZIGZAG].astype(">u2" if wide else "u1").tobytes()
        out.append(put_segment(DQT, bytes([wide << 4 | slot]) + zigzag))
    wide = any((steps > 255).any() for steps in coefficients.quantisers.values())
    frame = struct.pack(">BHHB", 8, header.height, header.width, len(header.components))
    names = _names(header)
    for name, c in zip(names, header.components, strict=True):
        frame += bytes([name, c.h << 4 | c.v, c.quantiser])
    out.append(put_segment(0xC1 if wide else 0xC0, frame))
    tables, entropy = encode_scan(coefficients.planes, header.components)
    for slot, table in enumerate(tables):
        if table is not None and slot < 4:
            out.append(put_segment(DHT, table.segment(slot % 2, slot // 2)))
    selectors = b"".join(bytes([name, 0x11 * min(i, 1)]) for i, name in enumerate(names))
    out.append(put_segment(SOS, bytes([len(header.components)]) + selectors + bytes([0, 63, 0])))
    return b"".join([*out, entropy, b"\xff\xd9"])


def _names(header: Header) -> bytes:
    """Numbers of the components: their own could be letters, and only these three mean anything."""
    return b"RGB" if header.is_rgb else bytes(range(1, len(header.components) + 1))


def _harmless(header: Header, data: bytes, keep_orientation: bool) -> list[bytes]:
    """What a viewer needs and names nobody, each at most once and written anew."""
    out: dict[str, bytes] = {}
    profile: dict[int, bytes] = {}
    for segment in header.segments:
        body = data[segment.start : segment.end]
        if segment.marker == APP0 and body[:5] == b"JFIF\0":
            out.setdefault("jfif", put_segment(APP0, _jfif(body)))  # no thumbnail
        elif segment.marker == APP2 and body[:12] == b"ICC_PROFILE\0" and len(body) > 14:
            profile.setdefault(body[12], body[14:])
        elif segment.marker == APP14 and body[:5] == b"Adobe" and len(body) >= 12:
            plain = b"Adobe\0\x64\0\0\0\0"
            out["adobe"] = put_segment(APP14, plain + body[11:12])  # the last one counts
    if keep_orientation and header.orientation != 1:
        out["exif"] = put_segment(APP1, b"Exif\0\0" + block_of(header.orientation))
    colours = icc.without_words(b"".join(profile[number] for number in sorted(profile)))
    pieces = [] if colours is None else [
        colours[at : at + _PIECE_BYTES] for at in range(0, len(colours), _PIECE_BYTES)
    ]  # fmt: skip
    for number, piece in enumerate(pieces, start=1):
        head = b"ICC_PROFILE\0" + bytes([number, len(pieces)])
        out[f"icc {number}"] = put_segment(APP2, head + piece)
    order = ("jfif", "exif", "adobe")
    return [out.pop(name) for name in order if name in out] + list(out.values())


_PIECE_BYTES = 65_000
_MOST_DPI = 9_600


def _jfif(body: bytes) -> bytes:
    """Version and density; one that no scanner has is left out."""
    unit, x, y = struct.unpack_from(">BHH", body, 7) if len(body) >= 12 else (0, 1, 1)
    if unit > 2 or not (1 <= x <= _MOST_DPI and 1 <= y <= _MOST_DPI):
        unit, x, y = 0, 1, 1
    return b"JFIF\0\x01\x02" + struct.pack(">BHHBB", unit, x, y, 0, 0)


def encode_scan(
    planes: Sequence[np.ndarray], components: Sequence[Component]
) -> tuple[list[Table | None], bytes]:
    """One sequential scan with the best tables; the second and third plane share theirs."""
    sampling = [(c.h, c.v) for c in components]
    blocks, owner = blocks_of_scan([p[..., ZIGZAG] for p in planes], sampling)
    slots = 2 * len(planes)
    shared = [min(slot, 2 + slot % 2) for slot in range(slots)]
    tables = best_tables(tokenize(blocks, owner), slots, shared)
    return tables, write(tokenize(blocks, owner), tables)
