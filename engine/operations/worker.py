"""One image from its stored original to its sealed files, without a catalog.

The code that the server uses, with nothing behind it that holds keys or rows: a worker process
gets the address of one encrypted file, the keys of that one image and what is known of its
patient, and the same of a sample of its series, to see what stands in all of it. Its answer goes
into the catalog in the server's process. It can be done twice: files of the answer that was not
taken belong to no row and are swept.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache, partial
from typing import Any, TypeVar

from engine.detection import (
    CustomNetworkSource,
    Detector,
    OwnVersion,
    PackedModel,
    Profile,
    SentVersion,
    custom_network_sandbox,
)
from engine.errors import DetectorError, EngineError, MachineOverloaded, ReviewNeeded
from engine.formats import images
from engine.host import FileStore, Host
from engine.operations.context import WorkerContext
from engine.operations.examination import (
    Beside,
    Devices,
    Examined,
    Examiner,
    sorted_out,
    with_verdicts,
)
from engine.operations.live_settings import LiveSettings
from engine.operations.preparation import Decision, OpenedDraft, Prepared, Preparer, SentBack
from engine.operations.release_decisions import ANSWERED, RELEASED_EMPTY, ReleaseRule
from engine.operations.series import SeriesFiles
from engine.records import Detection, ImageState
from engine.seal.pipeline import Stopwatch, Subject
from engine.settings import Settings
from engine.store.catalog import DraftRow
from engine.tracing import LogEntry, collected, trouble, unexpected
from engine.vault import open_field, self_test

R = TypeVar("R")

#: Before a file that failed for lack of memory or processes is tried again: other programs, and
#: the other workers' files, come to an end meanwhile.
PAUSE_SECONDS = 5.0
#: Learned versions that a worker keeps open.
VERSIONS_KEPT = 3
log = logging.getLogger("medsec")


@dataclass(frozen=True)
class BatchOptions:
    """What is done with the files of a batch.

    Args:
        seal: False takes each file in as a draft.
        accept_empty: Release images in which nothing was found, marked as unreviewed.
        seal_proposals: Seal uncertain boxes instead of asking a person.
    """

    seal: bool = True
    accept_empty: bool = False
    seal_proposals: bool = False


@dataclass(frozen=True)
class Decided:
    """A draft on which a person has decided: it is sealed, and nothing is looked for before.

    Args:
        examined: What was found in it.
    """

    examined: Examined = field(repr=False)
    decision: Decision = field(repr=False)


@dataclass(frozen=True)
class Job:
    """What a worker knows of one image. The repr shows no key and no name.

    Args:
        blob: Address of the encrypted original.
        key: Data key of that file.
        subject: Which image is sealed, and under what.
        names: The patient's number and name in the record, to tell a name from a side marker.
        decided: What a person decided; None where a network looks first.
        rule: Of the profile, where it has one: what may be sealed to be released.
        devices: What is known of devices.
        own: The learned version of MedSec's own network that is in force; None is the shipped one.
        candidate: One that looks in the shadow.
        series: Files of its series; of a decided one where they stand for more than at its look.
    """

    image_id: str
    patient_id: str
    blob: str
    key: bytes = field(repr=False)
    subject: Subject = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    profile: str
    options: BatchOptions
    decided: Decided | None = field(default=None, repr=False)
    rule: ReleaseRule | None = None
    devices: Devices = field(default_factory=lambda: Devices(""))
    own: SentVersion | None = None
    candidate: SentVersion | None = None
    series: SeriesFiles | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Args:
        examined: None where the file could not be read.
        prepared: None where a person must look, nothing is to be sealed, or the file could not
            be read.
        error: Code and sentence of what went wrong.
        error_id: Of an unexpected error; its traceback is in the log under this id.
        told: What the worker logged: its own log may be lost.
    """

    examined: Examined | None
    prepared: Prepared | None
    times_ms: Mapping[str, float]
    error: tuple[str, str] | None = None
    error_id: str = ""
    told: Sequence[LogEntry] = ()


