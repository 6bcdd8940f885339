"""A study taken away as files: with a DICOMDIR that other programs read, and nothing too much."""

from __future__ import annotations

import io
import shutil
import subprocess
import warnings
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
import pytest
from pydicom.fileset import FileSet
from pydicom.uid import ImplicitVRLittleEndian

from api.zips import zipped
from engine import Detection, Region, StudyRestoration, errors
from engine.formats import dicom_directory, images
from engine.formats.dicom_directory import Directory
from engine.operations.admission import Work
from tests import builders
from tests.conftest import PASSWORD, WHY, Ward
from tests.formats.documents import BASIC_TEXT, KEY_OBJECTS, PDF, PRESENTATION, document

FOUND = [Detection(Region(8, 8, 60, 24), "text", 0.9, "scripted")]
#: Whoever is named in what :func:`builders.dicom` makes.
NAMED = (b"Doe", b"Jane", b"H-000001", b"A0001001", b"Referrer")


def slice_of(instance: int, **where: object) -> bytes:
    pixels = builders.radiograph(64, 48, seed=100 * int(str(where.get("series", 1))) + instance)
    return builders.dicom(pixels, instance=instance, **{"modality": "CT", **where})  # type: ignore[arg-type]


@dataclass
class Sent:
    """A study of two series, with a picture that is no DICOM, by image id."""

    ward: Ward
    originals: dict[str, bytes] = field(default_factory=dict)

    def seal(self, data: bytes, name: str = "Doe Jane.dcm") -> str:
        image_id = self.ward.seal(data, name, FOUND)
        self.originals[image_id] = data
        return image_id

    @property
    def study_id(self) -> str:
        newest = self.ward.engine.studies.of_patient(
            self.ward.team.technician, self.ward.patient_id
        )
        return next(s.study_id for s in newest if s.dated)

    def masked(self, token: str = "", series_id: str = "") -> dict[str, bytes]:
        token = token or self.ward.team.technician
        return dict(self.ward.engine.archives.masked(token, self.study_id, series_id))

    def restore(self, series_id: str = "") -> StudyRestoration:
        doctor = self.ward.team.doctor
        return self.ward.engine.studies.restore(doctor, self.study_id, WHY, series_id)

    def actions(self, *names: str) -> list[tuple[str, str]]:
        entries = self.ward.engine.context.audit.entries(limit=1000)
        return [(e.action, e.outcome) for e in reversed(entries) if e.action in names]


@pytest.fixture
def sent(ward: Ward) -> Sent:
    made = Sent(ward)
    for series, instance in ((2, 2), (1, 1), (2, 1)):
        made.seal(slice_of(instance, series=series, SeriesDescription="Kopf nativ"))
    return made


def unpacked(files: dict[str, bytes], folder: Path) -> Path:
    whole = io.BytesIO(b"".join(zipped(files.items())))
    with zipfile.ZipFile(whole) as archive:
        assert archive.testzip() is None
        archive.extractall(folder)
    return folder


