"""Reproduce the original bytes of TIFF and BMP files from their pixels and the remaining bytes.

Uncompressed files, and files compressed by zlib, libdeflate or LZW with common settings, can be
reproduced byte for byte. This is verified before it is relied on. Otherwise the whole original is
sealed, as for WebP and JPEG in TIFF.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from engine.errors import SealBroken
from engine.records import Format

#: Offset and length in the file, frame, first and last row: a stretch of coded pixels.
Span = tuple[int, int, int, int, int]
_NONE, _LZW, _DEFLATE, _PACKBITS = (1,), (5,), (8, 32946), (32773,)
_CODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "none": lambda rows, _: rows,
    "zlib": zlib.compress,
    "deflate": lambda rows, level: bytes(imagecodecs.zlib_encode(rows, level)),
    "libdeflate": lambda rows, level: bytes(imagecodecs.deflate_encode(rows, level)),
    "lzw": lambda rows, _: bytes(imagecodecs.lzw_encode(rows)),
    "packbits": lambda rows, _: bytes(imagecodecs.packbits_encode(rows)),
}


def take(kind: Format, data: bytes, pixels: np.ndarray) -> dict[str, bytes] | None:
    """All of a TIFF or BMP but its pixels; None of others, or where coding cannot be repeated.

    Args:
        pixels: As :func:`engine.formats.raster.decode` returns them.
    """
    try:
        find = {Format.BMP: _bmp, Format.TIFF: _tiff}.get(kind)
        found = None if find is None else find(data, pixels)
        if found is None:
            return None
        coding, spans = found
        spans.sort()
        bones, at = [], 0
        for start, length, *_ in spans:
            bones.append(data[at:start])
            at = start + length
        bones.append(data[at:])
        parts = {
            "bones": b"".join(bones),
            "recipe": json.dumps({"coding": coding, "spans": spans}).encode(),
        }
        return parts if give(parts, pixels) == data else None
    except Exception:  # noqa: BLE001 - a strange file raises anything, and is sealed whole
        return None


def give(parts: Mapping[str, bytes], pixels: np.ndarray) -> bytes:
    """The original file.

    Raises:
        SealBroken: Parts and pixels do not belong together.
    """
    try:
        recipe = json.loads(parts["recipe"])
        bones, at, written, out = parts["bones"], 0, 0, []
        for start, length, frame, first, last in recipe["spans"]:
            out.append(bones[at : at + start - written])
            at += start - written
            out.append(_coded(pixels[frame, first:last], recipe["coding"]))
            written = start + length
        return b"".join([*out, bones[at:]])
    except (KeyError, IndexError, TypeError, ValueError) as err:
        raise SealBroken(
            "A sealed part does not match its image. Restore the image from a backup."
        ) from err


def _coded(rows: np.ndarray, coding: Mapping[str, Any]) -> bytes:
    if coding["bits"] == 1:
        raw = np.packbits(rows, axis=1).tobytes()
    elif "row_bytes" in coding:  # BMP: blue first, rows padded to four bytes
        order = rows[..., ::-1] if rows.ndim == 3 else rows
        order = order if coding["top_down"] else order[::-1]
        flat = np.ascontiguousarray(order).reshape(len(rows), -1)
        padded = np.zeros((len(rows), coding["row_bytes"]), np.uint8)
        padded[:, : flat.shape[1]] = flat
        raw = padded.tobytes()
    else:
        if coding["differences"]:
            rows = np.diff(rows, axis=1, prepend=np.zeros_like(rows[:, :1]))
        raw = rows.astype(rows.dtype.newbyteorder(coding["order"])).tobytes()
    return _CODERS[coding["coder"]](raw, coding["level"])


def _bmp(data: bytes, pixels: np.ndarray) -> tuple[dict[str, Any], list[Span]] | None:
    (start,) = struct.unpack_from("<I", data, 10)
    height, bits, compression = *struct.unpack_from("<i", data, 22), data[28], data[30]
    if compression or bits != 8 * (pixels.shape[3] if pixels.ndim == 4 else 1):
        return None
    row_bytes = -(-pixels.shape[2] * bits // 32) * 4
    coding = {"coder": "none", "level": 0, "bits": bits, "row_bytes": row_bytes}
    span = (start, row_bytes * abs(height), 0, 0, abs(height))
    return {**coding, "top_down": height < 0}, [span]


def _tiff(data: bytes, pixels: np.ndarray) -> tuple[dict[str, Any], list[Span]] | None:
    spans: list[Span] = []
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        pages = [page.aspage() for page in file.pages]
        first = pages[0]
        for frame, page in enumerate(pages):
            same = (page.compression, page.predictor) == (first.compression, first.predictor)
            if not same or page.is_tiled or (page.planarconfig == 2 and page.samplesperpixel > 1):
                return None
            for number, (start, length) in enumerate(
                zip(page.dataoffsets, page.databytecounts, strict=True)
            ):
                top = number * page.rowsperstrip
                bottom = min(top + page.rowsperstrip, page.imagelength)
                spans.append((start, length, frame, top, bottom))
        coding = {
            "bits": first.bitspersample,
            "order": file.byteorder,
            "differences": first.predictor == 2,
        }
        if first.predictor not in (1, 2) or first.fillorder != 1:
            return None
    start, length, frame, top, bottom = spans[0]
    for coder, level in _likely(int(first.compression)):
        one = {**coding, "coder": coder, "level": level}
        if _coded(pixels[frame, top:bottom], one) == data[start : start + length]:
            return one, spans
    return None


def _likely(compression: int) -> list[tuple[str, int]]:
    """Coders and levels to try, the usual first."""
    if compression in _NONE:
        return [("none", 0)]
    if compression in _LZW:
        return [("lzw", 0)]
    if compression in _PACKBITS:
        return [("packbits", 0)]
    if compression in _DEFLATE:
        return [(c, level) for level in (6, 9, 1, 8, 7, 5, 4, 3, 2)
                for c in ("zlib", "deflate", "libdeflate")]  # fmt: skip
    return []
