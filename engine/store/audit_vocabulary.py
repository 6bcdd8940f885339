"""What the actions of the audit log are called elsewhere: in plain words and in DICOM's codes.

Events and their codes are those of PS3.15 A.5.2 and PS3.16 CID 400, which FHIR uses as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from engine.permissions import Permission


class AuditEventId(Enum):
    """Kinds of event (PS3.16 CID 400), as (code value, code meaning)."""

    APPLICATION_ACTIVITY = ("110100", "Application Activity")
    AUDIT_LOG_USED = ("110101", "Audit Log Used")
    INSTANCES_ACCESSED = ("110103", "DICOM Instances Accessed")
    INSTANCES_TRANSFERRED = ("110104", "DICOM Instances Transferred")
    STUDY_DELETED = ("110105", "DICOM Study Deleted")
    EXPORT = ("110106", "Export")
    IMPORT = ("110107", "Import")
    NETWORK_ENTRY = ("110108", "Network Entry")
    PATIENT_RECORD = ("110110", "Patient Record")
    QUERY = ("110112", "Query")
    SECURITY_ALERT = ("110113", "Security Alert")
    USER_AUTHENTICATION = ("110114", "User Authentication")


@dataclass(frozen=True)
class Meaning:
    """An action of the log.

    Args:
        words: For somebody who does not know MedSec, such as a patient: what was done.
        event: Its kind.
        operation: ``C`` create, ``R`` read, ``U`` update, ``D`` delete, ``E`` execute.
    """

    words: str
    event: AuditEventId
    operation: str


_E = AuditEventId


def _all(event: AuditEventId, rows: dict[str, str]) -> dict[str, Meaning]:
    """Rows of one kind: an action, and its operation in front of its words."""
    return {action: Meaning(text[2:], event, text[0]) for action, text in rows.items()}


#: Every action that the engine writes; a test compares this with the code.
MEANINGS: dict[str, Meaning] = {
    **_all(
        _E.IMPORT,
        {
            "image.upload": "C Uploaded the image",
            "package.restore": "R Opened a sealed package",
            "instance.hold": "C Received an image of a patient who is not known",
            "instance.assign": "U Said whose a received image is",
        },
    ),
    **_all(
        _E.INSTANCES_ACCESSED,
        {
            "image.view": "R Looked at the masked image",
            "image.restore": "R Opened the original image",
            "study.restore": "R Asked to open the originals of a series or a study",
            "image.side": "R Looked for side markers in the original image",
            "image.metrics": "R Read measured numbers of the image",
            "image.list": "R Saw the image or the patient in a list",
            "image.look": "R Had a detector look at the image before sealing",
            "draft.preview": "R Looked at the image on a contact sheet before it was sealed",
            "draft.confirm": "U Confirmed the image on a contact sheet before it was sealed",
            "draft.unconfirm": "U Took back a confirmation of a contact sheet before sealing",
            "draft.boxes": "U Changed boxes of the image before sealing",
            "draft.answer": "U Said what a check of the image showed before sealing",
            "image.seal": "U Sealed the image",
            "instance.list": "R Saw received images of patients who are not known",
            "image.withdraw": "U Withdrew the image",
            "image.reopen": "U Took a withdrawn image up again",
            "image.history": "R Read what happened to the image",
            "image.move": "U Moved the image to another patient's record",
            "region.decrypt": "R Decrypted a sealed region",
            "draft.open": "R Opened the image before it was sealed",
            "box.add": "C Drew a box before sealing",
            "box.adopt": "U Took over a proposed box before sealing",
            "box.change": "U Changed a box before sealing",
            "box.leave": "U Left harmless text visible",
            "box.remove": "U Took a box away before sealing",
            "study.list": "R Read the list of studies",
            "study.read": "R Read what a study's masked images are",
        },
    ),
    **_all(
        _E.STUDY_DELETED,
        {
            "image.erase": "D Erased the image",
            "draft.discard": "D Discarded the image before it was sealed",
            "instance.discard": "D Discarded a received image of a patient who is not known",
        },
    ),
    **_all(
        _E.EXPORT,
        {
            "image.export": "R Downloaded the masked image",
            "image.download": "R Downloaded the original image",
            "study.export": "R Downloaded a series or a study",
            "image.send": "R Sent the image to another system of the network",
            "cohort.release": "R Handed a cohort of masked images over",
            "image.release": "R Handed the masked image over in a cohort",
            "package.export": "R Downloaded the sealed package",
            "statistics.export": "R Downloaded statistics",
            "training.export": "R Exported missed cases for training",
        },
    ),
    **_all(
        _E.PATIENT_RECORD,
        {
            "patient.create": "C Made a new record",
            "patient.read": "R Read the record",
            "patient.update": "U Changed the record",
            "patient.history": "R Read earlier versions of the record",
            "patient.differs": "E Filed images whose header names somebody else, and said why",
            "patient.merge": "U Merged another record into this one",
            "patient.merged": "U Merged this record into another one",
            "patient.erase": "D Erased the record",
            "patient.report": "R Made the report of who had access",
            "pseudonyms.read": "R Read the pseudonym that a recipient knows the patient by",
            "note.read": "R Read medical notes",
            "note.write": "C Wrote a medical note",
            "care.assign": "U Made a doctor responsible for the patient",
            "care.end": "U Ended a doctor's responsibility for the patient",
            "care.read": "R Read who treats the patient",
        },
    ),
    **_all(
        _E.QUERY,
        {
            "patient.search": "E Searched for patients",
            "image.find": "E Searched for images",
            "study.search": "E Searched for studies from another program",
            "care.list": "E Listed care relations",
            "statistics.read": "R Read statistics",
            "statistics.randomness": "E Measured the randomness of encrypted data",
            "training.list": "R Listed missed cases",
        },
    ),
    **_all(
        _E.SECURITY_ALERT,
        {
            "glass.break": "E Took emergency access",
            "glass.end": "E Ended emergency access",
            "glass.list": "R Listed emergency access",
            "glass.review": "E Reviewed an emergency access",
            "patient.access": "R Was refused: no relation to the patient",
            "study.access": "R Was refused: no relation to the patient",
            "image.access": "R Was refused: no relation to the patient",
            "region.access": "R Was refused: no relation to the patient",
            "node.associate": "E Called from another system of the network",
            "node.save": "U Changed what a system of the network may do",
            "node.reset": "D Removed a system of the network",
            "deidentification.save": "U Changed a de-identification profile",
            "deidentification.reset": "D Removed a de-identification profile",
            "pseudonyms.save": "U Changed a recipient's list of pseudonyms",
            "forwarding.save": "U Changed which images go to other systems of the network",
            "forwarding.reset": "D Removed a rule by which images go to other systems",
            "sending.retry": "E Had an image sent to another system again",
            "sending.cancel": "U Cancelled an image on its way to another system",
            "class.grant": "U Changed which classes an account may restore",
            "account.approve": "C Approved a requested account",
            "account.change-password": "U Changed the own password",
            "account.confirm": "E Confirmed a proposed change of an account",
            "account.create": "C Created an account",
            "account.decline": "D Declined a requested account",
            "account.disable": "U Disabled an account",
            "account.drop-proposal": "D Dropped a proposed change of an account",
            "account.enable": "U Enabled an account",
            "account.end-sessions": "E Ended the sessions of an account",
            "account.first-administrator": "C Created the first administrator",
            "account.link-identity": "U Linked an account to a single sign-on",
            "account.propose": "C Proposed a change of an account",
            "account.passkey-add": "C Added a passkey",
            "account.passkey-remove": "D Removed a passkey",
            "account.recovery-codes": "C Made new recovery codes",
            "account.request": "C Requested an account",
            "account.reset-password": "U Reset a password",
            "account.reset-second-factor": "U Removed the second factor of an account",
            "account.second-factor-begin": "C Began to set up a second factor",
            "account.second-factor-off": "U Removed the own second factor",
            "account.second-factor-on": "U Set up a second factor",
            "account.set-role": "U Changed the role of an account",
            "key.add": "C Added a root key",
            "key.drill": "E Tried out recovery shares",
            "key.rotate": "U Wrapped keys under a new root key",
            "key.share": "C Made recovery shares",
            "roster.accept": "U Accepted accounts and rights changed outside",
            "roster.begin": "E Began to watch accounts and rights",
            "roster.verify": "E Checked accounts and rights",
            "files.contest": "E Found another copy of the installation on the stored files",
            "scrub.broken": "E Found a damaged file",
            "clock.back": "E Found the clock set back",
        },
    ),
    **_all(
        _E.USER_AUTHENTICATION,
        {
            "account.meet-identity": "E Met a single sign-on",
            "session.sign-in": "E Signed in",
            "session.sign-out": "E Signed out",
            "session.sign-out-everywhere": "E Signed out everywhere",
            "session.end": "E Ended an own session",
            "session.renew": "U Renewed the token of a session",
            "session.prove": "E Confirmed who they are",
            "session.refresh": "E Renewed a token",
            "session.revoke": "E Ended a session",
            "session.use": "E Used a session",
            "key.exchange": "E Agreed on a key for a download",
        },
    ),
    **_all(
        _E.AUDIT_LOG_USED,
        {
            "audit.read": "R Read the audit log",
            "audit.export": "R Exported the audit log",
            "audit.verify": "R Verified the audit log",
            "audit.checkpoint": "C Wrote a checkpoint of the audit log",
        },
    ),
    **_all(
        _E.APPLICATION_ACTIVITY,
        {
            "system.start": "E Started the system",
            "backup.make": "C Made a backup",
            "backup.prune": "D Removed an old backup",
            "backup.restore": "U Restored a backup",
            "database.move": "U Moved the catalog to another database",
            "backup.verify": "R Verified a backup",
            "files.claim": "U Let this copy of the installation go on with the stored files",
            "files.move": "U Moved the stored files to another place",
            "files.sweep": "D Removed files that belong to nothing",
            "mail.test": "E Sent a test mail",
            "release.trust": "E Found that images of a stream may be released without a look",
            "profile.save": "U Changed a profile",
            "profile.reset": "U Set a profile back",
            "guest.save": "C Added a network of the hospital",
            "guest.reset": "D Removed a network of the hospital",
            "network.save": "U Changed which learned version of the network looks",
            "network.reset": "D Removed a learned version of the network",
            "network.promote": "U Put a learned version of the network in force",
            "network.roll-back": "U Put the version of the network before in force again",
            "network.propose": "C Proposed to put a learned version of the network in force",
            "network.drop-proposal": "D Dropped the proposal of a version of the network",
            "network.compare": "E Compared versions of the network",
            "network.confirm": "E Confirmed a proposed version of the network",
            "shadow.look": "E Looked at the image with a learned version, without any effect",
            "shadow.decide": "E Compared a learned version with what a person decided",
            "evaluation.save": "C Added an evaluation of a network",
            "evaluation.reset": "D Removed an evaluation of a network",
            "setting.save": "U Changed a setting",
            "setting.reset": "U Set a setting back",
            "profile.compare": "E Compared profiles",
            "scrub.finish": "E Checked all stored files",
            "training.keep": "C Kept a missed case for training",
            "training.expire": "D Removed expired missed cases",
        },
    ),
}

#: What a caller was refused for want of a permission is logged under the permission's name.
_REFUSED = Meaning("Was refused: no permission", AuditEventId.SECURITY_ALERT, "E")


def meaning(action: str) -> Meaning:
    """What an action means; of one that a later release wrote, its name stands for the words."""
    if action in MEANINGS:
        return MEANINGS[action]
    if action in set(Permission):
        return _REFUSED
    return Meaning(action, AuditEventId.APPLICATION_ACTIVITY, "E")
