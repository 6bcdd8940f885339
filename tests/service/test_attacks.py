"""Ways around the rules that somebody tried, each refused for good."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from engine import Detection, Engine, ImageState, Region, Settings, errors
from engine.errors import DetectorError
from engine.metrics import coarse_column
from tests import builders
from tests.conftest import PASSWORD, WHY, Ward, text_png
from tests.fakes import FakeHost, ScriptedDetector


def test_a_technicians_flag_opens_nothing_to_technicians(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    engine, team = ward.engine, ward.team
    engine.withdrawals.flag(team.technician, image_id, "curious")
    for call in (
        lambda: engine.drafts.open(team.technician, image_id),
        lambda: engine.drafts.discard(team.technician, image_id, "gone"),
        lambda: engine.withdrawals.reopen(team.technician, image_id),
    ):
        with pytest.raises((errors.AccessError, errors.NotFound)):
            call()
    assert engine.drafts.waiting(team.technician) == []
    [waiting] = engine.withdrawals.waiting(team.doctor)
    engine.withdrawals.reopen(team.doctor, waiting.image_id)
    assert engine.drafts.waiting(team.technician)[0].reasons == ("flagged",)
    with pytest.raises(errors.NotFound):  # it was sealed once: not a technician's to destroy
        engine.drafts.discard(team.technician, image_id, "gone")


def test_what_the_second_look_sees_beside_a_sealed_box_is_not_excused(ward: Ward) -> None:
    data, _ = text_png()
    part = Detection(Region(12, 12, 60, 30), "text", 0.9, "scripted")
    line = Detection(Region(12, 12, 300, 30), "text", 0.9, "scripted")
    ward.detector.left = [[line]]
    image_id = ward.upload(data, found=[part])
    with pytest.raises(errors.ReviewNeeded):
        ward.engine.drafts.seal(ward.team.technician, image_id, [part])


@pytest.mark.parametrize("smaller", [
    Region(12, 12, 13, 13),
    Region(12, 12, 100, 24),
    Region(200, 100, 260, 120),
])  # fmt: skip
def test_a_found_box_made_smaller_needs_a_reason(ward: Ward, smaller: Region) -> None:
    data, found = text_png()
    image_id = ward.upload(data, found=[found])
    with pytest.raises(errors.InputError):
        ward.engine.drafts.seal(ward.team.technician, image_id, [Detection(smaller, "text", 1.0)])


def test_a_found_box_on_fewer_frames_needs_a_reason(ward: Ward) -> None:
    stack, static, _ = builders.cine()
    found = Detection(static, "text", 0.9, "scripted")
    image_id = ward.upload(builders.dicom(stack), found=[found])
    one = replace(found, region=Region(*static.xyxy, 0, 1))
    with pytest.raises(errors.InputError):
        ward.engine.drafts.seal(ward.team.technician, image_id, [one])


@pytest.mark.parametrize("box", [
    Detection(Region(5000, 5000, 5100, 5100), "text", 1.0),
    Detection(Region(5, 5, 50, 50, 7, 8), "text", 1.0),
    Detection(Region(5, 5, 50, 50), "Erika Musterfrau *1961", 1.0, "ppocr"),
])  # fmt: skip
def test_boxes_that_make_no_sense_are_refused(ward: Ward, box: Detection) -> None:
    image_id = ward.upload(text_png()[0], found=[])
    with pytest.raises(errors.InputError):
        ward.engine.drafts.seal(ward.team.technician, image_id, [box], confirm="looked")


def test_a_box_of_ones_own_does_not_pass_for_a_detectors(ward: Ward) -> None:
    image_id = ward.upload(text_png()[0], found=[])
    own = Detection(Region(16, 16, 64, 32), "text", 0.31, "ppocr")
    ward.engine.drafts.seal(ward.team.technician, image_id, [own], confirm="looked")
    [sealed] = ward.engine.images.regions(ward.team.doctor, image_id)
    assert (sealed.detection.source, sealed.detection.confidence) == ("person", 1.0)
    assert sealed.detection.region == own.region


def test_a_review_that_arrives_while_somebody_seals_is_not_passed(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two technicians: one's second look finds something while the other's seal is under way."""
    data, found = text_png()
    left = Detection(Region(100, 100, 150, 120), "text", 0.7, "scripted")
    image_id = ward.upload(data, found=[found])
    engine, token = ward.engine, ward.team.technician
    real = engine.drafts._preparer._assess
    ward.detector.left = [[], [left]]

    def meanwhile(*given: object) -> object:
        monkeypatch.setattr(engine.drafts._preparer, "_assess", real)
        with pytest.raises(errors.ReviewNeeded):
            engine.drafts.seal(token, image_id, [found])
        return real(*given)

    monkeypatch.setattr(engine.drafts._preparer, "_assess", meanwhile)
    with pytest.raises(errors.ReviewNeeded):
        engine.drafts.seal(token, image_id, [found])
    assert [*engine.search.images(ward.team.doctor).images] == []
    assert engine.drafts.waiting(token)[0].reasons == ("still-visible",)


