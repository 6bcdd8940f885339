"""The audit log as its readers use it: entries, verification, checkpoints."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime

from engine.errors import InputError, RosterBroken
from engine.operations.access_report import AccessReport, access_report, spreadsheet_text
from engine.operations.checkpoints import Checkpoints
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.permissions import Permission
from engine.records import AuditEntry, AuditFilter, AuditFound, Caller, File
from engine.store.audit import Event
from engine.store.audit_messages import fhir_audit_event


class Audit:
    """Reads the log, exports it, and proves that nobody changed it."""

    def __init__(self, context: Context, guard: Guard, checkpoints: Checkpoints) -> None:
        self._audit = context.audit
        self._database = context.database
        self._hierarchy = context.hierarchy
        self._host = context.host
        self._live = context.live
        self._patients = context.patients
        self._guard = guard
        self._watch = context.watch
        self._checkpoints = checkpoints

    @needs(Permission.READ_AUDIT)
    def entries(
        self,
        caller: Caller,
        query: str = "",
        limit: int = 200,
        before: int | None = None,
        only: AuditFilter | None = None,
    ) -> AuditFound:
        """What is found in the audit log within some seconds, newest first, and how far that is.

        Args:
            before: Go on before this number, as an earlier answer said.
        """
        entries = self._audit.entries(query=query, limit=limit, before=before, only=only)
        # Reasons may name a patient. What was searched for may, too, and is not in the log.
        self._guard.record_read(caller, Event("audit.read"))
        return entries

    @needs(Permission.READ_AUDIT)
    def of_actions(
        self, caller: Caller, actions: Sequence[str], limit: int = 200
    ) -> list[AuditEntry]:
        """Entries of some actions, such as ``setting.save``, newest first, of the whole log."""
        entries = self._audit.of_actions(actions, limit)
        self._guard.record_read(caller, Event("audit.read"))
        return entries

    @needs(Permission.READ_AUDIT)
    def verify(
        self, caller: Caller, told: Callable[[int, int], object] = lambda checked, of: None
    ) -> int:
        """Check the whole chain; says how many entries it has. Raises AuditBroken.

        Args:
            told: Called after each part, with how many entries were checked, of how many.
        """
        count = self._audit.verify(told)
        self._audit.record(caller, Event("audit.verify", detail={"entries": count}))
        return count

    @needs(Permission.READ_AUDIT)
    def patient_report(self, caller: Caller, patient_id: str) -> AccessReport:
        """Who had access to a patient's data: the patient's own question, answered from the log.

        Args:
            patient_id: Hospital number or opaque key.

        Raises:
            NotFound: No such patient.
        """
        tx = self._database.read()
        patient = self._patients.get(tx, self._patients.known(tx, patient_id) or patient_id)
        entries = self._audit.of_patient(patient.patient_id)
        report = access_report(patient.id, self._host.now(), entries)
        told = {"lines": len(report.lines)}
        self._audit.record(
            caller, Event("patient.report", patient_id=patient.patient_id, detail=told)
        )
        return report

    @needs(Permission.READ_AUDIT)
    def export_fhir(self, caller: Caller, query: str = "", only: AuditFilter | None = None) -> File:
        """Every entry that matches, oldest first, as FHIR R4 AuditEvent resources; audited.

        A resource a line (NDJSON), as FHIR's bulk data does.
        """
        site = self._live.settings.site
        lines = [
            json.dumps(fhir_audit_event(entry, site), ensure_ascii=False)
            for entry in self._audit.matching(query, only)
        ]
        told = {"all": not query and only in (None, AuditFilter()), "form": "fhir"}
        self._audit.record(caller, Event("audit.export", detail=told))
        text = "".join(f"{line}\n" for line in lines)
        return File("medsec-audit.ndjson", "application/fhir+ndjson", text.encode())

    @needs(Permission.READ_AUDIT)
    def export(self, caller: Caller, query: str = "", only: AuditFilter | None = None) -> File:
        """Every entry of the log that matches, oldest first, as CSV with its digests; audited."""
        out = io.StringIO()
        table = csv.writer(out)
        names = [f.name for f in fields(AuditEntry)]
        table.writerow(names)
        for entry in self._audit.matching(query, only):
            row = [getattr(entry, name) for name in names]
            table.writerow([_cell(value) for value in row])
        self._audit.record(
            caller,
            Event("audit.export", detail={"all": not query and only in (None, AuditFilter())}),
        )
        return File("medsec-audit.csv", "text/csv", out.getvalue().encode())

    @needs(Permission.READ_AUDIT)
    def write_checkpoint(self, caller: Caller) -> str:
        """Write a signed statement of the audit log's head outside the data folder.

        Raises:
            SettingsError: MEDSEC_CHECKPOINT_DIR is not set.
            AuditBroken: The log does not verify.
            StorageError: The folder cannot be written.
        """
        return self._checkpoints.write(caller)

    @needs(Permission.READ_AUDIT)
    def check_checkpoint(self, caller: Caller, checkpoint: bytes) -> int:
        """Does the log still continue this checkpoint? Says how many entries it covers.

        Raises:
            AuditBroken: It does not, or the checkpoint is not ours.
        """
        return self._audit.verify_checkpoint(checkpoint, self._hierarchy.signer().public_bytes)

    @needs(Permission.READ_AUDIT)
    def verify_access(self, caller: Caller) -> None:
        """Are accounts and rights those that the log knows? Raises RosterBroken."""
        try:
            self._watch.check()
        except RosterBroken:
            self._audit.record(caller, Event("roster.verify", "failed"))
            raise
        self._audit.record(caller, Event("roster.verify"))

    @needs(Permission.ACCEPT_ROSTER)
    def accept_access(self, caller: Caller, reason: str) -> None:
        """Let accounts and rights stand that were changed outside MedSec. Raises InputError."""
        if not reason.strip():
            raise InputError("Give a reason for accepting the changed accounts and access rights.")
        self._watch.broken = False
        self._audit.record(caller, Event("roster.accept", reason=reason.strip()))


def _cell(value: object) -> str:
    """Text that a spreadsheet does not take for a formula."""
    text = (
        json.dumps(value, sort_keys=True)
        if isinstance(value, Mapping)
        else value.isoformat()
        if isinstance(value, datetime)
        else ""
        if value is None
        else str(value)
    )
    return spreadsheet_text(text)
