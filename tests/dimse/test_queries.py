"""C-FIND, C-GET and C-MOVE over masked objects, as dcmtk and pynetdicom see them."""

from __future__ import annotations

import io
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association

from dimse import identifiers, retrieving
from engine import Instance, errors
from engine.formats import dicom_web
from tests import builders
from tests.conftest import Ward
from tests.dimse.peers import FORGIVES_PYNETDICOM, SINGLE, free_port, program, receiving, storescp
from tests.rest import BOX

STUDY, PATIENT = "1.2.840.10008.5.1.4.1.2.2.", "1.2.840.10008.5.1.4.1.2.1."
FIND, MOVE, GET = STUDY + "1", STUDY + "2", STUDY + "3"
PIXELS = builders.labelled()[0]
pytestmark = FORGIVES_PYNETDICOM


@pytest.fixture
def archive(ward: Ward) -> Ward:
    """Two patients: a study of two series with three images, and one of ultrasound."""
    ward.detector.found = [BOX]
    token = ward.team.technician
    made = {
        n: ward.engine.patients.create(token, f"H-{n:06d}", name).patient_id
        for n, name in ((1, "Jane Doe"), (2, "Jan Nowak"))
    }
    for patient, kind in (
        (1, {"series": 1, "instance": 1}),
        (1, {"series": 1, "instance": 2, "syntax": JPEGLSLossless}),
        (1, {"series": 2, "instance": 1, "StudyTime": "101112"}),
        (2, {"modality": "US"}),
    ):
        data = builders.dicom(PIXELS, patient=patient, **kind)  # type: ignore[arg-type]
        image = ward.engine.drafts.upload(token, made[patient], "a.dcm", data)
        ward.engine.drafts.seal(token, image.image_id, [BOX])
    allow(ward, "READER", queries="all")
    return ward


@pytest.fixture
def port(archive: Ward) -> Iterator[int]:
    with receiving(archive.engine) as listening:
        yield listening.port


def allow(ward: Ward, title: str, **values: Any) -> None:
    ward.engine.nodes.save(ward.team.administrator, title, {"addresses": ["127.0.0.1"], **values})


