"""A fair lock for writers: first come, first served, and work that gives way behind the others.

A ``threading.Lock`` can be taken again immediately by the thread that releases it. Under load, a
thread with many writes starved the others until they timed out, although each write was short.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from engine.errors import StorageBusy

#: So often others go before what gives way; then it has a turn, so that it never waits for ever.
PASSED_AT_MOST: Final = 8


class Turns:
    """One holder at a time; not reentrant."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held = False
        self._waiting: deque[threading.Event] = deque()
        self._behind: deque[threading.Event] = deque()
        self._passed = 0

    @contextlib.contextmanager
    def take(self, wait_seconds: float | None, gives_way: bool = False) -> Iterator[None]:
        """Wait for the turn, and give it to the next in the end.

        Args:
            wait_seconds: None waits for as long as it takes.
            gives_way: Whether others that wait go first.

        Raises:
            StorageBusy: The turn did not come in time.
        """
        mine = threading.Event()
        queue = self._behind if gives_way else self._waiting
        with self._guard:
            if self._held:
                queue.append(mine)
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
            self._give(mine, queue)

    def _give(self, mine: threading.Event, queue: deque[threading.Event]) -> None:
        """Pass the lock to the next waiter, or leave the queue after a timeout."""
        with self._guard:
            if not mine.is_set():
                queue.remove(mine)
                return
            following = self._next()
            if following is None:
                self._held = False
            else:
                following.set()

    def _next(self) -> threading.Event | None:
        if self._waiting and not (self._behind and self._passed >= PASSED_AT_MOST):
            self._passed += bool(self._behind)
            return self._waiting.popleft()
        self._passed = 0
        return self._behind.popleft() if self._behind else None


class Alone:
    """Things that one thread of this process does at a time, by their names."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    @contextlib.contextmanager
    def doing(self, what: str, wait_seconds: float) -> Iterator[Callable[[], None]]:
        """Gives what raises where this turn was lost, which it never is.

        Raises:
            StorageBusy: Another thread does it for so long.
        """
        with self._guard:
            lock = self._locks.setdefault(what, threading.Lock())
        if not lock.acquire(timeout=wait_seconds):
            raise StorageBusy(f"The {what} is at work already. Wait until it is done.")
        try:
            yield lambda: None
        finally:
            lock.release()
