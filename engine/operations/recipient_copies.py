"""Copies of masked images for one recipient, under their identifiers, dates and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.errors import InputError
from engine.formats import images
from engine.formats.dicom_header import Pseudonyms
from engine.operations.context import Context
from engine.operations.stored_images import StoredImages
from engine.records import Format, Patient
from engine.seal.pipeline import REMAINDER
from engine.store.catalog import ImageRow
from engine.store.recipients import DeidProfile
from engine.vault import derive, open_field


@dataclass(frozen=True)
class Recipient:
    """For whom copies are made.

    Args:
        name: The same name gets the same identifiers and dates again; may be empty.
        profile: What the copies keep.
        once: 32 bytes where identifiers and dates are for this time alone.
    """

    name: str
    profile: DeidProfile
    once: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Copy:
    """A masked image for one recipient.

    Args:
        outcomes: The original's attributes by what became of them; empty but for DICOM.
    """

    data: bytes = field(repr=False)
    outcomes: Mapping[str, tuple[str, ...]]


class RecipientCopies:
    """Makes copies; asks nobody for a permission, so services do that before."""

    def __init__(self, context: Context, stored: StoredImages) -> None:
        self._database = context.database
        self._hierarchy = context.hierarchy
        self._host = context.host
        self._patients = context.patients
        self._recipients = context.recipients
        self._stored = stored

    def pseudonym(self, recipient: Recipient, patient: Patient) -> str:
        """A patient's pseudonym: from the hospital's list, or made of a key.

        Raises:
            InputError: The recipient has a list, and this patient is not in it.
        """
        listed = self._recipients.pseudonyms(recipient.name) if recipient.name else None
        if listed is None or recipient.once is not None:
            return Pseudonyms(self._key(recipient, patient.patient_id)).person(patient.id)
        if patient.id not in listed:
            raise InputError(
                "A patient is not in this recipient's list of pseudonyms. Add the patient to the"
                " list, or choose other images."
            )
        return listed[patient.id]

    def copy(self, row: ImageRow, recipient: Recipient) -> Copy:
        """The copy of a released image whose row verified.

        Raises:
            InputError: See :meth:`pseudonym`.
            SealBroken: A stored file was altered.
        """
        masked = images.from_storage(self._stored.part(row.image_id, "masked"))
        if images.sniff(masked) is not Format.DICOM:
            return Copy(masked, {})
        patient = self._patients.get(self._database.read(), row.patient_id)
        data, outcomes = images.copy_for(
            masked,
            self._remainder(row.image_id),
            self._key(recipient, row.patient_id),
            recipient.profile.options,
            self.pseudonym(recipient, patient),
            (patient.id, patient.name),
        )
        return Copy(data, outcomes)

    def _key(self, recipient: Recipient, patient_id: str) -> bytes:
        if recipient.once is not None:
            return derive(recipient.once, f"patient/{patient_id}")
        return self._recipients.key(recipient.name, patient_id)

    def _remainder(self, image_id: str) -> bytes:
        """What is sealed of an image beside its regions: its header above all."""

        def read() -> bytes:
            row = self._stored.verified(image_id)
            subject = self._stored.subject(self._database.read(), image_id)
            facts = self._stored.open_facts(subject.key, row)
            sealed = self._host.read_blob(row.sealed_blob or "")
            context = subject.context(REMAINDER)
            return open_field(subject.key, context, sealed[facts["remainder_start"] :])

        return self._stored.steady(image_id, read)
