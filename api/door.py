"""The REST API, put together: routes, what stands before them, and one mapping of errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import FastAPI

from api import (
    accounts,
    auth,
    batches,
    browser,
    care,
    documents,
    drafts,
    exports,
    images,
    observing,
    patients,
    problems,
    system,
)
from api.entrance import Cors, Entrance, Slash

_ABOUT = """
Every address works with and without the slash at its end. Sign in with `POST /auth/token/` and
send `Authorization: Bearer <access>`. Refusals are problem documents (RFC 9457). What you may
not see answers like what does not exist.
"""


@asynccontextmanager
async def lifespan(door: FastAPI) -> AsyncIterator[None]:
    """While the engine is open: batches work, and have stopped before it closes."""
    door.state.batches = batches.Batches(door.state.engine)
    try:
        yield
    finally:
        await to_thread.run_sync(door.state.batches.stop)


door = FastAPI(
    title="MedSec",
    version="1",
    summary="Selective encryption of medical images",
    description=_ABOUT,
    lifespan=lifespan,
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    redirect_slashes=False,
)
problems.install(door)
for room in (
    auth,
    accounts,
    patients,
    images,
    care,
    drafts,
    batches,
    system,
    browser,
    exports,
    observing,
    documents,
):
    door.include_router(room.router)
door.openapi = lambda: documents.describe(door)  # type: ignore[method-assign]
# The last that is added stands first.
door.add_middleware(Entrance)
door.add_middleware(Slash)
door.add_middleware(Cors)
