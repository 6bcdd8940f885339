"""Backups: made while everybody goes on working, checked, pruned."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from engine.errors import EngineError
from engine.host import PARTS
from engine.operations.checkpoints import Checkpoints
from engine.operations.context import Context
from engine.operations.erasures import Erasures
from engine.operations.guard import Guard, log, needs
from engine.operations.scrub import Scrub
from engine.permissions import Permission
from engine.records import Caller
from engine.store.audit import Event
from engine.store.backup import NAME as BACKUP_NAME
from engine.store.backup import Snapshot
from engine.vault import SALT_RECORD

#: A clock that is behind the log's last entry by more than this was set back.
CLOCK_SLACK = timedelta(minutes=5)
#: Images named one by one after a backup that lacks their files; a lost disk would name them all.
MOST_TOLD = 100


class Backups:
    """Makes, checks and lists backups."""

    def __init__(
        self,
        context: Context,
        guard: Guard,
        erasures: Erasures,
        scrub: Scrub,
        checkpoints: Checkpoints,
    ) -> None:
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._host = context.host
        self._live = context.live
        self._erasures = erasures
        self._file_claim = context.file_claim
        self._guard = guard
        self.scrub = scrub
        #: Also for the schedule.
        self.checkpoints = checkpoints
        self._folder = context.backup_folder
        #: Of the backups that could be read, the newest.
        self._last = ""

    @needs(Permission.MANAGE_BACKUPS)
    def make(self, caller: Caller) -> str:
        """Write a backup while everybody goes on working, check it, and prune old ones.

        A checkpoint of the audit log goes with it where a folder for checkpoints is set.

        Returns:
            The backup's name.

        Raises:
            SettingsError: No place for backups is set, or it cannot lock what is to be locked.
            AuditBroken: The log does not verify; a backup must not hide that.
            StorageBusy: Another one is being written.
            StorageError: It could not be written or does not verify.
        """
        return self.make_as(caller)

    def make_as(self, caller: Caller) -> str:
        """:meth:`make` without a token, for the upkeep."""
        # One at a time: pruning after one would take the files of another that has no
        # manifest yet.
        with self._database.alone("backup") as still_alone:
            return self._backed_up(caller, still_alone)

    def _backed_up(self, caller: Caller, still_alone: Callable[[], None]) -> str:
        self._audit.verify()
        backups = self._folder()
        with self._host.keeping_blobs():
            with self._database.still() as (rows, content):
                snapshot = Snapshot(
                    content,
                    [a for part in PARTS for a in sorted(self._catalog.blobs(rows, part))],
                    self._erasures.known(rows),
                    self._audit.count(rows),
                )
            record = self._live.settings.data / SALT_RECORD
            name = backups.make(
                snapshot,
                self._host,
                record.read_bytes() if record.exists() else None,
                still_alone,
            )
        detail: dict[str, Any] = {"name": name}
        if until := backups.locked_until(name):
            detail["locked_until"] = f"{until:%Y-%m-%dT%H:%M:%SZ}"
        missing = backups.missing(name)
        if missing:
            log.error("a backup lacks %d stored files", len(missing))
            detail |= {"why": "files-missing", "missing": len(missing)}
        self._audit.record(caller, Event("backup.make", detail=detail))
        broken = self._catalog.needing(self._database.read(), missing) if missing else {}
        for image_id, address in islice(broken.items(), MOST_TOLD):
            self.scrub.tell_broken(caller, image_id, missing[address])
        # Where another copy of this installation was found, its backups may lie here, too.
        if not self._file_claim.contested:
            kept = self._live.settings.backups_kept
            pruned, locked = backups.prune(kept, name, still_alone)
            detail = {"names": pruned} if pruned else {}
            if locked:
                detail["locked"] = {n: f"{at:%Y-%m-%dT%H:%M:%SZ}" for n, at in locked.items()}
            if detail:
                self._audit.record(caller, Event("backup.prune", detail=detail))
        self._write_checkpoint(caller)
        return name

    def _write_checkpoint(self, caller: Caller) -> None:
        """After a backup, which is good also where this fails; the log and an e-mail say so."""
        if self.checkpoints.on:
            try:
                self.checkpoints.write(caller)
            except EngineError as err:
                log.error("no checkpoint after a backup: %s", err.code)

    @needs(Permission.MANAGE_BACKUPS)
    def names(self, caller: Caller) -> list[str]:
        """Names of the backups there are, oldest first."""
        return self._folder().names()

    @needs(Permission.MANAGE_BACKUPS)
    def verify(self, caller: Caller, name: str) -> int:
        """Check a backup's catalog and files; says how many. Raises BackupInvalid."""
        files = self._folder().verify(name)
        self._audit.record(caller, Event("backup.verify", detail={"name": name, "files": files}))
        return files

    @needs(Permission.MANAGE_BACKUPS)
    def missing(self, caller: Caller, name: str) -> list[str]:
        """Addresses of files that were lost already when it was made. Raises BackupInvalid."""
        return sorted(self._folder().missing(name))

    @needs(Permission.MANAGE_BACKUPS)
    def locked_until(self, caller: Caller, name: str) -> datetime | None:
        """Until when nobody can delete a backup, UTC; None where it is not locked."""
        return self._folder().locked_until(name)

    def last_at(self) -> datetime | None:
        """When the newest readable backup was made, by its name; a clock ahead made none."""
        return self.last()[0]

    def last(self) -> tuple[datetime | None, datetime | None]:
        """As :meth:`last_at`, and until when nobody can delete that backup."""
        if not self._live.settings.keeps_backups:
            return None, None
        latest = f"{self._host.now() + CLOCK_SLACK:{BACKUP_NAME}}"
        folder = self._folder()
        for name in reversed(folder.names()):
            # Anybody can put a file of that name into the place.
            if name <= latest and (name == self._last or folder.is_readable(name)):
                self._last = name
                made = datetime.strptime(name, BACKUP_NAME)  # noqa: DTZ007
                return made, folder.locked_until(name)
        return None, None
