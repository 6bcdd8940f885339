"""Studies sent whole over HTTP: grouped, confirmed, in pieces, nothing lost, nothing misfiled."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

import api
from api.held_intakes import HEAD_BYTES
from engine import Detection, ImageState, Region, Role, TakeOptions
from tests import builders
from tests.rest import Hospital, ask, hospital

OCTETS = {"Content-Type": "application/octet-stream"}
HOST = "medsec.test"


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Hospital]:
    with hospital(tmp_path) as place:
        yield place


def slice_of(patient: int, instance: int, **attributes: Any) -> bytes:
    pixels = np.full((64, 64), instance, np.uint16)
    return builders.dicom(
        pixels, patient=patient, instance=instance, modality="CT", PatientAge=None,
        StudyDescription="CT head", **attributes,
    )  # fmt: skip


class Sender:
    """A technician's page."""

    def __init__(
        self, ward: Hospital, files: Sequence[bytes], folders: Sequence[str] = (), **listing: Any
    ) -> None:
        self.ward, self.files = ward, files
        named = [
            {"name": f"{n}.dcm", "size": len(data), "folder": folder}
            for n, (data, folder) in enumerate(zip_longest(files, folders, fillvalue=""))
        ]
        opened = self.ask("POST", "/intakes/", json={"files": named, **listing})
        assert opened.status_code == 201, opened.text
        self.id = opened.json()["intake_id"]

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return ask(method, path, self.ward.tokens[Role.TECHNICIAN], **options)

    def headers(self, patient_id: str | None = None) -> list[dict[str, Any]]:
        framed = b"".join(
            struct.pack(">II", n, len(data[:HEAD_BYTES])) + data[:HEAD_BYTES]
            for n, data in enumerate(self.files)
        )
        params = {"patient_id": patient_id} if patient_id else {}
        answer = self.ask(
            "POST", f"/intakes/{self.id}/headers/", content=framed, headers=OCTETS, params=params
        )
        assert answer.status_code == 200, answer.text
        groups: list[dict[str, Any]] = answer.json()["groups"]
        return groups

    def target(self, **target: Any) -> httpx.Response:
        body = {"targets": [{"group": 0, **target}]}
        return self.ask("POST", f"/intakes/{self.id}/targets/", json=body)

    def piece(self, place: int, offset: int = 0, end: int | None = None) -> dict[str, Any]:
        answer = self.put(place, self.files[place][offset:end], offset)
        assert answer.status_code == 200, answer.text
        state: dict[str, Any] = answer.json()
        return state

    def put(self, place: int, data: bytes, offset: int = 0) -> httpx.Response:
        path = f"/intakes/{self.id}/files/{place}/"
        return self.ask("PUT", path, content=data, headers=OCTETS, params={"offset": offset})

    def looked_at(self) -> dict[str, Any]:
        """The overview, once nothing waits."""
        until = time.monotonic() + 120
        while True:
            seen: dict[str, Any] = self.ask("GET", "/intakes/").json()
            if not seen["to_look"]:
                return seen
            assert time.monotonic() < until, "nothing looks at the drafts"
            time.sleep(0.05)


def test_a_study_comes_in_under_the_record_that_its_header_names(ward: Hospital) -> None:
    sender = Sender(ward, [slice_of(1, n) for n in range(1, 4)], seal=True)
    [group] = sender.headers()
    assert (group["number"], group["files"], group["record"]) == ("H-000001", 3, None)
    # Who goes away now has sent nothing that could be missed.
    assert sender.ask("GET", "/intakes/").json()["listed"] == 0
    [study] = group["studies"]
    assert study == {
        "date": "2024-02-29", "description": "CT head", "accession_number": "A0001001",
        "modality": "CT", "series": 1, "files": 3,
    }  # fmt: skip
    assert sender.put(0, sender.files[0]).status_code == 422  # nobody said where it belongs
    assert sender.target().status_code == 200  # makes the record
    assert [sender.piece(n)["state"] for n in range(3)] == ["taken"] * 3
    seen = sender.looked_at()
    assert (seen["listed"], seen["sealed"], seen["review"]) == (0, 3, 0)
    [found] = ask("GET", "/patients/", sender.ward.tokens[Role.TECHNICIAN]).json()["items"]
    assert (found["id"], found["image_count"]) == ("H-000001", 3)
    [listed] = ward.engine.studies.of_patient(ward.team.technician, found["patient_id"])
    assert [len(s.images) for s in listed.series] == [3]
    log = ward.engine.context.audit.of_image(listed.series[0].images[0].image_id)
    assert {"image.upload", "image.look"} < {e.action for e in log}
    [sealed] = [e for e in log if e.action == "image.seal"]
    assert sealed.detail["automatic"]


