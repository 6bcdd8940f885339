"""Entries of the audit log as other systems read them: FHIR AuditEvent and DICOM audit messages.

FHIR is R4 with the profiles of IHE BALP (Basic Audit Log Patterns) where an entry is what a profile
describes: somebody did something to a known patient's data, and it was done. DICOM is the audit
message of PS3.15 A.5.1, in a syslog line of RFC 5424 as ATNA sends it. Both name patients and
images by the opaque keys of this installation, and contain neither names nor hospital numbers.
Reasons are free text: the FHIR form has them, since its reader may read the log; what is sent to
another system by itself does not.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC
from typing import Any
from xml.etree import ElementTree as ET

from engine.permissions import Role
from engine.records import AuditEntry
from engine.store.audit_vocabulary import meaning

_DCM = "http://dicom.nema.org/resources/ontology/DCM"
_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
_BALP = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit"
#: Outcomes of the log as RFC 3881 5.1.4 counts them: success, minor and serious failure.
_OUTCOMES = {"ok": "0", "completed": "0", "requested": "0", "refused": "4", "failed": "8"}
#: FHIR's verb for an operation, and BALP's profile of it for a patient's data.
_RESTFUL = {
    "C": ("create", "PatientCreate"),
    "R": ("read", "PatientRead"),
    "U": ("update", "PatientUpdate"),
    "D": ("delete", "PatientDelete"),
}
#: Who acts without being a person.
_MACHINES = {Role.OPERATOR, Role.MONITOR}


def fhir_audit_event(entry: AuditEntry, site: str) -> dict[str, Any]:
    """One entry as an AuditEvent resource of FHIR R4.

    Args:
        site: The installation, as the hospital names it.

    Returns:
        The resource as JSON. Its id is the entry's number, so that what is exported twice is the
        same resource.
    """
    what = meaning(entry.action)
    about = (
        bool(entry.patient_id) and _OUTCOMES[entry.outcome] == "0" and what.operation in _RESTFUL
    )
    resource: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": f"medsec-{entry.sequence}",
        "type": _coding(f"{_TERMINOLOGY}/audit-event-type", "rest", "RESTful Operation")
        if about
        else _coding(_DCM, *what.event.value),
        "subtype": [_coding("urn:medsec:audit-action", entry.action, what.words)],
        "action": what.operation,
        "recorded": _moment(entry),
        "outcome": _OUTCOMES[entry.outcome],
        "outcomeDesc": entry.outcome,
        "agent": _fhir_agents(entry, what.operation),
        "source": {
            "site": site,
            "observer": {"display": "MedSec"},
            "type": [_coding(f"{_TERMINOLOGY}/security-source-type", "4", "Application Server")],
        },
    }
    if about:
        verb, profile = _RESTFUL[what.operation]
        resource["meta"] = {"profile": [f"{_BALP}.{profile}"]}
        resource["subtype"].insert(
            0, _coding("http://hl7.org/fhir/restful-interaction", verb, verb)
        )
    purpose = _purpose(entry)
    if purpose:
        resource["purposeOfEvent"] = [purpose]
    entities = _fhir_entities(entry)
    if entities:
        resource["entity"] = entities
    return resource


def _moment(entry: AuditEntry) -> str:
    """When, with its zone."""
    return entry.occurred_at.replace(tzinfo=UTC).isoformat()


def _coding(system: str, code: str, display: str) -> dict[str, str]:
    return {"system": system, "code": code, "display": display}


def _purpose(entry: AuditEntry) -> dict[str, Any] | None:
    """Why: the person's reason, and that it was an emergency access."""
    purpose: dict[str, Any] = {}
    if "glass" in entry.detail:
        purpose["coding"] = [_coding(f"{_TERMINOLOGY}/v3-ActReason", "BTG", "break the glass")]
    if entry.reason:
        purpose["text"] = entry.reason
    return purpose or None


def _fhir_agents(entry: AuditEntry, operation: str) -> list[dict[str, Any]]:
    """The person, and the two ends of what they did: for a read, data go from us to them."""
    ends = ("110153", "Source Role ID"), ("110152", "Destination Role ID")
    here, there = ends if operation == "R" else ends[::-1]
    person: dict[str, Any] = {
        "type": {
            "coding": [
                _coding(f"{_TERMINOLOGY}/v3-ParticipationType", "IRCP", "information recipient")
            ]
        },
        "who": {"identifier": {"system": "urn:medsec:account", "value": entry.actor}},
        "role": [{"text": entry.role}],
        "requestor": True,
    }
    client: dict[str, Any] = {
        "type": {"coding": [_coding(_DCM, *there)]},
        "who": {"display": "command line" if entry.role in _MACHINES else "browser or client"},
        "requestor": False,
        "network": _network(entry.origin),
    }
    server = {
        "type": {"coding": [_coding(_DCM, *here)]},
        "who": {"display": "MedSec"},
        "requestor": False,
        "network": {"address": "MedSec", "type": "1"},
    }
    return [client, server, person]


