"""Long-running work outside the page's script.

Streamlit stops a running script at the user's next click, even in the middle of a call. Uploading
and sealing must not be interrupted, so they run in their own threads and the page shows their
progress. A page that was interrupted or left finds its jobs again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import streamlit as st

from engine import trouble

T = TypeVar("T")
Progress = Callable[[str, float], None]

#: Two jobs at a time for all users together: the networks use all processors anyway.
_workers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="job")


def begin(work: Callable[[], None]) -> None:
    """Run work that no page waits for; after a failure, the code that needs it repeats it."""

    def logged() -> None:
        try:
            work()
        except Exception as err:  # noqa: BLE001 - nobody asks for its result
            trouble("work in the background failed", err)

    _workers.submit(logged)


def stop() -> None:
    """Complete running jobs and drop waiting ones, before the engine closes."""
    _workers.shutdown(wait=True, cancel_futures=True)


class Job(Generic[T]):
    """A function that runs in a background thread.

    Args:
        name: Name shown to the user.
        work: Called with a function that reports stage and progress, 0 to 1.
    """

    def __init__(self, name: str, work: Callable[[Progress], T]) -> None:
        self.name = name
        self.stage = "waiting"
        self.share = 0.0
        self._future = _workers.submit(work, self._tell)

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
