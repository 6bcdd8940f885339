"""What nodes hand in: durable before it is acknowledged, nothing twice, nothing lost."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless

from engine import (
    Detection,
    Engine,
    ImageState,
    Instance,
    Received,
    Settings,
    errors,
)
from engine.store.nodes import Node
from tests import builders
from tests.conftest import WHY, Team, Ward
from tests.fakes import FakeHost, ScriptedDetector

CLASS = "1.2.840.10008.5.1.4.1.1.7"
PIXELS, TEXT = builders.labelled()
FOUND = Detection(TEXT, "text", 0.9, "scripted")
HERE = {"addresses": ["127.0.0.1"]}


def instance(number: int = 1, patient: int = 1, **kind: Any) -> Instance:
    data = builders.dicom(PIXELS, patient=patient, instance=number, **kind)
    return Instance(CLASS, builders.uid(patient, 1, 1, number), data)


def node(ward: Ward, title: str = "CT1", **values: Any) -> str:
    """A node's token."""
    ward.engine.nodes.save(ward.team.administrator, title, {**HERE, **values})
    return ward.engine.reception.admit(title, "127.0.0.1")


def known(ward: Ward, patient: int = 1) -> str:
    said = builders.person(patient)
    token = ward.team.technician
    return ward.engine.patients.create(token, said["PatientID"], "Jane Doe").patient_id


def drafts(ward: Ward) -> list[tuple[str, ImageState, tuple[str, ...]]]:
    found = ward.engine.drafts.waiting(ward.team.technician)
    return [(d.patient_id, d.state, d.reasons) for d in found]


def test_an_instance_is_a_draft_at_once_and_is_looked_at_afterwards(ward: Ward) -> None:
    ward.detector.found = [FOUND]
    patient_id, sent = known(ward), instance()
    token = node(ward)
    assert ward.engine.reception.receive(token, sent) is Received.STORED
    assert drafts(ward) == [(patient_id, ImageState.REVIEW, ("not-looked-at",))]
    assert ward.engine.reception.look() == 1
    assert drafts(ward) == [(patient_id, ImageState.DRAFT, ())]
    assert ward.engine.reception.look() == 0
    [draft] = ward.engine.drafts.waiting(ward.team.technician)
    view = ward.engine.drafts.open(ward.team.technician, draft.image_id)
    assert (draft.uploaded_by, [d.region for d in view.detections]) == ("ae:CT1", [TEXT])
    ward.engine.drafts.seal(ward.team.technician, draft.image_id, view.detections)
    handle = ward.engine.images.restore(ward.team.doctor, draft.image_id, WHY).handle
    assert ward.engine.images.restored_file(ward.team.doctor, handle).data == sent.data


def test_nobody_seals_what_no_detector_has_looked_at_without_a_reason(ward: Ward) -> None:
    known(ward)
    ward.engine.reception.receive(node(ward), instance())
    [draft] = ward.engine.drafts.waiting(ward.team.technician)
    with pytest.raises(errors.ReviewNeeded):
        ward.engine.drafts.seal(ward.team.technician, draft.image_id, [FOUND])
    with pytest.raises(errors.ReviewNeeded):
        ward.engine.drafts.seal_undoubted(ward.team.technician, draft.image_id)


def test_a_node_that_seals_has_images_without_doubt_sealed(ward: Ward) -> None:
    ward.detector.found = [FOUND]
    known(ward)
    ward.engine.reception.receive(node(ward, seals=True), instance())
    ward.engine.reception.look()
    assert drafts(ward) == []
    [image] = ward.engine.search.images(ward.team.technician).images
    entries = ward.engine.audit.entries(ward.team.administrator, query=image.image_id)
    assert [(e.actor, e.action) for e in entries if e.action != "image.view"] == [
        ("ae:CT1", "image.seal"), ("ae:CT1", "image.look"), ("ae:CT1", "image.upload"),
    ]  # fmt: skip
    ward.detector.found = []
    ward.engine.reception.receive(ward.engine.reception.admit("CT1", "127.0.0.1"), instance(2))
    ward.engine.reception.look()
    assert [d[1:] for d in drafts(ward)] == [(ImageState.REVIEW, ("nothing-found",))]


