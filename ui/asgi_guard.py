"""ASGI middleware in front of Streamlit: session check, origin check, security headers.

Streamlit serves ``/media/<id>`` and accepts uploads without authentication, and its own routes
disclose details of the server. Here, only the Streamlit routes that the sign-in page needs are
open; all others require a session.

Pages work over a WebSocket. Browsers open one to any host and send that host's cookies, also from
a page of another port. Streamlit accepts pages of other ports of this machine, and queries a
server on the internet for its own address before it refuses an origin. Here, only MedSec's own
origin is accepted, and no other server is contacted.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import streamlit
from anyio import to_thread
from starlette.formparsers import MultiPartParser
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import config

import api
from engine import Engine, Permission, errors

UPLOADS = "/_stcore/upload_file/"
OPEN = ("/_stcore/health", "/_stcore/host-config", "/_stcore/stream", "/_stcore/bidi-components/")
GUARDED = ("/_stcore", "/media", "/component")
#: Permissions of pages with a file uploader: images, or networks and their figures.
_SENDERS = (Permission.UPLOAD, Permission.MANAGE_SETTINGS)


def keep_bodies_in_memory() -> None:
    """Stop Starlette from spooling request bodies over 1 MiB to a file on disk in plaintext.

    The size of a body is bounded by ``server.maxUploadSize``, which Streamlit counts as it reads.
    """
    MultiPartParser.spool_max_size = 1 << 62


def content_policy() -> str:
    """Everything from this server only; Streamlit's one inline script is allowed by its hash."""
    page = (Path(streamlit.__file__).parent / "static" / "index.html").read_text(encoding="utf-8")
    inline = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in inline
    )
    return "; ".join(
        (
            "default-src 'self'",
            f"script-src 'self' blob: {hashes}",  # components v2 load from blob:
            "style-src 'self' 'unsafe-inline'",  # Streamlit inserts style rules
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "worker-src 'self' blob:",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-src 'none'",
            "frame-ancestors 'none'",
        )
    )


class AsgiGuard:
    """Requires a session for Streamlit's files and uploads, and adds security headers.

    Args:
        app: The next ASGI application.
        engine: Returns the engine once the server has started.
    """

    def __init__(self, app: ASGIApp, engine: Callable[[], Engine]) -> None:
        if config.get_option("server.baseUrlPath"):
            raise errors.SettingsError(
                "server.baseUrlPath is not supported. Remove it and give MedSec its own host name."
            )
        self.app = app
        self.engine = engine
        policy = content_policy()
        self.headers = [
            (b"content-security-policy", policy.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"x-frame-options", b"DENY"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and not _from_own_page(HTTPConnection(scope)):
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], *self.headers]
                if scope["scheme"] == "https":
                    headers.append((b"strict-transport-security", b"max-age=31536000"))
                message = {**message, "headers": headers}
            await send(message)

        if _has_two_lengths(scope):
            refusal = api.problem(
                400, "input-error", "Send either a length or chunks.", {"Connection": "close"}
            )
            await refusal(scope, receive, send_with_headers)
            return
        path: str = scope["path"]
        if path.startswith(GUARDED) and not path.startswith(OPEN):
            # The body has not been read yet, so a refused upload is never stored.
            cookie = HTTPConnection(scope).cookies.get(api.COOKIE, "")
            try:
                await to_thread.run_sync(self._check, cookie, path)
            except errors.AccessError as err:
                refusal = api.problem(err.status, err.code, err.message)
                await refusal(scope, receive, send_with_headers)
                return
        await self.app(scope, receive, send_with_headers)

    def _check(self, token: str, path: str) -> None:
        engine = self.engine()
        engine.sessions.whoami(token)
        if path.startswith(UPLOADS) and not any(engine.sessions.may(token, p) for p in _SENDERS):
            raise errors.PermissionDenied(
                "This account has no permission to upload. Ask an administrator for another role."
            )


def _has_two_lengths(scope: Scope) -> bool:
    """Does a request say twice how long it is (RFC 9112 6.1)?

    A proxy may believe one and this server the other; what lies between would be somebody else's
    next request.
    """
    names = [name for name, _ in scope["headers"]]
    return b"transfer-encoding" in names and b"content-length" in names


def _from_own_page(connection: HTTPConnection) -> bool:
    """Does the request come from MedSec's own origin, or from a program, which sends none?"""
    origin = connection.headers.get("origin")
    if origin is None or origin in config.get_option("server.corsAllowedOrigins"):
        return True
    host = connection.headers.get("host", "")
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()
