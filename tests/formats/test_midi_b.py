"""De-identification as the MIDI-B challenge scores it: its ten actions, on files made here.

Source: Medical Image De-Identification Benchmark (MIDI-B), National Cancer Institute, 2024: the
actions of its answer key.
"""

from __future__ import annotations

import io
import re
import shutil
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from engine.formats import images
from engine.formats.dicom_profile import BASIC, Options
from engine.operations.conformance import findings
from engine.records import Region
from engine.settings import Settings
from tests import builders

LIMITS = images.Limits.of(Settings())
KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
ALL = Options(dates=True, characteristics=True, device=True, descriptors=True)
RECORD = ("Quastenberg, Ottilie", "QB5530917")
ROOT = "1.2.826.0.1.99.7."
TEXT = Region(12, 12, 212, 32)
SAMPLES = Path(pydicom.data.__file__).parent / "test_files"


@dataclass(frozen=True)
class Row:
    """One line of the answer key.

    Args:
        path: Keywords, with the number of an item between.
        value: In the original.
        action: Of MIDI-B.
        expected: Text that must be gone, or stay; of a date nothing.
    """

    path: str
    value: Any
    action: str
    expected: str = ""


COMPARED = "Compared with 12 Mar 2021; stable nodule"
SEEN = "Seen by Dr. Karl Obermeier, tel. 030 5550199"
ASTHMA = "Asthma since childhood, lives at 12 Mill Lane"
ROWS = (
    # what stays as it is
    Row("Modality", "CT", "tag_retained"),
    Row("BodyPartExamined", "CHEST", "tag_retained"),
    Row("SliceThickness", "1.25", "tag_retained"),
    Row("KVP", "120", "tag_retained"),
    Row("Manufacturer", "ACME", "tag_retained"),
    Row("PatientSex", "F", "tag_retained"),
    Row("PatientAge", "061Y", "tag_retained"),
    Row("PatientWeight", "71.5", "tag_retained"),
    Row("PatientSize", "1.66", "tag_retained"),
    Row("SmokingStatus", "NO", "tag_retained"),
    Row("DeviceSerialNumber", "SN-99-17", "tag_retained"),
    Row("StationName", "CT02", "tag_retained"),
    Row("SoftwareVersions", "syngo VB20", "tag_retained"),
    Row("ContrastBolusAgent", "Iomeprol", "tag_retained"),
    # names, numbers, dates and places in texts that people type
    Row("StudyDescription", "CT Thorax Quastenberg nativ", "text_removed", "Quastenberg"),
    Row("StudyDescription", "CT Thorax Quastenberg nativ", "text_retained", "CT Thorax nativ"),
    Row("SeriesDescription", "Lunge 1.25 mm QB5530917", "text_removed", "5530917"),
    Row("SeriesDescription", "Lunge 1.25 mm QB5530917", "text_retained", "Lunge 1.25 mm"),
    Row("ProtocolName", "Chest routine", "text_retained", "Chest routine"),
    Row("ImageComments", COMPARED, "text_removed", "Mar 2021"),
    Row("ImageComments", COMPARED, "text_retained", "stable nodule"),
    Row("PatientComments", SEEN, "text_removed", "Obermeier"),
    Row("PatientComments", SEEN, "text_removed", "5550199"),
    Row("AdditionalPatientHistory", ASTHMA, "text_removed",
        "Mill Lane"),
    Row("AdditionalPatientHistory", ASTHMA, "text_retained",
        "Asthma since childhood"),
    Row("RequestedProcedureDescription", "Follow-up, call ottilie@mail.test", "text_removed",
        "mail.test"),
    Row("RequestedProcedureDescription", "Follow-up, call ottilie@mail.test", "text_retained",
        "Follow-up"),
    Row("DerivationDescription", "MPR coronal, MRN: 88-1234", "text_removed", "88-1234"),
    Row("DerivationDescription", "MPR coronal, MRN: 88-1234", "text_retained", "MPR coronal"),
    Row("RequestAttributesSequence.0.RequestedProcedureDescription", "Thorax, OTTILIE Q.",
        "text_removed", "OTTILIE"),
    Row("RequestAttributesSequence.0.RequestedProcedureDescription", "Thorax, OTTILIE Q.",
        "text_retained", "Thorax"),
    Row("ReferringPhysicianName", "Obermeier^Karl", "text_removed", "Obermeier"),
    Row("InstitutionName", "Sankt Ottilien Hospital", "text_removed", "Ottilien"),
    Row("PatientAddress", "12 Mill Lane, Sampletown", "text_removed", "Sampletown"),
    Row("AccessionNumber", "A-778899", "text_removed", "778899"),
    Row("OperatorsName", "Nurse^Nora", "text_removed", "Nora"),
    Row("OtherPatientIDs", "88-1234", "text_removed", "1234"),
    # must be there, and say something
    Row("PatientName", "Quastenberg^Ottilie", "text_notnull"),
    Row("PatientID", "QB5530917", "text_notnull"),
    Row("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2", "text_notnull"),
    Row("AnatomicRegionSequence.0.CodeMeaning", "Quastenberg", "text_notnull"),
    Row("PatientName", "Quastenberg^Ottilie", "text_removed", "Quastenberg"),
    Row("PatientID", "QB5530917", "text_removed", "5530917"),
    # dates
    Row("StudyDate", "20210419", "date_shifted"),
    Row("SeriesDate", "20210419", "date_shifted"),
    Row("AcquisitionDate", "20210420", "date_shifted"),
    Row("ContentDate", "20210420", "date_shifted"),
    Row("AcquisitionDateTime", "20210420101502.5+0100", "date_shifted"),
    Row("DateOfLastCalibration", "20210418", "date_shifted"),
    Row("RadiopharmaceuticalInformationSequence.0.RadiopharmaceuticalStartDateTime",
        "20210420093000", "date_shifted"),
    Row("PatientBirthDate", "19600112", "text_removed", "1960"),
    # identifiers
    Row("SOPInstanceUID", ROOT + "3", "uid_changed"),
    Row("StudyInstanceUID", ROOT + "1", "uid_changed"),
    Row("SeriesInstanceUID", ROOT + "2", "uid_changed"),
    Row("FrameOfReferenceUID", ROOT + "9", "uid_changed"),
    Row("ReferencedImageSequence.0.ReferencedSOPInstanceUID", ROOT + "77", "uid_changed"),
    Row("StudyInstanceUID", ROOT + "1", "uid_consistent"),
    Row("FrameOfReferenceUID", ROOT + "9", "uid_consistent"),
    Row("PatientID", "QB5530917", "patid_consistent"),
)  # fmt: skip


