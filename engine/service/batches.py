"""Many files at once: sealed by worker processes, entered into the catalog by this one.

For each file, this process reads it, knows whether it is here already, and stores it encrypted;
a worker opens, looks and seals; this process writes the rows, one transaction a file. Stopped
anywhere, the same call goes on: what has rows is not done again, and what has none was not
acknowledged. Memory is bounded by the number of workers, not of files.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from engine.detection import OwnVersion, PackedModel, SentVersion
from engine.errors import (
    ChangeUnknown,
    DetectorError,
    DuplicateImage,
    EngineError,
    MachineOverloaded,
    NotFound,
    PermissionDenied,
    ReviewNeeded,
    StorageError,
    WorkerLost,
)
from engine.formats import images
from engine.formats.needs import Need
from engine.formats.notes import notes_of
from engine.metrics import Look
from engine.operations.admission import Work
from engine.operations.batch_report import BatchItem
from engine.operations.context import Context
from engine.operations.draft_boxes import drawn
from engine.operations.examination import BOXES_DRAWN, CONFIRMED, NOT_LOOKED_AT, Examined, Examiner
from engine.operations.guard import Guard, log, needs
from engine.operations.intake import Entry, FreshKey, Intake, clean_folder, clean_name
from engine.operations.preparation import Decision, event
from engine.operations.series import SeriesFinder
from engine.operations.shadow import look_event
from engine.operations.stored_images import StoredImages, need_of
from engine.operations.worker import (
    BatchOptions,
    Decided,
    Job,
    Outcome,
    Worker,
    WorkerSetup,
    with_patience,
    work,
)
from engine.operations.worker_pool import WorkerPool
from engine.permissions import Permission, Role, allowed
from engine.records import Caller, Detection, ImageState, Patient
from engine.seal.pipeline import Stopwatch
from engine.store.audit import Event
from engine.store.catalog import ImageRow
from engine.store.database import Cursor
from engine.store.shared import Hold
from engine.tracing import tell
from engine.vault import blind_index

#: So few files are sealed in this process: starting workers would take longer.
FEW_FILES = 8
#: Drafts that a server is looking at, and how long that takes at most.
LOOKING = "look"
_LOOK_LASTS = timedelta(hours=1)
#: Columns of a draft that say what was looked for in it and found.
_LOOKED = ("state", "profile", "reasons", "confidence", "region_count")


@dataclass(frozen=True)
class Source:
    """A file of a batch, read when its turn comes.

    Args:
        read: Gives the bytes; may raise an EngineError.
        folder: Where it lies under the folder that is sealed; sealed with the name.
    """

    name: str = field(repr=False)
    read: Callable[[], bytes] = field(repr=False)
    folder: str = field(default="", repr=False)


@dataclass(frozen=True)
class _Task:
    """A job and what this process keeps for its return."""

    place: int
    name: str = field(repr=False)
    folder: str = field(repr=False)
    entry: Entry
    fresh: FreshKey = field(repr=False)
    job: Job
    need: Need
    known_row: bytes | None  # tag of a draft that was here before


class Batches:
    """Takes in and seals many files; without a person, nothing doubtful is released."""

    def __init__(
        self,
        context: Context,
        guard: Guard,
        examiner: Examiner,
        stored: StoredImages,
        intake: Intake,
    ) -> None:
        self._context = context
        self._admission = context.admission
        self._audit = context.audit
        self._catalog = context.catalog
        self._claims = context.claims
        self._custom_networks = context.custom_networks
        self._database = context.database
        self._detector = context.detector
        self._hierarchy = context.hierarchy
        self._host = context.host
        self._live = context.live
        self._network_versions = context.network_versions
        self._open_images = context.open_images
        self._sessions = context.sessions
        self._shared = context.shared
        self._examiner = examiner
        self._guard = guard
        self._intake = intake
        self._stored = stored
        self._worker = Worker(context)

    @needs(Permission.UPLOAD)
    def seal(
        self,
        caller: Caller,
        patient_id: str,
        sources: Iterable[Source],
        profile: str | None = None,
        options: BatchOptions | None = None,
        few: bool = False,
    ) -> Generator[BatchItem, None, None]:
        """Take files in and seal them, on all processors; yields each as it is done.

        Nobody watches: what the second look finds is sealed too, and an image at which a
        person must look becomes a draft in the review queue.

        Args:
            sources: Drawn one by one, as workers become free.
            few: Work in this process, without workers.

        Raises:
            InputError: No such profile.
            NotFound: No such patient.
            SettingsError: The workers do not answer.
        """
        patient = self._intake.patient(patient_id)
        chosen = self._examiner.profile(profile)
        tasks = self._tasks(caller, patient, chosen.name, sources, options or BatchOptions())
        return self._run(caller, tasks, few, chosen.networks)

    @needs(Permission.UPLOAD)
    def look(
        self, caller: Caller, image_ids: Iterable[str], few: bool = False
    ) -> Generator[BatchItem, None, None]:
        """Look at drafts that came in without a look, and seal those that a person confirmed.

        On all processors; yields each as it is done. Where who sent them chose that, and the
        settings offer it, those without doubt are sealed too.
        One that somebody has looked at, sealed or discarded meanwhile is left as it is.

        Args:
            image_ids: Drawn one by one, as workers become free.
            few: Work in this process, without workers.

        Raises:
            AccessError: The session has ended meanwhile; what was not looked at stays as it is.
            SettingsError: The workers do not answer.
        """
        return self.look_as(caller, image_ids, few)

    def look_as(
        self, caller: Caller, image_ids: Iterable[str], few: bool
    ) -> Generator[BatchItem, None, None]:
        """As :meth:`look`, for a caller that is resolved already: a node that sent them."""
        networks = {n for p in self._examiner.profiles().values() for n in p.networks}
        return self._run(caller, self._drafts(caller, image_ids), few, sorted(networks))

    def _drafts(self, caller: Caller, image_ids: Iterable[str]) -> Iterator[_Task | BatchItem]:
        series = SeriesFinder(self._context)
        for place, image_id in enumerate(image_ids):
            self._refuse_ended(caller)  # those not drawn yet wait for the next session
            try:
                yield self._draft_task(caller, place, image_id, series)
            except EngineError as err:
                yield BatchItem(place, "failed", image_id, error=(err.code, err.message))

    def _draft_task(
        self, caller: Caller, place: int, image_id: str, series: SeriesFinder
    ) -> _Task | BatchItem:
        """Raises NotFound where it is no draft any more."""
        tx = self._database.read()
        draft = self._stored.draft(tx, image_id)
        row, facts = draft.row, draft.facts
        confirmed = CONFIRMED in row.reasons
        if not confirmed and NOT_LOOKED_AT not in row.reasons:
            self._database.settle()
            return _here_already(place, row, seal=False)
        self._refuse_looked_at(image_id)
        patient_key = self._hierarchy.patient_key(tx, row.patient_id)
        patient = self._intake.patient(row.patient_id)
        entry = Entry(
            image_id, row.patient_id, draft.key, row.wrapped_key, row.duplicate_index,
            row.draft_blob or "", row.stored_bytes,
        )  # fmt: skip
        seal = self._live.settings.auto_seal and bool(facts.get("seal_undoubted"))
        seal = seal and not drawn(facts)
        fresh = self._intake.fresh_key(image_id, row.version + 1, patient_key)
        options = BatchOptions(seal=seal or confirmed)
        job = _job(entry, fresh, patient, row.profile, options)
        job = self._told(caller, job)
        known = facts.get("series_count", 0) if confirmed else 0
        job = replace(job, series=series.of(tx, image_id, known))
        if confirmed:
            job = replace(job, decided=_decided(row, facts))
        name, folder = facts["name"], facts.get("folder", "")
        return _Task(place, name, folder, entry, fresh, job, need_of(row, facts), row.tag)

    def _refuse_looked_at(self, image_id: str) -> None:
        """Raises NotFound where another server is at it, after its person came here."""
        here = self._database.server_id
        hold = Hold(LOOKING, image_id, here, json.dumps([image_id, here]), lasting=True)
        if self._shared.hold(hold, _LOOK_LASTS) is not None:
            raise NotFound("This draft is being looked at on another server.")

    def _packed_models(self, networks: Iterable[str]) -> list[PackedModel]:
        """Those of these networks that are the hospital's own.

        One that cannot be opened is left out: workers then send each image to a person.
        """
        found = []
        for name in networks:
            if name in self._custom_networks.records():
                try:
                    found.append(self._custom_networks.packed(name))
                except DetectorError:
                    log.exception("a network of the hospital's own does not open")
        return found

    def _run(
        self,
        caller: Caller,
        tasks: Iterator[_Task | BatchItem],
        few: bool,
        networks: Iterable[str],
    ) -> Generator[BatchItem, None, None]:
        workers = self._live.settings.batch_workers
        if few:
            workers = 0
        elif not workers:
            workers = self._admission.budget.batch_workers(os.cpu_count() or 1)
        files: set[str] = set()
        drafts: set[str] = set()

        def drawn() -> Iterator[tuple[_Task | BatchItem, Job | None]]:
            for task in tasks:
                job = None
                if isinstance(task, _Task):
                    files.add(task.entry.blob)
                    drafts.add(task.entry.image_id)
                    if workers and self._admission.budget.fits_worker(task.need, workers):
                        job = task.job
                yield task, job

        jobs = drawn()
        with contextlib.ExitStack() as stack:
            name = self._host.token_of(8)
            self._intake.at_work[name] = files
            stack.callback(self._intake.at_work.pop, name)
            stack.callback(self._leave, drafts)
            stack.callback(self._worker.series.forget)
            if workers:
                # Workers elsewhere are one per processor, as the README says.
                threads = max(1, (os.cpu_count() or 1) // workers)
                elsewhere = bool(self._live.settings.batch_scheduler)
                if elsewhere:
                    threads = self._live.settings.threads or 1
                setup = WorkerSetup.of(
                    self._live.settings, self._detector.profiles,
                    self._host.files.opener(elsewhere), threads, self._packed_models(networks),
                )  # fmt: skip
                pool = stack.enter_context(WorkerPool.open(self._live.settings, workers, setup))
                answers = pool.run(work, jobs)
            else:
                answers = ((task, None) for task, _ in jobs)
            for task, outcome in answers:
                if isinstance(task, BatchItem):
                    yield task
                    continue
                # What no worker has memory for is worked on here, in turn with what others send.
                item = self._taken(caller, task, outcome or self._here(caller, task))
                files.discard(task.entry.blob)
                self._leave({task.entry.image_id})
                yield item

    def _leave(self, image_ids: Iterable[str]) -> None:
        """Others may look at these drafts again, or at what became of them."""
        for image_id in image_ids:
            self._shared.leave(LOOKING, image_id, self._database.server_id)

    def _here(self, caller: Caller, task: _Task) -> Outcome:
        try:
            with self._admission.room(Work.INTAKE, caller.username, task.need):
                return self._worker.work(task.job)
        except MachineOverloaded as err:
            return Outcome(None, None, {}, (err.code, err.message))

    def _tasks(
        self,
        caller: Caller,
        patient: Patient,
        profile: str,
        sources: Iterable[Source],
        options: BatchOptions,
    ) -> Iterator[_Task | BatchItem]:
        """What is to be worked on, and what became of files that need no work."""
        for place, source in enumerate(sources):
            try:
                self._refuse_ended(caller)
                yield self._task(caller, place, source, patient, profile, options)
            except EngineError as err:
                self._log_failure(caller, patient.patient_id, err.code)
                yield BatchItem(place, "failed", error=(err.code, err.message))

    def _refuse_ended(self, caller: Caller) -> None:
        """Raises AccessError where session or role have ended since the batch began."""
        if caller.role in (Role.OPERATOR, Role.NODE):  # they have no session
            return
        now = self._sessions.resolve_work(caller.session_id)
        if now.factor_due or not allowed(now.role, Permission.UPLOAD):
            raise PermissionDenied(
                "Your account no longer has permission to upload. Ask an administrator."
            )

    def _log_failure(self, caller: Caller, patient_id: str, code: str) -> None:
        failed = Event("image.upload", "failed", patient_id=patient_id, detail={"why": code})
        try:
            self._audit.record(caller, failed)
        except StorageError as err:  # others of the batch are waiting
            log.error("a failed file is not in the audit log: %s", err.code)

    def _task(
        self,
        caller: Caller,
        place: int,
        source: Source,
        patient: Patient,
        profile: str,
        options: BatchOptions,
    ) -> _Task | BatchItem:
        """Raises EngineError where nothing can be done."""
        data = source.read()
        images.taken(data, self._live.limits)
        index = blind_index(self._hierarchy.system_key("index"), "image/file", data)
        tx, patient_id = self._database.read(), patient.patient_id
        patient_key = self._hierarchy.patient_key(tx, patient_id)
        tag = None
        limits = self._live.limits
        need = with_patience(lambda: self._admission.need_of(caller.username, data, limits))
        try:
            self._intake.refuse_duplicate(tx, index)
            entry = self._intake.keep(patient_key, patient_id, data, index, Stopwatch(self._host))
        except DuplicateImage as err:
            image_id = err.facts["image_id"]
            if err.facts["patient_id"] != patient_id:
                raise
            row = self._catalog.row(tx, image_id)
            if not _goes_on(row, profile, options):
                self._database.settle()
                return _here_already(place, row, options.seal)
            key = self._hierarchy.image_key(tx, image_id)
            if drawn(self._stored.open_facts(key, row)):
                return _review(place, image_id, sorted({*row.reasons, BOXES_DRAWN}))
            # Left by a batch or a page that went no further: it goes on from here.
            tag = row.tag
            entry = Entry(
                image_id, patient_id, key, row.wrapped_key, index, row.draft_blob or "",
                row.stored_bytes,
            )  # fmt: skip
        fresh = self._intake.fresh_key(entry.image_id, 1, patient_key)
        job = self._told(caller, _job(entry, fresh, patient, profile, options))
        name, folder = clean_name(source.name), clean_folder(source.folder)
        return _Task(place, name, folder, entry, fresh, job, need, tag)

    def _told(self, caller: Caller, job: Job) -> Job:
        """What the worker has to know of the profile's rule and of devices."""
        rule = self._intake.decisions.rule(self._examiner.profile(job.profile))
        own, candidate = self._sent(self._detector.own), self._sent(self._detector.candidate)
        devices = self._intake.devices(caller)
        return replace(job, rule=rule, devices=devices, own=own, candidate=candidate)

    def _sent(self, version: OwnVersion | None) -> SentVersion | None:
        """How a worker gets a learned version: with the job, so that a change needs no restart."""
        return None if version is None else self._network_versions.sent(version.name)

    def _taken(
        self, caller: Caller, task: _Task, outcome: Outcome | WorkerLost | None
    ) -> BatchItem:
        """Enter what a worker did into the catalog."""
        try:
            if isinstance(outcome, WorkerLost):
                raise outcome
            assert outcome is not None
            tell(outcome.told)
            if outcome.examined is None or (outcome.prepared is None and outcome.error):
                code, message = outcome.error or ("engine-error", "")
                return self._left_out(caller, task, code, message, outcome.error_id)
            return self._entered(caller, task, outcome)
        except ReviewNeeded as err:
            return _review(task.place, task.entry.image_id, list(err.facts["reasons"]))
        except DuplicateImage as err:
            # The same file twice in one batch, or by somebody else meanwhile.
            if err.facts["patient_id"] != task.entry.patient_id:
                return self._left_out(caller, task, err.code, err.message)
            self._host.delete_blob(task.entry.blob)
            row = self._catalog.row(self._database.read(), err.facts["image_id"])
            self._database.settle()
            return _here_already(task.place, row, task.job.options.seal)
        except ChangeUnknown as err:
            return self._left_out(caller, task, err.code, err.message, unknown=True)
        except EngineError as err:
            return self._left_out(caller, task, err.code, err.message)

    def _left_out(
        self,
        caller: Caller,
        task: _Task,
        code: str,
        message: str,
        error_id: str = "",
        *,
        unknown: bool = False,
    ) -> BatchItem:
        """What failed keeps no file, unless its row may be there: the sweep knows later."""
        if task.known_row is None and not unknown:
            self._host.delete_blob(task.entry.blob)
        if task.job.decided:
            self._ask_again(caller, task)
        self._log_failure(caller, task.entry.patient_id, code)
        return BatchItem(task.place, "failed", error=(code, message), error_id=error_id)

    def _ask_again(self, caller: Caller, task: _Task) -> None:
        """A confirmed draft that could not be sealed waits for a person again."""
        assert task.job.decided is not None
        with self._database.write() as tx:
            row = self._catalog.row(tx, task.entry.image_id)
            if row.tag == task.known_row:
                tag = self._looked_again(tx, task.entry, row, task.job.decided.examined)
                failed = event("image.seal", row, outcome="failed")
                self._audit.append(tx, caller, replace(failed, detail={"tag": tag}))

    def _entered(self, caller: Caller, task: _Task, outcome: Outcome) -> BatchItem:
        assert outcome.examined is not None
        entry, prepared, unused = task.entry, outcome.prepared, None
        own = {"name": task.name, "folder": task.folder}
        examined = replace(outcome.examined, facts={**outcome.examined.facts, **own})
        with self._database.write() as tx:
            if task.known_row is None:
                self._intake.enter(tx, caller, entry, examined, outcome.times_ms)
            row = self._catalog.row(tx, entry.image_id)
            if task.known_row is not None:
                if row.tag != task.known_row:
                    raise ReviewNeeded(
                        "Another user is working on this draft. Try again later.",
                        reasons=["changed"],
                    )
                first = NOT_LOOKED_AT in row.reasons
                tag = self._looked_again(tx, entry, row, examined)
                row = self._catalog.row(tx, entry.image_id)
                if first:
                    found = {"found": examined.columns["region_count"]}
                    looked = {**found, "why": list(examined.reasons), "tag": tag}
                    looked["detector"] = examined.facts["detector"]
                    beside = look_event(row.patient_id, row.image_id, examined.facts)
                    seen = replace(event("image.look", row), detail=looked)
                    self._audit.append(tx, caller, seen, *beside)
                    self._intake.decisions.arrive(tx, caller, entry.image_id, examined)
                    self._intake.decisions.arrive_in_shadow(tx, caller, entry.image_id, examined)
                elif prepared is None:
                    why = {"why": list(examined.reasons), "tag": tag}
                    self._audit.append(
                        tx, caller, replace(event("image.seal", row, outcome="refused"), detail=why)
                    )
            alone = prepared is not None and prepared.look is Look.NOBODY
            # Decided here, whatever a worker was told.
            held = entry.image_id in self._claims.others(caller)
            if alone and (held or not self._intake.decisions.may_go(tx, row)):
                unused, prepared = prepared, None
            if prepared is not None:
                facts = {**prepared.facts, **own}
                whole = replace(prepared, facts=facts)
                self._intake.release(tx, caller, row, entry.key, task.fresh, whole)
        self._open_images.close_subject(entry.image_id)
        for address in unused.addresses if unused else ():
            self._host.delete_blob(address)
        if prepared is None:
            reasons = list(examined.reasons)
            if not reasons:
                return BatchItem(task.place, "draft", entry.image_id, times_ms=outcome.times_ms)
            return _review(task.place, entry.image_id, reasons, outcome.times_ms)
        self._host.delete_blob(entry.blob)
        return BatchItem(
            task.place,
            "sealed",
            entry.image_id,
            Counter(r.detection.label for r, _ in prepared.regions),
            json.loads(prepared.columns["reasons"]),
            json.loads(prepared.columns["times_ms"]),
            notes=notes_of(prepared.facts["properties"]),
        )

    def _looked_again(self, tx: Cursor, entry: Entry, row: ImageRow, examined: Examined) -> str:
        """A draft that was here before takes what the batch saw in it, under the batch's profile;
        what earlier attempts to seal it still saw stays. Returns its new tag."""
        before = self._stored.open_facts(entry.key, row)
        seen = before["still_visible"]
        new = [d for d in examined.facts["still_visible"] if d not in seen]
        own = {"name": before["name"], "folder": before.get("folder", "")}
        facts = {**before, **examined.facts, **own, "still_visible": seen + new}
        return self._catalog.change(
            tx,
            entry.key,
            entry.image_id,
            facts=self._stored.seal_facts(entry.key, entry.image_id, row.version, facts),
            **{column: examined.columns[column] for column in _LOOKED},
        )

    @needs(Permission.UPLOAD)
    def work_token(self, caller: Caller) -> str:
        """A token for a batch that goes on without its session's page; see Guard.begin_work."""
        return self._guard.begin_work(caller)

    def end_work(self, work: str) -> None:
        """The batch is done: its token is worth nothing from here on."""
        self._guard.end_work(work)


