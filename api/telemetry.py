"""Metrics and log lines of every request: route, status, duration and request id only.

Each request gets a new id, returned as ``X-Request-ID`` and stored in the log and in the audit
entries of the request. Routes are recorded without their parameters, because a URL can contain a
hospital number and a log must not.
"""

from __future__ import annotations

import logging
import time

from fastapi import APIRouter, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.dependencies import TheEngine, Token
from api.files import Answers
from api.problems import answers
from engine import METRICS_MEDIA_TYPE, begin_request, count_request

log = logging.getLogger("medsec.http")
router = APIRouter(tags=["system"])

#: Paths outside the API that are counted separately; all others are counted as one.
_PAGES = ("_stcore", "media", "static", "component")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


_TEXT: Answers = {
    200: {
        "description": "Prometheus text format",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}


@router.get(
    "/metrics/", response_class=Response, responses={**answers(401, 403, 429, 503), **_TEXT}
)
def metrics(token: Token, engine: TheEngine) -> Response:
    """Metrics in Prometheus text format; requires permission to see the system health."""
    return Response(
        engine.health.metrics(token),
        media_type=METRICS_MEDIA_TYPE,
        headers={"Cache-Control": "no-store"},
    )


class RequestTelemetry:
    """ASGI middleware in front of all others.

    Args:
        words: Fixed parts of the API's paths.
    """

    def __init__(self, app: ASGIApp, words: frozenset[str]) -> None:
        self.app = app
        self._words = words

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = begin_request()
        status = 500
        began = time.perf_counter()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - began
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = self._route(scope["path"])
            count_request(method, route, status, seconds)
            if not route.startswith("/_stcore"):  # the page's own heartbeat
                facts = {
                    "method": method, "route": route, "status": status,
                    "ms": round(seconds * 1000, 1),
                }  # fmt: skip
                log.info("request", extra={"facts": facts})

    def _route(self, path: str) -> str:
        first, *rest = path.strip("/").split("/")
        if first != "api":
            return f"/{first}" if first in _PAGES else "/page"
        return "/api/" + "/".join(part if part in self._words else "*" for part in rest)


def words(paths: list[str]) -> frozenset[str]:
    """The fixed parts of route templates."""
    parts = {part for path in paths for part in path.split("/")}
    return frozenset(part for part in parts if part and "{" not in part)
