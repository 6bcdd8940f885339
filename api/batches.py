"""Many files in one request: taken at once, sealed as ``cli.py seal`` does it, asked for later.

A batch lives in memory and belongs to the account that sent it. What it has done is in the
catalog; a server that stops loses only the list of outcomes, and a batch that is sent again goes
on where it was.
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

from api import shapes
from api.asking import TheEngine, Token
from api.files import BINARY, Answers
from api.problems import Problem, answers, named
from engine import CSV_HEAD, FEW_FILES, BatchItem, Engine, Progress, Source, errors, trouble

router = APIRouter(prefix="/batches", tags=["batches"])

#: Finished batches are remembered up to so many files together; the oldest go first.
_REMEMBERED_FILES: Final = 10_000
_MOST_FILES: Final = 1000


class State(StrEnum):
    """How far a file is."""

    WAITING = "waiting"
    WORKING = "working"
    DRAFT = "draft"  # taken in; a person or another call seals it
    REVIEW = "review"  # taken in; a person must look first
    SEALED = "sealed"
    PRESENT = "present"  # was sealed before
    REFUSED = "refused"


class Outcome(shapes.Shape):
    """What became of one file."""

    place: int = Field(description="Place among the files that were sent, from 0.")
    state: State
    image_id: str | None = None
    labels: dict[str, int] = Field(
        default_factory=dict, description="How many regions of each class are sealed."
    )
    reasons: list[str] = Field(default_factory=list, description="Why a person must look.")
    seconds: float | None = Field(default=None, description="Work on this file.")
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


class Batch(shapes.Shape):
    """A batch and how far it is."""

    batch_id: str = Field(examples=["ba_7e6d5c4b3a29180f1e2d3c4b"])
    done: bool
    files_per_second: float
    seconds_left: float | None = Field(description="At that rate; null where nobody can say yet.")
    files: list[Outcome]


@dataclass
class _Job:
    account: str
    token: str = field(repr=False)
    patient_id: str
    profile: str | None
    seal: bool
    names: list[str] = field(repr=False)
    #: Contents of files that were not read yet, by place.
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
    """All batches of one server; one thread works them off, beside the pages' own work."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._jobs: dict[str, _Job] = {}
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batch")

    def stop(self) -> None:
        """Let the file under way come to its end and drop what waits."""
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
        """Take a batch in and begin.

        Args:
            work: The session's token for it; ended here when the work is done.

        Raises:
            StorageBusy: Others wait already with as much as may be held in memory.
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
                raise errors.StorageBusy("Other batches are waiting: send this one later.")
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
                files_per_second=round(job.progress.per_second, 3),
                seconds_left=job.progress.left_seconds,
                files=[job.outcome(place) for place in range(len(job.names))],
            )

    def report(self, account: str, batch_id: str, format: str) -> str:
        """A line for each file that is done, as ``cli.py seal --report``. Raises NotFound."""
        with self._lock:
            job = self._own(account, batch_id)
            items = [(job.names[place], item) for place, item in sorted(job.items.items())]
        if format == "csv":
            return CSV_HEAD + "".join(item.csv_line(name) for name, item in items)
        return "".join(item.json_line(name) for name, item in items)

    def _own(self, account: str, batch_id: str) -> _Job:
        job = self._jobs.get(batch_id)
        if job is None or job.account != account:
            raise errors.NotFound("There is no such batch.")
        return job

    def _work(self, job: _Job) -> None:
        try:
            if job.stopped.is_set():
                return
            with self._lock:  # what it waited for others is no part of its rate
                job.progress = Progress(len(job.names), time.monotonic())
            items = self._engine.seal_batch(
                job.token, job.patient_id, self._sources(job), job.profile,
                seal=job.seal, few=len(job.names) <= FEW_FILES,
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
            self._engine.end_work(job.token)

    def _sources(self, job: _Job) -> Iterator[Source]:
        for place, name in enumerate(job.names):
            if job.stopped.is_set():
                return
            yield Source(name, self._reader(job, place))

    def _reader(self, job: _Job, place: int) -> Callable[[], bytes]:
        def read() -> bytes:
            with self._lock:
                if job.stopped.is_set():
                    raise errors.StorageBusy("The server stops: send the batch again.")
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
        shapes.Line, Form(description="Key or hospital number.", examples=["P-1042"])
    ],
    files: Annotated[list[UploadFile], File(min_length=1, max_length=_MOST_FILES)],
    profile: Annotated[shapes.Line | None, Form()] = None,
    seal: Annotated[bool, Form(description="Seal what no person must look at.")] = False,
) -> Batch:
    """Send many files of one patient; `Location` is where to ask how far they are.

    The same files sent again go on where they were: what is sealed is not done twice.
    """
    work = engine.work_token(token)
    try:
        patient = engine.patient(token, patient_id)
        engine.profile(profile)
        taken = [(f.filename or "unnamed", f.file.read()) for f in files]
        batch = batches.add(work, patient.patient_id, taken, profile, seal)
    except BaseException:
        engine.end_work(work)
        raise
    response.headers["Location"] = f"/api/batches/{batch.batch_id}/"
    response.headers["Retry-After"] = "1"
    return batch


@router.get("/{batch_id}/", responses=answers(401, 404, 422, 429, 503))
def read_batch(batch_id: str, token: Token, engine: TheEngine, batches: TheBatches) -> Batch:
    """How far a batch of one's own is."""
    return batches.get(engine.caller(token).username, batch_id)


_REPORT: Answers = {
    200: {
        "description": "A line for each file that is done",
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
    """The report of a batch of one's own, with the columns of `cli.py seal --report`."""
    text = batches.report(engine.caller(token).username, batch_id, format)
    media_type = "text/csv" if format == "csv" else "application/jsonl"
    return Response(text, media_type=media_type)
