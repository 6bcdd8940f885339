"""Request ids, client addresses, and structured logs.

Request ids are generated here and never taken from a client, because they are written to the
logs. Log lines contain messages of the program, ids and code locations, but never the text of an
exception, which can quote a name from a file.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from contextvars import ContextVar

from engine.host import Host

_request: ContextVar[str] = ContextVar("medsec_request", default="")
_address: ContextVar[str] = ContextVar("medsec_address", default="")


def begin_request() -> str:
    """Set a new request id for this thread or task."""
    _address.set("")
    request_id = Host.token_of(8)
    _request.set(request_id)
    return request_id


def request_id() -> str:
    """Id of the current request, or empty."""
    return _request.get()


def come_from(address: str) -> None:
    """Set the client address of this thread or task."""
    _address.set(address)


def address() -> str:
    """Client address of the current request, or empty."""
    return _address.get()


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, logger, message, request id and error location."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id():
            line["request"] = request_id()
        line.update(getattr(record, "facts", {}))
        if record.exc_info and record.exc_info[0] is not None:
            kind, _, trace = record.exc_info
            line["error"] = kind.__name__
            line["where"] = [
                f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(trace)[-8:]
            ]
        return json.dumps(line)


def log_as_json() -> None:
    """Log to standard error, one JSON object per line. For servers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("medsec")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
