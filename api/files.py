"""Responses with pictures and files, sent with ``no-store``."""

from __future__ import annotations

import io
from typing import Any
from urllib.parse import quote

import numpy as np
from fastapi import Response
from PIL import Image as Picture

from engine import File, Format

BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_FORMATS = tuple(kind.media_type for kind in Format)

Answers = dict[int | str, dict[str, Any]]
PICTURE: Answers = {200: {"description": "A picture", "content": {"image/png": BINARY}}}
FILE: Answers = {200: {"description": "A file", "content": dict.fromkeys(_FORMATS, BINARY)}}
SEALED: Answers = {
    200: {"description": "Encrypted bytes", "content": {"application/octet-stream": BINARY}}
}
REGION: Answers = {
    200: {
        "description": "A region as JSON, or its content encrypted with the exchanged key",
        "content": SEALED[200]["content"],
    }
}
FILE_OR_SEALED: Answers = {
    200: {
        "description": "A file, or the same file encrypted with the exchanged key",
        "content": {**FILE[200]["content"], **SEALED[200]["content"]},
    }
}


def picture(pixels: np.ndarray, **headers: str) -> Response:
    """A picture as PNG, sent with ``no-store``.

    Args:
        pixels: Shape (H, W, 3), uint8.
    """
    coded = io.BytesIO()
    Picture.fromarray(pixels).save(coded, "PNG", compress_level=1)
    return png(coded.getvalue(), **headers)


def png(data: bytes, **headers: str) -> Response:
    """PNG data, sent with ``no-store``."""
    no_store = {"Cache-Control": "no-store", **headers}
    return Response(data, media_type="image/png", headers=no_store)


def attachment(file: File, **headers: str) -> Response:
    """A file download; the name is percent-encoded, so that it cannot inject headers."""
    return Response(
        file.data,
        media_type=file.media_type,
        headers={
            "Cache-Control": "no-store",
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.name, safe='')}",
            **headers,
        },
    )
