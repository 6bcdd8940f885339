"""A server that is told to stop stops in seconds, whatever its decoders are at."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import Final, NoReturn

from engine import cannot_start, errors, stop_all

log = logging.getLogger("medsec")

#: After which the process ends whatever it is at. Nothing is lost: what was not acknowledged was
#: not promised, and the catalog's own log brings back what was. A process manager kills after ten.
PATIENCE_SECONDS: Final = 7.0
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def heed_signals() -> None:
    """Before the server's own handlers, end what waits for room or for a decoder.

    Called from the main thread once those handlers are set.
    """
    for number in SIGNALS:
        before = signal.getsignal(number)

        def stop(number: int, frame: FrameType | None, before: object = before) -> None:
            stop_all()
            last = threading.Timer(PATIENCE_SECONDS, _end)
            last.daemon = True
            last.start()
            if callable(before):
                before(number, frame)

        signal.signal(number, stop)


def refuse(err: errors.EngineError) -> NoReturn:
    """End a server that cannot start with the sentence that says what to do, and nothing after it.

    An exception would print pages of the framework's own lines around it. Nothing is open yet.
    """
    cannot_start(err)
    print(f"\n  MedSec cannot start: {err.message}\n", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(1)


def _end() -> None:
    log.error("work did not end in time; the server ends without it")
    os._exit(1)
