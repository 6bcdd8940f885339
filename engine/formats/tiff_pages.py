"""TIFF files of other kinds: pages that differ in size or kind, floats, 32 bits, CMYK.

Pages that differ share one canvas, at whose top left corner each lies; their kinds become the
simplest that holds all of them. The masked file has pages of their own sizes again.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import tifffile
from PIL import Image as Pillow

from engine.errors import CorruptImage, UnsupportedFormat
from engine.formats import colours, converted, mask, residue
from engine.formats.limits import check_size
from engine.records import Region

_PLAIN_TYPES = ("u1", "u2", "i1", "i2", "b1")
_TYPES = ("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8", "b1")
_CMYK, _MINISWHITE, _PALETTE, _LAB = 5, 0, 3, (8, 9, 10)
_YCBCR, _JPEG = 6, (6, 7)
_MOST_BELOW = 16  # directories under a page that are looked at
_RAW = (32803, 34892)  # colour filter array, linear raw
_DNG_VERSION, _ICC_PROFILE = 50706, 34675
Read = tuple[np.ndarray, tuple[int, int], dict[str, Any]]


def refuse(pages: Sequence[tifffile.TiffPage], data: bytes) -> None:
    """Refuse what is no picture that could be looked at.

    Args:
        data: The file, of which camera's programs show a part that no page has.

    Raises:
        UnsupportedFormat: With what to do.
    """
    for page in pages:
        below = page.subifds or ()
        if (
            _DNG_VERSION in page.tags
            or page.photometric in _RAW
            or any(_photometric(data, place) in _RAW for place in below[:_MOST_BELOW])
        ):
            raise UnsupportedFormat(
                "This is a camera's raw file, which is not supported. Export the picture as JPEG,"
                " PNG or TIFF with the camera's program."
            )
        if page.photometric in _LAB:
            raise UnsupportedFormat(
                "This TIFF file has CIE Lab colours, which are not supported. Save it as RGB."
            )
        if page.dtype is None or page.dtype.str.lstrip("<>|=") not in _TYPES:
            raise UnsupportedFormat(
                "This TIFF file is not supported. Save it with 1, 8, 16 or 32 bits per sample."
            )
        if page.samplesperpixel not in (1, 2, 3, 4) or page.photometric not in (0, 1, 2, 3, 5, 6):
            raise UnsupportedFormat(
                "This TIFF file is not supported. Save it as grey, palette, RGB or RGBA."
            )


def _photometric(data: bytes, place: int) -> int:
    """What a directory says of its colours; -1 where it says nothing that can be read."""
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] not in (b"*\0", b"\0*"):
        return -1
    with suppress(struct.error):
        (entries,) = struct.unpack_from(order + "H", data, place)
        for number in range(entries):
            tag, _, _, value = struct.unpack_from(order + "HHIH", data, place + 2 + 12 * number)
            if tag == 262:
                return int(value)
    return -1


def wanted(pages: Sequence[tifffile.TiffPage]) -> bool:
    """Must these pages be read by :func:`decode`?"""
    first = pages[0]
    kinds = {
        (p.imagelength, p.imagewidth, p.samplesperpixel, p.dtype, p.photometric, p.bitspersample)
        for p in pages
    }
    plain = first.dtype is not None and first.dtype.str.lstrip("<>|=") in _PLAIN_TYPES
    return len(kinds) > 1 or not plain or not _as_stored(first)


def _as_stored(page: tifffile.TiffPage) -> bool:
    """Are stored values written again as they are, rather than what is shown of them?"""
    odd = page.samplesperpixel > 2 and page.bitspersample not in (8, 16, 32, 64)
    # The reader undoes luma and chroma where JPEG coded them, and nowhere else.
    coloured = page.photometric == _CMYK or _is_luma_chroma(page)
    return not coloured and page.samplesperpixel != 2 and not odd


def _is_luma_chroma(page: tifffile.TiffPage) -> bool:
    return bool(page.photometric == _YCBCR and page.compression not in _JPEG)


def decode(pages: Sequence[tifffile.TiffPage], max_side_px: int, max_bytes: int) -> Read:
    """Read pages onto one canvas.

    Returns:
        As :func:`engine.formats.raster.decode`; ``sizes`` in the facts has height and width of each
        page where they differ.

    Raises:
        CorruptImage, ImageTooLarge, UnsupportedFormat: With what is wrong and what to do.
    """
    first = pages[0]
    kinds = {(p.dtype, p.samplesperpixel, p.photometric, p.bitspersample) for p in pages}
    alike = len(kinds) == 1 and _as_stored(first)
    if alike:
        channels, kind = first.samplesperpixel, _stored_type(first)
        facts = _facts(first, kind)
    else:
        channels, kind = _common(pages)
        facts = {
            "bits": 8 * kind.itemsize,
            "colour": {1: "grey", 3: "rgb", 4: "rgba"}[channels],
        }
    high, wide = max(p.imagelength for p in pages), max(p.imagewidth for p in pages)
    check_size(wide, high, len(pages), kind.itemsize * channels, max_side_px, max_bytes)
    canvas = np.zeros((len(pages), high, wide, channels), kind)
    for number, page in enumerate(pages):
        pixels = _samples(page)
        if not alike:
            pixels = _in_kind(_shown(page, pixels, kind), channels)
        canvas[number, : page.imagelength, : page.imagewidth] = pixels
    sizes = [[int(p.imagelength), int(p.imagewidth)] for p in pages]
    if any(size != [high, wide] for size in sizes):
        facts["sizes"] = sizes
    lossy = residue.lossy_tiff([page.compression for page in pages])
    stack = canvas[..., 0] if channels == 1 else canvas
    grid = (16, 16) if lossy else (1, 1)
    return np.ascontiguousarray(stack), grid, {**facts, "lossy": lossy > 0, "compression": lossy}


def _stored_type(page: tifffile.TiffPage) -> np.dtype:
    """The type of stored values here: half floats as floats, since few programs read them."""
    kind = np.dtype(page.dtype).newbyteorder("=")
    if kind.str[1:] == "f2":
        return np.dtype(np.float32)
    return np.dtype(np.uint8) if kind.kind == "b" else kind


def _facts(page: tifffile.TiffPage, kind: np.dtype) -> dict[str, Any]:
    colour = {1: "grey", 3: "rgb", 4: "rgba"}[page.samplesperpixel]
    bits = page.bitspersample if kind.itemsize < 4 else 8 * kind.itemsize
    facts: dict[str, Any] = {"bits": int(bits), "colour": colour}
    if page.photometric == _PALETTE and page.colormap is not None:
        facts |= {"colour": "palette", "colormap": np.asarray(page.colormap)}
    elif page.photometric == _MINISWHITE and page.samplesperpixel == 1:
        facts["colour"] = "grey inverted"
    return facts


def _common(pages: Sequence[tifffile.TiffPage]) -> tuple[int, np.dtype]:
    """Channels and type that hold what is shown of all pages."""
    types = [np.dtype(page.dtype) for page in pages]
    if any(kind.kind not in "ub" or kind.itemsize > 2 for kind in types):
        raise UnsupportedFormat(
            "This TIFF file has pages of different kinds, some of them with measured values. Save"
            " each page as a separate file."
        )
    alpha = any(p.samplesperpixel in (2, 4) and p.photometric != _CMYK for p in pages)
    colour = any(p.samplesperpixel > 2 or p.photometric == _PALETTE for p in pages)
    deep = any(
        kind.itemsize == 2 and page.photometric != _CMYK
        for kind, page in zip(types, pages, strict=True)
    )
    return 4 if alpha else 3 if colour else 1, np.dtype(np.uint16 if deep else np.uint8)


def _samples(page: tifffile.TiffPage) -> np.ndarray:
    """Stored values of a page, shape (height, width, channels)."""
    # into zeros: where strips are missing, the reader leaves what was in memory
    pixels = page.asarray(out=np.zeros(page.shape, page.dtype))
    if page.planarconfig == 2 and page.samplesperpixel > 1:
        pixels = np.moveaxis(pixels, 0, -1)
    shape = (page.imagelength, page.imagewidth, page.samplesperpixel)
    if pixels.size != np.prod(shape, dtype=np.int64) or pixels.shape[:2] != shape[:2]:
        raise CorruptImage(
            "This TIFF file is damaged: its page headers are not valid. Export it again."
        )
    return pixels.reshape(shape)


def _shown(page: tifffile.TiffPage, pixels: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Grey or colours of a page over the full range of a type, perhaps with opacity."""
    top = np.iinfo(kind).max
    if page.photometric == _PALETTE and page.colormap is not None:
        table = np.asarray(page.colormap).T
        colour = table[np.minimum(pixels[..., 0], len(table) - 1)]
        return colour.astype(kind) if kind == np.uint16 else (colour >> 8).astype(kind)
    if page.photometric == _CMYK and pixels.shape[2] == 4:
        inks = (pixels >> 8).astype(np.uint8) if pixels.dtype.itemsize == 2 else pixels
        icc = page.tags.valueof(_ICC_PROFILE) or b""
        shown = colours.from_cmyk(inks, bytes(icc))
        return shown if kind == np.uint8 else shown.astype(kind) * 257
    if _is_luma_chroma(page) and pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        pixels = np.asarray(Pillow.fromarray(np.ascontiguousarray(pixels), "YCbCr").convert("RGB"))
    if pixels.dtype == bool:
        wide = pixels.astype(kind) * top
    else:
        wide = converted.full_range(pixels, page.bitspersample)
        if wide.dtype != kind:  # 8 bits among pages of 16
            wide = wide.astype(kind) * (top // 255)
    return top - wide if page.photometric == _MINISWHITE else wide


def _in_kind(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Grey as colours, and opaque where other pages have opacity."""
    alpha = pixels[..., -1:] if pixels.shape[2] in (2, 4) else None
    colour = pixels[..., :1] if pixels.shape[2] < 3 else pixels[..., :3]
    if channels > 1 and colour.shape[2] == 1:
        colour = np.repeat(colour, 3, axis=2)
    if channels < 4:
        return colour
    if alpha is None:
        alpha = np.full_like(colour[..., :1], np.iinfo(pixels.dtype).max)
    return np.concatenate([colour, alpha], axis=2)


def own_size(page: np.ndarray, number: int, facts: Mapping[str, Any]) -> np.ndarray:
    """A page of the canvas without what other pages need."""
    if "sizes" not in facts:
        return page
    height, width = facts["sizes"][number]
    return np.ascontiguousarray(page[:height, :width])


def fill_floats(pixels: np.ndarray, regions: Sequence[Region]) -> None:
    """Draw the mask into measured values, in place, within the range of those outside."""
    for region in regions:
        free = pixels[region.frame][mask.outside(pixels.shape[1:3], regions, region.frame)]
        free = free[np.isfinite(free)]
        low, high = (float(free.min()), float(free.max())) if free.size else (0.0, 0.0)
        dark, light = mask.tones(low, high if high > low else low + 1.0)
        tone = np.where(mask.pattern(region.height, region.width), light, dark)
        target = pixels[region.slices]
        target[...] = tone if pixels.ndim == 3 else tone[..., None]
