"""Requests that wait for decoders take turns, so that they never take the threads of all others.

A request that waits for its turn holds no thread. Turns are fair among accounts, and files that
come in have other ones than what somebody looks at. Where the client is gone, its work is cancelled
and ends the decoder that is at it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import Depends, Request

from engine import Shares, ends_with, errors, giving_way

#: Requests by which somebody looks at a file that hold a thread at once. The server has 40 for all.
_AT_ONCE: Final = 12
#: Of those by which files come in. More than decoders work at once would only take processor time
#: from who looks at something: reading bodies, refusing, writing down.
_INTAKE_AT_ONCE: Final = 3
#: Key of the scope under which the account of a request is known.
ACCOUNT: Final = "medsec.account"
_LOOK_SECONDS: Final = 0.5


class Turns:
    """Of one class of requests; used by the event loop only."""

    def __init__(self, at_once: int = _AT_ONCE) -> None:
        self._at_once = at_once
        self._shares = Shares()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def turn(self, account: str) -> AsyncIterator[None]:
        """Wait for a turn and keep it until the block ends."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((account, ready))
        self._call()
        try:
            await ready
            yield
        finally:
            if ready.done() and not ready.cancelled():
                self._shares.end(account)
            else:
                self._waiting.remove((account, ready))
            self._call()

    def _call(self) -> None:
        """Let those begin whose turn it is."""
        while self._shares.at_work < self._at_once:
            first = self._shares.first(self._waiting, lambda one: one[0])
            if first is None:
                return
            self._waiting.remove(first)
            self._shares.begin(first[0])
            first[1].set_result(None)


_intake, _pages = Turns(_INTAKE_AT_ONCE), Turns()


async def _of_intake(request: Request) -> AsyncIterator[None]:
    async with _waited_for(request, _intake):
        with giving_way():
            yield


@asynccontextmanager
async def intake_turn(request: Request) -> AsyncIterator[None]:
    """A turn for one file of a request whose others are still arriving."""
    async with _intake.turn(request.scope.get(ACCOUNT, "")):
        with giving_way():
            yield


@asynccontextmanager
async def page_turn(request: Request) -> AsyncIterator[None]:
    """A turn for one part of an answer that goes on after its request was read."""
    async with _pages.turn(request.scope.get(ACCOUNT, "")):
        yield


async def _of_page(request: Request) -> AsyncIterator[None]:
    async with _waited_for(request, _pages):
        yield


@asynccontextmanager
async def _waited_for(request: Request, turns: Turns) -> AsyncIterator[None]:
    """A turn of this request, whose body is here. Raises Cancelled where its client is gone."""
    gone = threading.Event()

    async def watch() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(_LOOK_SECONDS)
        gone.set()

    watching = asyncio.create_task(watch())
    try:
        async with turns.turn(request.scope.get(ACCOUNT, "")):
            if gone.is_set():
                raise errors.Cancelled("The client is gone.")
            with ends_with(gone):
                yield
    finally:
        watching.cancel()


#: Dependencies of routes by which files come in or are sealed, and by which somebody looks at one.
INTAKE_TURN: Final = (Depends(_of_intake, scope="function"),)
PAGE_TURN: Final = (Depends(_of_page, scope="function"),)
