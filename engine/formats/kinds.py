"""What kind of file some bytes are, by their content; a file's name is not asked.

Knows the formats that are taken, and those that people send instead: for each of these the
refusal says what to do.
"""

from __future__ import annotations

from engine.errors import CorruptImage, UnsupportedFormat
from engine.formats import dicom_file, isobmff, png
from engine.records import FORMATS_TAKEN, Format

_JPEG_2000 = b"\0\0\0\x0cjP  \r\n\x87\n"
_JPEG_XL = b"\0\0\0\x0cJXL \r\n\x87\n"
_RAW = (
    "This is a camera's raw file, which is not supported. Export the picture as JPEG, PNG or TIFF"
    " with the camera's program."
)
_VIDEO = (
    "This is a video, which is not supported. Export the frames that you need as PNG or JPEG"
    " files, or send the DICOM file of the recording."
)
_SOUND = "This is a sound recording, not an image. Choose another file."
_UNPACK = "This is a packed file ({}). Unpack it, and send the files that are in it."
_OFFICE = (
    "This is a document ({}), not an image. Export each page or picture in it as PNG or TIFF, and"
    " send those."
)
_NIFTI = (
    "This is a {} file, which is not supported. Send the DICOM files that it was made from, or"
    " export its slices as PNG or TIFF."
)
_ARRAY = "This is a {} file with data, not an image. Export its pictures as PNG or TIFF."
_PICTURE = "This is a {} picture, which is not supported. Save it as PNG or TIFF, and send that."
_DRAWING = "This is a drawing ({}), which is not supported. Export it as PNG, and send that."

#: Beginnings, each with the sentence of its refusal. The first that fits counts.
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", _UNPACK.format("gzip")),
    (b"BZh", _UNPACK.format("bzip2")),
    (b"\xfd7zXZ\0", _UNPACK.format("xz")),
    (b"\x28\xb5\x2f\xfd", _UNPACK.format("Zstandard")),
    (b"\x04\x22\x4d\x18", _UNPACK.format("LZ4")),
    (b"7z\xbc\xaf\x27\x1c", _UNPACK.format("7-Zip")),
    (b"Rar!\x1a\x07", _UNPACK.format("RAR")),
    (b"LZIP", _UNPACK.format("lzip")),
    (b"\x1f\x9d", _UNPACK.format("compress")),
    (b"\x1f\xa0", _UNPACK.format("compress")),
    (b"MSCF", _UNPACK.format("Microsoft cabinet")),
    (b"xar!", _UNPACK.format("xar")),
    (b"!<arch>\n", _UNPACK.format("ar")),
    (b"%!PS", _OFFICE.format("PostScript")),
    (b"\xc5\xd0\xd3\xc6", _OFFICE.format("PostScript")),
    (b"{\\rtf", _OFFICE.format("RTF")),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _OFFICE.format("Microsoft Office or an e-mail")),
    (b"AT&TFORM", _OFFICE.format("DjVu")),
    (b"FUJIFILMCCD-RAW", _RAW),
    (b"IIRO", _RAW),
    (b"IIRS", _RAW),
    (b"MMOR", _RAW),
    (b"IIU\0", _RAW),
    (b"II\x1a\0\0\0HEAPCCDR", _RAW),
    (b"\0MRM", _RAW),
    (b"FOVb", _RAW),
    (b"\x1aE\xdf\xa3", _VIDEO),
    (b"\0\0\x01\xba", _VIDEO),
    (b"\0\0\x01\xb3", _VIDEO),
    (b"\0\0\0\x01\x67", _VIDEO),
    (b"\0\0\x01\x67", _VIDEO),
    (b"FLV\x01", _VIDEO),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _VIDEO),
    (b"OggS", _VIDEO),
    (b"ID3", _SOUND),
    (b"fLaC", _SOUND),
    (b"\x89HDF\r\n\x1a\n", _ARRAY.format("HDF5")),
    (b"CDF\x01", _ARRAY.format("NetCDF")),
    (b"CDF\x02", _ARRAY.format("NetCDF")),
    (b"MATLAB 5.0", _ARRAY.format("MATLAB")),
    (b"\x93NUMPY", _ARRAY.format("NumPy")),
    (b"SIMPLE  =", _ARRAY.format("FITS")),
    (b"NRRD", _NIFTI.format("NRRD")),
    (b"ObjectType", _NIFTI.format("MetaImage")),
    (b"NDims", _NIFTI.format("MetaImage")),
    (b"8BPS", _PICTURE.format("Photoshop")),
    (b"II\xbc", _PICTURE.format("JPEG XR")),
    (b"\0\0\x01\0", _PICTURE.format("Windows icon")),
    (b"icns", _PICTURE.format("Apple icon")),
    (b"gimp xcf", _PICTURE.format("GIMP")),
    (b"FORM", _PICTURE.format("IFF")),
    (b"qoif", _PICTURE.format("QOI")),
    (b"BPG\xfb", _PICTURE.format("BPG")),
    (b"\x8aMNG", _PICTURE.format("MNG")),
    (b"\x8bJNG", _PICTURE.format("JNG")),
    (b"#?RADIANCE", _PICTURE.format("Radiance HDR")),
    (b"v/1\x01", _PICTURE.format("OpenEXR")),
    (b"DDS ", _PICTURE.format("DirectDraw")),
    (b"\xff\xd8\xff\xf7", _PICTURE.format("JPEG-LS")),
    (b"\x0a\x05\x01\x08", _PICTURE.format("PCX")),
    (b"\x59\xa6\x6a\x95", _PICTURE.format("Sun raster")),
    (b"\x01\xda", _PICTURE.format("SGI")),
    (b"\xd7\xcd\xc6\x9a", _DRAWING.format("Windows metafile")),
    (b"AC10", _DRAWING.format("AutoCAD")),
    (b"SQLite format 3\0", "This is a database, not an image. Choose another file."),
    (b"MZ", "This is a program, not an image. Choose another file."),
    (b"\x7fELF", "This is a program, not an image. Choose another file."),
)  # fmt: skip


