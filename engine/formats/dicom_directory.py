"""DICOMDIR: what is in a file-set, for viewers that read it (PS3.3 annex F, PS3.10 section 8).

A file's header is read in a process without keys (:func:`entry`). What that answers is checked and
written as records here. Records need no more than names of files, so a directory is made while its
files leave one by one, and leaves last.
"""

from __future__ import annotations

import io
import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pydicom
from pydicom.config import RAISE
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MediaStorageDirectoryStorage
from pydicom.valuerep import validate_value

from engine.formats.dicom_document import kind_of
from engine.formats.dicom_file import quiet, write_data_set, write_header
from engine.formats.dicom_header import PRODUCT_UID


@dataclass(frozen=True)
class _Keys:
    """Attributes of a type of record (PS3.3 F.5).

    Args:
        needed: Are there and not empty.
        known: Are there, empty where they are not known.
        other: May be missing.
    """

    needed: tuple[str, ...]
    known: tuple[str, ...] = ()
    other: tuple[str, ...] = ()

    @property
    def every(self) -> tuple[str, ...]:
        return (*self.needed, *self.known, *self.other)


_KEYS: Mapping[str, _Keys] = {
    "PATIENT": _Keys(("PatientID",), ("PatientName",)),
    "STUDY": _Keys(
        ("StudyDate", "StudyTime", "StudyInstanceUID", "StudyID"),
        ("StudyDescription", "AccessionNumber"),
    ),
    "SERIES": _Keys(
        ("Modality", "SeriesInstanceUID", "SeriesNumber"), other=("SeriesDescription",)
    ),
    "IMAGE": _Keys(("InstanceNumber",), other=("ImageType",)),
    "SR DOCUMENT": _Keys(
        (
            "InstanceNumber", "CompletionFlag", "VerificationFlag", "ContentDate", "ContentTime",
            "ConceptNameCodeSequence",
        ),
        other=("VerificationDateTime", "ContentSequence"),
    ),
    "KEY OBJECT DOC": _Keys(
        ("InstanceNumber", "ContentDate", "ContentTime", "ConceptNameCodeSequence"),
        other=("ContentSequence",),
    ),
    "PRESENTATION": _Keys(
        ("PresentationCreationDate", "PresentationCreationTime", "InstanceNumber", "ContentLabel"),
        ("ContentDescription", "ContentCreatorName"),
        ("ReferencedSeriesSequence", "BlendingSequence"),
    ),
    "ENCAP DOC": _Keys(
        ("InstanceNumber", "MIMETypeOfEncapsulatedDocument"),
        ("ContentDate", "ContentTime", "DocumentTitle", "ConceptNameCodeSequence"),
        ("HL7InstanceIdentifier",),
    ),
}  # fmt: skip
_DOCUMENTS = {
    "key objects": "KEY OBJECT DOC",
    "report": "SR DOCUMENT",
    "presentation state": "PRESENTATION",
    "encapsulated document": "ENCAP DOC",
}
#: What a reader needs and some devices leave out; the same values as dcmtk's ``dcmmkdir`` makes up.
_NO_DATE, _NO_TIME = "19000101", "000000"
_MADE_UP = {
    "PatientID": "UNKNOWN",
    "StudyID": "1",
    "Modality": "OT",
    "StudyDate": _NO_DATE,
    "ContentDate": _NO_DATE,
    "PresentationCreationDate": _NO_DATE,
    "StudyTime": _NO_TIME,
    "ContentTime": _NO_TIME,
    "PresentationCreationTime": _NO_TIME,
}
_NUMBERS = ("SeriesNumber", "InstanceNumber")
#: Values that devices write in other forms than readers take; such a one is as good as missing.
_CHECKED = (
    "ImageType", "StudyDate", "StudyTime", "ContentDate", "ContentTime",
    "PresentationCreationDate", "PresentationCreationTime",
)  # fmt: skip
_UID = re.compile(r"[0-9][0-9.]{0,63}")
#: Of what is told of one file, as JSON.
_MOST_BYTES = 256 << 10
#: A part of a file's name (PS3.10 8.2); there are at most eight parts.
_COMPONENT = re.compile(r"[A-Z0-9_]{1,8}")
_ID = "MEDSEC"


