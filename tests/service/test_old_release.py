"""What earlier releases left on disk opens with this one, and says what it said then."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pydicom
import pyotp
import pytest
from pydicom.uid import ImplicitVRLittleEndian

from engine import (
    Detection,
    Engine,
    ImageQuery,
    ImageState,
    Region,
    Role,
    Settings,
    carried,
    errors,
    open_case,
    recover_key_file,
)
from engine.settings import Secret
from tests import fixtures
from tests.conftest import WHY
from tests.fakes import FakeHost, ScriptedDetector

RELEASES = ("release_0_1", "release_0_2")
#: Of the release under test; the same people and files, with other keys, ids and digests.
EXPECTED = fixtures.expected(RELEASES[0])
IMAGES: dict[str, dict[str, Any]] = EXPECTED["images"]
PASSWORD = EXPECTED["password"]


def named(*states: ImageState) -> list[str]:
    return [name for name, image in IMAGES.items() if image["state"] in states]


SEALED = named(ImageState.RELEASED)
ENABLED = [name for name, account in EXPECTED["accounts"].items() if account["enabled"]]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def settings_of(place: Path) -> Settings:
    return Settings(
        data=place / "data",
        key_file=place / "keys" / "root.key",
        backup_dir=place / "backups",
        checkpoint_dir=place / "checkpoints",
        **EXPECTED["settings"],
    )


def host_of(place: Path) -> FakeHost:
    """A host some minutes after the old release was stopped, with randomness of its own."""
    host = FakeHost(place / "data" / "blobs", "after the update")
    host.clock = datetime.fromisoformat(EXPECTED["clock"]) + timedelta(minutes=10)
    return host


def opened(place: Path, host: FakeHost) -> Engine:
    settings = settings_of(place)
    return Engine.open(settings, host, detector=ScriptedDetector(settings), operator=True)


@pytest.fixture(scope="module", autouse=True, params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    """Every test runs with what each release left."""
    name: str = request.param
    expected = fixtures.expected(name)
    IMAGES.clear()
    IMAGES.update(expected.pop("images"))
    EXPECTED.update(expected)
    return name


@pytest.fixture(scope="module")
def left(release: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the old release left; no test opens or changes it here."""
    place = tmp_path_factory.mktemp("old") / "release"
    fixtures.unpack(release, place)
    return place


