"""Who treats whom, glass that is broken, and classes granted apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine import Detection, Engine, Region, Role, Settings, errors
from engine.crypto.key_exchange import Client
from engine.people.care import GLASS_TIME
from tests import builders
from tests.conftest import PASSWORD, WHY, Team, Ward, text_png
from tests.fakes import FakeHost, ScriptedDetector

URGENT = "unconscious in the emergency room, allergies unknown"


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    return replace(settings, care_relation="clinic" in request.fixturenames)


@pytest.fixture
def clinic(ward: Ward) -> Ward:
    """A ward that asks for care relations; nobody treats its patient yet."""
    return ward


def _second_doctor(ward: Ward, username: str = "second") -> str:
    ward.engine.people.create(ward.team.administrator, username, "Dr Two", Role.DOCTOR, PASSWORD)
    return ward.engine.sessions.sign_in(username, PASSWORD).token


# --- care relations ---------------------------------------------------------------------------


def test_a_technician_assigns_at_admission_and_the_doctor_then_sees(clinic: Ward) -> None:
    engine, team = clinic.engine, clinic.team
    assert engine.patients.search(team.doctor) == []
    assert [a.username for a in engine.care.doctors(team.technician)] == ["doctor"]
    engine.care.assign(team.technician, "P-1", "Doctor")
    assert [p.id for p in engine.patients.search(team.doctor)] == ["P-1"]
    [relation] = engine.care.team(team.doctor, clinic.patient_id)
    assert (relation.username, relation.assigned_by, relation.number) == (
        "doctor", "technician", "P-1",
    )  # fmt: skip
    engine.care.end(team.doctor, "P-1", "doctor")
    assert engine.patients.search(team.doctor) == []
    actions = [e.action for e in engine.audit.entries(team.administrator, query="care.")]
    assert actions == ["care.end", "care.read", "care.assign"]


def test_only_who_treats_a_patient_brings_in_a_colleague(clinic: Ward) -> None:
    engine, team = clinic.engine, clinic.team
    second = _second_doctor(clinic)
    with pytest.raises(errors.NotFound):
        engine.care.assign(team.doctor, clinic.patient_id, "doctor")
    engine.care.break_glass(team.doctor, "P-1", URGENT)
    for username in ("doctor", "second"):  # an emergency is no care relation
        with pytest.raises(errors.PermissionDenied):
            engine.care.assign(team.doctor, clinic.patient_id, username)
    engine.care.assign(team.administrator, "P-1", "doctor")
    engine.care.assign(team.doctor, clinic.patient_id, "second")
    assert [p.id for p in engine.patients.search(second)] == ["P-1"]
    with pytest.raises(errors.PermissionDenied):  # and does not send one away
        engine.care.end(team.doctor, clinic.patient_id, "second")


@pytest.mark.parametrize("username", ["technician", "admin", "nobody", ""])
def test_only_doctors_can_be_assigned(clinic: Ward, username: str) -> None:
    with pytest.raises(errors.InputError):
        clinic.engine.care.assign(clinic.team.technician, "P-1", username)


def test_an_account_that_is_no_doctors_any_more_comes_back_without_patients(clinic: Ward) -> None:
    engine, admin = clinic.engine, clinic.team.administrator
    engine.care.assign(admin, "P-1", "doctor")
    engine.people.set_role(admin, "doctor", Role.RESEARCHER)
    engine.people.set_role(admin, "doctor", Role.DOCTOR)
    assert engine.patients.search(engine.sessions.sign_in("doctor", PASSWORD).token) == []


def test_the_administrator_sees_a_number_and_no_more_of_a_patient(clinic: Ward) -> None:
    engine, admin = clinic.engine, clinic.team.administrator
    engine.care.assign(admin, "P-1", "doctor")
    [relation] = engine.care.relations(admin)
    assert relation.number == "P-1"
    assert "Erika" not in str(vars(relation))
    assert "P-1" not in repr(relation)
    for call in (
        lambda: engine.patients.get(admin, "P-1"),
        lambda: engine.patients.search(admin, "P-1"),
        lambda: engine.patients.notes(admin, patient_id=clinic.patient_id),
    ):
        with pytest.raises(errors.PermissionDenied):
            call()


def test_a_relation_that_ends_closes_what_is_open(clinic: Ward) -> None:
    engine, team = clinic.engine, clinic.team
    data, found = text_png()
    image_id = clinic.seal(data, found=[found])
    engine.care.assign(team.technician, "P-1", "doctor")
    opened = engine.images.restore(team.doctor, image_id, WHY)
    engine.care.end(team.administrator, "P-1", "doctor")
    with pytest.raises(errors.NotFound):
        engine.images.restored_frame(team.doctor, opened.handle)


# --- broken glass -----------------------------------------------------------------------------


def test_glass_opens_a_patient_for_an_hour_and_no_longer(clinic: Ward, host: FakeHost) -> None:
    engine, team = clinic.engine, clinic.team
    data, found = text_png()
    image_id = clinic.seal(data, found=[found])
    broken = engine.care.break_glass(team.doctor, "p-1", URGENT)
    assert broken.open
    assert [g.glass_id for g in engine.care.my_emergency_access(team.doctor)] == [broken.glass_id]
    for minutes in (14, 14, 14, 14):  # a session idles after fifteen
        host.advance(minutes=minutes)
        engine.patients.get(team.doctor, "P-1")
    opened = engine.images.restore(team.doctor, image_id, WHY)
    host.advance(minutes=GLASS_TIME.total_seconds() / 60 - 56)
    with pytest.raises(errors.NotFound):
        engine.images.restored_frame(team.doctor, opened.handle)
    with pytest.raises(errors.NotFound):
        engine.patients.get(team.doctor, "P-1")
    assert engine.care.my_emergency_access(team.doctor) == []
    host.advance(minutes=-30)  # a clock set back opens nothing that has ended by hand
    engine.care.end_emergency_access(team.doctor, broken.glass_id)
    with pytest.raises(errors.NotFound):
        engine.patients.get(team.doctor, "P-1")


@pytest.mark.parametrize("reason", ["", "need it", " " * 50, "x" * 1001])
def test_glass_wants_a_reason(clinic: Ward, reason: str) -> None:
    for number in ("P-1", "P-99"):  # a refusal without a row says nothing of who is there
        with pytest.raises(errors.InputError):
            clinic.engine.care.break_glass(clinic.team.doctor, number, reason)
    assert clinic.engine.care.emergency_access(clinic.team.administrator) == []


def test_glass_over_nobody_is_refused_and_logged_without_what_was_typed(clinic: Ward) -> None:
    with pytest.raises(errors.NotFound):
        clinic.engine.care.break_glass(clinic.team.doctor, "Musterfrau", URGENT)
    [entry] = clinic.engine.audit.entries(clinic.team.administrator, query="glass.break")
    assert (entry.outcome, entry.detail, entry.reason) == ("failed", {}, "")


def test_there_is_no_glass_over_ones_own_patient(clinic: Ward) -> None:
    clinic.engine.care.assign(clinic.team.technician, "P-1", "doctor")
    with pytest.raises(errors.InputError):
        clinic.engine.care.break_glass(clinic.team.doctor, "P-1", URGENT)


def test_there_is_no_glass_without_care_relations(ward: Ward) -> None:
    with pytest.raises(errors.InputError):
        ward.engine.care.break_glass(ward.team.doctor, "P-1", URGENT)


def test_everything_under_glass_is_marked_in_the_log(clinic: Ward) -> None:
    engine, team = clinic.engine, clinic.team
    data, found = text_png()
    image_id = clinic.seal(data, found=[found])
    engine.patients.create(team.technician, "P-2", "Jan Nowak")
    engine.care.assign(team.technician, "P-2", "doctor")
    broken = engine.care.break_glass(team.doctor, "P-1", URGENT)
    engine.patients.get(team.doctor, "P-1")
    engine.images.masked_frame(team.doctor, image_id)
    engine.images.grid_picture(team.doctor, image_id)
    engine.images.history(team.doctor, image_id)
    engine.images.restore(team.doctor, image_id, WHY)
    engine.patients.add_note(team.doctor, clinic.patient_id, "seen in the emergency room", image_id)
    engine.patients.get(team.doctor, "P-2")  # their own: not marked
    under = engine.care.emergency_access_entries(team.administrator, broken.glass_id)
    assert [e.action for e in under] == [
        "glass.break", "patient.read", "image.view", "image.history",
        "image.restore", "region.decrypt", "image.restore", "note.write",
    ]  # fmt: skip
    assert {e.patient_id for e in under} == {clinic.patient_id}
    assert under[0].reason == URGENT
    engine.care.end_emergency_access(team.doctor, broken.glass_id)
    later = engine.audit.entries(team.administrator, limit=1)[0]
    assert later.action == "glass.end"
    assert engine.audit.verify(team.administrator) > 0


def test_what_was_seen_before_the_glass_broke_is_marked_when_it_is_seen_under_it(
    clinic: Ward,
) -> None:
    engine, team = clinic.engine, clinic.team
    data, found = text_png()
    image_id = clinic.seal(data, found=[found])
    engine.care.assign(team.technician, "P-1", "doctor")
    engine.images.masked_frame(team.doctor, image_id)
    engine.care.end(team.doctor, "P-1", "doctor")
    broken = engine.care.break_glass(team.doctor, "P-1", URGENT)
    engine.images.masked_frame(team.doctor, image_id)
    under = engine.care.emergency_access_entries(team.administrator, broken.glass_id)
    assert [e.action for e in under] == ["glass.break", "image.view"]


def test_a_review_is_due_is_made_once_and_by_somebody_else(clinic: Ward, host: FakeHost) -> None:
    engine, admin = clinic.engine, clinic.team.administrator
    broken = engine.care.break_glass(clinic.team.doctor, "P-1", URGENT)
    assert engine.care.emergency_access_due(admin) == (1, 0)
    with pytest.raises(errors.InputError):  # it is still open
        engine.care.review_emergency_access(
            admin, broken.glass_id, "justified", "spoke to the ward"
        )
    engine.care.revoke_emergency_access(admin, broken.glass_id)
    assert engine.care.emergency_access_due(admin) == (0, 1)
    for verdict, remark in (("fine", "spoke"), ("justified", "  ")):
        with pytest.raises(errors.InputError):
            engine.care.review_emergency_access(admin, broken.glass_id, verdict, remark)
    engine.care.review_emergency_access(
        admin, broken.glass_id, "unjustified", "the patient was on another ward"
    )
    [shown] = engine.care.emergency_access(admin)
    assert (shown.reviewed_by, shown.verdict, shown.remark, shown.ended_by, shown.due) == (
        "admin", "unjustified", "the patient was on another ward", "admin", False,
    )  # fmt: skip
    assert (shown.number, shown.reason) == ("P-1", URGENT)
    with pytest.raises(errors.InputError):
        engine.care.review_emergency_access(admin, broken.glass_id, "justified", "changed my mind")
    assert engine.care.emergency_access_due(admin) == (0, 0)


def test_nobody_reviews_their_own_access(clinic: Ward) -> None:
    engine, admin = clinic.engine, clinic.team.administrator
    broken = engine.care.break_glass(clinic.team.doctor, "P-1", URGENT)
    engine.care.end_emergency_access(clinic.team.doctor, broken.glass_id)
    engine.people.set_role(admin, "doctor", Role.ADMINISTRATOR)
    with pytest.raises(errors.PermissionDenied):
        engine.care.review_emergency_access(
            engine.sessions.sign_in("doctor", PASSWORD).token,
            broken.glass_id,
            "justified",
            "it was me",
        )
    assert engine.care.emergency_access_due(admin) == (0, 1)


def test_another_doctor_neither_uses_nor_ends_broken_glass(clinic: Ward) -> None:
    engine = clinic.engine
    second = _second_doctor(clinic)
    broken = engine.care.break_glass(clinic.team.doctor, "P-1", URGENT)
    with pytest.raises(errors.NotFound):
        engine.patients.get(second, "P-1")
    with pytest.raises(errors.NotFound):
        engine.care.end_emergency_access(second, broken.glass_id)
    assert len(engine.care.my_emergency_access(clinic.team.doctor)) == 1


def test_reasons_are_not_on_disk_in_clear(clinic: Ward, settings: Settings) -> None:
    broken = clinic.engine.care.break_glass(clinic.team.doctor, "P-1", URGENT)
    clinic.engine.care.revoke_emergency_access(clinic.team.administrator, broken.glass_id)
    clinic.engine.care.review_emergency_access(
        clinic.team.administrator, broken.glass_id, "justified", "Musterfrau was unconscious"
    )
    clinic.engine.close()
    stored = (settings.data / "catalog.duckdb").read_bytes()
    assert b"unconscious" not in stored


# --- classes granted apart --------------------------------------------------------------------


def _window(kind: str) -> tuple[float, float] | None:
    """Of a DICOM, stored values as they are: its own grey follows from all of them."""
    return (128.0, 256.0) if kind == "dicom" else None


def _two_classes(ward: Ward, kind: str = "png") -> tuple[str, bytes, np.ndarray, Region, Region]:
    """An image with a name and a thorax, side by side."""
    pixels = builders.radiograph(colour=kind == "jpeg")
    name, thorax = Region(16, 16, 144, 48), Region(160, 64, 288, 160)
    builders.write_text(pixels, "ERIKA", (24, 24))
    data = {"png": builders.png, "jpeg": builders.jpeg, "dicom": builders.dicom}[kind](pixels)
    found = [Detection(name, "text", 1.0, "person"), Detection(thorax, "thorax", 1.0, "person")]
    image_id = ward.upload(data, "Erika.png", found=found)
    token = ward.team.technician
    view = ward.engine.drafts.open(token, image_id)
    original = ward.engine.drafts.frame(token, view.handle, window=_window(kind))
    ward.engine.drafts.seal(token, image_id, view.detections, confirm="looked")
    return image_id, data, original, name, thorax


@pytest.mark.parametrize("kind", ["png", "jpeg", "dicom"])
def test_a_doctor_without_names_sees_anatomy_and_the_proof_says_so(ward: Ward, kind: str) -> None:
    if kind == "jpeg":
        pytest.importorskip("jpeglib")
    image_id, _, original, _, _ = _two_classes(ward, kind)
    engine, team = ward.engine, ward.team
    engine.care.set_restorable_classes(team.administrator, "doctor", ["thorax"])
    opened = engine.images.restore(team.doctor, image_id, WHY)
    assert (opened.partial, opened.proof, opened.withheld) == (True, "outside", ("text",))
    assert opened.name == opened.digest == ""
    assert opened.assessment is None
    frame = engine.images.restored_frame(team.doctor, opened.handle, window=_window(kind))
    masked = engine.images.masked_frame(team.doctor, image_id, window=_window(kind))
    boxes = {
        r.detection.label: r.detection.region for r in engine.images.regions(team.doctor, image_id)
    }
    name, thorax = boxes["text"].padded(0, opened.margin_px), boxes["thorax"]
    outside = np.ones(frame.shape[:2], bool)
    outside[name.y1 : name.y2, name.x1 : name.x2] = False
    assert np.array_equal(frame[outside], original[outside])
    inner = boxes["text"]
    there = (slice(inner.y1 + 2, inner.y2 - 2), slice(inner.x1 + 2, inner.x2 - 2))
    assert np.array_equal(frame[there], masked[there])
    there = (slice(thorax.y1, thorax.y2), slice(thorax.x1, thorax.x2))
    assert not np.array_equal(frame[there], masked[there])
    entry = engine.audit.entries(team.administrator, query="completed")[0]
    assert entry.detail == {"regions": 1, "proof": "outside", "withheld": ["text"]}
    decrypted = engine.audit.entries(team.administrator, query="region.decrypt")
    assert [e.region_id for e in decrypted] == list(opened.opened)


def test_what_is_not_granted_comes_by_no_other_door(ward: Ward) -> None:
    image_id, *_ = _two_classes(ward)
    engine, team = ward.engine, ward.team
    masked = engine.images.masked_file(team.doctor, image_id).data
    package = engine.packages.export(team.doctor, image_id).data
    engine.care.set_restorable_classes(team.administrator, "doctor", ["thorax"])
    opened = engine.images.restore(team.doctor, image_id, WHY)
    regions = {r.detection.label: r.region_id for r in engine.images.regions(team.doctor, image_id)}
    exchange = _exchange(engine, team.doctor)
    with pytest.raises(errors.InputError):
        engine.images.restored_file(team.doctor, opened.handle)
    with pytest.raises(errors.InputError):
        engine.exchange.deliver_file(team.doctor, opened.handle, exchange)
    for call in (
        lambda: engine.exchange.deliver_region(
            team.doctor, image_id, regions["text"], WHY, exchange
        ),
        lambda: engine.images.assessment(team.doctor, image_id),
        lambda: engine.packages.restore(team.doctor, masked, package, WHY),
    ):
        with pytest.raises(errors.PermissionDenied):
            call()
    assert engine.exchange.deliver_region(team.doctor, image_id, regions["thorax"], WHY, exchange)
    assert engine.exchange.deliver_file(team.doctor, opened.handle, exchange, "png")
    assert not engine.statistics.tables(team.doctor).single


def _exchange(engine: Engine, token: str) -> str:
    session_id = engine.caller(token).session_id
    client = Client(
        engine.context.hierarchy.signer().public_bytes, session_id, engine.context.host.random
    )
    offer = engine.exchange.offer(token, "x25519")
    client.handshake(lambda: offer, lambda answer: engine.exchange.answer(token, answer))
    return str(offer["exchange_id"])


def test_what_stays_sealed_depends_on_nothing_it_hides(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Two images that differ only under a name look alike to who may not see names."""
    seen = []
    for word in ("ERIKA", "MAXIM"):
        folder = tmp_path_factory.mktemp(word)
        settings = Settings(data=folder / "data", key_file=folder / "root.key", bcrypt_cost=4)
        detector = ScriptedDetector(settings)
        engine = Engine.open(settings, FakeHost(settings.data / "blobs"), detector=detector)
        team = Team(engine)
        patient = engine.patients.create(team.technician, "P-1", "N", 1).patient_id
        pixels = builders.radiograph()
        builders.write_text(pixels, word, (24, 24))
        # The thorax lies over the name: its own patch must not bring the name back.
        detector.found = [
            Detection(Region(16, 16, 144, 48), "text", 1.0, "person"),
            Detection(Region(32, 32, 200, 160), "thorax", 1.0, "person"),
        ]
        image_id = Ward(engine, team, detector, patient).seal(builders.png(pixels))
        engine.care.set_restorable_classes(team.administrator, "doctor", ["thorax"])
        opened = engine.images.restore(team.doctor, image_id, WHY)
        seen.append(
            (
                engine.images.restored_frame(team.doctor, opened.handle).tobytes(),
                engine.images.restored_file(team.doctor, opened.handle, "png").data,
            )
        )
        engine.close()
    assert seen[0] == seen[1]