def test_the_same_instance_twice_is_there_once_in_whatever_coding(ward: Ward) -> None:
    known(ward)
    token = node(ward)
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless):
        first = syntax == ExplicitVRLittleEndian
        for _ in range(2):
            answer = ward.engine.reception.receive(token, instance(syntax=syntax))
            assert answer is (Received.STORED if first else Received.PRESENT)
            first = False
    ward.engine.reception.look()
    assert ward.engine.reception.receive(token, instance()) is Received.PRESENT
    assert len(drafts(ward)) == 1
    assert len(set(ward.engine.context.host.blobs())) == 1


def test_another_picture_under_a_used_uid_is_kept(ward: Ward) -> None:
    known(ward)
    token = node(ward)
    ward.engine.reception.receive(token, instance())
    other = builders.dicom(builders.labelled("DOE JANE")[0])
    sent = Instance(CLASS, builders.uid(1, 1, 1, 1), other)
    assert ward.engine.reception.receive(token, sent) is Received.STORED
    assert len(drafts(ward)) == 2


def test_an_unknown_patient_is_held_until_a_person_says_whose_it_is(ward: Ward) -> None:
    token, technician = node(ward), ward.team.technician
    sent = instance()
    assert ward.engine.reception.receive(token, sent) is Received.HELD
    assert ward.engine.reception.receive(token, sent) is Received.PRESENT
    [held] = ward.engine.reception.held(technician)
    assert (held.node, held.hints["id"], held.hints["name"]) == ("CT1", "H-000001", "Doe, Jane")
    assert drafts(ward) == []
    ward.engine.upkeep.sweep()
    with pytest.raises(errors.NotFound):
        ward.engine.reception.assign(technician, held.held_id, "nobody")
    image_id = ward.engine.reception.assign(technician, held.held_id, "P-1")
    assert drafts(ward) == [(ward.patient_id, ImageState.REVIEW, ("not-looked-at",))]
    assert ward.engine.reception.held(technician) == []
    with pytest.raises(errors.NotFound):
        ward.engine.reception.assign(technician, held.held_id, "P-1")
    assert ward.engine.reception.receive(token, sent) is Received.PRESENT
    ward.engine.reception.look()
    assert ward.engine.drafts.open(technician, image_id).frames == 1
    assert len(set(ward.engine.context.host.blobs())) == 1


def test_held_images_belong_together_by_study_sender_and_what_they_say_of_the_patient(
    ward: Ward, host: FakeHost
) -> None:
    sent = [
        *(builders.dicom(PIXELS, instance=n) for n in (1, 2)),
        builders.dicom(PIXELS, instance=3, PatientBirthDate="19500101"),
        builders.dicom(PIXELS, instance=4, study=2),
        *(builders.dicom(PIXELS, instance=n, StudyInstanceUID=None) for n in (5, 6)),
    ]
    for title in ("CT1", "CT2"):
        token = node(ward, title)
        for data in sent if title == "CT1" else [builders.dicom(PIXELS, instance=7)]:
            ward.engine.reception.receive(token, Instance("", "", data))
            host.advance(seconds=1)
    reception, technician = ward.engine.reception, ward.team.technician

    def studies() -> list[tuple[str, int]]:
        return [(s.first.held_id, s.images) for s in reception.held_studies(technician, 9)]

    held = [one.held_id for one in reception.held(technician)]
    alone = [(held_id, 1) for held_id in held[2:]]
    assert studies() == [(held[0], 2), *alone]
    assert reception.held_studies(technician, 1)[0].images == 2  # counted, not listed
    assert [one.held_id for one in reception.held_with(technician, held[1])] == held[:2]
    # Rows of a release before this one say nothing of it, and learn it once.
    with ward.engine.context.database.write() as tx:
        tx.run("UPDATE held_instances SET together = NULL")
    assert studies() == [(held[0], 2), *alone]
    # Whoever can write rows cannot put an image under the answer for another.
    with ward.engine.context.database.write() as tx:
        tx.run(
            "UPDATE held_instances SET together ="
            " (SELECT together FROM held_instances WHERE held_id = $2) WHERE held_id = $1",
            held[2], held[0],
        )  # fmt: skip
    with pytest.raises(errors.SealBroken):
        reception.held_with(technician, held[0])


