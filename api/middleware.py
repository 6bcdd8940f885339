"""Middleware of the REST API: trailing slash, CORS, body size and request rate.

Body limits apply before a body is read. Clients without a session or without upload permission
get a small limit. Large bodies stay in memory while they are processed, so their total size is
limited (:mod:`api.bodies`). Requests are counted per account, and per IP address without a session.
"""

from __future__ import annotations

import re
from typing import Final

from anyio import to_thread
from starlette.datastructures import MutableHeaders
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.bodies import announced, bodies
from api.dependencies import presented
from api.problems import TOO_LARGE, of, problem
from api.turns import ACCOUNT
from engine import Engine, Permission, come_from, errors, source

#: Limit for bodies without a file.
SMALL_BYTES: Final = 1 << 20
_MB: Final = 1024 * 1024
#: Overhead of a multipart form around its files.
_FORM_BYTES: Final = 1 << 20
_UPLOADS: Final = re.compile(
    "/batches/|/patients/|/patients/[^/]+/images/|/dicomweb/studies/(?:[^/]+/)?"
)
#: Files of studies come in pieces of limited size.
_PIECES: Final = re.compile("/intakes/[^/]+/(files/[0-9]+|headers)/")
PIECE_BYTES: Final = 8 << 20
#: Monitoring probes call these every second; they disclose nothing.
_UNCOUNTED: Final = ("/health/", "/ready/")
#: Requests that count more than once: a finite-field key exchange takes 70 ms of CPU time.
_COSTS: Final = {"/auth/key-exchange/": 20}
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class Slash:
    """Make every URL work with and without a trailing slash."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"] + "/"}
        await self.app(scope, receive, send)


class Cors:
    """CORS: browsers refuse scripts of other origins unless an origin is configured."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http":
            engine: Engine = scope["app"].state.engine
            origins = engine.settings.cors_origins.replace(",", " ").split()
            if origins:
                app = CORSMiddleware(
                    app,
                    allow_origins=origins,
                    allow_methods=["GET", "POST", "PATCH", "DELETE"],
                    allow_headers=["Authorization", "Content-Type", "X-Reason", "X-Key-Exchange"],
                    expose_headers=["Location", "Retry-After", "X-Rendition", "X-Proof"],
                    allow_credentials=False,  # a bearer token, never the cookie
                )
        await app(scope, receive, send)


class RequestLimits:
    """Rate limit, body size limit, and default headers such as ``no-store``."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        engine: Engine = scope["app"].state.engine
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        connection = HTTPConnection(scope)
        come_from(connection.client.host if connection.client else "")
        try:
            account, allowed_bytes, wait = await to_thread.run_sync(
                self._asked, engine, connection, path
            )
        except errors.StorageError as err:
            await of(err)(scope, receive, send_with_headers)
            return
        scope[ACCOUNT] = account
        if wait:
            refusal = problem(
                429,
                "too-many-requests",
                f"Too many requests. Try again in {wait} seconds.",
                {"Retry-After": str(wait)},
            )
            await refusal(scope, receive, send_with_headers)
            return
        if announced(scope) > allowed_bytes:
            await problem(413, "content-too-large", TOO_LARGE)(scope, receive, send_with_headers)
            return
        # A body without Content-Length is counted while it arrives.
        counted = RequestBodyLimitMiddleware(self.app, allowed_bytes)
        await bodies.serve(
            counted,
            scope,
            receive,
            send_with_headers,
            owner=account or stranger(connection),
            most_bytes=room_for_bodies(engine),
            patience_seconds=engine.settings.request_patience_seconds,
        )

    def _asked(self, engine: Engine, connection: HTTPConnection, path: str) -> tuple[str, int, int]:
        """User name and body limit as of :meth:`_who`, and seconds to wait."""
        account, allowed_bytes = self._who(engine, presented(connection), path)
        if path in _UNCOUNTED:
            return account, allowed_bytes, 0
        return account, allowed_bytes, self._wait(engine, account, connection, _COSTS.get(path, 1))

    def _who(self, engine: Engine, token: str, path: str) -> tuple[str, int]:
        """User name, empty without a session, and the body limit in bytes."""
        try:
            account = engine.caller(token, activity=False).username
        except errors.NotSignedIn:
            return "", SMALL_BYTES
        pieces = _PIECES.fullmatch(path)
        if not (pieces or _UPLOADS.fullmatch(path)) or not engine.sessions.may(
            token, Permission.UPLOAD
        ):
            return account, SMALL_BYTES
        if pieces:
            return account, PIECE_BYTES
        return account, _largest(engine, batch=not path.startswith("/patients/"))

    def _wait(self, engine: Engine, account: str, connection: HTTPConnection, cost: int) -> int:
        """Seconds to wait; 0 if the request is within the rate limit."""
        settings = engine.settings
        if account:
            key, amount = f"account/{account}", settings.requests_per_minute
        else:
            key, amount = stranger(connection), settings.anonymous_requests_per_minute
        return engine.shared.hit(key, amount, min(cost, amount))


def room_for_bodies(engine: Engine) -> int:
    """Bytes for all bodies that arrive; half of it is one account's, enough for any one body."""
    return 2 * _largest(engine)


def stranger(connection: HTTPConnection) -> str:
    """A name for a stranger, which is no user name."""
    return f"address/{source(connection.client.host) if connection.client else ''}"


def _largest(engine: Engine, batch: bool = True) -> int:
    """Limit in bytes for a body with files: one image, or a batch if that limit is larger."""
    settings = engine.settings
    image = max(settings.picture_limit_mb, settings.dicom_limit_mb)
    return (max(image, settings.batch_limit_mb) if batch else image) * _MB + _FORM_BYTES
