"""PNG: mask samples, and restore the original bytes.

Most PNGs were deflated by zlib; where the same parameters give the same stream, everything but
the samples is sealed, otherwise the whole file. The masked file is written anew from samples that
a viewer shows (:mod:`engine.formats.unseen`) and from a few numbers.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import imagecodecs
import numpy as np

from engine.errors import SealBroken
from engine.formats import icc, mask, patches, unseen
from engine.formats.exif import block_of
from engine.formats.png import (
    CHANNELS,
    GREY_ALPHA,
    PALETTE,
    RGBA,
    Header,
    chunk,
    deflated,
    expand,
    filtered,
    header_of,
    inflate,
    orientation,
    parse,
    samples,
    write,
)
from engine.records import Region

_PROBE_BYTES = 1 << 16
_PROFILE_BYTES = 1 << 22


def dissect(
    data: bytes, regions: Sequence[Region]
) -> tuple[bytes, tuple[bytes, ...], dict[str, bytes]]:
    """Mask the regions, all on frame 0.

    Returns:
        The masked file, a patch per region, and the parts of the remainder.
    """
    header = parse(data)
    pixels = samples(data, header)
    stack = pixels[None]
    lifted = [mask.lift(stack, regions, i) for i in range(len(regions))]
    parts = _layout(data, header)
    plain = replace(header, interlaced=False)
    if header.colour == PALETTE:
        first, table = unseen.one_of_each(_table(header))
        masked = first.astype(np.uint8)[pixels]
        parts["unseen"] = unseen.difference(stack, masked[None], regions)
        turned = _turned(data, header)
        file, parts["indices"] = _mask_palette(masked, table, regions, plain, turned)
        coded = tuple(_with_palette(part, header) for part in lifted)
        return file, coded, parts
    masked = pixels.copy()
    if header.colour in (GREY_ALPHA, RGBA):
        masked = unseen.opaque_enough(pixels)
        parts["unseen"] = unseen.difference(stack, masked[None], regions)
    _fill(masked, regions, header)
    coded = tuple(patches.encode(part) for part in lifted)
    return write(masked, plain, _harmless(data, header)), coded, parts


def _harmless(data: bytes, header: Header) -> list[tuple[bytes, bytes]]:
    """Chunks that a viewer needs, of numbers that can be meant, each once and of its one length.

    All others stay with the sealed part.
    """
    out: dict[bytes, bytes] = {}
    for kind, start, end in header.chunks:
        body = data[start:end]
        if kind == b"iCCP" and kind not in out:
            profile = icc.without_words(_profile(body))
            if profile is not None:
                out[kind] = b"ICC profile\0\0" + zlib.compress(profile, 9)
        elif kind in _LARGEST and kind not in out:
            form, largest = _LARGEST[kind]
            if struct.calcsize(form) == len(body) and all(
                value <= top for value, top in zip(struct.unpack(form, body), largest, strict=True)
            ):
                out[kind] = body
    colours = CHANNELS[header.colour]
    sizes = [data[c.start : c.end] for c in header.chunks if c.kind == b"sBIT"]
    if sizes and len(sizes[0]) == colours and all(1 <= v <= header.depth for v in sizes[0]):
        out[b"sBIT"] = sizes[0]
    if header.alpha:
        key = [v & (1 << header.depth) - 1 for v in _key(header)]
        if len(key) == colours:
            out[b"tRNS"] = struct.pack(f">{colours}H", *key)
    return [*out.items(), *_turned(data, header)]


#: How a chunk's numbers stand in it, and the largest of each that a picture can have.
_LARGEST: dict[bytes, tuple[str, tuple[int, ...]]] = {
    b"gAMA": (">I", (1_000_000,)),
    b"cHRM": (">8I", (200_000,) * 8),
    b"sRGB": (">B", (3,)),
    b"pHYs": (">IIB", (1_000_000, 1_000_000, 1)),
}


def _profile(body: bytes) -> bytes:
    """The profile in an iCCP chunk; empty where there is none."""
    _, _, stream = body.partition(b"\0")
    try:
        return zlib.decompressobj().decompress(stream[1:], _PROFILE_BYTES)
    except zlib.error:
        return b""


def _key(header: Header) -> tuple[int, ...]:
    """The samples of the colour that a tRNS chunk makes transparent."""
    return struct.unpack(f">{len(header.alpha) // 2}H", header.alpha[: len(header.alpha) // 2 * 2])


def _table(header: Header) -> np.ndarray:
    """The palette as RGBA, shape (256, 4), uint8; black where it has no entry."""
    return expand(np.arange(256, dtype=np.uint8), header.palette, header.alpha)


def mask_samples(stack: np.ndarray, regions: Sequence[Region]) -> tuple[bytes, tuple[bytes, ...]]:
    """A new masked file of samples that came from no PNG, and a patch per region.

    Args:
        stack: Shape (1, height, width) or (1, height, width, channels), uint8 or uint16.
    """
    header = header_of(stack[0])
    coded = tuple(patches.encode(mask.lift(stack, regions, i)) for i in range(len(regions)))
    masked = stack[0].copy()
    _fill(masked, regions, header)
    return write(masked, header), coded


def _turned(data: bytes, header: Header) -> list[tuple[bytes, bytes]]:
    """A new chunk of EXIF that says which way up the picture is, where it is not stored so."""
    turn = orientation(data, header)
    return [(b"eXIf", block_of(turn))] if turn != 1 else []


def _fill(pixels: np.ndarray, regions: Sequence[Region], header: Header) -> None:
    """Draw the fill into samples that are grey or colours, in place."""
    top = (1 << header.depth) - 1
    low, high = 0, top
    if header.depth == 16:
        # many 16-bit files use a small part of the range: stay within what is outside
        free = pixels[mask.outside(pixels.shape, regions, 0)]
        if free.size and int(free.max()) - int(free.min()) > 16:
            low, high = int(free.min()), int(free.max())
    dark, light = (round(t) for t in mask.tones(low, high))
    if header.depth < 4:
        dark, light = 0, top
    key = set(_key(header))
    dark, light = (t + 1 if t in key and t < top else t for t in (dark, light))
    for region in regions:
        tone = np.where(mask.pattern(region.height, region.width), light, dark)
        target = pixels[region.slices[1:]]
        if pixels.ndim == 2:
            target[...] = tone
        else:
            colours = pixels.shape[2] - (header.colour in (GREY_ALPHA, RGBA))
            target[..., :colours] = tone[..., None]
            target[..., colours:] = top


def _mask_palette(
    pixels: np.ndarray,
    table: np.ndarray,
    regions: Sequence[Region],
    header: Header,
    turned: Sequence[tuple[bytes, bytes]],
) -> tuple[bytes, bytes]:
    """Mask indices under a palette that holds only colours seen outside the boxes.

    Args:
        table: Shape (256, 4), uint8.

    Returns:
        The file, and the original index of each entry that was kept.
    """
    used = np.unique(pixels[mask.outside(pixels.shape, regions, 0)])
    kept, kept_alpha = table[used, :3], table[used, 3]
    fills = []
    for tone in mask.tones(0, 255):
        if len(kept) < 256:
            fills.append(len(kept))
            kept = np.vstack([kept, np.full((1, 3), round(tone), np.uint8)])
            kept_alpha = np.append(kept_alpha, np.uint8(255))
        else:  # all 256 are in use outside: the nearest of them
            distance = np.abs(kept.astype(int) - tone).sum(axis=1) + (255 - kept_alpha.astype(int))
            distance[fills] = 10_000  # two different ones
            fills.append(int(distance.argmin()))
    rank = np.zeros(256, np.uint8)
    rank[used] = np.arange(len(used))
    pixels[...] = rank[pixels]
    for region in regions:
        light = mask.pattern(region.height, region.width)
        pixels[region.slices[1:]] = np.where(light, fills[1], fills[0])
    depth = next(d for d in (1, 2, 4, 8) if len(kept) <= 1 << d)
    others = [*turned, (b"PLTE", kept.tobytes())]
    if (kept_alpha != 255).any():
        others.append((b"tRNS", kept_alpha.tobytes()))
    return write(pixels, replace(header, depth=depth), others), used.astype(np.uint8).tobytes()


def _with_palette(part: np.ndarray, header: Header) -> bytes:
    """A patch of indices carries the colours it needs to be seen by itself."""
    return patches.pack(
        {"pixels": patches.encode(part), "palette": header.palette, "alpha": header.alpha}
    )


def assemble(
    masked: bytes,
    regions: Sequence[Region],
    coded: Mapping[int, bytes],
    parts: Mapping[str, bytes] | None,
) -> bytes:
    """Put patches back; with all of them and the remainder's parts, the original file."""
    header = parse(masked)
    pixels = samples(masked, header)
    if header.colour == PALETTE:
        turned = _turned(masked, header)
        return _assemble_palette(pixels, header, regions, coded, parts, turned)
    if parts is not None:
        unseen.put_back(pixels[None], parts.get("unseen", b""))
    for index, patch in coded.items():
        _lay(pixels, regions, index, patches.decode(patch))
    if parts is None:
        return write(pixels, header, _harmless(masked, header))
    return _rewrite(pixels, parts)