def test_an_image_released_before_a_late_finding_is_withdrawn(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, found = text_png()
    left = Detection(Region(100, 100, 150, 120), "text", 0.7, "scripted")
    image_id = ward.upload(data, found=[found])
    engine, token = ward.engine, ward.team.technician
    real = engine.drafts._preparer._still_visible

    def meanwhile(*given: object) -> list[Detection]:
        monkeypatch.setattr(engine.drafts._preparer, "_still_visible", lambda *a: [])
        engine.drafts.seal(token, image_id, [found])
        monkeypatch.setattr(engine.drafts._preparer, "_still_visible", real)
        return [left]

    monkeypatch.setattr(engine.drafts._preparer, "_still_visible", meanwhile)
    with pytest.raises(errors.ReviewNeeded):
        engine.drafts.seal(token, image_id, [found])
    assert [*engine.search.images(ward.team.doctor).images] == []
    assert [r.image_id for r in engine.withdrawals.waiting(ward.team.doctor)] == [image_id]


@pytest.mark.parametrize("over", ["seal", "flag", "erase"])
def test_a_picture_that_was_being_opened_does_not_outlive_its_image(
    ward: Ward, monkeypatch: pytest.MonkeyPatch, over: str
) -> None:
    data, found = text_png()
    engine, team = ward.engine, ward.team
    image_id = (
        ward.upload(data, found=[found]) if over == "seal" else ward.seal(data, found=[found])
    )
    real = engine.context.open_images.add

    def late(*given: Any) -> object:
        monkeypatch.setattr(engine.context.open_images, "add", real)
        if over == "seal":
            engine.drafts.seal(team.technician, image_id, [found])
        elif over == "flag":
            engine.withdrawals.flag(team.doctor, image_id, "a name")
        else:
            engine.patients.erase(team.administrator, "P-1", "asked for it")
        return real(*given)

    monkeypatch.setattr(engine.context.open_images, "add", late)
    if over == "seal":
        view = engine.drafts.open(team.technician, image_id)
        look: Callable = lambda: engine.drafts.frame(team.technician, view.handle)  # noqa: E731
    else:
        opened = engine.images.restore(team.doctor, image_id, WHY)
        look = lambda: engine.images.restored_file(team.doctor, opened.handle)  # noqa: E731
    with pytest.raises(errors.NotFound):
        look()


def test_a_detector_that_fails_at_the_second_look_can_be_answered(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.upload(data, found=[found])

    def fail(*_: object) -> list[Detection]:
        raise DetectorError("gone")

    ward.detector.rescan = fail  # type: ignore[method-assign]
    token = ward.team.technician
    with pytest.raises(errors.ReviewNeeded) as caught:
        ward.engine.drafts.seal(token, image_id, [found])
    assert caught.value.facts["reasons"] == ["detector-failed"]
    done = ward.engine.drafts.seal(token, image_id, [found], confirm="looked at everything")
    assert done.state is ImageState.RELEASED


def test_a_lost_catalog_deletes_no_image(
    ward: Ward, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, found = text_png()
    ward.seal(data, found=[found])
    ward.engine.close()
    catalog = settings.data / "catalog.duckdb"
    catalog.rename(settings.data / "moved")
    there = sorted(p.name for p in (settings.data / "blobs").rglob("*"))
    monkeypatch.setattr(FakeHost, "blob_age_seconds", lambda self, address: 1e9)
    with pytest.raises(errors.StorageError):
        Engine.open(settings, detector=ScriptedDetector(settings))
    assert sorted(p.name for p in (settings.data / "blobs").rglob("*")) == there


def test_an_erased_patient_is_neither_in_the_next_backup_nor_in_the_file_after_a_restart(
    ward: Ward, settings: Settings, host: FakeHost
) -> None:
    tx = ward.engine.context.database.read()
    row = tx.one("SELECT record, wrapped_key FROM patients")
    assert row is not None
    ward.engine.patients.erase(ward.team.administrator, "P-1", "asked for it")
    with ward.engine.context.database.still() as (_, content):
        assert row["record"] not in content
        assert row["wrapped_key"] not in content
    ward.engine.close()
    again = Engine.open(settings, host, detector=ScriptedDetector(settings))
    again.audit.verify(ward.team.administrator)
    with pytest.raises(errors.StorageError), again.context.database.write() as write:
        write.run("DELETE FROM audit")  # the triggers came along
    again.close()
    stored = (settings.data / "catalog.duckdb").read_bytes()
    assert row["record"] not in stored
    assert row["wrapped_key"] not in stored


def test_a_column_set_to_null_is_found_in_the_log(ward: Ward) -> None:
    with ward.engine.context.database.write() as tx:
        tx.run("DROP TRIGGER audit_no_update ON audit")
        tx.run("DROP INDEX audit_of_image")
    with ward.engine.context.database.write() as tx:
        tx.run("ALTER TABLE audit ALTER COLUMN actor DROP NOT NULL")
        tx.run("UPDATE audit SET actor = NULL, action = 'nothing' WHERE sequence = 2")
    with pytest.raises(errors.AuditBroken):
        ward.engine.audit.verify(ward.team.administrator)


def test_an_older_version_of_one_image_cannot_be_put_back(ward: Ward, settings: Settings) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    engine, team = ward.engine, ward.team
    tx = engine.context.database.read()
    old = tx.one("SELECT * FROM images WHERE image_id = $1", image_id)
    regions = tx.all("SELECT * FROM regions WHERE image_id = $1", image_id)
    assert old is not None
    files = {p: p.read_bytes() for p in (settings.data / "blobs").rglob("*") if p.is_file()}
    engine.withdrawals.flag(team.doctor, image_id, "a date")
    view = engine.drafts.open(team.technician, image_id)
    more = Detection(Region(200, 200, 260, 220), "text", 1.0)
    engine.drafts.seal(team.technician, image_id, [*view.detections, more], confirm="boxed")
    for path, content in files.items():
        path.write_bytes(content)
    with engine.context.database.write() as write:
        write.run("DELETE FROM regions WHERE image_id = $1", image_id)
        for region in regions:
            places = ", ".join(f"${i + 1}" for i in range(len(region)))
            write.run(f"INSERT INTO regions VALUES ({places})", *region.values())  # noqa: S608
        for name, value in old.items():
            if name != "image_id":
                write.run(f"UPDATE images SET {name} = $2 WHERE image_id = $1", image_id, value)  # noqa: S608
    with pytest.raises(errors.SealBroken):
        engine.images.restore(team.doctor, image_id, WHY)
    with pytest.raises(errors.SealBroken):
        engine.images.masked_file(team.doctor, image_id)
    engine._guard._operator_token = "operator_test"
    assert dict(engine.health.verify_images("operator_test"))[image_id] == "seal-broken"


def test_many_guesses_at_once_all_count(ward: Ward) -> None:
    results: list[str] = []

    def guess(password: str) -> None:
        try:
            ward.engine.sessions.sign_in("doctor", password)
            results.append("in")
        except errors.AccessError as err:
            results.append(err.code)

    guesses = [f"wrong guess number {i}" for i in range(15)]
    threads = [threading.Thread(target=guess, args=(g,)) for g in guesses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["account-locked"] * 10 + ["not-signed-in"] * 5


def test_a_refresh_token_that_comes_again_is_in_the_log_and_closes_what_was_open(
    ward: Ward,
) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    engine = ward.engine
    stolen = engine.sessions.sign_in_api("doctor", PASSWORD)
    owners = engine.sessions.refresh(stolen.refresh)
    engine.images.restore(owners.access, image_id, WHY)
    session_id = engine.caller(owners.access).session_id
    assert engine.context.open_images.find(session_id, image_id, object)
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.refresh(stolen.refresh)
    assert not engine.context.open_images.find(session_id, image_id, object)
    [entry] = engine.audit.entries(ward.team.administrator, query="session.refresh")
    assert (entry.actor, entry.outcome, entry.detail["why"]) == ("doctor", "refused", "used-before")
    with pytest.raises(errors.NotSignedIn):  # again: it tells nobody anything, and adds no row
        engine.sessions.refresh(stolen.refresh)
    assert len(engine.audit.entries(ward.team.administrator, query="session.refresh")) == 1


def test_whoever_looks_at_sealed_images_or_at_the_log_is_in_the_log(ward: Ward) -> None:
    """A technician who leafs through another department's pictures leaves a trace."""
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    engine, team = ward.engine, ward.team
    for _ in range(2):  # a page that draws itself again is one read
        [*engine.search.images(team.technician).images]
        engine.search.images(team.technician)
        engine.drafts.waiting(team.technician)
        engine.images.masked_frame(team.technician, image_id)
        engine.images.grid_picture(team.technician, image_id)
        engine.images.history(team.technician, image_id)
        engine.audit.entries(team.administrator)
    entries = engine.audit.entries(team.administrator)
    seen = Counter((e.actor, e.action) for e in entries)
    assert seen["technician", "image.list"] == 2  # what is released, and what waits
    assert seen["technician", "image.view"] == 1
    assert seen["technician", "image.history"] == 1
    assert seen["admin", "audit.read"] == 1
    view = next(e for e in entries if e.action == "image.view")
    assert (view.patient_id, view.detail["image"]) == (ward.patient_id, image_id)
    # What happened to the image stays a short list.
    assert "image.view" not in {e.action for e in engine.images.history(team.doctor, image_id)}


def test_nobody_replaces_a_note_that_they_cannot_read(ward: Ward) -> None:
    engine, team = ward.engine, ward.team
    engine.patients.update(team.technician, ward.patient_id, note="Allergic to contrast agent.")
    engine.patients.update(team.technician, ward.patient_id, note="Came by ambulance.")
    engine.patients.update(team.technician, ward.patient_id, note="  ", age=62)
    seen = engine.patients.get(team.doctor, ward.patient_id)
    assert (seen.note, seen.age) == ("Allergic to contrast agent.\nCame by ambulance.", 62)
    assert engine.patients.get(team.technician, ward.patient_id).note is None


def test_a_draft_that_is_sealed_while_it_is_thrown_away_stays(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, found = text_png()
    image_id = ward.upload(data, found=[found])
    engine, token = ward.engine, ward.team.technician
    real = engine._erasures.image

    def meanwhile(*given: object, **more: object) -> None:
        engine.drafts.seal(token, image_id, [found])
        real(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(engine._erasures, "image", meanwhile)
    with pytest.raises(errors.NotFound):
        engine.drafts.discard(token, image_id, "gone")
    assert engine.images.get(ward.team.doctor, image_id).state is ImageState.RELEASED


def test_a_stolen_session_cannot_make_itself_the_account(ward: Ward) -> None:
    with pytest.raises(errors.PermissionDenied):
        ward.engine.people.reset_password(
            ward.team.administrator, "Admin ", "another four words here"
        )
    [entry] = ward.engine.audit.entries(ward.team.administrator, query="reset-password")
    assert entry.outcome == "refused"


def test_a_patient_erased_during_an_upload_leaves_no_draft(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, found = text_png()
    real = ward.detector.detect

    def meanwhile(*given: object) -> list[Detection]:
        monkeypatch.setattr(ward.detector, "detect", real)
        ward.engine.patients.erase(ward.team.administrator, "P-1", "asked for it")
        return [found]

    monkeypatch.setattr(ward.detector, "detect", meanwhile)
    with pytest.raises(errors.NotFound):
        ward.upload(data)
    assert ward.engine.drafts.waiting(ward.team.technician) == []


def test_statistics_of_few_patients_are_kept_back_and_rows_are_taken_apart(ward: Ward) -> None:
    engine, team = ward.engine, ward.team
    _, found = text_png()
    for i in range(6):
        patient = engine.patients.create(team.technician, f"Q-{i}", f"Person Number{i}").patient_id
        ward.patient_id = patient
        ward.seal(builders.png(builders.labelled(f"PERSON {i}", seed=i)[0]), found=[found])
        if i == 3:
            assert engine.statistics.tables(team.researcher).totals["images"] == 0
    seen = engine.statistics.tables(team.researcher)
    full = engine.statistics.tables(team.doctor)
    assert seen.totals["images"] == 5  # the sixth waits for four more
    for column in ("stored_bytes", "masked_share"):
        coarse = Counter(coarse_column(column, value) for value in full.images[column])
        assert not Counter(seen.images[column]) - coarse
    assert (seen.images["uploaded_at"] == datetime(2026, 1, 1)).all()  # noqa: DTZ001
    assert (seen.regions["entropy_before_bits"] % 0.5 == 0).all()


def test_a_package_with_a_nonsense_header_is_a_named_error(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    masked = ward.engine.images.masked_file(ward.team.doctor, image_id).data
    package = ward.engine.packages.export(ward.team.doctor, image_id).data
    length = int.from_bytes(package[5:9], "big")
    header = json.loads(package[9 : 9 + length])
    for key, value in (
        ("x1", 1.5),
        ("start", 2**70),
        ("frame", -1),
        ("x2", "9"),
        ("size_bytes", None),
    ):
        changed = json.loads(json.dumps(header))
        changed["regions"][0][key] = value
        text = json.dumps(changed).encode()
        forged = package[:5] + len(text).to_bytes(4, "big") + text + package[9 + length :]
        with pytest.raises(errors.SealBroken):
            ward.engine.packages.restore(ward.team.doctor, masked, forged, WHY)
    with pytest.raises(errors.SealBroken):  # another file is not even read
        ward.engine.packages.restore(
            ward.team.doctor, builders.png(builders.radiograph()), package, WHY
        )


def test_a_damaged_or_foreign_backup_does_not_stop_recovery_or_the_next_backup(
    ward: Ward, settings: Settings, tmp_path: Path, host: FakeHost
) -> None:
    with_folder = replace(settings, backup_dir=tmp_path / "backups")
    ward.engine.context.live.use(with_folder)
    admin = ward.team.administrator
    bad = ward.engine.backups.make(admin)
    host.advance(minutes=1)
    (tmp_path / "backups" / bad / "manifest.json").write_text("{}")
    good = ward.engine.backups.make(admin)
    host.advance(hours=-5)  # a clock set back
    later = ward.engine.sessions.sign_in("admin", PASSWORD).token
    newest = ward.engine.backups.make(later)
    assert newest in ward.engine.backups.names(later)
    ward.engine.close()
    elsewhere = replace(with_folder, data=tmp_path / "recovered")
    engine = Engine.from_backup(elsewhere, good, detector=ScriptedDetector(settings))
    with pytest.raises(errors.NotSignedIn):  # sessions of the old machine are over
        engine.sessions.whoami(admin)
    engine.close()


def test_an_interrupted_recovery_still_erases(
    ward: Ward, settings: Settings, tmp_path: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_folder = replace(settings, backup_dir=tmp_path / "backups")
    ward.engine.context.live.use(with_folder)
    admin = ward.team.administrator
    old = ward.engine.backups.make(admin)
    ward.engine.patients.erase(admin, "P-1", "asked for it")
    host.advance(minutes=1)
    ward.engine.backups.make(admin)
    ward.engine.close()
    elsewhere = replace(with_folder, data=tmp_path / "recovered")
    monkeypatch.setattr(Engine, "open", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Engine.from_backup(elsewhere, old)
    monkeypatch.undo()
    engine = Engine.open(elsewhere, detector=ScriptedDetector(settings), operator=True)
    assert engine.patients.search(engine.operator_token()) == []
    engine.close()
