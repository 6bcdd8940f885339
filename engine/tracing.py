"""Request ids, client addresses, and structured logs.

Request ids are generated here and never taken from a client, because they are written to the
logs. Log lines contain messages of the program, ids and code locations, but never the text of an
exception, which can quote a name from a file.

An unexpected error gets an id: its traceback is in the log under that id, and the person sees the
id. A worker's own log may be lost, so what a worker logs travels home with its answer.
"""

from __future__ import annotations

import errno
import json
import logging
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from engine.errors import EngineError, MachineOverloaded
from engine.host import Host, is_shortage

log = logging.getLogger("medsec")

OVERLOADED = (
    "This machine is short of memory, processes or open files: end other programs, or set fewer"
    " MEDSEC_BATCH_WORKERS, and try again."
)
_ROOT = Path(__file__).parent.parent
#: Without letters that look like digits, for reading aloud (Crockford's base 32).
_ID_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ID_LENGTH = 6
_CAUSES = 6
#: Of the facts of an error that ends the start: numbers, and codes of a store.
_SAFE_FACTS = ("errno", "operation", "sequence", "status", "store_code")
#: Frames of one traceback that are kept: an endless recursion has a thousand.
_OUTERMOST, _INNERMOST = 10, 20
#: ... and of one that a library of the server logs: what a stranger sends can cause many.
_OF_LIBRARIES = 8

#: Of this process, where it is one of several servers.
_server = ""
_request: ContextVar[str] = ContextVar("medsec_request", default="")
_address: ContextVar[str] = ContextVar("medsec_address", default="")


def name_server(server_id: str) -> None:
    """Let every line of the log say from which of several servers it is."""
    global _server
    _server = server_id


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


# --- unexpected errors ------------------------------------------------------------------------


def unexpected(what: str, err: BaseException, level: int = logging.ERROR) -> str:
    """Log an error that nobody expected, with a traceback that holds no data.

    Args:
        what: Where it happened, in words of ours.

    Returns:
        Its id, for the person: see :func:`something_wrong`.
    """
    error_id = new_error_id()
    log.log(level, what, extra={"facts": {"error_id": error_id, **described(err)}})
    return error_id


def new_error_id() -> str:
    """Such as ``E-7F3K2Q``: short enough to be said on the telephone."""
    number = int(Host.token_of(8), 16)
    return "E-" + "".join(
        _ID_LETTERS[number >> 5 * place & 31] for place in reversed(range(_ID_LENGTH))
    )


@dataclass(frozen=True)
class Trouble:
    """What a person is told of an error that no part of the engine names.

    Args:
        code: ``unexpected``, or that of :class:`MachineOverloaded`.
        message: A sentence for a person.
        error_id: Under which the log has it.
    """

    code: str
    message: str
    error_id: str

    @property
    def status(self) -> int:
        """Of HTTP."""
        return MachineOverloaded.status if self.code == MachineOverloaded.code else 500


def trouble(what: str, err: BaseException, level: int = logging.ERROR) -> Trouble:
    """Log an error that nobody named, and what to tell the person."""
    error_id = unexpected(what, err, level)
    if is_shortage(err):
        return Trouble(MachineOverloaded.code, OVERLOADED, error_id)
    return Trouble("unexpected", something_wrong(error_id), error_id)


def cannot_start(err: EngineError) -> None:
    """Log why a server does not start: of what it was raised from, classes and places only."""
    told = described(err)
    for error in (told, *told.get("causes", ())):
        error.pop("says", None)  # for the person at the console, who is told it; may name a place
    facts = {name: err.facts[name] for name in _SAFE_FACTS if name in err.facts}
    log.error("the server cannot start", extra={"facts": {"code": err.code, **facts, **told}})
    for handler in log.handlers:
        handler.flush()


def why_ended(err: BaseException) -> str:
    """What the audit log says of whatever ended files that are made while they are read."""
    if isinstance(err, EngineError):
        return err.code
    return "reader-gone" if isinstance(err, GeneratorExit) else "unexpected"


def something_wrong(error_id: str) -> str:
    """What a person is told of an error whose cause only the log knows."""
    return f"Something went wrong. Tell the administrator the error id {error_id}."


def described(err: BaseException) -> dict[str, Any]:
    """An exception without its text and without values: its class, where it was raised, and the
    same of what it was raised from."""
    line = _of(err)
    causes: list[dict[str, Any]] = []
    seen, now = {id(err)}, _from(err)
    while now is not None and id(now) not in seen and len(causes) < _CAUSES:
        seen.add(id(now))
        causes.append(_of(now))
        now = _from(now)
    return line | ({"causes": causes} if causes else {})


def _from(err: BaseException) -> BaseException | None:
    if isinstance(err, BaseExceptionGroup):
        return err.exceptions[0]
    return err.__cause__ or (None if err.__suppress_context__ else err.__context__)


def _of(err: BaseException) -> dict[str, Any]:
    kind = type(err)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    line: dict[str, Any] = {"error": name}
    if isinstance(err, EngineError):
        line["error"] = kind.__name__
        if not err.from_worker:  # it has seen pixels, and could write what they show
            line["says"] = err.message
    elif isinstance(err, OSError) and err.errno is not None:
        line["errno"] = errno.errorcode.get(err.errno, err.errno)
    return line | {"where": places(err.__traceback__)}


def places(trace: TracebackType | None) -> list[str]:
    """``file:line function`` of each frame, outermost first."""
    frames = [
        f"{_short(frame.f_code.co_filename)}:{number} {frame.f_code.co_name}"
        for frame, number in traceback.walk_tb(trace)
    ]
    if len(frames) > _OUTERMOST + _INNERMOST:
        left_out = len(frames) - _OUTERMOST - _INNERMOST
        frames[_OUTERMOST:-_INNERMOST] = [f"({left_out} more)"]
    return frames


