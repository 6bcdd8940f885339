"""The structure of a DICOM file: offsets of header and pixel data.

pydicom reads the data set, in the form that :mod:`engine.formats.dicom_encoding` finds; this
module knows the offsets, so that the original bytes can be restored. Refuses files without an
image, truncated files, and files that inflate beyond the limit.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLSLossless,
)

from engine.errors import CorruptImage, ImageTooLarge, UnsupportedFormat
from engine.formats.dicom_encoding import CUT as _CUT
from engine.formats.dicom_encoding import LONG_VRS as _LONG_VRS
from engine.formats.dicom_encoding import UNDEFINED as _UNDEFINED
from engine.formats.dicom_encoding import Encoding
from engine.formats.dicom_encoding import find as find_encoding
from engine.formats.dicom_fragments import starts_frame
from engine.formats.limits import check_items

# Odd values of vendors must pass as they are, and a warning about one would quote it.
config.settings.reading_validation_mode = config.IGNORE
config.settings.writing_validation_mode = config.IGNORE

PIXEL_TAGS = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}
#: Transfer syntaxes without compressed frames.
NATIVE = frozenset(
    (
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    )
)
#: Within so many bytes of a file its meta information says how it is written.
_META_BYTES = 4096
_ITEM, _DELIMITER = 0xFFFEE000, 0xFFFEE0DD
_BROKEN = "This DICOM file is damaged: its data elements cannot be read."


@contextmanager
def quiet() -> Iterator[None]:
    """pydicom's warnings quote values of the header: nobody may read them in a log."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class PixelElement:
    """Where the pixel data element lies in the body.

    Args:
        start: First byte of its tag.
        value, end: First byte of its value and first byte after it (for encapsulated data
            the items with their delimiter).
        fragments: For encapsulated data, (start, end) of each item's bytes; the first is
            the basic offset table, at ``value`` and empty where a writer left it out. Empty for
            native data.
    """

    tag: int
    vr: str
    start: int
    value: int
    end: int
    fragments: tuple[tuple[int, int], ...] = ()

    @property
    def keyword(self) -> str:
        return PIXEL_TAGS[self.tag]

    @property
    def encapsulated(self) -> bool:
        return bool(self.fragments)


@dataclass(frozen=True)
class DicomFile:
    """A file taken to pieces without touching its pixels.

    Args:
        data: The file.
        meta_end: First byte of the data set in ``data``.
        meta: File meta information; empty where the file has none.
        syntax: Transfer syntax as the file is really written, whatever it says.
        body: What offsets count in: the file itself, or for a deflated one the inflated
            data set.
        header: Data set up to the pixels. Sensitive.
        deflated: ``body`` was inflated.
    """

    data: bytes
    meta_end: int
    meta: FileMetaDataset
    syntax: UID
    body: bytes
    header: Dataset
    pixel: PixelElement
    deflated: bool = False

    @property
    def value(self) -> memoryview:
        return memoryview(self.body)[self.pixel.value : self.pixel.end]


def looks_like(data: bytes) -> bool:
    """Whether this may be DICOM: by its magic, or by a first element that makes sense."""
    if data[128:132] == b"DICM":
        return True
    if len(data) < 16:
        return False
    little, big = struct.unpack_from("<HH", data), struct.unpack_from(">HH", data)
    if little[0] in (2, 8) and little[1] <= 0x20:
        order = "<"
    elif big[0] in (2, 8) and big[1] <= 0x20:
        order = ">"
    else:
        return False
    if data[4:6].isalpha() and data[4:6].isupper():
        return True
    (length,) = struct.unpack_from(order + "I", data, 4)
    return bool(length <= 128)


def says_deflated(data: bytes) -> bool:
    """Does the file say that its whole data set is deflated?"""
    return DeflatedExplicitVRLittleEndian.encode() in data[:_META_BYTES]


def parse(data: bytes, max_decoded_bytes: int = 1 << 30) -> DicomFile:
    """Read header and offsets.

    Raises:
        CorruptImage: Damaged or cut off.
        UnsupportedFormat: No picture in it, or an unknown transfer syntax.
    """
    try:
        with quiet():
            return _parse(data, max_decoded_bytes)
    except (CorruptImage, ImageTooLarge, UnsupportedFormat):
        raise
    except (MemoryError, RecursionError) as err:
        raise CorruptImage(_BROKEN) from err
    except Exception as err:
        raise CorruptImage(_BROKEN) from err


