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
from typing import Any

from engine import images
from engine.audit import Event
from engine.crew import Crew
from engine.database import Cursor, Row
from engine.errors import (
    DetectorError,
    DuplicateImage,
    EngineError,
    PermissionDenied,
    ReviewNeeded,
    StorageError,
    WorkerLost,
)
from engine.guests import Luggage
from engine.permissions import Permission, Role, allowed
from engine.pipeline import Stopwatch, Subject
from engine.records import Caller, ImageState
from engine.service.batchreport import BatchItem
from engine.service.guard import log, needs
from engine.service.intake import Entry, Examined, clean_name
from engine.service.sealing import Sealing, event
from engine.service.workbench import Equipment, Job, Outcome, Workbench, work
from engine.tracing import tell
from engine.vault import blind_index, derive

#: So few files are sealed in this process: starting workers would take longer.
FEW_FILES = 8
#: Columns of a draft that say what was looked for in it and found.
_LOOKED = ("state", "profile", "reasons", "confidence", "region_count")


@dataclass(frozen=True)
class Source:
    """A file of a batch, read when its turn comes.

    Args:
        read: Gives the bytes; may raise an EngineError.
    """

    name: str = field(repr=False)
    read: Callable[[], bytes] = field(repr=False)


@dataclass(frozen=True)
class _Task:
    """A job and what this process keeps for its return."""

    place: int
    name: str = field(repr=False)
    entry: Entry
    wrapped: bytes = field(repr=False)
    job: Job
    known_row: bytes | None  # tag of a draft that was here before