def sniff(data: bytes) -> Format:
    """The format of a file by its content.

    Raises:
        CorruptImage: Empty.
        UnsupportedFormat: Not among those that MedSec takes; the sentence says what to do.
    """
    if not data:
        raise CorruptImage("The file is empty. Choose another one.")
    if data[:3] == b"\xff\xd8\xff" and data[3:4] != b"\xf7":
        return Format.JPEG
    if data[:8] == png.SIGNATURE:
        return Format.PNG
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Format.WEBP
    if data[128:132] == b"DICM":
        return Format.DICOM
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        if data[8:10] == b"CR" and data[:4] == b"II*\0":
            raise UnsupportedFormat(_RAW)
        return Format.TIFF
    if data[:2] == b"BM" and len(data) >= 26:
        return Format.BMP
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return Format.GIF
    if data[:12] == _JPEG_2000 or data[:4] == b"\xff\x4f\xff\x51":
        return Format.JPEG_2000
    if data[:12] == _JPEG_XL or data[:2] == b"\xff\x0a":
        return Format.JPEG_XL
    if data[4:8] == b"ftyp":
        return _of_brand(data)
    if dicom_file.looks_like(data):
        return Format.DICOM
    raise UnsupportedFormat(_sentence(data))


def _of_brand(data: bytes) -> Format:
    """The format of a file of the ISO base media family (ISO/IEC 14496-12)."""
    brands = isobmff.brands(data)
    if b"crx " in brands:
        raise UnsupportedFormat(_RAW)
    if {b"avif", b"avis"} & brands:
        return Format.AVIF
    if {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1"} & brands:
        return Format.HEIC
    if {b"M4A ", b"M4B "} & brands:
        raise UnsupportedFormat(_SOUND)
    raise UnsupportedFormat(_VIDEO)


def _sentence(data: bytes) -> str:
    """What to do with a file that is not taken."""
    for beginning, sentence in _BEGINNINGS:
        if data.startswith(beginning):
            return sentence
    if b"%PDF-" in data[:1024]:
        return _OFFICE.format("PDF")
    if data[:4] in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"):
        return _zip(data)
    if data[257:262] == b"ustar":
        return _UNPACK.format("tar")
    if data[:4] == b"RIFF":
        return _SOUND if data[8:12] == b"WAVE" else _VIDEO
    if data[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"):
        return _VIDEO  # QuickTime before it had brands
    if data[344:348] in (b"n+1\0", b"ni1\0") or data[4:11] in (b"n+2\0\r\n\x1a", b"ni2\0\r\n\x1a"):
        return _NIFTI.format("NIfTI")
    if data[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c"):
        return _NIFTI.format("Analyze")
    if len(data) > 188 * 3 and data[0] == data[188] == data[376] == 0x47:
        return _VIDEO  # MPEG transport stream
    if data[:1] == b"P" and data[1:2] in b"1234567" and data[2:3].isspace():
        return _PICTURE.format("PNM")
    if data[:2] in (b"Pf", b"PF") and data[2:3].isspace():
        return _PICTURE.format("PFM")
    return _text(data)


def _zip(data: bytes) -> str:
    """A ZIP file: a document of an office program, or files that somebody packed."""
    head = data[:4096]
    if b"word/" in head or b"xl/" in head or b"ppt/" in head or b"[Content_Types].xml" in head:
        return _OFFICE.format("Microsoft Office")
    if b"mimetypeapplication/vnd.oasis.opendocument" in head:
        return _OFFICE.format("OpenDocument")
    if b"mimetypeapplication/epub" in head:
        return _OFFICE.format("EPUB")
    if b"mimetypeimage/openraster" in head:
        return _PICTURE.format("OpenRaster")
    return _UNPACK.format("ZIP")


def _text(data: bytes) -> str:
    """A file of text in some language, or one that is not known at all."""
    head = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith((b"<?xml", b"<svg", b"<!doctype svg")) and b"<svg" in head:
        return _DRAWING.format("SVG")
    if head.startswith((b"<!doctype html", b"<html")):
        return _OFFICE.format("HTML")
    if head.startswith((b"<?xml", b"<")) and b"clinicaldocument" in head:
        return _OFFICE.format("a clinical document in XML")
    if head.startswith(
        (b"from:", b"received:", b"return-path:", b"mime-version:", b"delivered-to:")
    ):
        return "This is an e-mail. Save the pictures that are attached to it, and send those."
    return f"This file format is not supported. Upload {FORMATS_TAKEN}."
