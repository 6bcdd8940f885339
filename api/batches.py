"""Batches: many files in one request, processed in the background like ``cli.py seal``.

A batch is kept in memory and belongs to the account that sent it. Its results are in the catalog.
If the server stops, only the list of outcomes is lost; sending the batch again continues it.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, File, Form, Request, Response, UploadFile
from pydantic import Field

from api import schemas
from api.dependencies import TheEngine, Token
from api.files import BINARY, Answers
from api.problems import Problem, answers, named
from engine import (
    CSV_HEAD,
    FEW_FILES,
    BatchItem,
    BatchOptions,
    Engine,
    Progress,
    Source,
    errors,
    trouble,
)

router = APIRouter(prefix="/batches", tags=["batches"])

#: Total number of files of finished batches to remember; the oldest batches are dropped.
_REMEMBERED_FILES: Final = 10_000
_MOST_FILES: Final = 1000


class State(StrEnum):
    """State of a file in a batch."""

    WAITING = "waiting"
    WORKING = "working"
    DRAFT = "draft"  # uploaded; to be sealed by a person or another call
    REVIEW = "review"  # uploaded; needs review first
    SEALED = "sealed"
    PRESENT = "present"  # was already sealed
    REFUSED = "refused"


class Outcome(schemas.Schema):
    """Outcome of one file."""

    place: int = Field(description="Position in the list of files, from 0.")
    state: State
    image_id: str | None = None
    labels: dict[str, int] = Field(
        default_factory=dict, description="Number of sealed regions of each class."
    )
    reasons: list[str] = Field(default_factory=list, description="Why the image needs review.")
    seconds: float | None = Field(
        default=None, description="Processing time of this file, from times that are powers of two."
    )
    problem: Problem | None = None

    @classmethod
    def of(cls, item: BatchItem) -> Outcome:
        return cls(
            place=item.place,
            state=State.REFUSED if item.state == "failed" else State(item.state),
            image_id=item.image_id,
            labels=dict(item.labels),
            reasons=list(item.reasons),
            seconds=item.seconds,
            problem=named(*item.error) if item.error else None,
        )


class Batch(schemas.Schema):
    """A batch and its progress."""

    batch_id: str = Field(examples=["ba_7e6d5c4b3a29180f1e2d3c4b"])
    done: bool
    files_per_second: float
    seconds_left: float | None = Field(description="Estimate at the current rate; null if unknown.")
    files: list[Outcome]


@dataclass
class _Job:
    account: str
    token: str = field(repr=False)
    patient_id: str
    profile: str | None
    seal: bool
    names: list[str] = field(repr=False)
    #: Contents of files not yet processed, by position.
    waiting: dict[int, bytes] = field(repr=False)
    progress: Progress
    read: set[int] = field(default_factory=set)
    items: dict[int, BatchItem] = field(default_factory=dict)
    done: bool = False
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def held_bytes(self) -> int:
        return sum(len(data) for data in self.waiting.values())

    def outcome(self, place: int) -> Outcome:
        if place in self.items:
            return Outcome.of(self.items[place])
        return Outcome(place=place, state=State.WORKING if place in self.read else State.WAITING)


class Batches:
    """All batches of this server, processed by one thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._jobs: dict[str, _Job] = {}
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batch")

    def stop(self) -> None:
        """Complete the current file and drop the waiting ones."""
        with self._lock:
            for job in self._jobs.values():
                job.stopped.set()
                job.waiting.clear()
        self._worker.shutdown(wait=True, cancel_futures=True)

    def add(
        self,
        work: str,
        patient_id: str,
        files: Sequence[tuple[str, bytes]],
        profile: str | None,
        seal: bool,
    ) -> Batch:
        """Accept a batch and start processing.

        Args:
            work: Work token of the session; ended when the batch is done.

        Raises:
            StorageBusy: Waiting batches already use the memory limit.
        """
        job = _Job(
            self._engine.caller(work).username, work, patient_id, profile, seal,
            [name for name, _ in files], dict(enumerate(data for _, data in files)),
            Progress(len(files), time.monotonic()),
        )  # fmt: skip
        batch_id = f"ba_{secrets.token_hex(12)}"
        with self._lock:
            held = sum(j.held_bytes for j in self._jobs.values())
            if held + job.held_bytes > self._engine.settings.batch_limit_mb * 1024 * 1024:
                raise errors.StorageBusy("Too many batches are waiting. Send this one again later.")
            remembered = len(files) + sum(len(j.names) for j in self._jobs.values())
            for oldest in [i for i, j in self._jobs.items() if j.done]:
                if remembered <= _REMEMBERED_FILES:
                    break
                remembered -= len(self._jobs.pop(oldest).names)
            self._jobs[batch_id] = job
        self._worker.submit(self._work, job)
        return self.get(job.account, batch_id)

    def get(self, account: str, batch_id: str) -> Batch:
        """A batch of this account. Raises NotFound."""
        with self._lock:
            job = self._own(account, batch_id)
            return Batch(
                batch_id=batch_id,
                done=job.done,
                files_per_second=round(job.progress.per_second, 1),
                seconds_left=None if (left := job.progress.left_seconds) is None else round(left),
                files=[job.outcome(place) for place in range(len(job.names))],
            )

    def report(self, account: str, batch_id: str, format: str) -> str:
        """One line per finished file, as ``cli.py seal --report``. Raises NotFound."""
        with self._lock:
            job = self._own(account, batch_id)
            items = [(job.names[place], item) for place, item in sorted(job.items.items())]
        if format == "csv":
            return CSV_HEAD + "".join(item.csv_line(name) for name, item in items)
        return "".join(item.json_line(name) for name, item in items)

    def _own(self, account: str, batch_id: str) -> _Job:
        job = self._jobs.get(batch_id)
        if job is None or job.account != account:
            raise errors.NotFound("There is no such batch. Check the id, or send the files again.")
        return job

    def _work(self, job: _Job) -> None:
        try:
            if job.stopped.is_set():
                return
            with self._lock:  # the time spent waiting does not count for the rate
                job.progress = Progress(len(job.names), time.monotonic())
            items = self._engine.batches.seal(
                job.token, job.patient_id, self._sources(job), job.profile,
                BatchOptions(seal=job.seal), few=len(job.names) <= FEW_FILES,
            )  # fmt: skip
            with closing(items):
                for item in items:
                    self._keep(job, item)
                    if job.stopped.is_set():
                        return
        except errors.EngineError as err:
            self._refuse_rest(job, err.code, err.message)
        except Exception as err:  # noqa: BLE001 - its sender waits for an answer
            wrong = trouble("a batch failed", err)
            self._refuse_rest(job, wrong.code, wrong.message, wrong.error_id)
        finally:
            job.done = True
            self._engine.batches.end_work(job.token)

    def _sources(self, job: _Job) -> Iterator[Source]:
        for place, name in enumerate(job.names):
            if job.stopped.is_set():
                return
            yield Source(name, self._reader(job, place))

    def _reader(self, job: _Job, place: int) -> Callable[[], bytes]:
        def read() -> bytes:
            with self._lock:
                if job.stopped.is_set():
                    raise errors.StorageBusy("The server is stopping. Send the batch again.")
                job.read.add(place)
                return job.waiting.pop(place)

        return read

    def _keep(self, job: _Job, item: BatchItem) -> None:
        with self._lock:
            job.waiting.pop(item.place, None)
            job.items[item.place] = item
            job.progress.add(item, time.monotonic())

    def _refuse_rest(self, job: _Job, code: str, message: str, error_id: str = "") -> None:
        for place in range(len(job.names)):
            if place not in job.items:
                self._keep(
                    job, BatchItem(place, "failed", error=(code, message), error_id=error_id)
                )


