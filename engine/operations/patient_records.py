"""A new patient's record and its entry in the log, for all who make one."""

from __future__ import annotations

from engine.operations.context import Context
from engine.records import Caller, Patient
from engine.store.audit import Event
from engine.store.database import Cursor


class PatientRecords:
    """Makes records of patients."""

    def __init__(self, context: Context) -> None:
        self._audit = context.audit
        self._patients = context.patients

    def create(
        self, tx: Cursor, caller: Caller, *, id: str, name: str, age: int | None, note: str
    ) -> Patient:
        """Add a patient.

        Raises:
            InputError: A field is too long, empty or taken.
        """
        patient = self._patients.create(tx, id=id, name=name, age=age, note=note)
        tag = self._patients.tag(tx, patient.patient_id)
        made = Event("patient.create", patient_id=patient.patient_id, detail={"tag": tag})
        self._audit.append(tx, caller, made)
        return patient
