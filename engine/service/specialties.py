"""Specialty profiles as an administrator edits them: effective at once, audited, resettable."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from engine.detection import Guest, GuestRecord, ProfileEntry, Shape
from engine.errors import InputError
from engine.permissions import Permission
from engine.records import Caller
from engine.service.guard import Core, needs


class Specialties(Core):
    """Methods of the Engine."""

    @needs(Permission.MANAGE_SETTINGS)
    def profile_entries(self, caller: Caller) -> dict[str, ProfileEntry]:
        """Every profile in force by name, and whether it is shipped, changed or the hospital's."""
        return self.profiles_.entries()

    @needs(Permission.MANAGE_SETTINGS)
    def known_networks(self, caller: Caller) -> dict[str, tuple[str, ...]]:
        """Networks that a profile may name, each with the classes that it finds."""
        return self.detector.finds()

    @needs(Permission.MANAGE_SETTINGS)
    def save_profile(self, caller: Caller, name: str, table: Mapping[str, Any]) -> None:
        """Change a profile, or make one of the hospital's own; uploads use it from now on.

        Args:
            table: Values of ``profile_store.EDITABLE``; what is missing stays as it is.

        Raises:
            InputError: Not a valid profile, or one that would leave identifiers unsealed.
        """
        with self.database.write() as tx:
            self.profiles_.save(tx, self.audit, caller, name, table)
        self.detector.profiles = self.profiles_.in_force()

    @needs(Permission.MANAGE_SETTINGS)
    def reset_profile(self, caller: Caller, name: str) -> None:
        """Back to what was shipped; one of the hospital's own is removed.

        Raises:
            NotFound: It is as it was shipped, or is not there.
            InputError: Images were taken in under the hospital's own profile.
        """
        with self.database.write() as tx:
            self.profiles_.reset(tx, self.audit, caller, name)
        self.detector.profiles = self.profiles_.in_force()

    @needs(Permission.MANAGE_SETTINGS)
    def guests(self, caller: Caller) -> dict[str, GuestRecord]:
        """Networks of the hospital's own, by the name that profiles use."""
        return self.guests_.records()

    @needs(Permission.MANAGE_SETTINGS)
    def inspect_guest(self, caller: Caller, model: bytes) -> Shape:
        """Which classes an ONNX network finds, and at which size; nothing is kept.

        Raises:
            InputError: Not a network that MedSec can run.
        """
        return self.guests_.inspected(model)

    @needs(Permission.MANAGE_SETTINGS)
    def add_guest(
        self,
        caller: Caller,
        name: str,
        title: str,
        model: bytes,
        names: Mapping[str, str],
        side: int | None = None,
    ) -> GuestRecord:
        """Take a network of the hospital's own: checked by running it, kept encrypted.

        Profiles can name it from now on. It never sees a key, and what it does wrong sends the
        image to a person.

        Args:
            names: For each of its classes that counts, MedSec's class.
            side: Of the square picture it is shown, px, where the file leaves that open.

        Raises:
            InputError: Not a network that MedSec can run, or run and failed.
        """
        finds = self.detector.finds()
        known = {label for found in finds.values() for label in found}
        facts = self.guests_.checked(name, title, model, names, side, known, finds)
        with self.database.write() as tx:
            if name in self.guests_.records():
                raise InputError("There is a network of this name.")
            self.guests_.add(tx, self.audit, caller, name, model, facts)
        self._meet_guests()
        return self.guests_.records()[name]

    @needs(Permission.MANAGE_SETTINGS)
    def remove_guest(self, caller: Caller, name: str) -> None:
        """Take a network of the hospital's own away, once no profile names it.

        Raises:
            InputError: A profile names it.
            NotFound: There is none of this name.
        """
        with self.database.write() as tx:
            users = [p.title for p in self.profiles_.in_force().values() if name in p.networks]
            if users:
                raise InputError(f"This network is used by: {', '.join(users)}.")
            blob = self.guests_.remove(tx, self.audit, caller, name)
        self._meet_guests()
        self.host.delete_blob(blob)

    def _meet_guests(self) -> None:
        """Tell the detector which networks of the hospital's own there are."""
        self.detector.guests = {
            name: Guest(record.finds, partial(self.guests_.network, name))
            for name, record in self.guests_.records().items()
        }
