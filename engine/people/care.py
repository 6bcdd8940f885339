"""Care relations, emergency access (break-glass), and restorable classes of accounts.

A care relation records that a doctor treats a patient. Emergency access replaces it for one hour;
it needs a reason and is reviewed afterwards. Class grants limit what an account can restore. This
module only stores and answers; the engine enforces.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from engine.errors import InputError, NotFound
from engine.host import Host
from engine.permissions import Permission, allowed
from engine.records import Caller
from engine.settings import Settings
from engine.store.database import Cursor
from engine.store.key_hierarchy import KeyHierarchy
from engine.vault import derive, open_field, seal_field

GLASS_TIME = timedelta(hours=1)
REASON_LENGTH = range(15, 1001)
REMARK_LENGTH = 1000
#: A clock that is set back must not reactivate ended access.
_CLOCK_SLACK = timedelta(minutes=5)

_OPEN = "ended_at IS NULL AND opened_at <= $2 AND expires_at > $3"


class Verdict(StrEnum):
    """Result of the review of an emergency access."""

    JUSTIFIED = "justified"
    UNJUSTIFIED = "unjustified"


@dataclass(frozen=True)
class CareRelation:
    """A doctor who treats a patient.

    Args:
        number: The patient's hospital number, and nothing else of the record.
    """

    patient_id: str
    number: str = field(repr=False)
    username: str
    since: datetime
    assigned_by: str


@dataclass(frozen=True)
class EmergencyAccess:
    """One emergency access, from its reason to its review.

    Args:
        number: The patient's hospital number, and nothing else of the record.
        open: Does it give access now?
        ended_at: When it ended by hand or by time; None while it is open.
        ended_by: Who ended it; empty where time did.
    """

    glass_id: str
    patient_id: str
    number: str = field(repr=False)
    username: str
    reason: str = field(repr=False)
    opened_at: datetime
    expires_at: datetime
    open: bool
    ended_at: datetime | None
    ended_by: str
    reviewed_at: datetime | None
    reviewed_by: str
    verdict: Verdict | None
    remark: str = field(repr=False)

    @property
    def due(self) -> bool:
        """Has it ended without a review?"""
        return not self.open and self.reviewed_at is None


def checked_reason(reason: str) -> str:
    """The reason, trimmed.

    Raises:
        InputError: It is too short or too long.
    """
    reason = reason.strip()
    if len(reason) not in REASON_LENGTH:
        raise InputError(
            f"Say in {REASON_LENGTH[0]} to {REASON_LENGTH[-1]} characters why you need this"
            " patient now."
        )
    return reason


def bound(settings: Settings, caller: Caller) -> bool:
    """Does this caller see only patients whom they treat, or have emergency access to?"""
    return settings.care_relation and not allowed(caller.role, Permission.EVERY_PATIENT)


@dataclass(frozen=True)
class RelationRow:
    """A row of the table ``care``."""

    patient_id: str
    username: str
    since: datetime
    assigned_by: str


@dataclass(frozen=True)
class AccessRow:
    """A row of the table ``glass``: an emergency access. Its texts are sealed."""

    glass_id: str
    patient_id: str
    username: str
    reason: bytes = field(repr=False)
    opened_at: datetime
    expires_at: datetime
    ended_at: datetime | None
    ended_by: str | None
    reviewed_at: datetime | None
    reviewed_by: str | None
    verdict: str | None
    remark: bytes | None = field(repr=False)


class Access:
    """Access rows of one catalog: care relations, emergency accesses, class grants."""

    def __init__(self, hierarchy: KeyHierarchy, host: Host) -> None:
        # Reasons are free text, as in the audit log, and are sealed in the same way.
        self._key = derive(hierarchy.system_key("audit"), "glass")
        self._host = host

    # --- care ---------------------------------------------------------------------------------

    def assign(self, tx: Cursor, patient_id: str, username: str, by: str) -> None:
        """Add a care relation; an existing one is left unchanged."""
        tx.run(
            "INSERT INTO care VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            patient_id,
            username,
            self._host.now(),
            by,
        )

    def end_care(self, tx: Cursor, patient_id: str, username: str) -> None:
        """End a care relation.

        Raises:
            NotFound: There is none.
        """
        if not self.treats(tx, username, patient_id):
            raise NotFound("There is no such care relation. Check patient number and doctor.")
        tx.run("DELETE FROM care WHERE patient_id = $1 AND username = $2", patient_id, username)

    def forget_doctor(self, tx: Cursor, username: str) -> None:
        """End all access of an account to patients, because it is no doctor's any more."""
        now = self._host.now()
        tx.run("DELETE FROM care WHERE username = $1", username)
        tx.run(
            f"UPDATE glass SET ended_at = $3, ended_by = '' WHERE username = $1 AND {_OPEN}",  # noqa: S608
            username,
            now + _CLOCK_SLACK,
            now,
        )

    def treats(self, tx: Cursor, username: str, patient_id: str) -> bool:
        """Is there a care relation? Emergency access does not count."""
        found = tx.one(
            "SELECT 1 AS x FROM care WHERE patient_id = $1 AND username = $2", patient_id, username
        )
        return found is not None

    def relations(self, tx: Cursor, patient_id: str | None = None) -> list[RelationRow]:
        """Care relations of one patient or of all, newest first."""
        rows = tx.all(
            "SELECT c.* FROM care c JOIN patients p USING (patient_id)"
            " WHERE ($1::VARCHAR IS NULL OR patient_id = $1) AND p.erased_at IS NULL"
            " ORDER BY since DESC, patient_id, username",
            patient_id,
        )
        return [RelationRow(**row) for row in rows]

    def sees(self, tx: Cursor, username: str, patient_id: str) -> bool:
        """Does a care relation or open emergency access give this account access now?"""
        return (
            self.treats(tx, username, patient_id)
            or self.glass_over(tx, username, patient_id) is not None
        )

    def visible(self, tx: Cursor, username: str) -> list[str]:
        """All patients that this account has access to now."""
        now = self._host.now()
        rows = tx.all(
            "SELECT patient_id FROM care WHERE username = $1 UNION"  # noqa: S608
            f" SELECT patient_id FROM glass WHERE username = $1 AND {_OPEN}",
            username,
            now + _CLOCK_SLACK,
            now,
        )
        return [r["patient_id"] for r in rows]

    # --- emergency access -----------------------------------------------------------------------

    def break_glass(self, tx: Cursor, patient_id: str, username: str, reason: str) -> str:
        """Start emergency access for ``GLASS_TIME``; returns its id."""
        glass_id, now = self._host.token("gl"), self._host.now()
        tx.run(
            "INSERT INTO glass (glass_id, patient_id, username, reason, opened_at, expires_at)"
            " VALUES ($1, $2, $3, $4, $5, $6)",
            glass_id,
            patient_id,
            username,
            self._seal(glass_id, "reason", reason),
            now,
            now + GLASS_TIME,
        )
        return glass_id

    def glass_over(self, tx: Cursor, username: str, patient_id: str) -> str | None:
        """Id of the open emergency access of this account to this patient, if any."""
        now = self._host.now()
        row = tx.one(
            f"SELECT glass_id FROM glass WHERE username = $1 AND {_OPEN} AND patient_id = $4"  # noqa: S608
            " ORDER BY opened_at DESC",
            username,
            now + _CLOCK_SLACK,
            now,
            patient_id,
        )
        return None if row is None else str(row["glass_id"])

    def end_glass(self, tx: Cursor, glass_id: str, by: str) -> None:
        """End an emergency access now; one that has already ended is left unchanged."""
        if self.is_open(self.glass_row(tx, glass_id)):
            tx.run(
                "UPDATE glass SET ended_at = $2, ended_by = $3 WHERE glass_id = $1",
                glass_id,
                self._host.now(),
                by,
            )

    def review_glass(
        self, tx: Cursor, glass_id: str, by: str, verdict: Verdict, remark: str
    ) -> None:
        """Record the result of a review.

        Raises:
            InputError: Still open, already reviewed, or the remark is missing or too long.
        """
        remark = remark.strip()
        row = self.glass_row(tx, glass_id)
        if self.is_open(row):
            raise InputError(
                "This emergency access is still open. End it first, or wait until it ends."
            )
        if row.reviewed_at is not None:
            raise InputError("This emergency access has already been reviewed.")
        if not 1 <= len(remark) <= REMARK_LENGTH:
            raise InputError(f"A review has a remark of 1 to {REMARK_LENGTH} characters.")
        tx.run(
            "UPDATE glass SET reviewed_at = $2, reviewed_by = $3, verdict = $4, remark = $5"
            " WHERE glass_id = $1",
            glass_id,
            self._host.now(),
            by,
            str(verdict),
            self._seal(glass_id, "remark", remark),
        )

    def glass_row(self, tx: Cursor, glass_id: str) -> AccessRow:
        """One emergency access.

        Raises:
            NotFound: There is none.
        """
        row = tx.one("SELECT * FROM glass WHERE glass_id = $1", glass_id)
        if row is None:
            raise NotFound("There is no such emergency access.")
        return AccessRow(**row)

    def glass(self, tx: Cursor, username: str | None = None) -> list[AccessRow]:
        """Emergency accesses of one account or of all, newest first."""
        rows = tx.all(
            "SELECT * FROM glass WHERE ($1::VARCHAR IS NULL OR username = $1)"
            " ORDER BY opened_at DESC, glass_id",
            username,
        )
        return [AccessRow(**row) for row in rows]

    def is_open(self, row: AccessRow) -> bool:
        """Does this emergency access give access now?"""
        now = self._host.now()
        return row.ended_at is None and row.opened_at - _CLOCK_SLACK <= now < row.expires_at

    def shown(self, row: AccessRow, number: str) -> EmergencyAccess:
        """A row with its texts decrypted.

        Raises:
            SealBroken: They were altered.
        """
        is_open = self.is_open(row)
        return EmergencyAccess(
            glass_id=row.glass_id,
            patient_id=row.patient_id,
            number=number,
            username=row.username,
            reason=self._open(row.glass_id, "reason", row.reason),
            opened_at=row.opened_at,
            expires_at=row.expires_at,
            open=is_open,
            ended_at=None if is_open else row.ended_at or row.expires_at,
            ended_by=row.ended_by or "",
            reviewed_at=row.reviewed_at,
            reviewed_by=row.reviewed_by or "",
            verdict=None if row.verdict is None else Verdict(row.verdict),
            remark="" if row.remark is None else self._open(row.glass_id, "remark", row.remark),
        )

    def move(self, tx: Cursor, patient_id: str, into_id: str) -> None:
        """Transfer all access from one patient record to another, when they are merged."""
        tx.run(
            "INSERT INTO care SELECT $2, username, since, assigned_by FROM care"
            " WHERE patient_id = $1 ON CONFLICT DO NOTHING",
            patient_id,
            into_id,
        )
        tx.run("DELETE FROM care WHERE patient_id = $1", patient_id)
        tx.run("UPDATE glass SET patient_id = $2 WHERE patient_id = $1", patient_id, into_id)

    def forget_patient(self, tx: Cursor, patient_id: str) -> None:
        """Delete the care relations of an erased patient; emergency accesses stay for review."""
        tx.run("DELETE FROM care WHERE patient_id = $1", patient_id)

    # --- classes ------------------------------------------------------------------------------

    def classes(self, tx: Cursor, username: str) -> frozenset[str] | None:
        """Region classes that this account can restore; None for all classes."""
        row = tx.one("SELECT labels FROM class_grants WHERE username = $1", username)
        return None if row is None else frozenset(json.loads(row["labels"]))

    def all_classes(self, tx: Cursor) -> dict[str, frozenset[str]]:
        """Accounts limited to some classes, with these classes."""
        rows = tx.all("SELECT username, labels FROM class_grants ORDER BY username")
        return {r["username"]: frozenset(json.loads(r["labels"])) for r in rows}

    def set_classes(
        self, tx: Cursor, username: str, labels: Collection[str] | None, by: str
    ) -> None:
        """Limit an account to some classes, or allow all classes again."""
        if labels is None:
            tx.run("DELETE FROM class_grants WHERE username = $1", username)
            return
        tx.run(
            "INSERT INTO class_grants VALUES ($1, $2, $3, $4) ON CONFLICT (username)"
            " DO UPDATE SET labels = $2, granted_at = $3, granted_by = $4",
            username,
            json.dumps(sorted(labels)),
            self._host.now(),
            by,
        )

    def _seal(self, glass_id: str, what: str, text: str) -> bytes:
        return seal_field(self._key, f"glass/{glass_id}/{what}", text.encode(), self._host.random)

    def _open(self, glass_id: str, what: str, sealed: bytes) -> str:
        return open_field(self._key, f"glass/{glass_id}/{what}", sealed).decode()
