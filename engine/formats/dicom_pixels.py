"""Stored values of DICOM pixel data: how the header lays them out, and native cells both ways."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydicom.pixels.utils import expand_ybr422
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
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
from engine.formats.dicom_file import NATIVE as NATIVE
from engine.formats.dicom_file import DicomFile, number, text
from engine.formats.dicom_fragments import group

JPEG_DCT = frozenset((JPEGBaseline8Bit, JPEGExtended12Bit))
#: Spectral selection and progressive, of 8 and 12 bit: retired in 1996 (PS3.5 A.4.1).
JPEG_RETIRED = frozenset(UID(f"1.2.840.10008.1.2.4.{number}") for number in (52, 53, 54, 55, 56))
JPEG_WHOLE = frozenset((JPEGLossless, JPEGLosslessSV1))
JPEG_LS = frozenset((JPEGLSLossless, JPEGLSNearLossless))
WAVELET = frozenset((JPEG2000Lossless, JPEG2000, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL))
#: Since 2023 and 2024 (PS3.5 A.4.12, A.4.13, A.4.14): pydicom 3 does not know them yet.
JXL_LOSSLESS = UID("1.2.840.10008.1.2.4.110")
JXL_RECOMPRESSION = UID("1.2.840.10008.1.2.4.111")
JXL = UID("1.2.840.10008.1.2.4.112")
JPEG_XL = frozenset((JXL_LOSSLESS, JXL_RECOMPRESSION, JXL))
DEFLATED_FRAME = UID("1.2.840.10008.1.2.8.1")
ENCAPSULATED_PLAIN = UID("1.2.840.10008.1.2.1.98")
#: Frames in items, each laid out as native pixels are.
CELLS = frozenset((DEFLATED_FRAME, ENCAPSULATED_PLAIN))
#: MPEG-2, MPEG-4 and HEVC, fragmentable or not (PS3.5 A.4.5 to A.4.11).
VIDEO = frozenset(UID(f"1.2.840.10008.1.2.4.{n}{k}") for n in range(100, 109) for k in ("", ".1"))
READABLE = (
    NATIVE
    | JPEG_DCT
    | JPEG_RETIRED
    | JPEG_WHOLE
    | JPEG_LS
    | WAVELET
    | {RLELossless}
    | JPEG_XL
    | CELLS
    | VIDEO
)
#: The same as text and in a fixed order, for who negotiates with peers. HEVC has no fragmentable
#: form in the standard (PS3.6 table A-1).
TRANSFER_SYNTAXES = tuple(sorted(str(s) for s in READABLE if not s.endswith((".107.1", ".108.1"))))
_NAMES = {
    JXL_LOSSLESS: "JPEG XL Lossless",
    JXL_RECOMPRESSION: "JPEG XL JPEG Recompression",
    JXL: "JPEG XL",
    DEFLATED_FRAME: "Deflated Image Frame Compression",
    ENCAPSULATED_PLAIN: "Encapsulated Uncompressed Explicit VR Little Endian",
}
#: With the defined term of each method (PS3.3 C.7.6.1.1.5.1).
LOSSY = {
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
    JPEG2000: "ISO_15444_1",
    HTJ2K: "ISO_15444_15",
    JXL_RECOMPRESSION: "ISO_18181_1",
    JXL: "ISO_18181_1",
    **dict.fromkeys(JPEG_RETIRED, "ISO_10918_1"),
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
    def packed(self) -> bool:
        """Cells follow each other without regard to bytes, as 12 bits of early devices."""
        return self.allocated not in (1, 8) and self.allocated < 16

    @property
    def dtype(self) -> np.dtype:
        """Type of a stored value, in the machine's byte order."""
        if self.keyword != "PixelData":
            return np.dtype("f4" if self.keyword == "FloatPixelData" else "f8")
        size = -(-self.allocated // 8)
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
        if self.allocated == 1 or self.packed:
            return -(-cells * self.allocated // 8)
        if self.halved:
            return cells // 3 * 2
        return cells * self.allocated // 8

    @property
    def unused_mask(self) -> int:
        """Bits of a cell that hold no pixel value (old overlays, garbage)."""
        if self.keyword != "PixelData" or self.allocated < 8 or self.packed:
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
        raise UnsupportedFormat(_unreadable(file.syntax), transfer_syntax=str(file.syntax))
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
    packed = file.syntax in NATIVE and file.syntax != ExplicitVRBigEndian and 1 < allocated < 16
    if samples not in (1, 3, 4) or not (allocated in (1, 8, 16, 32, 64) or packed):
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
    big = file.syntax == ExplicitVRBigEndian
    layout = Layout(
        keyword,
        max(1, whole("NumberOfFrames", 1)),
        rows,
        columns,
        samples,
        allocated,
        stored,
        high_bit,
        integers and whole("PixelRepresentation", 0) == 1,
        whole("PlanarConfiguration", 0) if samples > 1 and _by_cells(file.syntax) else 0,
        text(header, "PhotometricInterpretation").upper()
        or ("RGB" if samples == 3 else "MONOCHROME2"),
        big and allocated == 8 and file.pixel.vr == "OW",
        big,
        False,
    )
    cut = file.syntax in NATIVE and len(file.value) < layout.value_bytes
    if layout.photometric == "YBR_PARTIAL_420" and cut:
        # Of MPEG only (PS3.3 C.7.6.3.1.2): rows share their chroma too, in no order that it names.
        raise UnsupportedFormat(
            "The colours of this DICOM file are stored in a way that only video has"
            " (YBR_PARTIAL_420). Export it as RGB."
        )
    shares_chroma = layout.photometric in ("YBR_FULL_422", "YBR_PARTIAL_422") and samples == 3
    if shares_chroma and allocated == 8 and _by_cells(file.syntax):
        return _chroma_by_size(file, layout)
    return layout


def _by_cells(syntax: UID) -> bool:
    return syntax in NATIVE or syntax in CELLS


def _unreadable(syntax: UID) -> str:
    if syntax.is_private:
        return (
            f"This DICOM file is written in a manufacturer's own way (transfer syntax {syntax})."
            " Export it as standard DICOM (Explicit VR Little Endian)."
        )
    name = _NAMES.get(syntax, syntax.name)
    return (
        f"This DICOM file is compressed in a way that is not supported ({name}): export it"
        " uncompressed (Explicit VR Little Endian)."
    )


#: YCbCr made from RGB stays inside the cube of RGB but for rounding. RGB read as YCbCr leaves it.
_GAMUT_SLACK = 6.0
_SURE_YBR, _SURE_RGB = 0.001, 0.05  # share of pixels outside


def _chroma_by_size(file: DicomFile, layout: Layout) -> Layout:
    """Whether two pixels share their chroma as the header says: the size of the data tells.

    Raises:
        UnsupportedFormat: Three bytes a pixel, and which colours they are cannot be told.
    """
    halved = replace(layout, halved=True)
    if file.syntax in CELLS:
        # Each frame has a length of its own: the first one shows how all are laid out.
        value = _first_cells(file, layout)
        frames = 1
    else:
        value, frames = bytes(file.value), layout.frames
    full = replace(layout, frames=frames).value_bytes
    if not full <= len(value) <= full + 1:
        return halved
    pixels = np.frombuffer(value[:full], np.uint8)
    if layout.planar == 1:
        flat = np.moveaxis(pixels.reshape(frames, 3, -1), 1, -1).reshape(-1, 3)
    else:
        flat = pixels.reshape(-1, 3)
    outside = _outside_rgb(flat[:: max(1, len(flat) >> 18)])
    if outside <= _SURE_YBR:
        full_range = layout.photometric == "YBR_FULL_422"
        return replace(layout, photometric="YBR_FULL") if full_range else layout
    if outside >= _SURE_RGB:
        return replace(layout, photometric="RGB")
    raise UnsupportedFormat(
        "The colours of this DICOM file are stored in another way than its header says"
        f" ({layout.photometric} with three bytes a pixel), and cannot be told. Export it as RGB."
    )


def _outside_rgb(ybr: np.ndarray) -> float:
    """Share of pixels that are no colour when read as YCbCr; shape (N, 3), uint8."""
    luma, blue, red = (ybr[:, i].astype(np.float32) for i in range(3))
    blue, red = blue - 128, red - 128
    rgb = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red,
                    luma + 1.772 * blue])  # fmt: skip
    outside = ((rgb < -_GAMUT_SLACK) | (rgb > 255 + _GAMUT_SLACK)).any(axis=0)
    return float(outside.mean())


