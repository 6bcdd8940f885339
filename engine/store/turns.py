"""A fair lock for writers: first come, first served.

A ``threading.Lock`` can be taken again immediately by the thread that releases it. Under load, a
thread with many writes starved the others until they timed out, although each write was short.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator

from engine.errors import StorageBusy


class Turns:
    """One holder at a time; not reentrant."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held = False
        self._waiting: deque[threading.Event] = deque()

    @contextlib.contextmanager
    def take(self, wait_seconds: float | None) -> Iterator[None]:
        """Wait for the turn, and give it to the next in the end.

        Args:
            wait_seconds: None waits for as long as it takes.

        Raises:
            StorageBusy: The turn did not come in time.
        """
        mine = threading.Event()
        with self._guard:
            if self._held:
                self._waiting.append(mine)
            else:
                self._held = True
                mine.set()
        try:
            mine.wait(wait_seconds)
            with self._guard:
                if not mine.is_set():
                    raise StorageBusy(
                        "The catalog is busy with another change. Try again in a moment."
                    )
            yield
        finally:
            self._give(mine)

    def _give(self, mine: threading.Event) -> None:
        """Pass the lock to the next waiter, or leave the queue after a timeout."""
        with self._guard:
            if not mine.is_set():
                self._waiting.remove(mine)
            elif self._waiting:
                self._waiting.popleft().set()
            else:
                self._held = False