def _set(data_set: Dataset, path: str, value: Any) -> None:
    *steps, keyword = path.split(".")
    while steps:
        name, _ = steps.pop(0), steps.pop(0)
        if name not in data_set:
            setattr(data_set, name, Sequence([Dataset()]))
        data_set = data_set[name].value[0]
    setattr(data_set, keyword, value)


def _get(data_set: Dataset, path: str) -> Any:
    *steps, keyword = path.split(".")
    while steps:
        name, _ = steps.pop(0), steps.pop(0)
        if name not in data_set or not data_set[name].value:
            return None
        data_set = data_set[name].value[0]
    return data_set.get(keyword)


@cache
def original(instance: int = 3) -> bytes:
    pixels, _ = builders.labelled("QUASTENBERG OTTILIE")
    header = pydicom.dcmread(io.BytesIO(builders.dicom(pixels)))
    for row in ROWS:
        _set(header, row.path, row.value)
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}{instance}"
    item = header.AnatomicRegionSequence[0]
    item.CodeValue, item.CodingSchemeDesignator = "51185008", "SCT"
    buffer = io.BytesIO()
    header.save_as(buffer)
    return buffer.getvalue()


@cache
def copied(options: Options = ALL, key: bytes = KEY, instance: int = 3) -> tuple[Dataset, Any]:
    """A recipient's copy of a masked file, as another reader sees it, and the report."""
    image = images.decode("a.dcm", original(instance), LIMITS)
    parts = images.dissect(image, [TEXT], bytes(32))
    data, report = images.copy_for(parts.masked, parts.remainder, key, options, "", RECORD)
    return pydicom.dcmread(io.BytesIO(data)), report


