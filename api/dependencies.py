"""What a request says: who asks, why, and which part; read in one way by every route."""

from __future__ import annotations

import unicodedata
from typing import Annotated
from urllib.parse import unquote

from fastapi import Depends, Header, Query, Request, Security
from fastapi.security import APIKeyCookie, HTTPBearer
from starlette.requests import HTTPConnection

from api.sessions import COOKIE
from engine import Engine, errors

#: Methods that change nothing: only for these the browser's cookie is believed. Whatever
#: changes something needs a header that no other site's form or picture can send.
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
#: What a browser says of the page that asks: ours, or none (an address that was typed). The
#: cookie goes with requests of other ports of this host and of sister hosts too, whatever
#: SameSite says; those must not make somebody read what then stands in the log.
_OWN_PAGE = frozenset({"same-origin", "none"})

_bearer = HTTPBearer(
    auto_error=False, bearerFormat="JWT", description="Access token of POST /auth/token/."
)
_cookie = APIKeyCookie(
    name=COOKIE, auto_error=False, description="A browser's session; for reading only."
)


def engine(request: Request) -> Engine:
    """The one engine of this process, put there when the server starts."""
    held: Engine = request.app.state.engine
    return held


TheEngine = Annotated[Engine, Depends(engine)]


def presented(connection: HTTPConnection) -> str:
    """The token of a request, whatever it is worth; empty if there is none."""
    scheme, _, credentials = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    own_page = connection.headers.get("sec-fetch-site", "none") in _OWN_PAGE
    if own_page and connection.scope["method"] in SAFE:
        return connection.cookies.get(COOKIE, "")
    return ""


def token(
    request: Request,
    engine: TheEngine,
    _bearer: Annotated[object, Security(_bearer)],
    _cookie: Annotated[object, Security(_cookie)],
) -> str:
    """The token of a session that is open.

    Raises:
        NotSignedIn: Before anything else of the request is looked at.
    """
    given = presented(request)
    engine.caller(given, activity=False)
    return given


def cookie_token(request: Request) -> str:
    """The browser's session, also where it may end itself."""
    return request.cookies.get(COOKIE, "")


Token = Annotated[str, Depends(token)]
CookieToken = Annotated[str, Depends(cookie_token)]


def origin(request: Request) -> str:
    """The address from which a request comes, for the log."""
    return request.client.host if request.client else ""


Origin = Annotated[str, Depends(origin)]


def reason(
    x_reason: Annotated[
        str | None,
        Header(
            max_length=2000,
            description="Why the original must be seen; other than ASCII percent-encoded in UTF-8.",
            examples=["tumour board"],
        ),
    ] = None,
) -> str:
    """Why somebody must see what is sealed, as it will stand in the log."""
    try:
        text = unquote(x_reason or "", errors="strict")
    except UnicodeDecodeError as err:
        raise errors.InputError("X-Reason is percent-encoded, but not in UTF-8.") from err
    if any(unicodedata.category(c) == "Cc" and not c.isspace() for c in text):
        raise errors.InputError("X-Reason holds control characters.")
    return text


Reason = Annotated[str, Depends(reason)]
Exchange = Annotated[
    str | None,
    Header(
        alias="X-Key-Exchange",
        max_length=100,
        description="Id of a completed key exchange of this session: the payload is then sealed"
        " under its key (FORMAT.md).",
    ),
]

Limit = Annotated[int, Query(ge=1, le=200, description="Most items of an answer")]
Offset = Annotated[int, Query(ge=0, le=1_000_000, description="Items to skip")]
Frame = Annotated[int, Query(ge=0, le=1_000_000, description="Frame, from 0")]


def window(
    center: Annotated[float | None, Query(allow_inf_nan=False)] = None,
    width: Annotated[float | None, Query(gt=0, allow_inf_nan=False)] = None,
) -> tuple[float, float] | None:
    """Centre and width in stored units; None shows the image as its file says."""
    return None if center is None or width is None else (center, width)


Window = Annotated[tuple[float, float] | None, Depends(window)]


def needed_reason(reason: Reason) -> str:
    """A reason where there is no way without one.

    Raises:
        InputError: None was given.
    """
    if not reason.strip():
        raise errors.InputError("Say why, in the header X-Reason.")
    return reason
