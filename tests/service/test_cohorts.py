"""A cohort leaves: what is in it, that anyone can verify it, and that nothing else passes."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import zipfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

import cli
from api.zips import zipped
from engine import CohortOrder, Detection, check_release, errors
from tests import builders
from tests.conftest import Ward, text_png

FOR = "Trial 7, to Lyon"


def _seal(ward: Ward, name: str, data: bytes, box: Detection, patient_id: str = "") -> str:
    ward.detector.found = [box]
    whose = patient_id or ward.patient_id
    upload = ward.engine.drafts.upload(ward.team.technician, whose, name, data)
    return ward.engine.drafts.seal(ward.team.technician, upload.image_id, [box]).image_id


def _dicom(ward: Ward, instance: int) -> str:
    pixels, region = builders.labelled()
    pixels = pixels + np.uint8(instance)  # each its own file
    box = Detection(region, "text", 0.9, "scripted")
    data = builders.dicom(pixels, instance=instance, **builders.person())
    return _seal(ward, f"{instance}.dcm", data, box)


def _taken(ward: Ward, **order: object) -> dict[str, bytes]:
    doctor = ward.team.doctor
    cohort = ward.engine.cohorts.prepare(doctor, CohortOrder(reason=FOR, **order))  # type: ignore[arg-type]
    return dict(ward.engine.cohorts.files(doctor, cohort.release_id))


def _fingerprint(ward: Ward) -> str:
    return ward.engine.cohorts.public_key(ward.team.doctor)[1]


def test_the_receiver_verifies_every_file_and_who_signed(ward: Ward) -> None:
    data, box = text_png()
    image_id = _seal(ward, "a.png", data, box)
    files = _taken(ward, image_ids=[image_id])
    checked = check_release(files, files.__getitem__, _fingerprint(ward))
    said = checked.statement
    assert (said["images"], said["patients"], said["looked_at_by_a_person"]) == (1, 1, 1)
    assert said["released_by"] == "doctor"
    none = {"images": 0, "share_with_a_miss_at_most": None, "confidence": 0.95}
    assert said["released_by_evidence"] == none
    [line] = json.loads(files["manifest.json"])
    masked = ward.engine.images.masked_file(ward.team.doctor, image_id).data
    assert files[line["path"]] == masked
    assert line["sha256"] == hashlib.sha256(masked).hexdigest()
    everything = b"".join(files.values()) + str(sorted(files)).encode()
    for telling in (b"Musterfrau", b"P-1", ward.patient_id.encode(), image_id.encode()):
        assert telling not in everything


@pytest.mark.parametrize("name", ["manifest.json", "statement.json", "statement.sig", "SHA256SUMS"])
def test_a_changed_byte_is_found(ward: Ward, name: str) -> None:
    files = _taken(ward, image_ids=[_seal(ward, "a.png", *text_png())])
    changed = bytearray(files[name])
    changed[len(changed) // 2] ^= 1
    files[name] = bytes(changed)
    with pytest.raises(errors.ReleaseBroken):
        check_release(files, files.__getitem__)


def test_a_file_added_or_taken_away_is_found(ward: Ward) -> None:
    files = _taken(ward, image_ids=[_seal(ward, "a.png", *text_png())])
    [image] = [name for name in files if name.endswith(".png")]
    with pytest.raises(errors.ReleaseBroken, match="added"):
        check_release([*files, "patient-00001/extra.png"], files.__getitem__)
    with pytest.raises(errors.ReleaseBroken, match="missing"):
        check_release([n for n in files if n != image], files.__getitem__)
    with pytest.raises(errors.ReleaseBroken, match="one name"):
        check_release([*files, image], files.__getitem__)


def test_another_key_is_not_the_hospitals(ward: Ward) -> None:
    files = _taken(ward, image_ids=[_seal(ward, "a.png", *text_png())])
    with pytest.raises(errors.ReleaseBroken, match="Another key"):
        check_release(files, files.__getitem__, "0" * 64)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_instructions_work_without_medsec(ward: Ward, tmp_path: Path) -> None:
    files = _taken(ward, image_ids=[_seal(ward, "a.png", *text_png())])
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    how = files["VERIFY.txt"].decode()
    assert _fingerprint(ward) in how
    commands = [
        line.strip() for line in how.replace("\\\n", " ").splitlines() if line[:5] == " " * 5
    ]
    said = []
    for command in commands:
        done = subprocess.run(  # noqa: S602 - the very lines that a receiver pastes
            command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        said.append(done.stdout)
    assert _fingerprint(ward) in said[0]
    assert "Signature Verified Successfully" in said[1]
    assert json.loads(files["statement.json"])["sha256sums"] in said[2]
    assert said[3].count(": OK") == len(files) - 5


def test_new_identifiers_are_of_this_cohort_alone(ward: Ward) -> None:
    chosen = [_dicom(ward, 1), _dicom(ward, 2)]
    usual = _taken(ward, image_ids=chosen)
    first, second = (_taken(ward, image_ids=chosen, new_identifiers=True) for _ in range(2))
    sets = []
    for files in (usual, first, second):
        read = [dcmread(io.BytesIO(d)) for n, d in sorted(files.items()) if n.endswith(".dcm")]
        assert len({d.StudyInstanceUID for d in read}) == 1  # still one study of one patient
        assert len({d.PatientID for d in read}) == 1
        assert len({d.SOPInstanceUID for d in read}) == 2
        assert all(d.file_meta.MediaStorageSOPInstanceUID == d.SOPInstanceUID for d in read)
        sets.append({str(e.value) for d in read for e in d.iterall() if e.tag in _OWN})
    assert not sets[0] & sets[1]
    assert not sets[1] & sets[2]
    pixels = [
        [dcmread(io.BytesIO(d)).PixelData for n, d in sorted(f.items()) if n.endswith(".dcm")]
        for f in (usual, first)
    ]
    assert pixels[0] == pixels[1]


_OWN = (0x0020000D, 0x0020000E, 0x00080018, 0x00100010, 0x00100020)


def test_packages_travel_beside_and_restore_here(ward: Ward) -> None:
    data, box = text_png()
    files = _taken(ward, image_ids=[_seal(ward, "a.png", data, box)], packages=True)
    [image] = [d for n, d in files.items() if n.endswith(".png")]
    [sealed] = [d for n, d in files.items() if n.endswith(".medsec")]
    original, _ = ward.engine.packages.restore(ward.team.doctor, image, sealed, "it came back")
    assert original.data == data
    with pytest.raises(errors.InputError, match="one of both"):
        _taken(ward, image_ids=["x"], packages=True, new_identifiers=True)


def test_it_is_taken_once_and_in_time_and_by_its_session(ward: Ward) -> None:
    image_id = _seal(ward, "a.png", *text_png())
    cohorts, order = ward.engine.cohorts, CohortOrder(image_ids=[image_id], reason=FOR)
    once = cohorts.prepare(ward.team.doctor, order)
    list(cohorts.files(ward.team.doctor, once.release_id))
    with pytest.raises(errors.NotFound):
        cohorts.files(ward.team.doctor, once.release_id)
    late = cohorts.prepare(ward.team.doctor, order)
    cohorts._ready[late.release_id] = replace(late, expires_at=late.expires_at - timedelta(days=1))
    with pytest.raises(errors.NotFound):
        cohorts.files(ward.team.doctor, late.release_id)
    other = cohorts.prepare(ward.team.doctor, order)
    cohorts._ready[other.release_id] = replace(other, session_id="se_other")
    with pytest.raises(errors.NotFound):
        cohorts.files(ward.team.doctor, other.release_id)


def test_what_was_withdrawn_meanwhile_ends_it_without_a_statement(ward: Ward) -> None:
    image_id = _seal(ward, "a.png", *text_png())
    order = CohortOrder(image_ids=[image_id], reason=FOR)
    cohort = ward.engine.cohorts.prepare(ward.team.doctor, order)
    ward.engine.withdrawals.flag(ward.team.doctor, image_id, "a name is visible")
    got = io.BytesIO()
    parts = zipped(ward.engine.cohorts.files(ward.team.doctor, cohort.release_id))
    with pytest.raises(errors.NotFound):
        got.writelines(parts)
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(got)
    entries = ward.engine.audit.entries(ward.team.administrator)
    assert [e.outcome for e in entries if e.action == "cohort.release"] == ["failed", "requested"]


def test_a_reader_who_stops_is_in_the_log(ward: Ward) -> None:
    image_id = _seal(ward, "a.png", *text_png())
    cohort = ward.engine.cohorts.prepare(
        ward.team.doctor, CohortOrder(image_ids=[image_id], reason=FOR)
    )
    files = ward.engine.cohorts.files(ward.team.doctor, cohort.release_id)
    next(files)
    files.close()  # type: ignore[attr-defined]
    entries = ward.engine.audit.entries(ward.team.administrator, query="cohort.release")
    assert [e.outcome for e in entries] == ["failed", "requested"]
    assert entries[0].detail["why"] == "reader-gone"


def test_each_image_that_left_is_in_the_log_with_the_reason(ward: Ward) -> None:
    image_id = _seal(ward, "a.png", *text_png())
    _taken(ward, image_ids=[image_id])
    [handed] = [
        e for e in ward.engine.context.audit.of_image(image_id) if e.action == "image.release"
    ]
    assert handed.reason == FOR
    report = ward.engine.audit.patient_report(ward.team.administrator, "P-1")
    assert "Handed the masked image over in a cohort" in [line.what for line in report.lines]


def test_drafts_and_unknown_images_do_not_leave(ward: Ward) -> None:
    data, box = text_png()
    ward.detector.found = [box]
    draft = ward.engine.drafts.upload(ward.team.technician, ward.patient_id, "a.png", data)
    for chosen in ([draft.image_id], ["im_nobody"]):
        with pytest.raises(errors.NotFound):
            _taken(ward, image_ids=chosen)
    with pytest.raises(errors.InputError):
        _taken(ward)


def test_the_zip_verifies_on_the_command_line(
    ward: Ward, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = _taken(ward, image_ids=[_seal(ward, "a.png", *text_png())])
    whole = tmp_path / "cohort.zip"
    whole.write_bytes(b"".join(zipped(files.items())))
    assert cli.main(["verify-release", str(whole), "--fingerprint", _fingerprint(ward)]) == 0
    assert "unchanged: 2 files" in capsys.readouterr().out
    assert cli.main(["verify-release", str(whole), "--fingerprint", "0" * 64]) != 0
    whole.write_bytes(whole.read_bytes()[:-40])
    assert cli.main(["verify-release", str(whole)]) != 0
