"""A masked object as DICOMweb gives it out: header as JSON, frames, and matching of queries.

Source: PS3.18 annex F (JSON), PS3.4 C.2.2.2 (matching), PS3.18 8.7.3 (transfer syntaxes).
"""

from __future__ import annotations

import fnmatch
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import ExplicitVRLittleEndian

from engine.errors import InputError, NotFound, UnsupportedFormat
from engine.formats.dicom_file import parse, quiet
from engine.formats.dicom_pixels import layout_of, payload

#: Attributes of an object in JSON, by tag of eight hex digits.
Header = dict[str, dict[str, Any]]
#: Where a bulk value is asked for: the address of the object is put in front of it.
BULK = "bulkdata"
_LONGEST_INLINE = 1024
_RANGED = ("DA", "TM", "DT")
_TAG = re.compile(r"[0-9A-Fa-f]{8}")


def header(data: bytes) -> tuple[Header, str]:
    """Attributes of an object in JSON, pixels by reference, and its transfer syntax."""
    file = parse(data)
    with quiet():
        said: Header = file.header.to_json_dict(
            bulk_data_threshold=_LONGEST_INLINE,
            bulk_data_element_handler=lambda element: f"{BULK}/{int(element.tag):08X}",
            suppress_invalid_tags=True,
        )
    pixels = {"vr": file.pixel.vr, "BulkDataURI": f"{BULK}/{file.pixel.tag:08X}"}
    return {**said, f"{file.pixel.tag:08X}": pixels}, str(file.syntax)


def frames(data: bytes, numbers: Sequence[int], native: bool) -> tuple[list[bytes], str]:
    """Frames of an object, and the transfer syntax in which they are.

    Args:
        numbers: From 1, as in addresses; none of them means all.
        native: Uncompressed, little endian; otherwise as they are stored.

    Raises:
        NotFound: No such frame.
        UnsupportedFormat: It cannot be decompressed.
    """
    file = parse(data)
    if native and file.pixel.encapsulated:
        file = parse(uncompressed(data))
    count = layout_of(file).frames
    chosen = list(numbers) or list(range(1, count + 1))
    if not all(1 <= number <= count for number in chosen):
        raise NotFound("This image has no such frame.", frames=count)
    if file.pixel.encapsulated:
        parts = payload(file)[0]
        return [parts[number - 1] for number in chosen], str(file.syntax)
    whole, length = file.value, len(file.value) // count
    cut = [bytes(whole[(number - 1) * length : number * length]) for number in chosen]
    return cut, str(file.syntax)


def bulk(data: bytes, tag: str) -> bytes:
    """The value of an attribute, its bytes as they are stored. Raises NotFound."""
    file = parse(data)
    if _TAG.fullmatch(tag) and int(tag, 16) == file.pixel.tag:
        return b"".join(frames(data, (), False)[0])
    element = file.header.get(int(tag, 16)) if _TAG.fullmatch(tag) else None
    if element is None or not isinstance(element.value, bytes):
        raise NotFound("This image has no such bulk data.")
    return element.value


def uncompressed(data: bytes) -> bytes:
    """The same object as Explicit VR Little Endian (PS3.18 8.7.3.5.2: the default).

    Raises:
        UnsupportedFormat: Its coding cannot be undone here, as of video.
    """
    try:
        with quiet():
            whole = pydicom.dcmread(io.BytesIO(data))
            if whole.file_meta.TransferSyntaxUID.is_compressed:
                whole.decompress(generate_instance_uid=False)
            whole.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            made = io.BytesIO()
            whole.save_as(made, implicit_vr=False, little_endian=True, enforce_file_format=True)
            return made.getvalue()
    except Exception as err:  # decoders of others raise anything
        raise UnsupportedFormat(
            "This image cannot be given out in that transfer syntax. Ask for the stored one (*)."
        ) from err


def tag_of(name: str) -> str:
    """Eight hex digits for a keyword or a tag. Raises InputError."""
    if _TAG.fullmatch(name):
        return name.upper()
    tag = tag_for_keyword(name)
    if tag is None:
        raise InputError("An attribute of the query is not known. Use its keyword or tag.")
    return f"{int(tag):08X}"


def matches(said: Mapping[str, Mapping[str, Any]], keys: Mapping[str, str]) -> bool:
    """Does an object match every key of a query?

    Args:
        keys: Values by tag: a single value, a list of UIDs, a range of dates or times, or with the
            wildcards ``*`` and ``?``; an empty one matches everything.
    """
    return all(_matches(said.get(tag, {}), tag, wanted.strip()) for tag, wanted in keys.items())


def _matches(element: Mapping[str, Any], tag: str, wanted: str) -> bool:
    if wanted in ("", "*"):
        return True
    vr = str(element.get("vr") or _vr(tag))
    values = list(_texts(element.get("Value", ())))
    if vr == "UI":
        return bool({*re.split(r"[,\\]", wanted)} & {*values})
    if vr in _RANGED and "-" in wanted:
        first, _, last = wanted.partition("-")
        return any(value and first <= value[: len(first) or None] and
                   (not last or value[: len(last)] <= last) for value in values)  # fmt: skip
    if vr in _RANGED:
        return any(value == wanted for value in values)
    pattern = wanted.casefold().replace("[", "[[]")
    return any(fnmatch.fnmatchcase(value.casefold(), pattern) for value in values)


def _texts(values: Iterable[Any]) -> Iterable[str]:
    for value in values:
        yield str(value.get("Alphabetic", "")) if isinstance(value, dict) else str(value)


def _vr(tag: str) -> str:
    try:
        return dictionary_VR(int(tag, 16))
    except KeyError:
        return ""
