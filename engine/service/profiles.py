"""Specialty profiles as an administrator edits them: effective at once, audited, resettable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.detection import Profile, ProfileEntry
from engine.operations.context import Context
from engine.operations.examination import Examiner
from engine.operations.guard import Guard, needs
from engine.permissions import Permission
from engine.records import Caller


class SpecialtyProfiles:
    """Reads and edits specialty profiles."""

    def __init__(self, context: Context, guard: Guard, examiner: Examiner) -> None:
        self._audit = context.audit
        self._database = context.database
        self._detector = context.detector
        self._profile_store = context.profile_store
        self._guard = guard
        self._examiner = examiner

    def by_name(self) -> dict[str, Profile]:
        """Specialty profiles in force, by name."""
        return self._examiner.profiles()

    def get(self, name: str | None) -> Profile:
        """One profile; None is the setting's. Raises InputError."""
        return self._examiner.profile(name)

    @needs(Permission.MANAGE_SETTINGS)
    def entries(self, caller: Caller) -> dict[str, ProfileEntry]:
        """Every profile in force by name, and whether it is shipped, changed or the hospital's."""
        return self._profile_store.entries()

    @needs(Permission.MANAGE_SETTINGS)
    def known_networks(self, caller: Caller) -> dict[str, tuple[str, ...]]:
        """Networks that a profile may name, each with the classes that it finds."""
        return self._detector.finds()

    @needs(Permission.MANAGE_SETTINGS)
    def save(self, caller: Caller, name: str, table: Mapping[str, Any]) -> None:
        """Change a profile, or make one of the hospital's own; uploads use it from now on.

        Args:
            table: Values of ``profile_store.EDITABLE``; what is missing stays as it is.

        Raises:
            InputError: Not a valid profile, or one that would leave identifiers unsealed.
        """
        with self._database.write() as tx:
            self._profile_store.save(tx, self._audit, caller, name, table)
        self._detector.profiles = self._profile_store.in_force()

    @needs(Permission.MANAGE_SETTINGS)
    def reset(self, caller: Caller, name: str) -> None:
        """Back to what was shipped; one of the hospital's own is removed.

        Raises:
            NotFound: It is as it was shipped, or is not there.
            InputError: Images were taken in under the hospital's own profile.
        """
        with self._database.write() as tx:
            self._profile_store.reset(tx, self._audit, caller, name)
        self._detector.profiles = self._profile_store.in_force()