def _parse(data: bytes, max_decoded_bytes: int) -> DicomFile:
    form = find_encoding(data, max_decoded_bytes)
    check_items(form.body, little=form.little)
    stream = io.BytesIO(form.body)
    stream.seek(form.start)
    header = read_dataset(
        stream,
        is_implicit_VR=form.implicit,
        is_little_endian=form.little,
        stop_when=lambda tag, vr, length: int(tag) in PIXEL_TAGS,
    )
    header.file_meta = form.meta
    header.set_original_encoding(form.implicit, form.little, header._character_set)
    order = "<" if form.little else ">"
    pixel = _pixel_element(form.body, stream.tell(), form.implicit, order)
    if pixel is None:
        raise UnsupportedFormat(
            "This DICOM file contains no image (it may be a plan, a waveform or raw data). Choose"
            " another file."
        )
    syntax = _true_syntax(form, pixel)
    if not pixel.encapsulated and syntax not in NATIVE:
        # Compressed frames in a value of defined length, as some writers store them.
        fragments, end = _items(form.body[: pixel.end], pixel.value, order)
        pixel = replace(pixel, fragments=fragments, end=end)
    return DicomFile(
        data, form.meta_end, form.meta, syntax, form.body, header, pixel, form.deflated
    )


def _true_syntax(form: Encoding, pixel: PixelElement) -> UID:
    """The transfer syntax in which header and pixels are written.

    Raises:
        UnsupportedFormat: Compressed, and the file does not say how, or says a manufacturer's
            own way.
    """
    said = form.declared
    start = form.body[pixel.value : pixel.value + 8]
    in_items = start[:4] == b"\xfe\xff\x00\xe0" and said not in NATIVE and bool(said)
    if not pixel.encapsulated and not in_items:
        return form.plain_syntax  # native pixels, whatever is said
    if said and said not in NATIVE:
        return said
    guessed = _syntax_of_stream(form.body, pixel.fragments)
    if guessed is None:
        raise UnsupportedFormat(
            "This DICOM file does not say how its frames are compressed. Export it uncompressed"
            " (Explicit VR Little Endian)."
        )
    return guessed


#: By the frame header of a JPEG, JPEG-LS or JPEG Lossless stream.
_BY_FRAME_HEADER = {
    0xC0: JPEGBaseline8Bit,
    0xC1: JPEGExtended12Bit,
    0xC2: JPEGExtended12Bit,
    0xC3: JPEGLossless,
    0xF7: JPEGLSLossless,
}


def _syntax_of_stream(body: bytes, fragments: tuple[tuple[int, int], ...]) -> UID | None:
    """The transfer syntax that a codestream itself shows; None where it shows none."""
    start, end = next(((a, b) for a, b in fragments[1:] if b > a), (0, 0))
    frame = body[start:end]
    if frame[:4] == b"\xff\x4f\xff\x51":
        return JPEG2000
    at = 2
    while frame[:2] == b"\xff\xd8" and at + 4 <= len(frame) and frame[at] == 0xFF:
        if frame[at + 1] in _BY_FRAME_HEADER:
            return _BY_FRAME_HEADER[frame[at + 1]]
        at += 2 + int.from_bytes(frame[at + 2 : at + 4])
    return None


def _pixel_element(body: bytes, at: int, implicit: bool, order: str) -> PixelElement | None:
    if at + 8 > len(body):
        return None
    group, element = struct.unpack_from(order + "HH", body, at)
    tag = group << 16 | element
    if tag not in PIXEL_TAGS:
        return None
    vr = body[at + 4 : at + 6]
    if implicit or not (vr.isalpha() and vr.isupper()):  # some writers switch to implicit here
        implicit, vr = True, b"OW"
    if implicit:
        (length,) = struct.unpack_from(order + "I", body, at + 4)
        value = at + 8
    elif vr in _LONG_VRS:
        if at + 12 > len(body):
            raise CorruptImage(_CUT)
        (length,) = struct.unpack_from(order + "I", body, at + 8)
        value = at + 12
    else:
        (length,) = struct.unpack_from(order + "H", body, at + 6)
        value = at + 8
    name = vr.decode("ascii", "replace")
    if length == _UNDEFINED:
        fragments, end = _items(body, value, order)
        return PixelElement(tag, name, at, value, end, fragments)
    if value + length > len(body):
        raise CorruptImage(_CUT)
    if not length:
        raise UnsupportedFormat(
            "This DICOM file contains no image: its pixel data is empty. Choose another file."
        )
    return PixelElement(tag, name, at, value, value + length)