def test_without_the_choice_to_seal_drafts_wait_with_what_was_found(ward: Hospital) -> None:
    sender = Sender(ward, [slice_of(1, 1)])
    sender.headers()
    sender.target()
    image_id = str(sender.piece(0)["image_id"])
    assert sender.looked_at()["ready"] == 1
    draft = ward.engine.drafts.open(ward.team.technician, image_id)
    assert draft.record.state is ImageState.DRAFT
    assert len(draft.detections) == 1


def test_a_file_that_names_another_patient_needs_a_reason(ward: Hospital) -> None:
    patient_id = ward.patient()  # Erika Musterfrau
    sender = Sender(ward, [slice_of(2, 1)])
    [group] = sender.headers(patient_id)
    assert group["differs"] == ["number", "name", "birth date"]
    refused = sender.target(patient_id=patient_id)
    assert refused.status_code == 409
    assert refused.json()["type"] == "urn:medsec:other-patient"
    assert sender.put(0, sender.files[0]).status_code == 422
    assert not ward.engine.drafts.waiting(ward.team.technician)
    why = "the scanner still had the patient before"
    assert sender.target(patient_id=patient_id, reason=why).status_code == 200
    image_id = str(sender.piece(0)["image_id"])
    said = [
        e for e in ward.engine.context.audit.of_image(image_id) if e.action == "patient.differs"
    ]
    assert [(e.reason, e.detail["differs"]) for e in said] == [
        (why, ["number", "name", "birth date"])
    ]


def test_a_file_behind_an_honest_beginning_is_checked_again(ward: Hospital) -> None:
    """The first bytes name one patient, the file another: it is not filed."""
    honest = Sender(ward, [slice_of(1, 1)])
    honest.headers()
    honest.files = [slice_of(2, 1)]
    assert len(honest.files[0]) == len(slice_of(1, 1))
    honest.target()
    state = honest.piece(0)
    assert state["state"] == "other-patient"
    assert not ward.engine.drafts.waiting(ward.team.technician)


def test_files_whose_number_stands_for_nobody_wait_for_a_person(ward: Hospital) -> None:
    patient_id = ward.patient()  # Erika Musterfrau
    sender = Sender(ward, [slice_of(1, 1, PatientID="REMOVED", PatientName="***")])
    [group] = sender.headers()
    assert (group["number"], group["record"], group["differs"]) == ("", None, [])
    refused = sender.target()
    assert (refused.status_code, "no patient number" in refused.text) == (422, True)
    assert sender.target(patient_id=patient_id, reason="the list of the trial").status_code == 200
    assert sender.piece(0)["state"] == "taken"


