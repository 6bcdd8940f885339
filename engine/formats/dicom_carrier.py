"""A masked DICOM file with its sealed package embedded, so that any archive keeps them together.

The package is in a private block in front of the pixels; other programs see bytes of an unknown
private creator. Removing it gives the masked file back byte for byte.

This is MedSec's own block and not the Encrypted Attributes Sequence of PS3.15 annex E, which
wants a certificate for every recipient.
"""

from __future__ import annotations

import struct

from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from engine.errors import InputError
from engine.formats.dicom_file import DicomFile, deflate, parse

_GROUP = 0x7FDF  # the last private group before the pixels
_PACKAGE = _GROUP << 16 | 0x1000
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

    Raises:
        CorruptImage, UnsupportedFormat: Not a DICOM file that can be read.
    """
    file = parse(data)
    if _PACKAGE not in file.header:
        return None
    value = bytes(file.header[_PACKAGE].value)
    package = value[8 : 8 + int.from_bytes(value[:8])]
    block = _block(file.syntax, package)
    start = file.pixel.start - len(block)
    if start < 0 or file.body[start : file.pixel.start] != block:
        return None
    return _with_body(file, b"", at=start, cut=len(block)), package


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