def test_a_held_image_can_be_discarded_under_a_reason(ward: Ward) -> None:
    token, technician = node(ward), ward.team.technician
    ward.engine.reception.receive(token, instance())
    [held] = ward.engine.reception.held(technician)
    with pytest.raises(errors.InputError):
        ward.engine.reception.discard(technician, held.held_id, " ")
    ward.engine.reception.discard(technician, held.held_id, "sent by mistake")
    assert list(ward.engine.context.host.blobs()) == []
    assert ward.engine.reception.receive(token, instance()) is Received.HELD


def test_a_node_may_create_the_record_of_an_unknown_patient(ward: Ward) -> None:
    token = node(ward, creates_patients=True)
    assert ward.engine.reception.receive(token, instance()) is Received.STORED
    assert ward.engine.reception.receive(token, instance(2)) is Received.STORED
    record = ward.engine.patients.get(ward.team.technician, "H-000001")
    assert (record.name, record.image_count) == ("Doe, Jane", 2)
    nameless = Instance(
        CLASS, builders.uid(2, 1, 1, 1), builders.dicom(PIXELS, patient=2, PatientName=None)
    )
    assert ward.engine.reception.receive(token, nameless) is Received.HELD
    numberless = Instance(
        CLASS, builders.uid(3, 1, 1, 1), builders.dicom(PIXELS, patient=3, PatientID=None)
    )
    assert ward.engine.reception.receive(token, numberless) is Received.HELD


STAND_INS = (
    "***", "-", "?", "_", "N/A", "n.a.", "0", "000000", "XXXX", "7777", "REMOVED", "Removed^",
    "ANONYMOUS", "Anonymized Patient", "anonymisé", "UNKNOWN", "no patient id", "None", "０００",
)  # fmt: skip


@pytest.mark.parametrize(
    "number", ["1", "11", "007", "X-1", "P-0", "ANON-0042", "Anonymous 7", "AA"]
)
def test_a_number_that_somebody_may_have_makes_a_record(ward: Ward, number: str) -> None:
    token = node(ward, creates_patients=True)
    assert ward.engine.reception.receive(token, instance(PatientID=number)) is Received.STORED
    assert ward.engine.patients.get(ward.team.technician, number).image_count == 1


def test_a_number_that_stands_for_nobody_makes_and_finds_no_record(ward: Ward) -> None:
    """De-identified files have one number for all people, who must not become one patient."""
    token, technician = node(ward, creates_patients=True), ward.team.technician
    for patient, number in enumerate(STAND_INS, 1):
        sent = instance(patient=patient, PatientID=number)
        assert ward.engine.reception.receive(token, sent) is Received.HELD, number
    sent = instance(2, PatientID="REMOVED")
    assert ward.engine.reception.store(technician, sent).state is Received.HELD
    assert [p.id for p in ward.engine.patients.search(technician)] == ["P-1"]
    held = ward.engine.reception.held(technician)
    assert [h.hints.get("id") for h in held] == [None] * (len(STAND_INS) + 1)
    ward.engine.reception.assign(technician, held[0].held_id, "P-1")
    assert drafts(ward) == [(ward.patient_id, ImageState.REVIEW, ("not-looked-at",))]


