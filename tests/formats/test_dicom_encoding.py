"""Data sets and meta information in another form than the file declares."""

from __future__ import annotations

import struct
import zlib

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
)

from engine.errors import CorruptImage, UnsupportedFormat
from tests import builders
from tests.formats.dicom_files import (
    both_ways,
    meta_of,
    read,
    same,
    with_syntax,
    write_meta,
)

GREY, _ = builders.labelled(width=96, height=64)
FORMS = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)


def _file(syntax: str = ExplicitVRLittleEndian) -> bytes:
    return builders.dicom(builders.radiograph(96, 64, bits=12), syntax=syntax, bits=12)


@pytest.mark.parametrize("written", FORMS)
@pytest.mark.parametrize("said", [*FORMS, "1.2.840.10008.1.2.1.99", ""])
def test_the_form_that_is_written_is_read_whatever_is_said(written: str, said: str) -> None:
    right = _file(written)
    image, masked = both_ways(with_syntax(right, said))
    assert same(image.pixels, read(right).pixels)
    assert same(masked.pixels[:, 20:], image.pixels[:, 20:])


@pytest.mark.parametrize("said", [*FORMS, DeflatedExplicitVRLittleEndian, ""])
@pytest.mark.parametrize("head", [-15, 15])
def test_a_deflated_data_set_is_read_whatever_is_said(said: str, head: int) -> None:
    _, rest = meta_of(_file())
    engine = zlib.compressobj(6, zlib.DEFLATED, head)
    data = _file()[: -len(rest)] + engine.compress(rest) + engine.flush()
    data = with_syntax(data + b"\0" * (len(data) % 2), said)
    image, _ = both_ways(data)
    assert same(image.pixels, read(_file()).pixels)


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("syntax", FORMS)
def test_meta_information_in_any_form_is_read(implicit: bool, order: str, syntax: str) -> None:
    values, rest = meta_of(_file(syntax))
    data = b"\0" * 128 + b"DICM" + write_meta(values, implicit=implicit, order=order) + rest
    image, _ = both_ways(data)
    assert same(image.pixels, read(_file(syntax)).pixels)


@pytest.mark.parametrize("length", [0, 1, 4000, 0xFFFFFFFF])
def test_a_wrong_group_length_is_not_believed(length: int) -> None:
    values, rest = meta_of(_file())
    values[2, 0] = struct.pack("<I", length)
    image, _ = both_ways(b"\0" * 128 + b"DICM" + write_meta(values) + rest)
    assert same(image.pixels, read(_file()).pixels)


@pytest.mark.parametrize("magic", [True, False])
@pytest.mark.parametrize("syntax", FORMS)
def test_a_file_without_meta_information_is_read(magic: bool, syntax: str) -> None:
    _, rest = meta_of(_file(syntax))
    image, _ = both_ways((b"\0" * 128 + b"DICM" if magic else b"") + rest)
    assert same(image.pixels, read(_file(syntax)).pixels)


def test_meta_information_without_preamble_is_read() -> None:
    image, _ = both_ways(_file()[132:])
    assert same(image.pixels, read(_file()).pixels)


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("said", ["", ExplicitVRLittleEndian])
def test_compressed_frames_that_are_not_declared_are_known_by_themselves(
    syntax: str, said: str
) -> None:
    right = builders.dicom(GREY, syntax=syntax)
    image, _ = both_ways(with_syntax(right, said))
    assert same(image.pixels, read(right).pixels)


def test_native_pixels_that_are_declared_compressed_are_read() -> None:
    image, _ = both_ways(with_syntax(_file(), JPEG2000Lossless))
    assert same(image.pixels, read(_file()).pixels)


@pytest.mark.parametrize("syntax", ["1.2.840.113619.5.2", "1.3.46.670589.33.1.4.1"])
def test_a_manufacturers_own_transfer_syntax_is_named(syntax: str) -> None:
    data = with_syntax(builders.dicom(GREY, syntax=JPEGBaseline8Bit), syntax)
    with pytest.raises(UnsupportedFormat, match="manufacturer's own way"):
        read(data)


def test_a_deflated_data_set_that_is_cut_off_is_refused() -> None:
    whole = builders.dicom(GREY, syntax=DeflatedExplicitVRLittleEndian)
    with pytest.raises(CorruptImage):
        read(whole[: len(whole) // 2])


def _element(tag: tuple[int, int], vr: bytes, value: bytes) -> bytes:
    wide = vr in (b"OB", b"UN", b"SQ", b"UT")
    length = b"\0\0" + struct.pack("<I", len(value)) if wide else struct.pack("<H", len(value))
    return struct.pack("<HH", *tag) + vr + length + value


_OPEN = b"\xff\xff\xff\xff"
_ITEM = b"\xfe\xff\x00\xe0" + _OPEN + b"%b\xfe\xff\x0d\xe0\0\0\0\0"
_SEQUENCE = b"\xdf\x7f\x10\x20%b\0\0" + _OPEN + b"%b\xfe\xff\xdd\xe0\0\0\0\0"
_NAME = b"Musterfrau Erika"
STRANGE = {
    "odd length": _element((0x7FDF, 0x10), b"LO", b"ACME")
    + _element((0x7FDF, 0x1001), b"LO", b"abc"),
    "open sequence": _SEQUENCE % (b"SQ", _ITEM % _element((8, 0x1115), b"LO", _NAME)),
    "open unknown": _SEQUENCE % (b"UN", _ITEM % (b"\x10\0\x10\0" + b"\x10\0\0\0" + _NAME)),
    "empty item": _SEQUENCE % (b"SQ", b"\xfe\xff\x00\xe0\0\0\0\0"),
    "unknown VR": _element((0x7FDF, 0x10), b"LO", b"ACME")
    + _element((0x7FDF, 0x1001), b"ZZ", _NAME),
    "group length": _element((0x7FE0, 0), b"UL", b"\1\0\0\0"),
}


@pytest.mark.parametrize("strange", STRANGE)
def test_strange_elements_in_front_of_the_pixels_come_back_and_are_not_shared(strange: str) -> None:
    plain = builders.dicom(GREY)
    at = plain.rindex(b"\xe0\x7f\x10\0")
    image, masked = both_ways(plain[:at] + STRANGE[strange] + plain[at:])
    assert same(image.pixels[0], GREY)
    assert _NAME not in masked.data


@pytest.mark.parametrize("tail", [_NAME, b"\0" * 512, _element((0xFFFC, 0xFFFC), b"OB", _NAME)])
def test_what_follows_native_pixels_comes_back_and_is_not_shared(tail: bytes) -> None:
    image, masked = both_ways(builders.dicom(GREY) + tail)
    assert same(image.pixels[0], GREY)
    assert _NAME not in masked.data


@pytest.mark.parametrize("vr", [b"OW", b"UN", None])
def test_native_pixels_under_another_vr_or_of_odd_length_come_back(vr: bytes | None) -> None:
    plain, pixels = builders.dicom(GREY[:63, :95]), GREY[:63, :95].tobytes()
    at = plain.rindex(b"\xe0\x7f\x10\0")
    length = struct.pack("<I", len(pixels))
    head = b"\xe0\x7f\x10\0" + (length if vr is None else vr + b"\0\0" + length)
    image, _ = both_ways(plain[:at] + head + pixels)
    assert same(image.pixels[0], GREY[:63, :95])