def _as_text(value: Any) -> str:
    if isinstance(value, Sequence):
        return ""
    return (
        "\\".join(map(str, value)) if isinstance(value, pydicom.multival.MultiValue) else str(value)
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.action}: {row.path}")
def test_an_action_of_midi_b(row: Row) -> None:
    there = copied()[0]
    value = _get(there, row.path)
    said = "" if value is None else _as_text(value)
    whole = " ".join(_as_text(e.value) for e in there.iterall() if e.keyword != "PixelData")
    match row.action:
        case "tag_retained":
            assert said == row.value
        case "text_removed":
            assert row.expected.lower() not in whole.lower()
        case "text_retained":
            assert row.expected in said
        case "text_notnull":
            assert said
        case "date_shifted":
            assert re.fullmatch(r"\d{8}.*", said)
            assert said[:8] != row.value[:8]
            assert said[8:] == row.value[8:].split("+")[0]
        case "uid_changed":
            assert said.startswith("2.25.")
            assert row.value not in whole
        case "uid_consistent":
            assert said == _get(copied(instance=4)[0], row.path)
            assert said != _get(copied(key=OTHER)[0], row.path)
        case "patid_consistent":
            assert said == there.PatientName == copied(instance=4)[0].PatientID
            assert said != copied(key=OTHER)[0].PatientID
        case _:
            pytest.fail(row.action)


def test_pixels_are_hidden_under_the_box_and_retained_elsewhere() -> None:
    """pixels_hidden and pixels_retained."""
    before = pydicom.dcmread(io.BytesIO(original())).pixel_array
    after = copied()[0].pixel_array
    inside = np.zeros(before.shape, bool)
    inside[TEXT.slices[1:]] = True
    assert (after[~inside] == before[~inside]).all()
    hidden = after[inside]
    assert not (hidden == before[inside]).all()
    assert len(np.unique(hidden)) <= 2  # the mask's two tones, whatever was there


def test_all_ten_actions_are_tried() -> None:
    assert {row.action for row in ROWS} | {"pixels_hidden", "pixels_retained"} == {
        "tag_retained", "text_removed", "text_retained", "text_notnull", "date_shifted",
        "uid_changed", "uid_consistent", "patid_consistent", "pixels_hidden", "pixels_retained",
    }  # fmt: skip


def test_intervals_between_dates_stay_and_recipients_differ() -> None:
    there, other = copied()[0], copied(key=OTHER)[0]
    assert int(there.AcquisitionDate) - int(there.StudyDate) in (1, 71, 8870)
    again = copied(instance=4)[0]
    assert (there.StudyDate, there.StudyTime) == (again.StudyDate, again.StudyTime)
    assert there.StudyDate != other.StudyDate