def _lay(pixels: np.ndarray, regions: Sequence[Region], index: int, part: np.ndarray) -> None:
    target = pixels[None]
    if part.shape != target[regions[index].slices].shape or part.dtype != pixels.dtype:
        raise SealBroken(
            "A sealed region does not match its image. Restore the image from a backup."
        )
    mask.lay(target, regions, index, part)


def _assemble_palette(
    indices: np.ndarray,
    header: Header,
    regions: Sequence[Region],
    coded: Mapping[int, bytes],
    parts: Mapping[str, bytes] | None,
    turned: Sequence[tuple[bytes, bytes]],
) -> bytes:
    opened = {index: patches.unpack(patch) for index, patch in coded.items()}
    if parts is None:
        pixels = expand(indices, header.palette, header.alpha)
        for index, patch in opened.items():
            part = patches.decode(patch["pixels"])
            seen = expand(part[0], patch["palette"], patch["alpha"])[None]
            _lay(pixels, regions, index, seen)
        return write(pixels, header_of(pixels), turned)
    used = np.frombuffer(parts["indices"], np.uint8)
    original = np.zeros(256, np.uint8)
    original[: len(used)] = used
    pixels = original[indices]
    unseen.put_back(pixels[None], parts.get("unseen", b""))
    for index, patch in opened.items():
        _lay(pixels, regions, index, patches.decode(patch["pixels"]))
    return _rewrite(pixels, parts)


