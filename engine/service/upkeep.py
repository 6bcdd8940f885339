"""Work that nobody asks for: scrubbing, sweeping, backups on time, and a look at the clock.

The server starts it; the command line, which holds the folder for minutes, does not. Each
finding is in the audit log and on the health page. What goes wrong here never stops the server.
"""

from __future__ import annotations

import math
import threading
from datetime import datetime, timedelta
from typing import Any

from engine import numbers
from engine.audit import Event
from engine.backup import NAME as BACKUP_NAME
from engine.errors import EngineError, NotFound, RosterBroken
from engine.permissions import Permission, Role
from engine.records import Caller
from engine.service.guard import log, needs
from engine.service.learning import Learning
from engine.service.mailing import SEND_SECONDS, Mailing
from engine.service.reports import Reports
from engine.tracing import unexpected

TICK_SECONDS = 60.0
SWEEP_MS = 3_600_000.0
#: After a backup that failed, until the next try.
RETRY_MS = 3_600_000.0
#: A clock that is behind the log's last entry by more than this was set back.
CLOCK_SLACK = timedelta(minutes=5)

_SYSTEM = Caller("system", Role.OPERATOR, "", "upkeep")


class Upkeep(Reports, Mailing, Learning):
    """Methods of the Engine."""

    _stopped: threading.Event
    _threads: list[threading.Thread]
    _next_ms: dict[str, float]
    _clock_back_s: int

    @needs(Permission.VIEW_HEALTH)
    def metrics(self, caller: Caller) -> bytes:
        """Counts and times for a monitoring system, in Prometheus' text format."""
        now = self._health()
        last = now["last_backup_at"]
        condition = {
            "disk_free_bytes": now["disk_free_bytes"],
            "stored_bytes": now["stored_bytes"],
            "audit_entries": now["audit_entries"],
            "keys_to_rotate": now["keys_to_rotate"],
            "backup_overdue": now["backup_overdue"],
            "backup_age_seconds": (
                (self.host.now() - last).total_seconds() if last is not None else math.inf
            ),
            "erasures_kept": now["erasures_kept"],
            "broken": len(now["broken"]),
            "clock_back_seconds": now["clock_back_seconds"],
        }
        held = {
            "opened_pictures": self.viewings.held_bytes,
            "masked_pictures": self._masked_bytes(),
            "catalog": self.database.held_bytes(),
        }
        return numbers.text(now["images"], condition, held)

    def _prepare_upkeep(self) -> None:
        self._stopped = threading.Event()
        self._threads = []
        self._next_ms = {}
        self._scrubbed = {"running": False, "finished_at": None, "images": 0, "broken": []}
        self._clock_back_s = 0
        self._look_at_clock()

    def start_upkeep(self) -> None:
        """Begin to work in the background until :meth:`Engine.close`."""
        loops = [self._tend_forever, self._scrub_forever]
        if self.outbox_.on:
            loops.append(self._send_forever)
        for loop in loops:
            thread = threading.Thread(target=loop, name=f"upkeep{loop.__name__}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _stop_upkeep(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _tend_forever(self) -> None:
        while True:
            self._tend()
            if self._stopped.wait(TICK_SECONDS):
                return

    def _send_forever(self) -> None:
        while not self._stopped.wait(SEND_SECONDS):
            self._send_mail()

    def _tend(self) -> None:
        """What is due by now."""
        for name, work in (
            ("clock", self._look_at_clock),
            ("erasures", self._retry_erasures),
            ("sweep", self._sweep_due),
            ("training", self._training_due),
            ("roster", self._roster_due),
            ("backup", self._backup_due),
        ):
            try:
                work()
            except Exception as err:  # noqa: BLE001 - tomorrow's sweep must come whatever happens
                unexpected(
                    f"upkeep: {name} failed: {getattr(err, 'code', type(err).__name__)}", err
                )

    def _due(self, name: str, every_ms: float) -> bool:
        now = self.host.ticks_ms()
        if now < self._next_ms.get(name, 0.0):
            return False
        self._next_ms[name] = now + every_ms
        return True

    def _sweep_due(self) -> None:
        if self._due("sweep", SWEEP_MS):
            swept = self.sweep()
            if swept:
                self.audit.record(_SYSTEM, Event("files.sweep", detail={"files": swept}))

    def _roster_due(self) -> None:
        """Somebody may have written to the catalog's file while it was open."""
        if self._due("roster", SWEEP_MS) and not self._roster_broken:
            try:
                with self.database.write() as tx:
                    self.roster.check(tx)
            except RosterBroken as err:
                self._roster_broken = True
                log.error("upkeep: %s", err.code)
                self.audit.record(_SYSTEM, Event("roster.verify", "failed"))

    def _training_due(self) -> None:
        if self._due("training", SWEEP_MS):
            self._expire_training(_SYSTEM)

    def _retry_erasures(self) -> None:
        if not self._erasures_kept:
            self._keep_erasures()

    def _backup_due(self) -> None:
        settings = self.settings
        if settings.backup_dir is None or settings.backup_hours == 0:
            return
        last = self._last_backup_at()
        age = None if last is None else self.host.now() - last
        if age is not None and age < timedelta(hours=settings.backup_hours):
            return
        if not self._due("backup", RETRY_MS):
            return
        try:
            self._make_backup(_SYSTEM)
        except EngineError as err:
            self.audit.record(_SYSTEM, Event("backup.make", "failed", detail={"why": err.code}))
            raise

    def _last_backup_at(self) -> datetime | None:
        """When the newest whole backup was made, by its name; a clock that was ahead made none."""
        if self.settings.backup_dir is None:
            return None
        latest = f"{self.host.now() + CLOCK_SLACK:{BACKUP_NAME}}"
        names = [name for name in self._backups().names() if name <= latest]
        return datetime.strptime(names[-1], BACKUP_NAME) if names else None  # noqa: DTZ007

    def _look_at_clock(self) -> None:
        """Say it once when the clock went back: times in the log, ages and ends of sessions
        then mean less than they seem to."""
        last = self.database.read().one(
            "SELECT occurred_at FROM audit ORDER BY sequence DESC LIMIT 1"
        )
        if last is None:
            return
        behind = datetime.fromisoformat(last["occurred_at"]) - self.host.now()
        if behind > CLOCK_SLACK:
            self._clock_back_s = max(self._clock_back_s, int(behind.total_seconds()))
            log.error("the clock is %d seconds behind the audit log", self._clock_back_s)
            self.audit.record(
                _SYSTEM,
                Event("clock.back", "failed", detail={"seconds": int(behind.total_seconds())}),
            )

    # --- scrubbing ------------------------------------------------------------------------------

    def _scrub_forever(self) -> None:
        if self._stopped.wait(TICK_SECONDS):  # people first
            return
        while self.settings.scrub_hours > 0:
            began = self.host.ticks_ms()
            try:
                self._scrub()
            except Exception as err:  # noqa: BLE001 - as above
                unexpected(f"scrub failed: {getattr(err, 'code', type(err).__name__)}", err)
            left_ms = self.settings.scrub_hours * 3_600_000.0 - (self.host.ticks_ms() - began)
            if self._stopped.wait(max(60.0, left_ms / 1000.0)):
                return

    def _scrub(self) -> None:
        """Check every image once, no faster than the setting, in an order that changes: a
        server that is restarted often would otherwise never come to the end of the list."""
        tx = self.database.read()
        seed = self.host.random(8).hex()
        rows = tx.all(
            "SELECT image_id FROM images WHERE state <> 'erased' ORDER BY hash(image_id || $1)",
            seed,
        )
        people = tx.all("SELECT patient_id FROM patients WHERE erased_at IS NULL")
        broken: list[str] = []
        self._scrubbed["running"] = True
        try:
            for subject in [*(r["image_id"] for r in rows), *(r["patient_id"] for r in people)]:
                fault, size = self._check(subject)
                if fault is not None:
                    broken.append(subject)
                    self._tell_broken(_SYSTEM, subject, fault)
                pause = size / (self.settings.scrub_mb_per_second * 1e6)
                if self._stopped.wait(pause):
                    return
        finally:
            self._scrubbed["running"] = False
        self._scrubbed |= {
            "finished_at": self.host.now(),
            "images": len(rows),
            "broken": broken,
        }
        detail = {"images": len(rows), "patients": len(people), "broken": len(broken)}
        self.audit.record(_SYSTEM, Event("scrub.finish", detail=detail))

    def _check(self, subject: str) -> tuple[str | None, int]:
        """What is wrong with an image or a patient's record, if anything, and bytes read."""
        if subject.startswith("im_"):
            return self._check_image(subject)
        try:
            self.patients_.get(self.database.read(), subject)
        except NotFound:
            pass  # erased meanwhile
        except EngineError as err:
            return err.code, 0
        return None, 0

    def _condition(self) -> dict[str, Any]:
        last = self._last_backup_at()
        alarm = timedelta(hours=self.settings.backup_alarm_hours)
        return {
            "last_backup_at": last,
            "backup_overdue": last is None or self.host.now() - last > alarm,
            "erasures_kept": self._erasures_kept,
            "scrubbed_at": self._scrubbed["finished_at"],
            "scrubbed_images": self._scrubbed["images"],
            "scrub_running": self._scrubbed["running"],
            "broken": [*self._scrubbed["broken"], *["accounts and rights"] * self._roster_broken],
            "clock_back_seconds": self._clock_back_s,
        }
