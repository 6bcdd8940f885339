"""What the elements of a DICOM data set say, as text or as bytes, whatever is wrong with them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

from pydicom.charset import python_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from engine.formats.dicom_file import text
from engine.formats.spellings import decoded

#: Value representations of numbers, and how one lies in the file.
NUMBERS = {"AT": "", "FD": "<d", "FL": "<f", "SL": "<i", "SV": "<q", "UL": "<I", "UV": "<Q",
            "SS": "<h", "US": "<H"}  # fmt: skip


def packed(vr: str, values: Iterable[Any]) -> bytes:
    """Numbers as they lie in the file, little endian; empty where they are none."""
    try:
        if vr == "AT":
            return b"".join(struct.pack("<HH", int(v) >> 16, int(v) & 0xFFFF) for v in values)
        return b"".join(struct.pack(NUMBERS[vr], v) for v in values)
    except (struct.error, TypeError, ValueError, OverflowError):
        return b""


def declared(header: Dataset) -> bool:
    """Does the file say, in a way that is known, in which character set its texts are?"""
    said = text(header, "SpecificCharacterSet")
    names = [n.strip(" '[]") for n in said.replace("\\", ",").split(",")]
    return bool(said) and all(name in python_encoding for name in names)


def values_of(data_set: Dataset) -> Iterator[tuple[int, str, str, bool]]:
    """Tag, VR and each value of every element that is text, at every depth, and whether that is
    only a guess of how its bytes are to be read."""
    for tag in sorted(data_set.keys()):
        raw: Any = data_set.get_item(tag)
        data = raw.value if isinstance(raw, RawDataElement) else b""
        try:
            element = data_set[tag]
            vr, value = str(element.VR), element.value
        except Exception:  # noqa: BLE001, S112 - values of vendors raise anything
            continue
        if vr == "SQ":
            for item in value or ():
                yield from values_of(item)
        elif value is not None and not isinstance(value, (bytes, bytearray)):
            several = not isinstance(value, str) and hasattr(value, "__iter__") and vr != "PN"
            if vr == "PN":
                several = element.VM > 1
            for one in value if several else [value]:
                yield int(tag), vr, str(one).strip("\0 "), False
            if vr in ("PN", "LO", "SH", "UC") and data and len(data) < 1024 and not data.isascii():
                for place, said in enumerate(decoded(data.strip(b"\0 "))):
                    yield int(tag), vr, said, place > 0
