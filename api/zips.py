"""ZIP files that are made while they are sent; whoever stops reading ends the work."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
import zipfile
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from typing import Any

from anyio import CancelScope, to_thread
from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Send

from api.files import BINARY, Answers
from api.turns import page_turn
from engine import ends_with, errors

log = logging.getLogger("medsec")

ZIP: Answers = {200: {"description": "A ZIP", "content": {"application/zip": BINARY}}}


class _Pipe(io.RawIOBase):
    """What was written since it was last asked; a ZIP needs no way back."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """Empties it."""
        found, self._parts = b"".join(self._parts), []
        return found


def zipped(files: Iterable[tuple[str, bytes]]) -> Generator[bytes]:
    """Files as a ZIP, made while it is sent: one file in memory at a time.

    Stored without compression, which medical pictures do not repay. An error in between ends the
    answer before the directory, so that what arrived opens nowhere.
    """
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        for path, data in files:
            # A fixed date: when each was read says nothing that the receiver should know.
            archive.writestr(zipfile.ZipInfo(path), data)
            yield pipe.take()
    yield pipe.take()


class _Zip(StreamingResponse):
    """An answer whose work ends with it, whether it was sent whole or not."""

    async def stream_response(self, send: Send) -> None:
        """As of any streamed answer; one that breaks off has no end, which its reader notices."""
        try:
            await super().stream_response(send)
        except errors.EngineError as err:  # the answer has begun: it cannot say so itself
            log.warning("a ZIP broke off: %s", err.code)
        finally:
            with CancelScope(shield=True):
                await self.body_iterator.aclose()  # type: ignore[attr-defined]


def zip_answer(
    request: Request, files: Iterator[tuple[str, bytes]], name: str
) -> StreamingResponse:
    """Files as a ZIP to be saved under a name; each is read in a turn of the account."""
    return _Zip(
        _parts(request, files),
        media_type="application/zip",
        headers={
            "Cache-Control": "no-store",
            "Content-Disposition": f'attachment; filename="{name}.zip"',
        },
    )


async def _parts(request: Request, files: Iterator[tuple[str, bytes]]) -> AsyncIterator[bytes]:
    parts = zipped(files)
    gone = threading.Event()

    async def following() -> bytes | None:
        async with page_turn(request):
            with ends_with(gone):
                return await to_thread.run_sync(next, parts, None)

    def end() -> None:
        parts.close()
        if isinstance(files, Generator):
            files.close()

    try:
        while True:
            # A thread cannot be cancelled; its work is, where nobody reads any more.
            step = asyncio.create_task(following())
            try:
                part = await asyncio.shield(step)
            except asyncio.CancelledError:
                gone.set()
                with CancelScope(shield=True):
                    await asyncio.wait([step])
                raise
            if part is None:
                return
            yield part
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(end)
