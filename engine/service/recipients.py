"""De-identification profiles, and pseudonyms that the hospital gives to recipients."""

from __future__ import annotations

from typing import Any

from engine.errors import InputError, NotFound
from engine.formats.dicom_profile import Options
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.operations.recipient_copies import Recipient, RecipientCopies
from engine.permissions import Permission
from engine.records import Caller
from engine.store.audit import Event
from engine.store.recipients import SHIPPED, DeidProfile, checked_recipient, pseudonyms_of


class Recipients:
    """Who gets what, under which pseudonyms."""

    def __init__(self, context: Context, guard: Guard, copies: RecipientCopies) -> None:
        self._audit = context.audit
        self._database = context.database
        self._patients = context.patients
        self._recipients = context.recipients
        self._copies = copies
        self._guard = guard

    @needs(Permission.MANAGE_SETTINGS)
    def entries(self, caller: Caller) -> dict[str, DeidProfile]:
        """De-identification profiles by name, with who changed them. Raises SealBroken."""
        return self._recipients.profiles()

    @needs(Permission.MANAGE_SETTINGS)
    def save(
        self, caller: Caller, name: str, description: str, options: dict[str, Any]
    ) -> DeidProfile:
        """Add a profile, or replace one of the hospital's own.

        Args:
            options: Of :class:`engine.formats.dicom_profile.Options` by name; what is missing is
                off.

        Raises:
            InputError: A value is not valid; nothing is changed.
        """
        profile = DeidProfile(name.strip(), description.strip(), Options.checked(options))
        with self._database.write() as tx:
            self._recipients.save(tx, self._audit, caller, profile)
        return profile

    @needs(Permission.MANAGE_SETTINGS)
    def remove(self, caller: Caller, name: str) -> None:
        """Take one of the hospital's own profiles away. Raises NotFound."""
        with self._database.write() as tx:
            self._recipients.remove(tx, self._audit, caller, name)

    @needs(Permission.RELEASE_COHORT)
    def choices(self, caller: Caller) -> dict[str, DeidProfile]:
        """De-identification profiles by name, to choose one. Raises SealBroken."""
        return self._recipients.profiles()

    @needs(Permission.RELEASE_COHORT)
    def lists(self, caller: Caller) -> list[str]:
        """Recipients for whom the hospital gave a list of pseudonyms."""
        return self._recipients.lists()

    @needs(Permission.RELEASE_COHORT, fresh=True)
    def save_pseudonyms(self, caller: Caller, recipient: str, text: str) -> int:
        """Take the list of a recipient, in place of an earlier one.

        Args:
            text: CSV of two columns, the hospital's number and the pseudonym, with headings.

        Returns:
            How many patients are in it.

        Raises:
            InputError: What is wrong with the list or the name; nothing is changed.
        """
        name = checked_recipient(recipient)
        if not name:
            raise InputError("Say whose list this is.")
        pseudonyms = pseudonyms_of(text)
        with self._database.write() as tx:
            self._recipients.save_pseudonyms(tx, self._audit, caller, name, pseudonyms)
        return len(pseudonyms)

    @needs(Permission.RELEASE_COHORT, fresh=True)
    def pseudonym(self, caller: Caller, patient_id: str, recipient: str, reason: str) -> str:
        """The pseudonym of a patient for one recipient, listed or made of a key.

        Raises:
            InputError: No reason, or the patient is not in the recipient's list.
        """
        if not reason.strip():
            raise InputError("Give a reason for access to the pseudonym.")
        patient = self._patients.get(self._database.read(), patient_id)
        whom = Recipient(checked_recipient(recipient), SHIPPED["basic"])
        found = self._copies.pseudonym(whom, patient)
        self._read(caller, reason, whom.name, patient_id)
        return found

    @needs(Permission.RELEASE_COHORT, fresh=True)
    def patient_of(self, caller: Caller, recipient: str, pseudonym: str, reason: str) -> str:
        """Whose pseudonym this is in a recipient's list: the patient's opaque key.

        Raises:
            InputError: No reason.
            NotFound: Nobody's, or a patient's whom the caller may not know of.
        """
        if not reason.strip():
            raise InputError("Give a reason for access to the pseudonym.")
        name = checked_recipient(recipient)
        listed = self._recipients.pseudonyms(name) or {}
        number = next((n for n, p in listed.items() if p == pseudonym.strip()), "")
        found = self._patients.find_id(self._database.read(), number) if number else None
        if found is None or not self._guard.sees(caller, found):
            self._read(caller, reason, name, "")
            raise NotFound("This is no pseudonym of a patient whom you may see.")
        self._read(caller, reason, name, found)
        return found

    def _read(self, caller: Caller, reason: str, recipient: str, patient_id: str) -> None:
        self._audit.record(
            caller,
            Event(
                "pseudonyms.read",
                "ok" if patient_id else "refused",
                patient_id=patient_id,
                reason=reason.strip(),
                detail={"recipient": recipient},
            ),
        )