def dcmtk(
    name: str, port: int, *options: str, title: str = "READER", code: int | None = 0
) -> subprocess.CompletedProcess[str]:
    call = ["-aet", title, "-aec", "MEDSEC", "127.0.0.1", str(port)]
    done = subprocess.run(
        [program(name), "-v", *options, *call],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert code is None or done.returncode == code, done.stderr
    return done


def found(port: int, folder: Path, *keys: str, model: str = "-S") -> list[Dataset]:
    """What findscu is answered."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("rsp*"):
        old.unlink()
    options = [part for key in keys for part in ("-k", key)]
    dcmtk("findscu", port, model, "-X", "-od", str(folder), *options)
    return [pydicom.dcmread(p, force=True) for p in sorted(folder.glob("rsp*"))]


def study_uid(ward: Ward, number: str = "H-000001") -> str:
    token = ward.team.technician
    [study] = ward.engine.studies.of_patient(
        token, ward.engine.patients.search(token, number)[0].patient_id
    )
    return study.study_uid


@contextmanager
def asking(port: int, title: str = "READER", syntax: str = ImplicitVRLittleEndian,
           stores: Any = None) -> Iterator[Association]:  # fmt: skip
    ae = AE(title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
    for model in (STUDY, PATIENT):
        for service in "123":
            ae.add_requested_context(model + service, syntax)
    roles: list[Any] = []
    handlers: list[Any] = []
    if stores is not None:
        ae.add_requested_context(SINGLE, [ImplicitVRLittleEndian])
        roles = [build_role(SINGLE, scp_role=True)]
        handlers = [(evt.EVT_C_STORE, stores)]
    assoc = ae.associate("127.0.0.1", port, ae_title="MEDSEC", ext_neg=roles, evt_handlers=handlers)
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def wanted(level: str, **keys: str) -> Dataset:
    asked = Dataset()
    asked.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(asked, keyword, value)
    return asked


# --- C-FIND -----------------------------------------------------------------------------------


#: A key of a query, and how many studies match.
MATCHING = [
    ("PatientID", 2),  # universal
    ("PatientID=MS-*", 2),
    ("PatientID=MS-?*", 2),
    ("PatientID=ms-*", 2),  # wildcards do not regard case
    ("PatientID=H-000001", 0),  # a hospital number is no key for a node
    ("ModalitiesInStudy=US", 1),
    ("ModalitiesInStudy=D*", 1),
    ("StudyInstanceUID=1.2.3", 0),
    ("StudyDate=18000101-20991231", 0),  # masked objects have none
]


def test_studies_are_matched_as_the_standard_says(archive: Ward, port: int, tmp_path: Path) -> None:
    for key, count in MATCHING:
        answers = found(port, tmp_path / "rsp", "QueryRetrieveLevel=STUDY", "StudyInstanceUID", key)
        assert len(answers) == count, key
        for answer in answers:
            assert answer.QueryRetrieveLevel == "STUDY"
            assert answer.RetrieveAETitle == "MEDSEC"
            assert answer.StudyInstanceUID
            assert "Doe" not in str(answer)


def test_series_and_images_are_found_below_their_study(
    archive: Ward, port: int, tmp_path: Path
) -> None:
    folder, uid = tmp_path / "rsp", study_uid(archive)
    [study] = found(
        port, folder, "QueryRetrieveLevel=STUDY", f"StudyInstanceUID={uid}",
        "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "ModalitiesInStudy",
        "PatientName", "ReferencedStudySequence",
    )  # fmt: skip
    assert (study.NumberOfStudyRelatedSeries, study.NumberOfStudyRelatedInstances) == (2, 3)
    assert study.ModalitiesInStudy == "DX"
    assert "SOPInstanceUID" not in study
    series = found(
        port, folder, "QueryRetrieveLevel=SERIES", f"StudyInstanceUID={uid}", "SeriesInstanceUID",
        "NumberOfSeriesRelatedInstances",
    )  # fmt: skip
    assert sorted(s.NumberOfSeriesRelatedInstances for s in series) == [1, 2]
    for one in series:
        images = found(
            port, folder, "QueryRetrieveLevel=IMAGE", f"StudyInstanceUID={uid}",
            f"SeriesInstanceUID={one.SeriesInstanceUID}", "SOPInstanceUID", "InstanceNumber",
        )  # fmt: skip
        assert len(images) == one.NumberOfSeriesRelatedInstances
    both = "\\".join(s.SeriesInstanceUID for s in series)
    listed = found(
        port, folder, "QueryRetrieveLevel=SERIES", f"StudyInstanceUID={uid}",
        f"SeriesInstanceUID={both}",
    )  # fmt: skip
    assert len(listed) == 2


def test_patients_are_found_in_the_patient_root(archive: Ward, port: int, tmp_path: Path) -> None:
    folder = tmp_path / "rsp"
    patients = found(port, folder, "QueryRetrieveLevel=PATIENT", "PatientID", model="-P")
    assert len({p.PatientID for p in patients}) == 2
    for one in patients:
        studies = found(
            port, folder, "QueryRetrieveLevel=STUDY", f"PatientID={one.PatientID}",
            "StudyInstanceUID", model="-P",
        )  # fmt: skip
        assert len(studies) == 1


@pytest.mark.parametrize(
    ("wanted_value", "matches"),
    [
        ("20240229", True),
        ("20240228", False),
        ("20240101-20241231", True),
        ("20240229-20240229", True),
        ("-20240229", True),
        ("20240229-", True),
        ("20240301-", False),
        ("-20240228", False),
        ("", True),
        ("*", True),
    ],
)
def test_dates_are_matched_by_value_and_range(wanted_value: str, matches: bool) -> None:
    said = {"00080020": {"vr": "DA", "Value": ["20240229"]}}
    assert dicom_web.matches(said, {"00080020": wanted_value}) is matches


def test_an_identifier_that_does_not_match_is_refused(archive: Ward, port: int) -> None:
    with asking(port) as assoc:
        for asked in (
            wanted("PATIENT", PatientID=""),  # not a level of the Study Root
            wanted("ROOM"),
            wanted("SERIES", SeriesInstanceUID=""),  # which study?
            wanted("IMAGE", StudyInstanceUID="1.2", SOPInstanceUID=""),
            wanted(""),
        ):
            [(status, _)] = assoc.send_c_find(asked, FIND)
            assert status.Status == 0xA900


def test_sequences_are_not_matched_and_the_answer_says_so(archive: Ward, port: int) -> None:
    asked = wanted("STUDY", StudyInstanceUID=study_uid(archive))
    item = Dataset()
    item.CodeValue = "X"
    asked.ProcedureCodeSequence = [item]
    with asking(port) as assoc:
        statuses = [s.Status for s, _ in assoc.send_c_find(asked, FIND)]
    assert statuses == [0xFF01, 0]


def test_a_query_is_cancelled(archive: Ward, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = archive.engine.queries.find

    def endless(*args: Any) -> Iterator[dict[str, Any]]:
        [one] = list(real(*args))[:1]
        for _ in range(100):
            time.sleep(0.02)
            yield one

    monkeypatch.setattr(archive.engine.queries, "find", endless)
    with asking(port) as assoc:
        seen = []
        for status, _ in assoc.send_c_find(wanted("STUDY", StudyInstanceUID=""), FIND, msg_id=7):
            seen.append(status.Status)
            if len(seen) == 2:
                assoc.send_c_cancel(7, query_model=FIND)
        assert seen[-1] == 0xFE00
        assert set(seen[:-1]) == {0xFF00}
        assert len(seen) < 100
        assert [s.Status for s, _ in assoc.send_c_find(wanted("STUDY"), FIND)][-1] == 0


@pytest.mark.parametrize(
    ("charset", "said", "expected"),
    [
        ("", "Thorax", None),
        ("ISO_IR 100", "Schädel", "ISO_IR 100"),
        ("ISO_IR 192", "Schädel", "ISO_IR 192"),
        ("ISO_IR 100", "頭部", "ISO_IR 192"),  # not in its letters
        ("", "Schädel", "ISO_IR 192"),
    ],
)
def test_an_answer_is_in_letters_of_the_peer_or_in_utf_8(
    charset: str, said: str, expected: str | None
) -> None:
    asked = identifiers.Query("study", "STUDY", {"00081030": ""}, charset)
    header = {"00081030": {"vr": "LO", "Value": [said]}}
    made = identifiers.answer(header, asked, "MEDSEC")
    assert made.get("SpecificCharacterSet") == expected
    whole = io.BytesIO()
    pydicom.dcmwrite(whole, made, implicit_vr=True, little_endian=True)
    back = pydicom.dcmread(io.BytesIO(whole.getvalue()), force=True)
    assert back.StudyDescription == said


def test_keys_are_read_in_the_letters_of_the_peer(
    archive: Ward, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for: list[dict[str, str]] = []

    def keep(_: str, level: str, keys: dict[str, str]) -> Iterator[Any]:
        asked_for.append(keys)
        return iter(())

    monkeypatch.setattr(archive.engine.queries, "find", keep)
    with asking(port) as assoc:
        for letters in ("ISO_IR 192", "ISO_IR 100"):
            asked = wanted("STUDY", PatientName="Müller*")
            asked.SpecificCharacterSet = letters
            assert [s.Status for s, _ in assoc.send_c_find(asked, FIND)] == [0]
    assert [keys["00100010"] for keys in asked_for] == ["Müller*"] * 2


# --- who may ----------------------------------------------------------------------------------


def test_a_node_that_may_not_query_is_not_offered_it(archive: Ward, port: int) -> None:
    allow(archive, "CT1")
    with asking(port, "CT1") as assoc:
        assert assoc.is_rejected or not assoc.accepted_contexts
    dcmtk("findscu", port, "-S", "-k", "QueryRetrieveLevel=STUDY", title="CT1", code=None)


def test_a_right_that_is_taken_away_counts_at_once(archive: Ward, port: int) -> None:
    with asking(port) as assoc:
        allow(archive, "READER")
        [(status, _)] = assoc.send_c_find(wanted("STUDY"), FIND)
        assert status.Status == 0x0124
        [(status, _)] = assoc.send_c_get(wanted("STUDY", StudyInstanceUID="1.2"), GET)
        assert status.Status == 0x0124
    entries = archive.engine.audit.entries(archive.team.administrator, query="refused", limit=50)
    assert [e.actor for e in entries if e.action == "study.search"].count("ae:READER") == 2


def test_a_node_may_be_limited_to_what_it_sent_itself(archive: Ward, port: int) -> None:
    allow(archive, "READER", queries="own")
    with asking(port) as assoc:
        assert [s.Status for s, _ in assoc.send_c_find(wanted("STUDY"), FIND)] == [0]
        uid = study_uid(archive)
        got = list(assoc.send_c_get(wanted("STUDY", StudyInstanceUID=uid), GET))
        assert [s.Status for s, _ in got] == [0]
    token = archive.engine.reception.admit("READER", "127.0.0.1")
    data = builders.dicom(PIXELS, instance=9, modality="CR")
    said = pydicom.dcmread(io.BytesIO(data))
    archive.engine.reception.receive(token, Instance(said.SOPClassUID, said.SOPInstanceUID, data))
    [draft] = archive.engine.drafts.waiting(archive.team.technician)
    archive.engine.drafts.seal(archive.team.technician, draft.image_id, [BOX], confirm="Looked.")
    with asking(port) as assoc:
        answers = list(assoc.send_c_find(wanted("STUDY", ModalitiesInStudy=""), FIND))
    assert [d.ModalitiesInStudy for _, d in answers if d] == ["CR"]


def test_what_is_asked_and_given_is_in_the_log(archive: Ward, port: int, tmp_path: Path) -> None:
    uid = study_uid(archive)
    found(port, tmp_path / "rsp", "QueryRetrieveLevel=STUDY", f"StudyInstanceUID={uid}")
    dcmtk("getscu", port, "-S", "-od", str(tmp_path), "-k", "QueryRetrieveLevel=STUDY",
          "-k", f"StudyInstanceUID={uid}")  # fmt: skip
    entries = archive.engine.audit.entries(archive.team.administrator, limit=200)
    mine = [e for e in entries if e.actor == "ae:READER"]
    assert [e.action for e in mine].count("image.export") == 3
    [asked] = [e for e in mine if e.action == "study.search"]
    assert asked.detail["keys"] == ["0020000D"]
    assert {e.origin for e in mine} == {"127.0.0.1"}


# --- C-GET ------------------------------------------------------------------------------------


def test_dcmtk_gets_a_study_a_series_and_an_image(archive: Ward, port: int, tmp_path: Path) -> None:
    uid = study_uid(archive)
    keys = ["QueryRetrieveLevel=STUDY", f"StudyInstanceUID={uid}"]
    for level, count in (("STUDY", 3), ("SERIES", 2), ("IMAGE", 1)):
        folder = tmp_path / level
        folder.mkdir()
        options = [part for key in keys for part in ("-k", key)]
        dcmtk("getscu", port, "-S", "-od", str(folder), *options)
        files = [pydicom.dcmread(p) for p in folder.iterdir()]
        assert len(files) == count
        for file in files:
            assert file.PatientIdentityRemoved == "YES"
            shown = file.pixel_array[BOX.region.slices[1:]]
            assert len(np.unique(shown)) < 5
        # two images, then one of them
        series = sorted(files, key=lambda f: (f.SeriesNumber or 0, f.InstanceNumber))
        first = max(
            series, key=lambda f: sum(g.SeriesInstanceUID == f.SeriesInstanceUID for g in series)
        )
        keys = [
            f"QueryRetrieveLevel={'SERIES' if level == 'STUDY' else 'IMAGE'}",
            f"StudyInstanceUID={uid}", f"SeriesInstanceUID={first.SeriesInstanceUID}",
        ] + ([f"SOPInstanceUID={first.SOPInstanceUID}"] if level == "SERIES" else [])  # fmt: skip


def test_what_arrives_is_the_stored_file_bit_for_bit(
    archive: Ward, port: int, tmp_path: Path
) -> None:
    uid, token = study_uid(archive, "H-000002"), archive.team.technician
    dcmtk("getscu", port, "-S", "+B", "-od", str(tmp_path), "-k", "QueryRetrieveLevel=STUDY",
          "-k", f"StudyInstanceUID={uid}")  # fmt: skip
    [got] = tmp_path.glob("*[0-9]")
    [one] = archive.engine.objects.of_study(token, archive.engine.objects.study_id(uid))
    kept = archive.engine.objects.file(token, one.image_id)

    def data_set(file: bytes) -> bytes:
        return file[144 + int.from_bytes(file[140:144], "little") :]

    assert data_set(got.read_bytes()) == data_set(kept)


def test_a_get_counts_what_the_peer_refuses(archive: Ward, port: int) -> None:
    uid = study_uid(archive)
    taken: list[str] = []

    def one_in_three(event: evt.Event) -> int:
        taken.append(event.request.AffectedSOPInstanceUID)  # type: ignore[union-attr]
        return {1: 0xA700, 2: 0xB000}.get(len(taken), 0)

    with asking(port, stores=one_in_three) as assoc:
        answers = list(assoc.send_c_get(wanted("STUDY", StudyInstanceUID=uid), GET))
    *pending, (last, said) = answers
    assert [s.Status for s, _ in pending] == [0xFF00] * 2
    assert [s.NumberOfRemainingSuboperations for s, _ in pending] == [2, 1]
    assert last.Status == 0xB000
    assert said is not None
    assert said.FailedSOPInstanceUIDList == taken[0]
    numbers = (
        last.NumberOfCompletedSuboperations, last.NumberOfFailedSuboperations,
        last.NumberOfWarningSuboperations,
    )  # fmt: skip
    assert numbers == (1, 1, 1)


def test_a_get_of_which_everything_fails_is_a_failure(archive: Ward, port: int) -> None:
    with asking(port, stores=lambda _: 0xC000) as assoc:
        asked = wanted("STUDY", StudyInstanceUID=study_uid(archive))
        last, said = list(assoc.send_c_get(asked, GET))[-1]
    assert last.Status == 0xA702
    assert said is not None
    assert len(said.FailedSOPInstanceUIDList) == 3


def test_a_get_is_cancelled(archive: Ward, port: int) -> None:
    asked = wanted("STUDY", StudyInstanceUID=study_uid(archive))
    taken: list[Any] = []

    def slow(event: evt.Event) -> int:
        if not taken:
            event.assoc.send_c_cancel(3, query_model=GET)
        taken.append(event)
        time.sleep(0.5)
        return 0

    with asking(port, stores=slow) as assoc:
        answers = list(assoc.send_c_get(asked, GET, msg_id=3))
        last = answers[-1][0]
        assert last.Status == 0xFE00
        assert last.NumberOfRemainingSuboperations >= 1
        assert last.NumberOfCompletedSuboperations == len(taken) < 3


def test_nothing_that_matches_is_a_success(archive: Ward, port: int) -> None:
    with asking(port, stores=lambda _: 0) as assoc:
        [(status, _)] = assoc.send_c_get(wanted("STUDY", StudyInstanceUID="1.2"), GET)
    assert (status.Status, status.NumberOfCompletedSuboperations) == (0, 0)


# --- C-MOVE -----------------------------------------------------------------------------------


def test_dcmtk_moves_a_study_to_a_third(archive: Ward, port: int, tmp_path: Path) -> None:
    with storescp(tmp_path / "got") as there:
        allow(archive, "THIRD", host="127.0.0.1", port=there, receives=True)
        done = dcmtk(
            "movescu", port, "-S", "-aem", "THIRD", "-k", "QueryRetrieveLevel=STUDY",
            "-k", f"StudyInstanceUID={study_uid(archive)}",
        )  # fmt: skip
        assert "Success" in done.stderr
    files = [pydicom.dcmread(p) for p in (tmp_path / "got").iterdir()]
    assert len(files) == 3
    # storescp takes uncompressed syntaxes only: what is stored compressed is decompressed
    assert {f.file_meta.TransferSyntaxUID for f in files} == {ExplicitVRLittleEndian}
    assert all(f.PatientIdentityRemoved == "YES" for f in files)


def test_a_destination_that_takes_a_coding_gets_it(
    archive: Ward, port: int, tmp_path: Path
) -> None:
    with storescp(tmp_path / "got", "+xa") as there:
        allow(archive, "THIRD", host="127.0.0.1", port=there, receives=True)
        dcmtk("movescu", port, "-S", "-aem", "THIRD", "-k", "QueryRetrieveLevel=STUDY",
              "-k", f"StudyInstanceUID={study_uid(archive)}")  # fmt: skip
    stored = {pydicom.dcmread(p).file_meta.TransferSyntaxUID for p in (tmp_path / "got").iterdir()}
    assert JPEGLSLossless in stored


def test_an_unknown_destination_is_refused(archive: Ward, port: int) -> None:
    done = dcmtk(
        "movescu", port, "-S", "-aem", "THIRD", "-k", "QueryRetrieveLevel=STUDY",
        "-k", f"StudyInstanceUID={study_uid(archive)}", code=None,
    )  # fmt: skip
    assert re.search("MoveDestinationUnknown|Move Destination Unknown", done.stderr), done.stderr
    with asking(port) as assoc:
        asked = wanted("STUDY", StudyInstanceUID=study_uid(archive))
        allow(archive, "DEAF")  # which takes nothing
        for title in ("THIRD", "DEAF"):
            [(status, _)] = assoc.send_c_move(asked, title, MOVE)
            assert status.Status == 0xA801


def test_a_destination_that_is_down_fails_every_suboperation(archive: Ward, port: int) -> None:
    allow(archive, "THIRD", host="127.0.0.1", port=free_port(), receives=True)
    with asking(port) as assoc:
        asked = wanted("STUDY", StudyInstanceUID=study_uid(archive))
        [(status, said)] = assoc.send_c_move(asked, "THIRD", MOVE)
    assert (status.Status, status.NumberOfFailedSuboperations) == (0xA702, 3)
    assert said is not None
    assert len(said.FailedSOPInstanceUIDList) == 3


def test_an_error_has_a_status_of_the_standard() -> None:
    for error, status in (
        (errors.PermissionDenied("No."), 0x0124),
        (errors.StorageBusy("Busy."), 0xA700),
        (errors.InputError("What?"), 0xA900),
        (errors.NotFound("Where?"), 0xA801),
        (ValueError("a mistake of the program"), 0xC000),
    ):
        assert retrieving.status_of(error) == status


def test_originals_are_never_given(archive: Ward, port: int, tmp_path: Path) -> None:
    """Their UIDs name nothing here, and the masked objects do not hold them."""
    assert found(
        port, tmp_path / "rsp", "QueryRetrieveLevel=STUDY",
        f"StudyInstanceUID={builders.uid(1, 1)}",
    ) == []  # fmt: skip
