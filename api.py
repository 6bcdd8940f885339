"""The HTTP door: sessions for the browser, pictures and files for those who may see them.

It runs in the server's process on the same engine as the pages and decides nothing itself.
Every refusal of the engine becomes a problem document (RFC 9457) in one place. Whatever may
show a patient is sent with ``no-store`` and only to a session; request bodies stay in memory.
"""

from __future__ import annotations

import io
import math
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated
from urllib.parse import quote

import numpy as np
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image as Picture
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from engine import Engine, File, errors

COOKIE = "medsec_session"
TICKET_SECONDS = 30.0

door = FastAPI(title="MedSec", docs_url=None, redoc_url=None, openapi_url=None)


class Tickets:
    """One-time tickets that turn a sign-in on a page into a cookie that scripts cannot read.

    A page cannot set an HttpOnly cookie, and the session's token must not travel through the
    page. So the page sends a ticket, the browser posts it here, and it is worth one cookie.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def issue(self, token: str) -> str:
        """A new ticket for a session's token, good once and for ``TICKET_SECONDS``."""
        ticket = secrets.token_urlsafe(32)
        with self._lock:
            now = self._clock()
            self._held = {k: v for k, v in self._held.items() if v[1] > now}
            self._held[ticket] = (token, now + TICKET_SECONDS)
        return ticket

    def redeem(self, ticket: str) -> str:
        """The token for which it was issued.

        Raises:
            NotSignedIn: Unknown, used or expired; one answer for all three.
        """
        with self._lock:
            token, expires = self._held.pop(ticket, ("", -math.inf))
        if expires <= self._clock():
            raise errors.NotSignedIn("This sign-in has expired: please sign in again.")
        return token


tickets = Tickets()


def engine(request: Request) -> Engine:
    """The one engine of this process, put there when the server starts."""
    held: Engine = request.app.state.engine
    return held


def token(request: Request) -> str:
    """The caller's session from the cookie; the engine decides what it is worth."""
    return request.cookies.get(COOKIE, "")


TheEngine = Annotated[Engine, Depends(engine)]
Token = Annotated[str, Depends(token)]


# --- errors -----------------------------------------------------------------------------------


def problem(status: int, code: str, title: str) -> JSONResponse:
    """A problem document: what happened and what to do, and nothing from inside."""
    return JSONResponse(
        {"type": f"urn:medsec:{code}", "title": title, "status": status},
        status_code=status,
        media_type="application/problem+json",
        headers={"Cache-Control": "no-store"},
    )


@door.exception_handler(errors.EngineError)
def _engine_error(_request: Request, error: errors.EngineError) -> JSONResponse:
    return problem(error.status, error.code, error.message)


@door.exception_handler(RequestValidationError)
def _wrong_request(_request: Request, error: RequestValidationError) -> JSONResponse:
    places = ", ".join(sorted({".".join(map(str, e["loc"])) for e in error.errors()}))
    return problem(422, "wrong-request", f"These parts of the request are not valid: {places}.")


@door.exception_handler(HTTPException)
def _http_error(_request: Request, error: HTTPException) -> JSONResponse:
    return problem(error.status_code, "http", str(error.detail))


# --- sessions ---------------------------------------------------------------------------------


class Ticket(BaseModel):
    """What the browser posts after a sign-in on a page."""

    ticket: str = Field(max_length=100)


@door.post("/session", status_code=204)
def begin_session(body: Ticket, request: Request) -> Response:
    """Trade a ticket for the session cookie."""
    response = Response(status_code=204)
    response.set_cookie(
        COOKIE,
        tickets.redeem(body.ticket),
        path="/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@door.delete("/session", status_code=204)
def end_session(request: Request, token: Token, engine: TheEngine) -> Response:
    """End the session itself, not only the browser's memory of it."""
    if token:
        with suppress(errors.NotSignedIn):  # had it ended already, the cookie goes all the same
            engine.sign_out(token)
    response = Response(status_code=204)
    response.delete_cookie(
        COOKIE, path="/", httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return response


@door.get("/health")
def health(engine: TheEngine) -> dict[str, str]:
    """Alive and able to read the catalog; nothing more for a stranger."""
    engine.setup_needed()
    return {"status": "ok"}


# --- pictures and files -----------------------------------------------------------------------


def picture(pixels: np.ndarray) -> Response:
    """A lossless picture that no cache keeps.

    Args:
        pixels: Shape (H, W, 3), uint8.
    """
    coded = io.BytesIO()
    Picture.fromarray(pixels).save(coded, "PNG", compress_level=1)
    return png(coded.getvalue())


def png(data: bytes) -> Response:
    return Response(data, media_type="image/png", headers={"Cache-Control": "no-store"})


def attachment(file: File) -> Response:
    """A file under its own name; the name is quoted so that it cannot add headers."""
    return Response(
        file.data,
        media_type=file.media_type,
        headers={
            "Cache-Control": "no-store",
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.name, safe='')}",
        },
    )


Center = Annotated[float | None, Query()]
Width = Annotated[float | None, Query(gt=0)]


def window(center: Center = None, width: Width = None) -> tuple[float, float] | None:
    """Centre and width in stored units; None shows the image as its file says."""
    return None if center is None or width is None else (center, width)


Window = Annotated[tuple[float, float] | None, Depends(window)]


@door.get("/images/{image_id}/frames/{frame}")
def masked_frame(
    image_id: str,
    frame: int,
    window: Window,
    token: Token,
    engine: TheEngine,
    enhance: bool = False,
) -> Response:
    """One frame of the sealed image as a screen shows it."""
    return picture(engine.masked_frame(token, image_id, frame, window=window, enhance=enhance))


@door.get("/drafts/{handle}/frames/{frame}")
def draft_frame(
    handle: str, frame: int, window: Window, token: Token, engine: TheEngine
) -> Response:
    """One frame of a draft that this session has opened."""
    return picture(engine.draft_frame(token, handle, frame, window=window))


@door.get("/images/{image_id}/thumbnail")
def thumbnail(image_id: str, token: Token, engine: TheEngine) -> Response:
    return png(engine.thumbnail(token, image_id))


@door.get("/images/{image_id}/grid")
def grid(image_id: str, token: Token, engine: TheEngine) -> Response:
    return png(engine.grid_picture(token, image_id))


@door.get("/images/{image_id}/file")
def masked_file(image_id: str, token: Token, engine: TheEngine) -> Response:
    return attachment(engine.masked_file(token, image_id))


@door.get("/restorations/{handle}/frames/{frame}")
def restored_frame(
    handle: str,
    frame: int,
    window: Window,
    token: Token,
    engine: TheEngine,
    enhance: bool = False,
) -> Response:
    """One frame of a restoration of this session; the window is applied to the stored values."""
    return picture(engine.restored_frame(token, handle, frame, window=window, enhance=enhance))


@door.get("/restorations/{handle}/file")
def restored_file(
    handle: str, token: Token, engine: TheEngine, format: str = "original", frame: int = 0
) -> Response:
    """A restoration to take away: the original file, or one frame as ``png`` or ``jpeg``."""
    return attachment(engine.restored_file(token, handle, format=format, frame=frame))
