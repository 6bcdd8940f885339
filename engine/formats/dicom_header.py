"""De-identification of a DICOM header to PS3.15 annex E, Basic Profile with Clean Pixel Data.

The rules per attribute are table E.1-1 (edition 2026c) as the maintained package
``dicom-anonymizer`` carries it; applying them is done here, because that package visits
the top level only, maps identifiers at random and keeps dates it was told to remove.

Where the profile leaves a choice (X/Z, X/D, Z/D, ...), the one that keeps the object valid
is taken. On top of the profile: every unique identifier that is not one of the standard's
own is mapped; every private and every unknown element, every overlay, curve and wave and all
bytes that no viewer needs go; names, dates and long texts that the table does not know are
emptied; and a last sweep empties what is left wherever it quotes somebody
(:mod:`engine.formats.dicom_traces`) or is not what its value representation allows.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field

from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import UID

from engine.formats.dicom_dates import Shift, shifted
from engine.formats.dicom_file import quiet, text
from engine.formats.dicom_profile import BASIC, Options
from engine.formats.dicom_traces import Traces, standard
from engine.formats.dicom_words import cleaned

PRODUCT_UID = "2.25.198446743073709551609551615004729144"  # implementation class of MedSec
DUMMIES: dict[str, object] = {
    "AE": "REMOVED", "AS": "000Y", "CS": "REMOVED", "DA": "19000101", "DS": "0",
    "DT": "19000101000000", "IS": "0", "LO": "REMOVED", "LT": "REMOVED", "PN": "REMOVED",
    "SH": "REMOVED", "ST": "REMOVED", "TM": "000000", "UC": "REMOVED",
    "UR": "urn:removed", "UT": "REMOVED", "FD": 0.0, "FL": 0.0, "SL": 0, "SS": 0, "UL": 0,
    "US": 0, "SV": 0, "UV": 0, "OB": b"\0\0", "OW": b"\0\0", "UN": b"\0\0",
}  # fmt: skip
#: Made from the pixels, or pictures themselves; (0028,0106/0107) are computed anew elsewhere.
FROM_PIXELS = frozenset(
    (
        0x00280106, 0x00280107, 0x00280108, 0x00280109, 0x00280110, 0x00280111, 0x00603000,
        0x00880200, 0x7FE00001, 0x7FE00002, 0x7FE00003, 0x7FE00008, 0x7FE00009, 0x7FE00010,
        0x00287FE0, 0x04000561, 0x04000500, 0xFFFAFFFA, 0xFFFCFFFC,
    )
)  # fmt: skip
#: What burned-in text is compared with.
_TELLING = (
    "PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName",
    "PatientMotherBirthName", "PatientBirthDate", "AccessionNumber", "ReferringPhysicianName",
    "PerformingPhysicianName", "OperatorsName", "NameOfPhysiciansReadingStudy",
    "RequestingPhysician", "InstitutionName", "InstitutionAddress", "PatientAddress",
    "PatientTelephoneNumbers", "PatientBirthDateInAlternativeCalendar",
    "PatientDeathDateInAlternativeCalendar",
)  # fmt: skip
#: Attributes that table E.1-1 does not name and that identify somebody all the same: dates in other
#: calendars, who issued a number, numbers of orders, hosts, users, and how heavy somebody is.
_ALSO_GONE = frozenset(
    (
        0x00100024, 0x00100026, 0x00100027, 0x00100033, 0x00100034, 0x00100035, 0x00101022,
        0x00102294, 0x00102295, 0x00181803, 0x00201070, 0x00401006, 0x00401007, 0x00402006,
        0x00402007, 0x00720008, 0x00720010, 0x0074100C, 0x00880130, 0x21000160,
    )
)  # fmt: skip
#: UIDs of classes: they say what an object is, not which one (PS3.4 B.5), vendors' own too.
_CLASS_UIDS = frozenset(
    (0x00080016, 0x0008001A, 0x0008001B, 0x00080062, 0x00081150, 0x0008115A, 0x30100052, 0x30100053)
)
#: Addresses that are codes; every other address names a place where the patient is known.
_CODE_ADDRESSES = frozenset((0x0008010E, 0x00080120))
#: Bytes that a viewer needs: palettes, tables, colour profile. All others could hold anything,
#: a recorded ECG or a document for instance, and go.
_SHOWN_BYTES = frozenset(
    (
        0x00281201, 0x00281202, 0x00281203, 0x00281204, 0x00281221, 0x00281222, 0x00281223,
        0x00282000, 0x00283006,
    )
)  # fmt: skip
_PROFILE = 0x00282000
#: Words for the head, and for regions from which no face can be made.
_HEAD = re.compile(
    r"HEAD|BRAIN|SKULL|FACE|FACIAL|NECK|NEURO|CRANI|SINUS|ORBIT|CEREB|SCHAE?D|KOPF|HALS|DENT|JAW"
    r"|MANDI|MAXIL|TEMPORAL|PITUIT|CERVI|C-?SPINE|WHOLE|TOTAL|POLYTRAUMA"
    r"|\b(?:IAC|IAM|TMJ|EARS?|EYES?|WB|HWS|NNH)\b"
)
_ELSEWHERE = re.compile(
    r"CHEST|THORA|LUNG|HEART|CARDI|CORONAR|BREAST|MAMM|ABDO|LIVER|KIDNEY|RENAL|PELVI|PROST|UTER"
    r"|COLON|BOWEL|SPINE|LUMB|SACR|HIP|KNEE|ANKLE|FOOT|TOE|SHOULDER|ELBOW|WRIST|HAND|FINGER|ARM"
    r"|LEG|FEMUR|TIBIA|FIBULA|HUMER|EXTREM|AORT|ILIAC|BECKEN|KNIE|HUEFT|FUSS|PHANTOM"
)


def _rules() -> dict[int, str]:
    names = ("X", "Z", "D", "U", "X_Z", "X_D", "Z_D", "X_Z_D", "X_Z_U_STAR")
    actions = {
        "X": "X",
        "Z": "Z",
        "D": "D",
        "U": "U",
        "X_Z": "Z",
        "X_D": "D",
        "Z_D": "D",
        "X_Z_D": "D",
        "X_Z_U_STAR": "U",
    }
    return {
        entry[0] << 16 | entry[1]: actions[name]
        for name in names
        for entry in getattr(table, f"{name}_TAGS")
        if len(entry) == 2
    }


RULES = _rules()


class Pseudonyms:
    """Stable replacements under a patient's secret: the same in gives the same out.

    Args:
        key: Secret of one patient. Without it nobody can tell which identifier became which.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def _mac(self, kind: str, value: str) -> bytes:
        return hmac.new(self._key, f"medsec/{kind}\0{value}".encode(), hashlib.sha256).digest()

    def uid(self, value: str) -> UID:
        """A UUID-derived UID (PS3.5 B.2) for any identifier but the standard's own."""
        value = value.strip("\0 ")
        if not value or standard(value):
            return UID(value)
        return UID(f"2.25.{int.from_bytes(self._mac('uid', value)[:16])}")

    def person(self, value: str) -> str:
        """A pseudonym for a patient's identifier, such as ``MS-5KXQ2VDM7A``."""
        code = base64.b32encode(self._mac("person", value.strip("\0 ")))[:10]
        return f"MS-{code.decode('ascii')}"