def test_an_old_record_of_nobodys_number_gets_no_more_files_by_itself(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    technician = ward.team.technician
    with monkeypatch.context() as earlier:  # releases that knew no stand-ins
        earlier.setattr("engine.store.patients.is_stand_in", lambda number: False)
        old = ward.engine.patients.create(technician, "REMOVED", "Jane Doe")
    sent = instance(PatientID="REMOVED")
    assert ward.engine.reception.receive(node(ward), sent) is Received.HELD
    [header] = ward.engine.intakes.headers(technician, [sent.data])
    assert (header.hints.get("id"), header.record) == (None, None)
    changed = ward.engine.patients.update(technician, old.patient_id, id="REMOVED", age=40)
    assert (changed.id, changed.age) == ("REMOVED", 40)
    assert ward.engine.patients.get(technician, "removed").patient_id == old.patient_id


@pytest.mark.parametrize("number", ["***", "000", "Anonymous", "N/A"])
def test_a_person_cannot_give_a_number_of_nobody(ward: Ward, number: str) -> None:
    patients, technician = ward.engine.patients, ward.team.technician
    with pytest.raises(errors.InputError, match="stands for no patient"):
        patients.create(technician, number, "Jane Doe")
    with pytest.raises(errors.InputError, match="stands for no patient"):
        patients.update(technician, ward.patient_id, id=number)
    assert patients.create(technician, "7777", "Jane Doe").id == "7777"  # a person may mean it


def test_a_known_number_with_another_name_is_held(ward: Ward) -> None:
    said = builders.person(1)
    ward.engine.patients.create(ward.team.technician, said["PatientID"], "Jan Nowak")
    assert ward.engine.reception.receive(node(ward), instance()) is Received.HELD


def test_a_number_cannot_name_a_record_by_its_opaque_key(ward: Ward) -> None:
    data = builders.dicom(PIXELS, PatientID=ward.patient_id)
    sent = Instance(CLASS, builders.uid(1, 1, 1, 1), data)
    assert ward.engine.reception.receive(node(ward), sent) is Received.HELD


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        # a class or an instance that was not announced
        (Instance("1.2.840.10008.5.1.4.1.1.2", instance().sop_instance, instance().data),
         errors.WrongInstance),
        (Instance(CLASS, builders.uid(9), instance().data), errors.WrongInstance),
        (Instance(CLASS, builders.uid(1), instance().data[:2000]), errors.CorruptImage),
        (Instance(CLASS, builders.uid(1), b"\0" * 128 + b"DICM"), errors.InputError),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_refused_and_not_kept(
    ward: Ward, sent: Instance, error: type[errors.EngineError]
) -> None:
    known(ward)
    with pytest.raises(error):
        ward.engine.reception.receive(node(ward), sent)
    assert drafts(ward) == []
    assert list(ward.engine.context.host.blobs()) == []
    [entry] = ward.engine.audit.entries(ward.team.administrator, query="failed")
    assert (entry.actor, entry.action) == ("ae:CT1", "image.upload")


def test_who_may_associate(ward: Ward) -> None:
    admin, reception = ward.team.administrator, ward.engine.reception
    values = {"addresses": ["10.1.2.3", "192.168.7.0/24"], "certificate": "a" * 64}
    ward.engine.nodes.save(admin, "MR1", values)
    reception.admit("MR1", "10.1.2.3", "a" * 64)
    reception.admit("MR1", "192.168.7.9", "a" * 64)
    reception.admit("MR1", "::ffff:192.168.7.9", "a" * 64)
    for title, address, certificate in (
        ("MR2", "10.1.2.3", "a" * 64),
        ("mr1", "10.1.2.3", "a" * 64),
        ("MR1", "10.1.2.4", "a" * 64),
        ("MR1", "10.1.2.3", ""),
        ("MR1", "10.1.2.3", "b" * 64),
        ("", "", ""),
    ):
        with pytest.raises(errors.PermissionDenied):
            reception.admit(title, address, certificate)
    refused = ward.engine.audit.entries(admin, query="node.associate")
    assert {e.detail["why"] for e in refused if e.outcome == "refused"} == {
        "unknown-node", "unknown-address", "unknown-certificate",
    }  # fmt: skip


def test_a_node_may_hand_in_and_nothing_else(ward: Ward) -> None:
    known(ward)
    token = node(ward)
    for call in (
        lambda: ward.engine.drafts.waiting(token),
        lambda: ward.engine.reception.held(token),
        lambda: ward.engine.patients.search(token),
        lambda: ward.engine.nodes.entries(token),
    ):
        with pytest.raises(errors.PermissionDenied):
            call()
    ward.engine.reception.leave(token)
    with pytest.raises(errors.NotSignedIn):
        ward.engine.reception.receive(token, instance())


def test_a_node_that_was_changed_or_removed_is_refused_at_its_next_instance(ward: Ward) -> None:
    known(ward)
    token = node(ward)
    ward.engine.nodes.save(ward.team.administrator, "CT1", {**HERE, "sends": False})
    with pytest.raises(errors.PermissionDenied):
        ward.engine.reception.receive(token, instance())
    node(ward)
    ward.engine.nodes.remove(ward.team.administrator, "CT1")
    with pytest.raises(errors.PermissionDenied):
        ward.engine.reception.receive(token, instance())
    with pytest.raises(errors.NotFound):
        ward.engine.nodes.remove(ward.team.administrator, "CT1")


@pytest.mark.parametrize(
    ("title", "values"),
    [
        ("", HERE),
        ("SEVENTEEN_LETTERS", HERE),
        ("BACK\\SLASH", HERE),
        (" CT1", HERE),
        ("CT1", {"addresses": []}),
        ("CT1", {"addresses": ["hostname"]}),
        ("CT1", {**HERE, "certificate": "abc"}),
        ("CT1", {**HERE, "profile": "no-such-profile"}),
        ("CT1", {**HERE, "seals": "yes"}),
        ("CT1", {**HERE, "ports": 104}),
        ("CT1", {**HERE, "port": 70_000}),
        ("CT1", {**HERE, "port": True}),
        ("CT1", {**HERE, "host": "no host", "port": 104}),
        ("CT1", {**HERE, "receives": True}),
        ("CT1", {**HERE, "originals": True, "host": "10.1.2.3", "port": 104}),
        ("CT1", {**HERE, "queries": "some"}),
        ("CT1", {**HERE, "description": "x" * 101}),
    ],
)
def test_a_node_that_makes_no_sense_is_refused(
    ward: Ward, title: str, values: dict[str, Any]
) -> None:
    with pytest.raises(errors.InputError):
        ward.engine.nodes.save(ward.team.administrator, title, values)
    assert ward.engine.nodes.entries(ward.team.administrator) == {}


def test_a_node_that_was_written_into_the_file_is_found(ward: Ward) -> None:
    node(ward)
    with ward.engine.context.database.write() as tx:
        tx.run("UPDATE nodes SET name = 'CT2'")
    ward.engine.context.nodes.forget()
    with pytest.raises(errors.SealBroken):
        ward.engine.reception.admit("CT2", "127.0.0.1")


def test_what_a_stopped_server_left_is_looked_at_by_the_next(
    settings: Settings, host: FakeHost, detector: ScriptedDetector
) -> None:
    engine = Engine.open(settings, host, detector=detector)
    ward = Ward(engine, Team(engine), detector, "")
    patient_id = known(ward)
    engine.reception.receive(node(ward), instance())
    engine.close()
    engine = Engine.open(settings, host, detector=detector)
    detector.found = [FOUND]
    ward = Ward(engine, ward.team, detector, "")
    assert drafts(ward) == [(patient_id, ImageState.REVIEW, ("not-looked-at",))]
    engine.reception.start()
    until = time.monotonic() + 120
    while drafts(ward) != [(patient_id, ImageState.DRAFT, ())]:
        assert time.monotonic() < until
        time.sleep(0.05)
    engine.close()


def test_a_draft_that_cannot_be_looked_at_is_not_tried_without_end(ward: Ward) -> None:
    known(ward)
    ward.engine.reception.receive(node(ward), instance())
    [address] = ward.engine.context.host.blobs()
    ward.engine.context.host.delete_blob(address)
    assert ward.engine.reception.look() == 1
    assert ward.engine.reception.look() == 0


def test_a_node_is_safe_by_default() -> None:
    bare = Node.checked("CT1", HERE)
    assert (bare.creates_patients, bare.seals, bare.sends) == (False, False, True)