def file_set(folder: Path) -> FileSet:
    """As pydicom reads it; its folders for changes go at once, of which it would warn later."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        found = FileSet(folder / "DICOMDIR")
        found._stage["t"].cleanup()
    return found


def contents(files: Iterable[str]) -> list[str]:
    return sorted(path for path in files if path.startswith(("DICOM/", "PICTURES/", "OTHER/")))


def test_a_masked_study_is_a_file_set_that_names_nobody(sent: Sent, tmp_path: Path) -> None:
    files = sent.masked()
    assert contents(files) == [
        "DICOM/SE000001/IM000001", "DICOM/SE000002/IM000001", "DICOM/SE000002/IM000002",
    ]  # fmt: skip
    assert list(files)[-2:] == ["DICOMDIR", "README.TXT"]
    assert not any(name in data for data in files.values() for name in NAMED)
    assert all(any(name in data for data in sent.originals.values()) for name in NAMED)
    assert "In here: 3 images." in files["README.TXT"].decode("ascii")
    found = file_set(unpacked(files, tmp_path))
    assert len(found) == 3
    assert sorted(i.path.removeprefix(f"{tmp_path}/") for i in found) == contents(files)
    study = sent.ward.engine.studies.get(sent.ward.team.doctor, sent.study_id)
    assert found.find_values("StudyInstanceUID") == [study.study_uid]
    for instance in found:
        file = pydicom.dcmread(instance.path)
        assert instance.ReferencedSOPInstanceUIDInFile == file.SOPInstanceUID
        assert instance.ReferencedTransferSyntaxUIDInFile == file.file_meta.TransferSyntaxUID
        assert instance.SeriesNumber == file.SeriesNumber
    series = study.series[1].series_id
    assert len(contents(sent.masked(series_id=series))) == 2


def run(*command: str, cwd: Path) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(params=["masked", "originals"])
def folder(request: pytest.FixtureRequest, sent: Sent, tmp_path: Path) -> Path:
    """A study of pictures and documents, unpacked."""
    sent.seal(slice_of(3, syntax=ImplicitVRLittleEndian))
    sent.seal(builders.dicom(builders.cine(3)[0], instance=4, modality="US"))
    for i, kind in enumerate((BASIC_TEXT, PRESENTATION, PDF, KEY_OBJECTS), 90):
        dates = {"ContentDate": "20240229", "ContentTime": "101112"}
        if kind == PRESENTATION:
            dates = {f"PresentationCreation{k[7:]}": v for k, v in dates.items()}
        sent.seal(document(kind, i, **dates))
    if request.param == "masked":
        return unpacked(sent.masked(), tmp_path / "disc")
    doctor, opened = sent.ward.team.doctor, sent.restore()
    return unpacked(dict(sent.ward.engine.archives.originals(doctor, opened.handle)),
                    tmp_path / "disc")  # fmt: skip


def test_programs_of_other_makers_read_the_directory(folder: Path) -> None:
    originals = b"Original" in (folder / "README.TXT").read_bytes()
    files = 9 if originals else 5
    dumped = run("dcmdump", "DICOMDIR", cwd=folder)
    assert (
        dumped.count("DirectoryRecordType")
        - dumped.count("[PATIENT]")
        - dumped.count("[STUDY]")
        - dumped.count("[SERIES]")
        == files
    )
    # dcmtk looks each file up in the directory.
    shutil.copy(folder / "DICOMDIR", folder / "BEFORE")
    names = [p.relative_to(folder).as_posix() for p in sorted(folder.glob("DICOM/*/*"))]
    assert len(names) == files
    compared = run("dcmmkdir", "--append", "--invent", "-Nxc", *names, cwd=folder)
    assert compared.count("directory record for this SOP instance already exists") == files
    shutil.copy(folder / "BEFORE", folder / "DICOMDIR")
    assert "Error" not in run("dciodvfy", "DICOMDIR", cwd=folder)
    listed = run("dcdirdmp", "DICOMDIR", cwd=folder)
    assert all(name.replace("/", "\\") in listed for name in names)
    assert len(file_set(folder)) == files


def test_originals_come_back_byte_for_byte_under_one_reason(sent: Sent) -> None:
    engine, doctor = sent.ward.engine, sent.ward.team.doctor
    report = sent.seal(document(BASIC_TEXT), "report.dcm")
    opened = sent.restore()
    files = dict(engine.archives.originals(doctor, opened.handle))
    given = [files[path] for path in contents(files)]
    assert sorted(given) == sorted(sent.originals.values())
    assert sent.originals[report] in given
    assert sent.actions("study.restore", "study.export") == [
        ("study.restore", "requested"),
        ("study.export", "requested"),
        ("study.export", "completed"),
    ]  # fmt: skip
    for image_id in sent.originals:
        entries = engine.context.audit.of_image(image_id)
        told = [(e.action, e.outcome) for e in reversed(entries)][-3:]
        assert told == [("region.decrypt", "ok"), ("image.restore", "completed"),
                        ("image.download", "ok")]  # fmt: skip
        [completed] = [e for e in entries if e.action == "image.restore"]
        assert (completed.reason, completed.detail["study_request"]) == (WHY, opened.handle)
    # Nothing of it is kept: not in memory for the session, and not on disk.
    held = [engine.images.open_restoration(doctor, image_id) for image_id in sent.originals]
    assert held == [None] * 4
    for file in engine.settings.data.rglob("*"):
        assert not file.is_file() or b"Doe^Jane" not in file.read_bytes()


def test_pictures_are_beside_the_file_set(ward: Ward, tmp_path: Path) -> None:
    sent = Sent(ward)
    picture = builders.png(builders.radiograph(64, 48))
    image_id = sent.seal(picture, "Doe Jane.png")
    study_id = ward.engine.studies.study_of(ward.team.doctor, image_id)
    assert study_id is not None
    masked = dict(ward.engine.archives.masked(ward.team.technician, study_id))
    assert list(masked) == ["PICTURES/SE000001/IM000001.PNG", "README.TXT"]
    assert b"DICOMDIR" not in masked["README.TXT"]  # it names no file that is not there
    assert masked["PICTURES/SE000001/IM000001.PNG"] != picture
    opened = ward.engine.studies.restore(ward.team.doctor, study_id, WHY)
    originals = dict(ward.engine.archives.originals(ward.team.doctor, opened.handle))
    assert originals["PICTURES/SE000001/IM000001.PNG"] == picture


def test_what_is_left_out_is_counted(sent: Sent) -> None:
    engine, team = sent.ward.engine, sent.ward.team
    sent.ward.upload(slice_of(9), "x.dcm", FOUND)
    sent.seal(document(PDF), "x.dcm")
    told = sent.masked()["README.TXT"].decode()
    assert "Not in here: 1 image not sealed yet." in told
    assert "Not in here: 1 image without a picture" in told
    # Doctors do not know of drafts.
    assert "not sealed" not in sent.masked(team.doctor)["README.TXT"].decode()
    opened = sent.restore()
    engine.withdrawals.flag(team.technician, next(iter(sent.originals)), "a name in the corner")
    engine.care.set_restorable_classes(team.administrator, "doctor", ["face"])
    files = dict(engine.archives.originals(team.doctor, opened.handle))
    assert contents(files) == []
    told = files["README.TXT"].decode()
    assert "In here: 0 images." in told
    assert "Not in here: 1 image changed, withdrawn or erased meanwhile." in told
    assert "Not in here: 3 images with content that your account may not open." in told


def test_an_altered_file_is_left_out_and_said(sent: Sent) -> None:
    engine = sent.ward.engine
    [image_id, *_] = sent.originals
    row = engine.context.catalog.row(engine.context.database.read(), image_id)
    sealed = next(engine.settings.data.rglob(f"{row.sealed_blob}*"))
    sealed.write_bytes(bytes(len(sealed.read_bytes())))
    files = dict(engine.archives.originals(sent.ward.team.doctor, sent.restore().handle))
    assert len(contents(files)) == 2
    assert "1 image that could not be verified" in files["README.TXT"].decode()


def ended(sent: Sent) -> None:
    sent.ward.engine.sessions.sign_out(sent.ward.team.doctor)


def closed(sent: Sent) -> None:
    for opened in sent.ward.engine.studies.restorations(sent.ward.team.doctor, sent.study_id):
        sent.ward.engine.studies.close(sent.ward.team.doctor, opened.handle)


@pytest.mark.parametrize("over", [ended, closed])
def test_it_breaks_off_when_what_allowed_it_is_over(
    sent: Sent, over: Callable[[Sent], None]
) -> None:
    handle = sent.restore().handle
    files = sent.ward.engine.archives.originals(sent.ward.team.doctor, handle)
    next(files)
    over(sent)
    with pytest.raises((errors.NotSignedIn, errors.NotFound)):
        next(files)
    assert sent.actions("study.export")[-1] == ("study.export", "failed")
    assert len(sent.actions("image.download")) == 1


def test_an_error_that_nobody_named_is_in_the_log_as_a_failure(
    sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, doctor = sent.ward.engine, sent.ward.team.doctor
    files = engine.archives.originals(doctor, sent.restore().handle)
    next(files)

    def fails(*args: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(engine.archives._restorations, "original", fails)
    with pytest.raises(OSError, match="Input/output"):
        next(files)
    [failed, *_] = [e for e in engine.context.audit.entries(limit=50) if e.action == "study.export"]
    assert (failed.outcome, failed.detail["why"]) == ("failed", "unexpected")
    assert failed.detail["given"] == 1


def test_an_account_takes_two_at_a_time(sent: Sent) -> None:
    archives, team = sent.ward.engine.archives, sent.ward.team
    handle = sent.restore().handle
    unread = archives.masked(team.doctor, sent.study_id)
    read = archives.originals(team.doctor, handle)
    next(read)
    with pytest.raises(errors.TooManyRequests, match="Wait until one"):
        archives.masked(team.doctor, sent.study_id)
    assert sent.actions("study.export")[-1] == ("study.export", "refused")
    assert sent.masked(team.technician)
    del unread  # nobody ever read it
    assert archives.masked(team.doctor, sent.study_id)
    for _ in read:
        pass
    taken = [archives.masked(team.doctor, sent.study_id) for _ in range(2)]
    with pytest.raises(errors.TooManyRequests):
        archives.originals(team.doctor, handle)
    assert len(taken) == 2


def test_each_masked_file_has_room_while_it_is_read(
    sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    admission, held = sent.ward.engine.context.admission, []
    part = sent.ward.engine.archives._stored.part

    def watched(*args: str) -> bytes:
        held.append([(job.work, job.account) for job in admission._at_work])
        return part(*args)

    monkeypatch.setattr(sent.ward.engine.archives._stored, "part", watched)
    sent.masked()
    assert held == [[(Work.PAGE, "technician")]] * 3
    assert admission._at_work == []


def test_another_session_cannot_take_what_one_has_restored(sent: Sent) -> None:
    handle = sent.restore().handle
    other = sent.ward.engine.sessions.sign_in("doctor", PASSWORD).token
    with pytest.raises(errors.NotFound):
        sent.ward.engine.archives.originals(other, handle)
    assert sent.actions("study.export") == []


def test_one_who_stops_reading_ends_it(sent: Sent) -> None:
    files = sent.ward.engine.archives.masked(sent.ward.team.doctor, sent.study_id)
    next(files)
    files.close()  # type: ignore[attr-defined]
    assert sent.actions("study.export", "image.export") == [
        ("study.export", "requested"), ("image.export", "ok"), ("study.export", "failed"),
    ]  # fmt: skip


def test_an_unknown_study_or_series_is_refused_before_anything_is_sent(sent: Sent) -> None:
    engine, technician = sent.ward.engine, sent.ward.team.technician
    for study_id, series_id in (("st_x", ""), (sent.study_id, "se_x")):
        with pytest.raises(errors.NotFound):
            engine.archives.masked(technician, study_id, series_id)
    assert sent.actions("study.export") == []


# --- the directory ------------------------------------------------------------------------------


def test_names_of_every_script_are_in_the_directory() -> None:
    directory = Directory()
    name = "Łukasiewicz^Zoë=山田^太郎"
    data = builders.dicom(builders.radiograph(64, 48), PatientName=name, StudyDescription="Schädel")
    assert directory.add(("DICOM", "IM1"), images.directory_entry(data))
    found = pydicom.dcmread(io.BytesIO(directory.write(bytes(16))))
    patient, study, *_ = found.DirectoryRecordSequence
    assert (str(patient.PatientName), study.StudyDescription) == (name, "Schädel")


def test_a_value_that_no_reader_takes_is_as_good_as_missing() -> None:
    directory = Directory()
    data = builders.dicom(builders.radiograph(64, 48), StudyDescription="of 2024")
    for written, other in ((b"20240229", b"unknown "), (b"101112", b"soon  ")):
        assert written in data
        data = data.replace(written, other)
    assert directory.add(("DICOM", "IM1"), images.directory_entry(data))
    found = pydicom.dcmread(io.BytesIO(directory.write(bytes(16))))
    study = found.DirectoryRecordSequence[1]
    assert (study.StudyDate, study.StudyTime) == ("19000101", "000000")
    assert study.StudyDescription == "of 2024"


def test_what_devices_leave_out_is_made_up_as_other_makers_do() -> None:
    directory = Directory()
    gone = dict.fromkeys(("PatientID", "StudyDate", "StudyTime", "StudyID", "SeriesNumber",
                          "InstanceNumber", "AccessionNumber"))  # fmt: skip
    data = builders.dicom(builders.radiograph(64, 48), **gone)  # type: ignore[arg-type]
    assert directory.add(("DICOM", "IM1"), dicom_directory.entry(data))
    found = pydicom.dcmread(io.BytesIO(directory.write(bytes(16))))
    patient, study, series, image = found.DirectoryRecordSequence
    assert (patient.PatientID, study.StudyDate, study.StudyTime) == (
        "UNKNOWN",
        "19000101",
        "000000",
    )
    assert (study.StudyID, study.AccessionNumber, series.SeriesNumber) == ("1", "", 1)
    assert (image.InstanceNumber, image.ReferencedFileID) == (1, ["DICOM", "IM1"])


@pytest.mark.parametrize("told", [
    "", "{}", "[1]", '{"kind": "IMAGE"}', "x" * (1 << 20),
    '{"kind": "STUDY", "class": "1", "instance": "1", "syntax": "1", "said": {}}',
    '{"kind": "IMAGE", "class": "1", "instance": "1\\\\n", "syntax": "1", "said": {"PATIENT": {},'
    ' "STUDY": {}, "SERIES": {}, "IMAGE": {}}}',
])  # fmt: skip
def test_what_a_process_says_of_a_file_is_checked(told: str) -> None:
    directory = Directory()
    assert not directory.add(("DICOM", "IM1"), told)
    assert directory.files == 0


def test_a_file_without_meta_information_cannot_be_in_a_directory() -> None:
    data = builders.dicom(builders.radiograph(64, 48))
    at = data.index(b"\x08\x00\x05\x00CS")  # the data set, as some devices store it
    assert dicom_directory.entry(data[at:]) == ""


@pytest.mark.parametrize("path", [("dicom",), ("DICOM", "IM0000001"), ("A.B",), ("A",) * 9, ("",)])
def test_a_path_that_is_no_file_id_is_refused(path: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="file ID"):
        Directory().add(path, "")