def identifiers(header: Dataset) -> tuple[str, ...]:
    """Names, numbers, dates and places that a header has of a person. Sensitive.

    Every person's name and date anywhere in it, and the values of ``_TELLING``.
    """
    found: list[str] = [text(header, keyword) for keyword in _TELLING]
    found += [text(header, keyword) for keyword in ("StudyID", "StationName")]
    try:
        with quiet():
            for element in header.iterall():
                if element.VR in ("PN", "DA", "DT") and element.value is not None:
                    values = element.value if element.VM > 1 else [element.value]
                    found += [str(value).strip("\0 ") for value in values]
    except Exception:  # noqa: BLE001 - values of vendors raise anything
        return tuple(dict.fromkeys(v for v in found if v))
    return tuple(dict.fromkeys(v for v in found if v))


@dataclass(frozen=True)
class Subject:
    """For whom, and under what, a header is de-identified.

    Args:
        options: Of PS3.15, beyond the Basic Profile.
        pseudonym: The patient's; one is made of the key where it is empty.
        record: What the hospital's own record calls the patient.
    """

    options: Options = BASIC
    pseudonym: str = ""
    record: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class _Rules:
    """How the elements of one header are judged."""

    names: Pseudonyms
    traces: Traces
    options: Options
    shift: Shift


