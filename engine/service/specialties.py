"""Specialty profiles as an administrator edits them: effective at once, audited, resettable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.permissions import Permission
from engine.profiles import ProfileEntry
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
            table: Values of :data:`engine.profiles.EDITABLE`; what is missing stays as it is.

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
