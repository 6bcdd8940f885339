"""Every method against every role and against one's own and somebody else's patient.

The table is made from the data: which methods there are, what each role may, and by which
parameter a method names its subject. A new method that a doctor may call must be in it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from operator import attrgetter
from typing import Any

import pytest

from engine import (
    CohortOrder,
    Detection,
    Engine,
    ImageQuery,
    Permission,
    Role,
    Settings,
    TakeOptions,
    errors,
)
from engine.operations.guard import GUARDED, SUBJECTS
from engine.permissions import allowed
from tests import builders
from tests.conftest import WHY, Team, Ward, text_png
from tests.fakes import FakeHost, ScriptedDetector
from tests.service.test_permissions import EVERYBODY, MAY

#: Methods a doctor may call that answer about many patients: they leave out those of others.
LISTS = {
    "patients.search",
    "withdrawals.waiting",
    "statistics.tables",
    "statistics.export",
    "search.choices",
    "objects.search",
    "randomness.measure",
}
#: Methods a doctor may call in which no patient of others can be named, and why.
NOBODYS = {
    "sessions.whoami": "oneself",
    "sessions.sign_out": "oneself",
    "account.change_password": "oneself",
    "sessions.prove": "oneself",
    "sessions.mine": "oneself",
    "sessions.end": "oneself",
    "sessions.sign_out_everywhere": "oneself",
    "account.second_factor": "oneself",
    "account.begin_passkey": "oneself",
    "account.begin_second_factor": "oneself",
    "account.confirm_passkey": "oneself",
    "account.remove_passkey": "oneself",
    "sessions.ask_passkey": "oneself",
    "sessions.renew": "oneself",
    "account.confirm_second_factor": "oneself",
    "account.renew_recovery_codes": "oneself",
    "account.remove_second_factor": "oneself",
    "exchange.offer": "a key for this session",
    "exchange.answer": "a key for this session",
    "care.doctors": "colleagues",
    "care.my_emergency_access": "one's own emergency access",
    "care.end_emergency_access": "one's own emergency access",
    "care.break_glass": "how the patient of others is opened; see test_care",
    "sendings.destinations": "nodes of the network",
    "packages.restore": "names the image in a file; see below",
    "release.saved_this_week": "counts of looks",
    "recipients.choices": "names of profiles",
    "recipients.lists": "names of recipients",
    "recipients.save_pseudonyms": "a list that the hospital gives",
    "recipients.patient_of": "finds the patient; see test_recipients",
    "cohorts.public_key": "a key that everybody may know",
    "cohorts.prepare": "names many; see below",
    "cohorts.files": "what this session prepared",
}
#: What a call does that others still need, so these come last.
_LAST = ("care.end", "withdrawals.flag", "withdrawals.question", "images.erase", "patients.erase")


def subject_of(method: str) -> str | None:
    """The kind of thing that a method names: patient, image, handle or none."""
    module, name = method.split(".")
    [service] = [
        c for _, c in inspect.getmembers(import_module(f"engine.service.{module}"), inspect.isclass)
        if c.__module__ == f"engine.service.{module}" and hasattr(c, name)
    ]  # fmt: skip
    parameters = list(inspect.signature(getattr(service, name)).parameters)
    for name, kind in {**SUBJECTS, "handle": "handle"}.items():
        if name in parameters:
            return kind
    return None


def test_every_method_that_a_doctor_may_call_is_in_the_table() -> None:
    for method, permission in GUARDED.items():
        if permission is None or allowed(Role.DOCTOR, permission):
            known = (subject_of(method) is not None) + (method in LISTS) + (method in NOBODYS)
            assert known == 1, f"{method}: whose patient is asked for?"


@dataclass(frozen=True)
class Case:
    """A patient with an image, and what a session has open of it."""

    patient_id: str
    number: str
    study_id: str
    image_id: str
    region_id: str
    handle: str
    study_handle: str


@dataclass(frozen=True)
class Clinic:
    """Two doctors' patients, of which one is the doctor's own."""

    engine: Engine
    team: Team
    own: Case
    other: Case
    nobody: Case
    exchange_id: str


@pytest.fixture
def clinic(settings: Settings) -> Iterator[Clinic]:
    bound = replace(settings, care_relation=True)
    host, detector = FakeHost(bound.data / "blobs"), ScriptedDetector(bound)
    engine = Engine.open(bound, host, detector=detector)
    team = Team(engine)
    cases = []
    for number, name in (("P-1", "Erika Musterfrau"), ("P-2", "Jan Nowak")):
        patient_id = engine.patients.create(team.technician, number, name).patient_id
        ward = Ward(engine, team, detector, patient_id)
        pixels, region = builders.labelled(name)
        image_id = ward.seal(
            builders.png(pixels), found=[Detection(region, "text", 0.9, "scripted")]
        )
        region_id = engine.images.regions(team.technician, image_id)[0].region_id
        engine.care.assign(team.technician, patient_id, "doctor")
        handle = engine.images.restore(team.doctor, image_id, WHY).handle
        [study] = engine.studies.of_patient(team.technician, patient_id)
        restored = engine.studies.restore(team.doctor, study.study_id, WHY).handle
        cases.append(
            Case(patient_id, number, study.study_id, image_id, region_id, handle, restored)
        )
    engine.care.end(team.administrator, "P-2", "doctor")
    nobody = Case("pt_none", "P-9", "st_none", "im_none", "rg_none", "vw_none", "vs_none")
    offer = engine.exchange.offer(team.doctor, "x25519")
    yield Clinic(engine, team, *cases, nobody, offer["exchange_id"])
    engine.close()


def _verdict(clinic: Clinic, method: str, role: Role, case: Case) -> str:
    """Who refused a call: ``role``, ``care``, or nobody before the method itself."""
    given: dict[str, Any] = {
        **vars(case), "exchange_id": clinic.exchange_id, "reason": WHY, "text": "seen",
        "username": "researcher", "name": "scan.png", "data": text_png()[0], "detections": [],
        "options": TakeOptions(), "hints": {}, "boxes": [], "others": [],
    }  # fmt: skip
    call: Callable = attrgetter(method)(clinic.engine)
    parameters = list(inspect.signature(call).parameters.values())[1:]
    arguments = [
        given.get(p.name, "something") for p in parameters
        if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    ]  # fmt: skip
    named = {p.name: given[p.name] for p in parameters if p.name in SUBJECTS}
    named = {n: v for n, v in named.items() if v not in arguments}
    unseen = _unseen(clinic.engine)
    try:
        call(clinic.team.token(role), *arguments, **named)
    except errors.PermissionDenied as err:
        return (
            "role"
            if err.message == f"The role {role} has no permission for this. Ask an administrator."
            else "nobody"
        )
    except errors.NotFound:
        return "care" if _unseen(clinic.engine) > unseen else "nobody"
    except errors.EngineError:
        return "nobody"
    return "nobody"


def _unseen(engine: Engine) -> int:
    return engine.context.database.read().count(
        "SELECT count(*) FROM audit WHERE action LIKE '%.access' AND outcome = 'refused'"
    )


def _expected(method: str, role: Role, whose: str) -> str:
    if role not in MAY[method]:
        return "role"
    bound = not allowed(role, Permission.EVERY_PATIENT)
    return "care" if bound and whose == "other" else "nobody"


def test_every_method_asks_for_role_and_care_relation(clinic: Clinic) -> None:
    methods = [m for m in MAY if subject_of(m) in SUBJECTS.values()]
    methods.sort(key=lambda m: _LAST.index(m) if m in _LAST else -1)
    found, expected = {}, {}
    for method in methods:
        for role in sorted(EVERYBODY):
            for whose in ("other", "own"):
                row = (method, str(role), whose)
                found[row] = _verdict(clinic, method, role, getattr(clinic, whose))
                expected[row] = _expected(method, role, whose)
    assert found == expected
    assert len(methods) > 20


def test_what_is_others_answers_like_what_does_not_exist(clinic: Clinic) -> None:
    """Word for word, and with one row in the log each."""
    engine, doctor = clinic.engine, clinic.team.doctor
    calls: dict[str, Callable[[Case], object]] = {
        "patient by key": lambda c: engine.patients.get(doctor, c.patient_id),
        "patient by number": lambda c: engine.patients.get(doctor, c.number),
        "history": lambda c: engine.patients.history(doctor, c.number),
        "notes": lambda c: engine.patients.notes(doctor, patient_id=c.patient_id),
        "notes of an image": lambda c: engine.patients.notes(doctor, c.image_id),
        "write a note": lambda c: engine.patients.add_note(
            doctor, c.patient_id, "seen", c.image_id
        ),
        "studies": lambda c: engine.studies.of_patient(doctor, c.patient_id),
        "study": lambda c: engine.studies.get(doctor, c.study_id),
        "masked files of a study": lambda c: engine.archives.masked(doctor, c.study_id),
        "originals of a study": lambda c: engine.archives.originals(doctor, c.study_handle),
        "restore a study": lambda c: engine.studies.restore(doctor, c.study_id, WHY),
        "open studies": lambda c: engine.studies.restorations(doctor, c.study_id),
        "picture of an open study": lambda c: engine.studies.restored_frame(
            doctor, c.study_handle, c.image_id
        ),
        "image": lambda c: engine.images.get(doctor, c.image_id),
        "thumbnail": lambda c: engine.images.thumbnail(doctor, c.image_id),
        "restore": lambda c: engine.images.restore(doctor, c.image_id, WHY),
        "numbers": lambda c: engine.images.assessment(doctor, c.image_id),
        "open picture": lambda c: engine.images.restored_frame(doctor, c.handle),
        "open file": lambda c: engine.images.restored_file(doctor, c.handle),
        "images of a patient": lambda c: [
            *engine.search.images(doctor, patient_id=c.patient_id).images
        ],
        "team": lambda c: engine.care.team(doctor, c.patient_id),
        "hand an image over": lambda c: engine.cohorts.prepare(
            doctor, CohortOrder(image_ids=[clinic.own.image_id, c.image_id], reason=WHY)
        ),
        "hand a study over": lambda c: engine.cohorts.prepare(
            doctor, CohortOrder(study_ids=[c.study_id], reason=WHY)
        ),
    }
    for name, call in calls.items():
        answers = []
        for case in (clinic.other, clinic.nobody):
            before = engine.context.database.read().count("SELECT count(*) FROM audit")
            with pytest.raises(errors.NotFound) as caught:
                call(case)
            rows = engine.context.database.read().count("SELECT count(*) FROM audit") - before
            answers.append((caught.value.message, caught.value.facts, rows))
        assert answers[0] == answers[1], name


def test_lists_searches_and_counts_leave_others_out(clinic: Clinic) -> None:
    engine, team = clinic.engine, clinic.team
    doctor = team.doctor
    assert [p.id for p in engine.patients.search(doctor)] == ["P-1"]
    for query in ("P-2", "Nowak", "jan"):
        assert engine.patients.search(doctor, query) == []
        assert [*engine.search.images(doctor, ImageQuery(text=query)).images] == []
    assert [p.id for p in engine.patients.search(team.technician, "jan")] == ["P-2"]
    assert [r.image_id for r in [*engine.search.images(doctor).images]] == [clinic.own.image_id]
    assert len(engine.statistics.tables(doctor).images) == 1
    assert len(engine.statistics.tables(doctor).regions) == 1
    assert engine.statistics.export(doctor, "images").data.count(b"\n") == 2  # heading and one row
    assert engine.randomness.measure(doctor).images == 1
    engine.withdrawals.flag(team.technician, clinic.other.image_id, "a name in the corner")
    assert engine.withdrawals.waiting(doctor) == []


def test_a_package_of_anothers_patient_opens_as_little_as_one_of_nobody(clinic: Clinic) -> None:
    engine, team = clinic.engine, clinic.team
    masked = engine.images.masked_file(team.technician, clinic.other.image_id).data
    package = engine.packages.export(team.technician, clinic.other.image_id).data
    forged = package.replace(clinic.other.image_id.encode(), b"im_" + b"0" * 24)
    assert forged != package
    messages = []
    for sealed in (package, forged):
        with pytest.raises(errors.NotFound) as caught:
            engine.packages.restore(team.doctor, masked, sealed, WHY)
        messages.append(caught.value.message)
    assert messages[0] == messages[1]


def test_without_the_setting_every_doctor_sees_every_patient(ward: Ward) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    assert ward.engine.images.restore(ward.team.doctor, image_id, WHY).proof == "bytes"
    assert [p.id for p in ward.engine.patients.search(ward.team.doctor)] == ["P-1"]
