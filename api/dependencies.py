"""Parameters that all routes read in the same way: token, reason, key exchange, paging."""

from __future__ import annotations

import unicodedata
from datetime import UTC
from typing import Annotated
from urllib.parse import unquote, urlsplit

from fastapi import Depends, Header, Path, Query, Request, Security
from fastapi.security import APIKeyCookie, HTTPBearer
from pydantic import AwareDatetime
from starlette.requests import HTTPConnection

from api.sessions import COOKIE
from engine import AuditFilter, Engine, errors

#: Methods that change nothing. The session cookie is accepted for these; others need the
#: Authorization header, which another site's form or image cannot send (CSRF), but for below.
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
#: Where a page sends the files of a study; its own scripts may do so with the cookie.
STUDY_PATHS = "/intakes/"
#: Accepted values of Sec-Fetch-Site: our own page, or none (a URL typed by the user). Browsers send
#: the cookie with requests from other ports and sibling hosts too, whatever SameSite says; these
#: must not trigger reads that are then logged under the user's name.
_OWN_PAGE = frozenset({"same-origin", "none"})

_bearer = HTTPBearer(
    auto_error=False, bearerFormat="JWT", description="Access token of POST /auth/token/."
)
_cookie = APIKeyCookie(
    name=COOKIE,
    auto_error=False,
    description="Session of a browser; for reading, and for sending studies from our own pages.",
)


def engine(request: Request) -> Engine:
    """The engine of this process, set when the server starts."""
    held: Engine = request.app.state.engine
    return held


TheEngine = Annotated[Engine, Depends(engine)]


def presented(connection: HTTPConnection) -> str:
    """The token of a request, not yet verified; empty if there is none."""
    scheme, _, credentials = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    own_page = connection.headers.get("sec-fetch-site", "none") in _OWN_PAGE
    if own_page and (connection.scope["method"] in SAFE or _sends_a_study(connection)):
        return connection.cookies.get(COOKIE, "")
    return ""


def _sends_a_study(connection: HTTPConnection) -> bool:
    """Does a script of our own page send a study?

    A browser names the page that a changing request comes from, and no script can name another.
    """
    path = connection.scope["path"].removeprefix(connection.scope.get("root_path", ""))
    if not path.startswith(STUDY_PATHS):
        return False
    try:
        page = urlsplit(connection.headers.get("origin", ""))
    except ValueError:
        return False
    host = connection.headers.get("host", "").lower()
    return page.scheme in ("http", "https") and bool(host) and page.netloc.lower() == host


def token(
    request: Request,
    engine: TheEngine,
    _bearer: Annotated[object, Security(_bearer)],
    _cookie: Annotated[object, Security(_cookie)],
) -> str:
    """The token of an open session.

    Raises:
        NotSignedIn: No open session; raised before the rest of the request is read.
    """
    given = presented(request)
    engine.caller(given, activity=False)
    return given


def cookie_token(request: Request) -> str:
    """The session cookie, for the route that ends the session."""
    return request.cookies.get(COOKIE, "")


Token = Annotated[str, Depends(token)]
CookieToken = Annotated[str, Depends(cookie_token)]


def origin(request: Request) -> str:
    """The client's IP address, for the audit log."""
    return request.client.host if request.client else ""


Origin = Annotated[str, Depends(origin)]


def reason(
    x_reason: Annotated[
        str | None,
        Header(
            max_length=2000,
            description="Reason for access to the original; percent-encode non-ASCII as UTF-8.",
            examples=["tumour board"],
        ),
    ] = None,
) -> str:
    """The reason for access to sealed content, as it is logged."""
    try:
        text = unquote(x_reason or "", errors="strict")
    except UnicodeDecodeError as err:
        raise errors.InputError(
            "The header X-Reason is not valid: percent-encode it in UTF-8."
        ) from err
    if any(unicodedata.category(c) == "Cc" and not c.isspace() for c in text):
        raise errors.InputError("The header X-Reason contains control characters. Remove them.")
    return text


Reason = Annotated[str, Depends(reason)]
Exchange = Annotated[
    str | None,
    Header(
        alias="X-Key-Exchange",
        max_length=100,
        description="Id of a completed key exchange of this session. The payload is then encrypted"
        " with the exchanged key (FORMAT.md).",
    ),
]

Limit = Annotated[int, Query(ge=1, le=200, description="Maximum number of items")]
Offset = Annotated[int, Query(ge=0, le=1_000_000, description="Number of items to skip")]
Place = Annotated[int, Path(ge=0, le=1_000_000, description="Frame, from 0")]
Frame = Annotated[int, Query(ge=0, le=1_000_000, description="Frame, from 0")]


def window(
    center: Annotated[float | None, Query(allow_inf_nan=False)] = None,
    width: Annotated[float | None, Query(gt=0, allow_inf_nan=False)] = None,
) -> tuple[float, float] | None:
    """Window centre and width in stored units; None uses the window of the file."""
    return None if center is None or width is None else (center, width)


Window = Annotated[tuple[float, float] | None, Depends(window)]


def needed_reason(reason: Reason) -> str:
    """A mandatory reason.

    Raises:
        InputError: No reason was given.
    """
    if not reason.strip():
        raise errors.InputError("A reason is required. Send it in the header X-Reason.")
    return reason


def audit_filter(
    since: Annotated[AwareDatetime | None, Query(description="First moment")] = None,
    until: Annotated[AwareDatetime | None, Query(description="First moment after")] = None,
    actor: Annotated[str, Query(max_length=100, pattern=r"^[^\x00]*$")] = "",
    outcome: Annotated[str, Query(max_length=20, pattern=r"^[a-z]*$")] = "",
) -> AuditFilter:
    """Entries of the audit log of a time, a person and an outcome."""
    first, last = (at and at.astimezone(UTC).replace(tzinfo=None) for at in (since, until))
    return AuditFilter(first, last, actor, outcome)


Only = Annotated[AuditFilter, Depends(audit_filter)]
