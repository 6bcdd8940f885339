"""Long-running work outside the page's script.

Streamlit stops a running script at the user's next click, even in the middle of a call. Uploading
must not be interrupted, so it runs in threads of its own and the page shows its progress. A page
that was interrupted or left finds its jobs again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import streamlit as st

import api
from engine import trouble

T = TypeVar("T")
Progress = Callable[[str, float], None]

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
    return api.jobs.held_bytes()


def stop() -> None:
    """Complete running jobs and drop waiting ones, before the engine closes."""
    api.jobs.stop()
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
        self._future = api.jobs.submit(account, lambda: work(self._tell), held_bytes)

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
