"""A process that receives until it is told to end, or kills itself at the worst moment."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import dimse
from engine import Engine, Settings
from tests.fakes import ScriptedDetector


def main(data: str, key_file: str, port: str, kill_at: str) -> None:
    """Args: ``kill_at``: which instance kills it, stored durably and not yet answered; 0 none."""
    settings = Settings(
        data=Path(data), key_file=Path(key_file), bcrypt_cost=4, dicom_port=int(port)
    )
    engine = Engine.open(settings, detector=ScriptedDetector(settings))
    real, count = engine.reception.receive, 0

    def receive(*given: Any) -> Any:
        nonlocal count
        state = real(*given)
        count += 1
        if count == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)
        return state

    engine.reception.receive = receive  # type: ignore[method-assign]
    receiver = dimse.Receiver(engine)
    receiver.start()
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    receiver.stop()
    engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
