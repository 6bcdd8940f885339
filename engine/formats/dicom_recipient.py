"""A masked DICOM file for one recipient: the masked pixels under a header made for them.

The header is made anew from the original's, which is sealed with the image, by the options of the
recipient's profile; what describes pixels is the masked file's. What became of each attribute is
reported by tag, never by value.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from engine.errors import CorruptImage
from engine.formats import dicom_encoding, dicom_tables
from engine.formats.dicom_file import PIXEL_TAGS, deflate, parse, quiet, write_header
from engine.formats.dicom_header import DUMMIES, Subject, deidentify, file_meta

#: Group of what describes pixels, and the elements of it that describe the de-identification.
_PIXELS, _ABOUT = 0x0028, frozenset((0x00280301, 0x00280302, 0x00280303))
#: Outcomes of an attribute.
REMOVED, CHANGED, KEPT = "removed", "changed", "kept"


def copy_for(
    masked: bytes, parts: Mapping[str, bytes], key: bytes, whose: Subject
) -> tuple[bytes, dict[str, tuple[str, ...]]]:
    """A masked file with the header of one recipient.

    Args:
        masked: As sealing made it.
        parts: Of the remainder that is sealed with it.
        key: 32 bytes of the patient and the recipient: the same give the same identifiers and
            dates.

    Returns:
        The file, and the original's attributes by what became of them.

    Raises:
        CorruptImage: The header cannot be read.
    """
    with quiet():
        file = parse(masked)
        original = _header(parts)
        clean = deidentify(original, key, whose)
        for tag in filter(_describes_pixels, sorted(clean.keys())):
            del clean[tag]
        for tag in filter(_describes_pixels, sorted(file.header.keys())):
            clean.add(file.header[tag])
        dicom_tables.settle_nested(clean)
        front, body = write_header(clean, file_meta(file.meta, clean), file.syntax)
        whole = body + file.body[file.pixel.start :]
        done = front + (deflate(whole) if file.deflated else whole)
        return done, _outcomes(original, clean)


def _describes_pixels(tag: BaseTag) -> bool:
    return tag.group == _PIXELS and int(tag) not in _ABOUT


def _header(parts: Mapping[str, bytes]) -> Dataset:
    """The original's data set up to its pixels."""
    if "whole" in parts:
        return parse(parts["whole"]).header
    try:
        if "meta" in parts:  # deflated: the head is the inflated data set
            stream, implicit, little = io.BytesIO(parts["head"]), False, True
        else:
            form = dicom_encoding.find(parts["head"], 1 << 30)
            stream, implicit, little = io.BytesIO(form.body), form.implicit, form.little
            stream.seek(form.start)
        header = read_dataset(
            stream,
            is_implicit_VR=implicit,
            is_little_endian=little,
            stop_when=lambda tag, vr, length: int(tag) in PIXEL_TAGS,
        )
        header.set_original_encoding(implicit, little, header._character_set)
    except (KeyError, ValueError, EOFError, OSError) as err:
        raise CorruptImage("The sealed header of this image cannot be read.") from err
    return header


def _outcomes(original: Dataset, clean: Dataset) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {REMOVED: set(), CHANGED: set(), KEPT: set()}
    for name, outcome in _compared(original, clean):
        found[outcome].add(name)
    return {outcome: tuple(sorted(names)) for outcome, names in found.items()}


def _says_nothing(element: DataElement) -> bool:
    """Is a value empty, or the one that stands for any?"""
    value: Any = element.value
    return value is None or len(str(value)) == 0 or value == DUMMIES.get(element.VR)


def _compared(original: Dataset, clean: Dataset, path: str = "") -> Iterator[tuple[str, str]]:
    """The path of each attribute of the original, and what became of it."""
    for tag in sorted(original.keys()):
        if tag.element == 0:
            continue
        name = path + (keyword_for_tag(tag) or f"({tag.group:04X},{tag.element:04X})")
        try:
            element: Any = original[tag]
        except Exception:  # noqa: BLE001 - values of vendors raise anything
            yield name, REMOVED
            continue
        left: Any = clean.get(tag)
        if left is None or (element.value != left.value and _says_nothing(left)):
            yield name, REMOVED
        elif element.VR == "SQ" and left.VR == "SQ" and len(element.value) == len(left.value):
            for before, after in zip(element.value, left.value, strict=True):
                yield from _compared(before, after, f"{name}.")
        else:
            yield name, KEPT if element.value == left.value else CHANGED
