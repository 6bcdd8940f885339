"""Routes for the pages: the session cookie, and frames of opened images."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from api.dependencies import CookieToken, Frame, Place, TheEngine, Token, Window
from api.files import FILE, PICTURE, attachment, picture, png
from api.problems import answers
from api.sessions import COOKIE, redeem_ticket
from api.turns import PAGE_TURN
from engine import errors

router = APIRouter(tags=["browser"])


class Ticket(BaseModel):
    """The ticket that the browser posts after a sign-in."""

    ticket: str = Field(max_length=100, examples=["ticket from the sign-in page"])


@router.post("/session/", status_code=204, responses=answers(400, 401, 413, 422, 429))
def begin_session(
    body: Ticket, request: Request, token: CookieToken, engine: TheEngine
) -> Response:
    """Exchange a ticket for the session cookie; an earlier session of the browser ends."""
    response = Response(status_code=204)
    _forget_identity(request, response)
    given = redeem_ticket(engine, body.ticket)
    response.set_cookie(
        COOKIE,
        given,
        path="/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    with suppress(errors.NotSignedIn):
        # After a fresh proof it is the same session, with another token.
        if token and engine.caller(token).session_id != engine.caller(given).session_id:
            engine.sessions.sign_out(token)
    return response


@router.delete("/session/", status_code=204, responses=answers(429))
def end_session(request: Request, token: CookieToken, engine: TheEngine) -> Response:
    """End the session on the server and delete the cookie."""
    if token:
        with suppress(errors.NotSignedIn):  # if it had ended already, delete the cookie anyway
            engine.sessions.sign_out(token)
    response = Response(status_code=204)
    _forget_identity(request, response)
    response.delete_cookie(
        COOKIE, path="/", httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return response


def _forget_identity(request: Request, response: Response) -> None:
    """Delete the cookies of single sign-on; only the engine's session is used."""
    for name in request.cookies:
        if name.startswith("_streamlit_user"):
            response.delete_cookie(name, path="/", httponly=True, samesite="lax")


_REFUSALS = answers(401, 403, 404, 409, 422, 429, 503)


@router.get("/images/{image_id}/frames/{frame}/", dependencies=PAGE_TURN, response_class=Response,
            responses={**_REFUSALS, **PICTURE})  # fmt: skip
def masked_frame(
    image_id: str,
    frame: Place,
    window: Window,
    token: Token,
    engine: TheEngine,
    enhance: bool = False,
) -> Response:
    """One frame of the sealed image, rendered for display."""
    return picture(
        engine.images.masked_frame(token, image_id, frame, window=window, enhance=enhance)
    )


@router.get("/drafts/{handle}/frames/{frame}/", dependencies=PAGE_TURN, response_class=Response,
            responses={**_REFUSALS, **PICTURE})  # fmt: skip
def draft_frame(
    handle: str, frame: Place, window: Window, token: Token, engine: TheEngine
) -> Response:
    """One frame of a draft that this session has opened."""
    return picture(engine.drafts.frame(token, handle, frame, window=window))


@router.get("/drafts/{image_id}/preview/", dependencies=PAGE_TURN, response_class=Response,
            responses={**_REFUSALS, **PICTURE})  # fmt: skip
def draft_preview(
    image_id: str,
    token: Token,
    engine: TheEngine,
    side: Annotated[int, Query(ge=64, le=1600, description="Longest side in px.")] = 256,
) -> Response:
    """A draft with its boxes drawn, for contact sheets. The look is logged."""
    return png(engine.worklist.preview(token, image_id, side))


@router.get("/restorations/{handle}/frames/{frame}/", dependencies=PAGE_TURN,
            response_class=Response, responses={**_REFUSALS, **PICTURE})  # fmt: skip
def restored_frame(
    handle: str,
    frame: Place,
    window: Window,
    token: Token,
    engine: TheEngine,
    enhance: bool = False,
) -> Response:
    """One frame of a restoration of this session; the window is applied to the stored values."""
    return picture(
        engine.images.restored_frame(token, handle, frame, window=window, enhance=enhance)
    )


@router.get("/restorations/{handle}/file/", response_class=Response,
            responses={**_REFUSALS, **FILE})  # fmt: skip
def restored_file(
    handle: str,
    token: Token,
    engine: TheEngine,
    format: Literal["original", "png", "jpeg"] = "original",
    frame: Frame = 0,
) -> Response:
    """Download a restoration: the original file, or one frame as ``png`` or ``jpeg``."""
    return attachment(engine.images.restored_file(token, handle, format=format, frame=frame))
