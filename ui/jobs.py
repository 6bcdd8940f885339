"""Long work beside the page's script.

Streamlit stops a running script at the visitor's next click, in the middle of whatever it was
calling. Intake and sealing must not be cut there: they run in a thread of their own, and the
page watches. A page that was cut short or left finds its jobs again.
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

#: Two at a time for all visitors together: the networks take every processor anyway.
_workers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="job")


def begin(work: Callable[[], None]) -> None:
    """Work that nobody waits for; should it fail, whoever needs it does it again and is told."""

    def logged() -> None:
        try:
            work()
        except Exception as err:  # noqa: BLE001 - nobody asks for its result
            trouble("work in the background failed", err)

    _workers.submit(logged)


def stop() -> None:
    """Let what runs come to its end and drop what waits, before the engine closes."""
    _workers.shutdown(wait=True, cancel_futures=True)


class Job(Generic[T]):
    """One piece of work that has been handed to a thread.

    Args:
        name: What the visitor calls it.
        work: Gets a function that it tells each stage and the share done.
    """

    def __init__(self, name: str, work: Callable[[Progress], T]) -> None:
        self.name = name
        self.stage = "waiting for its turn"
        self.share = 0.0
        self._future = _workers.submit(work, self._tell)

    def _tell(self, stage: str, share: float) -> None:
        self.stage, self.share = stage, min(1.0, max(0.0, share))

    def cancel(self) -> None:
        """Take it back if its turn has not come; what runs comes to its end."""
        self._future.cancel()

    @property
    def done(self) -> bool:
        return self._future.done()

    def result(self) -> T:
        """What the work returned; raises what it raised, or CancelledError."""
        return self._future.result()

    def watch(self) -> T:
        """Show the progress until it is done."""
        place = st.empty()
        while not self.done:
            place.progress(self.share, self.stage)
            time.sleep(0.15)
        place.empty()
        return self.result()
