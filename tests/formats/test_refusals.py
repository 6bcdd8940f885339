"""What people send instead of a picture that is taken: each kind has a sentence that says what to
do, and none of it is decoded."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import tifffile

from engine.errors import UnsupportedFormat
from engine.formats import images
from engine.records import FORMATS_TAKEN, Format
from engine.settings import Settings
from tests import builders

LIMITS = images.Limits.of(Settings())


def _zip(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, "application/vnd.oasis.opendocument.text")
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        member = tarfile.TarInfo("one.dcm")
        member.size = 600
        file.addfile(member, io.BytesIO(bytes(600)))
    return buffer.getvalue()


def _movie(brand: bytes) -> bytes:
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\2\0isom" + brand + b"\0\0\0\x08mdat"


def _dng() -> bytes:
    """A preview, with the tag that says that the rest is raw."""
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, builders.radiograph(20, 20), metadata=None,
        extratags=[(50706, "B", 4, (1, 4, 0, 0), True)],
    )  # fmt: skip
    return buffer.getvalue()


def _nef() -> bytes:
    """A small preview; the raw picture is in a directory below it."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(np.zeros((12, 16, 3), np.uint8), photometric="rgb", subifds=1, metadata=None)
        file.write(
            np.zeros((120, 160), np.uint16),
            photometric=32803,
            metadata=None,
            extratags=[(33421, "H", 2, (2, 2), True), (33422, "B", 4, (0, 1, 1, 2), True)],
        )
    return buffer.getvalue()  # fmt: skip