def _network(origin: str) -> dict[str, str]:
    """Where from: an address (type 2), else the name of a machine or a way in (type 1)."""
    try:
        return {"address": str(ipaddress.ip_address(origin)), "type": "2"}
    except ValueError:
        return {"address": origin or "MedSec", "type": "1"}


def _fhir_entities(entry: AuditEntry) -> list[dict[str, Any]]:
    """The patient, and what of them was touched."""
    entities = []
    if entry.patient_id:
        entities.append(
            {
                "what": {
                    "type": "Patient",
                    "identifier": {"system": "urn:medsec:patient", "value": entry.patient_id},
                },
                "type": _coding(f"{_TERMINOLOGY}/audit-entity-type", "1", "Person"),
                "role": _coding(f"{_TERMINOLOGY}/object-role", "1", "Patient"),
            }
        )
    # BALP wants the data beside the patient: where the entry names none, it is the record.
    touched = _touched(entry) or (("record", entry.patient_id) if entry.patient_id else None)
    if touched:
        kind, name = touched
        entities.append(
            {
                "what": {"identifier": {"system": f"urn:medsec:{kind}", "value": name}},
                "type": _coding(f"{_TERMINOLOGY}/audit-entity-type", "2", "System Object"),
                "role": _coding(f"{_TERMINOLOGY}/object-role", "4", "Domain Resource"),
            }
        )
    return entities


def _touched(entry: AuditEntry) -> tuple[str, str] | None:
    """The narrowest thing that the entry names, as (kind, key)."""
    if entry.region_id:
        return "region", entry.region_id
    image_id = entry.image_id or entry.detail.get("image")
    return ("image", str(image_id)) if image_id else None


def dicom_audit_message(entry: AuditEntry, site: str) -> bytes:
    """One entry as an audit message of PS3.15 A.5.1, without its reason.

    Args:
        site: AuditSourceID: the installation, as the hospital names it.

    Returns:
        XML, UTF-8, with its declaration.
    """
    what = meaning(entry.action)
    root = ET.Element("AuditMessage")
    event = ET.SubElement(
        root,
        "EventIdentification",
        EventActionCode=what.operation,
        EventDateTime=_moment(entry),
        EventOutcomeIndicator=_OUTCOMES[entry.outcome],
    )
    _code(event, "EventID", *what.event.value)
    _code(event, "EventTypeCode", entry.action, what.words, "MedSec")
    if "glass" in entry.detail:
        _code(event, "PurposeOfUse", "BTG", "break the glass", "v3-ActReason")
    network = _network(entry.origin)
    person = ET.SubElement(
        root,
        "ActiveParticipant",
        UserID=entry.actor or "system",
        UserIsRequestor="true",
        NetworkAccessPointID=network["address"],
        NetworkAccessPointTypeCode=network["type"],
    )
    _code(person, "RoleIDCode", entry.role, entry.role, "MedSec")
    server = ET.SubElement(root, "ActiveParticipant", UserID="MedSec", UserIsRequestor="false")
    _code(server, "RoleIDCode", "110150", "Application")
    source = ET.SubElement(root, "AuditSourceIdentification", AuditSourceID=site)
    ET.SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})
    if entry.patient_id:
        _object(root, "1", "1", ("2", "Patient Number", "RFC-3881"), entry.patient_id)
    touched = _touched(entry)
    if touched:
        kind, name = touched
        _object(root, "2", "4", (kind, kind, "MedSec"), name)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _code(parent: ET.Element, tag: str, code: str, text: str, system: str = "DCM") -> None:
    given = {"csd-code": code, "codeSystemName": system, "originalText": text}
    ET.SubElement(parent, tag, given)


def _object(
    root: ET.Element, kind: str, role: str, id_type: tuple[str, str, str], name: str
) -> None:
    """A ParticipantObjectIdentification: 1 person, 2 system object; role 1 patient, 4 resource."""
    found = ET.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=name,
        ParticipantObjectTypeCode=kind,
        ParticipantObjectTypeCodeRole=role,
    )
    code, text, system = id_type
    _code(found, "ParticipantObjectIDTypeCode", code, text, system)


def syslog_line(entry: AuditEntry, site: str) -> bytes:
    """The DICOM message of an entry as a syslog message of RFC 5424, in one frame of RFC 5425.

    Facility is 10 (security), severity 5 (notice) or 4 (warning, where it was refused or failed);
    the message id is that of DICOM's audit messages.
    """
    severity = 5 if _OUTCOMES[entry.outcome] == "0" else 4
    head = f"<{10 * 8 + severity}>1 {_moment(entry)} {_printable(site)} MedSec - DICOM+RFC3881 - "
    message = head.encode("ascii") + b"\xef\xbb\xbf" + dicom_audit_message(entry, site)
    return str(len(message)).encode() + b" " + message


def _printable(name: str) -> str:
    """A host name of RFC 5424: printable ASCII without spaces, 255 characters at most."""
    kept = "".join(c if "!" <= c <= "~" else "_" for c in name)[:255]
    return kept or "-"