# --- the original bytes again --------------------------------------------------------------


def _layout(data: bytes, header: Header) -> dict[str, bytes]:
    """All of the file but the picture: what :func:`_rewrite` needs."""
    spans = [c for c in header.chunks if c.kind == b"IDAT"]
    adjacent = all(b.start - a.end == 12 for a, b in pairwise(spans))
    stream = deflated(data, header)
    rows = inflate(stream, header)
    types, at = [], 0
    for x0, y0, dx, dy in header.passes():
        w, h = -(-(header.width - x0) // dx), -(-(header.height - y0) // dy)
        size = 1 + -(-w * header.depth * CHANNELS[header.colour] // 8)
        types.append(rows[at : at + h * size : size])
        at += h * size
    parts = {
        "head": data[: spans[0].start - 8],
        "tail": data[spans[-1].end + 4 :],
        "lengths": np.array([c.end - c.start for c in spans], "<u4").tobytes(),
        "filters": b"".join(types),
        "zlib": b"",
    }
    found = _find_parameters(stream, rows) if adjacent else None
    if found is not None:
        parts["zlib"] = bytes(found)
    return parts


def _deflate(rows: bytes, level: int, memory: int, strategy: int, first: int, second: int) -> bytes:
    """zlib with these parameters, under the given two header bytes.

    libpng writes a smaller window into the header than it used, so the header is copied.
    """
    engine = zlib.compressobj(level, zlib.DEFLATED, 15, memory, strategy)
    stream = engine.compress(rows) + engine.flush()
    return bytes([first, second]) + stream[2:]


def _find_parameters(stream: bytes, rows: bytes) -> tuple[int, int, int, int, int] | None:
    """Level, memory, strategy and header bytes that give this stream, if there are any."""
    if len(stream) < 6 or stream[0] & 15 != 8:
        return None
    first, second = stream[0], stream[1]
    levels = ((1, 0), (5, 4, 3, 2), (6,), (9, 8, 7))[second >> 6]
    for strategy in (0, 1, 3, 2, 4):
        for level in levels:
            for memory in (8, 9):
                if _gives(stream, rows, level, memory, strategy):
                    return level, memory, strategy, first, second
    return None


def _gives(stream: bytes, rows: bytes, level: int, memory: int, strategy: int) -> bool:
    """Whether zlib with these parameters writes this stream; stops at the first difference."""
    engine = zlib.compressobj(level, zlib.DEFLATED, 15, memory, strategy)
    at = 0
    for start in range(0, len(rows), _PROBE_BYTES):
        made = engine.compress(rows[start : start + _PROBE_BYTES])
        skip = max(0, 2 - at)  # header bytes are copied, see above
        if made[skip:] != stream[at + skip : at + len(made)]:
            return False
        at += len(made)
    made = engine.flush()
    skip = max(0, 2 - at)
    return made[skip:] == stream[at + skip :]


def _rewrite(pixels: np.ndarray, parts: Mapping[str, bytes]) -> bytes:
    """The original file from its samples and all that is not samples."""
    head = parts["head"]
    ihdr = struct.unpack_from(">IIBBBBB", head, 16)
    header = Header(ihdr[0], ihdr[1], ihdr[2], ihdr[3], bool(ihdr[6]))
    if pixels.shape[:2] != (header.height, header.width):
        raise SealBroken(
            "The sealed header does not match its image. Restore the image from a backup."
        )
    types = np.frombuffer(parts["filters"], np.uint8)
    rows = filtered(pixels, header, types)
    if not parts["zlib"]:
        stream = bytes(imagecodecs.deflate_encode(rows, 9))
        return head + chunk(b"IDAT", stream) + parts["tail"]
    stream = _deflate(rows, *parts["zlib"])
    out, at = [head], 0
    for length in np.frombuffer(parts["lengths"], "<u4").tolist():
        out.append(chunk(b"IDAT", stream[at : at + length]))
        at += length
    out.append(parts["tail"])
    return b"".join(out)
