"""PNG (ISO/IEC 15948): chunks, stored samples of every kind, and new files.

Of an animated PNG, the picture is its default one, as readers without animation show it. Refuses a
file that would inflate to less than its header promises.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import imagecodecs
import numpy as np

from engine.errors import CorruptImage
from engine.formats.exif import orientation_of

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
_DEPTHS = {
    GREY: (1, 2, 4, 8, 16),
    RGB: (8, 16),
    PALETTE: (1, 2, 4, 8),
    GREY_ALPHA: (8, 16),
    RGBA: (8, 16),
}
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_MAX_CHUNKS = 200_000


class Chunk(NamedTuple):
    kind: bytes
    start: int  # of its body
    end: int


@dataclass(frozen=True)
class Header:
    """What IHDR and the list of chunks say."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool
    chunks: tuple[Chunk, ...] = ()
    palette: bytes = b""
    alpha: bytes = b""  # body of tRNS
    end: int = 0  # first byte after IEND

    @property
    def transparent(self) -> tuple[int, ...] | None:
        """The grey level or colour that stands for no colour; None where there is none."""
        if self.colour not in (GREY, RGB) or len(self.alpha) != 2 * CHANNELS[self.colour]:
            return None
        # Of a file of fewer bits, decoders take the lowest ones.
        top = (1 << self.depth) - 1
        return tuple(v & top for v in struct.unpack(f">{len(self.alpha) // 2}H", self.alpha))

    @property
    def row_bytes(self) -> int:
        return -(-self.width * self.depth * CHANNELS[self.colour] // 8)

    @property
    def step(self) -> int:
        """Bytes per whole pixel, at least 1: what filters look back."""
        return max(1, self.depth * CHANNELS[self.colour] // 8)

    def passes(self) -> Iterator[tuple[int, int, int, int]]:
        """(x0, y0, dx, dy) of each non-empty pass."""
        for x0, y0, dx, dy in _ADAM7 if self.interlaced else ((0, 0, 1, 1),):
            if self.width > x0 and self.height > y0:
                yield x0, y0, dx, dy

    @property
    def inflated_bytes(self) -> int:
        """Length of the filtered rows of all passes."""
        bits = self.depth * CHANNELS[self.colour]
        total = 0
        for x0, y0, dx, dy in self.passes():
            w, h = -(-(self.width - x0) // dx), -(-(self.height - y0) // dy)
            total += h * (1 + -(-w * bits // 8))
        return total


def parse(data: bytes) -> Header:
    """Read the chunk list and IHDR.

    Raises:
        CorruptImage: Not a PNG, cut off, or contradictory.
    """
    if not data.startswith(SIGNATURE):
        raise CorruptImage("This is not a PNG file.")
    chunks: list[Chunk] = []
    at = len(SIGNATURE)
    while not chunks or chunks[-1].kind != b"IEND":
        if at + 12 > len(data) or len(chunks) > _MAX_CHUNKS:
            raise CorruptImage("This PNG file ends too early: send the complete file.")
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        if at + 12 + length > len(data):
            raise CorruptImage("This PNG file ends too early: send the complete file.")
        chunks.append(Chunk(kind, at + 8, at + 8 + length))
        at += 12 + length
    if chunks[0].kind != b"IHDR" or chunks[0].end - chunks[0].start != 13:
        raise CorruptImage("This PNG file is damaged: its header is not at the beginning.")
    kinds = [c.kind for c in chunks]
    if b"IDAT" not in kinds:
        raise CorruptImage("This PNG file contains no picture. Choose another file.")
    if kinds.count(b"IHDR") > 1 or kinds.count(b"PLTE") > 1:
        raise CorruptImage("This PNG file is damaged: a part occurs twice.")
    width, height, depth, colour, method, filters, interlace = struct.unpack_from(
        ">IIBBBBB", data, chunks[0].start
    )
    if not width or not height:
        raise CorruptImage("This PNG file is damaged: it has no width or height. Export it again.")
    known = colour in _DEPTHS and depth in _DEPTHS[colour]
    if not known or method or filters or interlace > 1:
        raise CorruptImage("This PNG file is damaged: its header is not valid. Export it again.")
    body = {c.kind: data[c.start : c.end] for c in chunks if c.kind in (b"PLTE", b"tRNS")}
    palette = body.get(b"PLTE", b"")
    if colour == PALETTE and (not palette or len(palette) % 3 or len(palette) > 768):
        raise CorruptImage("This PNG file is damaged: its palette is missing or broken.")
    return Header(
        width, height, depth, colour, bool(interlace), tuple(chunks), palette,
        body.get(b"tRNS", b""), at,
    )  # fmt: skip


def orientation(data: bytes, header: Header) -> int:
    """Which way up it is, 1 to 8, as EXIF says it."""
    blocks = (data[c.start : c.end] for c in header.chunks if c.kind == b"eXIf")
    return orientation_of(next(blocks, b""))


def gamma(data: bytes, header: Header) -> float:
    """The file's gamma, 1/2.2 for most screens; 0 where it says none."""
    for c in header.chunks:
        if c.kind == b"gAMA" and c.end - c.start == 4:
            return int.from_bytes(data[c.start : c.end]) / 100_000
    return 0.0


def deflated(data: bytes, header: Header) -> bytes:
    """All IDAT bodies joined."""
    return b"".join(data[c.start : c.end] for c in header.chunks if c.kind == b"IDAT")


def inflate(stream: bytes, header: Header) -> bytes:
    """Filtered rows; never more than the header promises.

    Raises:
        CorruptImage: Too short, too long or not a zlib stream.
    """
    engine = zlib.decompressobj()
    try:
        rows = engine.decompress(stream, header.inflated_bytes)
    except zlib.error as err:
        raise CorruptImage("This PNG file is damaged: its picture cannot be decoded.") from err
    if len(rows) < header.inflated_bytes:
        raise CorruptImage("This PNG file ends too early: send the complete file.")
    return rows


def samples(data: bytes, header: Header) -> np.ndarray:
    """Stored samples: grey levels, palette indices or colours, never scaled.

    Returns:
        Shape (height, width) or (height, width, channels), uint8 or uint16.

    Raises:
        CorruptImage: The picture cannot be decoded.
    """
    rows = inflate(deflated(data, header), header)
    out = np.zeros((header.height, header.width, CHANNELS[header.colour]), _dtype(header))
    at = 0
    for x0, y0, dx, dy in header.passes():
        part = replace(
            header,
            width=-(-(header.width - x0) // dx),
            height=-(-(header.height - y0) // dy),
            interlaced=False,
        )
        size = part.height * (1 + part.row_bytes)
        out[y0::dy, x0::dx] = _unpacked(_unfiltered(rows[at : at + size], part), part)
        at += size
    if header.colour == PALETTE and int(out.max()) * 3 >= len(header.palette):
        raise CorruptImage("This PNG file is damaged: it uses a colour that its palette lacks.")
    return out[..., 0] if out.shape[2] == 1 else out


def _dtype(header: Header) -> np.dtype:
    return np.dtype(np.uint16 if header.depth == 16 else np.uint8)


def _unfiltered(rows: bytes, header: Header) -> np.ndarray:
    """Undo the row filters with libpng: bytes of packed rows, shape (height, row bytes).

    Filters work on bytes, so rows of any kind are undone as the byte picture with the same
    step; nothing in libpng then scales, expands or corrects them.
    """
    colour, depth = {
        1: (GREY, 8),
        2: (GREY, 16),
        3: (RGB, 8),
        4: (RGBA, 8),
        6: (RGB, 16),
        8: (RGBA, 16),
    }[header.step]
    if max(rows[:: header.row_bytes + 1], default=0) > 4:
        raise CorruptImage("This PNG file is damaged: a row has an unknown filter.")
    width = header.row_bytes // header.step
    plain = Header(width, header.height, depth, colour, False)
    try:
        pixels = imagecodecs.png_decode(_file(plain, bytes(imagecodecs.zlib_encode(rows, 0)), []))
    except (RuntimeError, ValueError) as err:
        raise CorruptImage("This PNG file is damaged: its picture cannot be decoded.") from err
    if depth == 16:
        pixels = pixels.astype(">u2")
    return np.ascontiguousarray(pixels).view(np.uint8).reshape(header.height, header.row_bytes)


def _unpacked(packed: np.ndarray, header: Header) -> np.ndarray:
    """Packed rows to samples, shape (height, width, channels)."""
    shape = (header.height, header.width, CHANNELS[header.colour])
    if header.depth == 16:
        return packed.view(">u2").astype(np.uint16).reshape(shape)
    if header.depth == 8:
        return packed.reshape(shape)
    bits = np.unpackbits(packed, axis=1).reshape(header.height, -1, header.depth)
    weights = (1 << np.arange(header.depth)[::-1]).astype(np.uint8)
    return (bits @ weights).astype(np.uint8)[:, : header.width].reshape(shape)


def _packed(pixels: np.ndarray, header: Header) -> np.ndarray:
    """Samples to packed rows, shape (height, row bytes), uint8."""
    height = pixels.shape[0]
    if header.depth == 16:
        return np.ascontiguousarray(pixels.astype(">u2")).view(np.uint8).reshape(height, -1)
    if header.depth == 8:
        return np.ascontiguousarray(pixels, dtype=np.uint8).reshape(height, -1)
    shifts = np.arange(header.depth)[::-1].astype(np.uint8)
    bits = (pixels.reshape(height, -1, 1) >> shifts & 1).reshape(height, -1)
    return np.packbits(bits, axis=1)


def _neighbours(rows: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left, above and above-left of each byte (zero outside)."""
    left, above, corner = np.zeros_like(rows), np.zeros_like(rows), np.zeros_like(rows)
    left[:, step:] = rows[:, :-step]
    above[1:] = rows[:-1]
    corner[1:, step:] = rows[:-1, :-step]
    return left, above, corner


def _candidate(kind: int, rows: np.ndarray, step: int) -> np.ndarray:
    """All rows under one filter type."""
    if kind == 0:
        return rows
    left, above, corner = _neighbours(rows, step)
    if kind == 1:
        return rows - left
    if kind == 2:
        return rows - above
    if kind == 3:
        return rows - ((left.astype(np.uint16) + above) >> 1).astype(np.uint8)
    a, b, c = (n.astype(np.int16) for n in (left, above, corner))
    p = a + b - c
    pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
    best = np.where((pa <= pb) & (pa <= pc), left, np.where(pb <= pc, above, corner))
    return rows - best


def filtered(pixels: np.ndarray, header: Header, types: np.ndarray | None = None) -> bytes:
    """Filtered rows of all passes.

    Args:
        pixels: Shape (height, width) or (height, width, channels).
        types: One filter type per row of each pass; chosen here by the least sum of
            absolute differences where None (none at all for palettes and packed samples).
    """
    out, at = [], 0
    for x0, y0, dx, dy in header.passes():
        rows = _packed(pixels[y0::dy, x0::dx], header)
        mine = None if types is None else types[at : at + len(rows)]
        at += len(rows)
        band = max(2, (8 << 20) // max(1, rows.shape[1]))
        for top in range(0, len(rows), band):
            some = rows[max(0, top - 1) : top + band]  # with the row above
            skip = int(top > 0)
            chosen = None if mine is None else mine[top : top + band]
            out.append(_filter_band(some, skip, header, chosen))
    return b"".join(out)


def _filter_band(rows: np.ndarray, skip: int, header: Header, types: np.ndarray | None) -> bytes:
    count = len(rows) - skip
    result = np.empty((count, rows.shape[1] + 1), np.uint8)
    if types is None and (header.depth < 8 or header.colour == PALETTE):
        types = np.zeros(count, np.uint8)
    if types is not None:
        for kind in np.unique(types):
            at = np.flatnonzero(types == kind)
            result[at, 1:] = _candidate(int(kind), rows, header.step)[skip:][at]
        result[:, 0] = types
        return result.tobytes()
    least = np.full(count, np.iinfo(np.int64).max)
    for kind in range(5):
        made = _candidate(kind, rows, header.step)[skip:]
        cost = np.abs(made.view(np.int8).astype(np.int16)).sum(axis=1, dtype=np.int64)
        better = cost < least
        least[better] = cost[better]
        result[better, 0] = kind
        result[better, 1:] = made[better]
    return result.tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _file(header: Header, stream: bytes, others: Sequence[tuple[bytes, bytes]]) -> bytes:
    head = struct.pack(
        ">IIBBBBB", header.width, header.height, header.depth, header.colour, 0, 0,
        int(header.interlaced),
    )  # fmt: skip
    chunks = [(b"IHDR", head), *others, (b"IDAT", stream), (b"IEND", b"")]
    return SIGNATURE + b"".join(chunk(kind, body) for kind, body in chunks)


def write(pixels: np.ndarray, header: Header, others: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """A new file; its filters and compression come from these samples alone."""
    plain = replace(header, interlaced=False)
    rows = filtered(pixels, plain)
    level = 9 if len(rows) < 16 << 20 else 6
    streams = [bytes(imagecodecs.deflate_encode(rows, level))]
    if len(rows) < 4 << 20:  # drawings are smaller without filters
        none = filtered(pixels, plain, np.zeros(plain.height, np.uint8))
        streams.append(bytes(imagecodecs.deflate_encode(none, level)))
    return _file(plain, min(streams, key=len), others)


def header_of(pixels: np.ndarray) -> Header:
    """The header of a new file for an array (height, width[, channels]), uint8 or uint16."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    colour = {1: GREY, 2: GREY_ALPHA, 3: RGB, 4: RGBA}[channels]
    return Header(pixels.shape[1], pixels.shape[0], 8 * pixels.dtype.itemsize, colour, False)


def expand(indices: np.ndarray, palette: bytes, alpha: bytes) -> np.ndarray:
    """Palette indices as RGBA: shape (height, width, 4), uint8."""
    table = np.zeros((256, 4), np.uint8)
    table[:, 3] = 255
    table[: len(palette) // 3, :3] = np.frombuffer(palette, np.uint8).reshape(-1, 3)
    table[: len(alpha), 3] = np.frombuffer(alpha, np.uint8)
    return table[indices]
