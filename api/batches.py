"""Many files in one request: taken at once, worked off one after the other, asked for later.

A batch lives in memory and belongs to the account that sent it. What it has taken in is stored
like any upload; a server that stops loses only the list of outcomes, and a batch that is sent
again finds what is there already.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Final

from fastapi import APIRouter, Depends, File, Form, Request, Response, UploadFile
from pydantic import Field

from api import shapes
from api.asking import TheEngine, Token
from api.problems import Problem, answers
from engine import Engine, Suggestion, errors

router = APIRouter(prefix="/batches", tags=["batches"])

#: Finished batches that are remembered; the oldest go first.
_REMEMBERED: Final = 200
_MOST_FILES: Final = 1000


log = logging.getLogger("medsec")
_UNEXPECTED: Final = Problem(
    type="urn:medsec:unexpected",
    title="Something went wrong: tell the administrator.",
    status=500,
)


class State(StrEnum):
    """How far a file is."""

    WAITING = "waiting"
    WORKING = "working"
    DRAFT = "draft"  # taken in; a person or another call seals it
    REVIEW = "review"  # taken in; a person must look first
    SEALED = "sealed"
    PRESENT = "present"  # was here already
    REFUSED = "refused"


class Outcome(shapes.Shape):
    """What became of one file."""

    place: int = Field(description="Place among the files that were sent, from 0.")
    state: State
    image_id: str | None = None
    reasons: list[str] = Field(default_factory=list, description="Why a person must look.")
    problem: Problem | None = None


class Batch(shapes.Shape):
    """A batch and how far it is."""

    batch_id: str = Field(examples=["ba_7e6d5c4b3a29180f1e2d3c4b"])
    done: bool
    files: list[Outcome]


@dataclass
class _Job:
    account: str
    token: str = field(repr=False)
    patient_id: str
    profile: str | None
    seal: bool
    files: list[tuple[str, bytes]] = field(repr=False)
    outcomes: list[Outcome]
    done: bool = False

    @property
    def held_bytes(self) -> int:
        return sum(len(data) for _, data in self.files)


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
                job.files = job.files[:0]
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
        account = self._engine.caller(work).username
        waiting = [Outcome(place=i, state=State.WAITING) for i in range(len(files))]
        job = _Job(account, work, patient_id, profile, seal, list(files), waiting)
        batch_id = f"ba_{secrets.token_hex(12)}"
        with self._lock:
            held = sum(j.held_bytes for j in self._jobs.values())
            if held + job.held_bytes > self._engine.settings.batch_limit_mb * 1024 * 1024:
                raise errors.StorageBusy("Other batches are waiting: send this one later.")
            finished = [i for i, j in self._jobs.items() if j.done]
            for oldest in finished[: max(0, len(finished) + 1 - _REMEMBERED)]:
                del self._jobs[oldest]
            self._jobs[batch_id] = job
        self._worker.submit(self._work, job)
        return self.get(account, batch_id)

    def get(self, account: str, batch_id: str) -> Batch:
        """A batch of this account. Raises NotFound."""
        with self._lock:
            job = self._jobs.get(batch_id)
            if job is None or job.account != account:
                raise errors.NotFound("There is no such batch.")
            return Batch(batch_id=batch_id, done=job.done, files=list(job.outcomes))

    def _work(self, job: _Job) -> None:
        try:
            for place in range(len(job.outcomes)):
                with self._lock:
                    if place >= len(job.files):  # the server stops
                        return
                    name, data = job.files[place]
                    job.files[place] = ("", b"")
                    job.outcomes[place] = Outcome(place=place, state=State.WORKING)
                try:
                    outcome = self._one(job, place, name, data)
                except Exception:
                    log.exception("a file of a batch failed")
                    outcome = Outcome(place=place, state=State.REFUSED, problem=_UNEXPECTED)
                with self._lock:
                    job.outcomes[place] = outcome
        finally:
            job.done = True
            self._engine.end_work(job.token)

    def _one(self, job: _Job, place: int, name: str, data: bytes) -> Outcome:
        """Take one file in, and seal it if that was asked for and nobody must look."""
        engine = self._engine
        image_id = None
        try:
            image = engine.upload(job.token, job.patient_id, name, data, job.profile)
            image_id = image.image_id
            if image.reasons:
                return Outcome(
                    place=place, state=State.REVIEW, image_id=image_id, reasons=list(image.reasons)
                )
            if not job.seal:
                return Outcome(place=place, state=State.DRAFT, image_id=image_id)
            view = engine.open_draft(job.token, image_id)
            try:
                boxes = view.suggested(Suggestion.SEAL)
                engine.seal(job.token, image_id, boxes, view.left, adopt=True)
            finally:
                engine.close_viewing(job.token, view.handle)
            return Outcome(place=place, state=State.SEALED, image_id=image_id)
        except errors.DuplicateImage:
            return Outcome(place=place, state=State.PRESENT)
        except errors.ReviewNeeded as err:
            reasons = list(err.facts["reasons"])
            return Outcome(place=place, state=State.REVIEW, image_id=image_id, reasons=reasons)
        except errors.EngineError as err:
            said = Problem(type=f"urn:medsec:{err.code}", title=err.message, status=err.status)
            return Outcome(place=place, state=State.REFUSED, image_id=image_id, problem=said)


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
    """Send many files of one patient; `Location` is where to ask how far they are."""
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