def _short(filename: str) -> str:
    """A file of code, without where this machine keeps it."""
    path = Path(filename)
    for folder in ("site-packages", "dist-packages"):
        if folder in path.parts:
            return "/".join(path.parts[path.parts.index(folder) + 1 :])
    if path.is_relative_to(_ROOT):
        return path.relative_to(_ROOT).as_posix()
    return "/".join(path.parts[-2:])


def from_elsewhere(kind: object, frames: object) -> dict[str, Any]:
    """What :func:`described` would say of an exception in a process that may have been taken over.

    It could write anything, a patient's name too, as if it were a place: only what is known here
    is repeated, which are Python's own exceptions and lines of files of code that exist.
    """
    known = vars(sys.modules["builtins"]).get(kind) if isinstance(kind, str) else None
    is_error = isinstance(known, type) and issubclass(known, BaseException)
    where = []
    for frame in frames[-_INNERMOST:] if isinstance(frames, tuple) else ():
        match frame:
            case (str(file), int(number)) if len(file) < 200 and 0 < number < 1_000_000:
                inside = file.endswith(".py") and ".." not in file and not file.startswith("/")
                if inside and any(
                    (Path(folder) / file).is_file() for folder in (str(_ROOT), *sys.path)
                ):
                    where.append(f"{file}:{number}")
    return {"error": kind if is_error else "an exception of a library", "where": where}


def for_elsewhere(err: BaseException) -> tuple[str, tuple[tuple[str, int], ...]]:
    """An exception for :func:`from_elsewhere`, as plain values."""
    frames = [
        (_short(frame.f_code.co_filename), number)
        for frame, number in traceback.walk_tb(err.__traceback__)
    ]
    return type(err).__name__, tuple(frames[-_INNERMOST:])


# --- a worker's log, sent home ----------------------------------------------------------------


@dataclass(frozen=True)
class LogEntry:
    """One entry of the log, without anything that is not plain."""

    level: int
    message: str
    facts: Mapping[str, Any]


class _Collector(logging.Handler):
    def __init__(self, told: list[LogEntry]) -> None:
        super().__init__(logging.WARNING)
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        self._told.append(LogEntry(record.levelno, record.getMessage(), _facts(record)))


@contextmanager
def collected() -> Iterator[list[LogEntry]]:
    """Take what this process logs meanwhile, to send it to another one, and write it nowhere."""
    told: list[LogEntry] = []
    before = log.handlers, log.propagate
    log.handlers, log.propagate = [_Collector(told)], False
    try:
        yield told
    finally:
        log.handlers, log.propagate = before


def tell(told: Sequence[LogEntry]) -> None:
    """Write into this process's log what another one has collected."""
    for entry in told:
        log.log(entry.level, entry.message, extra={"facts": {**entry.facts, "from": "worker"}})


# --- how the log is written -------------------------------------------------------------------


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    facts = dict(getattr(record, "facts", {}))
    if record.exc_info and record.exc_info[1] is not None:
        facts |= described(record.exc_info[1])
    return facts


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, logger, message, server, request and where it was."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if _server:
            line["server"] = _server
        if request_id():
            line["request"] = request_id()
        return json.dumps(line | _facts(record))


class PlainLines(logging.Formatter):
    """The message, and below it where it went wrong. For a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        facts = _facts(record)
        lines = [record.getMessage()]
        if "error_id" in facts:
            lines[0] += f" (error id {facts['error_id']})"
        for depth, error in enumerate([facts, *facts.get("causes", ())]):
            if "error" in error:
                said = ", ".join(str(error[k]) for k in ("error", "errno", "says") if k in error)
                lines.append(f"  {'caused by ' if depth else ''}{said}")
                lines += [f"    {place}" for place in error["where"]]
        return "\n".join(lines)


def log_as_json() -> None:
    """Log to standard error, one JSON object per line. For servers.

    Libraries of the server log uncaught exceptions with their text, which can quote a file. From
    here on a traceback in this process has no text, whoever logs it.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    log.setLevel(logging.INFO)
    # Connections of the database's client: its warnings name host and port, and no rows.
    for logger in (log, logging.getLogger("psycopg")):
        logger.handlers, logger.propagate = [handler], False
    logging.setLogRecordFactory(_without_texts)
    threading.excepthook = _thread_ended


def log_as_text(handler: logging.Handler | None = None) -> None:
    """Write errors for a person at a terminal; by default to standard error."""
    handler = handler or logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainLines())
    logging.basicConfig(level=logging.ERROR, handlers=[handler])
    log.setLevel(logging.WARNING)


def _without_texts(*args: Any, **named: Any) -> logging.LogRecord:
    record = logging.LogRecord(*args, **named)
    if record.exc_info and record.exc_info[1] is not None:
        # Formatters of all libraries take this text where it is there already.
        record.exc_text = json.dumps(_briefly(record.exc_info[1]))
        if record.name.partition(".")[0] != "medsec":
            record.exc_info = None
    return record


def _briefly(err: BaseException) -> dict[str, Any]:
    """Class, innermost places, and the first cause."""
    line = described(err)
    for error in (line, *line.get("causes", ())):
        error["where"] = error["where"][-_OF_LIBRARIES:]
    return line | ({"causes": line["causes"][:1]} if "causes" in line else {})


def _thread_ended(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None:
        unexpected("a thread ended", ended.exc_value)
