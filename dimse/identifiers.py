"""Identifiers of queries (PS3.4 annex C): keys out of what a peer asks, answers in its letters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pynetdicom.dsutils import decode
from pynetdicom.presentation import PresentationContext

from dimse.bounded import Body

STUDY_ROOT = {
    "1.2.840.10008.5.1.4.1.2.2.1": "find",
    "1.2.840.10008.5.1.4.1.2.2.2": "move",
    "1.2.840.10008.5.1.4.1.2.2.3": "get",
}
PATIENT_ROOT = {
    "1.2.840.10008.5.1.4.1.2.1.1": "find",
    "1.2.840.10008.5.1.4.1.2.1.2": "move",
    "1.2.840.10008.5.1.4.1.2.1.3": "get",
}
#: The level's name in a query, what the engine calls it, and its unique key.
_LEVELS = {
    "PATIENT": ("patient", "00100020"),
    "STUDY": ("study", "0020000D"),
    "SERIES": ("series", "0020000E"),
    "IMAGE": ("instance", "00080018"),
}
_LONGEST = 1 << 16
_NO_KEYS = {"00080005", "00080052", "00080053", "00080054", "00080056", "00080201"}


class BadIdentifier(Exception):
    """An identifier that does not match its SOP class.

    Args:
        why: For the error comment; quotes nothing.
    """


@dataclass(frozen=True)
class Query:
    """What a peer asks.

    Args:
        level: As the engine calls it.
        name: As the standard calls it.
        keys: Values by tag of eight hex digits; empty ones match everything.
        charset: Specific character set in which it asked.
        whole: Every key can be answered; otherwise some are not supported.
    """

    level: str
    name: str
    keys: Mapping[str, str]
    charset: str = ""
    whole: bool = True


def query(body: Any, context: PresentationContext) -> Query:
    """The query in an identifier. Raises BadIdentifier."""
    data_set = _decoded(body, context)
    name = str(data_set.get("QueryRetrieveLevel", "")).strip()
    model = context.abstract_syntax
    if name not in _LEVELS or (name == "PATIENT" and model not in PATIENT_ROOT):
        raise BadIdentifier("the query level is not one of its model")
    keys, whole = {}, True
    for element in data_set:
        tag = f"{int(element.tag):08X}"
        if element.tag.element == 0 or tag in _NO_KEYS:
            continue
        if element.VR == "SQ" or element.tag.is_private:
            whole = False
            continue
        keys[tag] = _text(element.value)
    above = list(_LEVELS)[0 if model in PATIENT_ROOT else 1 :]
    for upper in above[: above.index(name)]:
        value = keys.get(_LEVELS[upper][1], "")
        if not value or set("*?") & set(value):
            raise BadIdentifier(f"the unique key of the level {upper} is missing")
    charset = _text(data_set.get("SpecificCharacterSet", ""))
    return Query(_LEVELS[name][0], name, keys, charset, whole)


def answer(said: Mapping[str, Any], asked: Query, title: str) -> Dataset:
    """The identifier of a match: the keys that were asked for, and what the standard adds."""
    found = Dataset()
    for tag in {*asked.keys, *_unique(asked.name)} & ({*asked.keys} | {*said}):
        element = dict(said.get(tag, {}))
        element.pop("BulkDataURI", None)
        if "Value" in element:
            element["Value"] = list(element["Value"])  # of a decoder's process it is a tuple
        if element:
            found.update(Dataset.from_json({tag: element}))
        else:
            found.add_new(int(tag, 16), _vr(tag), None)
    found.QueryRetrieveLevel = asked.name
    found.RetrieveAETitle = title
    found.InstanceAvailability = "ONLINE"
    _in_letters(found, asked.charset)
    return found


def failed(uids: list[str]) -> Dataset:
    """The identifier of an answer that says what was not retrieved."""
    said = Dataset()
    said.FailedSOPInstanceUIDList = uids
    return said


def _unique(name: str) -> list[str]:
    """Unique keys of a level and those above it."""
    names = list(_LEVELS)
    return [_LEVELS[one][1] for one in names[: names.index(name) + 1]]


def _decoded(body: Any, context: PresentationContext) -> Dataset:
    if not isinstance(body, Body) or body.too_large or body.no_room:
        raise BadIdentifier("there is no identifier")
    if body.getbuffer().nbytes > _LONGEST:
        raise BadIdentifier("the identifier is too long")
    syntax: Any = context.transfer_syntax[0]
    body.seek(0)
    try:
        data_set = decode(body, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        data_set.decode()
        for element in data_set:  # values are read when they are asked for
            _text(element.value)
    except Exception as err:
        raise BadIdentifier("the identifier cannot be read") from err
    return data_set


def _text(value: Any) -> str:
    if value is None or isinstance(value, bytes):
        return ""
    if not isinstance(value, MultiValue | list | tuple):  # a PersonName iterates over letters
        return str(value).strip()
    parts = [str(v).strip() for v in value]
    return "\\".join(parts) if any(parts) else ""


def _vr(tag: str) -> str:
    try:
        return dictionary_VR(int(tag, 16)).split(" ")[0]
    except KeyError:
        return "UN"


def _in_letters(found: Dataset, charset: str) -> None:
    """Name the character set of an answer: the peer's own where it has every letter, or UTF-8."""
    text = "".join(_text(element.value) for element in found)
    if text.isascii():
        return
    try:
        [encoding] = set(convert_encodings(charset or "ISO_IR 192"))
        text.encode(encoding)
        found.SpecificCharacterSet = charset or "ISO_IR 192"
    except (ValueError, LookupError):  # not in its letters, or several sets
        found.SpecificCharacterSet = "ISO_IR 192"
