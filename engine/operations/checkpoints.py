"""Signed statements of the audit log's head, kept where the application cannot rewrite them.

The chain shows an edit, but not that its newest entries were cut off: a checkpoint does.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from engine.errors import EngineError, SettingsError, StorageError
from engine.host import write_durably
from engine.operations.context import Context
from engine.records import Caller
from engine.store.audit import Event

NAME = "audit-%Y%m%dT%H%M%S%f.json"
_HOUR_MS = 3_600_000.0


class Checkpoints:
    """Writes checkpoints into the folder of ``MEDSEC_CHECKPOINT_DIR``."""

    def __init__(self, context: Context) -> None:
        self._audit = context.audit
        self._hierarchy = context.hierarchy
        self._host = context.host
        self._live = context.live
        self._written_ms: float | None = None

    @property
    def on(self) -> bool:
        """Is there a folder for them?"""
        return self._live.settings.checkpoint_dir is not None

    @property
    def due(self) -> bool:
        """Has this process written none yet, or none for ``checkpoint_hours``?

        The monotonic clock decides: a clock that is set back must not put the next one off, and
        the folder may be one that cannot be listed.
        """
        if not self.on or self._written_ms is None:
            return self.on
        hours = self._live.settings.checkpoint_hours
        return hours > 0 and self._host.ticks_ms() - self._written_ms >= hours * _HOUR_MS

    def write(self, caller: Caller) -> str:
        """Write a checkpoint; says its file name. A failure is in the audit log too.

        Raises:
            SettingsError: MEDSEC_CHECKPOINT_DIR is not set, or lies in the data folder.
            AuditBroken: The log does not verify.
            StorageError: The folder cannot be written.
        """
        if not self.on:
            raise SettingsError("Set MEDSEC_CHECKPOINT_DIR to a folder outside the data folder.")
        try:
            name = self._written()
        except EngineError as err:
            failed = Event("audit.checkpoint", "failed", detail={"why": err.code})
            self._audit.record(caller, failed)
            raise
        self._written_ms = self._host.ticks_ms()
        self._audit.record(caller, Event("audit.checkpoint", detail={"name": name}))
        return name

    def _written(self) -> str:
        folder = self._folder()
        checkpoint = self._audit.checkpoint(self._hierarchy.signer(), self._hierarchy.log_id)
        made_at = self._host.now()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            while (path := folder / f"{made_at:{NAME}}").exists():  # the clock was set back
                made_at += timedelta(microseconds=1)
            write_durably(path, checkpoint)
        except OSError as err:
            raise StorageError(
                "Cannot write to the checkpoint folder. Check MEDSEC_CHECKPOINT_DIR, free space and"
                " permissions.",
                errno=err.errno,
            ) from err
        return path.name

    def _folder(self) -> Path:
        folder = self._live.settings.checkpoint_dir
        assert folder is not None
        # Whoever sets the data folder back sets back what lies in it.
        if folder.resolve().is_relative_to(self._live.settings.data.resolve()):
            raise SettingsError("MEDSEC_CHECKPOINT_DIR has to lie outside the data folder.")
        return folder
