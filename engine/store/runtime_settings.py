"""Settings that an administrator changes while the server runs, stored as sealed rows.

Only settings that are safe to change at run time are allowed: sizes, times and defaults that the
next action reads. Locations of data and keys, the listening address, care relations and second
factors are set only by the person who starts the server.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import InputError, SettingsError
from engine.host import Host
from engine.records import Caller
from engine.settings import Settings
from engine.store.audit import AuditLog
from engine.store.audited_rows import AuditedRow, AuditedRows
from engine.store.database import Cursor, Database

#: Changeable settings, and when a change takes effect.
CHANGEABLE: Mapping[str, str] = {
    "profile": "with the next upload",
    "auto_seal": "with the next upload",
    "release_sample": "with the next upload",
    "release_withdraw": "with the next miss",
    "padding": "with the next image that is sealed",
    "padding_min_px": "with the next image that is sealed",
    "recipient_certificates": "with the next image that is sealed",
    "picture_limit_mb": "with the next upload",
    "restore_minutes": "with the next restoration",
    "study_restore_minutes": "with the next restoration",
    "reason_required": "immediately",
    "session_idle_minutes": "immediately, for every session",
    "session_hours": "for new sessions",
    "step_up_minutes": "immediately",
    "password_min_length": "for new passwords",
    "backups_kept": "with the next backup",
}


class SettingChanges:
    """Settings changed while the server runs, stored in the catalog.

    Args:
        key: 32 bytes under which rows are sealed.
        start: Settings from environment, file and defaults.
    """

    def __init__(self, database: Database, host: Host, key: bytes, start: Settings) -> None:
        self._database = database
        self._rows = AuditedRows("settings", host, key)
        self.start = start

    def changes(self) -> dict[str, AuditedRow]:
        """Each changed setting; its value is text in ``facts['value']``. Raises SealBroken."""
        return self._rows.all(self._database.read())

    def in_force(self) -> Settings:
        """Settings with every change.

        Raises:
            SettingsError: A stored change conflicts with the environment.
            SealBroken: A row was altered outside MedSec.
        """
        settings = self.start
        for name, row in self.changes().items():
            settings = settings.changed(name, str(row.facts["value"]))
        return settings

    def save(
        self, tx: Cursor, audit: AuditLog, caller: Caller, now: Settings, name: str, value: str
    ) -> Settings:
        """Change one setting; before and after are in the log.

        Args:
            now: Settings in force.
            value: As text, like in the environment.

        Returns:
            Settings in force from now on.

        Raises:
            InputError: Not changeable, not of its type, or out of range. Nothing is changed.
        """
        _refuse_others(name)
        try:
            after = now.changed(name, value.strip())
        except SettingsError as err:
            raise InputError(err.message, setting=name) from err
        before = {"value": str(getattr(now, name))}
        self._rows.put(tx, audit, caller, name, {"value": str(getattr(after, name))}, before)
        return after

    def reset(
        self, tx: Cursor, audit: AuditLog, caller: Caller, now: Settings, name: str
    ) -> Settings:
        """Reset a setting to its value from the environment. Raises InputError."""
        _refuse_others(name)
        started = str(getattr(self.start, name))
        try:
            after = now.changed(name, started)
        except SettingsError as err:
            raise InputError(err.message, setting=name) from err
        before = {"value": str(getattr(now, name))}
        self._rows.drop(tx, audit, caller, name, before, {"value": started})
        return after


def _refuse_others(name: str) -> None:
    if name not in CHANGEABLE:
        raise InputError(
            "This setting cannot be changed while the server runs. Set it in the environment"
            " and restart."
        )
