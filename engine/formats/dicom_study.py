"""Where a header puts an image: in which study and series, and at which place (PS3.3 A.1.2)."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from engine.formats.dicom_file import number, text

#: Texts that are taken, with the most characters kept of each.
_TEXTS = {
    "sop_class": ("SOPClassUID", 64),
    "sop_instance": ("SOPInstanceUID", 64),
    "study_uid": ("StudyInstanceUID", 64),
    "study_description": ("StudyDescription", 64),
    "accession_number": ("AccessionNumber", 16),
    "series_uid": ("SeriesInstanceUID", 64),
    "series_description": ("SeriesDescription", 64),
    "modality": ("Modality", 16),
    "body_part": ("BodyPartExamined", 16),
}
#: Where a series says when it was, the most exact first.
_DATES = (("StudyDate", "StudyTime"), ("SeriesDate", "SeriesTime"), ("AcquisitionDate", ""))
_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_TIME = re.compile(r"(\d{2}):?(\d{2})")


def study_facts(header: Dataset) -> dict[str, Any]:
    """Study, series and place of an image. Sensitive: descriptions and dates identify.

    Returns:
        What is there of ``sop_class``, ``sop_instance``, ``study_uid``,
        ``study_date`` (``YYYY-MM-DD``), ``study_time`` (``HH:MM``),
        ``study_description``, ``accession_number``, ``patient_sex`` (F, M or O), ``series_uid``,
        ``series_number``, ``series_description``, ``modality``, ``body_part``, ``laterality`` (L,
        R, B or U), ``instance_number``, and ``position_mm``: along the normal of the slice.
    """
    facts: dict[str, Any] = {
        name: text(header, keyword)[:most] for name, (keyword, most) in _TEXTS.items()
    }
    for date, time in _DATES:
        if found := _DATE.match(text(header, date)):
            facts["study_date"] = "-".join(found.groups())
            if time and (at := _TIME.match(text(header, time))):
                facts["study_time"] = ":".join(at.groups())
            break
    if (sex := text(header, "PatientSex").upper()) in ("F", "M", "O"):
        facts["patient_sex"] = sex
    for keyword in ("Laterality", "ImageLaterality", "FrameLaterality"):
        if (side := text(header, keyword).upper()[:1]) in ("L", "R", "B", "U"):
            facts["laterality"] = side
            break
    for name, keyword in (("series_number", "SeriesNumber"), ("instance_number", "InstanceNumber")):
        value = number(header, keyword)
        if value is not None and value == int(value) and abs(value) < 1 << 31:
            facts[name] = int(value)
    facts["position_mm"] = _position_mm(header)
    return {name: value for name, value in facts.items() if value not in ("", None)}


#: What names a device and the kind of image it makes, by the names that people read.
_DEVICE = {
    "SOP class": "SOPClassUID",
    "manufacturer": "Manufacturer",
    "model": "ManufacturerModelName",
    "software version": "SoftwareVersions",
    "image type": "ImageType",
}


def device_facts(header: Dataset) -> dict[str, str]:
    """Which device made an image, and what kind of image: at most 64 characters each.

    Returns:
        ``SOP class``, ``manufacturer``, ``model``, ``software version``, ``image type``, empty
        where the header says nothing; and ``layout`` of an ultrasound image: where its regions are.
    """
    facts = {
        name: "".join(c for c in text(header, keyword)[:64] if c.isprintable())
        for name, keyword in _DEVICE.items()
    }
    return {**facts, "layout": _layout(header)}


def _layout(header: Dataset) -> str:
    """Corners of the regions of an ultrasound image, ``x0 y0 x1 y1`` each (PS3.3 C.8.5.5)."""
    regions = header.get("SequenceOfUltrasoundRegions")
    if not isinstance(regions, Sequence):
        return ""
    corners = ("MinX0", "MinY0", "MaxX1", "MaxY1")
    places = [[number(r, f"RegionLocation{c}") for c in corners] for r in regions[:8]]
    return "; ".join(
        " ".join(f"{side:.0f}" for side in place if side is not None)
        for place in sorted(places, key=str)
    )[:128]


def _position_mm(header: Dataset) -> float | None:
    """Image Position along the normal of Image Orientation (PS3.3 C.7.6.2.1.1)."""
    place, axes = (
        _numbers(header, keyword, count)
        for keyword, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6))
    )
    if place is None or axes is None:
        return None
    along = float(np.dot(place, np.cross(axes[:3], axes[3:])))
    return round(along, 3) if math.isfinite(along) and abs(along) < 1e6 else None


def _numbers(header: Dataset, keyword: str, count: int) -> np.ndarray | None:
    try:
        values = np.array([float(v) for v in header.get(keyword) or ()], np.float64)
    except Exception:  # noqa: BLE001 - values of vendors raise anything
        return None
    return values if values.shape == (count,) else None
