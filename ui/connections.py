"""Connections of the web server: who says half a request, or reads no answer, does not stay.

uvicorn waits for the rest of a request's head, and for a client that does not read, as long as
these like. Each costs a file descriptor and memory, and neither needs an account. WebSockets are
not watched here: a page is silent as long as its reader reads, and uvicorn's pings end it when its
browser is gone.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from typing import Any, Final, Protocol

import h11
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.http.h11_impl import H11Protocol

from engine import errors, source

#: Connections from one address, and from all, that have said no whole request yet.
MOST_OF_ONE: Final = 64
MOST_OF_ALL: Final = 512
#: A client that reads an answer more slowly than this is gone, or does not want it.
BYTES_PER_SECOND: Final = 4096


class _Connection(Protocol):
    """Of uvicorn's protocol, what is used here."""

    conn: h11.Connection
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    client: tuple[str, int] | None
    cycle: Any


class Watch:
    """Over the connections of one server; used by its event loop only.

    Args:
        patience_seconds: For the head of a request, and between two looks at a slow reader.
    """

    def __init__(self, patience_seconds: float) -> None:
        self._patience = patience_seconds
        #: Of those that have said no whole request; the one that has waited longest is the first.
        self._heads: dict[_Connection, asyncio.TimerHandle] = {}
        #: How many of them an address has: asked for each new one, so it is counted, not searched.
        self._crowds = Counter[str]()
        self._readers: dict[_Connection, asyncio.TimerHandle] = {}

    def heard(self, connection: _Connection) -> None:
        """A connection was made, or something came over it."""
        if not _owes_a_head(connection):
            self._said(connection)
            return
        if connection in self._heads:
            return
        address = _address(connection)
        self._heads[connection] = connection.loop.call_later(self._patience, self._end, connection)
        self._crowds[address] += 1
        if self._crowds[address] > MOST_OF_ONE:
            self._end(self._longest_of(address))
        elif len(self._heads) > MOST_OF_ALL:
            [(largest, _)] = self._crowds.most_common(1)
            self._end(self._longest_of(largest))

    def full(self, connection: _Connection) -> None:
        """The client reads more slowly than it is answered."""
        left = connection.transport.get_write_buffer_size()
        self._readers[connection] = connection.loop.call_later(
            self._patience, self._look, connection, left
        )

    def drained(self, connection: _Connection) -> None:
        """It has caught up."""
        self._stop(self._readers, connection)

    def lost(self, connection: _Connection) -> None:
        """It has ended."""
        self._said(connection)
        self.drained(connection)

    def _said(self, connection: _Connection) -> None:
        """It has said a whole request, or ended."""
        if self._stop(self._heads, connection):
            address = _address(connection)
            self._crowds[address] -= 1
            if not self._crowds[address]:
                del self._crowds[address]

    def _look(self, connection: _Connection, before: int) -> None:
        if (
            before - connection.transport.get_write_buffer_size()
            < BYTES_PER_SECOND * self._patience
        ):
            self._end(connection)
        else:
            self.full(connection)

    def _longest_of(self, address: str) -> _Connection:
        return next(c for c in self._heads if _address(c) == address)

    def _end(self, connection: _Connection) -> None:
        self.lost(connection)
        connection.transport.abort()

    @staticmethod
    def _stop(timers: dict[_Connection, asyncio.TimerHandle], connection: _Connection) -> bool:
        """Was there a timer?"""
        timer = timers.pop(connection, None)
        if timer is not None:
            timer.cancel()
        return timer is not None


def install(watch: Watch) -> None:
    """Let the server of this process be watched. It has no door for that: uvicorn makes its
    protocol before it loads the application.

    Raises:
        SettingsError: The server speaks by another protocol, which would not be watched.
    """
    if AutoHTTPProtocol is not H11Protocol:
        raise errors.SettingsError(
            "Another HTTP parser is installed, which MedSec does not know. Uninstall httptools"
            " and zttp."
        )
    made, came = H11Protocol.connection_made, H11Protocol.data_received
    paused, resumed = H11Protocol.pause_writing, H11Protocol.resume_writing
    lost = H11Protocol.connection_lost

    def connection_made(self: H11Protocol, transport: asyncio.Transport) -> None:
        made(self, transport)
        watch.heard(self)

    def data_received(self: H11Protocol, data: bytes) -> None:
        came(self, data)
        watch.heard(self)

    def pause_writing(self: H11Protocol) -> None:
        paused(self)
        watch.full(self)

    def resume_writing(self: H11Protocol) -> None:
        resumed(self)
        watch.drained(self)

    def connection_lost(self: H11Protocol, exc: Exception | None) -> None:
        watch.lost(self)
        lost(self, exc)

    changed = (connection_made, data_received, pause_writing, resume_writing, connection_lost)
    for method in changed:
        setattr(H11Protocol, method.__name__, method)


def allow_many() -> None:
    """Allow this process as many open files as it may have; connections are files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _owes_a_head(connection: _Connection) -> bool:
    """Has it said no whole head of a request, or does it go on after its answer?"""
    theirs = connection.conn.their_state
    if theirs is h11.IDLE:
        return True
    cycle = connection.cycle
    return theirs is h11.SEND_BODY and cycle is not None and bool(cycle.response_complete)


def _address(connection: _Connection) -> str:
    return source(connection.client[0]) if connection.client else ""
