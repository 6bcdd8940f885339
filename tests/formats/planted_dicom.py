"""DICOM files with a name at every place that format and coders leave open (see ``planted``)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import imagecodecs
import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests import builders
from tests.formats.planted import NAME, profile

JXL_LOSSLESS = "1.2.840.10008.1.2.4.110"
ENCAPSULATED_PLAIN, DEFLATED_FRAME = "1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.8.1"
GREY = builders.radiograph(61, 43)
_MARK = np.frombuffer(NAME, np.uint8)
_CODERS: dict[str, Callable[[np.ndarray], bytes]] = {
    **{str(syntax): coder for syntax, coder in builders.LOSSLESS.items()},
    str(JPEGBaseline8Bit): lambda f: builders.jpeg(f),
    JXL_LOSSLESS: lambda f: bytes(imagecodecs.jpegxl_encode(f, lossless=True)),
    ENCAPSULATED_PLAIN: lambda f: f.tobytes(),
    DEFLATED_FRAME: lambda f: zlib.compress(f.tobytes(), wbits=-15),
}


def _short(syntax: str) -> str:
    return {JXL_LOSSLESS: "JPEG XL", ENCAPSULATED_PLAIN: "cells in items",
            DEFLATED_FRAME: "deflated frames"}.get(syntax, syntax.rpartition(".")[2])  # fmt: skip


def _coded(pixels: np.ndarray, frames: list[bytes], syntax: str, **attributes: Any) -> bytes:
    """A file of ready-made frames, also in a transfer syntax that pydicom does not know."""
    # one that it knows, whose name takes as many bytes
    known = {DEFLATED_FRAME: JPEGLSLossless, JXL_LOSSLESS: HTJ2KLossless}.get(syntax, syntax)
    data = builders.dicom(pixels, syntax=known, fragments=frames, **attributes)
    size = len(known) + len(known) % 2
    return data.replace(known.encode().ljust(size, b"\0"), syntax.encode().ljust(size, b"\0"), 1)


def _file(frames: list[bytes], syntax: str, **attributes: Any) -> bytes:
    """A grey file of ready-made frames, of which the header counts one."""
    return _coded(GREY, frames, syntax, **attributes)


def _spelled(shift: int) -> np.ndarray:
    """Cells of 16 bits with the name in eight of them that no pixel has."""
    cells = GREY.astype(np.uint16) << (8 - shift)
    cells[5, 3 : 3 + len(_MARK)] |= _MARK.astype(np.uint16) << shift
    return cells


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _boxed(frame: bytes) -> bytes:
    """A JPEG 2000 codestream as a file with boxes, two of which nobody needs."""

    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", 8 + len(body)) + kind + body

    head = box(b"ihdr", struct.pack(">IIHBBBB", *GREY.shape, 1, 7, 7, 0, 0))
    head += box(b"colr", b"\1\0\0" + struct.pack(">I", 17))
    return b"".join(
        [
            b"\0\0\0\x0cjP  \r\n\x87\n",
            box(b"ftyp", b"jp2 \0\0\0\0jp2 "),
            box(b"jp2h", head),
            box(b"xml ", b"<a>" + NAME + b"</a>"),
            box(b"jp2c", frame),
            box(b"uuid", bytes(16) + NAME),
        ]
    )


def _boxed_xl(frame: bytes) -> bytes:
    """A JPEG XL codestream as a file with boxes."""

    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", 8 + len(body)) + kind + body

    return b"".join(
        [
            b"\0\0\0\x0cJXL \r\n\x87\n",
            box(b"ftyp", b"jxl \0\0\0\0jxl "),
            box(b"Exif", bytes(4) + b"MM\0*\0\0\0\x08\0\0" + NAME),
            box(b"xml ", NAME),
            box(b"jxlc", frame),
        ]
    )


def _tile_comment(frame: bytes) -> bytes:
    """A comment in the head of the first part of a tile."""
    at = frame.index(b"\xff\x90")
    comment = _segment(0x64, b"\0\1" + NAME)
    (length,) = struct.unpack_from(">I", frame, at + 6)
    grown = struct.pack(">I", length + len(comment)) if length else bytes(4)
    return frame[: at + 6] + grown + frame[at + 10 : at + 12] + comment + frame[at + 12 :]


def _tile_slack(frame: bytes) -> bytes:
    """Bytes behind the last packet of a tile."""
    at = frame.index(b"\xff\x90")
    (length,) = struct.unpack_from(">I", frame, at + 6)
    end = at + length if length else len(frame) - 2
    grown = struct.pack(">I", length + len(NAME)) if length else bytes(4)
    return frame[: at + 6] + grown + frame[at + 10 : end] + NAME + frame[end:]


def _rle_gap(frame: bytes, where: str) -> bytes:
    head = bytearray(frame[:64])
    if where == "head":  # offsets of segments that are not there
        head[8 : 8 + len(NAME)] = NAME
        return bytes(head) + frame[64:]
    head[4:8] = struct.pack("<I", 64 + len(NAME))
    return bytes(head) + NAME + frame[64:]


def _palette(table: np.ndarray, pixels: np.ndarray, **attributes: Any) -> bytes:
    """A palette picture.

    Args:
        table: Shape (256, 3), uint16.
    """
    said: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for channel, name in enumerate(("Red", "Green", "Blue")):
        said[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        said[f"{name}PaletteColorLookupTableData"] = table[:, channel].astype("<u2").tobytes()
    return builders.dicom(pixels, **said, **attributes)


def _table(first: int, entries: np.ndarray) -> Sequence:
    item = Dataset()
    item.add_new(0x00283002, "US", [len(entries), first, 16])
    item.add_new(0x00283006, "OW", entries.astype("<u2").tobytes())
    item.ModalityLUTType = "US"
    return Sequence([item])


def headers() -> Iterator[tuple[str, bytes]]:
    for syntax in builders.UNCOMPRESSED:
        plain = builders.dicom(GREY, syntax=syntax)
        yield f"preamble {syntax.keyword}", (NAME * 5)[:128] + plain[128:]
        longer = GREY.tobytes() + NAME
        yield (
            f"behind the pixels {syntax.keyword}",
            builders.dicom(GREY, syntax=syntax, PixelData=longer),
        )
    plain = builders.dicom(GREY)
    padding = struct.pack("<HH2sHI", 0xFFFC, 0xFFFC, b"OB", 0, len(NAME)) + NAME
    yield "padding", plain + padding
    yield (
        "group behind the pixels",
        plain + struct.pack("<HH2sHI", 0x7FE1, 0x1010, b"OB", 0, len(NAME)) + NAME,
    )
    yield "no element at all behind the pixels", plain + NAME
    at = plain.index(b"\x10\0\x10\0PN")
    yield "group length", plain[:at] + b"\x10\0\0\0UL\4\0" + NAME[:4] + plain[at:] + NAME
    private = (
        b"\x11\0\x10\0LO\x06\0VENDOR" + b"\x11\0\1\x10LO" + struct.pack("<H", len(NAME)) + NAME
    )
    at = plain.index(b"\x20\0\x0d\0UI")
    yield "private", plain[:at] + private + plain[at:]
    yield "overlay", _overlay()
    yield "words of a profile", builders.dicom(GREY, ICCProfile=profile())
    path = Dataset()
    path.ICCProfile, path.OpticalPathIdentifier = profile(), "1"
    yield "words of a nested profile", builders.dicom(GREY, OpticalPathSequence=Sequence([path]))
    yield "no profile at all", builders.dicom(GREY, ICCProfile=NAME * 6)


def _overlay() -> bytes:
    bits = NAME + bytes(-len(NAME) % 2) + bytes(8)
    data = builders.dicom(GREY)
    at = data.index(b"\xe0\x7f\x10\0")
    plane = struct.pack("<HH2sHH", 0x6000, 0x0010, b"US", 2, 16)
    plane += struct.pack("<HH2sHH", 0x6000, 0x0011, b"US", 2, 18)
    plane += struct.pack("<HH2sHI", 0x6000, 0x3000, b"OW", 0, len(bits)) + bits
    return data[:at] + plane + data[at:]


def tables() -> Iterator[tuple[str, bytes]]:
    indices = (GREY > 100).astype(np.uint8)
    two = np.zeros((256, 3), np.uint16)
    two[1] = 60000
    words = two.copy()
    words[100 : 100 + len(_MARK), 0] = _MARK.astype(np.uint16) * 257
    yield "entries that nothing uses", _palette(words, indices)
    alike = indices.copy()
    alike[5, 3 : 3 + len(_MARK)] = _MARK
    yield "entries that look the same", _palette(two, alike)
    for syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1):
        yield f"entries that look the same {syntax.keyword}", _palette(two, alike, syntax=syntax)
    fine = two.copy()
    fine[0, :] = (81, 117, 97)
    fine[1, :] += np.array((115, 116, 101), np.uint16)
    yield "steps too fine to see", _palette(fine, indices, PatientComments=NAME.decode())
    rising = np.linspace(0, 65535, 256).astype(np.uint16)
    spoken = rising.copy()
    spoken[220 : 220 + len(_MARK)] = _MARK.astype(np.uint16)
    dark = np.minimum(GREY, 200)
    yield "entries of a display table", builders.dicom(dark, VOILUTSequence=_table(0, spoken))
    yield "entries of a modality table", builders.dicom(dark, ModalityLUTSequence=_table(0, spoken))
    yield (
        "a table that is cut off",
        builders.dicom(
            dark, VOILUTSequence=_table(0, np.frombuffer(NAME, np.uint16)), PatientComments="x"
        ),
    )


def cells() -> Iterator[tuple[str, bytes]]:
    for syntax in (*builders.UNCOMPRESSED, *builders.LOSSLESS):
        if syntax != HTJ2KLossless:
            yield f"bits above {syntax.keyword}", builders.dicom(_spelled(8), bits=8, syntax=syntax)
    yield "bits below", builders.dicom(_spelled(0), bits=8, HighBit=15)
    for frames in (1, 2):
        stack = np.stack([GREY] * (frames + 1))
        stack[-1, 5, 3 : 3 + len(_MARK)] = _MARK
        yield f"more frames than {frames}", builders.dicom(stack, NumberOfFrames=frames)
    wave = builders.radiograph(60, 44).astype(np.float32)
    bits = wave.view(np.uint32)
    bits[5, 3 : 3 + len(_MARK)] = 0x7FC00000 | _MARK.astype(np.uint32)
    yield "bits of what is no number", _floats(wave)
    for syntax in (ENCAPSULATED_PLAIN, DEFLATED_FRAME):
        spelled = _spelled(8)
        coded = [_CODERS[syntax](spelled)]
        yield f"bits above {_short(syntax)}", _coded(spelled, coded, syntax, bits=8)


def _floats(pixels: np.ndarray) -> bytes:
    data = builders.dicom(np.zeros(pixels.shape, np.uint16), BitsAllocated=32)
    at = data.index(b"\xe0\x7f\x10\0")
    body = pixels.astype("<f4").tobytes()
    return data[:at] + struct.pack("<HH2sHI", 0x7FE0, 0x0008, b"OF", 0, len(body)) + body


def codestreams() -> Iterator[tuple[str, bytes]]:
    for syntax, coder in _CODERS.items():
        frame = bytes(coder(GREY))
        kind = _short(syntax)
        even = frame + bytes(len(frame) % 2)
        yield f"behind the end, {kind}", _file([frame + NAME], syntax)
        empty, said = b"\xfe\xff\0\xe0", struct.pack("<I", len(NAME)) + NAME
        table = encapsulate([frame], has_bot=False).replace(empty + bytes(4), empty + said, 1)
        yield f"offset table, {kind}", _file([frame], syntax, PixelData=table)
        yield f"behind the delimiter, {kind}", _file([frame], syntax) + NAME
        second = bytes(coder(builders.labelled(width=61, height=43)[0])) + NAME
        yield f"one frame more, {kind}", _file([even, second], syntax)
        if syntax not in (ENCAPSULATED_PLAIN, DEFLATED_FRAME):  # refused: nothing tells them apart
            three = _coded(np.stack([GREY, GREY]), [even, even, second], syntax)
            yield f"two of three frames, {kind}", three
    for syntax in (JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless):
        frame = bytes(_CODERS[str(syntax)](GREY))
        for marker in (0xFE, 0xE1, 0xE2, 0xED):
            said = frame[:2] + _segment(marker, NAME) + frame[2:]
            yield f"segment {marker:02x}, {syntax.keyword}", _file([said], syntax)
        yield f"behind the bits, {syntax.keyword}", _file([frame[:-2] + NAME + frame[-2:]], syntax)
    jpeg = _CODERS[str(JPEGBaseline8Bit)](GREY)
    yield (
        "unused quantisers",
        _file([jpeg[:2] + _segment(0xDB, b"\3" + (NAME * 3)[:64]) + jpeg[2:]], JPEGBaseline8Bit),
    )
    for syntax in (JPEG2000Lossless, HTJ2KLossless):
        frame = bytes(_CODERS[str(syntax)](GREY))
        at = frame.index(b"\xff\x52")
        comment = _segment(0x64, b"\0\1" + NAME)
        yield f"comment, {syntax.keyword}", _file([frame[:at] + comment + frame[at:]], syntax)
        yield f"comment of a tile, {syntax.keyword}", _file([_tile_comment(frame)], syntax)
        yield f"behind the packets, {syntax.keyword}", _file([_tile_slack(frame)], syntax)
    wavelet = bytes(_CODERS[str(JPEG2000Lossless)](GREY))
    yield "boxes around JPEG 2000", _file([_boxed(wavelet)], JPEG2000Lossless)
    yield "boxes around JPEG XL", _file([_boxed_xl(_CODERS[JXL_LOSSLESS](GREY))], JXL_LOSSLESS)
    runs = bytes(_CODERS[str(RLELossless)](GREY))
    for where in ("head", "gap"):
        yield f"RLE {where}", _file([_rle_gap(runs, where)], RLELossless)


def files() -> dict[str, bytes]:
    """Every one of them, by a telling name."""
    makers = (headers, tables, cells, codestreams)
    return {f"DICOM: {what}": data for make in makers for what, data in make()}