def test_files_without_a_number_are_asked_for_study_by_study(ward: Hospital) -> None:
    """One answer never files the pictures of several people."""
    nobody = {"PatientID": "", "PatientName": "", "PatientBirthDate": ""}
    files = [
        slice_of(1, 1, StudyInstanceUID="1.2.3", **nobody),
        slice_of(2, 2, StudyInstanceUID="1.2.4", **nobody),
        slice_of(1, 3, StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.9", **nobody),
        builders.png(np.zeros((20, 20), np.uint8)),
        builders.png(np.ones((20, 20), np.uint8)),
    ]
    sender = Sender(ward, files, ["", "", "", "left/", "right/"])
    groups = sender.headers()
    assert [g["places"] for g in groups] == [[0, 2], [1], [3], [4]]
    assert [g["part"] for g in groups] == ["1.2.3", "1.2.4", "folder left/", "folder right/"]
    assert groups[0]["studies"][0]["series"] == 2
    sender.target(patient_id=ward.patient(), reason="the list of the trial")
    assert sender.piece(2)["state"] == "taken"
    assert [sender.put(n, files[n]).status_code for n in (1, 3, 4)] == [422] * 3


def test_other_files_of_the_same_names_and_sizes_begin_anew(ward: Hospital) -> None:
    """Two studies of one device may have the same list; what arrived of one says nothing of the
    other."""
    first = Sender(ward, [slice_of(1, n) for n in (1, 2)])
    first.headers()
    first.target()
    first.piece(0)
    first.piece(1, 0, 1000)
    other = Sender(ward, [slice_of(2, n) for n in (1, 2)])  # the browser was closed meanwhile
    assert [len(data) for data in other.files] == [len(data) for data in first.files]
    framed = struct.pack(">II", 0, 1000) + other.files[0][:1000]
    path = f"/intakes/{other.id}/headers/"
    assert other.ask("POST", path, content=framed, headers=OCTETS).status_code == 404
    other = Sender(ward, other.files)  # as the page does
    [group] = other.headers()
    assert (group["number"], group["ready"]) == ("H-000002", False)
    other.target()
    assert [other.piece(n)["state"] for n in range(2)] == ["taken"] * 2
    assert first.piece(1, 1000)["state"] == "taken"  # in its own tab, if that is open still
    patients = ask("GET", "/patients/", ward.tokens[Role.TECHNICIAN]).json()["items"]
    assert {(p["id"], p["image_count"]) for p in patients} == {("H-000001", 2), ("H-000002", 2)}


def test_who_stops_an_upload_is_asked_anew_when_it_goes_on(ward: Hospital) -> None:
    """The answer may be why it was stopped."""
    erika = ward.patient()
    first = Sender(ward, [slice_of(1, n) for n in (1, 2)])
    first.headers()
    first.target(patient_id=erika, reason="the list of the trial")
    first.piece(0)
    again = Sender(ward, first.files)  # the tab was closed
    assert [g["ready"] for g in again.headers()] == [True]
    assert again.ask("DELETE", f"/intakes/{again.id}/").status_code in (200, 204)
    third = Sender(ward, first.files)
    assert [g["ready"] for g in third.headers()] == [False]
    assert third.put(1, third.files[1]).status_code == 422


def test_an_upload_that_was_given_up_is_dismissed_or_forgotten(ward: Hospital) -> None:
    held = api.app.state.intakes

    def missing(age_s: float = 0) -> tuple[int, int]:
        """How many files have not arrived, and of how many nothing comes any more."""
        for intake in held._held.values():
            intake.touched_s -= age_s
        seen = first.ask("GET", "/intakes/").json()
        return seen["listed"] - seen["arrived"], seen["given_up"]

    first = Sender(ward, [slice_of(1, n) for n in (1, 2, 3)])
    first.headers()
    first.target()
    first.piece(0)
    assert missing() == (2, 0)
    assert missing(61) == (2, 2)
    first.piece(1, 0, 1000)  # it goes on after all
    assert missing() == (2, 0)
    assert first.ask("DELETE", "/intakes/").status_code == 204  # not what still comes
    assert first.piece(1, 1000)["state"] == "taken"
    assert missing(61) == (1, 1)
    assert first.ask("DELETE", "/intakes/").status_code == 204
    assert missing() == (0, 0)
    again = Sender(ward, first.files)
    [group] = again.headers()
    assert not group["ready"]
    again.target(patient_id=group["record"]["patient_id"])
    assert [again.piece(n)["state"] for n in (0, 1)] == ["duplicate"] * 2
    assert missing(12 * 3600 - 60) == (1, 1)
    assert missing(61) == (0, 0)


def test_files_without_a_number_do_not_go_on_however_they_begin(ward: Hospital) -> None:
    """Pictures of two patients may have the same first bytes."""
    pixels = np.zeros((200, 400), np.uint8)
    pixels[5] = 9  # a BMP begins with its last row
    erikas, others = (
        cv2.imencode(".bmp", p)[1].tobytes() for p in (pixels, np.roll(pixels, 2, axis=0))
    )
    assert (len(erikas), erikas[:HEAD_BYTES]) == (len(others), others[:HEAD_BYTES])
    assert erikas != others
    begins = 2000
    first = Sender(ward, [erikas])
    first.headers()
    first.target(patient_id=ward.patient(), reason="the list of the trial")
    first.piece(0, 0, begins)
    other = Sender(ward, [others])
    [group] = other.headers()
    assert not group["ready"]
    assert other.put(0, others[begins:], begins).status_code == 422


def test_nothing_of_an_upload_that_goes_on_is_taken_before_its_beginning_is_known(
    ward: Hospital,
) -> None:
    first = Sender(ward, [slice_of(1, 1)])
    first.headers()
    first.target()
    other = Sender(ward, [slice_of(2, 1)])
    path = f"/intakes/{other.id}/headers/"
    empty = struct.pack(">II", 0, 0)  # the browser could not read it
    assert other.ask("POST", path, content=empty, headers=OCTETS).status_code == 404
    other = Sender(ward, first.files)
    assert other.put(0, other.files[0]).status_code == 422


def test_large_files_go_on_where_they_stopped(ward: Hospital) -> None:
    sender = Sender(ward, [slice_of(1, 1)])
    sender.headers()
    sender.target()
    assert sender.piece(0, 0, 1000)["received"] == 1000
    assert sender.piece(0, 0, 1000)["received"] == 1000  # the answer was lost, so it came again
    assert sender.piece(0, 3000, 4000)["received"] == 1000  # one before it was lost
    again = Sender(ward, sender.files)  # the browser was closed, and the files were dropped again
    assert again.put(0, sender.files[0]).status_code == 422  # are they the same?
    again.headers()
    state = ask("GET", f"/intakes/{again.id}/", ward.tokens[Role.TECHNICIAN]).json()
    assert state["files"][0]["received"] == 1000
    assert state["groups"][0]["ready"]
    assert again.piece(0, 1000)["state"] == "taken"
    assert again.piece(0, 1000)["state"] == "taken"  # the last answer was lost


def test_what_is_no_image_or_is_here_already_is_named(ward: Hospital) -> None:
    data = slice_of(1, 1)
    sender = Sender(ward, [data, b"DICOMDIR or a text file", data])
    [group] = sender.headers()
    assert (group["number"], group["places"]) == ("H-000001", [0, 2])  # of the text nobody asks
    sender.target()
    states = [sender.piece(place) for place in range(3)]
    assert [s["state"] for s in states] == ["taken", "refused", "duplicate"]
    assert states[2]["image_id"] == states[0]["image_id"]
    assert states[1]["message"]
    # The log says of each kind of refusal that somebody tried.
    failed = [
        (entry.actor, entry.detail)
        for entry in ward.engine.context.audit.entries()
        if (entry.action, entry.outcome) == ("image.upload", "failed")
    ]
    assert failed == [
        ("technician", {"why": "duplicate-image"}),
        ("technician", {"why": "unsupported-format", "files": 1}),
    ]


def test_an_upload_is_its_senders_alone(ward: Hospital) -> None:
    sender = Sender(ward, [slice_of(1, 1)])
    for role in (Role.DOCTOR, Role.ADMINISTRATOR):
        assert ask("GET", f"/intakes/{sender.id}/", ward.tokens[role]).status_code == 404
        assert ask("GET", "/intakes/", ward.tokens[role]).json()["listed"] == 0
    assert sender.ask("DELETE", f"/intakes/{sender.id}/").status_code == 204
    assert sender.ask("GET", f"/intakes/{sender.id}/").status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": f"https://{HOST}"}, 201),
        ({"Origin": f"https://{HOST}", "Sec-Fetch-Site": "same-origin"}, 201),
        ({}, 401),  # no browser sends it so
        ({"Origin": f"https://{HOST}:8502"}, 401),  # another port, to which the cookie goes too
        ({"Origin": "https://evil.test"}, 401),
        ({"Origin": "null"}, 401),
        ({"Origin": f"https://{HOST}", "Sec-Fetch-Site": "cross-site"}, 401),
    ],
)
def test_only_our_own_page_sends_with_the_cookie(
    ward: Hospital, headers: dict[str, str], status: int
) -> None:
    cookie = {"Cookie": f"{api.COOKIE}={ward.team.technician}", **headers}
    body = {"files": [{"name": "a.dcm", "size": 9}]}
    assert ask("POST", "/intakes/", headers=cookie, json=body).status_code == status
    assert ask("POST", "/patients/", headers=cookie, data={"id": "P", "name": "N"}).status_code == (
        401
    )


