"""Media types, parts and ranges of DICOMweb (PS3.18 8.4 to 8.7, RFC 9110 12.5 and 14)."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Iterator

from fastapi import HTTPException, Request, Response
from fastapi.responses import StreamingResponse

JSON = "application/dicom+json"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def media_type(text: str) -> tuple[str, dict[str, str]]:
    """A media type and its parameters, names in lower case."""
    kind, *rest = re.split(r';(?=(?:[^"]*"[^"]*")*[^"]*$)', text)
    parameters = {}
    for part in rest:
        name, _, value = part.partition("=")
        parameters[name.strip().lower()] = value.strip().strip('"')
    return kind.strip().lower(), parameters


def accepted(request: Request) -> list[tuple[str, dict[str, str]]]:
    """Media types that a client accepts, the most wanted first (RFC 9110 12.5.1).

    The query's ``accept`` replaces the header (PS3.18 8.3.3.1).
    """
    text = request.query_params.get("accept") or request.headers.get("accept") or "*/*"
    found = [media_type(part) for part in re.split(r',(?=(?:[^"]*"[^"]*")*[^"]*$)', text)]
    wanted = [(kind, parameters, _weight(parameters)) for kind, parameters in found]
    return [
        (kind, parameters)
        for kind, parameters, weight in sorted(wanted, key=lambda one: -one[2])
        if weight > 0
    ]


def _weight(parameters: dict[str, str]) -> float:
    try:
        return float(parameters.get("q", "1"))
    except ValueError:
        return 1.0


def refuse_other(request: Request, *kinds: str) -> str:
    """The most wanted of the accepted media types that can be answered.

    Raises:
        HTTPException: 406, there is none.
    """
    for kind, parameters in accepted(request):
        for offered in kinds:
            if kind not in ("*/*", offered, offered.split("/")[0] + "/*"):
                continue
            # ``multipart/related`` of something else is another media type.
            inner = parameters.get("type", "")
            if kind == "multipart/related" and inner.endswith(("+xml", "+json")):
                continue
            return offered
    raise HTTPException(406)


def as_stored(request: Request, syntax: str) -> bool:
    """Does the client take this transfer syntax? By default only Explicit VR Little Endian."""
    wanted = {p["transfer-syntax"] for _, p in accepted(request) if "transfer-syntax" in p}
    return syntax == "1.2.840.10008.1.2.1" or bool({"*", syntax} & wanted)


def multipart(kind: str, parts: Iterable[tuple[str, bytes]]) -> StreamingResponse:
    """Parts with their media types, one after the other as they are made."""
    boundary = secrets.token_hex(16)

    def body() -> Iterator[bytes]:
        for part_kind, data in parts:
            yield f"--{boundary}\r\nContent-Type: {part_kind}\r\n\r\n".encode()
            yield data
            yield b"\r\n"
        yield f"--{boundary}--\r\n".encode()

    media = f'multipart/related; type="{kind}"; boundary={boundary}'
    return StreamingResponse(body(), media_type=media)


def single(request: Request, kind: str, data: bytes) -> Response:
    """One part, or the range of it that is asked for (RFC 9110 14.2).

    Several ranges, and ranges of something that has changed (``If-Range``), are answered whole.
    """
    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {"Accept-Ranges": "bytes", "ETag": tag}
    asked = _RANGE.fullmatch(request.headers.get("range", "").strip())
    unchanged = request.headers.get("if-range", tag) == tag
    if asked is None or not any(asked.groups()) or not unchanged:
        return Response(data, media_type=kind, headers=headers)
    first, last = asked.groups()
    begin = int(first) if first else max(0, len(data) - int(last))
    end = min(int(last) if first and last else len(data) - 1, len(data) - 1)
    if begin > end or (not first and not int(last)):
        headers["Content-Range"] = f"bytes */{len(data)}"
        return Response(status_code=416, headers=headers)
    headers["Content-Range"] = f"bytes {begin}-{end}/{len(data)}"
    return Response(data[begin : end + 1], status_code=206, media_type=kind, headers=headers)
