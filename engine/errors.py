"""Every way the engine refuses, named after who must act.

The message of an error is a sentence for a person: what happened and what to do.
Its attributes carry facts (ids, limits, expected and found). Neither ever carries
a secret, a patient's data or a file name, because both end up in logs.
"""

from __future__ import annotations

from typing import Any, ClassVar


class EngineError(Exception):
    """Root of all named errors.

    Args:
        message: A sentence for a person.
        facts: Ids, limits and counts; never secrets or patient data.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "engine-error"

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts

    def __init_subclass__(cls) -> None:
        cls.code = "".join(
            f"-{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(cls.__name__)
        )


class InputError(EngineError):
    """The person who sent something must send something else."""

    status = 422


class UnsupportedFormat(InputError):
    """Real bytes, but of a kind that MedSec does not take."""


class CorruptImage(InputError):
    """The bytes are not what they say they are, or end too early."""


class ImageTooLarge(InputError):
    """Over the limit in bytes, sides or decoded pixels; refused before decoding."""

    status = 413


class DuplicateImage(InputError):
    """The same pixels are already there; ``facts['image_id']`` says where."""

    status = 409


class AccessError(EngineError):
    """The person may not do this."""

    status = 403


class NotSignedIn(AccessError):
    """No session, or one that ended."""

    status = 401


class PermissionDenied(AccessError):
    """Signed in, but the role lacks the permission."""


class AccountLocked(AccessError):
    """Too many failed attempts; ``facts['seconds']`` says how long to wait."""

    status = 423


class CodeNeeded(AccessError):
    """The password was right; the second factor's code is missing.

    Args:
        challenge: What the code is sent with; a secret for minutes, so not among the facts.
    """

    status = 401

    def __init__(self, message: str, challenge: str) -> None:
        super().__init__(message)
        self.challenge = challenge


class SecondFactorNeeded(AccessError):
    """The role wants a second factor, and the account has none yet."""


class StepUpNeeded(AccessError):
    """The session must prove again who holds it; ``facts['minutes']`` says how fresh.

    The status is that of RFC 9470.
    """

    status = 401


class TooManyRequests(AccessError):
    """Asked for too often; ``facts['seconds']`` says how long to wait."""

    status = 429


class NotFound(EngineError):
    """There is no such thing, or none that this person may know of."""

    status = 404


class ReviewNeeded(EngineError):
    """A person must look before this can go on; ``facts['reasons']`` says why."""

    status = 409


class SealError(EngineError):
    """Something sealed cannot be opened."""

    status = 409


class UnknownKey(SealError):
    """Sealed under a key that the keyring does not hold, or that was destroyed."""


class SealBroken(SealError):
    """The authentication tag does not match: changed, moved, swapped, cut or replayed."""


class RestoreMismatch(SealError):
    """Everything opened, but the pixels are not those of the intake digest."""


class ExchangeError(SealError):
    """A key exchange was refused: a bad public value, used twice, or expired."""


class StorageError(EngineError):
    """The administrator must look at disk, database or backup."""

    status = 500


class StorageBusy(StorageError):
    """Somebody else holds the catalog, or a write had to wait too long."""

    status = 503


class AuditBroken(StorageError):
    """The audit chain does not verify from ``facts['sequence']`` on."""


class RosterBroken(StorageError):
    """Rows that say who may sign in and see whom are not those that the log knows."""


class BackupInvalid(StorageError):
    """A backup is incomplete, altered or from another system."""


class WorkerLost(EngineError):
    """A batch's worker process died, each time, on one file; the file is left out."""


class MachineOverloaded(EngineError):
    """Too little memory, too many processes or too much work for this machine now. Nothing is
    wrong with what was sent: it can be sent again."""

    status = 503


class MailFailed(EngineError):
    """The mail server is away or refuses; what was to be sent waits."""

    status = 502


class DetectorError(EngineError):
    """A detector could not run; images go to a person until it does."""


class SettingsError(EngineError):
    """MedSec refuses to start with this configuration."""
