"""JPEG without generation loss: masks and restores DCT coefficients, never pixels.

Blocks outside the boxes keep their coefficients to the bit. The masked file is written
anew from the masked coefficients, with Huffman tables of its own (the old ones say
something about what was there) and without metadata that could name a person. Putting
the blocks back and writing the scans with the original's tables gives the original bytes
for sequential files; a progressive one comes back with the same coefficients, so with the
same pixels. Refuses CMYK, 12 bit, arithmetic, lossless and hierarchical files.
"""

from __future__ import annotations

import ctypes
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jpeglib._bind import CJpegLib

from engine import mask
from engine.errors import CorruptImage, SealBroken, UnsupportedFormat
from engine.huffman import ZIGZAG, Table, best_tables, blocks_of_scan, tokenize, write
from engine.records import Region

SOI, EOI, SOS, DQT, DHT, DRI, DAC, COM = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xCC, 0xFE
APP0, APP1, APP2, APP14 = 0xE0, 0xE1, 0xE2, 0xEE
_SOFS = frozenset(range(0xC0, 0xD0)) - {DHT, 0xC8, DAC}
_KNOWN = _SOFS | {DHT, DQT, DRI, SOS, COM} | frozenset(range(APP0, APP0 + 16))
_KINDS = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive"}
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


def parse(data: bytes) -> Header:
    """Read the segments.

    Raises:
        CorruptImage: Not a JPEG, cut off, or with contradictory headers.
        UnsupportedFormat: A kind of JPEG that MedSec does not take.
    """
    if data[:2] != b"\xff\xd8":
        raise CorruptImage("This is not a JPEG file.")
    segments: list[Segment] = []
    sof = 0
    frame: tuple[int, int, tuple[Component, ...]] | None = None
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
        if marker not in _KNOWN:  # the C library trips over some of the others
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
            frame = _frame(marker, body)
        elif marker == APP0 and body[:5] == b"JFIF\0":
            jfif = True
        elif marker == APP14 and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif marker == APP1 and body[:6] == b"Exif\0\0":
            orientation = _orientation(body[6:])
        at = stop
        if marker == SOS:
            scans += 1
            at = _skip_entropy(data, stop)
            segments.append(Segment(None, stop, at))
    if frame is None or not scans:
        raise CorruptImage("This JPEG file has no picture in it.")
    width, height, components = frame
    return Header(
        sof, width, height, components, tuple(segments), end, adobe, jfif, orientation
    )  # fmt: skip


def _frame(marker: int, body: bytes) -> tuple[int, int, tuple[Component, ...]]:
    if marker not in _KINDS:
        raise UnsupportedFormat(
            "This kind of JPEG (arithmetic, lossless or hierarchical) is not supported:"
            " save it as a baseline or progressive JPEG or as PNG."
        )
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise CorruptImage("This JPEG file is damaged: its frame header has a wrong length.")
    precision, height, width, count = struct.unpack_from(">BHHB", body)
    if precision != 8:
        raise UnsupportedFormat(
            "JPEG files of more than 8 bits are not supported: send the DICOM or a 16-bit PNG."
        )
    if count == 4:
        raise UnsupportedFormat("CMYK JPEG files are not supported: save the picture as RGB.")
    if count not in (1, 3):
        raise UnsupportedFormat("This JPEG has an unusual number of colour planes: save it as RGB.")
    if not width or not height:
        raise CorruptImage("This JPEG file says that it has no width or no height.")
    components = []
    for i in range(count):
        number, factors, table = body[6 + 3 * i : 9 + 3 * i]
        h, v = factors >> 4, factors & 15
        if not (1 <= h <= 4 and 1 <= v <= 4 and table < 4):
            raise CorruptImage("This JPEG file is damaged: impossible sampling factors.")
        components.append(Component(number, h, v, table))
    return width, height, tuple(components)


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


def _orientation(tiff: bytes) -> int:
    """EXIF orientation 1..8; 1 where there is none or it makes no sense."""
    try:
        order = {b"II": "<", b"MM": ">"}[tiff[:2]]
        (offset,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, offset)
        for i in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, offset + 2 + 12 * i)
            if tag == 0x0112 and kind == 3 and 1 <= value <= 8:
                return int(value)
    except (KeyError, struct.error):
        pass
    return 1


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