def _first_cells(file: DicomFile, layout: Layout) -> bytes:
    frame = payload(file)[0][0]
    if file.syntax == ENCAPSULATED_PLAIN:
        return frame
    return inflated(frame, replace(layout, frames=1).value_bytes + 2)


def inflated(frame: bytes, most: int) -> bytes:
    """A deflated frame, of which no more than ``most`` bytes are read.

    Raises:
        CorruptImage: It is none.
    """
    try:
        return zlib.decompressobj(-15).decompress(frame, most)
    except zlib.error as err:
        raise CorruptImage(_DAMAGED) from err


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
    elif layout.packed:
        flat = _unpacked(part, layout)[:cells]
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


def _unpacked(part: memoryview, layout: Layout) -> np.ndarray:
    """Cells of 2 to 15 bits, the lowest bit first, each in a word of its own.

    Source: PS3.5 of 1993, annex D, as the data lie in memory in little endian.
    """
    bits, word = layout.allocated, layout.dtype.itemsize * 8
    step = 8 << 16  # cells; whole bytes whatever their width
    rows = []
    raw = np.frombuffer(part, np.uint8)
    for start in range(0, len(raw), step * bits // 8):
        flat = np.unpackbits(raw[start : start + step * bits // 8], bitorder="little")
        chunk = flat[: len(flat) // bits * bits].reshape(-1, bits)
        wide = np.zeros((len(chunk), word), np.uint8)
        wide[:, :bits] = chunk
        if layout.signed:
            wide[:, bits:] = chunk[:, -1:]
        rows.append(np.packbits(wide, axis=1, bitorder="little").view(f"<u{word // 8}")[:, 0])
    return np.concatenate(rows).view(layout.dtype)


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


def payload(file: DicomFile) -> tuple[list[bytes], bytes]:
    """Compressed frames, fragments joined, and the bytes of frames that no header counts.

    Viewers show the first ``NumberOfFrames`` frames. What lies behind them was never looked at.

    Raises:
        CorruptImage: The fragments cannot be told apart into frames.
    """
    expected = max(1, int(number(file.header, "NumberOfFrames", 1) or 1))
    table, *fragments = file.pixel.fragments
    extended = file.header.get("ExtendedOffsetTable") or b""
    groups = group(
        file.body,
        fragments,
        file.body[table[0] : table[1]],
        extended if isinstance(extended, bytes) else b"",
        expected,
    )
    frames = [b"".join(file.body[slice(*fragments[i])] for i in parts) for parts in groups]
    return frames[:expected], b"".join(frames[expected:])
