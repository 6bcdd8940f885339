"""Whose patient is whose: care relations, emergency access and its review, classes granted apart.

Who assigns is decided as a hospital works: technicians at admission, since they hold the
order; a doctor who treats a patient brings in a colleague, as in a consultation; an
administrator mends mistakes by the patient's number and sees no more of the patient than
that. No doctor opens a patient to themselves but by breaking the glass.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from engine.errors import EngineError, InputError, NotFound, PermissionDenied
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.people.care import (
    AccessRow,
    CareRelation,
    EmergencyAccess,
    RelationRow,
    Verdict,
    checked_reason,
)
from engine.permissions import Permission, Role, allowed
from engine.records import Account, AuditEntry, Caller
from engine.store.audit import Event
from engine.store.database import Cursor

_DAMAGED = "damaged record"


class Care:
    """Care relations, emergency access and its review, classes granted to an account."""

    def __init__(self, context: Context, guard: Guard) -> None:
        self._access = context.access
        self._accounts = context.accounts
        self._audit = context.audit
        self._database = context.database
        self._detector = context.detector
        self._live = context.live
        self._patients = context.patients
        self._guard = guard

    @needs(Permission.ASSIGN_CARE)
    def doctors(self, caller: Caller) -> list[Account]:
        """Doctors to whom a patient can be assigned."""
        return self._doctors()

    @needs(Permission.ASSIGN_CARE)
    def team(self, caller: Caller, patient_id: str) -> list[CareRelation]:
        """Who treats a patient, newest first. Raises NotFound."""
        tx = self._database.read()
        patient_id = self._existing(tx, patient_id)
        self._guard.record_read(caller, Event("care.read", patient_id=patient_id))
        return [self._relation(tx, row) for row in self._access.relations(tx, patient_id)]

    @needs(Permission.ASSIGN_CARE)
    def assign(self, caller: Caller, patient_id: str, username: str) -> CareRelation:
        """Let a doctor treat a patient.

        Args:
            patient_id: Opaque key or hospital number.

        Raises:
            InputError: There is no such doctor.
            NotFound: No such patient.
            PermissionDenied: The doctor does not treat the patient; emergency access is no ground.
        """
        with self._database.write() as tx:
            patient_id = self._existing(tx, patient_id)
            may = self._may_assign(tx, caller, patient_id)
            username = username.strip().casefold()
            if may:
                if username not in {a.username for a in self._doctors()}:
                    raise InputError("There is no such doctor.")
                self._access.assign(tx, patient_id, username, caller.username)
            self._audit.append(
                tx,
                caller,
                Event(
                    "care.assign",
                    "ok" if may else "refused",
                    patient_id=patient_id,
                    detail={"username": username} if may else None,
                ),
            )
        if not may:
            raise PermissionDenied("Only a treating doctor can add a colleague.")
        tx = self._database.read()
        return next(
            self._relation(tx, row)
            for row in self._access.relations(tx, patient_id)
            if row.username == username
        )

    @needs(Permission.ASSIGN_CARE)
    def end(self, caller: Caller, patient_id: str, username: str) -> None:
        """End a care relation; a doctor ends only their own.

        Raises:
            NotFound: There is no such relation.
            PermissionDenied: Another doctor's.
        """
        username = username.strip().casefold()
        with self._database.write() as tx:
            patient_id = self._existing(tx, patient_id)
            may = allowed(caller.role, Permission.EVERY_PATIENT) or username == caller.username
            if may:
                self._access.end_care(tx, patient_id, username)
            detail = {"username": username} if may else None
            outcome = "ok" if may else "refused"
            self._audit.append(
                tx, caller, Event("care.end", outcome, patient_id=patient_id, detail=detail)
            )
        if not may:
            raise PermissionDenied("You can end only your own care relation. Ask an administrator.")

    @needs(Permission.REVIEW_ACCESS)
    def relations(self, caller: Caller) -> list[CareRelation]:
        """Every care relation, newest first; of the patients only their numbers."""
        tx = self._database.read()
        self._audit.record(caller, Event("care.list"))
        return [self._relation(tx, row) for row in self._access.relations(tx)]

    @needs(Permission.BREAK_GLASS, fresh=True)
    def break_glass(self, caller: Caller, number: str, reason: str) -> EmergencyAccess:
        """Open a patient whom somebody else treats, for one hour.

        It is in the log before this returns, everything done under it is marked there with
        its id, the administrator sees it, and somebody must review it.

        Args:
            number: Hospital number or opaque key.
            reason: Why this patient, why now; at least ``access.REASON_LENGTH`` characters.

        Raises:
            InputError: The reason is too short, or the patient is open already.
            NotFound: No such patient; the attempt is in the log.
        """
        if not self._live.settings.care_relation:
            raise InputError("Emergency access is not needed: doctors can see all patients.")
        # Before the number is looked up: a refusal without a row must not tell what exists.
        reason = checked_reason(reason)
        with self._database.write() as tx:
            patient_id = self._patients.known(tx, number)
            if patient_id is None:
                self._audit.append(tx, caller, Event("glass.break", "failed"))
            elif self._access.sees(tx, caller.username, patient_id):
                raise InputError("You already have access to this patient.")
            else:
                glass_id = self._access.break_glass(tx, patient_id, caller.username, reason)
                broken = Event("glass.break", patient_id=patient_id, reason=reason)
                self._audit.append(tx, caller, broken)
        if patient_id is None:
            raise NotFound("There is no such patient.")
        tx = self._database.read()
        return self._emergency_access(tx, self._access.glass_row(tx, glass_id))

    @needs(Permission.BREAK_GLASS)
    def my_emergency_access(self, caller: Caller) -> list[EmergencyAccess]:
        """One's own emergency access that is open now."""
        tx = self._database.read()
        rows = self._access.glass(tx, caller.username)
        return [self._emergency_access(tx, row) for row in rows if self._access.is_open(row)]

    @needs(Permission.BREAK_GLASS)
    def end_emergency_access(self, caller: Caller, glass_id: str) -> None:
        """End one's own emergency access. Raises NotFound."""
        self._end_emergency_access(caller, glass_id, own=True)

    @needs(Permission.REVIEW_ACCESS)
    def revoke_emergency_access(self, caller: Caller, glass_id: str) -> None:
        """End somebody's emergency access; what is open under it closes. Raises NotFound."""
        self._end_emergency_access(caller, glass_id, own=False)

    @needs(Permission.REVIEW_ACCESS)
    def emergency_access(self, caller: Caller) -> list[EmergencyAccess]:
        """Every emergency access: open ones first, then reviews due, then the rest."""
        tx = self._database.read()
        shown = [self._emergency_access(tx, row) for row in self._access.glass(tx)]
        self._audit.record(caller, Event("glass.list"))
        return sorted(shown, key=lambda g: (not g.open, not g.due))

    @needs(Permission.REVIEW_ACCESS)
    def emergency_access_due(self, caller: Caller) -> tuple[int, int]:
        """How many emergency accesses are open, and how many wait for a review."""
        rows = self._access.glass(self._database.read())
        held = sum(self._access.is_open(row) for row in rows)
        reviewed = sum(row.reviewed_at is not None for row in rows)
        return held, len(rows) - held - reviewed

    @needs(Permission.REVIEW_ACCESS)
    def emergency_access_entries(self, caller: Caller, glass_id: str) -> list[AuditEntry]:
        """What was done under one emergency access, oldest first. Raises NotFound."""
        self._access.glass_row(self._database.read(), glass_id)
        return self._audit.under_glass(glass_id)

    @needs(Permission.REVIEW_ACCESS)
    def review_emergency_access(
        self, caller: Caller, glass_id: str, verdict: str, remark: str
    ) -> None:
        """Say whether an emergency access was justified; once, and never of one's own.

        Raises:
            InputError: No such verdict, no remark, still open, or reviewed already.
            NotFound: No such access.
            PermissionDenied: One's own.
        """
        try:
            chosen = Verdict(verdict)
        except ValueError as err:
            raise InputError(f"The verdict must be one of: {', '.join(Verdict)}.") from err
        with self._database.write() as tx:
            row = self._access.glass_row(tx, glass_id)
            own = row.username == caller.username
            if not own:
                self._access.review_glass(tx, glass_id, caller.username, chosen, remark)
            self._audit.append(
                tx,
                caller,
                Event(
                    "glass.review",
                    "refused" if own else "ok",
                    patient_id=row.patient_id,
                    reason="" if own else remark.strip(),
                    detail={"glass": glass_id, "verdict": str(chosen)},
                ),
            )
        if own:
            raise PermissionDenied("You cannot review your own access. Ask another administrator.")

    @needs(Permission.GRANT_CLASSES)
    def restorable_classes(self, caller: Caller) -> Mapping[str, frozenset[str]]:
        """Accounts that may not restore every class, each with those it may."""
        return self._access.all_classes(self._database.read())

    @needs(Permission.GRANT_CLASSES)
    def set_restorable_classes(
        self, caller: Caller, username: str, labels: Collection[str] | None
    ) -> None:
        """Narrow what an account may restore to some classes; None gives every class again.

        What the account has open beyond that closes.

        Raises:
            InputError: A class that no profile has.
            NotFound: No such account.
        """
        known = {c for p in self._detector.profiles.values() for c in p.classes}
        if labels is not None and not set(labels) <= known:
            raise InputError(f"Unknown class. Use one of: {', '.join(sorted(known))}.")
        with self._database.write() as tx:
            account = self._accounts.get(tx, username)
            self._access.set_classes(tx, account.username, labels, caller.username)
            detail: dict[str, Any] = {
                "username": account.username,
                "classes": "every" if labels is None else sorted(labels),
            }
            self._audit.append(tx, caller, Event("class.grant", detail=detail))

    def _doctors(self) -> list[Account]:
        return [a for a in self._accounts.list() if a.role is Role.DOCTOR and a.enabled]

    def _may_assign(self, tx: Cursor, caller: Caller, patient_id: str) -> bool:
        return allowed(caller.role, Permission.EVERY_PATIENT) or self._access.treats(
            tx, caller.username, patient_id
        )

    def _end_emergency_access(self, caller: Caller, glass_id: str, *, own: bool) -> None:
        with self._database.write() as tx:
            row = self._access.glass_row(tx, glass_id)
            if own and row.username != caller.username:
                raise NotFound("There is no such emergency access.")
            self._access.end_glass(tx, glass_id, caller.username)
            detail = {"glass": glass_id}
            self._audit.append(
                tx, caller, Event("glass.end", patient_id=row.patient_id, detail=detail)
            )

    def _existing(self, tx: Cursor, name: str) -> str:
        patient_id = self._patients.known(tx, name)
        if patient_id is None:
            raise NotFound("There is no such patient.")
        return patient_id

    def _relation(self, tx: Cursor, row: RelationRow) -> CareRelation:
        return CareRelation(
            row.patient_id,
            self._number(tx, row.patient_id),
            row.username,
            row.since,
            row.assigned_by,
        )

    def _emergency_access(self, tx: Cursor, row: AccessRow) -> EmergencyAccess:
        return self._access.shown(row, self._number(tx, row.patient_id))

    def _number(self, tx: Cursor, patient_id: str) -> str:
        try:
            return self._patients.get(tx, patient_id).id
        except NotFound:
            return "erased"
        except EngineError:
            return _DAMAGED