def entry(data: bytes) -> str:
    """What records say of a DICOM file, as JSON; empty where it cannot be in a directory.

    Such are files without meta information (PS3.10 7.1), and those that name no object, study or
    series. Runs in the sandbox. Sensitive.
    """
    try:
        with quiet():
            header = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
            uids = {
                "class": str(header.file_meta.MediaStorageSOPClassUID),
                "instance": str(header.file_meta.MediaStorageSOPInstanceUID),
                "syntax": str(header.file_meta.TransferSyntaxUID),
            }
            kind = _DOCUMENTS.get(kind_of(str(header.get("SOPClassUID", ""))), "IMAGE")
            said = {level: _said(header, level) for level in ("PATIENT", "STUDY", "SERIES", kind)}
            found = json.dumps({**uids, "kind": kind, "said": said})
    except Exception:  # noqa: BLE001 - files of vendors raise anything; it is put beside the others
        return ""
    return found if len(found) <= _MOST_BYTES else ""


def _said(header: Dataset, level: str) -> dict[str, Any]:
    """Attributes of a record in JSON (PS3.18 F.2); what cannot be read is left out."""
    found: dict[str, Any] = {}
    for keyword in _KEYS[level].every:
        try:
            alone = Dataset()
            element = _element(header, keyword)
            if element is not None:
                alone.add(element)
                found.update(alone.to_json_dict())
        except Exception:  # noqa: BLE001, S112 - values of vendors raise anything
            continue
    return found


def _element(header: Dataset, keyword: str) -> Any:
    if keyword == "VerificationDateTime":  # of the newest verification
        verified = [
            str(one.VerificationDateTime)
            for one in header.get("VerifyingObserverSequence", ())
            if "VerificationDateTime" in one
        ]
        made = Dataset()
        if verified:
            made.VerificationDateTime = max(verified)
        return made.get(_tag(keyword))
    if keyword not in header:
        return None
    element = header[keyword]
    if keyword == "ContentSequence":  # only what modifies the title (PS3.3 F.5.24)
        made = Dataset()
        made.ContentSequence = [
            one for one in element.value if one.get("RelationshipType") == "HAS CONCEPT MOD"
        ]
        return made["ContentSequence"] if made.ContentSequence else None
    return element


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return int(tag)


@dataclass
class _Record:
    """A directory record and those below it.

    Args:
        file: Elements that name the file; empty above the lowest level.
        body: Its other elements.
        lower: By what tells them apart.
    """

    kind: str
    body: bytes = field(repr=False)
    file: bytes = b""
    lower: dict[str, _Record] = field(default_factory=dict, repr=False)


class Directory:
    """The directory of files that leave together."""

    def __init__(self) -> None:
        self._patients: dict[str, _Record] = {}
        self.files = 0

    def add(self, path: Sequence[str], told: str) -> bool:
        """Take a file up.

        Args:
            path: Its file ID: up to eight parts of up to eight characters of A to Z, 0 to 9 and _.
            told: From :func:`entry`; checked here.

        Returns:
            False where it cannot be in a directory.

        Raises:
            ValueError: The path is not a file ID.
        """
        if len(path) > 8 or not all(_COMPONENT.fullmatch(part) for part in path):
            raise ValueError("not a file ID")
        try:
            with quiet():
                return self._add(path, told)
        except Exception:  # noqa: BLE001 - what a hostile file makes a process say raises anything
            return False

    def _add(self, path: Sequence[str], told: str) -> bool:
        known = json.loads(told[: _MOST_BYTES + 1])
        kind = known["kind"]
        uids = [known[name] for name in ("class", "instance", "syntax")]
        if kind in ("PATIENT", "STUDY", "SERIES") or not all(map(_is_uid, uids)):
            return False
        levels = ("PATIENT", "STUDY", "SERIES", kind)
        wide = "\\u" in told
        records = [(level, _Values(level, known["said"][level], wide=wide)) for level in levels]
        keys = [records[0][1].text("PatientID"), records[1][1].text("StudyInstanceUID"),
                records[2][1].text("SeriesInstanceUID")]  # fmt: skip
        if not all(map(_is_uid, keys[1:])):
            return False
        made = [_Record(level, values.written(self.files + 1)) for level, values in records]
        made[3].file = b"".join((
            _short(0x1500, b"CS", "\\".join(path).encode()),
            *(_short(0x1510 + i, b"UI", uid.encode()) for i, uid in enumerate(uids)),
        ))  # fmt: skip
        level = self._patients
        for key, record in zip([*keys, "/".join(path)], made, strict=True):
            level = level.setdefault(key, record).lower
        self.files += 1
        return True

    def write(self, random: bytes) -> bytes:
        """The file ``DICOMDIR``.

        Args:
            random: 16 bytes, for its own UID.
        """
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
        meta.MediaStorageSOPInstanceUID = UID(f"2.25.{int.from_bytes(random, 'big')}")
        meta.ImplementationClassUID = UID(PRODUCT_UID)
        front, _ = write_header(Dataset(), meta, ExplicitVRLittleEndian)
        records = list(_in_order(self._patients.values()))
        at = len(front) + len(_head(0, 0, 0))  # as long whatever the offsets are
        places: dict[int, int] = {}
        for record in records:
            places[id(record)] = at
            at += len(_item(record, 0, 0))

        def place(record: _Record | None) -> int:
            return 0 if record is None else places[id(record)]

        nexts = dict(_nexts(self._patients.values()))
        items = [
            _item(r, place(nexts.get(id(r))), place(next(iter(r.lower.values()), None)))
            for r in records
        ]
        roots = [place(record) for record in self._patients.values()] or [0]
        return b"".join((front, _head(roots[0], roots[-1], sum(map(len, items))), *items))


