"""Roles and their permissions, as data. Permissions that are not granted are denied."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    TECHNICIAN = "technician"
    DOCTOR = "doctor"
    RESEARCHER = "researcher"
    ADMINISTRATOR = "administrator"
    NODE = "node"  # a modality or archive of the network (DICOM); cannot sign in
    MONITOR = "monitor"  # a monitoring system with the metrics token; cannot sign in
    OPERATOR = "operator"  # the command line on this machine; cannot sign in


class Permission(StrEnum):
    """An action that can be granted to a role."""

    UPLOAD = "image.upload"  # upload, drafts, corrections, sealing
    RECEIVE = "image.receive"  # hand an instance in over the network, and nothing else
    QUERY = "object.query"  # find and fetch masked objects over the network, as its node allows
    VIEW_MASKED = "image.view-masked"  # masked picture, grid, box list
    RESTORE = "image.restore"  # see the content of sealed regions
    VIEW_METRICS = "image.metrics"  # numbers of one image computed from hidden pixels
    EXPORT = "image.export"  # download a masked file
    RELEASE_COHORT = "cohort.release"  # hand masked studies over to another institution
    FLAG = "image.flag"  # report a missed identifier
    DELETE_IMAGE = "image.erase"
    LIST_PATIENTS = "patient.list"
    EDIT_PATIENTS = "patient.edit"
    MERGE_PATIENTS = "patient.merge"  # merge two records of one person; irreversible
    READ_PATIENT_NOTE = "patient.read-note"  # the clinical free text of a record
    ERASE_PATIENTS = "patient.erase"
    READ_HISTORY = "patient.history"
    EVERY_PATIENT = "patient.every"  # access without a care relation
    ASSIGN_CARE = "care.assign"  # add and remove doctors of a patient
    BREAK_GLASS = "glass.break"  # emergency access (break-glass)
    REVIEW_ACCESS = "access.review"  # care relations by number, review of emergency access
    GRANT_CLASSES = "class.grant"  # which region classes an account may restore
    ACCEPT_ROSTER = "roster.accept"  # accept rights changed outside MedSec: operator only
    EXPORT_TRAINING = "training.export"  # missed cases, encrypted to a key: operator only
    WRITE_NOTES = "note.write"
    READ_NOTES = "note.read"
    STATISTICS = "statistics.view"  # aggregates without patient data
    MANAGE_ACCOUNTS = "account.manage"
    READ_AUDIT = "audit.read"
    MANAGE_SETTINGS = "settings.manage"
    MANAGE_KEYS = "key.manage"
    MANAGE_BACKUPS = "backup.manage"
    VIEW_HEALTH = "health.view"


P = Permission

#: The only place where roles get their permissions (F4, F25, F26, F27, G13).
GRANTS: dict[Role, frozenset[Permission]] = {
    Role.TECHNICIAN: frozenset(
        {
            P.UPLOAD, P.VIEW_MASKED, P.EXPORT, P.FLAG, P.LIST_PATIENTS, P.EDIT_PATIENTS,
            # At admission they have the order, and so know the treating doctors.
            P.EVERY_PATIENT, P.ASSIGN_CARE, P.MERGE_PATIENTS,
        }
    ),
    Role.DOCTOR: frozenset(
        {
            P.VIEW_MASKED, P.RESTORE, P.VIEW_METRICS, P.EXPORT, P.FLAG, P.LIST_PATIENTS,
            P.RELEASE_COHORT, P.READ_PATIENT_NOTE, P.READ_HISTORY, P.WRITE_NOTES, P.READ_NOTES,
            P.STATISTICS,
            # To add a colleague; the engine allows this to treating doctors only.
            P.ASSIGN_CARE, P.BREAK_GLASS,
        }
    ),
    Role.RESEARCHER: frozenset({P.STATISTICS, P.EVERY_PATIENT}),
    Role.ADMINISTRATOR: frozenset(
        {
            P.STATISTICS, P.MANAGE_ACCOUNTS, P.READ_AUDIT, P.MANAGE_SETTINGS, P.MANAGE_KEYS,
            P.MANAGE_BACKUPS, P.VIEW_HEALTH,
            # Erasure destroys a key and shows no data; it takes a number or id.
            P.ERASE_PATIENTS, P.DELETE_IMAGE,
            # These show patient numbers only: no names, pictures or notes.
            P.EVERY_PATIENT, P.ASSIGN_CARE, P.REVIEW_ACCESS, P.GRANT_CLASSES,
        }
    ),
    Role.NODE: frozenset({P.RECEIVE, P.QUERY}),
    Role.MONITOR: frozenset({P.VIEW_HEALTH}),
    # The operator has the root key anyway, so restrictions would protect nothing.
    Role.OPERATOR: frozenset(Permission),
}  # fmt: skip

#: Roles that an account can hold. One account has exactly one role, so an
#: administrator never holds a clinical role at the same time.
ACCOUNT_ROLES: tuple[Role, ...] = (
    Role.TECHNICIAN,
    Role.DOCTOR,
    Role.RESEARCHER,
    Role.ADMINISTRATOR,
)


def allowed(role: Role, permission: Permission) -> bool:
    """Does this role have this permission?"""
    return permission in GRANTS.get(role, frozenset())
