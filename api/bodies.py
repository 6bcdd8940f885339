"""Bodies of requests while they arrive: none too slowly, and none in the room of others.

A body counts with what has arrived of it, so one that only announces much holds nothing. One owner,
an account or else an address, has at most half of the room. Where all of it is taken, who holds the
most of it gives the newest of their bodies up.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import of, problem
from engine import errors

#: Below this, a body that has used its patience up is too slow. A telephone line of 1995 is faster.
BYTES_PER_SECOND: Final = 4096
#: Bodies of one owner that are on their way at once.
_AT_ONCE: Final = 64
_BUSY: Final = "The server is receiving other files. Try again in a moment."


class _Body:
    """One that arrives."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.held_bytes = 0
        self.waited_s = 0.0
        self.complete = False
        self.refusal: Response | None = None
        #: Set when it is refused while its request waits for more of it.
        self.refused = asyncio.Event()

    def refuse(self, answer: Response) -> None:
        answer.headers["Connection"] = "close"
        self.refusal = answer
        self.refused.set()


class Bodies:
    """All bodies that arrive at this server; used by its event loop only."""

    def __init__(self) -> None:
        self._arriving: list[_Body] = []  # the oldest first

    async def serve(
        self,
        app: ASGIApp,
        scope: Scope,
        receive: Receive,
        send: Send,
        owner: str,
        most_bytes: int,
        patience_seconds: float,
    ) -> None:
        """Let an application answer a request, and refuse its body where that must be.

        Args:
            owner: Account that sends it, or address of a stranger.
            most_bytes: For the bodies of all.
            patience_seconds: So long a body may take before its rate counts. Only time in which
                its request waited for it is counted.
        """
        if not _has_body(scope):
            await app(scope, receive, send)
            return
        body = _Body(owner)
        busy = self._refusal(owner, announced(scope), most_bytes)
        if busy is not None:
            await busy(scope, receive, send)
            return
        self._arriving.append(body)
        answered = False

        async def next_part() -> Message:
            if body.complete:
                return await receive()
            if body.refusal is None:
                message = await self._wait(body, receive, patience_seconds)
                if message is not None:
                    self._count(body, message, most_bytes)
                    if body.refusal is None:
                        return message
            return {"type": "http.disconnect"}

        async def answer(message: Message) -> None:
            nonlocal answered
            if body.refusal is None or answered:
                answered = True
                await send(message)

        try:
            await app(scope, next_part, answer)
        except Exception:
            if body.refusal is None:
                raise  # otherwise it is what came of the body's end
        finally:
            self._arriving.remove(body)
        if body.refusal is not None and not answered:
            await body.refusal(scope, receive, send)

    async def _wait(self, body: _Body, receive: Receive, patience: float) -> Message | None:
        """The next part; None if the body is refused meanwhile."""
        clock = asyncio.get_running_loop().time
        began = clock()
        left = patience + body.held_bytes / BYTES_PER_SECOND - body.waited_s
        part, refused = asyncio.ensure_future(receive()), asyncio.ensure_future(body.refused.wait())
        try:
            await asyncio.wait(
                {part, refused}, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED
            )
            body.waited_s += clock() - began
            if part.done():
                return part.result()
        finally:
            part.cancel()
            refused.cancel()
        if body.refusal is None:
            title = "The request arrived too slowly. Send it again over a better connection."
            body.refuse(problem(408, "request-too-slow", title))
        return None

    def _count(self, body: _Body, message: Message, most_bytes: int) -> None:
        body.held_bytes += len(message.get("body", b""))
        body.complete = not message.get("more_body", False)
        held = self._held()
        if held[body.owner] > most_bytes // 2:
            body.refuse(_busy())
        elif held.total() > most_bytes:
            owner = max(held, key=lambda name: held[name])
            next(b for b in reversed(self._arriving) if b.owner == owner).refuse(_busy())

    def _held(self) -> Counter[str]:
        """Bytes by owner, of bodies that are not given up."""
        held = Counter[str]()
        for body in self._arriving:
            if body.refusal is None:
                held[body.owner] += body.held_bytes
        return held

    def _refusal(self, owner: str, size: int, most_bytes: int) -> Response | None:
        """The answer to a body that must not begin. Who sends nothing else may always begin."""
        on_the_way = sum(body.owner == owner and not body.complete for body in self._arriving)
        held = self._held()
        full = held[owner] + size > most_bytes // 2 or held.total() + size > most_bytes
        return _busy() if on_the_way >= _AT_ONCE or (held[owner] and full) else None


def _busy() -> Response:
    return of(errors.StorageBusy(_BUSY))


def _has_body(scope: Scope) -> bool:
    return announced(scope) > 0 or "transfer-encoding" in Headers(scope=scope)


def announced(scope: Scope) -> int:
    """The Content-Length; 0 if absent or invalid."""
    length = Headers(scope=scope).get("content-length", "0")
    # int() refuses thousands of digits; 20 are enough for any size.
    return int(length[:20]) if length.isascii() and length.isdigit() else 0


#: Of this server.
bodies: Final = Bodies()
