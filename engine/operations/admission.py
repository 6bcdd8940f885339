"""Who may work on a file now: one budget of memory, work in two classes, fair shares per account.

What a file needs is known from its header (:mod:`engine.formats.needs`) before anything of it is
decoded. All that a job needs is granted at once and given back at its end: a job that holds a share
never waits for another one, so jobs cannot wait for each other.

Pages go first: restorations, opened drafts and masked pictures. Intake never takes what is kept for
them, and while one of them waits for memory no intake begins. Within a class, the account goes
first that has the fewest jobs at work and was served the longest ago, and nobody overtakes it: what
needs much is not passed by for ever.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from engine.cancellation import LOOK_SECONDS, refuse_cancelled
from engine.errors import MachineOverloaded, NeedsTooMuchMemory
from engine.fairness import Shares
from engine.formats import images
from engine.formats.images import Limits
from engine.formats.limits import Extent
from engine.formats.needs import Need
from engine.host import memory_bytes
from engine.settings import Settings

_MB = 1 << 20
#: Of the machine's memory, where no setting says how much.
_SHARE = 0.75
#: What the processes hold without any file: the server, its networks, its decoders.
_FIXED_BYTES = 3000 * _MB
#: What a worker for batches holds without any file: networks, and a decoder.
_WORKER_BYTES = 2500 * _MB
#: For files there is at least so much, however small the machine is.
_LEAST_BYTES = 1024 * _MB
_LEAST_OF_WORKER_BYTES = 256 * _MB
#: Of memory, so much is not for intake.
_FOR_PAGES = 1 / 8
#: From here on, what a job has freed is given back to the machine at once.
_MUCH_BYTES = 64 * _MB
#: No job waits longer, whatever happens.
PATIENCE_SECONDS = 600.0
_BUSY = "The server has too much to do and could not begin with this file. Send it again."


class Work(StrEnum):
    """Classes of work, each with room of its own."""

    PAGE = "page"  # somebody looks: a restoration, a draft, a masked picture
    INTAKE = "intake"  # a file comes in or is sealed


@dataclass(frozen=True)
class Budget:
    """Memory for files.

    Args:
        total_bytes: In all processes but the workers for batches.
        server_bytes: Of it, in the server's own process.
        batch_bytes: In all workers for batches, with their networks.
    """

    total_bytes: int
    server_bytes: int
    batch_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """As the settings say, or by this machine's memory."""
        whole = settings.memory_mb * _MB or int(memory_bytes() * _SHARE)
        files = max(2 * _LEAST_BYTES, whole - _FIXED_BYTES)
        server = min(settings.server_memory_mb * _MB, files // 2)
        return cls(files // 2, server, files // 2)

    def batch_workers(self, wanted: int) -> int:
        """How many workers fit."""
        fitting = self.batch_bytes // (_WORKER_BYTES + _LEAST_OF_WORKER_BYTES)
        return max(1, min(wanted, fitting))

    def fits_worker(self, need: Need, workers: int) -> bool:
        """May one of so many workers for batches work on this?"""
        own = self.batch_bytes // workers - _WORKER_BYTES
        return need.total_bytes <= max(_LEAST_OF_WORKER_BYTES, own)


@dataclass(eq=False)
class _Job:
    """One that waits or is at work."""

    work: Work
    account: str
    total_bytes: int
    server_bytes: int


class Admission:
    """Lets work on files begin, in turn.

    Args:
        slots: How many jobs of a class are at work at once.
        patience_seconds: After which a job that waits is sent away.
    """

    def __init__(
        self,
        budget: Budget,
        slots: Mapping[Work, int] | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        many = max(2, min(4, os.cpu_count() or 1))
        self.budget = budget
        self._slots = dict(slots or {Work.PAGE: many, Work.INTAKE: many})
        self._patience = patience_seconds
        self._changed = threading.Condition()
        self._waiting: list[_Job] = []
        self._at_work: list[_Job] = []
        self._shares = {work: Shares() for work in Work}
        self._own = threading.local()

    @contextmanager
    def room(self, work: Work, account: str, need: Need) -> Iterator[None]:
        """Wait until there is room for a job, and keep it until the block ends.

        What needs more than there is gets all there is, alone: what was taken in once can always be
        sealed and restored. What comes in is measured by :meth:`need_of` before. Within a job, the
        same thread may ask again: it has what it needs.

        Args:
            account: Whose job it is; shares are fair among accounts.

        Raises:
            MachineOverloaded: There was none for ``patience_seconds``.
            Cancelled: Nobody waits for the job any more.
        """
        if getattr(self._own, "held", False):
            yield
            return
        total, server = self._most(work)
        job = _Job(work, account, min(need.total_bytes, total), min(need.server_bytes, server))
        self._begin(job)
        self._own.held = True
        try:
            yield
        finally:
            self._own.held = False
            with self._changed:
                self._at_work.remove(job)
                self._shares[work].end(account)
                self._changed.notify_all()
            if job.total_bytes > _MUCH_BYTES:
                _give_back()

    def need_of(self, account: str, data: bytes, limits: Limits) -> Need:
        """What a file that comes in will need, by its header; nothing of it is decoded.

        Raises:
            InputError: It cannot be taken.
            NeedsTooMuchMemory: There is never so much room.
            MachineOverloaded: There was no room to read the header.
        """
        with self.room(Work.INTAKE, account, images.header_need(data, limits)):
            extent = images.extent(data, limits)
        need = Need.of(len(data), extent)
        self._refuse_larger(need, extent)
        return need

    def _refuse_larger(self, need: Need, extent: Extent) -> None:
        total, server = self._most(Work.INTAKE)
        if need.total_bytes <= total and need.server_bytes <= server:
            return
        raise NeedsTooMuchMemory(
            f"This image ({extent.width} x {extent.height} px, frames: {extent.frames}) needs more"
            " memory than this server has for one file. Export it smaller or in parts, or ask your"
            " administrator to raise MEDSEC_MEMORY_MB and MEDSEC_SERVER_MEMORY_MB.",
            needed_mb=need.total_bytes // _MB,
            limit_mb=total // _MB,
            needed_in_server_mb=need.server_bytes // _MB,
            limit_in_server_mb=server // _MB,
        )

    def _most(self, work: Work) -> tuple[int, int]:
        """Memory that all jobs of a class may have together: in all processes, in the server."""
        share = 1.0 if work is Work.PAGE else 1 - _FOR_PAGES
        return int(self.budget.total_bytes * share), int(self.budget.server_bytes * share)

    def _begin(self, job: _Job) -> None:
        deadline = time.monotonic() + self._patience
        with self._changed:
            self._waiting.append(job)
            try:
                while self._next(job.work) is not job:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise MachineOverloaded(_BUSY)
                    refuse_cancelled()
                    self._changed.wait(min(left, LOOK_SECONDS))
                refuse_cancelled()
                self._at_work.append(job)
                self._shares[job.work].begin(job.account)
            finally:
                self._waiting.remove(job)
                self._changed.notify_all()

    def _next(self, work: Work) -> _Job | None:
        """The job of a class that may begin now, if any."""
        job = self._first(work)
        if job is None or not self._fits(job):
            return None
        if work is Work.INTAKE and self._first(Work.PAGE) is not None:
            return None  # what is free, or becomes free, is for whoever looks
        return job

    def _first(self, work: Work) -> _Job | None:
        """The job of a class whose turn it is, if there is a slot for it."""
        shares = self._shares[work]
        if shares.at_work >= self._slots[work]:
            return None
        return shares.first((job for job in self._waiting if job.work is work), lambda j: j.account)

    def _fits(self, job: _Job) -> bool:
        """Is there memory for it, in all, and in what its class may have?"""
        return all(
            self._is_free(job, among, most)
            for among, most in (
                (self._at_work, self._most(Work.PAGE)),
                ([j for j in self._at_work if j.work is job.work], self._most(job.work)),
            )
        )

    @staticmethod
    def _is_free(job: _Job, among: list[_Job], most: tuple[int, int]) -> bool:
        total = sum(j.total_bytes for j in among) + job.total_bytes
        server = sum(j.server_bytes for j in among) + job.server_bytes
        return total <= most[0] and server <= most[1]


def _give_back() -> None:
    """Let the C library give memory that was freed back to the machine."""
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc's alone
        trim(0)
