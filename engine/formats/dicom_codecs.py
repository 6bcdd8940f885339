"""Compressed DICOM frames: decoding and lossless encoding, one frame at a time.

Decoding is pydicom's (with pylibjpeg and its C libraries), and of imagecodecs where pydicom has no
decoder; encoding is lossless, checked by decoding again, and in the transfer syntax that the file
already has.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import imagecodecs
import numpy as np
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from engine.errors import CorruptImage
from engine.formats import dicom_colour, jxl_size
from engine.formats.dicom_file import encapsulate, quiet
from engine.formats.dicom_pixels import (
    CELLS,
    DEFLATED_FRAME,
    ENCAPSULATED_PLAIN,
    JPEG_LS,
    JPEG_RETIRED,
    JPEG_WHOLE,
    JPEG_XL,
    Layout,
    inflated,
    native,
    store_native,
)

_FRAME_HEADERS = frozenset((0xF7, *range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC)))
_DAMAGED = "This DICOM file is damaged: its pixel data cannot be decoded."


def decode_frames(
    frames: Sequence[bytes], layout: Layout, syntax: UID, indices: Sequence[int] | None = None
) -> Iterator[np.ndarray]:
    """Stored values frame by frame, each of ``layout.shape``.

    Raises:
        CorruptImage: A frame cannot be decoded, or is of another size than the header says.
    """
    options: dict[str, Any] = {
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": layout.samples,
        "photometric_interpretation": layout.photometric,
        "pixel_representation": int(layout.signed),
        "bits_allocated": layout.allocated,
        "bits_stored": layout.stored,
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
    }
    if layout.samples > 1:
        options["planar_configuration"] = 0  # of no meaning in a codestream
    own = syntax in CELLS or syntax in JPEG_XL or syntax in JPEG_RETIRED
    decoder = None if own else get_decoder(syntax)
    for index in range(len(frames)) if indices is None else indices:
        if decoder is None:
            yield _own(frames[index], layout, syntax, index)
            continue
        check_size(frames[index], layout)
        if syntax in JPEG_WHOLE and _point_transform(frames[index]):
            yield _by_turbo(frames[index], layout, index)  # pylibjpeg 2.5 adds an offset
            continue
        narrow = {}
        if layout.dtype.itemsize == 2 and _precision(frames[index]) <= 8:
            narrow = {"bits_allocated": 8, "bits_stored": 8}  # else pydicom expects two bytes
        try:
            with quiet():
                pixels, _ = decoder.as_array(
                    encapsulate([frames[index]]), index=0, raw=True, **{**options, **narrow}
                )
        except Exception as err:
            other = _second_opinion(frames[index], layout, syntax)
            if other is None:
                raise CorruptImage(_DAMAGED, frame=index) from err
            pixels = other
        if pixels.shape == layout.shape and pixels.dtype.itemsize < layout.dtype.itemsize:
            pixels = pixels.astype(layout.dtype)  # a stream of fewer bits than its cells have
        if pixels.shape != layout.shape or pixels.dtype != layout.dtype:
            raise CorruptImage(_DAMAGED, frame=index)
        yield pixels


def _own(frame: bytes, layout: Layout, syntax: UID, index: int) -> np.ndarray:
    """A frame of a transfer syntax that pydicom does not decode.

    Raises:
        CorruptImage: It cannot be decoded, or is of another size than the header says.
    """
    one = replace(layout, frames=1)
    if syntax in CELLS:
        cells = frame
        if syntax == DEFLATED_FRAME:
            cells = inflated(frame, one.value_bytes + one.value_bytes % 2)
        if len(cells) < one.value_bytes:
            raise CorruptImage(_DAMAGED, frame=index)
        return native(memoryview(bytes(cells)), one)[0]
    check_size(frame, layout)
    if syntax in JPEG_RETIRED:
        return _by_turbo(frame, layout, index)
    try:
        pixels = np.asarray(imagecodecs.jpegxl_decode(frame, numthreads=1))
    except (RuntimeError, ValueError) as err:
        raise CorruptImage(_DAMAGED, frame=index) from err
    if layout.dtype.itemsize == 2 and pixels.dtype == np.uint8:
        pixels = pixels.astype(np.uint16)  # fewer bits than its cells have
    if pixels.shape != layout.shape or pixels.dtype.itemsize != layout.dtype.itemsize:
        raise CorruptImage(_DAMAGED, frame=index)
    if pixels.dtype.kind == "f":
        raise CorruptImage(_DAMAGED, frame=index)
    return pixels.view(layout.dtype)


def _point_transform(frame: bytes) -> int:
    """How many low bits a JPEG Lossless stream leaves out (T.81 H.1.2.1)."""
    at = 2
    while at + 4 <= len(frame) and frame[at] == 0xFF:
        end = at + 2 + int.from_bytes(frame[at + 2 : at + 4])
        if frame[at + 1] == 0xDA:
            return frame[end - 1] & 15 if end <= len(frame) else 0
        at = end
    return 0


def _by_turbo(frame: bytes, layout: Layout, index: int) -> np.ndarray:
    """A JPEG frame by libjpeg-turbo, its planes as they are stored.

    Raises:
        CorruptImage: It cannot be decoded.
    """
    colour = "rgb" if layout.samples > 1 else None  # the same twice: no conversion
    try:
        pixels = np.asarray(
            imagecodecs.jpeg8_decode(frame, colorspace=colour, outcolorspace=colour)
        )
    except (RuntimeError, ValueError) as err:
        raise CorruptImage(_DAMAGED, frame=index) from err
    if pixels.shape != layout.shape or pixels.dtype.itemsize > layout.dtype.itemsize:
        raise CorruptImage(_DAMAGED, frame=index)
    return pixels.astype(f"u{layout.dtype.itemsize}").view(layout.dtype)


def _second_opinion(frame: bytes, layout: Layout, syntax: UID) -> np.ndarray | None:
    """JPEG of 12 bits that pydicom's decoder finds too loosely written."""
    if syntax != JPEGExtended12Bit or layout.samples != 1:
        return None
    try:
        return np.asarray(imagecodecs.jpeg8_decode(frame)).astype(layout.dtype)
    except (RuntimeError, ValueError):
        return None


