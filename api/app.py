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
    drafts,
    exports,
    images,
    openapi_docs,
    patients,
    problems,
    system,
    telemetry,
)
from api.middleware import Cors, RequestLimits, Slash

_ABOUT = """
Every address works with and without the slash at its end. Sign in with `POST /auth/token/` and
send `Authorization: Bearer <access>`. Refusals are problem documents (RFC 9457). What you may
not see answers like what does not exist.
"""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """While the engine is open: batches work, and have stopped before it closes."""
    app.state.batches = batches.Batches(app.state.engine)
    try:
        yield
    finally:
        await to_thread.run_sync(app.state.batches.stop)


app = FastAPI(
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
problems.install(app)
for routes in (
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
    telemetry,
    openapi_docs,
):
    app.include_router(routes.router)
app.openapi = lambda: openapi_docs.describe(app)  # type: ignore[method-assign]
# The last that is added stands first.
app.add_middleware(RequestLimits)
app.add_middleware(Slash)
app.add_middleware(Cors)
