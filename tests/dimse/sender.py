"""A process that sends what an engine's queue has, until nothing waits: tests kill it meanwhile."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import dimse
from engine import Engine, Settings
from engine.store.sendings import SendingState
from tests.fakes import ScriptedDetector


def main(data: str, key_file: str) -> int:
    settings = Settings(data=Path(data), key_file=Path(key_file), bcrypt_cost=4)
    engine = Engine.open(settings, detector=ScriptedDetector(settings))
    courier = dimse.Courier(engine)
    with engine.context.database.write() as tx:  # the clock of the tests stands still
        tx.run("UPDATE sendings SET next_at = queued_at WHERE state = 'waiting'")
    engine.sendings.start(courier.deliver)
    until = time.monotonic() + 80
    while time.monotonic() < until:
        rows = engine.context.sendings.all(engine.context.database.read(), "waiting", "", 1, 0)
        if not rows:
            break
        time.sleep(0.1)
    courier.stop()
    engine.close()
    return int(any(row.state is SendingState.WAITING for row in rows))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