@dataclass(frozen=True)
class WorkerSetup:
    """What every worker holds: networks, limits, and the way to the encrypted files.

    Args:
        open_files: A folder is at this path on every machine that works.
        custom_networks: Networks of the hospital's own that the profile names.
    """

    settings: Settings
    profiles: Mapping[str, Profile]
    open_files: Callable[[], FileStore] = field(repr=False)
    custom_networks: Sequence[PackedModel] = ()

    @classmethod
    def of(
        cls,
        settings: Settings,
        profiles: Mapping[str, Profile],
        open_files: Callable[[], FileStore],
        threads: int,
        custom_networks: Sequence[PackedModel] = (),
    ) -> WorkerSetup:
        """Without any setting that holds a secret or says where one lies."""
        secret: dict[str, Any] = {
            f.name: None
            for f in fields(settings)
            if str(f.type) in ("Secret | None", "Path | None")
        }
        bare = replace(settings, threads=threads, **secret)
        return cls(bare, dict(profiles), open_files, tuple(custom_networks))

    def __call__(self) -> None:
        """Load it, in a worker process."""
        global _HERE
        host = Host(self.open_files())
        self_test(host.random)
        detector = Detector.open(self.settings)
        detector.profiles = dict(self.profiles)
        sandbox = custom_network_sandbox()
        detector.custom_networks = {
            g.record.name: CustomNetworkSource(
                g.record.finds, cache(partial(g.unpack, sandbox, self.settings.threads))
            )
            for g in self.custom_networks
        }
        _HERE = Worker(WorkerContext(LiveSettings(self.settings), host, detector))


_HERE: Worker | None = None


def work(job: Job) -> Outcome:
    """Do a job in a worker process that was set up."""
    if _HERE is None:
        raise RuntimeError("this worker was not set up")
    with collected() as told:
        try:
            _follow(_HERE.context, job)
        except DetectorError as err:
            return Outcome(None, None, {}, (err.code, err.message))
        outcome = _HERE.work(job)
    return replace(outcome, told=tuple(told))


#: Learned versions that this process has opened, by their digest.
_VERSIONS: dict[str, OwnVersion] = {}


def _follow(context: WorkerContext, job: Job) -> None:
    """Look with the versions that the server had in force when it gave the job.

    Raises:
        DetectorError: The file of the one in force is missing or altered.
    """

    def opened(sent: SentVersion | None) -> OwnVersion | None:
        if sent is None:
            return None
        if sent.sha256 not in _VERSIONS:
            if len(_VERSIONS) >= VERSIONS_KEPT:
                _VERSIONS.clear()
            _VERSIONS[sent.sha256] = sent.open(context.host)
        return _VERSIONS[sent.sha256]

    context.detector.own = opened(job.own)
    try:
        context.detector.candidate = opened(job.candidate)
    except DetectorError as err:  # it changes nothing
        context.detector.candidate = None
        log.warning("the candidate does not open: %s", err.code)


