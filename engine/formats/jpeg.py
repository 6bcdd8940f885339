"""JPEG without generation loss: masks and restores DCT coefficients, never pixels.

Blocks outside the boxes keep their exact coefficients, but for those that reach beyond the picture
(:mod:`engine.formats.jpeg_edges`). The masked file is newly written from the
masked coefficients, with its own Huffman tables (the original tables reveal something about the
hidden content) and without metadata that could name a person. Restoring the blocks and writing
the scans with the original tables gives the original bytes for sequential files; a progressive
file is sealed whole.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import CorruptImage, SealBroken, UnsupportedFormat
from engine.formats import jpeg_edges, mask
from engine.formats.huffman import ZIGZAG, Table, blocks_of_scan, tokenize, write
from engine.formats.jpeg_edges import DCT, quantised
from engine.formats.jpeg_file import (
    COM,
    DHT,
    DQT,
    DRI,
    EOI,
    SOS,
    Coefficients,
    Header,
    encode_scan,
    parse,
    put_segment,
    read,
    write_plain,
)
from engine.records import Region


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
        target[..., 0] = quantised(np.where((x + y) % 4 == 0, light, dark) * 8, steps[0])
        side = min(high, wide, _LOCK_BLOCKS)
        if side >= 2:
            tone = np.where(mask.lock(side * 8), light, dark)
            tiles = tone.reshape(side, 8, side, 8).transpose(0, 2, 1, 3)
            spectrum = (DCT @ tiles @ DCT.T).reshape(side, side, 64)
            spectrum[..., _FINE] = 0
            top, left = (high - side) // 2, (wide - side) // 2
            target[top : top + side, left : left + side] = quantised(spectrum, steps)


_FINE = np.flatnonzero(np.add.outer(np.arange(8), np.arange(8)).reshape(-1) > 3)
_LOCK_BLOCKS = 4


def check_aligned(header: Header, regions: Sequence[Region]) -> None:
    """Regions must lie on the MCU grid, but for the right and bottom edge.

    Raises:
        ValueError: One does not, or lies outside.
    """
    w, h = header.mcu
    for r in regions:
        if r.aligned((w, h)).clipped(header.width, header.height, r.frame_end) != r:
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

    Layout: width and height in px, number of planes, per plane a table for DC and one for AC
    (the third plane has the second's), the entropy-coded scan, and a CRC-32, since JPEG
    decoders forgive much.
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
            raise SealBroken(
                "A sealed region does not match its image. Restore the image from a backup."
            )
        if mine is None:
            target[...] = part
        else:
            target[mine] = part[mine]


def _read_patch(header: Header, region: Region, patch: bytes) -> list[np.ndarray]:
    """Rebuild a small JPEG around the scan and read its coefficients."""
    body, checksum = patch[:-4], patch[-4:]
    expected = struct.pack(">HHB", region.width, region.height, len(header.components))
    if zlib.crc32(body).to_bytes(4) != checksum or body[:5] != expected:
        raise SealBroken(
            "A sealed region does not match its image. Restore the image from a backup."
        )
    out = [b"\xff\xd8", put_segment(DQT, b"\0" + b"\x01" * 64)]
    frame = struct.pack(">BHHB", 8, region.height, region.width, len(header.components))
    for c in header.components:
        frame += bytes([c.id, c.h << 4 | c.v, 0])
    out.append(put_segment(0xC0, frame))
    at, planes = 5, body[4]
    for slot in range(min(4, 2 * planes)):
        counts = body[at : at + 16]
        size = 16 + sum(counts)
        if sum(counts):
            out.append(put_segment(DHT, bytes([slot % 2 << 4 | slot // 2]) + body[at : at + size]))
        at += size
    selectors = b"".join(bytes([c.id, 0x11 * min(i, 1)]) for i, c in enumerate(header.components))
    out.append(put_segment(SOS, bytes([planes]) + selectors + bytes([0, 63, 0])))
    try:
        return read(b"".join([*out, body[at:], b"\xff\xd9"])).planes
    except (CorruptImage, UnsupportedFormat) as err:
        raise SealBroken(
            "A sealed region has invalid content. Restore the image from a backup."
        ) from err


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
    by_id: dict[int, int] = {}
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
        if marker in (0xC0, 0xC1):  # the masked file numbers its components anew
            by_id = {body[6 + 3 * i]: i for i in range(body[5])}
        elif marker == DHT:
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
    """A JPEG taken apart: the masked file, a patch per region, the skeleton, and the last blocks
    of the original (see :mod:`engine.formats.jpeg_edges`)."""

    data: bytes
    patches: tuple[bytes, ...]
    bones: bytes
    edges: bytes


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
    edges = jpeg_edges.take(coefficients, regions)
    return Masked(write_plain(coefficients, data), patches, skeleton(data, header), edges)


def assemble(
    masked: bytes,
    regions: Sequence[Region],
    patches: Mapping[int, bytes],
    bones: bytes | None,
    edges: bytes = b"",
) -> bytes:
    """Put patches back; with the skeleton, the last blocks and all patches, the original file.

    Raises:
        SealBroken: A patch or the skeleton does not belong to this image.
    """
    coefficients = read(masked)
    if bones is not None:
        jpeg_edges.give(coefficients, edges)
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
    plain = write_plain(coefficients, b"", keep_orientation=False)
    kept, at = [], 2
    while bones[at + 1] != EOI:
        stop = at + 2 + int.from_bytes(bones[at + 2 : at + 4])
        marker = bones[at + 1]
        if 0xE0 <= marker <= 0xEF or marker == COM:
            kept.append(bones[at:stop])
        at = stop
    return b"".join([plain[:2], *kept, plain[2:], bones[at + 2 :]])
