"""Two dozen files as a department would send them, with fictitious names burned in.

The pictures are real (see ``samples/ATTRIBUTION.md`` and the test files of pydicom and
scikit-image); the text on them is drawn here, so that nobody's data is shown.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pydicom
from PIL import Image as Picture
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SAMPLES = Path(__file__).parent / "samples"


@dataclass(frozen=True)
class DemoPatient:
    """A fictitious person."""

    id: str
    name: str
    age: int
    born: str
    note: str = ""


PATIENTS = (
    DemoPatient("MS-2041", "Erika Musterfrau", 61, "1965-03-12", "Cough for three weeks."),
    DemoPatient("MS-2042", "Jan Nowak", 47, "1979-08-30", "Follow-up after pneumonia."),
    DemoPatient("MS-2043", "Aisha Rahman", 34, "1992-01-05", "Headache, no neurological signs."),
    DemoPatient("MS-2044", "Odin Larsen", 72, "1954-11-23", "Known atrial fibrillation."),
    DemoPatient("MS-2045", "Giulia Ferrari", 29, "1997-06-17"),
)


@dataclass(frozen=True)
class DemoFile:
    """A file to upload for a patient under a specialty profile."""

    name: str
    data: bytes = field(repr=False)
    patient: DemoPatient
    profile: str = "general"


def files() -> Iterator[DemoFile]:
    """All demo files, generated on demand."""
    erika, jan, aisha, odin, giulia = PATIENTS
    chest = _read("chest-1.jpg")
    yield DemoFile("thorax_pa.jpg", _jpeg(_labelled(chest, erika, "THORAX PA")), erika)
    yield DemoFile("thorax_ap.png", _png(_labelled(_read("chest-2.jpg"), jan, "THORAX AP")), jan)
    yield DemoFile("thorax.dcm", _radiograph(chest, erika), erika)
    for place, name in enumerate(sorted(SAMPLES.glob("ct_ge_head_*.dcm")), 1):
        yield DemoFile(f"ct_head_{place}.dcm", _slice(name, jan, "CT HEAD"), jan)
    for place, name in enumerate(sorted(SAMPLES.glob("mr_uih_t1sag_*.dcm")), 1):
        yield DemoFile(f"mr_head_{place}.dcm", _slice(name, aisha, "MR HEAD T1"), aisha)
    yield DemoFile("echo.dcm", _dicom("examples_ybr_color.dcm", odin, "ECHO", 1), odin)
    eye = _read("ultrasound.png")
    yield DemoFile("eye_ultrasound.png", _png(_labelled(eye, giulia, "OCULAR")), giulia)
    yield DemoFile("ecg.jpg", _jpeg(_labelled(_read("ecg.jpg"), odin, "ECG 12", ink=0)), odin)
    yield DemoFile("face_frontal.jpg", _jpeg(_read("face.jpg")), giulia)
    retina = cv2.resize(_read("retina.jpg"), (900, 900), interpolation=cv2.INTER_AREA)
    yield DemoFile("fundus.png", _png(_labelled(retina, aisha, "FUNDUS OD")), aisha)
    tissue = cv2.resize(_read("ihc.png"), (1024, 1024))
    yield DemoFile("histology.jpg", _jpeg(_labelled(tissue, jan, "IHC x20", ink=10)), jan)
    yield DemoFile("thorax_16bit.png", _png16(_labelled(chest, jan, "THORAX")), jan)


def _read(name: str) -> np.ndarray:
    return np.asarray(Picture.open(SAMPLES / name).convert("RGB"))


def _labelled(
    picture: np.ndarray, patient: DemoPatient, title: str, *, ink: int = 235, size: float = 0.0
) -> np.ndarray:
    """Name, number and dates in the corners, as scanners burn them in."""
    canvas = np.ascontiguousarray(picture.copy())
    height, width = canvas.shape[:2]
    scale = size or max(0.35, width / 1400)
    step = int(34 * scale)
    family, given = patient.name.split()[-1].upper(), patient.name.split()[0]
    left = [f"{family}, {given}", f"ID {patient.id}", f"*{patient.born}"]
    right = [title, "2026-11-02 09:41", "St. Anna Hospital"]
    _write(canvas, left, (int(12 * scale), step), scale, ink, step)
    widest = max(cv2.getTextSize(t, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] for t in right)
    if widest < width // 2:
        _write(canvas, right, (width - widest - int(12 * scale), step), scale, ink, step)
    else:
        _write(canvas, right[1:], (int(12 * scale), height - 2 * step), scale, ink, step)
    return canvas


def _write(
    canvas: np.ndarray,
    lines: Sequence[str],
    at: tuple[int, int],
    scale: float,
    ink: int,
    step: int,
) -> None:
    thickness = max(1, round(scale * 1.6))
    for i, line in enumerate(lines):
        place = (at[0], at[1] + i * step)
        cv2.putText(
            canvas, line, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (ink,) * 3, thickness, cv2.LINE_AA
        )  # fmt: skip


def _jpeg(rgb: np.ndarray) -> bytes:
    out = io.BytesIO()
    Picture.fromarray(rgb).save(out, "JPEG", quality=92)
    return out.getvalue()


def _png(rgb: np.ndarray) -> bytes:
    out = io.BytesIO()
    Picture.fromarray(rgb).save(out, "PNG")
    return out.getvalue()


def _png16(rgb: np.ndarray) -> bytes:
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.uint16) * 257
    return bytes(cv2.imencode(".png", grey)[1])


def _radiograph(rgb: np.ndarray, patient: DemoPatient) -> bytes:
    """A 12-bit digital radiograph with a header that names the patient."""
    grey = cv2.cvtColor(_labelled(rgb, patient, "THORAX PA"), cv2.COLOR_RGB2GRAY)
    ds = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    ds.PixelData = (grey.astype(np.uint16) * 16).tobytes()
    ds.Rows, ds.Columns = grey.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.Modality, ds.SOPClassUID = "DX", "1.2.840.10008.5.1.4.1.1.1.1"
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.WindowCenter, ds.WindowWidth = 2048, 4096
    ds.RescaleIntercept, ds.RescaleSlope = 0, 1
    ds.pop("SmallestImagePixelValue", None)
    ds.pop("LargestImagePixelValue", None)
    return _named(ds, patient)


def _slice(path: Path, patient: DemoPatient, title: str) -> bytes:
    """A slice of a real head, of a volunteer, with text burned in as scanners do."""
    ds = pydicom.dcmread(path)
    ds.decompress()
    pixels = ds.pixel_array.copy()
    black = np.zeros((*pixels.shape, 3), np.uint8)
    stamp = _labelled(black, patient, title, ink=255, size=0.42)[..., 0] > 96
    pixels[stamp] = int(np.percentile(pixels, 99.9))
    ds.PixelData = pixels.tobytes()
    ds.StudyDate, ds.StudyTime, ds.StudyDescription = "20261102", "094100", title
    ds.SeriesDescription = f"{title} axial" if title.startswith("CT") else f"{title} sagittal"
    return _named(ds, patient)


def _dicom(name: str, patient: DemoPatient, title: str, enlarge: int) -> bytes:
    """One of pydicom's test files, enlarged so that text fits, with text burned in."""
    ds = pydicom.dcmread(str(get_testdata_file(name)))
    if ds.file_meta.TransferSyntaxUID.is_compressed:
        ds.decompress()
    channels = (ds.SamplesPerPixel,) if ds.SamplesPerPixel > 1 else ()
    frames = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns, *channels)
    frames = frames.repeat(enlarge, axis=1).repeat(enlarge, axis=2)
    bright = int(np.percentile(frames, 99.9))
    black = np.zeros((*frames.shape[1:3], 3), np.uint8)
    stamp = _labelled(black, patient, title, ink=255, size=0.42)[..., 0] > 96
    frames[:, stamp] = bright
    ds.Rows, ds.Columns = frames.shape[1:3]
    ds.PixelData = np.ascontiguousarray(frames).tobytes()
    return _named(ds, patient)


def _named(ds: Dataset, patient: DemoPatient) -> bytes:
    family, given = patient.name.split()[-1], patient.name.split()[0]
    ds.PatientName, ds.PatientID = f"{family}^{given}", patient.id
    ds.PatientBirthDate = patient.born.replace("-", "")
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(
        entropy_srcs=[patient.id, ds.Modality, str(ds.get("InstanceNumber", ""))]
    )
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds["PixelData"].VR = "OW" if ds.BitsAllocated > 8 else "OB"
    ds["PixelData"].is_undefined_length = False
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()
