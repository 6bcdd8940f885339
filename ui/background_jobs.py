"""Long-running work outside the page's script.

Streamlit stops a running script at the user's next click, even in the middle of a call. Uploading
and sealing must not be interrupted, so they run in their own threads and the page shows their
progress. A page that was interrupted or left finds its jobs again.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Generic, TypeVar

import streamlit as st

from engine import Shares, giving_way, trouble

T = TypeVar("T")
Progress = Callable[[str, float], None]

#: Jobs at a time for all users together: the networks use all processors anyway.
_AT_ONCE: Final = 2


class FairPool:
    """Runs jobs in threads, a few at a time, in turns that are fair among accounts."""

    def __init__(self, at_once: int = _AT_ONCE) -> None:
        self._at_once = at_once
        self._threads = ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="job")
        self._guard = threading.Lock()
        self._shares = Shares()
        self._waiting: list[tuple[str, Future[None], Callable[[], None]]] = []
        self._stopped = False
        self._held = Counter[str]()

    def held_bytes(self) -> Counter[str]:
        """Bytes of files that jobs hold, by account."""
        with self._guard:
            return Counter(self._held)

    def submit(self, account: str, work: Callable[[], T], held_bytes: int = 0) -> Future[T]:
        """Run work when it is this account's turn.

        Args:
            held_bytes: Of the file that it holds until it has ended.

        Returns:
            Its result; it can be cancelled until it begins.
        """
        result: Future[T] = Future()

        def give_back(_: Future[T]) -> None:
            with self._guard:
                self._held[account] -= held_bytes

        def run() -> None:
            try:
                with giving_way():
                    result.set_result(work())
            except BaseException as err:  # noqa: BLE001 - whoever asks for the result gets it
                result.set_exception(err)

        with self._guard:
            if self._stopped:
                result.cancel()
                return result
            self._waiting.append((account, result, run))  # type: ignore[arg-type]
            self._held[account] += held_bytes
        result.add_done_callback(give_back)
        self._call()
        return result

    def _call(self) -> None:
        """Let those begin whose turn it is."""
        with self._guard:
            while self._shares.at_work < self._at_once:
                first = self._shares.first(self._waiting, lambda one: one[0])
                if first is None:
                    return
                self._waiting.remove(first)
                account, result, run = first
                if result.set_running_or_notify_cancel():
                    self._shares.begin(account)
                    self._threads.submit(self._run, account, run)

    def _run(self, account: str, run: Callable[[], None]) -> None:
        try:
            run()
        finally:
            with self._guard:
                self._shares.end(account)
            self._call()

    def stop(self) -> None:
        """Complete running jobs and drop waiting ones."""
        with self._guard:
            self._stopped = True
            waiting, self._waiting = self._waiting, []
        for _, result, _ in waiting:
            result.cancel()
        self._threads.shutdown(wait=True)


_jobs = FairPool()
#: For what no page waits for, so that it never takes anybody's turn.
_unwatched = ThreadPoolExecutor(max_workers=1, thread_name_prefix="unwatched")


def begin(work: Callable[[], None]) -> None:
    """Run work that no page waits for; after a failure, the code that needs it repeats it."""

    def logged() -> None:
        try:
            work()
        except Exception as err:  # noqa: BLE001 - nobody asks for its result
            trouble("work in the background failed", err)

    _unwatched.submit(logged)


def held_bytes() -> Counter[str]:
    """Bytes of files that jobs hold, by account."""
    return _jobs.held_bytes()


def stop() -> None:
    """Complete running jobs and drop waiting ones, before the engine closes."""
    _jobs.stop()
    _unwatched.shutdown(wait=True, cancel_futures=True)


class Job(Generic[T]):
    """A function that runs in a background thread.

    Args:
        name: Name shown to the user.
        account: Whose job it is; turns are fair among accounts.
        work: Called with a function that reports stage and progress, 0 to 1.
        held_bytes: Of the file that it holds until it has ended.
    """

    def __init__(
        self, name: str, account: str, work: Callable[[Progress], T], held_bytes: int = 0
    ) -> None:
        self.name = name
        self.stage = "waiting"
        self.share = 0.0
        self._future = _jobs.submit(account, lambda: work(self._tell), held_bytes)

    def _tell(self, stage: str, share: float) -> None:
        self.stage, self.share = stage, min(1.0, max(0.0, share))

    def cancel(self) -> None:
        """Cancel the job if it has not started; a running job is completed."""
        self._future.cancel()

    @property
    def done(self) -> bool:
        return self._future.done()

    def result(self) -> T:
        """The result of the work; raises its error, or CancelledError."""
        return self._future.result()

    def watch(self) -> T:
        """Show the progress until the job is done; then as :meth:`result`."""
        place = st.empty()
        while not self.done:
            place.progress(self.share, self.stage)
            time.sleep(0.15)
        place.empty()
        return self.result()