PACKED = builders.dicom(builders.radiograph(20, 20))
#: What was sent, and what the sentence names: what it is, and what to do.
SENT = {
    "gzip": (gzip.compress(PACKED), "gzip", "Unpack"),
    "bzip2": (bz2.compress(PACKED), "bzip2", "Unpack"),
    "xz": (lzma.compress(PACKED), "xz", "Unpack"),
    "zip of files": (_zip("one.dcm", "two.dcm"), "ZIP", "Unpack"),
    "empty zip": (_zip(), "ZIP", "Unpack"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(60), "7-Zip", "Unpack"),
    "rar": (b"Rar!\x1a\x07\x01\0" + bytes(60), "RAR", "Unpack"),
    "tar": (_tar(), "tar", "Unpack"),
    "docx": (_zip("[Content_Types].xml", "word/document.xml"), "Office", "Export"),
    "xlsx": (_zip("[Content_Types].xml", "xl/workbook.xml"), "Office", "Export"),
    "odt": (_zip("mimetype", "content.xml"), "OpenDocument", "Export"),
    "doc": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "Office", "Export"),
    "pdf": (b"%PDF-1.7\n" + bytes(200), "PDF", "Export"),
    "pdf behind a mark": (b"\xef\xbb\xbf\n%PDF-1.4\n" + bytes(200), "PDF", "Export"),
    "rtf": (b"{\\rtf1 letter}", "RTF", "Export"),
    "postscript": (b"%!PS-Adobe-3.0", "PostScript", "Export"),
    "html": (b"<!DOCTYPE html><html><p>letter</html>", "HTML", "Export"),
    "svg": (b"<?xml version='1.0'?>\n<svg xmlns='x'></svg>", "SVG", "Export"),
    "mail": (b"From: a@b.c\r\nSubject: scan\r\n\r\n", "e-mail", "attached"),
    "mp4": (_movie(b"mp42"), "video", "frames"),
    "mov": (_movie(b"qt  "), "video", "frames"),
    "old mov": (b"\0\0\0\x08wide\0\0\1\0mdat" + bytes(90), "video", "frames"),
    "3gp": (_movie(b"3gp5"), "video", "frames"),
    "avi": (b"RIFF\0\1\0\0AVI LIST" + bytes(60), "video", "frames"),
    "mkv": (b"\x1aE\xdf\xa3" + bytes(60), "video", "frames"),
    "wmv": (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(60), "video", "frames"),
    "mpeg": (b"\0\0\1\xba" + bytes(60), "video", "frames"),
    "ts": ((b"G" + bytes(187)) * 4, "video", "frames"),
    "sound": (b"RIFF\0\1\0\0WAVEfmt " + bytes(60), "sound", "another"),
    "m4a": (_movie(b"M4A "), "sound", "another"),
    "nifti": (struct.pack("<i", 348) + bytes(340) + b"n+1\0" + bytes(90), "NIfTI", "DICOM"),
    "nifti 2": (struct.pack("<i", 540) + b"n+2\0\r\n\x1a\n" + bytes(600), "NIfTI", "DICOM"),
    "nrrd": (b"NRRD0005\ntype: short\n", "NRRD", "DICOM"),
    "mha": (b"ObjectType = Image\nNDims = 3\n", "MetaImage", "DICOM"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(60), "HDF5", "Export"),
    "numpy": (b"\x93NUMPY\1\0" + bytes(60), "NumPy", "Export"),
    "dng": (_dng(), "raw", "Export"),
    "nef": (_nef(), "raw", "Export"),
    "cr2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(90), "raw", "Export"),
    "cr3": (_movie(b"crx "), "raw", "Export"),
    "raf": (b"FUJIFILMCCD-RAW 0201" + bytes(60), "raw", "Export"),
    "orf": (b"IIRO\x08\0\0\0" + bytes(60), "raw", "Export"),
    "rw2": (b"IIU\0\x08\0\0\0" + bytes(60), "raw", "Export"),
    "psd": (b"8BPS\0\1" + bytes(60), "Photoshop", "Save"),
    "jpeg xr": (b"II\xbc\1\x08\0\0\0" + bytes(60), "JPEG XR", "Save"),
    "jpeg-ls": (b"\xff\xd8\xff\xf7\0\x0b\x08\0\2\0\2\1\1\x11\0" + bytes(60), "JPEG-LS", "Save"),
    "jpeg-ls behind a comment": (
        b"\xff\xd8\xff\xfe\0\4hi\xff\xf7\0\x0b\x08\0\2\0\2\1\1\x11\0" + bytes(60),
        "JPEG-LS", "Save",
    ),
    "ico": (b"\0\0\1\0\1\0\x10\x10" + bytes(60), "icon", "Save"),
    "pnm": (b"P6\n2 2\n255\n" + bytes(12), "PNM", "Save"),
    "exr": (b"v/1\1" + bytes(60), "OpenEXR", "Save"),
    "program": (b"MZ" + bytes(60), "program", "another"),
    "database": (b"SQLite format 3\0" + bytes(60), "database", "another"),
    "anything": (b"Dear Dr. Smith, please find attached the image", "not supported", FORMATS_TAKEN),
}  # fmt: skip


@pytest.mark.parametrize("name", SENT)
def test_the_sentence_says_what_it_is_and_what_to_do(name: str) -> None:
    data, what, remedy = SENT[name]
    with pytest.raises(UnsupportedFormat) as caught:
        images.decode(f"a.{name}", data, LIMITS)
    sentence = caught.value.message
    assert what in sentence
    assert remedy in sentence
    assert sentence.endswith(".")


def test_every_format_that_is_taken_is_named_where_one_is_not() -> None:
    # a document is a DICOM file
    assert all(kind in FORMATS_TAKEN for kind in set(Format) - {Format.DOCUMENT})


def test_endings_and_media_types_are_those_that_programs_know() -> None:
    said = {kind: (kind.suffix, kind.media_type) for kind in Format}
    assert said == {
        "JPEG": ("jpg", "image/jpeg"),
        "PNG": ("png", "image/png"),
        "DICOM": ("dcm", "application/dicom"),
        "TIFF": ("tif", "image/tiff"),
        "BMP": ("bmp", "image/bmp"),
        "WebP": ("webp", "image/webp"),
        "HEIC": ("heic", "image/heic"),
        "AVIF": ("avif", "image/avif"),
        "JPEG XL": ("jxl", "image/jxl"),
        "JPEG 2000": ("jp2", "image/jp2"),
        "GIF": ("gif", "image/gif"),
        "DICOM document": ("dcm", "application/dicom"),
    }