def deidentify(header: Dataset, key: bytes, whose: Subject = Subject()) -> Dataset:
    """A new data set without anything that names a person.

    Args:
        header: The original without its pixels; not changed.
        key: Secret of the patient, or of the patient and one recipient.
    """
    with quiet():
        names, options = Pseudonyms(key), whose.options
        # What an option keeps is no quote of itself.
        ruled = {t: a for t, a in RULES.items() if options.kept(t) != "K"}
        traces = Traces(header, ruled, whose.record)
        subject = text(header, "PatientID") or text(header, "PatientName")
        clean = _clean(header, _Rules(names, traces, options, Shift.of(key)))
        if not traces.sure and "SpecificCharacterSet" in clean:
            clean.SpecificCharacterSet = "ISO_IR 192"  # what is left is ASCII
        pseudonym = whose.pseudonym or (names.person(subject) if subject else "")
        clean.PatientName, clean.PatientID = pseudonym, pseudonym
        clean.PatientIdentityRemoved = "YES"
        said = ["MedSec, PS3.15 2026c Basic Profile, Clean Pixel Data"]
        said += [meaning for _, meaning in options.methods[2:]]
        clean.DeidentificationMethod = said if len(said) > 1 else said[0]
        codes = [_code(*method) for method in options.methods]
        clean.DeidentificationMethodCodeSequence = Sequence(codes)
        clean.LongitudinalTemporalInformationModified = options.temporal
        clean.BurnedInAnnotation = "NO"
        if shows_head(header):
            clean.RecognizableVisualFeatures = "YES"
        return clean


def file_meta(meta: FileMetaDataset, clean: Dataset) -> FileMetaDataset:
    """File meta information of the masked file: nothing of the sender's."""
    fresh = FileMetaDataset()
    fresh.MediaStorageSOPClassUID = clean.get("SOPClassUID") or meta.get(
        "MediaStorageSOPClassUID", UID("1.2.840.10008.5.1.4.1.1.7")
    )
    fresh.MediaStorageSOPInstanceUID = clean.get("SOPInstanceUID") or UID("2.25.0")
    fresh.ImplementationClassUID = UID(PRODUCT_UID)
    fresh.ImplementationVersionName = "MEDSEC_1"
    return fresh


def shows_head(header: Dataset) -> bool:
    """Whether a face could be rendered from it: CT, MR or PET of a head, or of who knows what."""
    if text(header, "Modality") not in ("CT", "MR", "PT"):
        return False
    said = " ".join(
        text(header, k).upper()
        for k in (
            "BodyPartExamined", "AnatomicRegionSequence", "StudyDescription", "SeriesDescription",
            "ProtocolName", "RequestedProcedureDescription",
        )
    )  # fmt: skip
    return _HEAD.search(said) is not None or _ELSEWHERE.search(said) is None


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _elements(data_set: Dataset) -> Iterator[DataElement]:
    """Elements that can be read at all; one that cannot is left behind."""
    for tag in sorted(data_set.keys()):
        try:
            yield data_set[tag]
        except Exception:  # noqa: BLE001, S112 - values of vendors raise anything
            continue


def _clean(data_set: Dataset, rules: _Rules) -> Dataset:
    fresh = Dataset()
    for element in _elements(data_set):
        kept = _clean_element(element, rules)
        if kept is not None:
            fresh.add(kept)
    return fresh


def _clean_element(element: DataElement, rules: _Rules) -> DataElement | None:
    tag, vr = element.tag, element.VR
    names, traces = rules.names, rules.traces
    if _unwelcome(tag) or vr == "UN":
        return None
    if vr.startswith("O") and int(tag) not in _SHOWN_BYTES:
        return None
    action = RULES.get(int(tag))
    option = rules.options.kept(int(tag))
    if option:
        optional = _by_option(element, option, rules)
        if optional is not None:
            return optional
    if action == "X":
        return None
    if vr == "UI":
        if names_a_class(tag) and traces.is_class(element.value):
            return deepcopy(element)
        return mapped(element, names.uid)
    if action == "Z":
        return DataElement(tag, vr, Sequence() if vr == "SQ" else None)
    if vr == "SQ":
        items = [_clean(item, rules) for item in element.value]
        if action == "D":
            items = [_dummied(item) for item in items]
        return DataElement(tag, vr, Sequence(items))
    if action == "D":
        return DataElement(tag, vr, DUMMIES.get(vr))
    if rules.options.descriptors and vr in _TEXTS:
        return _in_words(element, rules) or DataElement(tag, vr, DUMMIES[vr])
    if vr in ("PN", "DA", "DT", "TM", "LT", "ST", "UT"):  # not in the table, and could say anything
        return DataElement(tag, vr, None)
    if vr == "UR" and int(tag) not in _CODE_ADDRESSES:
        return DataElement(tag, vr, None)
    # A colour profile is written anew without its words: see dicom_tables.
    if int(tag) != _PROFILE and traces.in_element(element):
        return DataElement(tag, vr, None)
    return deepcopy(element)


