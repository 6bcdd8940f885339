"""DICOM documents made with pydicom: a report, a presentation state, a PDF, key objects."""

from __future__ import annotations

import io
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from tests import builders

BASIC_TEXT = "1.2.840.10008.5.1.4.1.1.88.11"
KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"
PRESENTATION = "1.2.840.10008.5.1.4.1.1.11.1"
PDF = "1.2.840.10008.5.1.4.1.1.104.1"
MODALITIES = {BASIC_TEXT: "SR", KEY_OBJECTS: "KO", PRESENTATION: "PR", PDF: "DOC"}
#: What a report says; it must be nowhere in clear.
FINDING = "Mrs Musterfrau has a nodule of 7 mm in the left upper lobe"


def _coded(value: str, meaning: str, scheme: str = "DCM") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _text(name: Dataset, said: str) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", "TEXT"
    item.ConceptNameCodeSequence, item.TextValue = Sequence([name]), said
    return item


def _referenced(instance: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    item.ReferencedSOPInstanceUID = builders.uid(1, 1, 1, instance)
    return item


def _content(data: Dataset, sop_class: str) -> None:
    if sop_class in (BASIC_TEXT, KEY_OBJECTS):
        data.ValueType, data.ContinuityOfContent = "CONTAINER", "SEPARATE"
        name = _coded("113000", "Of Interest") if sop_class == KEY_OBJECTS else _coded(
            "18748-4", "Diagnostic imaging report", "LN"
        )  # fmt: skip
        data.ConceptNameCodeSequence = Sequence([name])
        data.CompletionFlag, data.VerificationFlag = "COMPLETE", "UNVERIFIED"
        data.ContentSequence = Sequence([_text(_coded("121071", "Finding"), FINDING)])
        if sop_class == KEY_OBJECTS:
            image = Dataset()
            image.RelationshipType, image.ValueType = "CONTAINS", "IMAGE"
            image.ReferencedSOPSequence = Sequence([_referenced(1)])
            data.ContentSequence.append(image)
    elif sop_class == PRESENTATION:
        data.ContentLabel, data.ContentDescription = "ARROWS", FINDING
        series = Dataset()
        series.SeriesInstanceUID = builders.uid(1, 1, 1)
        series.ReferencedImageSequence = Sequence([_referenced(1)])
        data.ReferencedSeriesSequence = Sequence([series])
        data.PresentationLUTShape = "IDENTITY"
    else:
        pdf = b"%PDF-1.4\n% " + FINDING.encode() + b"\n%%EOF\n"
        data.DocumentTitle, data.MIMETypeOfEncapsulatedDocument = "Report", "application/pdf"
        data.EncapsulatedDocument = pdf + bytes(len(pdf) % 2)


def document(sop_class: str, instance: int = 90, series: int = 9, **attributes: Any) -> bytes:
    """A document of the study that :func:`tests.builders.dicom` makes by default."""
    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID = sop_class
    data.SOPInstanceUID = builders.uid(1, 1, series, instance)
    data.StudyInstanceUID, data.SeriesInstanceUID = builders.uid(1, 1), builders.uid(1, 1, series)
    data.Modality, data.StudyDate = MODALITIES[sop_class], "20240229"
    data.SeriesNumber, data.InstanceNumber = series, instance
    for keyword, value in {**builders.person(), **attributes}.items():
        setattr(data, keyword, value)
    _content(data, sop_class)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = sop_class
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
