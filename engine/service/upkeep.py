"""Work that nobody asks for: scrubbing, sweeping, backups on time, and a look at the clock.

The server starts it; the command line, which holds the folder for minutes, does not. Of several
servers, the one that leads does what is to be done once. Each finding is in the audit log and on
the health page. What goes wrong here never stops the server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta

from engine.errors import EngineError, OtherCopy, RosterBroken, StorageBusy
from engine.formats import images
from engine.host import PARTS, sweep_unfinished
from engine.operations.context import Context
from engine.operations.erasures import Erasures
from engine.operations.guard import log
from engine.operations.intake import Intake
from engine.operations.monthly_drift import monthly_drift
from engine.operations.restorations import Restoration
from engine.operations.scrub import Scrub
from engine.operations.study_places import StudyPlaces
from engine.permissions import Role
from engine.records import Caller
from engine.service.backups import CLOCK_SLACK, Backups
from engine.service.training import Training
from engine.store.audit import Event
from engine.store.file_claim import LOOK_SECONDS
from engine.store.file_moves import end_move, move_on
from engine.tracing import unexpected

TICK_SECONDS = 60.0
SWEEP_MS = 3_600_000.0
#: Between two tries to move what is still at another place.
MOVE_MS = 60_000.0
#: After a backup or a checkpoint that failed, until the next try.
RETRY_MS = 3_600_000.0
SEND_SECONDS = 15.0
ORPHAN_SECONDS = 3600.0
FORGET_SECONDS = 1.0
#: In a bucket, whose clock is another, and where other servers have files at work of which this one
#: does not know.
ORPHAN_ELSEWHERE_SECONDS = 24 * 3600.0
MOST_ORPHANS = 100
#: Files that the sweep deletes between two looks for another copy of the installation.
CHECK_EVERY = 100
_SYSTEM = Caller("system", Role.OPERATOR, "", "upkeep")


def _nothing() -> None:
    """What is alone anyway."""


@contextmanager
def _and_goes_on(work: str) -> Iterator[None]:
    """A failure of this work goes into the log; the next round must come whatever happens."""
    try:
        yield
    except Exception as err:  # noqa: BLE001 - as above
        unexpected(f"{work} failed: {getattr(err, 'code', type(err).__name__)}", err)


class Upkeep:
    """Does in the background what is due."""

    def __init__(
        self,
        context: Context,
        backups: Backups,
        erasures: Erasures,
        intake: Intake,
        training: Training,
        places: StudyPlaces,
    ) -> None:
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._file_claim = context.file_claim
        self._sendings = context.sendings
        self._figures = context.figures
        self._host = context.host
        self._live = context.live
        self._outbox = context.outbox
        self._open_images = context.open_images
        self._exchanges = context.exchanges
        self._sessions = context.sessions
        self._shared = context.shared
        self._backups = backups
        self._forwarding = context.forwarding
        self._erasures = erasures
        self._intake = intake
        self._scrub = backups.scrub
        self._training = training
        self._places = places
        self._watch = context.watch
        self._checkpoints = backups.checkpoints
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._next_ms: dict[str, float] = {}
        #: Every image has a study: those that come in get theirs at once.
        self._placed = False
        #: By how much the clock was found behind the log, seconds.
        self.clock_back_s = 0

    @property
    def scrub(self) -> Scrub:
        """The check of stored files, for those who show what it found."""
        return self._scrub

    def start(self, when_expelled: Callable[[], None] = lambda: None) -> None:
        """Begin to work in the background until :meth:`Engine.close`.

        Args:
            when_expelled: What to do when other servers have taken this one for dead.
        """
        self._database.when_expelled = when_expelled
        loops = [self._warm_up, self._tend_forever, self._scrub_forever]
        if self._file_claim.needed:
            loops.append(self._look_for_copies_forever)
        if self._live.settings.blobs_also:
            loops.append(self._move_forever)
        if self._database.server_id:
            loops.append(self._forget_forever)
        if self._outbox.on:
            loops.append(self._send_forever)
        if self._forwarding.on:
            loops.append(self._forward_forever)
        for loop in loops:
            thread = threading.Thread(target=loop, name=f"upkeep{loop.__name__}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Let the work under way end, and begin no more."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _warm_up(self) -> None:
        """Have a decoder ready for the first one who looks at an image."""
        with _and_goes_on("upkeep: warm up"):
            images.confinement()

    def _tend_forever(self) -> None:
        while True:
            self.tend()
            if self._stopped.wait(TICK_SECONDS):
                return

    def _forget_forever(self) -> None:
        while not self._stopped.wait(FORGET_SECONDS):
            with _and_goes_on("upkeep: ended sessions"):
                self.forget_ended()

    def forget_ended(self) -> None:
        """Forget what is open here of sessions that were ended, and originals of images that were
        flagged or erased, on another server.

        Nobody can reach it any more; it would stay in memory in clear until it expires.
        """
        shown = self._open_images.subjects(Restoration)
        for image_id in self._catalog.taken_away(self._database.read(), shown) if shown else ():
            self._open_images.close_subject(image_id)
        held = self._open_images.sessions()
        for session_id in self._sessions.ended(held) if held else ():
            self._open_images.close_session(session_id)
            self._exchanges.close(session_id)

    def _look_for_copies_forever(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            with _and_goes_on("upkeep: other copies"):
                self.look_for_copies()

    def _move_forever(self) -> None:
        while not self._stopped.wait(TICK_SECONDS):
            if self._database.leads and self._due("move", MOVE_MS):
                with _and_goes_on("upkeep: move of files"), self._database.as_leader():
                    self.move_files()

    def move_files(self) -> bool:
        """Move stored files from MEDSEC_BLOBS_ALSO to MEDSEC_BLOBS; are all there now?

        Raises:
            OtherCopy: Another copy of this installation uses them.
            StorageError: A place cannot be read or written.
        """
        moved = move_on(self._database, self._host, self._file_claim, self._stopped)
        if moved is None:
            return False
        told = {"to": "s3" if self._live.settings.blobs else "folder", "files": moved}
        with self._database.write() as tx:
            if not self._file_claim.moved(tx):
                return False
            self._audit.append(tx, _SYSTEM, Event("files.move", detail=told))
        end_move(self._host)
        log.warning("all stored files have moved: MEDSEC_BLOBS_ALSO can be unset")
        return True

    def look_for_copies(self) -> None:
        """Does another copy of this installation use the files? Then say so, once."""
        known = self._file_claim.contested
        try:
            if self._database.leads and self._due("claim", SWEEP_MS):
                with self._database.as_leader():
                    self._file_claim.renew()
            else:
                self._file_claim.check()
        except OtherCopy as err:
            if not known:
                log.error("upkeep: %s", err.message)
                self._audit.record(_SYSTEM, Event("files.contest", "failed"))
        except StorageBusy as err:
            log.warning("nobody knows whether another copy is at work: %s", err.code)

    def _send_forever(self) -> None:
        while not self._stopped.wait(SEND_SECONDS):
            self._send_mail()

    def _forward_forever(self) -> None:
        sent = 0
        # What has gathered goes at once, batch after batch; then what is new, every few seconds.
        while not self._stopped.wait(0.0 if sent else SEND_SECONDS):
            sent = 0
            if self._database.leads:
                with _and_goes_on("audit forwarding"), self._database.as_leader():
                    sent = self._forwarding.deliver()

    def tend(self) -> None:
        """What is due by now."""
        for name, work in (
            ("clock", self.look_at_clock),
            ("erasures", self._retry_erasures),
            ("roster", self._roster_due),
        ):
            with _and_goes_on(f"upkeep: {name}"):
                work()
        for name, work in (
            ("shared", self._shared.tidy),
            ("sweep", self._sweep_due),
            ("training", self._training_due),
            ("studies", self._places_due),
            ("drift", self._drift_due),
            ("backup", self._backup_due),
            ("checkpoint", self._checkpoint_due),
            ("sendings", self._sendings_due),
        ):
            if self._database.leads:
                with _and_goes_on(f"upkeep: {name}"), self._database.as_leader():
                    work()

    def _due(self, name: str, every_ms: float) -> bool:
        now = self._host.ticks_ms()
        if now < self._next_ms.get(name, 0.0):
            return False
        self._next_ms[name] = now + every_ms
        return True

    def _sweep_due(self) -> None:
        if self._file_claim.settled and self._due(
            "sweep", (24 if self._live.settings.blobs else 1) * SWEEP_MS
        ):
            # A backup by another server copies files that a change has made needless since.
            many = bool(self._database.server_id)
            with self._database.alone("backup") if many else nullcontext(_nothing) as still_alone:
                swept = self.sweep(still_alone)
            if swept:
                self._audit.record(_SYSTEM, Event("files.sweep", detail={"files": swept}))

    def _sendings_due(self) -> None:
        """What was sent or cancelled long ago leaves the queue; the log keeps it."""
        if self._due("sendings", SWEEP_MS):
            with self._database.write() as tx:
                self._sendings.forget_old(tx)

    def _roster_due(self) -> None:
        """Somebody may have written to the catalog's file while it was open."""
        if self._due("roster", SWEEP_MS) and not self._watch.broken:
            try:
                self._watch.check()
            except RosterBroken as err:
                self._watch.broken = True
                log.error("upkeep: %s", err.code)
                self._audit.record(_SYSTEM, Event("roster.verify", "failed"))

    def _drift_due(self) -> None:
        """What changed since the detector was trusted is looked at again."""
        if not self._due("drift", SWEEP_MS):
            return
        month = f"{self._host.now():%Y-%m}"
        # Counting takes minutes for millions of images.
        if not self._intake.decisions.asks_for_drift(self._database.read(), month):
            return
        for drift in monthly_drift(self._figures):
            moved = any(shift.moved for shift in drift.shifts)
            if moved and drift.month.month == month:
                with self._database.write() as tx:
                    self._intake.decisions.drifted(tx, _SYSTEM, drift.month.profile, month)

    def _training_due(self) -> None:
        if self._due("training", SWEEP_MS):
            self._training.expire(_SYSTEM)

    def _places_due(self) -> None:
        """Images of an earlier release, some in each round; their patients need not be opened."""
        if not self._placed:
            self._placed = not self._places.complete()

    def _retry_erasures(self) -> None:
        if not self._erasures.kept:
            self._erasures.keep()

    def _backup_due(self) -> None:
        settings = self._live.settings
        if not settings.keeps_backups or settings.backup_hours == 0:
            return
        last = self._backups.last_at()
        age = None if last is None else self._host.now() - last
        if age is not None and age < timedelta(hours=settings.backup_hours):
            return
        if not self._due("backup", RETRY_MS):
            return
        try:
            self._backups.make_as(_SYSTEM)
        except EngineError as err:
            self._audit.record(_SYSTEM, Event("backup.make", "failed", detail={"why": err.code}))
            raise

    def _checkpoint_due(self) -> None:
        """One at each start of the server, then one every ``checkpoint_hours``."""
        if not self._checkpoints.due or not self._due("checkpoint", RETRY_MS):
            return
        self._checkpoints.write(_SYSTEM)
        del self._next_ms["checkpoint"]  # only after one that failed is an hour to pass

    def look_at_clock(self) -> None:
        """Say it once when the clock went back: times in the log, ages and ends of sessions
        then mean less than they seem to."""
        last = self._audit.last_at()
        if last is None:
            return
        behind = last - self._host.now()
        if behind > CLOCK_SLACK:
            self.clock_back_s = max(self.clock_back_s, int(behind.total_seconds()))
            log.error("the clock is %d seconds behind the audit log", self.clock_back_s)
            self._audit.record(
                _SYSTEM,
                Event("clock.back", "failed", detail={"seconds": int(behind.total_seconds())}),
            )

    def _scrub_forever(self) -> None:
        if self._stopped.wait(TICK_SECONDS):  # people first
            return
        while self._live.settings.scrub_hours > 0:
            began = self._host.ticks_ms()
            if not self._database.leads:
                if self._stopped.wait(TICK_SECONDS):
                    return
                continue
            with _and_goes_on("scrub"), self._database.as_leader():
                self._scrub.run(self._stopped)
            left_ms = self._live.settings.scrub_hours * 3_600_000.0 - (
                self._host.ticks_ms() - began
            )
            if self._stopped.wait(max(60.0, left_ms / 1000.0)):
                return

    def sweep(self, still_alone: Callable[[], None] = _nothing) -> int:
        """Delete files that no row needs and that are too old to belong to an upload under way.

        Args:
            still_alone: Raises TurnLost where another server may make a backup by now.

        Returns:
            How many were deleted.

        Raises:
            OtherCopy: Another copy of this installation may need them.
        """
        settings = self._live.settings
        elsewhere = self._database.server_id or settings.blobs or settings.blobs_also
        age = ORPHAN_ELSEWHERE_SECONDS if elsewhere else ORPHAN_SECONDS
        sweep_unfinished(self._live.settings.data, age)
        self._host.files.clear_unfinished(age)
        orphans, needless, needed = list[str](), 0, 0
        for part in PARTS:
            there = set(self._host.blobs(part))
            if not there:
                continue
            # Before the rows: what leaves this list has rows by then, or is needed no more.
            at_work = set().union(*list(self._intake.at_work.values()))
            found = there - self._catalog.blobs(self._database.read(), part) - at_work
            needless += len(found)
            needed += len(there) - len(found)
            orphans += [a for a in found if self._host.blob_age_seconds(a) > age]
        self._database.settle()  # a crash would take back that an old draft was sealed
        # With a claim, changes leave files to this sweep, and it is known whether the catalog was
        # set back.
        explained = self._file_claim.needed and self._file_claim.set_back_at is None
        if len(orphans) > max(MOST_ORPHANS, needed) and not explained:
            # Crashes leave a few; this many say that the catalog is an older one.
            total = needless + needed
            log.error("not swept: %d of %d files belong to no image", len(orphans), total)
            return 0
        for count, address in enumerate(orphans):
            if count % CHECK_EVERY == 0:
                self._file_claim.check()
                still_alone()
            self._host.delete_blob(address, swept=True)
        return len(orphans)

    def _send_mail(self) -> None:
        """One round of sending; whatever happens, there will be a next one."""
        if not self._database.leads:
            return
        with _and_goes_on("mail"), self._database.as_leader():
            self._outbox.deliver()
            self._outbox.forget_old()