@pytest.fixture(scope="module")
def old(left: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The old data folder, open for the tests that add nothing to it but entries of the log."""
    place = Path(shutil.copytree(left, tmp_path_factory.mktemp("read") / "release"))
    engine = opened(place, host_of(place))
    yield engine
    engine.close()


@pytest.fixture
def place(left: Path, tmp_path: Path) -> Path:
    """A copy of everything, for one test to change."""
    return Path(shutil.copytree(left, tmp_path / "release"))


@pytest.fixture
def host(place: Path) -> FakeHost:
    return host_of(place)


@pytest.fixture
def engine(place: Path, host: FakeHost) -> Iterator[Engine]:
    """The old data folder, open for one test to change."""
    engine = opened(place, host)
    yield engine
    engine.close()


def signed_in(engine: Engine, username: str) -> str:
    return engine.sessions.sign_in(username, PASSWORD).token


def restored(engine: Engine, token: str, name: str) -> tuple[str, str]:
    """Name and digest of what a sealed image restores to."""
    handle = engine.images.restore(token, IMAGES[name]["image_id"], WHY).handle
    file = engine.images.restored_file(token, handle)
    return file.name, digest(file.data)


# --- people -----------------------------------------------------------------------------------


@pytest.mark.parametrize("username", [name for name in ENABLED if name != "researcher"])
def test_every_account_signs_in_with_its_password_and_has_its_role(
    old: Engine, username: str
) -> None:
    account = old.sessions.whoami(signed_in(old, username))
    expected = EXPECTED["accounts"][username]
    assert (account.name, account.role) == (expected["name"], Role(expected["role"]))
    with pytest.raises(errors.NotSignedIn):
        old.sessions.sign_in(username, PASSWORD + "x")


def test_a_second_factor_and_each_kind_of_its_codes_still_count(
    engine: Engine, host: FakeHost
) -> None:
    factor = EXPECTED["second_factor"]
    with pytest.raises(errors.CodeNeeded):
        engine.sessions.sign_in("researcher", PASSWORD)
    code = pyotp.TOTP(factor["secret"]).at(host.now().replace(tzinfo=UTC))
    assert engine.sessions.sign_in("researcher", PASSWORD, code=code).token
    assert engine.sessions.sign_in("researcher", PASSWORD, code=factor["recovery_codes"][0]).token
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.sign_in("researcher", PASSWORD, code=factor["recovery_codes"][0])


def test_a_disabled_account_stays_disabled_and_a_request_still_waits(engine: Engine) -> None:
    with pytest.raises(errors.AccessError):
        engine.sessions.sign_in("gone", PASSWORD)
    admin = signed_in(engine, "admin")
    assert {a.username: a.enabled for a in engine.people.accounts(admin)} == {
        name: account["enabled"] for name, account in EXPECTED["accounts"].items()
    }
    [request] = engine.people.requests(admin)
    engine.people.approve(admin, request.request_id, Role.DOCTOR)
    assert signed_in(engine, "applicant")


def test_the_roster_of_accounts_and_rights_verifies(old: Engine) -> None:
    old.audit.verify_access(signed_in(old, "admin"))


def test_care_relations_and_emergency_access_are_as_they_were(old: Engine) -> None:
    admin, patients = signed_in(old, "admin"), EXPECTED["patients"]
    treated = {(r.patient_id, r.username) for r in old.care.relations(admin)}
    assert treated == {
        (patients["P-1"], "doctor"),
        (patients["P-2"], "doctor"),
        (patients["P-3"], "locum"),
    }
    [glass] = old.care.emergency_access(admin)
    assert (glass.username, glass.number, glass.open) == ("doctor", "P-30", True)
    locum = signed_in(old, "locum")
    with pytest.raises(errors.NotFound):
        old.images.restore(locum, IMAGES["grey.png"]["image_id"], WHY)
    assert old.care.restorable_classes(admin) == {"locum": frozenset({"text"})}


# --- patients ---------------------------------------------------------------------------------


def test_patients_have_their_records_history_and_notes(old: Engine) -> None:
    doctor = signed_in(old, "doctor")
    patient = old.patients.get(doctor, "P-1")
    assert (patient.patient_id, patient.name) == (EXPECTED["patients"]["P-1"], "Erika Schmidt")
    assert (patient.age, patient.note) == (62, "asthma")
    [before] = old.patients.history(doctor, "P-1")
    assert (before["name"], before["age"]) == ("Erika Musterfrau", 61)
    notes = old.patients.notes(doctor, patient_id="P-1")
    assert [(n.author, n.text, n.image_id) for n in notes] == [
        (n["author"], n["text"], n["image_id"]) for n in EXPECTED["notes"]
    ]
    assert [p.id for p in old.patients.search(doctor, "schm")] == ["P-1"]


def test_both_numbers_of_a_merged_patient_name_the_one_that_stayed(old: Engine) -> None:
    doctor = signed_in(old, "doctor")
    stayed = EXPECTED["patients"]["P-2"]
    assert old.patients.get(doctor, "P-2-DOUBLE").patient_id == stayed
    moved = old.images.get(doctor, IMAGES["moved.tif"]["image_id"])
    assert moved.patient_id == stayed
    texts = [note.text for note in old.patients.notes(doctor, patient_id="P-2")]
    assert texts == ["Says he was here before."]


def test_an_erased_patient_and_an_erased_image_stay_erased(old: Engine) -> None:
    operator = old.operator_token()
    for name in named(ImageState.ERASED):
        with pytest.raises(errors.NotFound):
            old.images.restore(operator, IMAGES[name]["image_id"], WHY)
    with pytest.raises(errors.NotFound):
        old.patients.get(operator, EXPECTED["patients"]["P-4"])
    assert "P-4" not in {p.id for p in old.patients.search(operator)}


# --- images -----------------------------------------------------------------------------------


def test_every_sealed_image_restores_byte_for_byte(old: Engine) -> None:
    doctor = signed_in(old, "doctor")
    assert len(SEALED) == 6
    for name in SEALED:
        assert restored(old, doctor, name) == (name, IMAGES[name]["sha256"])


def test_states_and_versions_of_images_are_as_they_were(old: Engine) -> None:
    operator = old.operator_token()
    kept = [state for state in ImageState if state is not ImageState.ERASED]
    found = old.search.images(operator, ImageQuery(states=kept), limit=100).images
    assert {i.image_id: (i.state, i.version) for i in found} == {
        IMAGES[name]["image_id"]: (IMAGES[name]["state"], IMAGES[name]["version"])
        for name in named(*kept)
    }
    counted = Counter(image["state"] for image in IMAGES.values())
    assert old.health.state(operator)["images"] == counted
    assert [code for _, code in old.health.verify_images(operator)] == [None] * len(found)


def test_an_open_draft_opens_with_its_boxes_and_is_sealed(engine: Engine) -> None:
    technician, image_id = signed_in(engine, "technician"), IMAGES["draft.png"]["image_id"]
    view = engine.drafts.open(technician, image_id)
    assert (view.name, [d.label for d in view.detections]) == ("draft.png", ["text", "face"])
    engine.drafts.seal(technician, image_id, view.detections)
    doctor = signed_in(engine, "doctor")
    assert restored(engine, doctor, "draft.png") == ("draft.png", IMAGES["draft.png"]["sha256"])


def test_a_draft_of_the_review_queue_keeps_its_reason_and_is_sealed(engine: Engine) -> None:
    technician, image_id = signed_in(engine, "technician"), IMAGES["review.webp"]["image_id"]
    view = engine.drafts.open(technician, image_id)
    assert view.reasons == ("nothing-found",)
    box = Detection(Region(4, 4, 36, 20), "text", 1.0)
    with pytest.raises(errors.ReviewNeeded):
        engine.drafts.seal(technician, image_id, [box])
    engine.drafts.seal(technician, image_id, [box], confirm="boxed the name")
    expected = ("review.webp", IMAGES["review.webp"]["sha256"])
    assert restored(engine, signed_in(engine, "doctor"), "review.webp") == expected


def test_a_withdrawn_image_is_reopened_and_sealed_as_its_next_version(engine: Engine) -> None:
    doctor, technician = signed_in(engine, "doctor"), signed_in(engine, "technician")
    image_id = IMAGES["withdrawn.png"]["image_id"]
    assert [i.image_id for i in engine.withdrawals.waiting(doctor)] == [image_id]
    engine.withdrawals.reopen(doctor, image_id)
    view = engine.drafts.open(technician, image_id)
    engine.drafts.seal(technician, image_id, view.detections, confirm="looked at every edge")
    assert engine.images.get(doctor, image_id).version == 2
    expected = ("withdrawn.png", IMAGES["withdrawn.png"]["sha256"])
    assert restored(engine, doctor, "withdrawn.png") == expected


def test_every_image_of_it_gets_a_study_whose_masked_files_name_it(old: Engine) -> None:
    """Also without anybody asking: the upkeep places them."""
    token = old.operator_token()
    old.upkeep.tend()
    assert old.context.studies.unplaced(old.context.database.read(), None, 9) == []
    seen = set()
    for image in IMAGES.values():
        if image["state"] != ImageState.RELEASED:
            continue
        patient_id = old.images.get(token, image["image_id"]).patient_id
        for study in old.studies.of_patient(token, patient_id):
            for record in (i for one in study.series for i in one.images):
                seen.add(record.image_id)
                if record.format == "DICOM" and record.state is ImageState.RELEASED:
                    masked = old.images.masked_file(token, record.image_id).data
                    uid = pydicom.dcmread(io.BytesIO(masked)).StudyInstanceUID
                    assert uid == study.study_uid
    assert {i["image_id"] for i in IMAGES.values() if i["state"] == ImageState.RELEASED} <= seen


def test_a_file_that_is_there_already_is_known_again(old: Engine) -> None:
    doctor, technician = signed_in(old, "doctor"), signed_in(old, "technician")
    image_id = IMAGES["deep.dcm"]["image_id"]
    handle = old.images.restore(doctor, image_id, WHY).handle
    original = old.images.restored_file(doctor, handle).data
    with pytest.raises(errors.DuplicateImage) as known:
        old.drafts.upload(technician, EXPECTED["patients"]["P-3"], "again.dcm", original)
    assert known.value.facts["image_id"] == image_id


def test_a_flipped_byte_of_a_stored_file_is_a_named_error(engine: Engine, host: FakeHost) -> None:
    doctor, image_id = signed_in(engine, "doctor"), IMAGES["colour.jpg"]["image_id"]
    address = engine.context.catalog.row(engine.context.database.read(), image_id).sealed_blob
    path = engine.settings.data / "blobs" / address[:2] / address
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(errors.SealBroken):
        engine.images.restore(doctor, image_id, WHY)
    broken = {i: code for i, code in engine.health.verify_images(engine.operator_token()) if code}
    assert broken == {image_id: "seal-broken"}


# --- what left the hospital -------------------------------------------------------------------


def test_every_package_beside_its_masked_file_restores(old: Engine, left: Path) -> None:
    doctor = signed_in(old, "doctor")
    packages = sorted((left / "sealed").glob("*.medsec"))
    assert len(packages) == 5
    for package in packages:
        masked = package.with_suffix("")
        assert digest(masked.read_bytes()) != IMAGES[masked.name]["sha256"]
        file, proof = old.packages.restore(doctor, masked.read_bytes(), package.read_bytes(), WHY)
        assert (file.name, proof) == (masked.name, "bytes")
        assert digest(file.data) == IMAGES[masked.name]["sha256"]


@pytest.mark.parametrize("name", ["deep.dcm", "cine.dcm"])
def test_a_dicom_file_that_carries_its_package_restores(old: Engine, left: Path, name: str) -> None:
    pair = carried((left / "carried" / name).read_bytes())
    assert pair is not None
    file, proof = old.packages.restore(signed_in(old, "doctor"), *pair, WHY)
    assert (file.name, digest(file.data), proof) == (name, IMAGES[name]["sha256"], "bytes")


def test_a_carried_package_of_that_release_survives_an_archive(old: Engine, left: Path) -> None:
    ds = pydicom.dcmread(left / "carried" / "deep.dcm")
    ds.PatientID, ds.PatientName, ds.AccessionNumber = "LOCAL-7", "Arch^Ive", "A-7"
    buffer = io.BytesIO()
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds.save_as(buffer, implicit_vr=True, little_endian=True)
    pair = carried(buffer.getvalue())
    assert pair is not None
    file, proof = old.packages.restore(signed_in(old, "doctor"), *pair, WHY)
    assert (digest(file.data), proof) == (IMAGES["deep.dcm"]["sha256"], "bytes")


def test_a_training_case_opens_with_its_key_and_is_still_kept(old: Engine, left: Path) -> None:
    [path] = (left / "training").iterdir()
    case = open_case(path.read_bytes(), left / "keys" / "training.key")
    assert digest(case.original) == IMAGES["sealed-anew.png"]["sha256"]
    missed = {n: EXPECTED["missed"][n] for n in ("x1", "y1", "x2", "y2", "frame")}
    assert (len(case.before), len(case.after)) == (1, 2)
    assert missed.items() <= case.after[1].items()
    [kept] = old.training.cases(old.operator_token())
    assert (kept.case_id, kept.exported_at is not None) == (case.case_id, True)


# --- the log ----------------------------------------------------------------------------------


def test_the_audit_log_verifies_and_has_every_entry_it_had(old: Engine) -> None:
    expected = EXPECTED["audit"]
    token = signed_in(old, "admin")
    # Reading the notes for the expectations, and this start, are in the log after these.
    assert old.audit.verify(token) > expected["entries"]
    entries = old.audit.entries(token, limit=10_000)[-expected["entries"] :]
    assert entries[0].digest == expected["head"]
    assert Counter(e.action for e in entries) == expected["actions"]
    [erased] = [e for e in entries if e.action == "patient.erase"]
    assert (erased.actor, erased.reason) == ("admin", "asked for it")


def test_the_log_continues_its_signed_checkpoint(old: Engine, left: Path) -> None:
    content = (left / "checkpoints" / EXPECTED["checkpoint"]).read_bytes()
    token = signed_in(old, "admin")
    covered = old.audit.check_checkpoint(token, content)
    assert 0 < covered < EXPECTED["audit"]["entries"]
    forged = json.loads(content)
    forged["body"] = forged["body"].replace(f'"size": {covered}', f'"size": {covered - 1}')
    assert forged != json.loads(content)
    with pytest.raises(errors.AuditBroken):
        old.audit.check_checkpoint(token, json.dumps(forged).encode())


# --- what an administrator changed ------------------------------------------------------------


def test_changed_settings_are_in_force_and_a_reset_one_is_not(old: Engine) -> None:
    entries = old.runtime_settings.entries(signed_in(old, "admin"))
    changed = {e.name: (e.value, e.changed_by) for e in entries if e.changed_by}
    assert changed == {name: (v, "admin") for name, v in EXPECTED["changed_settings"].items()}


def test_profiles_are_as_the_administrator_left_them(old: Engine) -> None:
    entries = old.profiles.entries(signed_in(old, "admin"))
    assert {n: e.origin for n, e in entries.items() if e.origin != "shipped"} == {
        "chest": "changed",
        "ward-three": "own",
    }
    chest, own = entries["chest"].profile, entries["ward-three"].profile
    assert {"iou": chest.iou, "title": chest.title} == EXPECTED["profiles"]["chest"]
    for name, value in EXPECTED["profiles"]["own"].items():
        kept = getattr(own, name)
        assert (list(kept) if isinstance(value, list) else kept) == value, name


def test_a_custom_network_and_its_evaluation_are_still_there(old: Engine) -> None:
    admin = signed_in(old, "admin")
    record = old.custom_networks.records(admin)[EXPECTED["network"]["name"]]
    assert (record.sha256, record.finds) == (EXPECTED["network"]["sha256"], ("text", "barcode"))
    [added] = [e for e in old.models.evaluations(admin) if e.added_by == "admin"]
    assert (added.name, added.figures) == ("chest", EXPECTED["evaluation"]["figures"])


# --- keys and backups -------------------------------------------------------------------------


def test_keys_rotate_and_everything_opens_afterwards(
    engine: Engine, place: Path, host: FakeHost
) -> None:
    assert list(engine.context.hierarchy.root_key_ids) == EXPECTED["root_keys"]
    admin = signed_in(engine, "admin")
    left = list(engine.keys.rotate(admin))
    assert left
    assert left[-1] == 0
    assert len(engine.context.hierarchy.root_key_ids) == len(EXPECTED["root_keys"]) + 1
    engine.close()
    again = opened(place, host)
    doctor = signed_in(again, "doctor")
    for name in SEALED:
        assert restored(again, doctor, name) == (name, IMAGES[name]["sha256"])
    again.close()


def test_two_shares_on_paper_give_the_root_key_back(
    old: Engine, left: Path, tmp_path: Path
) -> None:
    shares = EXPECTED["shares"][1:]
    newest = EXPECTED["root_keys"][-1]
    assert old.keys.drill_shares(signed_in(old, "admin"), shares) == newest
    recovered = tmp_path / "recovered.key"
    assert recover_key_file(shares, recovered) == newest
    key = recovered.read_text().split()[-1]
    assert key in (left / "keys" / "root.key").read_text().split()


def test_the_backup_verifies_and_brings_the_same_images_back(place: Path) -> None:
    name = EXPECTED["sealed_catalog"]["name"]
    settings = settings_of(place)
    shutil.rmtree(settings.data)
    engine = Engine.from_backup(settings, detector=ScriptedDetector(settings))
    token = engine.operator_token()
    assert engine.backups.names(token) == [name]
    assert engine.backups.verify(token, name) > len(SEALED)
    assert engine.backups.missing(token, name) == []
    for image in SEALED:
        assert restored(engine, token, image) == (image, IMAGES[image]["sha256"])
    for image in named(ImageState.ERASED):
        with pytest.raises(errors.NotFound):
            engine.images.restore(token, IMAGES[image]["image_id"], WHY)
    engine.audit.verify_access(token)
    # The log of the backup ends before the backup's own entry.
    assert engine.audit.verify(token) >= EXPECTED["audit"]["entries"] - 2
    engine.close()


def test_a_flipped_byte_of_the_backup_is_a_named_error(engine: Engine, place: Path) -> None:
    name = EXPECTED["sealed_catalog"]["name"]
    path = place / "backups" / name / fixtures.SEALED
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(errors.BackupInvalid):
        engine.backups.verify(signed_in(engine, "admin"), name)


def test_a_folder_under_a_passphrase_opens_with_it_alone(place: Path) -> None:
    facts, data = EXPECTED["passphrase"], place / "passphrase" / "data"
    host = FakeHost(data / "blobs", "after the update")

    def under(passphrase: str) -> Engine:
        settings = Settings(data=data, key_passphrase=Secret(passphrase), bcrypt_cost=4)
        return Engine.open(settings, host, detector=ScriptedDetector(settings), operator=True)

    with pytest.raises(errors.SettingsError):
        under(facts["text"] + "x")
    engine = under(facts["text"])
    assert engine.patients.get(engine.operator_token(), facts["patient"]).name == facts["name"]
    engine.close()
