"""The REST application over HTTP with a scripted detector, which kills itself at a chosen moment.

Started by :func:`tests.serving.launch`. ``KILL_AT`` is a moment and a number, such as ``row:3``:

- ``blob``: the third file is encrypted on disk, and no row knows of it;
- ``row``: its row is committed, and nobody has been told;
- ``look``: the third draft was looked at, and sealed where that was chosen.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

# It is started from another folder, as ``serve.py`` is.
sys.path.insert(0, str(Path(__file__).parents[2]))

import api
import api.looking
from engine import Detection, Engine, Region, Settings
from tests.fakes import ScriptedDetector

BOX = Detection(Region(8, 8, 200, 40), "text", 0.9, "scripted")


def dying(call: Callable[..., Any], number: int) -> Callable[..., Any]:
    """The same, but after it was called so many times the process is gone."""
    count = 0

    def counted(*given: Any, **named: Any) -> Any:
        nonlocal count
        answer = call(*given, **named)
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    return counted


def arm(engine: Engine, moment: str, number: int) -> None:
    """Let the process die at this moment."""
    if moment == "blob":
        engine.intakes._intake.keep = dying(engine.intakes._intake.keep, number)  # type: ignore[method-assign]
    elif moment == "row":
        engine.intakes.take = dying(engine.intakes.take, number)  # type: ignore[method-assign]
    elif moment == "look":
        look = engine.batches.look
        step = dying(lambda item: item, number)

        def looked(*given: Any) -> Iterator[Any]:
            yield from map(step, look(*given))

        engine.batches.look = looked  # type: ignore[method-assign, assignment]


def main() -> None:
    settings = Settings.load(os.environ)
    engine = Engine.open(settings, detector=ScriptedDetector(settings, [BOX]))
    api.looking.FEW_FILES = 1 << 30  # type: ignore[misc]  # no workers: their networks are real
    moment, _, number = os.environ.get("KILL_AT", "").partition(":")
    arm(engine, moment, int(number or 0))
    api.app.state.engine = engine

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with api.app.router.lifespan_context(api.app):
            yield
        engine.close()

    app = Starlette(routes=[Mount("/api", api.app)], lifespan=lifespan)
    uvicorn.run(app, host="127.0.0.1", port=settings.port, log_level="warning")


if __name__ == "__main__":
    main()
