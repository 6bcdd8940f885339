"""What several parts of the Engine share: whole reads of one image, and the backup folder."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from engine.errors import EngineError, SettingsError
from engine.records import Caller
from engine.service.guard import Core, log
from engine.store.audit import Event
from engine.store.backup import Backups
from engine.store.database import Cursor

R = TypeVar("R")


class Keeping(Core):
    """Methods of the Engine that are no user's action."""

    _backing_up: threading.Lock
    #: Did the list of erasures reach the backup folder? If not, the upkeep tries again.
    _erasures_kept: bool
    #: Two erasures at once must not write the older list last.
    _keeping_list: threading.Lock
    #: What the scrub, and backups, found.
    _scrubbed: dict[str, Any]

    def _steady(self, image_id: str, read: Callable[[], R]) -> R:
        """Rows and files of an image as of one moment: read again if it changed meanwhile.

        Rows, regions, the log and files are read one after the other. Somebody may seal,
        flag or erase the image in between; what was read then is a mixture, and an error
        that comes of it is none. Every change gives the image another tag.
        """
        while True:
            before = self.catalog.tag(self.database.read(), image_id)
            try:
                answer = read()
            except EngineError:
                if self.catalog.tag(self.database.read(), image_id) == before:
                    raise
                continue
            if self.catalog.tag(self.database.read(), image_id) == before:
                return answer

    def _tell_broken(self, caller: Caller, subject: str, fault: str) -> None:
        """Say once, in the log and on the health page, that an image or a record is damaged."""
        if subject in self._scrubbed["broken"]:
            return
        log.error("damaged: %s: %s", subject, fault)
        self._scrubbed["broken"] = [*self._scrubbed["broken"], subject]
        if subject.startswith("im_"):
            patient_id = self.catalog.patient_of(self.database.read(), subject) or ""
            where = {"image_id": subject, "patient_id": patient_id}
        else:
            where = {"patient_id": subject}
        self.audit.record(caller, Event("scrub.broken", "failed", detail={"why": fault}, **where))

    def _backups(self) -> Backups:
        if self.settings.backup_dir is None:
            raise SettingsError("Set MEDSEC_BACKUP_DIR to a folder outside the data folder.")
        return Backups(self.settings.backup_dir, self.keyring, self.host)

    def _erasures(self, tx: Cursor) -> list[tuple[str, str]]:
        return [(r["kind"], r["subject_id"]) for r in tx.all("SELECT * FROM erasures")]

    def _keep_erasures(self) -> None:
        """Tell the backup folder what is erased by now: its backups were made before.

        An erasure is not undone because that folder is away; the health page says so then.
        """
        if self.settings.backup_dir is None:
            self._erasures_kept = True
            return
        try:
            with self._keeping_list:
                erasures = self._erasures(self.database.read())
                if erasures:
                    self._backups().record_erasures(erasures)
            self._erasures_kept = True
        except EngineError as err:
            self._erasures_kept = False
            log.error("the list of erasures is not beside the backups: %s", err.code)