def batches(request: Request) -> Batches:
    """The batches of this server."""
    held: Batches = request.app.state.batches
    return held


TheBatches = Annotated[Batches, Depends(batches)]


@router.post("/", status_code=202, responses=answers(400, 401, 403, 404, 409, 413, 422, 429, 503))
def send_batch(
    token: Token,
    engine: TheEngine,
    batches: TheBatches,
    response: Response,
    patient_id: Annotated[
        schemas.Line, Form(description="Patient id or hospital number.", examples=["P-1042"])
    ],
    files: Annotated[list[UploadFile], File(min_length=1, max_length=_MOST_FILES)],
    profile: Annotated[schemas.Line | None, Form()] = None,
    seal: Annotated[bool, Form(description="Seal images that need no review.")] = False,
) -> Batch:
    """Send many files of one patient; poll the URL in `Location` for progress.

    If the same files are sent again, images that are already sealed are not processed twice.
    """
    work = engine.batches.work_token(token)
    try:
        patient = engine.patients.get(token, patient_id)
        engine.profiles.get(profile)
        taken = [(f.filename or "unnamed", f.file.read()) for f in files]
        batch = batches.add(work, patient.patient_id, taken, profile, seal)
    except BaseException:
        engine.batches.end_work(work)
        raise
    response.headers["Location"] = f"/api/batches/{batch.batch_id}/"
    response.headers["Retry-After"] = "1"
    return batch


@router.get("/{batch_id}/", responses=answers(401, 404, 422, 429, 503))
def read_batch(batch_id: str, token: Token, engine: TheEngine, batches: TheBatches) -> Batch:
    """Progress of a batch of the caller."""
    return batches.get(engine.caller(token).username, batch_id)


_REPORT: Answers = {
    200: {
        "description": "One line per finished file",
        "content": {"text/csv": BINARY, "application/jsonl": BINARY},
    }
}


@router.get(
    "/{batch_id}/report/",
    response_class=Response,
    responses={**answers(401, 404, 422, 429, 503), **_REPORT},
)
def read_report(
    batch_id: str,
    token: Token,
    engine: TheEngine,
    batches: TheBatches,
    format: Literal["csv", "jsonl"] = "csv",
) -> Response:
    """Report of a batch of the caller, with the columns of `cli.py seal --report`."""
    text = batches.report(engine.caller(token).username, batch_id, format)
    media_type = "text/csv" if format == "csv" else "application/jsonl"
    return Response(text, media_type=media_type)
