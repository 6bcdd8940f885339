"""Stored values of DICOM pixel data: native cells and compressed frames, both ways.

Decoding is pydicom's (with pylibjpeg and its C libraries); encoding is lossless, checked by
decoding again, and in the transfer syntax that the file already has.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import imagecodecs
import numpy as np
from pydicom.encaps import generate_fragmented_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.encoders.base import get_encoder
from pydicom.pixels.utils import expand_ybr422
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from engine.errors import CorruptImage, UnsupportedFormat
from engine.formats.dicom_file import DicomFile, encapsulate, number, quiet, text

NATIVE = frozenset(
    (
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    )
)
JPEG_DCT = frozenset((JPEGBaseline8Bit, JPEGExtended12Bit))
JPEG_WHOLE = frozenset((JPEGLossless, JPEGLosslessSV1))
JPEG_LS = frozenset((JPEGLSLossless, JPEGLSNearLossless))
WAVELET = frozenset((JPEG2000Lossless, JPEG2000, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL))
READABLE = NATIVE | JPEG_DCT | JPEG_WHOLE | JPEG_LS | WAVELET | {RLELossless}
#: With the defined term of each method (PS3.3 C.7.6.1.1.5.1).
LOSSY = {
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
    JPEG2000: "ISO_15444_1",
    HTJ2K: "ISO_15444_15",
}
_DAMAGED = "This DICOM file is damaged: its pixel data cannot be decoded."


@dataclass(frozen=True)
class Layout:
    """How the header says that pixels are stored."""

    keyword: str
    frames: int
    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    high_bit: int
    signed: bool
    planar: int
    photometric: str
    swapped: bool  # 8-bit cells in big-endian 16-bit words
    big_endian: bool
    halved: bool  # native YBR_FULL_422: two pixels share their chroma

    @property
    def dtype(self) -> np.dtype:
        """Type of a stored value, in the machine's byte order."""
        if self.keyword != "PixelData":
            return np.dtype("f4" if self.keyword == "FloatPixelData" else "f8")
        size = max(1, self.allocated // 8)
        return np.dtype(f"{'i' if self.signed else 'u'}{size}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a frame as it is handed out."""
        plane = (self.rows, self.columns)
        return plane if self.samples == 1 else (*plane, self.samples)

    @property
    def decoded_bytes(self) -> int:
        return self.frames * self.rows * self.columns * self.samples * self.dtype.itemsize

    @property
    def value_bytes(self) -> int:
        """Length of native pixel data, without padding."""
        cells = self.frames * self.rows * self.columns * self.samples
        if self.allocated == 1:
            return -(-cells // 8)
        if self.halved:
            return cells // 3 * 2
        return cells * self.allocated // 8

    @property
    def unused_mask(self) -> int:
        """Bits of a cell that hold no pixel value (old overlays, garbage)."""
        if self.keyword != "PixelData" or self.allocated < 8:
            return 0
        used = ((1 << self.stored) - 1) << (self.high_bit + 1 - self.stored)
        return ((1 << self.allocated) - 1) & ~used


def layout_of(file: DicomFile) -> Layout:
    """Read the image pixel module, with the usual defaults where it is incomplete.

    Raises:
        CorruptImage: Contradictory or impossible.
        UnsupportedFormat: Not among what MedSec reads.
    """
    if file.syntax not in READABLE:
        raise UnsupportedFormat(
            "This DICOM file is compressed in a way that is not supported"
            f" ({file.syntax.name}): export it uncompressed (Explicit VR Little Endian).",
            transfer_syntax=str(file.syntax),
        )
    if file.pixel.encapsulated == (file.syntax in NATIVE):
        raise CorruptImage(
            "This DICOM file is damaged: its pixel data does not match its header. Export it again."
        )
    header, keyword = file.header, file.pixel.keyword

    def whole(name: str, default: int) -> int:
        return int(number(header, name, default) or 0)

    rows, columns = whole("Rows", 0), whole("Columns", 0)
    if rows < 1 or columns < 1:
        raise CorruptImage(
            "This DICOM file is damaged: its image has no width or height. Export it again."
        )
    samples = whole("SamplesPerPixel", 1)
    integers = keyword == "PixelData"
    sizes = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}
    allocated = whole("BitsAllocated", 0) if integers else sizes[keyword]
    if samples not in (1, 3, 4) or allocated not in (1, 8, 16, 32, 64):
        raise UnsupportedFormat(
            "This DICOM file stores its pixels in an unusual way"
            f" ({samples} samples of {allocated} bits): export it with 8 or 16 bits.",
            samples=samples,
            bits_allocated=allocated,
        )
    stored = whole("BitsStored", allocated) if integers else allocated
    if not 1 <= stored <= allocated:
        stored = allocated
    high_bit = whole("HighBit", stored - 1) if integers else stored - 1
    if not stored - 1 <= high_bit < allocated:
        high_bit = stored - 1
    photometric = text(header, "PhotometricInterpretation").upper()
    big = file.syntax == ExplicitVRBigEndian
    return Layout(
        keyword,
        max(1, whole("NumberOfFrames", 1)),
        rows,
        columns,
        samples,
        allocated,
        stored,
        high_bit,
        integers and whole("PixelRepresentation", 0) == 1,
        whole("PlanarConfiguration", 0) if samples > 1 else 0,
        photometric or ("RGB" if samples == 3 else "MONOCHROME2"),
        big and allocated == 8 and file.pixel.vr == "OW",
        big,
        photometric == "YBR_FULL_422" and samples == 3 and allocated == 8 and file.syntax in NATIVE,
    )


# --- native -----------------------------------------------------------------------------------


def native(value: memoryview | bytearray, layout: Layout) -> np.ndarray:
    """Native pixel data as stored values, shape (frames, rows, columns[, samples]).

    A view of the bytes wherever the storage allows it.

    Raises:
        CorruptImage: Fewer bytes than the header promises.
    """
    if len(value) < layout.value_bytes:
        raise CorruptImage("This DICOM file is truncated. Send the complete file.")
    cells = layout.frames * layout.rows * layout.columns * layout.samples
    part = memoryview(value)[: layout.value_bytes]
    if layout.allocated == 1:
        flat = np.unpackbits(np.frombuffer(part, np.uint8), bitorder="little")[:cells]
    elif layout.halved:
        if layout.columns % 2:
            raise UnsupportedFormat(
                "This DICOM file has chroma subsampling with an odd width. Export it as RGB."
            )
        flat = np.frombuffer(expand_ybr422(bytes(part), 8), np.uint8)
    elif layout.swapped:
        padded = bytes(memoryview(value)[: layout.value_bytes + layout.value_bytes % 2])
        padded += b"\0" * (len(padded) % 2)
        flat = np.frombuffer(padded, ">u2").astype("<u2").view(layout.dtype)[:cells]
    else:
        order: Literal[">", "<"] = ">" if layout.big_endian else "<"
        flat = np.frombuffer(part, layout.dtype.newbyteorder(order))
        if layout.big_endian and layout.dtype.itemsize > 1 and isinstance(value, memoryview):
            flat = flat.astype(layout.dtype)
    if layout.samples > 1 and layout.planar == 1 and not layout.halved:
        planes = flat.reshape(layout.frames, layout.samples, layout.rows, layout.columns)
        return np.moveaxis(planes, 1, -1)
    return flat.reshape(layout.frames, *layout.shape)


def store_native(pixels: np.ndarray, layout: Layout) -> bytes:
    """The bytes that :func:`native` reads as these values, without padding."""
    if layout.allocated == 1:
        return np.packbits(pixels.reshape(-1).astype(np.uint8), bitorder="little").tobytes()
    if layout.halved:
        flat = np.ascontiguousarray(pixels).reshape(-1, 2, 3)
        out = np.empty((len(flat), 4), np.uint8)
        out[:, 0], out[:, 1] = flat[:, 0, 0], flat[:, 1, 0]
        out[:, 2:] = flat[:, 0, 1:]
        return out.tobytes()
    if layout.samples > 1 and layout.planar == 1:
        pixels = np.moveaxis(pixels, -1, 1)
    if layout.swapped:
        raw = np.ascontiguousarray(pixels).tobytes()
        raw += b"\0" * (len(raw) % 2)
        return np.frombuffer(raw, "<u2").astype(">u2").tobytes()[: layout.value_bytes]
    order: Literal[">", "<"] = ">" if layout.big_endian else "<"
    return np.ascontiguousarray(pixels, dtype=layout.dtype.newbyteorder(order)).tobytes()


# --- compressed -------------------------------------------------------------------------------


def payload(file: DicomFile) -> tuple[list[bytes], list[int]]:
    """Compressed frames (fragments joined), and the number of fragments of each.

    Raises:
        CorruptImage: The fragments cannot be told apart into frames.
    """
    layout_frames = int(number(file.header, "NumberOfFrames", 1) or 1)
    frames, counts = [], []
    try:
        with quiet():
            for parts in generate_fragmented_frames(
                bytes(file.value), number_of_frames=max(1, layout_frames)
            ):
                frames.append(b"".join(parts))
                counts.append(len(parts))
    except Exception as err:
        raise CorruptImage(_DAMAGED) from err
    if sum(counts) != len(file.pixel.fragments) - 1:
        raise CorruptImage(_DAMAGED)
    return frames, counts


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
        options["planar_configuration"] = layout.planar
    decoder = get_decoder(syntax)
    for index in range(len(frames)) if indices is None else indices:
        check_size(frames[index], layout)
        try:
            with quiet():
                pixels, _ = decoder.as_array(
                    encapsulate([frames[index]]), index=0, raw=True, **options
                )
        except Exception as err:
            other = _second_opinion(frames[index], layout, syntax)
            if other is None:
                raise CorruptImage(_DAMAGED, frame=index) from err
            pixels = other
        if pixels.shape != layout.shape or pixels.dtype != layout.dtype:
            raise CorruptImage(_DAMAGED, frame=index)
        yield pixels


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


def _codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height in a JPEG, JPEG-LS or JPEG 2000 codestream; None for RLE."""
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
        if marker in (0xF7, *range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC)):
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
    return frame if np.array_equal(back, pixels) else None


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
    if syntax in (HTJ2K, HTJ2KLossless):
        return ["openjph"]
    if syntax in JPEG_WHOLE:
        least = max(8 * (layout.dtype.itemsize - 1) + 1, layout.stored, 2)
        predictors = range(1, 2 if syntax == JPEGLosslessSV1 else 8)
        return [f"sof3 {p} {bits}" for p in predictors
                for bits in dict.fromkeys((least, 8 * layout.dtype.itemsize))]  # fmt: skip
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
    if name == "charls":
        return bytes(imagecodecs.jpegls_encode(plain, out=2 * plain.nbytes + 1024))
    if name == "openjph":
        return bytes(imagecodecs.htj2k_encode(pixels, reversible=True))
    if name == "openjpeg":
        return bytes(
            imagecodecs.jpeg2k_encode(
                pixels, level=0, codecformat="j2k", reversible=True, mct=bool(numbers)
            )
        )
    if name == "sof3":
        colour = "rgb" if layout.samples == 3 else None
        predictor, bits = map(int, numbers)
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
    options: dict[str, Any] = {
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": layout.samples,
        "photometric_interpretation": layout.photometric,
        "pixel_representation": int(layout.signed),
        "bits_allocated": layout.allocated,
        "bits_stored": layout.stored,
        "number_of_frames": 1,
    }
    if layout.samples > 1:
        options["planar_configuration"] = 0
    encoder = get_encoder(JPEG2000Lossless if syntax == JPEG2000 else syntax)
    return bytes(encoder.encode(pixels, encoding_plugin=plugin, **options))