def test_none_of_an_images_classes_opens_nothing(ward: Ward) -> None:
    image_id, *_ = _two_classes(ward)
    engine, team = ward.engine, ward.team
    engine.care.set_restorable_classes(team.administrator, "doctor", [])
    with pytest.raises(errors.PermissionDenied):
        engine.images.restore(team.doctor, image_id, WHY)
    [entry] = engine.audit.entries(team.administrator, query="failed")
    assert (entry.action, entry.detail["why"]) == ("image.restore", "permission-denied")


def test_a_grant_taken_back_closes_what_is_open_and_given_back_opens_all(ward: Ward) -> None:
    image_id, data, *_ = _two_classes(ward)
    engine, team = ward.engine, ward.team
    opened = engine.images.restore(team.doctor, image_id, WHY)
    engine.care.set_restorable_classes(team.administrator, "doctor", ["thorax"])
    with pytest.raises(errors.NotFound):
        engine.images.restored_file(team.doctor, opened.handle)
    assert engine.care.restorable_classes(team.administrator) == {"doctor": frozenset({"thorax"})}
    engine.care.set_restorable_classes(team.administrator, "doctor", None)
    again = engine.images.restore(team.doctor, image_id, WHY)
    assert engine.images.restored_file(team.doctor, again.handle).data == data


def test_only_classes_that_there_are_can_be_granted(ward: Ward) -> None:
    with pytest.raises(errors.InputError):
        ward.engine.care.set_restorable_classes(ward.team.administrator, "doctor", ["anatomy"])
    with pytest.raises(errors.NotFound):
        ward.engine.care.set_restorable_classes(ward.team.administrator, "nobody", ["text"])
