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
