"""Texts lose the words that name somebody, and no others."""

from __future__ import annotations

from functools import cache

import pytest
from pydicom.dataset import Dataset

from engine.formats.dicom_header import RULES
from engine.formats.dicom_traces import Traces
from engine.formats.dicom_words import cleaned


@cache
def traces() -> Traces:
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    header.PatientName, header.PatientID = "Quastenberg^Ottilie", "QB5530917"
    header.PatientBirthDate, header.StudyDate = "19470823", "20210419"
    header.ReferringPhysicianName = "Obermeier^Karl"
    header.InstitutionName, header.AccessionNumber = "Klinikum Musterstadt", "A-778899"
    return Traces(header, RULES)


#: What technicians and physicians type.
ORDINARY = (
    "T1 MPRAGE SAG",
    "AX T2 FLAIR 3.0 mm",
    "PA and LAT Chest 2 views",
    "CT ABD/PEL W CON 5.0 B30f",
    "LEFT BREAST MLO",
    "Study 2 of 3",
    "L-SPINE 4-5 VWS",
    "ANGIO CAROTIS re.",
    "DWI b=0/1000",
    "3D VRT 1.0x0.75 [HD]",
    "t1_tse_fs_tra_p2",
    "ep2d_diff_mddw_20_p2_ADC",
    "SEG 2.0 mm; kernel H31s, 120 kV, 35 mAs",
    "Knee, both sides",
    "Thorax a.p. im Liegen",
    "CT Schädel nativ (Akut)",
    "MRT LWS o. KM",
    "Follow-up in 6 months",
    "Nodule 7 x 5 mm in segment S3, unchanged",
    "BI-RADS 4a, recommend biopsy",
    "s/p CABG 2015",
    "Rule out PE, D-dimer 1250",
    "Patient in supine position",
    "Contrast: Iomeprol 400, 80 ml i.v.",
    "Series 4 image 112",
    "RPO 15 deg, SID 100 cm",
    "PET WB 3.0 2i24s Gauss5 AC",
    "Fused PET/CT",
    "Stress/Rest Tc-99m Sestamibi",
    "Cor TIRM Hand left",
    "US Abdomen complete",
    "Echo: EF 55%, LVIDd 4.8 cm",
    "Derived: MIP 10 mm, CI 0.35",
    "Ax C+ Chest 1.25 mm Lung",
    "Sag MPR L-Spine",
    "Dose report",
    "Topogram 0.6 T20f",
    "Scout",
    "FDG 350 MBq, 60 min p.i.",
    "EXAM: Mammogram screening digital bilateral",
    "History: smoker 20 pack-years",
    "Reader: none",
    "Phase 75% of R-R",
    "TR 2500, TE 90, FA 150",
    "ISO_IR 100",
    "OD fundus 45 deg",
    "Window 400/40",
    "Tumor Board request",
    "NM Bone scan whole body",
    "MG Tomo RCC",
    "Fall onto outstretched hand",
    "Portable AP upright 0545 h",
    "St. p. TEP re. Hüfte",
    "Dr. requested additional views",
    "Mr. guided biopsy",
)
#: A text, and what must not be left of it.
TELLING = {
    "CT Thorax Quastenberg": ("Quastenberg",),
    "Thorax of O. Quastenberg, stable": ("Quastenberg",),
    "referred by Karl Obermeier for staging": ("Obermeier",),
    "Dr. John H. Watson, cardiology": ("Watson",),
    "Tel 0151 23456789": ("2345",),
    "DOB 23.08.1947": ("1947",),
    "born 23 Aug 47": ("Aug 47",),
    "MRN 4711-22": ("4711",),
    "SSN 078-05-1120": ("1120",),
    "Call me: x.y@z.org": ("z.org",),
    "Frau Müller-Lüdenscheidt, Bett 3": ("Müller",),
    "seen 4/19/2021 in ER": ("2021",),
    "WATSON^JOHN^H": ("WATSON",),
    "Signed by: Mary Ann Smith MD": ("Smith", "Mary"),
    "lives 221 Baker Street London": ("Baker",),
    "Musterstraße 5, 12345 Berlin": ("Muster", "12345"),
    "ID:QB 553 0917 repeat": ("0917", "553"),
    "see http://pacs.host/x?pid=3": ("pacs",),
    "phone (555) 123-4567": ("4567",),
    "1.2.840.113619.2.55.3.604688 dup": ("604688",),
    "acc A778899": ("778899",),
    "Ottilie's scan": ("Ottilie",),
    "Klinikum Musterstadt CT1": ("Musterstadt",),
}


@pytest.mark.parametrize("said", ORDINARY)
def test_an_ordinary_text_stays_as_it_is(said: str) -> None:
    assert cleaned(said, traces()) == said


@pytest.mark.parametrize("said", TELLING)
def test_nothing_that_names_somebody_is_left(said: str) -> None:
    left = cleaned(said, traces())
    assert not [word for word in TELLING[said] if word in left]


def test_what_stands_beside_a_name_stays() -> None:
    for said, left in (
        ("CT Thorax Quastenberg nativ", "CT Thorax nativ"),
        ("CT_Quastenberg_Thorax", "CT Thorax"),
        ("Dr. John H. Watson, cardiology", "cardiology"),
        ("stable since 23.08.1947; ICU", "stable since; ICU"),
        ("Klinikum Musterstadt CT1", "CT1"),
    ):
        assert cleaned(said, traces()) == left


def test_a_text_in_which_a_name_cannot_be_told_apart_goes_whole() -> None:
    assert cleaned("q u a s t e n b e r g", traces()) == ""
    assert cleaned("x" * 20_000, traces()) == ""
    assert cleaned(f"scan {'QmFzZTY0' * 9} left", traces()) == "scan left"
