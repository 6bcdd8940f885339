"""Errors as problem documents (RFC 9457): what happened and what to do, no internals.

A person whose browser opens a URL itself, as a download does, gets the same as a page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from engine import errors, trouble

TOO_LARGE = "The request is too large. Send a smaller file or fewer files."
MEDIA_TYPE = "application/problem+json"
#: Retry-After for a busy catalog.
_BUSY_SECONDS = 2
#: Messages for errors that the framework raises before a route runs.
_SENTENCES = {
    400: "The request cannot be parsed. Check its syntax.",
    404: "There is nothing at this URL. Check the path.",
    405: "This URL does not support this HTTP method.",
    413: TOO_LARGE,
}
#: Without style or script: the policy of this server's answers allows neither.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>MedSec</title></head>
<body><main><h1>MedSec could not do this</h1><p>{title}</p>
<p>Close this tab to go on where you were.</p></main></body>
</html>
"""

_STATUS = {
    kind.code: kind.status
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.EngineError)
}


class Problem(BaseModel):
    """An error response."""

    type: str = Field(description="Stable name of the error.")
    title: str = Field(description="Message for people.")
    status: int


def problem(
    status: int, code: str, title: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """A problem document as a response."""
    extra = {"WWW-Authenticate": 'Bearer realm="medsec"'} if status == 401 else {}
    return JSONResponse(
        {"type": f"urn:medsec:{code}", "title": title, "status": status},
        status_code=status,
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store", **extra, **(headers or {})},
    )


def named(code: str, title: str) -> Problem:
    """The problem document of an engine error, from its code."""
    return Problem(type=f"urn:medsec:{code}", title=title, status=_STATUS.get(code, 500))


def of(error: errors.EngineError) -> JSONResponse:
    """The response for an engine error: status of its class, and its message."""
    headers = {}
    if "seconds" in error.facts:
        headers["Retry-After"] = str(math.ceil(error.facts["seconds"]))
    elif isinstance(error, errors.StorageBusy | errors.MachineOverloaded):
        headers["Retry-After"] = str(_BUSY_SECONDS)
    elif isinstance(error, errors.StepUpNeeded):  # RFC 9470
        seconds = math.ceil(error.facts["minutes"] * 60)
        challenge = f'error="insufficient_user_authentication", max_age="{seconds}"'
        headers["WWW-Authenticate"] = f'Bearer realm="medsec", {challenge}'
    return problem(error.status, error.code, error.message, headers)


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route, for the OpenAPI document."""
    return {
        status: {
            "model": Problem,
            "description": HTTPStatus(status).phrase,
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "example": {
                        "type": "urn:medsec:not-found",
                        "title": "There is no such image.",
                        "status": status,
                    },
                }
            },
        }
        for status in sorted(statuses)
    }


def unexpected(request: Request, error: Exception) -> Response:
    """An unexpected error: its id, under which the log has the traceback."""
    wrong = trouble("a request failed", error)
    return _for(request, problem(wrong.status, wrong.code, wrong.message))


def _for(request: Request, answer: JSONResponse) -> Response:
    """An answer, as a page where a browser shows what it gets."""
    if request.method != "GET" or not request.headers.get("accept", "").startswith("text/html"):
        return answer
    said = Problem.model_validate_json(bytes(answer.body))
    kept = ("cache-control", "retry-after", "www-authenticate")
    return HTMLResponse(
        _PAGE.format(title=escape(said.title)),
        status_code=answer.status_code,
        headers={name: value for name, value in answer.headers.items() if name in kept},
    )


def install(app: FastAPI) -> None:
    """Register the handlers that turn errors into problem documents."""

    @app.exception_handler(errors.EngineError)
    def _engine_error(request: Request, error: errors.EngineError) -> Response:
        return _for(request, of(error))

    @app.exception_handler(RequestValidationError)
    def _wrong_request(request: Request, error: RequestValidationError) -> Response:
        places = sorted({".".join(map(str, e["loc"]))[:80] for e in error.errors()})
        title = f"These parts of the request are not valid: {', '.join(places[:20])}."
        return _for(request, problem(422, "wrong-request", title))

    @app.exception_handler(HTTPException)
    def _http_error(request: Request, error: HTTPException) -> Response:
        phrase = HTTPStatus(error.status_code).phrase
        code = phrase.lower().replace(" ", "-")
        title = _SENTENCES.get(error.status_code, f"{phrase}.")
        return _for(request, problem(error.status_code, code, title, error.headers))

    app.add_exception_handler(Exception, unexpected)
