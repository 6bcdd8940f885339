"""All errors of the engine, grouped by who must act.

The message of an error is for people: what happened and what to do next. Its attributes hold
facts (ids, limits, expected and found values). Neither contains secrets, patient data or file
names, because both end up in logs.
"""

from __future__ import annotations

from typing import Any, ClassVar


class EngineError(Exception):
    """Root of all named errors.

    Args:
        message: What happened and what to do, for people.
        facts: Ids, limits and counts; never secrets or patient data.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "engine-error"

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts
        #: Does the sentence come from a process that may have been taken over? It is for the
        #: person who sent the file, and not for a log.
        self.from_worker = False

    def __init_subclass__(cls) -> None:
        cls.code = "".join(
            f"-{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(cls.__name__)
        )


class InputError(EngineError):
    """The input is not valid; the sender must change it."""

    status = 422


class UnsupportedFormat(InputError):
    """The file format is not supported."""


class CorruptImage(InputError):
    """The file is damaged or truncated, or does not match its format."""


class OverBudget(CorruptImage):
    """A decoder was ended: it took more processor time than any file of this size should."""


class ImageTooLarge(InputError):
    """Over the limit of bytes, side length or decoded size; refused before decoding."""

    status = 413


class NeedsTooMuchMemory(ImageTooLarge):
    """Reading, sealing and restoring it takes more memory than there is for one file."""


class WrongInstance(InputError):
    """A data set is not of the class, or not the instance, that its sender announced."""


class CandidateWorse(InputError):
    """A learned version hides less of what names a patient than the one in force; ``facts`` names
    the shipped sets."""


class DuplicateImage(InputError):
    """An image with the same pixels exists; ``facts['image_id']`` is its id."""

    status = 409


class OtherPatient(InputError):
    """The file names another patient than the record; ``facts['differs']`` says in what."""

    status = 409


class AccessError(EngineError):
    """The user is not allowed to do this."""

    status = 403


class NotSignedIn(AccessError):
    """No session, or an expired one."""

    status = 401


class PermissionDenied(AccessError):
    """Signed in, but the role lacks the permission."""


class AccountLocked(AccessError):
    """Too many failed attempts; ``facts['seconds']`` is the time to wait."""

    status = 423


class CodeNeeded(AccessError):
    """The password was correct; a code of the second factor is required.

    Args:
        challenge: To be sent with the code. It is a short-lived secret and so not in the facts.
        passkey: Options for the account's passkeys, as JSON; empty where it has none.
    """

    status = 401

    def __init__(self, message: str, challenge: str, passkey: str = "") -> None:
        super().__init__(message)
        self.challenge = challenge
        self.passkey = passkey


class SecondFactorNeeded(AccessError):
    """The role requires a second factor, and the account has none yet."""


class StepUpNeeded(AccessError):
    """Re-authentication is required; ``facts['minutes']`` is how recent it must be.

    Status as in RFC 9470.
    """

    status = 401


class TooManyRequests(AccessError):
    """Too many requests; ``facts['seconds']`` is the time to wait."""

    status = 429


class NotFound(EngineError):
    """The object does not exist, or the user is not allowed to know of it."""

    status = 404


class ReviewNeeded(EngineError):
    """A person must review the image first; ``facts['reasons']`` lists why."""

    status = 409


class ConfirmationNeeded(EngineError):
    """Another administrator must confirm; ``facts['proposal_id']`` names what waits."""

    status = 409


class SealError(EngineError):
    """Sealed data cannot be opened."""

    status = 409


class UnknownKey(SealError):
    """Sealed with a key that is not in the keyring or was destroyed."""


class SealBroken(SealError):
    """The authentication tag does not match: data was changed, moved, swapped, cut or replayed."""


class RestoreMismatch(SealError):
    """Decryption succeeded, but the pixels differ from the digest taken at upload."""


class ExchangeError(SealError):
    """A key exchange was refused: invalid public value, used twice, or expired."""


class StorageError(EngineError):
    """The administrator must check disk, database or backup."""

    status = 500


class FileUnreadable(StorageError):
    """A file is there, and the disk does not give it: a bad sector, or rights."""


class StorageBusy(StorageError):
    """Another process has the catalog open, or a write waited too long."""

    status = 503


class StoreUnavailable(StorageBusy):
    """The object store does not answer, answers too slowly, or refuses. That says nothing about a
    file: the same can be done again."""


class FilesElsewhere(StorageError):
    """The stored files are in another place than the settings say."""


class OtherCopy(StorageError):
    """Another copy of this installation uses the stored files; none is deleted any more."""


class TurnLost(StorageBusy):
    """This server alone was to do something, and by now another one may do it, too."""


class ChangeUnknown(StorageError):
    """Nobody knows whether a change was saved: what it needs must stay, such as its files."""


class AuditBroken(StorageError):
    """The audit chain is broken at ``facts['sequence']``."""


class RosterBroken(StorageError):
    """Rows with accounts or access rights were changed outside MedSec."""


class BackupInvalid(StorageError):
    """A backup is incomplete, altered or from another system."""


#: What says that a file is lost or damaged. Everything else says nothing about it: that a store of
#: files or the database does not answer, for example.
DAMAGED = (NotFound, SealError, FileUnreadable)


class WorkerLost(EngineError):
    """A worker process of a batch died repeatedly on one file; the file is skipped."""


class MachineOverloaded(EngineError):
    """Too little memory, too many processes or too much work for this machine now. Nothing is
    wrong with what was sent: it can be sent again."""

    status = 503


class Cancelled(EngineError):
    """Nobody waits for the result any more, or the server stops."""

    status = 503


class MailFailed(EngineError):
    """The mail server is unavailable or refused a message; the message stays queued."""

    status = 502


class ForwardingFailed(EngineError):
    """The audit repository is unavailable; entries stay in the log and are sent later."""

    status = 502


class ReleaseBroken(EngineError):
    """A cohort is not what was signed: something is missing, was added or changed."""

    status = 422


class DetectorError(EngineError):
    """A detector could not run; images need review until it can."""


class SettingsError(EngineError):
    """The configuration is not valid; MedSec does not start."""


class SelfTestFailed(EngineError):
    """The cryptography does not give the known answers; MedSec does not start."""
