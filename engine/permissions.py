"""Who may do what, as data. Everything else asks here; the default is no."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    TECHNICIAN = "technician"
    DOCTOR = "doctor"
    RESEARCHER = "researcher"
    ADMINISTRATOR = "administrator"
    MONITOR = "monitor"  # a monitoring system with a token of the settings; never signs in
    OPERATOR = "operator"  # the command line on this machine; never signs in


class Permission(StrEnum):
    """A verb that a role may or may not use."""

    UPLOAD = "image.upload"  # files in, drafts, corrections, sealing
    VIEW_MASKED = "image.view-masked"  # masked picture, grid, box list
    RESTORE = "image.restore"  # see what is under the boxes
    VIEW_METRICS = "image.metrics"  # numbers of one image computed from hidden pixels
    EXPORT = "image.export"  # take a masked file away
    FLAG = "image.flag"  # report a missed identifier
    DELETE_IMAGE = "image.erase"
    LIST_PATIENTS = "patient.list"
    EDIT_PATIENTS = "patient.edit"
    MERGE_PATIENTS = "patient.merge"  # two records of one person become one, for good
    READ_PATIENT_NOTE = "patient.read-note"  # the clinical free text of a record
    ERASE_PATIENTS = "patient.erase"
    READ_HISTORY = "patient.history"
    EVERY_PATIENT = "patient.every"  # needs no care relation where one is asked for
    ASSIGN_CARE = "care.assign"  # say which doctor treats which patient
    BREAK_GLASS = "glass.break"  # open a patient of others in an emergency
    REVIEW_ACCESS = "access.review"  # care relations by number, broken glass and its review
    GRANT_CLASSES = "class.grant"  # which region classes an account may restore
    ACCEPT_ROSTER = "roster.accept"  # rights changed outside MedSec: the operator alone
    EXPORT_TRAINING = "training.export"  # missed cases, sealed to a key: the operator alone
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
            # At admission it is they who know the order, and so who treats the patient.
            P.EVERY_PATIENT, P.ASSIGN_CARE, P.MERGE_PATIENTS,
        }
    ),
    Role.DOCTOR: frozenset(
        {
            P.VIEW_MASKED, P.RESTORE, P.VIEW_METRICS, P.EXPORT, P.FLAG, P.LIST_PATIENTS,
            P.READ_PATIENT_NOTE, P.READ_HISTORY, P.WRITE_NOTES, P.READ_NOTES, P.STATISTICS,
            # To bring in a colleague; the Engine lets only those do it who treat the patient.
            P.ASSIGN_CARE, P.BREAK_GLASS,
        }
    ),
    Role.RESEARCHER: frozenset({P.STATISTICS, P.EVERY_PATIENT}),
    Role.ADMINISTRATOR: frozenset(
        {
            P.STATISTICS, P.MANAGE_ACCOUNTS, P.READ_AUDIT, P.MANAGE_SETTINGS, P.MANAGE_KEYS,
            P.MANAGE_BACKUPS, P.VIEW_HEALTH,
            # Erasing destroys a key and shows nothing: a request names the number or id.
            P.ERASE_PATIENTS, P.DELETE_IMAGE,
            # Patients are numbers here: no name, no picture, no note.
            P.EVERY_PATIENT, P.ASSIGN_CARE, P.REVIEW_ACCESS, P.GRANT_CLASSES,
        }
    ),
    Role.MONITOR: frozenset({P.VIEW_HEALTH}),
    # One machine's operator holds the root key anyway; pretending otherwise would be theatre.
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
    """The one verdict: does this role hold this permission?"""
    return permission in GRANTS.get(role, frozenset())
