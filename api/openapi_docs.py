"""The OpenAPI document, and Swagger UI from this server only."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import fastapi_offline
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response

router = APIRouter(include_in_schema=False)

_STATIC = Path(str(files(fastapi_offline))) / "static"
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>MedSec REST API</title>
<link rel="stylesheet" href="ROOT/docs/swagger-ui.css">
</head>
<body>
<div id="swagger"></div>
<script src="ROOT/docs/swagger-ui-bundle.js"></script>
<script src="ROOT/docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: new URL("../openapi.json", document.currentScript.src).href,
  dom_id: "#swagger",
  deepLinking: true,
  persistAuthorization: false,
  validatorUrl: null,
});
"""
#: No inline script, nothing from another host; Swagger UI sets inline styles.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_KEPT = {"Cache-Control": "public, max-age=3600"}


@router.get("/")
def root(request: Request) -> Response:
    """Redirect to the documentation page."""
    return RedirectResponse(f"{request.scope.get('root_path', '')}/docs/")


@router.get("/openapi.json/")
def document(request: Request) -> JSONResponse:
    """The OpenAPI document, with the base path of this server."""
    described = {**request.app.openapi(), "servers": [{"url": request.scope.get("root_path", "")}]}
    return JSONResponse(described, headers=_KEPT)


@router.get("/docs/")
def page(request: Request) -> HTMLResponse:
    """The documentation page; its parts have whole addresses, with and without a last slash."""
    page = _PAGE.replace("ROOT", request.scope.get("root_path", ""))
    return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY, **_KEPT})


@router.get("/docs/start.js/")
def start() -> Response:
    """The start script; a separate file, because inline scripts are forbidden."""
    return Response(_START, media_type="text/javascript", headers=_KEPT)


@router.get("/docs/{name}/")
def asset(name: Literal["swagger-ui.css", "swagger-ui-bundle.js"]) -> FileResponse:
    """Swagger UI's own files, from the installed package."""
    return FileResponse(_STATIC / name, headers=_KEPT)


def describe(app: FastAPI) -> dict[str, Any]:
    """OpenAPI 3.1 of all routes."""
    if app.openapi_schema is None:
        app.openapi_schema = get_openapi(
            title=app.title,
            version=app.version,
            openapi_version="3.1.0",
            summary=app.summary,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
        )
    return app.openapi_schema
