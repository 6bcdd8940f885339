"""The FastAPI application: routes, middleware, and the mapping of errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import FastAPI
from starlette.routing import Route

from api import (
    accounts,
    auth,
    batches,
    browser,
    care,
    cohorts,
    dicomweb,
    drafts,
    exports,
    held_intakes,
    images,
    intakes,
    network,
    openapi_docs,
    patients,
    problems,
    recipients,
    release,
    sendings,
    stow,
    studies,
    system,
    telemetry,
)
from api.middleware import Cors, RequestLimits, Slash
from api.sealing import Sealing, sealing_of

_ABOUT = """
Every URL works with and without a trailing slash. Sign in with `POST /auth/token/` and send
`Authorization: Bearer <access>`. Errors are problem documents (RFC 9457). Resources that you are
not allowed to see answer 404, as if they did not exist.
"""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Process batches while the engine is open; stop them before it closes."""
    app.state.batches = batches.Batches(app.state.engine)
    app.state.intakes = held_intakes.Intakes(app.state.engine)
    try:
        yield
    finally:
        await to_thread.run_sync(app.state.intakes.stop)
        await to_thread.run_sync(app.state.batches.stop)


def seals() -> Sealing:
    """What is sealed beside the pages of this process."""
    return sealing_of(app.state)


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
#: Every module of routes.
ROUTES = (
    auth,
    accounts,
    patients,
    studies,
    images,
    care,
    drafts,
    batches,
    intakes,
    network,
    sendings,
    dicomweb,
    stow,
    system,
    release,
    browser,
    exports,
    telemetry,
    cohorts,
    recipients,
    openapi_docs,
)
for routes in ROUTES:
    app.include_router(routes.router)
app.openapi = lambda: openapi_docs.describe(app)  # type: ignore[method-assign]
# The middleware added last runs first.
app.add_middleware(RequestLimits)
app.add_middleware(Slash)
app.add_middleware(Cors)


def paths() -> list[str]:
    """The templates of all routes; to make the OpenAPI document for them takes a second."""
    return [
        route.path
        for routes in ROUTES
        for route in routes.router.routes
        if isinstance(route, Route)
    ]
