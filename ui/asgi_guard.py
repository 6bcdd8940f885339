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
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import streamlit
from anyio import to_thread
from starlette.formparsers import MultiPartParser
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import config
from streamlit.web.server.server_util import TOKENS_COOKIE_NAME

import api
from engine import Engine, Permission, errors
from ui.upload_room import UploadRoom

UPLOADS = "/_stcore/upload_file/"
OPEN = ("/_stcore/health", "/_stcore/host-config", "/_stcore/stream", "/_stcore/bidi-components/")
GUARDED = ("/_stcore", "/media", "/component")
_TOKENS = TOKENS_COOKIE_NAME.encode()
#: Pages that are open at once, of one account, and of strangers at one address, which may be that
#: of a whole hospital.
PAGES_OF_ACCOUNT = 64
PAGES_OF_ADDRESS = 512
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
        self._pages = Counter[str]()
        self._room = UploadRoom()
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
        if scope["type"] == "websocket":
            await self._page(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [h for h in message["headers"] if not _carries_tokens(h)]
                headers += self.headers
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
        if path.startswith("/api/"):  # it knows its accounts and limits itself
            await self.app(scope, receive, send_with_headers)
            return
        connection = HTTPConnection(scope)
        owner = api.stranger(connection)
        if path.startswith(GUARDED) and not path.startswith(OPEN):
            # The body has not been read yet, so a refused upload is never stored.
            cookie = connection.cookies.get(api.COOKIE, "")
            try:
                owner = await to_thread.run_sync(self._check, cookie, path)
            except errors.AccessError as err:
                refusal = api.problem(err.status, err.code, err.message)
                await refusal(scope, receive, send_with_headers)
                return
            if path.startswith(UPLOADS) and scope["method"] in ("PUT", "POST"):
                await self._upload(scope, receive, send_with_headers, owner)
                return
        await self._serve(scope, receive, send_with_headers, owner)

    async def _upload(self, scope: Scope, receive: Receive, send: Send, account: str) -> None:
        """A file of a page's uploader, once there is room for it."""
        size = api.announced(scope)
        if not size:
            refusal = api.problem(411, "length-required", "Send a length, not chunks.")
            await refusal(scope, receive, send)
            return
        session = scope["path"].removeprefix(UPLOADS).split("/")[0]
        most_bytes = self.engine().settings.batch_limit_mb << 20
        try:
            async with self._room.take(account, session, size, most_bytes):
                await self._serve(scope, receive, send, account)
        except errors.StorageBusy as err:
            await api.problem(err.status, err.code, err.message)(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, owner: str) -> None:
        engine = self.engine()
        await api.bodies.serve(
            self.app,
            scope,
            receive,
            send,
            owner=owner,
            most_bytes=api.room_for_bodies(engine),
            patience_seconds=engine.settings.request_patience_seconds,
        )

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A page's WebSocket: of MedSec's own origin, and not more than anybody needs."""
        connection = HTTPConnection(scope)
        if not _from_own_page(connection):
            await send({"type": "websocket.close", "code": 1008})
            return
        owner, most = await to_thread.run_sync(self._owner, connection)
        if self._pages[owner] >= most:
            await send({"type": "websocket.close", "code": 1013})
            return
        self._pages[owner] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._pages[owner] -= 1

    def _owner(self, connection: HTTPConnection) -> tuple[str, int]:
        """Whose page it is, and how many of them there may be."""
        try:
            token = connection.cookies.get(api.COOKIE, "")
            return self.engine().sessions.whoami(token).username, PAGES_OF_ACCOUNT
        except errors.EngineError:
            return api.stranger(connection), PAGES_OF_ADDRESS

    def _check(self, token: str, path: str) -> str:
        """The account that asks."""
        engine = self.engine()
        account = engine.sessions.whoami(token).username
        if path.startswith(UPLOADS) and not any(engine.sessions.may(token, p) for p in _SENDERS):
            raise errors.PermissionDenied(
                "This account has no permission to upload. Ask an administrator for another role."
            )
        return account


def _carries_tokens(header: tuple[bytes, bytes]) -> bool:
    """Would it keep the identity provider's tokens in the browser, as Streamlit does?

    Nothing here needs them once the ID token was checked.
    """
    name, value = header
    return name.lower() == b"set-cookie" and value.startswith(_TOKENS)


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
