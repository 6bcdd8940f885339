"""Which request something belongs to and where it came from, and logs that machines read.

A request's id is made here, never taken from outside: what a stranger sends would end up in
logs and in the audit log. Log lines carry what the program says, ids and places in the code;
never the text of an exception, which may quote a name from a file.
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
    """A new id for what follows in this thread or task."""
    _address.set("")
    request_id = Host.token_of(8)
    _request.set(request_id)
    return request_id


def request_id() -> str:
    """The id of the request under way, or empty."""
    return _request.get()


def come_from(address: str) -> None:
    """What follows in this thread or task is asked for from there."""
    _address.set(address)


def address() -> str:
    """Where the request under way comes from, or empty."""
    return _address.get()


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request and where it went wrong."""

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
    """Write MedSec's own log to standard error, a JSON object a line. For servers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("medsec")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
