"""The Encrypted Attributes Sequence of PS3.15 annex E.1: an original's attributes in a masked file.

What is encrypted is a data set of one element, the Modified Attributes Sequence (0400,0550), in
Explicit VR Little Endian. Its only item holds every attribute of the original that the masked file
does not have as it was. What is made from pixels is not among them (icons, overlays, tables, bytes
of manufacturers): that is sealed by class, in the package. Trailing padding (FFFC,FFFC) hides how
long names and texts are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

from engine.formats.dicom_file import DicomFile, deflate, parse, quiet, write_data_set
from engine.formats.dicom_header import FROM_PIXELS

SEQUENCE, _SYNTAX, _CONTENT, _MODIFIED = 0x04000500, 0x04000510, 0x04000520, 0x04000550
#: Palettes and lookup tables: masked files have them anew, of what their own pixels use.
_TABLES = frozenset((*range(0x00281101, 0x00281105), *range(0x00281201, 0x00281205),
                     *range(0x00281221, 0x00281225), 0x00283000, 0x00283010))  # fmt: skip
#: Describe the coding of the pixels that are in the file, which are the masked ones.
_CODING = frozenset(
    (
        0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011, 0x00280100,
        0x00280101, 0x00280102, 0x00280103, 0x00282110, 0x00282112, 0x00282114,
    )
)  # fmt: skip


def changed(original: bytes, masked: bytes) -> bytes:
    """The data set that is encrypted: attributes of the original that the masked file changed.

    Raises:
        CorruptImage, UnsupportedFormat: One of both cannot be read.
    """
    with quiet():
        before, after = (_plain(parse(data)) for data in (original, masked))
        item = Dataset()
        if "SpecificCharacterSet" in before:  # decides how all that follows is read
            item.add(before["SpecificCharacterSet"])
        for element in _kept(before):
            if _coded(element, before) != _coded(after.get(element.tag), after):
                item.add(element)
        if "SOPInstanceUID" not in item and "SOPInstanceUID" in before:
            item.add(before["SOPInstanceUID"])
        return write_data_set(_alone(_MODIFIED, item), ExplicitVRLittleEndian)


def padded(content: bytes, length: int) -> bytes:
    """The data set with trailing padding, ``length`` bytes or a few more."""
    size = max(0, length - len(content) - 12)
    size += size % 2
    head = struct.pack("<HH2sHI", 0xFFFC, 0xFFFC, b"OB", 0, size)
    return content + head + bytes(size)


def attach(masked: bytes, envelope: bytes) -> bytes:
    """The masked file with an envelope in its Encrypted Attributes Sequence."""
    item = Dataset()
    item.add_new(_SYNTAX, "UI", ExplicitVRLittleEndian)
    item.add_new(_CONTENT, "OB", envelope + bytes(len(envelope) % 2))
    with quiet():
        file = parse(masked)
        file.header[SEQUENCE] = DataElement(SEQUENCE, "SQ", Sequence([item]))
        return _with_header(file)


def detach(data_set: Dataset) -> None:
    """Take the sequence out of a data set, in place."""
    if SEQUENCE in data_set:
        del data_set[SEQUENCE]


def _plain(file: DicomFile) -> Dataset:
    return correct_ambiguous_vr(file.header, file.syntax != ExplicitVRBigEndian)


def _with_header(file: DicomFile) -> bytes:
    body = write_data_set(file.header, file.syntax) + file.body[file.pixel.start :]
    return file.data[: file.meta_end] + (deflate(body) if file.deflated else body)


def _alone(tag: int, item: Dataset) -> Dataset:
    whole = Dataset()
    whole.add(DataElement(tag, "SQ", Sequence([item])))
    return whole


def _kept(data_set: Dataset) -> Iterator[DataElement]:
    """Elements that can be read, without what is made from pixels, at any depth."""
    for tag in sorted(data_set.keys()):
        number = int(tag)
        from_pixels = (
            number in FROM_PIXELS or number in _TABLES or number in _CODING
            or 0x5000 <= tag.group <= 0x501E or 0x6000 <= tag.group <= 0x601E
            or tag.group in (0x5400, 0x7FE0)
        )  # fmt: skip
        if from_pixels or tag.element == 0 or tag.group <= 2:
            continue
        try:
            element = data_set[tag]
            if element.VR == "SQ":
                items = []
                for inner in element.value:
                    fresh = Dataset()
                    for part in _kept(inner):
                        fresh.add(part)
                    items.append(fresh)
                element = DataElement(tag, "SQ", Sequence(items))
            elif element.VR == "UN" or element.VR.startswith("O"):
                continue  # could be a picture
        except Exception:  # noqa: BLE001, S112 - values of vendors raise anything
            continue
        yield element


def _coded(element: DataElement | None, of: Dataset) -> bytes:
    """An element as bytes, to be compared."""
    if element is None:
        return b""
    alone = Dataset()
    if "SpecificCharacterSet" in of:
        alone.SpecificCharacterSet = of.SpecificCharacterSet
    alone.add(element)
    return write_data_set(alone, ExplicitVRLittleEndian)
