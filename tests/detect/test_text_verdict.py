"""Which burned-in text names somebody, and that only the verdict is kept."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from engine import Detection, ImageState, Region, Suggestion, TextVerdict, errors
from engine.detect.detector import Detector
from engine.detect.text import TextFinder, TextReader
from engine.detect.text_verdict import Judge, Judgement, Known, judge_words
from engine.formats.dicom_header import identifiers
from engine.operations.examination import HARMLESS
from engine.settings import Settings
from tests import builders
from tests.conftest import Ward

NOBODY = Known(())
PATIENT = Known.of(["Müller^Paula", "19610512", "MRN4711", "St. Marien Hospital", "120"])
SAYS_HARMLESS = (
    "L", "R", "l", "AP", "PA SUPINE", "L PORTABLE", "R MLO", "120 kV", "80kV 2.5 mAs", "kVp: 70",
    "W 400 L 40", "W400L40", "MI 1.1", "TIs: 0.4", "DR 60", "FR 30Hz", "12.3 cm", "50%", "5 mm",
    "TR 3000 TE 90", "Im: 12/40", "Zoom 1.5x", "25 mm/s 10 mm/mV", "aVR", "V1", "1.5T",
)  # fmt: skip


@pytest.mark.parametrize("text", SAYS_HARMLESS)
def test_markers_scales_and_technique_factors_are_harmless(text: str) -> None:
    assert judge_words(text, NOBODY) is TextVerdict.HARMLESS


@pytest.mark.parametrize(
    "text",
    [
        "MÜLLER", "Smith, John", "SMITH^JOHN", "12.05.1961", "2026-01-31", "12 Mar 2024",
        "Jan 5, 2024", "19610512", "14:33:05", "ID 12345", "4711-0815", "61Y", "061Y M",
        "DOB", "Dr. House", "City Hospital", "Klinikum rechts der Isar", "a@b.org", "Name:",
        "Accession", "Tel 089", "Ward 3",
    ],
)  # fmt: skip
def test_names_dates_numbers_and_institutions_identify(text: str) -> None:
    assert judge_words(text, PATIENT) is TextVerdict.IDENTIFYING


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", "·", "M", "F", "61", "170 cm", "JD", "L 23", "L A", "F A L L", "P A L", "PAL",
        "LI WEI", "HR 72", "LEFT HAND", "R. M", "Dist 5", "kV", "1961", "EX 4711", "12 mmx",
        "L\u200bSmith", "AP PA AP PA",
    ],
)  # fmt: skip
def test_what_nobody_can_tell_is_not_harmless(text: str) -> None:
    assert judge_words(text, NOBODY) is TextVerdict.UNKNOWN


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("AP", ["Peters^Anna"]),  # could be her initials
        ("120 kV", ["120"]),  # her number
        ("LEFT", ["Left, Terry"]),
        ("5 MM", ["MM"]),
    ],
)
def test_what_is_known_of_the_patient_is_never_harmless(text: str, known: list[str]) -> None:
    assert judge_words(text, NOBODY) is TextVerdict.HARMLESS
    assert judge_words(text, Known.of(known)) is not TextVerdict.HARMLESS


@pytest.mark.parametrize("text", ["MUELLER", "Mulier", "MRN47I1", "PAU1A MÜLLFR", "Sankt Marlen"])
def test_misread_letters_do_not_hide_what_is_known(text: str) -> None:
    assert judge_words(text, PATIENT) is TextVerdict.IDENTIFYING


def test_what_is_known_does_not_show_itself() -> None:
    assert "Paula" not in repr(PATIENT)


# --- from pixels ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge() -> Judge:
    settings = Settings(threads=2)
    return Judge(TextFinder(settings), TextReader(settings))


def drawn(*texts: tuple[str, int, int], scale: float = 0.9) -> tuple[np.ndarray, list[Region]]:
    """Dark picture with lines of text, and the box of each."""
    picture = np.full((300, 500, 3), 30, np.uint8)
    boxes = []
    for text, x, y in texts:
        (w, h), low = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 2)
        cv2.putText(
            picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (230,) * 3, 2, cv2.LINE_AA
        )
        boxes.append(Region(x - 1, y - h - 1, x + w + 1, y + 2 + (low // 3)))
    return picture, boxes


def verdict(judge: Judge, picture: np.ndarray, box: Region) -> Judgement:
    [found] = judge.judge(picture, [box], NOBODY)
    return found


def test_lines_are_read_and_judged(judge: Judge) -> None:
    picture, boxes = drawn(("R", 40, 60), ("Muster, Erika", 40, 130), ("80 kV", 40, 220))
    found = judge.judge(picture, boxes, NOBODY)
    assert [f.verdict for f in found] == ["harmless", "identifying", "harmless"]
    assert [f.side for f in found] == ["R", "", ""]


@pytest.mark.parametrize("turns", [1, 3])
def test_a_line_that_stands_upright_is_read_too(judge: Judge, turns: int) -> None:
    picture, [box] = drawn(("Depth 120 mm", 100, 150))
    turned = np.ascontiguousarray(np.rot90(picture, turns))
    height, width = picture.shape[:2]
    where = {
        1: Region(box.y1, width - box.x2, box.y2, width - box.x1),
        3: Region(height - box.y2, box.x1, height - box.y1, box.x2),
    }[turns]
    assert verdict(judge, turned, where).verdict is TextVerdict.HARMLESS


def test_a_box_around_the_first_letter_of_a_name_is_not_harmless(judge: Judge) -> None:
    picture, [box] = drawn(("Lauterbach", 60, 150))
    letter = Region(box.x1, box.y1, box.x1 + 20, box.y2)
    assert verdict(judge, picture, letter).verdict is not TextVerdict.HARMLESS


def test_a_box_with_a_second_line_is_not_harmless(judge: Judge) -> None:
    picture, [box, below] = drawn(("R", 60, 100), ("Erika", 60, 135))
    both = Region(box.x1, box.y1, box.x2, below.y2)
    assert verdict(judge, picture, both).verdict is not TextVerdict.HARMLESS


def test_a_name_of_which_one_letter_can_be_read_is_not_harmless(judge: Judge) -> None:
    picture, [box] = drawn(("L Smith", 60, 150))
    rest = picture[box.y1 : box.y2 + 8, box.x1 + 26 : box.x2]
    rest[:] = np.where(rest > 60, 37, rest)  # faint, but to be seen
    assert verdict(judge, picture, box).verdict is not TextVerdict.HARMLESS


def test_the_detector_judges_and_a_failure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector.open(Settings(threads=2))
    picture, boxes = drawn(("L", 40, 60))
    assert detector.judge(picture, boxes, NOBODY)[0].side == "L"

    def broken(*_: object) -> None:
        raise RuntimeError("secret words")

    monkeypatch.setattr(TextReader, "read", broken)
    here = Detector(Settings(threads=2), {})
    with pytest.raises(errors.DetectorError) as caught:
        here.judge(picture, boxes, NOBODY)
    assert "secret" not in caught.value.message


def test_a_header_gives_names_dates_and_numbers_wherever_they_are() -> None:
    header = Dataset()
    header.PatientName, header.PatientID = "Muster^Erika", "4711"
    header.StudyDate, header.InstitutionName = "20260131", "St. Marien"
    inner = Dataset()
    inner.PersonName = "House^Gregory"
    header.PersonIdentificationCodeSequence = Sequence([inner])
    assert set(identifiers(header)) == {
        "Muster^Erika", "4711", "20260131", "St. Marien", "House^Gregory",
    }  # fmt: skip


# --- in the engine ----------------------------------------------------------------------------

MARKER = Detection(Region(10, 10, 24, 26), "text", 0.9, "net")
NAME = Detection(Region(40, 10, 150, 26), "text", 0.9, "net")
PICTURE = builders.png(builders.labelled()[0])


@pytest.fixture
def marked(ward: Ward) -> Ward:
    """A picture with a side marker and a name."""
    ward.detector.found = [MARKER, NAME]
    ward.detector.verdicts = {
        MARKER.region.xyxy: (TextVerdict.HARMLESS, "L"),
        NAME.region.xyxy: (TextVerdict.IDENTIFYING,),
    }
    return ward


def visible(ward: Ward) -> None:
    ward.engine.profiles.save(ward.team.administrator, "general", {"harmless_text": "visible"})


def test_the_technician_sees_the_verdict_and_everything_is_sealed_by_default(marked: Ward) -> None:
    image_id = marked.upload(PICTURE)
    view = marked.engine.drafts.open(marked.team.technician, image_id)
    assert [d.verdict for d in view.detections] == ["harmless", "identifying"]
    assert view.suggestions == (Suggestion.SEAL, Suggestion.SEAL)
    assert not view.left


def test_the_reader_is_told_what_is_known_of_the_patient(marked: Ward) -> None:
    marked.upload(PICTURE)
    assert {"P-1", "Erika Musterfrau"} <= set(marked.detector.known.values)
    person = builders.person(2)
    marked.upload(builders.dicom(builders.radiograph(), patient=2), "a.dcm")
    assert {person["PatientName"], person["PatientID"], "P-1"} <= set(marked.detector.known.values)


def test_a_profile_may_leave_harmless_text_visible(marked: Ward) -> None:
    visible(marked)
    image_id = marked.upload(PICTURE)
    engine, token = marked.engine, marked.team.technician
    view = engine.drafts.open(token, image_id)
    assert view.suggestions == (Suggestion.LEAVE, Suggestion.SEAL)
    assert view.left == {0: HARMLESS}
    engine.drafts.seal(token, image_id, view.suggested(Suggestion.SEAL), view.left)
    [sealed] = engine.images.regions(token, image_id)
    assert sealed.detection.region.x1 > MARKER.region.x2
    [entry] = engine.audit.entries(marked.team.administrator, query="box.leave")
    assert entry.reason == HARMLESS


def test_the_second_look_does_not_send_harmless_text_back(marked: Ward) -> None:
    visible(marked)
    image_id = marked.upload(PICTURE)
    engine, token = marked.engine, marked.team.technician
    view = engine.drafts.open(token, image_id)
    again = Detection(Region(8, 8, 27, 29), "text", 0.9, "net")  # a little larger than before
    marked.detector.verdicts[again.region.xyxy] = (TextVerdict.HARMLESS, "L")
    marked.detector.left = [[again]]
    record = engine.drafts.seal(token, image_id, view.suggested(Suggestion.SEAL), view.left)
    assert record.state is ImageState.RELEASED


def test_the_second_look_sends_back_what_it_cannot_tell(marked: Ward) -> None:
    visible(marked)
    image_id = marked.upload(PICTURE)
    engine, token = marked.engine, marked.team.technician
    view = engine.drafts.open(token, image_id)
    marked.detector.left = [[Detection(Region(160, 10, 190, 26), "text", 0.9, "net")]]
    with pytest.raises(errors.ReviewNeeded):
        engine.drafts.seal(token, image_id, view.suggested(Suggestion.SEAL), view.left)


def test_text_over_many_frames_is_never_harmless(marked: Ward) -> None:
    over = Detection(Region(10, 10, 24, 26, 0, 3), "text", 0.9, "net")
    marked.detector.found = [over]
    image_id = marked.upload(builders.dicom(builders.cine()[0]), "a.dcm")
    view = marked.engine.drafts.open(marked.team.technician, image_id)
    assert view.detections[0].verdict is TextVerdict.UNKNOWN


def test_a_reader_that_fails_leaves_everything_sealed(
    marked: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    visible(marked)

    def fail(*_: object) -> None:
        raise errors.DetectorError("It does not read.")

    monkeypatch.setattr(marked.detector, "judge", fail)
    view = marked.engine.drafts.open(marked.team.technician, marked.upload(PICTURE))
    assert [d.verdict for d in view.detections] == ["unknown", "unknown"]
    assert Suggestion.LEAVE not in view.suggestions


def test_verdicts_and_sides_lie_sealed_and_are_in_no_log(
    marked: Ward, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    image_id = marked.seal(PICTURE)
    engine = marked.engine
    tx = engine.context.database.read()
    key = engine.context.hierarchy.image_key(tx, image_id)
    facts = engine.images._stored.open_facts(key, engine.context.catalog.verify(tx, key, image_id))
    assert facts["sides"] == [
        {"side": "L", "x1": 10, "y1": 10, "x2": 24, "y2": 26, "frame": 0},
    ]
    details = json.dumps([dict(e.detail) for e in engine.audit.entries(marked.team.administrator)])
    engine.close()
    stored = b"".join(p.read_bytes() for p in Path(settings.data).rglob("*") if p.is_file())
    for word in ("harmless", "identifying"):
        assert word.encode() not in stored
        assert word not in details
        assert word not in caplog.text


def test_a_side_marker_stays_known_when_an_image_is_sealed_anew(marked: Ward) -> None:
    image_id = marked.seal(PICTURE)
    engine, team = marked.engine, marked.team
    engine.withdrawals.flag(team.doctor, image_id, "a date in the corner")
    view = engine.drafts.open(team.technician, image_id)
    engine.drafts.seal(team.technician, image_id, view.detections, confirm="boxed the date")
    tx = engine.context.database.read()
    key = engine.context.hierarchy.image_key(tx, image_id)
    facts = engine.images._stored.open_facts(key, engine.context.catalog.verify(tx, key, image_id))
    assert [s["side"] for s in facts["sides"]] == ["L"]