def test_a_piece_beyond_its_limit_or_its_file_is_refused(ward: Hospital) -> None:
    sender = Sender(ward, [slice_of(1, 1)])
    sender.headers()
    sender.target()
    assert sender.put(0, b"x" * (len(sender.files[0]) + 1)).status_code == 422
    assert sender.put(0, bytes((8 << 20) + 1)).status_code == 413
    assert sender.put(1, b"x").status_code == 404
    framed = struct.pack(">II", 0, 5) + b"four"
    path = f"/intakes/{sender.id}/headers/"
    assert sender.ask("POST", path, content=framed, headers=OCTETS).status_code == 422


def test_what_a_stopped_server_left_is_looked_at_in_the_next_session(ward: Hospital) -> None:
    engine, technician = ward.engine, ward.team.technician
    patient = engine.patients.create(technician, "H-000001", "Jane Doe")
    name = builders.person(1)["PatientName"].split("^")
    engine.patients.update(technician, patient.patient_id, name=f"{name[1]} {name[0]}")
    taken = engine.intakes.take(
        technician, patient.patient_id, "1.dcm", slice_of(1, 1), TakeOptions()
    )
    assert taken.reasons == ("not-looked-at",)
    assert taken.state is ImageState.REVIEW
    ward.detector.found = [Detection(Region(0, 0, 16, 16), "text", 0.9, "net")]
    sender = Sender(ward, [slice_of(9, 1)])
    assert sender.looked_at()["ready"] == 1
    assert engine.drafts.open(technician, taken.image_id).reasons == ()
