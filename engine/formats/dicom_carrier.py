"""A masked DICOM file with its sealed package embedded, so that any archive keeps them together.

The package is in a private block in front of the pixels; other programs see bytes of an unknown
private creator. Removing it gives the masked file back byte for byte. An archive may write the file
anew (another transfer syntax, another number of the block): the package is found all the same, and
:mod:`engine.formats.dicom_archive` says whether the file around it is still the same picture.

This is MedSec's own block and not the Encrypted Attributes Sequence of PS3.15 annex E, which
wants a certificate for every recipient.
"""

from __future__ import annotations

import struct
from typing import Any

from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from engine.errors import InputError
from engine.formats.dicom_file import DicomFile, deflate, parse

_GROUP = 0x7FDF  # the last private group before the pixels
_CREATOR = b"MEDSEC SEALED 1 "
_LARGEST = (1 << 32) - 16


def carry(masked: bytes, package: bytes) -> bytes:
    """A masked file with a package in it.

    Raises:
        InputError: The package is too large for one element.
    """
    if len(package) > _LARGEST:
        raise InputError(
            "This package is too large to embed in the DICOM file. Send it as a separate file."
        )
    file = parse(masked)
    return _with_body(file, _block(file.syntax, package), at=file.pixel.start, cut=0)


def carried(data: bytes) -> tuple[bytes, bytes] | None:
    """The masked file as it was before :func:`carry`, and the package; None where none is in it.

    A file that an archive wrote anew comes as it is, with the package in it.

    Raises:
        CorruptImage, UnsupportedFormat: Not a DICOM file that can be read.
    """
    file = parse(data)
    package = _package(file)
    if package is None:
        return None
    block = _block(file.syntax, package)
    start = file.pixel.start - len(block)
    if start < 0 or file.body[start : file.pixel.start] != block:
        return data, package
    return _with_body(file, b"", at=start, cut=len(block)), package


def _package(file: DicomFile) -> bytes | None:
    """The package in a private block of ours, whatever group and number the block has."""
    for tag in sorted(file.header.keys()):
        if not tag.is_private or not 0x10 <= tag.element <= 0xFF:
            continue
        if _bytes(file, int(tag)).strip(b"\0 ") != _CREATOR.strip():
            continue
        value = _bytes(file, tag.group << 16 | tag.element << 8)
        length = int.from_bytes(value[:8])
        if len(value) >= 8 and 0 <= len(value) - 8 - length <= 1:
            return value[8 : 8 + length]
    return None


def _bytes(file: DicomFile, tag: int) -> bytes:
    if tag not in file.header:
        return b""
    item: Any = file.header.get_item(tag)
    value = item.value
    if isinstance(value, str):
        return value.encode("ascii", "replace")
    return bytes(value) if isinstance(value, (bytes, bytearray)) else b""


def _block(syntax: UID, package: bytes) -> bytes:
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    value = len(package).to_bytes(8) + package + b"\0" * (len(package) % 2)
    first, second = (struct.pack(order + "HH", _GROUP, n) for n in (0x10, 0x1000))
    if syntax == ImplicitVRLittleEndian:
        heads = [struct.pack("<I", len(part)) for part in (_CREATOR, value)]
    else:
        heads = [
            b"LO" + struct.pack(order + "H", len(_CREATOR)),
            b"OB\0\0" + struct.pack(order + "I", len(value)),
        ]
    return b"".join([first, heads[0], _CREATOR, second, heads[1], value])


def _with_body(file: DicomFile, block: bytes, at: int, cut: int) -> bytes:
    whole = b"".join([file.body[:at], block, file.body[at + cut :]])
    return file.data[: file.meta_end] + deflate(whole) if file.deflated else whole
