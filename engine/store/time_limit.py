"""A time by which requests of a thread end, however slowly the other side answers.

Time limits of sockets are for the next bytes: a server that sends one now and then keeps a request
for ever. Here the connection that a request is using is shut down when its time is over, which ends
whatever waits for it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)

_of_thread = threading.local()


class TimeLimit:
    """The time of what a thread does.

    Args:
        seconds: From now on.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._connection: Any = None
        self._timer: threading.Timer | None = None
        self.over = False

    def extend(self, seconds: float) -> None:
        """Begin anew, with so much more than at first."""
        self._stop()
        self._timer = threading.Timer(self._seconds + seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def uses(self, connection: Any) -> None:
        """Raises TimeoutError where the time is over."""
        with self._lock:
            self._connection = connection
            if self.over:
                raise TimeoutError

    def _end(self) -> None:
        with self._lock:
            self.over = True
            found = getattr(self._connection, "sock", None)
            if found is not None:
                with contextlib.suppress(OSError):
                    # Not by TLS, which the other thread is at.
                    socket.socket.shutdown(found, socket.SHUT_RDWR)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    @contextlib.contextmanager
    def counting(self) -> Iterator[TimeLimit]:
        """Within it, it counts for this thread; within another one, that one does."""
        around: TimeLimit | None = getattr(_of_thread, "limit", None)
        if around is not None:
            yield around
            return
        self.extend(0.0)
        _of_thread.limit = self
        try:
            yield self
        finally:
            _of_thread.limit = None
            self._stop()
            with self._lock:
                self._connection = None


class _Limited:
    """A connection of botocore's that ends with the time of the thread that uses it."""

    sock: Any

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self._tell()

    def request(self, *words: Any, **more: Any) -> Any:
        self._tell()
        return super().request(*words, **more)  # type: ignore[misc]

    def _tell(self) -> None:
        limit: TimeLimit | None = getattr(_of_thread, "limit", None)
        if limit is not None:
            limit.uses(self)


class _Connection(_Limited, AWSHTTPConnection):  # type: ignore[misc]
    pass


class _TlsConnection(_Limited, AWSHTTPSConnection):  # type: ignore[misc]
    pass


class _Pool(AWSHTTPConnectionPool):  # type: ignore[misc]
    ConnectionCls = _Connection


class _TlsPool(AWSHTTPSConnectionPool):  # type: ignore[misc]
    ConnectionCls = _TlsConnection


def limit_connections(client: Any) -> None:
    """Let a client of botocore's, which was just made, use such connections."""
    # botocore lets nobody choose them; tests with a store that drips show it if this changes.
    manager = client._endpoint.http_session._manager
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
