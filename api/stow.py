"""STOW-RS (PS3.18 10.5): instances into the reception, each as soon as it has arrived whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, HTTPException, Path, Request, Response
from fastapi.responses import JSONResponse

from api.dependencies import TheEngine, Token
from api.turns import intake_turn
from api.web_media import JSON, media_type
from engine import Engine, Instance, Received, errors

router = APIRouter(prefix="/dicomweb", include_in_schema=False)

Uid = Annotated[str, Path(pattern=r"^[0-9.]{1,64}$")]
#: RFC 2046 allows 70 characters; Orthanc takes 73.
_LONGEST_BOUNDARY = 200
_LONGEST_HEAD = 16_384
_CANNOT_UNDERSTAND, _OUT_OF_RESOURCES, _PRESENT = 0xC000, 0xA700, 0xB007


@router.post("/studies/")
async def store(request: Request, token: Token, engine: TheEngine) -> Response:
    return await _stored(request, token, engine, "")


@router.post("/studies/{study}/")
async def store_in_study(study: Uid, request: Request, token: Token, engine: TheEngine) -> Response:
    return await _stored(request, token, engine, study)


async def _stored(request: Request, token: str, engine: Engine, study: str) -> Response:
    """Store each instance; the status and both sequences are those of PS3.18 10.5.3."""
    kind, parameters = media_type(request.headers.get("content-type", ""))
    largest = engine.limits.dicom_bytes
    if kind == "application/dicom":
        parts = _whole(request, largest)
    elif kind == "multipart/related" and parameters.get("type") == "application/dicom":
        parts = _parts(request, PartReader(parameters.get("boundary", ""), largest))
    else:
        raise HTTPException(415)
    stored: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    async for data in parts:
        async with intake_turn(request):
            taken, item = await to_thread.run_sync(_one, engine, token, data, study)
        (stored if taken else failed).append(item)
    if not stored and not failed:
        raise errors.InputError("The request has no instance. Send at least one.")
    said: dict[str, Any] = {}
    if failed:
        said["00081198"] = {"vr": "SQ", "Value": failed}
    if stored:
        said["00081199"] = {"vr": "SQ", "Value": stored}
    status = 200 if not failed else 202 if stored else 409
    return JSONResponse(said, status_code=status, media_type=JSON)


def _one(engine: Engine, token: str, data: bytes | None, study: str) -> tuple[bool, dict[str, Any]]:
    """Was it taken, and its item of the answer. None stands for one that was too large."""
    if data is None:
        return False, {"00081197": {"vr": "US", "Value": [_CANNOT_UNDERSTAND]}}
    try:
        received = engine.reception.store(token, Instance("", "", data), study)
    except (errors.NotSignedIn, errors.PermissionDenied):
        raise
    except errors.EngineError as err:
        busy = isinstance(err, errors.StorageError | errors.MachineOverloaded)
        reason = _OUT_OF_RESOURCES if busy else _CANNOT_UNDERSTAND
        return False, {"00081197": {"vr": "US", "Value": [reason]}}
    item: dict[str, Any] = {
        "00081150": {"vr": "UI", "Value": [received.sop_class]},
        "00081155": {"vr": "UI", "Value": [received.sop_instance]},
    }
    if received.state is Received.PRESENT:
        item["00081196"] = {"vr": "US", "Value": [_PRESENT]}  # nothing is changed
    return True, item


async def _whole(request: Request, largest: int) -> AsyncIterator[bytes | None]:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk if len(data) <= largest else b""
    yield bytes(data) if len(data) <= largest else None


async def _parts(request: Request, reader: PartReader) -> AsyncIterator[bytes | None]:
    async for chunk in request.stream():
        for part in reader.feed(chunk):
            yield part


class PartReader:
    """Parts of a multipart body (RFC 2046 5.1) while it arrives; holds no more than one of them.

    Args:
        boundary: Between the parts.
        largest: Bytes of a part; a larger one is read over.

    Raises:
        InputError: There is no boundary.
    """

    def __init__(self, boundary: str, largest: int) -> None:
        if not 1 <= len(boundary) <= _LONGEST_BOUNDARY:
            raise errors.InputError("The request names no boundary between its parts.")
        self._line = b"\r\n--" + boundary.encode("latin-1", "replace")
        self._largest = largest
        self._held = bytearray(b"\r\n")  # the first boundary may be at the very beginning
        self._searched = 0
        self._state = "preamble"
        self._dicom = self._too_large = False

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """Parts of the kind ``application/dicom`` that end in this piece; None for a large one."""
        self._held += data
        while True:
            if self._state in ("preamble", "content"):
                place = self._held.find(self._line, self._searched)
                if place < 0:
                    self._wait()
                    return
                if self._state == "content" and self._dicom:
                    large = self._too_large or place > self._largest
                    yield None if large else bytes(memoryview(self._held)[:place])
                self._cut(place + len(self._line))
                self._state, self._too_large = "line", False
            elif self._state == "line":
                if len(self._held) < 2:
                    return
                if self._held.startswith(b"--"):
                    self._state = "end"
                else:
                    self._state = "head"
            elif self._state == "head":
                end = self._held.find(b"\r\n\r\n")
                if end < 0:
                    if len(self._held) > _LONGEST_HEAD:
                        raise errors.InputError("The header of a part is too long.")
                    return
                self._dicom = b"application/dicom" in self._held[:end].lower()
                self._cut(end + 4)
                self._state = "content"
            else:
                self._held.clear()
                return

    def _wait(self) -> None:
        """Nothing was found: keep what may be the beginning of the boundary, or of a part."""
        self._searched = max(0, len(self._held) - len(self._line) + 1)
        over = self._state == "preamble" or not self._dicom or self._too_large
        self._too_large |= self._state == "content" and len(self._held) > self._largest + len(
            self._line
        )
        if over or self._too_large:
            self._cut(self._searched)

    def _cut(self, count: int) -> None:
        del self._held[:count]
        self._searched = 0
