"""Signed statements of the audit log's head, kept where the application cannot rewrite them.

The chain shows an edit, but not that its newest entries were cut off: a checkpoint does.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from engine.errors import SettingsError, StorageError
from engine.host import write_durably
from engine.operations.context import Context
from engine.records import Caller
from engine.store.audit import Event

NAME = "audit-%Y%m%dT%H%M%S%f.json"


class Checkpoints:
    """Writes checkpoints into the folder of ``MEDSEC_CHECKPOINT_DIR``."""

    def __init__(self, context: Context) -> None:
        self._audit = context.audit
        self._hierarchy = context.hierarchy
        self._host = context.host
        self._live = context.live

    @property
    def on(self) -> bool:
        """Is there a folder for them?"""
        return self._live.settings.checkpoint_dir is not None

    def write(self, caller: Caller) -> str:
        """Write a checkpoint; says its file name.

        Raises:
            SettingsError: MEDSEC_CHECKPOINT_DIR is not set.
            AuditBroken: The log does not verify.
            StorageError: The folder cannot be written.
        """
        folder = self._folder()
        checkpoint = self._audit.checkpoint(self._hierarchy.signer(), self._hierarchy.log_id)
        name = f"{self._host.now():{NAME}}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_durably(folder / name, checkpoint)
        except OSError as err:
            raise StorageError(
                "Cannot write to the checkpoint folder. Check MEDSEC_CHECKPOINT_DIR, free space and"
                " permissions.",
                errno=err.errno,
            ) from err
        self._audit.record(caller, Event("audit.checkpoint", detail={"name": name}))
        return name

    def last_at(self) -> datetime | None:
        """When the newest one was written, by its name; None where there is none."""
        made = []
        try:
            for path in self._folder().glob("audit-*.json"):
                try:
                    made.append(datetime.strptime(path.name, NAME))  # noqa: DTZ007 - UTC by name
                except ValueError:
                    continue  # not one of ours
        except OSError as err:
            raise StorageError(
                "Cannot read the checkpoint folder. Check MEDSEC_CHECKPOINT_DIR and its"
                " permissions.",
                errno=err.errno,
            ) from err
        return max(made, default=None)

    def _folder(self) -> Path:
        folder = self._live.settings.checkpoint_dir
        if folder is None:
            raise SettingsError("Set MEDSEC_CHECKPOINT_DIR to a folder outside the data folder.")
        return folder
