"""Settings as the administrator sees and changes them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from engine.errors import InputError
from engine.formats.images import Limits
from engine.permissions import Permission
from engine.records import Caller
from engine.service.guard import Core, needs
from engine.settings import PREFIX, Settings
from engine.store.runtime_settings import CHANGEABLE, Policies


@dataclass(frozen=True)
class SettingEntry:
    """One setting. Secrets are never among them.

    Args:
        name: As in ``engine/settings.py``.
        variable: As in the environment.
        value, started: In force, and as the server was started; as text.
        effect: From when on a change counts; empty where it takes a new start.
        changed_at, changed_by: Of a change that is in force.
    """

    name: str
    variable: str
    value: str
    started: str
    unit: str
    help: str
    effect: str
    changed_at: datetime | None
    changed_by: str

    @property
    def changeable(self) -> bool:
        return bool(self.effect)


class Governing(Core):
    """Methods of the Engine."""

    policies: Policies

    @needs(Permission.MANAGE_SETTINGS)
    def setting_entries(self, caller: Caller) -> list[SettingEntry]:
        """Every setting that is no secret, those first that can be changed."""
        changes = self.policies.changes()
        entries = []
        for f in fields(Settings):
            if "Secret" in str(f.type):
                continue
            change = changes.get(f.name)
            entries.append(
                SettingEntry(
                    name=f.name,
                    variable=PREFIX + f.name.upper(),
                    value=_text(getattr(self.settings, f.name)),
                    started=_text(getattr(self.policies.start, f.name)),
                    unit=f.metadata["unit"],
                    help=f.metadata["help"],
                    effect=CHANGEABLE.get(f.name, ""),
                    changed_at=change.changed_at if change else None,
                    changed_by=change.changed_by if change else "",
                )
            )
        return sorted(entries, key=lambda e: not e.changeable)

    @needs(Permission.MANAGE_SETTINGS)
    def change_setting(self, caller: Caller, name: str, value: str) -> None:
        """Change a setting that may change while the server runs; audited with both values.

        Raises:
            InputError: Not changeable, not of its type, or out of range. Nothing is changed.
        """
        if name == "profile" and value.strip() not in self.detector.profiles:
            raise InputError("There is no such specialty profile.")
        with self.database.write() as tx:
            after = self.policies.save(tx, self.audit, caller, self.settings, name, value)
        self._govern(after)

    @needs(Permission.MANAGE_SETTINGS)
    def reset_setting(self, caller: Caller, name: str) -> None:
        """Go back to what the server was started with. Raises InputError."""
        with self.database.write() as tx:
            after = self.policies.reset(tx, self.audit, caller, self.settings, name)
        self._govern(after)

    def _govern(self, settings: Settings) -> None:
        """Let these settings count; what is read at each action needs no more than this."""
        self.settings = settings
        self.limits = Limits.of(settings)
        self.viewings.lifetime = timedelta(minutes=settings.restore_minutes)
        self.sessions_.idle = timedelta(minutes=settings.session_idle_minutes)
        self.sessions_.absolute = timedelta(hours=settings.session_hours)
        self.accounts_.min_length = settings.password_min_length


def _text(value: object) -> str:
    return "" if value is None else str(value)
