"""pynetdicom's association server with bounds: of memory, of time, and of connections.

pynetdicom reads a PDU of any length that a peer announces, waits for its bytes for ever, does the
TLS handshake of one peer while all others wait, and keeps any number of messages. Here each of
these has a limit, and what is over it is refused or cut off.
"""

from __future__ import annotations

import contextlib
import io
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, cast

from pynetdicom import _config
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dimse_primitives import C_GET, C_MOVE
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

#: Longest PDU that is read: requests for an association with very many contexts take some 100 kB,
#: and data comes in PDUs of the length that this side names.
LONGEST_PDU = 1 << 20
#: In which a PDU has to arrive once it has begun, and a handshake has to be done.
PDU_SECONDS = 30.0
#: Connections that are open at once, associated or not yet.
MOST_CONNECTIONS = 64
#: Messages of one association that wait; its peer is read no further meanwhile.
_MOST_MESSAGES = 16
_LONGEST_COMMAND = 1 << 16
_config.LOG_HANDLER_LEVEL = "none"  # pynetdicom formats every PDU for a log that nobody keeps


def _close(sockets: AssociationSocket) -> None:
    """Shut a socket down and close it, whether or not there is anything to shut down."""
    if sockets.socket is not None:
        with contextlib.suppress(OSError):
            sockets.socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            sockets.socket.close()


# pynetdicom's own closes nothing where the shutdown fails, as after a refused connection: each
# attempt to reach a peer that is down would leave a descriptor to the garbage collector.
cast(Any, AssociationSocket)._shutdown_socket = _close


class Budget:
    """Memory that all messages together may take.

    Args:
        most_bytes: In all.
        largest_bytes: Of one message.
    """

    def __init__(self, most_bytes: int, largest_bytes: int) -> None:
        self.largest_bytes = largest_bytes
        self._left = most_bytes
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Set so many bytes aside; False where they are not there."""
        with self._lock:
            if count > self._left:
                return False
            self._left -= count
            return True

    def give(self, count: int) -> None:
        """So many bytes are free again."""
        with self._lock:
            self._left += count


class Body(io.BytesIO):
    """A data set while it arrives; over a limit, nothing of it is kept and its end is awaited."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self._budget = budget
        self._taken = 0
        self.too_large = False
        self.no_room = False

    def write(self, data: Any) -> int:
        count = len(data)
        if self.too_large or self.no_room:
            return count
        self.too_large = self._taken + count > self._budget.largest_bytes
        self.no_room = not self.too_large and not self._budget.take(count)
        if self.too_large or self.no_room:
            self.release()
            return count
        self._taken += count
        return super().write(data)

    def release(self) -> None:
        """Forget what arrived, and give its memory back."""
        taken, self._taken = self._taken, 0
        self._budget.give(taken)
        self.seek(0)
        self.truncate()

    def __del__(self) -> None:
        self._budget.give(self._taken)


class _Command(io.BytesIO):
    """A command set while it arrives."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > _LONGEST_COMMAND:
            raise OSError("the command set is too long")
        return super().write(data)


class _Messages(queue.Queue[Any]):
    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, PDU_SECONDS if timeout is None else timeout)


class BoundedDimse(DIMSEServiceProvider):
    """Receives messages into a :class:`Body` each."""

    def __init__(self, assoc: Association, budget: Budget) -> None:
        super().__init__(assoc)
        self._budget = budget
        self.msg_queue = _Messages(_MOST_MESSAGES)

    def receive_primitive(self, primitive: P_DATA) -> None:
        if self.message is None:
            self.message = DIMSEMessage()
            self.message.encoded_command_set = _Command()
            self.message.data_set = Body(self._budget)
        super().receive_primitive(primitive)


class BoundedAssociation(Association):
    """Has retrievals served by the server's own code, and the rest by pynetdicom."""

    def _serve_request(self, msg: Any, context_id: int) -> None:
        context = self._accepted_cx.get(context_id)
        mine = isinstance(msg, C_GET | C_MOVE) and msg.is_valid_request
        if not mine or context is None or self._sent_release:
            super()._serve_request(msg, context_id)
            return
        server = cast("BoundedServer", self._server)
        self.dimse.cancel_req = {}
        self._is_paused = True
        try:
            server.retrieve(self, msg, context)
        finally:
            self._is_paused = False
            self.dimse.cancel_req = {}


class BoundedSocket(AssociationSocket):
    """Reads no PDU that is too long or takes too long."""

    def recv(self, nr_bytes: int) -> bytearray:
        if self.socket is None or nr_bytes > LONGEST_PDU:
            raise OSError("the PDU is too long, or the connection is closed")
        until = time.monotonic() + PDU_SECONDS
        data, got = bytearray(nr_bytes), 0
        with memoryview(data) as view:
            while got < nr_bytes:
                count = self.socket.recv_into(view[got:])
                if not count:
                    break
                got += count
                if time.monotonic() > until:
                    raise TimeoutError("the PDU takes too long")
        del data[got:]
        return data


class _Handler(RequestHandler):
    def handle(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            try:
                self.request.do_handshake()
            except OSError:  # no certificate, not one of ours, or no TLS at all
                self.request.close()
                return
        super().handle()

    def _create_association(self) -> Association:
        assoc = super()._create_association()
        server = cast(BoundedServer, self.server)
        # Not made anew: each socket that is made tells the state machine of a new connection.
        cast(Any, assoc.dul.socket).__class__ = BoundedSocket
        cast(Any, assoc).__class__ = BoundedAssociation
        assoc.dimse = BoundedDimse(assoc, server.budget)
        return assoc


class BoundedServer(ThreadedAssociationServer):
    """Accepts peers, each on threads of its own."""

    daemon_threads = True

    def __init__(
        self,
        *args: Any,
        budget: Budget,
        retrieve: Callable[[Association, Any, PresentationContext], None],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **{**kwargs, "request_handler": _Handler})
        self.budget = budget
        self.retrieve = retrieve

    def get_request(self) -> Any:
        client, address = cast(Any, self.socket).accept()
        client.settimeout(PDU_SECONDS)
        if self.ssl_context is not None:  # the handshake is made on the peer's own thread
            client = self.ssl_context.wrap_socket(
                client, server_side=True, do_handshake_on_connect=False
            )
        return client, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return len(self.active_associations) < MOST_CONNECTIONS