class _Values:
    """Attributes of one record, as they were told of a file.

    Args:
        wide: Something is not ASCII.
    """

    def __init__(self, level: str, said: Mapping[str, Any], *, wide: bool) -> None:
        self._keys = _KEYS[level]
        self._set = Dataset()
        if wide:
            self._set.SpecificCharacterSet = "ISO_IR 192"
        for keyword in self._keys.every:
            tag = f"{_tag(keyword):08X}"
            if tag in said:
                try:
                    alone = Dataset.from_json({tag: said[tag]})
                    if keyword in _CHECKED:
                        _refuse_invalid(alone[keyword])
                    self._set.update(alone)
                except Exception:  # noqa: BLE001, S112 - one value does not cost the others
                    continue

    def text(self, keyword: str) -> str:
        """A value; where it is missing, what is made up in its place."""
        return str(self._set.get(keyword) or _MADE_UP.get(keyword, ""))

    def written(self, number: int) -> bytes:
        """The elements. Raises KeyError where one is missing that must not be.

        Args:
            number: In place of a number that is missing.
        """
        for keyword in self._keys.needed:
            if self._set.get(keyword) in (None, "", []):
                made_up = number if keyword in _NUMBERS else _MADE_UP[keyword]
                setattr(self._set, keyword, made_up)
        for keyword in self._keys.known:
            if keyword not in self._set:
                setattr(self._set, keyword, None)
        return write_data_set(self._set, ExplicitVRLittleEndian)


def _refuse_invalid(element: DataElement) -> None:
    """Raises ValueError where a value is not of its VR (PS3.5 6.2)."""
    values = element.value if element.VM > 1 else [element.value]
    for value in values:
        validate_value(element.VR, str(value), RAISE)


def _is_uid(said: object) -> bool:
    return isinstance(said, str) and bool(_UID.fullmatch(said))


def _in_order(records: Iterable[_Record]) -> Iterator[_Record]:
    """Each record with those below it behind it."""
    for record in records:
        yield record
        yield from _in_order(record.lower.values())


def _nexts(records: Iterable[_Record]) -> Iterator[tuple[int, _Record]]:
    """By the identity of a record, the next one of the same level and parent."""
    level = list(records)
    for i, record in enumerate(level):
        if i + 1 < len(level):
            yield id(record), level[i + 1]
        yield from _nexts(record.lower.values())


def _item(record: _Record, next_at: int, lower_at: int) -> bytes:
    """A record as an item of the directory; offsets count from the first byte of the file."""
    body = b"".join((
        _short(0x1400, b"UL", struct.pack("<I", next_at)),
        _short(0x1410, b"US", struct.pack("<H", 0xFFFF)),  # in use
        _short(0x1420, b"UL", struct.pack("<I", lower_at)),
        _short(0x1430, b"CS", record.kind.encode()),
        record.file,
        record.body,
    ))  # fmt: skip
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body


def _head(first_at: int, last_at: int, length: int) -> bytes:
    """What comes before the first record."""
    return b"".join((
        _short(0x1130, b"CS", _ID.encode()),
        _short(0x1200, b"UL", struct.pack("<I", first_at)),
        _short(0x1202, b"UL", struct.pack("<I", last_at)),
        _short(0x1212, b"US", struct.pack("<H", 0)),
        struct.pack("<HH2sHI", 0x0004, 0x1220, b"SQ", 0, length),
    ))  # fmt: skip


def _short(element: int, vr: bytes, value: bytes) -> bytes:
    """An element of group 4 with a length of two bytes."""
    padding = b"\0" if vr == b"UI" else b" "
    value += padding * (len(value) % 2)
    return struct.pack("<HH2sH", 0x0004, element, vr, len(value)) + value
