"""Settings that an administrator changes while the server runs: sealed rows over the environment.

Only what may safely change under way is here: sizes, times and defaults that the next action
reads. Where data and keys lie, what the server binds to, who sees which patient and who needs a
second factor stay with whoever starts the server.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import InputError, SettingsError
from engine.host import Host
from engine.records import Caller
from engine.settings import Settings
from engine.store.audit import AuditLog
from engine.store.audited_rows import SealedRow, SealedRows
from engine.store.database import Cursor, Database

#: What may change, and from when on a change counts.
CHANGEABLE: Mapping[str, str] = {
    "profile": "from the next upload on",
    "padding": "from the next image that is sealed",
    "padding_min_px": "from the next image that is sealed",
    "picture_limit_mb": "from the next upload on",
    "restore_minutes": "from the next restoration on",
    "reason_required": "at once",
    "session_idle_minutes": "at once, for every session",
    "session_hours": "for sessions that begin from now on",
    "step_up_minutes": "at once",
    "password_min_length": "for new passwords",
    "backups_kept": "from the next backup on",
}


class Policies:
    """The changed settings of one catalog.

    Args:
        key: 32 bytes under which rows are sealed.
        start: What environment, file and defaults say.
    """

    def __init__(self, database: Database, host: Host, key: bytes, start: Settings) -> None:
        self._database = database
        self._rows = SealedRows("settings", host, key)
        self.start = start

    def changes(self) -> dict[str, SealedRow]:
        """Each changed setting; its value is text in ``facts['value']``. Raises SealBroken."""
        return self._rows.all(self._database.read())

    def in_force(self) -> Settings:
        """Settings with every change.

        Raises:
            SettingsError: A change does not go with the environment any more.
            SealBroken: A row was altered behind our back.
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
        """Let the environment speak again. Raises InputError."""
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
            "This setting cannot be changed while the server runs: set it in the environment."
        )
