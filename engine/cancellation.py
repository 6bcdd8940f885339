"""Work that nobody waits for any more: its client is gone, or the server stops.

Whoever waits for long, for room or for a decoder, asks here from time to time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from engine.errors import Cancelled

#: How often who waits should ask.
LOOK_SECONDS = 0.25

_stopping = threading.Event()
_gone: ContextVar[threading.Event | None] = ContextVar("medsec_gone", default=None)


def stop_all() -> None:
    """From here on, nothing in this process waits or is decoded: it ends."""
    _stopping.set()


@contextmanager
def ends_with(gone: threading.Event) -> Iterator[None]:
    """Let work of this thread or task, and of threads that it runs, end when an event is set."""
    before = _gone.set(gone)
    try:
        yield
    finally:
        _gone.reset(before)


def refuse_cancelled() -> None:
    """Raises Cancelled where nobody waits for the result."""
    if _stopping.is_set():
        raise Cancelled("The server is stopping. Send this again when it has started.")
    gone = _gone.get()
    if gone is not None and gone.is_set():
        raise Cancelled("This was cancelled before it was done. Send it again.")
