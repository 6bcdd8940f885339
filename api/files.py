"""Pictures and files as responses that no cache keeps."""

from __future__ import annotations

import io
from typing import Any
from urllib.parse import quote

import numpy as np
from fastapi import Response
from PIL import Image as Picture

from engine import File

BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_FORMATS = ("image/jpeg", "image/png", "application/dicom", "image/tiff", "image/bmp", "image/webp")

Answers = dict[int | str, dict[str, Any]]
PICTURE: Answers = {200: {"description": "A picture", "content": {"image/png": BINARY}}}
FILE: Answers = {200: {"description": "A file", "content": dict.fromkeys(_FORMATS, BINARY)}}
SEALED: Answers = {
    200: {"description": "Sealed bytes", "content": {"application/octet-stream": BINARY}}
}
REGION: Answers = {
    200: {
        "description": "A region, or what it seals, sealed under the exchanged key",
        "content": SEALED[200]["content"],
    }
}
FILE_OR_SEALED: Answers = {
    200: {
        "description": "A file, or the same sealed under the exchanged key",
        "content": {**FILE[200]["content"], **SEALED[200]["content"]},
    }
}


def picture(pixels: np.ndarray) -> Response:
    """A lossless picture that no cache keeps.

    Args:
        pixels: Shape (H, W, 3), uint8.
    """
    coded = io.BytesIO()
    Picture.fromarray(pixels).save(coded, "PNG", compress_level=1)
    return png(coded.getvalue())


def png(data: bytes) -> Response:
    """A PNG that no cache keeps."""
    return Response(data, media_type="image/png", headers={"Cache-Control": "no-store"})


def attachment(file: File, **headers: str) -> Response:
    """A file under its own name; the name is quoted so that it cannot add headers."""
    return Response(
        file.data,
        media_type=file.media_type,
        headers={
            "Cache-Control": "no-store",
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.name, safe='')}",
            **headers,
        },
    )