def _segment(marker: int, body: bytes) -> bytes:
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
        out.append(_segment(DQT, bytes([wide << 4 | slot]) + zigzag))
    wide = any((steps > 255).any() for steps in coefficients.quantisers.values())
    frame = struct.pack(">BHHB", 8, header.height, header.width, len(header.components))
    for c in header.components:
        frame += bytes([c.id, c.h << 4 | c.v, c.quantiser])
    out.append(_segment(0xC1 if wide else 0xC0, frame))
    tables, entropy = encode_scan(coefficients.planes, header.components)
    for slot, table in enumerate(tables):
        if table is not None and slot < 4:
            out.append(_segment(DHT, table.segment(slot % 2, slot // 2)))
    selectors = b"".join(bytes([c.id, 0x11 * min(i, 1)]) for i, c in enumerate(header.components))
    out.append(_segment(SOS, bytes([len(header.components)]) + selectors + bytes([0, 63, 0])))
    return b"".join([*out, entropy, b"\xff\xd9"])


def _harmless(header: Header, data: bytes, keep_orientation: bool) -> list[bytes]:
    """Segments that a viewer needs and that name nobody."""
    out = []
    for segment in header.segments:
        body = data[segment.start : segment.end]
        if segment.marker == APP0 and body[:5] == b"JFIF\0" and len(body) >= 14:
            out.append(_segment(APP0, body[:12] + b"\0\0"))  # without its thumbnail
        elif segment.marker == APP2 and body[:12] == b"ICC_PROFILE\0":
            out.append(_segment(APP2, body))
        elif segment.marker == APP14 and body[:5] == b"Adobe" and len(body) >= 12:
            out.append(_segment(APP14, body[:12]))
    if keep_orientation and header.orientation != 1:
        tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01"
        tiff += struct.pack(">HHI", header.orientation, 0, 0)
        out.insert(int(header.jfif), _segment(APP1, b"Exif\0\0" + tiff))
    return out


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


def fill(coefficients: Coefficients, region: Region) -> None:
    """Put the mask's fill in place of a region's blocks.

    The hatch is drawn in whole blocks and the lock in low frequencies, since sharp edges
    would make the masked file larger than the original.
    """
    header = coefficients.header
    dark, light = mask.tones(-128.0, 127.0)
    for number, component in enumerate(header.components):
        rows, columns = header.window(component, region)
        target = coefficients.planes[number][rows, columns]
        target[...] = 0  # neutral colour, unless this plane carries light
        if number and not header.is_rgb:
            continue
        high, wide = target.shape[:2]
        y, x = np.ogrid[:high, :wide]
        steps = np.maximum(coefficients.quantisers[component.quantiser], 1).astype(np.float64)
        target[..., 0] = _quantised(np.where((x + y) % 4 == 0, light, dark) * 8, steps[0])
        side = min(high, wide, _LOCK_BLOCKS)
        if side >= 2:
            tone = np.where(mask.lock(side * 8), light, dark)
            tiles = tone.reshape(side, 8, side, 8).transpose(0, 2, 1, 3)
            spectrum = (_DCT @ tiles @ _DCT.T).reshape(side, side, 64)
            spectrum[..., _FINE] = 0
            top, left = (high - side) // 2, (wide - side) // 2
            target[top : top + side, left : left + side] = _quantised(spectrum, steps)


def _quantised(spectrum: np.ndarray, steps: np.ndarray) -> np.ndarray:
    return np.clip(np.round(spectrum / steps), -1023, 1023).astype(np.int16)


def _dct_matrix() -> np.ndarray:
    u, x = np.mgrid[:8, :8]
    matrix = 0.5 * np.cos((2 * x + 1) * u * np.pi / 16)
    matrix[0] /= np.sqrt(2)
    return np.asarray(matrix)


_DCT = _dct_matrix()
_FINE = np.flatnonzero(np.add.outer(np.arange(8), np.arange(8)).reshape(-1) > 3)
_LOCK_BLOCKS = 4


def check_aligned(header: Header, regions: Sequence[Region]) -> None:
    """Regions must lie on the MCU grid, but for the right and bottom edge.

    Raises:
        ValueError: One does not, or lies outside.
    """
    w, h = header.mcu
    for r in regions:
        on_grid = not (r.x1 % w or r.y1 % h)
        on_grid &= (r.x2 % w == 0 or r.x2 == header.width) and r.x2 <= header.width
        on_grid &= (r.y2 % h == 0 or r.y2 == header.height) and r.y2 <= header.height
        if not on_grid:
            raise ValueError(f"region {r.xyxy} is not aligned to {w} x {h} px")


def _owned(header: Header, regions: Sequence[Region], index: int) -> list[np.ndarray | None]:
    """Per component, which blocks of a region are its own: shape (rows, columns), bool."""
    out: list[np.ndarray | None] = []
    for component in header.components:
        in_blocks = []
        for region in regions[: index + 1]:
            rows, columns = header.window(component, region)
            in_blocks.append(
                Region(columns.start, rows.start, columns.stop, rows.stop,
                       region.frame, region.frame_end)
            )  # fmt: skip
        mine = mask.own(in_blocks, index)
        out.append(None if mine is None else mine[0])
    return out


def lift(coefficients: Coefficients, regions: Sequence[Region], index: int) -> bytes:
    """The blocks of a region as a small scan with its own tables, blank where not its own.

    Layout: width and height in px, number of planes, per plane a table for DC and one for AC (the third plane has
    the second's), the entropy-coded scan, and a CRC-32, since JPEG decoders forgive much.
    """
    header = coefficients.header
    planes = []
    for number, mine in enumerate(_owned(header, regions, index)):
        rows, columns = header.window(header.components[number], regions[index])
        part = coefficients.planes[number][rows, columns].copy()
        if mine is not None:
            part[~mine] = 0
        planes.append(part)
    tables, entropy = encode_scan(planes, header.components)
    head = struct.pack(">HHB", regions[index].width, regions[index].height, len(planes))
    for slot in range(min(4, 2 * len(planes))):
        table = tables[slot] or Table((0,) * 16, ())
        head += bytes([*table.counts, *table.symbols])
    body = head + entropy
    return body + zlib.crc32(body).to_bytes(4)


def lay(coefficients: Coefficients, regions: Sequence[Region], index: int, patch: bytes) -> None:
    """Put a region's blocks back in place.

    Raises:
        SealBroken: Not a patch of this image.
    """
    header = coefficients.header
    region = regions[index]
    shapes = []
    for component in header.components:
        rows, columns = header.window(component, region)
        shapes.append((rows.stop - rows.start, columns.stop - columns.start))
    planes = _read_patch(header, region, patch)
    for number, mine in enumerate(_owned(header, regions, index)):
        rows, columns = header.window(header.components[number], region)
        target, part = coefficients.planes[number][rows, columns], planes[number]
        if part.shape != target.shape:
            raise SealBroken("A sealed region does not fit the image it is put back into.")
        if mine is None:
            target[...] = part
        else:
            target[mine] = part[mine]


def _read_patch(header: Header, region: Region, patch: bytes) -> list[np.ndarray]:
    """Rebuild a small JPEG around the scan and read its coefficients."""
    body, checksum = patch[:-4], patch[-4:]
    expected = struct.pack(">HHB", region.width, region.height, len(header.components))
    if zlib.crc32(body).to_bytes(4) != checksum or body[:5] != expected:
        raise SealBroken("A sealed region does not fit the image it is put back into.")
    out = [b"\xff\xd8", _segment(DQT, b"\0" + b"\x01" * 64)]
    frame = struct.pack(">BHHB", 8, region.height, region.width, len(header.components))
    for c in header.components:
        frame += bytes([c.id, c.h << 4 | c.v, 0])
    out.append(_segment(0xC0, frame))
    at, planes = 5, body[4]
    for slot in range(min(4, 2 * planes)):
        counts = body[at : at + 16]
        size = 16 + sum(counts)
        if sum(counts):
            out.append(_segment(DHT, bytes([slot % 2 << 4 | slot // 2]) + body[at : at + size]))
        at += size
    selectors = b"".join(bytes([c.id, 0x11 * min(i, 1)]) for i, c in enumerate(header.components))
    out.append(_segment(SOS, bytes([planes]) + selectors + bytes([0, 63, 0])))
    try:
        return read(b"".join([*out, body[at:], b"\xff\xd9"])).planes
    except (CorruptImage, UnsupportedFormat) as err:
        raise SealBroken("A sealed region opened to something that is not a region.") from err


def skeleton(data: bytes, header: Header) -> bytes:
    """The file without its entropy-coded stretches: all that is needed to write it again."""
    out, at = [], 0
    for segment in header.segments:
        if segment.marker is None:
            out.append(data[at : segment.start])
            at = segment.end
    return b"".join([*out, data[at:]])


def rebuild(coefficients: Coefficients, bones: bytes) -> bytes:
    """Write a sequential file again around its skeleton, with its own tables and scans.

    Raises:
        ValueError: Progressive, or a table lacks a code that is needed.
    """
    header = coefficients.header
    by_id = {c.id: i for i, c in enumerate(header.components)}
    dc: dict[int, Table] = {}
    ac: dict[int, Table] = {}
    restart = 0
    out, at, copied = [], 2, 0
    while True:
        while bones[at] == 0xFF and bones[at + 1] == 0xFF:
            at += 1
        marker = bones[at + 1]
        if marker == EOI:
            break
        stop = at + 2 + int.from_bytes(bones[at + 2 : at + 4])
        body = bones[at + 4 : stop]
        at = stop
        if marker == 0xC2:
            raise ValueError("progressive scans are not written again")
        if marker == DHT:
            _take_tables(body, dc, ac)
        elif marker == DRI:
            restart = int.from_bytes(body[:2])
        elif marker == SOS:
            chosen = [(by_id[body[1 + 2 * i]], body[2 + 2 * i]) for i in range(body[0])]
            tables: list[Table | None] = []
            for _, selector in chosen:
                tables += [dc.get(selector >> 4), ac.get(selector & 15)]
            planes = [coefficients.planes[i][..., ZIGZAG] for i, _ in chosen]
            sampling = [(header.components[i].h, header.components[i].v) for i, _ in chosen]
            blocks, owner = blocks_of_scan(planes, sampling)
            out += [bones[copied:at], write(tokenize(blocks, owner, restart), tables)]
            copied = at
    return b"".join([*out, bones[copied:]])


def _take_tables(body: bytes, dc: dict[int, Table], ac: dict[int, Table]) -> None:
    at = 0
    while at + 17 <= len(body):
        counts = tuple(body[at + 1 : at + 17])
        symbols = tuple(body[at + 17 : at + 17 + sum(counts)])
        (ac if body[at] >> 4 else dc)[body[at] & 15] = Table(counts, symbols)
        at += 17 + sum(counts)


@dataclass(frozen=True)
class Masked:
    """A JPEG taken apart: the masked file, a patch per region, and the skeleton."""

    data: bytes
    patches: tuple[bytes, ...]
    bones: bytes


def dissect(data: bytes, regions: Sequence[Region]) -> Masked:
    """Mask the regions (all on frame 0, aligned to the MCU).

    Raises:
        ValueError: A region is not aligned or lies outside.
    """
    header = parse(data)
    check_aligned(header, regions)
    coefficients = read(data, header)
    patches = tuple(lift(coefficients, regions, i) for i in range(len(regions)))
    for region in regions:
        fill(coefficients, region)
    return Masked(write_plain(coefficients, data), patches, skeleton(data, header))


def assemble(
    masked: bytes, regions: Sequence[Region], patches: Mapping[int, bytes], bones: bytes | None
) -> bytes:
    """Put patches back; with the skeleton and all patches, the original file.

    Raises:
        SealBroken: A patch or the skeleton does not belong to this image.
    """
    coefficients = read(masked)
    for index, patch in patches.items():
        lay(coefficients, regions, index, patch)
    if bones is None:
        return write_plain(coefficients, masked)
    try:
        return rebuild(coefficients, bones)
    except (ValueError, KeyError, IndexError):
        return _with_segments(coefficients, bones)


def _with_segments(coefficients: Coefficients, bones: bytes) -> bytes:
    """A baseline file of the same coefficients with the original's metadata segments."""
    plain = write_plain(coefficients, b"")
    kept, at = [], 2
    while bones[at + 1] != EOI:
        stop = at + 2 + int.from_bytes(bones[at + 2 : at + 4])
        marker = bones[at + 1]
        if 0xE0 <= marker <= 0xEF or marker == COM:
            kept.append(bones[at:stop])
        at = stop
    return b"".join([plain[:2], *kept, plain[2:], bones[at + 2 :]])