class Batch(Sealing):
    """Methods of the Engine."""

    @needs(Permission.UPLOAD)
    def seal_batch(
        self,
        caller: Caller,
        patient_id: str,
        sources: Iterable[Source],
        profile: str | None = None,
        *,
        seal: bool = True,
        accept_empty: bool = False,
        seal_proposals: bool = False,
        few: bool = False,
    ) -> Generator[BatchItem, None, None]:
        """Take files in and seal them, on all processors; yields each as it is done.

        Nobody watches: what the second look finds is sealed too, and an image at which a
        person must look becomes a draft in the review queue.

        Args:
            sources: Drawn one by one, as workers become free.
            accept_empty: Release images in which nothing was found, marked as unreviewed.
            seal_proposals: Seal uncertain boxes too.
            few: Work in this process, without workers.

        Raises:
            InputError: No such profile.
            NotFound: No such patient.
            SettingsError: The workers do not answer.
        """
        patient_id = self._patient(patient_id)
        chosen = self.profile(profile).name
        options = {"seal": seal, "accept_empty": accept_empty, "seal_proposals": seal_proposals}
        tasks = self._tasks(caller, patient_id, chosen, sources, options)
        workers = 0 if few else self.settings.batch_workers or os.cpu_count() or 1
        return self._batch(caller, tasks, workers, chosen)

    def _luggage(self, profile: str) -> list[Luggage]:
        """Networks of the hospital's own that the profile names.

        One that cannot be opened is left out: workers then send each image to a person.
        """
        found = []
        for name in self.profile(profile).networks:
            if name in self.guests_.records():
                try:
                    found.append(self.guests_.luggage(name))
                except DetectorError:
                    log.exception("a network of the hospital's own does not open")
        return found

    def _batch(
        self, caller: Caller, tasks: Iterator[_Task | BatchItem], workers: int, profile: str
    ) -> Generator[BatchItem, None, None]:
        files: set[str] = set()

        def drawn() -> Iterator[tuple[_Task | BatchItem, Job | None]]:
            for task in tasks:
                if isinstance(task, _Task):
                    files.add(task.entry.blob)
                yield task, task.job if isinstance(task, _Task) else None

        jobs = drawn()
        with contextlib.ExitStack() as stack:
            name = self.host.token_of(8)
            self._at_work[name] = files
            stack.callback(self._at_work.pop, name)
            if workers:
                # Workers elsewhere are one per processor, as the README says.
                threads = max(1, (os.cpu_count() or 1) // workers)
                if self.settings.batch_scheduler:
                    threads = self.settings.threads or 1
                equipment = Equipment.of(
                    self.settings, self.detector.profiles, self.host.root, threads,
                    self._luggage(profile),
                )  # fmt: skip
                crew = stack.enter_context(Crew.open(self.settings, workers, equipment))
                answers = crew.run(work, jobs)
            else:
                answers = ((task, self._here(job)) for task, job in jobs)
            for task, outcome in answers:
                if isinstance(task, BatchItem):
                    yield task
                    continue
                item = self._taken(caller, task, outcome)
                files.discard(task.entry.blob)
                yield item

    def _here(self, job: Job | None) -> Outcome | None:
        if job is None:
            return None
        return Workbench(self.settings, self.host, self.detector, job).work()

    def _tasks(
        self,
        caller: Caller,
        patient_id: str,
        profile: str,
        sources: Iterable[Source],
        options: Mapping[str, bool],
    ) -> Iterator[_Task | BatchItem]:
        """What is to be worked on, and what became of files that need no work."""
        patient = self.patients_.get(self.database.read(), patient_id)
        known = (patient.id, patient.name)
        for place, source in enumerate(sources):
            try:
                self._still_may(caller)
                yield self._task(place, source, patient_id, profile, known, options)
            except EngineError as err:
                self._log_failure(caller, patient_id, err.code)
                yield BatchItem(place, "failed", error=(err.code, err.message))

    def _still_may(self, caller: Caller) -> None:
        """Raises AccessError where session or role have ended since the batch began."""
        if caller.role is Role.OPERATOR:
            return
        now = self.sessions_.resolve_id(caller.session_id)
        if now.factor_due or not allowed(now.role, Permission.UPLOAD):
            raise PermissionDenied("Your account may not send files any more.")

    def _log_failure(self, caller: Caller, patient_id: str, code: str) -> None:
        failed = Event("image.upload", "failed", patient_id=patient_id, detail={"why": code})
        try:
            self.audit.record(caller, failed)
        except StorageError as err:  # others of the batch are waiting
            log.error("a failed file is not in the audit log: %s", err.code)

    def _task(
        self,
        place: int,
        source: Source,
        patient_id: str,
        profile: str,
        known: tuple[str, ...],
        options: Mapping[str, bool],
    ) -> _Task | BatchItem:
        """Raises EngineError where nothing can be done."""
        data = source.read()
        images.taken(data, self.limits)
        index = blind_index(self.hierarchy.system_key("index"), "image/file", data)
        tx = self.database.read()
        patient_key = self.hierarchy.patient_key(tx, patient_id)
        tag = None
        try:
            self._refuse_duplicate(tx, index)
            entry = self._keep(patient_key, patient_id, data, index, Stopwatch(self.host))
        except DuplicateImage as err:
            image_id = err.facts["image_id"]
            if err.facts["patient_id"] != patient_id:
                raise
            row = self.catalog.row(tx, image_id)
            if not _goes_on(row, profile, options):
                return _here_already(place, row, options["seal"])
            # Left by a batch or a page that went no further: it goes on from here.
            tag = row["tag"]
            entry = Entry(
                image_id, patient_id, self.hierarchy.image_key(tx, image_id), row["wrapped_key"],
                index, row["draft_blob"], row["stored_bytes"],
            )  # fmt: skip
        key, wrapped = self.hierarchy.new_image_key(patient_key, entry.image_id)
        subject = Subject(entry.image_id, 1, key, derive(patient_key, "pseudonyms"))
        job = Job(
            entry.image_id, patient_id, entry.blob, entry.key, subject, known, profile, **options
        )
        return _Task(place, clean_name(source.name), entry, wrapped, job, tag)

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
            return _review(task.place, task.entry.image_id, err.facts["reasons"])
        except DuplicateImage as err:
            # The same file twice in one batch, or by somebody else meanwhile.
            if err.facts["patient_id"] != task.entry.patient_id:
                return self._left_out(caller, task, err.code, err.message)
            self.host.delete_blob(task.entry.blob)
            row = self.catalog.row(self.database.read(), err.facts["image_id"])
            return _here_already(task.place, row, task.job.seal)
        except EngineError as err:
            return self._left_out(caller, task, err.code, err.message)

    def _left_out(
        self, caller: Caller, task: _Task, code: str, message: str, error_id: str = ""
    ) -> BatchItem:
        if task.known_row is None:
            self.host.delete_blob(task.entry.blob)
        self._log_failure(caller, task.entry.patient_id, code)
        return BatchItem(task.place, "failed", error=(code, message), error_id=error_id)

    def _entered(self, caller: Caller, task: _Task, outcome: Outcome) -> BatchItem:
        assert outcome.examined is not None
        entry, prepared = task.entry, outcome.prepared
        examined = replace(outcome.examined, facts={**outcome.examined.facts, "name": task.name})
        with self.database.write() as tx:
            if task.known_row is None:
                self._enter(tx, caller, entry, examined, outcome.times_ms)
            row = self.catalog.row(tx, entry.image_id)
            if task.known_row is not None:
                if row["tag"] != task.known_row:
                    raise ReviewNeeded("Somebody else has this draft.", reasons=["changed"])
                tag = self._looked_again(tx, entry, row, examined)
                row = self.catalog.row(tx, entry.image_id)
                if prepared is None:
                    why = {"why": _reasons(examined.columns), "tag": tag}
                    self.audit.append(
                        tx, caller, replace(event("image.seal", row, outcome="refused"), detail=why)
                    )
            if prepared is not None:
                facts = {**prepared.facts, "name": task.name}
                self._release(
                    tx, caller, row, entry.key, task.job.subject, task.wrapped,
                    replace(prepared, facts=facts),
                )  # fmt: skip
        self.viewings.close_subject(entry.image_id)
        if prepared is None:
            reasons = _reasons(examined.columns)
            if not reasons:
                return BatchItem(task.place, "draft", entry.image_id, times_ms=outcome.times_ms)
            return _review(task.place, entry.image_id, reasons, outcome.times_ms)
        self.host.delete_blob(entry.blob)
        return BatchItem(
            task.place,
            "sealed",
            entry.image_id,
            Counter(r.detection.label for r, _ in prepared.regions),
            _reasons(prepared.columns),
            json.loads(prepared.columns["times_ms"]),
        )

    def _looked_again(self, tx: Cursor, entry: Entry, row: Row, examined: Examined) -> str:
        """A draft that was here before takes what the batch saw in it, under the batch's profile;
        what earlier attempts to seal it still saw stays. Returns its new tag."""
        before = self.open_facts(entry.key, row)
        seen = before["still_visible"]
        new = [d for d in examined.facts["still_visible"] if d not in seen]
        facts = {**before, **examined.facts, "name": before["name"], "still_visible": seen + new}
        return self.catalog.change(
            tx,
            entry.key,
            entry.image_id,
            facts=self._seal_facts(entry.key, entry.image_id, row["version"], facts),
            **{column: examined.columns[column] for column in _LOOKED},
        )


def _review(
    place: int, image_id: str, reasons: Sequence[str], times_ms: Mapping[str, float] | None = None
) -> BatchItem:
    return BatchItem(place, "review", image_id, reasons=reasons, times_ms=times_ms or {})


def _goes_on(row: Row, profile: str, options: Mapping[str, bool]) -> bool:
    """Is there anything for a batch to do with a file that is here: a draft which a batch or a page
    left, unless the same look would send it to a person once more?"""
    if not options["seal"] or row["version"] > 0 or row["draft_blob"] is None:
        return False
    reasons = _reasons(row)
    return (
        reasons in ([], ["detector-failed"])
        or (row["profile"] != profile and "still-visible" not in reasons)
        or (reasons == ["proposals"] and options["seal_proposals"])
        or (reasons == ["nothing-found"] and options["accept_empty"])
    )


def _here_already(place: int, row: Row, seal: bool) -> BatchItem:
    """A file that is here and that this batch does nothing more with."""
    if row["state"] == ImageState.RELEASED:
        return BatchItem(place, "present", row["image_id"])
    if row["state"] == ImageState.DRAFT and not seal:
        return BatchItem(place, "draft", row["image_id"])
    return _review(place, row["image_id"], json.loads(row["reasons"]))


def _reasons(columns: Mapping[str, Any]) -> list[str]:
    reasons: list[str] = json.loads(columns["reasons"])
    return reasons