def _review(
    place: int, image_id: str, reasons: Sequence[str], times_ms: Mapping[str, float] | None = None
) -> BatchItem:
    return BatchItem(place, "review", image_id, reasons=reasons, times_ms=times_ms or {})


def _job(
    entry: Entry, fresh: FreshKey, patient: Patient, profile: str, options: BatchOptions
) -> Job:
    names = (patient.id, patient.name)
    return Job(
        entry.image_id, entry.patient_id, entry.blob, entry.key, fresh.subject, names, profile,
        options,
    )  # fmt: skip


def _decided(row: ImageRow, facts: Mapping[str, Any]) -> Decided:
    """A confirmed draft, as it was before it was confirmed, with the decision."""
    reasons = [r for r in row.reasons if r != CONFIRMED]
    columns = {
        **{name: getattr(row, name) for name in (*_LOOKED, "width", "height", "frames")},
        "state": str(ImageState.REVIEW if reasons else ImageState.DRAFT),
        "reasons": json.dumps(reasons),
    }
    said = facts["decision"]
    decision = Decision(
        [Detection.from_json(box) for box in said["boxes"]],
        dict(said["removed"]),
        said["confirm"],
        adopt=True,
    )
    return Decided(Examined(columns, {**facts, "decision": None}), decision)


def _goes_on(row: ImageRow, profile: str, options: BatchOptions) -> bool:
    """Is there anything for a batch to do with a file that is here: a draft which a batch or a page
    left, unless the same look would send it to a person once more?"""
    if row.version > 0 or row.draft_blob is None:
        return False
    if NOT_LOOKED_AT in row.reasons:
        return True
    if not options.seal:
        return False
    return (
        row.reasons in ((), ("detector-failed",))
        or (row.profile != profile and "still-visible" not in row.reasons)
        or (row.reasons == ("proposals",) and options.seal_proposals)
        or (row.reasons == ("nothing-found",) and options.accept_empty)
    )


def _here_already(place: int, row: ImageRow, seal: bool) -> BatchItem:
    """A file that is here and that this batch does nothing more with."""
    if row.state == ImageState.RELEASED:
        return BatchItem(place, "present", row.image_id)
    if row.state == ImageState.DRAFT and not seal:
        return BatchItem(place, "draft", row.image_id)
    return _review(place, row.image_id, list(row.reasons))