def check_size(frame: bytes, layout: Layout) -> None:
    """A frame must not decode to another size than the header says (or than is allowed).

    Raises:
        CorruptImage: It would.
    """
    size = _codestream_size(frame)
    if size is not None and size != (layout.columns, layout.rows):
        raise CorruptImage(
            "This DICOM file is damaged: a frame does not match the header. Export it again.",
            expected=[layout.columns, layout.rows],
            found=list(size),
        )


def _precision(frame: bytes) -> int:
    """Bits of a sample in a JPEG or JPEG-LS stream; 16 where it is neither."""
    at = 2
    while frame[:2] == b"\xff\xd8" and at + 5 <= len(frame) and frame[at] == 0xFF:
        if frame[at + 1] in _FRAME_HEADERS:
            return frame[at + 4]
        at += 2 + int.from_bytes(frame[at + 2 : at + 4])
    return 16


def _codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height in a JPEG, JPEG-LS, JPEG 2000 or JPEG XL codestream; None for RLE."""
    if jxl_size.looks_like(frame):
        return jxl_size.size_px(frame) or (0, 0)
    if frame[:4] == b"\xff\x4f\xff\x51" and len(frame) >= 42:
        right, bottom, left, top = struct.unpack_from(">IIII", frame, 8)
        (components,) = struct.unpack_from(">H", frame, 40)
        return (right - left, bottom - top) if components <= 4 else (0, 0)
    if frame[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(frame):
        if frame[at] != 0xFF:
            return None
        marker = frame[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _FRAME_HEADERS:
            height, width = struct.unpack_from(">HH", frame, at + 5)
            return width, height
        at += 2 + int.from_bytes(frame[at + 2 : at + 4])
    return None


def encode_frame(pixels: np.ndarray, layout: Layout, syntax: UID) -> bytes | None:
    """One frame without loss in a transfer syntax, proven by decoding it again.

    Returns:
        The compressed frame, or None where this syntax cannot hold it without loss.
    """
    try:
        with quiet():
            frame = _encoded(np.ascontiguousarray(pixels), layout, syntax)
            if frame is None:
                return None
            back = next(decode_frames([frame], layout, syntax))
    except Exception:  # noqa: BLE001 - an encoder that refuses is an answer here
        return None
    # Its markers come before the header: it must not be shown in other colours than the rest.
    same = dicom_colour.shown_as(frame, layout, syntax) == layout.photometric
    return frame if same and np.array_equal(back, pixels) else None


def _encoded(pixels: np.ndarray, layout: Layout, syntax: UID) -> bytes | None:
    for coder in _coders(layout, syntax):
        return repeat_frame(coder, pixels, layout, syntax)
    return None


def repeating_coder(frame: bytes, pixels: np.ndarray, layout: Layout, syntax: UID) -> str | None:
    """Name of a coder that writes this very frame (but for its padding) from its pixels."""
    for coder in _coders(layout, syntax):
        try:
            made = repeat_frame(coder, pixels, layout, syntax)
        except Exception:  # noqa: BLE001, S112 - an encoder that refuses is an answer here
            continue
        if frame.startswith(made) and frame[len(made) :] in (b"", b"\0"):
            return coder
    return None


def _coders(layout: Layout, syntax: UID) -> list[str]:
    """Names of lossless coders for a transfer syntax; the first writes masked frames."""
    if syntax == RLELossless:
        return ["pylibjpeg", "pydicom"]
    if syntax in (JPEG2000, JPEG2000Lossless):
        return ["pylibjpeg", "openjpeg", "openjpeg colour"]
    if syntax in JPEG_LS:
        return ["charls"]
    ybr = layout.samples == 3 and layout.photometric in dicom_colour.NOT_RGB
    if syntax in (HTJ2K, HTJ2KLossless):
        return ["openjph planes", "openjph"] if ybr else ["openjph"]
    if syntax in JPEG_XL:
        return ["jxl"]
    if syntax == ENCAPSULATED_PLAIN:
        return ["cells"]
    if syntax == DEFLATED_FRAME:
        return [f"deflate {level}" for level in (6, 9, 1)]
    if syntax in JPEG_WHOLE:
        least = max(8 * (layout.dtype.itemsize - 1) + 1, layout.stored, 2)
        predictors = range(1, 2 if syntax == JPEGLosslessSV1 else 8)
        names = [f"sof3 {p} {bits}" for p in predictors
                 for bits in dict.fromkeys((least, 8 * layout.dtype.itemsize))]  # fmt: skip
        return [f"{name} planes" for name in names] + names if ybr else names
    return []


def repeat_frame(coder: str, pixels: np.ndarray, layout: Layout, syntax: UID) -> bytes:
    """One frame by a coder that :func:`repeating_coder` named.

    Raises:
        Exception: Whatever the coder raises where it cannot hold these pixels.
    """
    pixels = np.ascontiguousarray(pixels)
    word = np.dtype(f"u{layout.dtype.itemsize}").type
    plain = pixels.view(word) & word((1 << layout.stored) - 1)
    name, *numbers = coder.split()
    if name in ("cells", "deflate"):
        cells = store_native(pixels[None], replace(layout, frames=1))
        if name == "cells":
            return cells
        engine = zlib.compressobj(int(numbers[0]), zlib.DEFLATED, -15)
        return engine.compress(cells) + engine.flush()
    if name == "jxl":
        return bytes(imagecodecs.jpegxl_encode(pixels.view(word), lossless=True, effort=3))
    if name == "charls":
        return bytes(imagecodecs.jpegls_encode(plain, out=2 * plain.nbytes + 1024))
    if name == "openjph":
        if numbers:  # without the transform that says that they are RGB
            planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
            return bytes(imagecodecs.htj2k_encode(planes, reversible=True, planar=True))
        return bytes(imagecodecs.htj2k_encode(pixels, reversible=True))
    if name == "openjpeg":
        return bytes(
            imagecodecs.jpeg2k_encode(
                pixels, level=0, codecformat="j2k", reversible=True, mct=bool(numbers)
            )
        )
    if name == "sof3":
        colour = "rgb" if layout.samples == 3 else None
        if numbers[2:]:  # without markers that say that they are RGB
            colour = "unknown"
        predictor, bits = map(int, numbers[:2])
        return bytes(
            imagecodecs.jpeg8_encode(
                plain,
                lossless=True,
                predictor=predictor,
                bitspersample=bits,
                colorspace=colour,
                outcolorspace=colour,
            )
        )
    return _by_pydicom(name, pixels, layout, syntax)


def _by_pydicom(plugin: str, pixels: np.ndarray, layout: Layout, syntax: UID) -> bytes:
    said = layout.photometric
    if said == "YBR_ICT":
        said = "YBR_RCT"  # the transform without loss, which decoders undo as well
    elif syntax == RLELossless and layout.samples == 3:
        said = "RGB"  # of no meaning for the coder, but not all are taken
    options: dict[str, Any] = {
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": layout.samples,
        "photometric_interpretation": said,
        "pixel_representation": int(layout.signed),
        "bits_allocated": layout.allocated,
        "bits_stored": layout.stored,
        "number_of_frames": 1,
    }
    if layout.samples > 1:
        options["planar_configuration"] = 0
    encoder = get_encoder(JPEG2000Lossless if syntax == JPEG2000 else syntax)
    return bytes(encoder.encode(pixels, encoding_plugin=plugin, **options))
