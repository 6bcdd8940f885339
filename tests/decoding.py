"""What decoders do in tests that are about the process they run in, not about files.

A module of its own: such a process may load little else.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Any

NAME = "MUSTERFRAU ERIKA"


def _surprise() -> None:
    raise ValueError(NAME)


def _busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def _rest() -> None:
    time.sleep(60)


def _die(number: int) -> None:
    os.kill(os.getpid(), number)


def _no_process() -> None:
    raise OSError(errno.EAGAIN, NAME)


def _mirror(*values: Any) -> Any:
    return values


OPERATIONS = {
    "surprise": _surprise, "busy": _busy, "rest": _rest, "die": _die, "no_process": _no_process,
    "mirror": _mirror,
}  # fmt: skip