OPTIONS = {
    "basic": (BASIC, {"113100", "113101"}, "REMOVED"),
    "dates": (Options(dates=True), {"113100", "113101", "113107"}, "MODIFIED"),
    "characteristics": (Options(characteristics=True), {"113100", "113101", "113108"}, "REMOVED"),
    "device": (Options(device=True), {"113100", "113101", "113109"}, "REMOVED"),
    "descriptors": (Options(descriptors=True), {"113100", "113101", "113105"}, "REMOVED"),
    "all": (ALL, {"113100", "113101", "113105", "113107", "113108", "113109"}, "MODIFIED"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_method_codes_say_what_was_done_and_nothing_else(name: str) -> None:
    options, codes, temporal = OPTIONS[name]
    there = copied(options)[0]
    said = [item.CodeValue for item in there.DeidentificationMethodCodeSequence]
    assert (set(said), len(said)) == (codes, len(codes))
    assert there.LongitudinalTemporalInformationModified == temporal
    assert there.PatientIdentityRemoved == "YES"
    assert bool(there.get("StudyDate")) is options.dates
    assert bool(there.get("PatientAge")) is options.characteristics
    assert (there.get("DeviceSerialNumber") == "SN-99-17") is options.device
    assert (there.get("StudyDescription") == "CT Thorax nativ") is options.descriptors
    assert bool(there.get("DateOfLastCalibration")) is options.dates


def test_an_age_above_89_is_90() -> None:
    source = pydicom.dcmread(io.BytesIO(original()))
    source.PatientAge = "097Y"
    buffer = io.BytesIO()
    source.save_as(buffer)
    parts = images.dissect(images.decode("a.dcm", buffer.getvalue(), LIMITS), [], bytes(32))
    data, _ = images.copy_for(parts.masked, parts.remainder, KEY, ALL, "", ())
    assert pydicom.dcmread(io.BytesIO(data)).PatientAge == "090Y"


def test_a_name_of_the_record_is_found_though_the_header_has_another() -> None:
    source = pydicom.dcmread(io.BytesIO(original()))
    source.PatientName, source.StudyDescription = "Anon", "Thorax of Birkenstock"
    buffer = io.BytesIO()
    source.save_as(buffer)
    parts = images.dissect(images.decode("a.dcm", buffer.getvalue(), LIMITS), [], bytes(32))
    for record, expected in (((), "Thorax of Birkenstock"), (("Birkenstock, Anna",), "Thorax of")):
        data, _ = images.copy_for(parts.masked, parts.remainder, KEY, ALL, "TRIAL-7", record)
        there = pydicom.dcmread(io.BytesIO(data))
        assert (there.StudyDescription, there.PatientID) == (expected, "TRIAL-7")


def test_the_report_names_every_attribute_and_no_value() -> None:
    _, report = copied()
    assert set(report) == {"removed", "changed", "kept"}
    source = pydicom.dcmread(io.BytesIO(original()))
    named = {name.split(".")[0] for names in report.values() for name in names}
    assert named == {e.keyword for e in source if e.keyword != "PixelData"}
    assert "InstitutionName" in report["removed"]
    assert "StudyDate" in report["changed"]
    assert "Modality" in report["kept"]
    said = str(report)
    for telling in ("Quastenberg", "5530917", "20210419", "Ottilie"):
        assert telling not in said


@pytest.mark.parametrize("syntax", [*builders.UNCOMPRESSED, builders.RLELossless])
def test_a_copy_is_made_in_every_coding_and_shows_the_masked_pixels(syntax: str) -> None:
    source = builders.dicom(builders.labelled()[0], syntax=syntax, **builders.person())
    parts = images.dissect(images.decode("a.dcm", source, LIMITS), [TEXT], bytes(32))
    data, _ = images.copy_for(parts.masked, parts.remainder, KEY, ALL, "", ())
    seen, masked = (images.decode("a.dcm", d, LIMITS) for d in (data, parts.masked))
    assert (seen.pixels == masked.pixels).all()
    assert replace(seen, data=b"", pixels=masked.pixels).grid == masked.grid


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
@pytest.mark.parametrize("name", ["CT_small", "MR_small", "examples_rgb_color"])
def test_a_validator_finds_nothing_in_a_copy_that_was_not_in_the_original(name: str) -> None:
    data = (SAMPLES / f"{name}.dcm").read_bytes()
    parts = images.dissect(images.decode("a.dcm", data, LIMITS), [], bytes(32))
    before = findings("dciodvfy", data)
    assert not any("come to an end" in finding for finding in before)
    for options in (BASIC, ALL):
        made, _ = images.copy_for(parts.masked, parts.remainder, KEY, options, "P-1", ())
        assert findings("dciodvfy", made) <= before
