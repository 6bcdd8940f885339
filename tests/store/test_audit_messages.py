"""The audit log in other systems' words: complete, valid, without patient data."""

from __future__ import annotations

import ast
import re
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from fhir.resources.R4B.auditevent import AuditEvent

from engine.permissions import Permission
from engine.records import AuditEntry
from engine.store.audit_messages import dicom_audit_message, fhir_audit_event, syslog_line
from engine.store.audit_vocabulary import MEANINGS, AuditEventId, meaning

ROOT = Path(__file__).parents[2]
#: What the code makes of pieces.
COMPOSED = {
    *(f"{kind}.access" for kind in ("patient", "study", "image", "region")),
    *(f"{noun}.{verb}"
      for noun in ("profile", "guest", "evaluation", "setting", "node", "deidentification",
                   "forwarding", "network")
      for verb in ("save", "reset")),
}  # fmt: skip
_ACTION = re.compile(r"[a-z]+\.[a-z]+(-[a-z]+)*")


def entry(**given: object) -> AuditEntry:
    facts: dict[str, object] = {
        "sequence": 7,
        "occurred_at": datetime.fromisoformat("2026-11-29T10:11:12.345678"),
        "actor": "dr.house",
        "role": "doctor",
        "action": "image.restore",
        "outcome": "completed",
        "patient_id": "pt_1",
        "image_id": "im_1",
        "region_id": None,
        "reason": "second opinion for Erika",
        "origin": "192.0.2.7",
        "detail": {},
        "digest": "0" * 64,
    }
    return AuditEntry(**{**facts, **given})  # type: ignore[arg-type]


def actions() -> set[str]:
    """Every action that the engine can write: what ``Event`` gets, by itself or by a variable."""
    found = set(COMPOSED)
    for path in (ROOT / "engine").rglob("*.py"):
        if path.name == "audit_vocabulary.py":
            continue
        text = path.read_text(encoding="utf-8")
        if "Event(" not in text and "event(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Event" and node.args:
                found |= {v for v in [getattr(node.args[0], "value", None)] if isinstance(v, str)}
            value = node.value if isinstance(node, ast.Constant) else None
            if isinstance(value, str) and _ACTION.fullmatch(value):
                found |= {value} if value.partition(".")[0] in _NOUNS else set()
    return found


_NOUNS = {name.partition(".")[0] for name in MEANINGS}


def test_every_action_has_a_meaning_and_every_meaning_an_action() -> None:
    known = set(MEANINGS) | set(Permission)
    assert not actions() - known, "give these a row in audit_vocabulary"
    assert not set(MEANINGS) - actions(), "nothing writes these"


def test_what_a_later_release_wrote_keeps_its_name() -> None:
    assert meaning("tomorrow.action").words == "tomorrow.action"
    assert meaning("image.view-masked").event is AuditEventId.SECURITY_ALERT


@pytest.mark.parametrize("action", sorted(MEANINGS))
@pytest.mark.parametrize("outcome", ["ok", "completed", "requested", "refused", "failed"])
def test_every_action_is_a_valid_audit_event(action: str, outcome: str) -> None:
    for patient_id in ("pt_1", None):
        resource = fhir_audit_event(
            entry(action=action, outcome=outcome, patient_id=patient_id), "Ward 3"
        )
        AuditEvent.model_validate(resource)
        assert (patient_id is not None) == ("pt_1" in str(resource))


def test_a_restoration_is_what_balp_calls_reading_a_patients_data() -> None:
    resource = fhir_audit_event(entry(detail={"glass": "eg_1"}), "Ward 3")
    assert resource["meta"]["profile"] == [
        "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit.PatientRead"
    ]
    assert [c["code"] for c in resource["subtype"]] == ["read", "image.restore"]
    codes = [a["type"]["coding"][0]["code"] for a in resource["agent"]]
    assert codes == ["110152", "110153", "IRCP"]  # to the client, from the server, for a person
    assert resource["agent"][0]["network"] == {"address": "192.0.2.7", "type": "2"}
    assert [e["role"]["code"] for e in resource["entity"]] == ["1", "4"]
    assert resource["purposeOfEvent"][0]["coding"][0]["code"] == "BTG"
    assert resource["purposeOfEvent"][0]["text"] == "second opinion for Erika"


def test_what_was_refused_claims_no_profile() -> None:
    resource = fhir_audit_event(entry(outcome="refused"), "Ward 3")
    assert "meta" not in resource
    assert resource["outcome"] == "4"
    assert resource["type"]["code"] == "110103"


def test_the_dicom_message_has_what_ps3_15_asks_for() -> None:
    root = ET.fromstring(dicom_audit_message(entry(), "Ward 3"))  # noqa: S314 - our own
    order = ["EventIdentification", "ActiveParticipant", "ActiveParticipant",
             "AuditSourceIdentification", "ParticipantObjectIdentification",
             "ParticipantObjectIdentification"]  # fmt: skip
    assert [child.tag for child in root] == order
    event = root[0]
    assert event.get("EventActionCode") == "R"
    assert event.get("EventOutcomeIndicator") == "0"
    assert datetime.fromisoformat(event.get("EventDateTime") or "").tzinfo is not None
    for code in root.iter("EventID"):
        assert code.attrib == {
            "csd-code": "110103",
            "codeSystemName": "DCM",
            "originalText": "DICOM Instances Accessed",
        }
    assert [p.get("UserIsRequestor") for p in root.iter("ActiveParticipant")] == ["true", "false"]
    patient, image = root.iter("ParticipantObjectIdentification")
    assert (patient.get("ParticipantObjectID"), image.get("ParticipantObjectID")) == (
        "pt_1",
        "im_1",
    )


def test_reasons_stay_here() -> None:
    assert b"Erika" not in dicom_audit_message(entry(), "Ward 3")
    assert b"Erika" not in syslog_line(entry(), "Ward 3")


def test_a_syslog_line_counts_its_bytes() -> None:
    line = syslog_line(entry(actor="dr. Łukasz", outcome="failed"), "Klinik Süd")
    size, _, message = line.partition(b" ")
    assert int(size) == len(message)
    assert message.startswith(
        b"<84>1 2026-11-29T10:11:12.345678+00:00 Klinik_S_d MedSec - DICOM+RFC3881 - "
        b"\xef\xbb\xbf<?xml"
    )