def _items(body: bytes, at: int, order: str) -> tuple[tuple[tuple[int, int], ...], int]:
    """Spans of the encapsulated items, and the first byte after the delimiter."""
    spans: list[tuple[int, int]] = []
    first = at
    while at + 8 <= len(body):
        group, element, length = struct.unpack_from(order + "HHI", body, at)
        tag = group << 16 | element
        at += 8
        if tag == _DELIMITER:
            break
        if tag != _ITEM and len(spans) > 1:  # no delimiter, and something else behind
            at -= 8
            break
        if tag != _ITEM:
            raise CorruptImage("This DICOM file is damaged: its compressed frames are broken.")
        if at + length > len(body):
            raise CorruptImage(_CUT)
        if not spans and starts_frame(body[at : min(at + length, at + 16)]):
            spans.append((first, first))  # a frame where the offset table belongs
        spans.append((at, at + length))
        at += length
    if len(spans) < 2:
        raise CorruptImage("This DICOM file is damaged: it has no compressed frame.")
    return tuple(spans), at


def write_header(header: Dataset, meta: FileMetaDataset, syntax: UID) -> tuple[bytes, bytes]:
    """A new preamble with file meta information, and the data set without pixels."""
    with quiet():
        meta.TransferSyntaxUID = syntax
        front = DicomBytesIO()
        front.write(b"\0" * 128 + b"DICM")
        write_file_meta_info(front, meta, enforce_standard=True)
        return bytes(front.getvalue()), write_data_set(header, syntax)


def write_data_set(data_set: Dataset, syntax: UID) -> bytes:
    """A data set in a transfer syntax; elements that cannot be written are left out."""
    with quiet():
        try:
            return _written(data_set, syntax)
        except Exception:  # noqa: BLE001 - values of vendors raise anything
            return _written(_writable(data_set, syntax), syntax)


def _written(header: Dataset, syntax: UID) -> bytes:
    stream = DicomBytesIO()
    stream.is_implicit_VR = syntax == ImplicitVRLittleEndian
    stream.is_little_endian = syntax != ExplicitVRBigEndian
    write_dataset(stream, header)
    return bytes(stream.getvalue())


def _writable(header: Dataset, syntax: UID) -> Dataset:
    """The elements that can be written one by one; a broken one is left out."""
    fresh = Dataset()
    for tag in sorted(header.keys()):
        alone = Dataset()
        try:
            alone.add(header[tag])
            if "SpecificCharacterSet" in header:
                alone.SpecificCharacterSet = header.SpecificCharacterSet
            _written(alone, syntax)
        except Exception:  # noqa: BLE001, S112 - values of vendors raise anything
            continue
        fresh.add(header[tag])
    return fresh


def element(tag: int, vr: str, length: int | None, syntax: UID) -> bytes:
    """Tag, VR and length of a pixel data element; length None for encapsulated data."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    size = _UNDEFINED if length is None else length
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if syntax == ImplicitVRLittleEndian:
        return head + struct.pack(order + "I", size)
    return head + vr.encode("ascii") + b"\0\0" + struct.pack(order + "I", size)


def encapsulate(frames: list[bytes]) -> bytes:
    """One item per frame behind an empty offset table, with the delimiter."""
    out = [struct.pack("<HHI", 0xFFFE, 0xE000, 0)]
    for frame in frames:
        padded = frame + b"\0" * (len(frame) % 2)
        out += [struct.pack("<HHI", 0xFFFE, 0xE000, len(padded)), padded]
    return b"".join([*out, struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)])


def deflate(body: bytes, level: int = 6) -> bytes:
    """The deflated transfer syntax: raw deflate, padded to even length."""
    engine = zlib.compressobj(level, zlib.DEFLATED, -15)
    stream = engine.compress(body) + engine.flush()
    return stream + b"\0" * (len(stream) % 2)


def text(header: Dataset, keyword: str) -> str:
    """A value as trimmed text; empty where it is missing or unreadable."""
    try:
        with quiet():
            value: Any = header.get(keyword, "")
            return "" if value is None else str(value).strip("\0 ")
    except Exception:  # noqa: BLE001 - values of vendors raise anything
        return ""


def number(header: Dataset, keyword: str, default: float | None = None) -> float | None:
    """A value (the first of several) as a number, or the default."""
    try:
        with quiet():
            value: Any = header.get(keyword)
            if value is None or value == "":
                return default
            if isinstance(value, bytes):
                return default
            if hasattr(value, "__len__") and not isinstance(value, str):
                value = value[0]
            result = float(value)
            return result if abs(result) < 1e300 else default
    except Exception:  # noqa: BLE001 - values of vendors raise anything
        return default