class Worker:
    """Looks at files and seals them, one at a time, without a catalog."""

    def __init__(self, context: WorkerContext) -> None:
        self.context = context
        self._host = context.host
        self._live = context.live
        self._examiner = Examiner(context)
        #: What stands in the series that are worked on.
        self.series = self._examiner.series
        self._preparer = Preparer(context, self._examiner)

    def work(self, job: Job) -> Outcome:
        """Open the original, look, seal, look again, and write the sealed files.

        What fails for lack of memory, processes or time, or unexpectedly, is tried once more:
        that is safe, and on a busy machine mostly enough.
        """
        outcome = self._once(job, logging.WARNING)
        code = outcome.error[0] if outcome.error else ""
        if code == MachineOverloaded.code:
            time.sleep(PAUSE_SECONDS)
        if code not in (MachineOverloaded.code, "unexpected"):
            return outcome
        return self._once(job, logging.ERROR)

    def _once(self, job: Job, level: int) -> Outcome:
        watch = Stopwatch(self._host)
        examined = None
        try:
            stored = self._host.read_blob(job.blob)
            version = job.subject.version - 1
            data = open_field(job.key, f"image/{job.image_id}/{version}/draft", stored)
            profile = self._examiner.profile(job.profile)
            with watch.stage("decode"):
                image = images.decode("", data, self._live.limits)
            if job.decided:
                examined = job.decided.examined
            else:
                beside = Beside(job.names, job.devices, job.series)
                examined = self._examiner.examine(image, profile, beside, watch, _tell_nobody)
            if not job.options.seal:
                return Outcome(examined, None, watch.times_ms)
            draft = OpenedDraft(
                _row(job, examined, watch.times_ms),
                examined.facts,
                image,
                job.names,
                job.series if job.decided else None,  # else it was looked at with them just now
            )
            if not job.decided and not _may_be_sealed(job.rule, examined):
                return Outcome(examined, None, watch.times_ms)
            decision = job.decided.decision if job.decided else _decision(job, examined, profile)
            prepared = self._preparer.prepare(draft, job.subject, decision, _tell_nobody)
            return Outcome(examined, prepared, watch.times_ms)
        except ReviewNeeded as err:
            assert examined is not None
            return Outcome(_for_review(examined, err.facts["reasons"]), None, watch.times_ms)
        except SentBack as sent:
            assert examined is not None
            return Outcome(_for_review(examined, [sent.why], sent.found), None, watch.times_ms)
        except EngineError as err:
            error_id = ""
            if isinstance(err, MachineOverloaded):  # only the traceback says what ran out
                error_id = unexpected("a file of a batch lacked memory or processes", err, level)
            return Outcome(examined, None, watch.times_ms, (err.code, err.message), error_id)
        except Exception as err:  # noqa: BLE001 - one of thousands must not end them all
            wrong = trouble("a file of a batch failed", err, level)
            return Outcome(None, None, watch.times_ms, (wrong.code, wrong.message), wrong.error_id)


def with_patience(do: Callable[[], R]) -> R:
    """Do something, and once more after a pause where memory or processes did not suffice.

    Raises:
        MachineOverloaded: Nor did they then.
    """
    try:
        return do()
    except MachineOverloaded:
        time.sleep(PAUSE_SECONDS)
        return do()


def _tell_nobody(stage: str, share: float) -> None:
    pass


def _row(job: Job, examined: Examined, times_ms: Mapping[str, float]) -> DraftRow:
    """The row that the draft will have in the catalog."""
    columns = examined.columns
    return DraftRow(
        image_id=job.image_id,
        patient_id=job.patient_id,
        version=job.subject.version - 1,
        profile=columns["profile"],
        width=columns["width"],
        height=columns["height"],
        frames=columns["frames"],
        reasons=examined.reasons,
        times_ms=dict(times_ms),
    )


def _may_be_sealed(rule: ReleaseRule | None, examined: Examined) -> bool:
    """Is it no matter of the profile's rule, or does the rule allow it?"""
    return rule is None or examined.reasons not in ANSWERED or rule.allows(examined)


def _decision(job: Job, examined: Examined, profile: Profile) -> Decision:
    """What a batch decides where nobody is asked.

    Raises:
        ReviewNeeded: A person must look.
    """
    options, found = job.options, with_verdicts(examined.facts)
    wanted, unsure, left = sorted_out(found, profile, examined.reasons)
    confirm = ""
    if examined.reasons == ("nothing-found",) and job.rule is not None:
        confirm = RELEASED_EMPTY
    elif examined.reasons == ("nothing-found",) and options.accept_empty:
        confirm = "nothing found; released without review (--accept-empty)"
    elif examined.reasons == ("proposals",) and options.seal_proposals:
        wanted += unsure
        confirm = "uncertain boxes sealed without review (--seal-proposals)"
    if not confirm and examined.reasons:
        raise ReviewNeeded("This image must be reviewed.", reasons=list(examined.reasons))
    return Decision(wanted, left, confirm, adopt=True, automatic=True)


def _for_review(
    examined: Examined, why: Sequence[str], found: Sequence[Detection] = ()
) -> Examined:
    """The draft as a person finds it: with why they must look, and what was still seen."""
    reasons = sorted({*examined.reasons, *why})
    columns = {
        **examined.columns, "state": str(ImageState.REVIEW), "reasons": json.dumps(reasons),
    }  # fmt: skip
    still = [d.to_json() for d in found]
    return Examined(columns, {**examined.facts, "still_visible": still})