#: Texts that people type; they can be cleaned word by word.
_TEXTS = frozenset(("LO", "SH", "LT", "ST", "UT", "UC"))
_OLDEST = 89  # in years; who is older is one of few (45 CFR 164.514)


def _by_option(element: DataElement, option: str, rules: _Rules) -> DataElement | None:
    """An element as an option keeps it; None where the rule of the Basic Profile counts."""
    tag, vr = element.tag, element.VR
    if option == "S":
        return shifted(element, rules.shift)
    if vr == "SQ":
        return DataElement(tag, vr, Sequence(_clean(item, rules) for item in element.value))
    if vr in _TEXTS:
        return _in_words(element, rules)
    if option == "C" or element.value in (None, ""):
        return None
    if vr == "UI":
        return None if rules.traces.in_element(element) else deepcopy(element)
    if vr == "AS":
        return _age(element)
    return None if rules.traces.in_element(element) else deepcopy(element)


def _in_words(element: DataElement, rules: _Rules) -> DataElement | None:
    """A text without the words that name somebody; None where nothing else is left."""
    value = element.value
    if value is None or value == "":
        return None
    several = not isinstance(value, str)
    left = [cleaned(str(v), rules.traces) for v in (value if several else [value])]
    left = [v for v in left if v]
    if not left or rules.traces.quoted(" ".join(left), element.VR):
        return None
    return DataElement(element.tag, element.VR, left if len(left) > 1 else left[0])


def _age(element: DataElement) -> DataElement | None:
    said = str(element.value).strip("\0 ")
    if not re.fullmatch(r"\d{3}[DWMY]", said):
        return None
    old = said[3] == "Y" and int(said[:3]) > _OLDEST
    return DataElement(element.tag, "AS", f"{_OLDEST + 1:03}Y" if old else said)


def names_a_class(tag: int) -> bool:
    """Does this UID say what an object is, not which one? Such UIDs are never mapped."""
    return int(tag) in _CLASS_UIDS


def _unwelcome(tag: BaseTag) -> bool:
    """Private, unknown, an overlay, a curve, a recorded wave, or made from pixels."""
    return (
        tag.is_private
        or tag.element == 0
        or int(tag) in FROM_PIXELS
        or 0x5000 <= tag.group <= 0x501E
        or 0x6000 <= tag.group <= 0x601E
        or tag.group in (0x5400, 0x4008, 0x4010)  # waves, interpretations, luggage
        or int(tag) in _ALSO_GONE
        or tag.group in (0x0000, 0x0002, 0x0004)
        or not dictionary_has_tag(tag)
    )


def mapped(element: DataElement, change: Callable[[str], UID]) -> DataElement:
    """An element of one or several UIDs with each of them changed."""
    value = element.value
    if value is None or value == "":
        return DataElement(element.tag, "UI", None)
    if isinstance(value, str):
        return DataElement(element.tag, "UI", change(value))
    return DataElement(element.tag, "UI", [change(str(v)) for v in value])


def _dummied(item: Dataset) -> Dataset:
    """An item of which nothing but the shape is left."""
    fresh = Dataset()
    for element in item:
        if element.VR == "SQ":
            fresh.add(DataElement(element.tag, "SQ", Sequence(_dummied(i) for i in element.value)))
        elif element.VR == "UI":
            fresh.add(element)
        else:
            known = dictionary_VR(element.tag)[:2]
            fresh.add(DataElement(element.tag, known, DUMMIES.get(known)))
    return fresh
