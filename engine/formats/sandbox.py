"""Decoders run in a separate process: crashes, hangs and memory growth do not affect the server,
and the process has no keys, no catalog and no other patient's data.

A worker starts with an empty environment, so it inherits no secrets. It loads only one part of the
engine, can only compute, read files of Python and its libraries, and answer (see ``confine``), and
has limits of memory and time. Arguments and results are passed in memory files that are never on
disk, as JSON with raw buffers. Results are never unpickled, because a compromised worker could send
anything.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import importlib
import importlib.util
import json
import logging
import math
import mmap
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine import errors, tracing
from engine.cancellation import LOOK_SECONDS, ends_with, refuse_cancelled
from engine.errors import CorruptImage, EngineError, MachineOverloaded, OverBudget
from engine.formats.confine import Confinement
from engine.host import give_way, is_shortage

SECONDS = 30.0  # for one call, and as much again per 8 MB of arguments
#: On a machine that is busy with other things a call may take so many times as long, as long as
#: the worker itself has not used its time: the limit is against hostile files, which use it.
_BUSY_FACTOR = 30.0
_SECONDS_BYTES = 8 << 20
MEMORY_BYTES = 6 << 30  # address space of a worker
_ALIGN = 64
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_SEAL_TRIES = 20  # 50 ms apart
#: The C library then fills memory on allocation and release: a decoder that leaves a hole in
#: its output must not show there what an earlier file left behind.
_PERTURB = {"MALLOC_PERTURB_": "165", "GLIBC_TUNABLES": "glibc.malloc.perturb=165"}
_OVERLOADED = (
    "This machine has too little memory or too much to do, and cannot read this file now. Nothing"
    " is wrong with the file: end other programs and send it again."
)
_INHERITED = ("LD_LIBRARY_PATH", "LANG")  # and nothing that could be a secret
_TOO_MUCH = "This picture needs more memory than one upload may take: send it in parts."
_ERRORS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, EngineError)
}
#: What reading a message raises that is none: a worker that was taken over sends anything.
_NO_MESSAGE = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, struct.error,
)  # fmt: skip
#: Runs in the worker. It keeps ``engine/__init__.py`` out, and with it vault and catalog.
_BOOT = """
import fcntl, json, os, sys, types
package = sys.modules["engine"] = types.ModuleType("engine")
package.__path__ = [sys.argv[2]]
sys.path[:] = sys.argv[6:]
fcntl.fcntl(int(sys.argv[1]), fcntl.F_SETOWN, os.getpid())
from engine.formats.confine import confine
held = confine(sys.argv[2], *json.loads(sys.argv[5]))
from engine.formats import sandbox
sandbox.serve(int(sys.argv[1]), sys.argv[3], int(sys.argv[4]), held)
"""


log = logging.getLogger("medsec")


# --- messages ---------------------------------------------------------------------------


def _encode(value: Any, buffers: list[memoryview]) -> Any:
    """Plain values as JSON, bytes and arrays as references to buffers."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        buffers.append(memoryview(value).cast("B"))
        return {"bytes": len(buffers) - 1}
    if isinstance(value, np.ndarray):
        dense = np.ascontiguousarray(value)
        buffers.append(memoryview(dense.reshape(-1).view(np.uint8).data))
        return {"array": len(buffers) - 1, "type": dense.dtype.str, "shape": list(dense.shape)}
    if isinstance(value, tuple | list):
        return {"items": [_encode(v, buffers) for v in value]}
    if isinstance(value, Mapping):
        return {"pairs": [[_encode(k, buffers), _encode(v, buffers)] for k, v in value.items()]}
    raise TypeError(f"a {type(value).__name__} does not travel")


def _decode(value: Any, buffers: list[memoryview]) -> Any:
    """What :func:`_encode` made; every sequence comes back as a tuple."""
    if not isinstance(value, dict):
        return value
    if "bytes" in value:
        return bytes(buffers[value["bytes"]])
    if "array" in value:
        dtype = np.dtype(value["type"])
        if dtype.kind not in "uif":
            raise ValueError("not an array of numbers")
        return np.frombuffer(buffers[value["array"]], dtype).reshape(value["shape"])
    if "items" in value:
        return tuple(_decode(v, buffers) for v in value["items"])
    return {_decode(k, buffers): _decode(v, buffers) for k, v in value["pairs"]}


def _send(channel: socket.socket, value: Any) -> None:
    buffers: list[memoryview] = []
    text = json.dumps(_encode(value, buffers)).encode()
    table = struct.pack(f"<I{len(buffers) + 1}Q", len(buffers), len(text), *map(len, buffers))
    descriptor = os.memfd_create("medsec", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        at = 0
        for view in (memoryview(table), memoryview(text), *buffers):
            at = -(-at // _ALIGN) * _ALIGN
            while view:
                written = os.pwrite(descriptor, view[: 1 << 30], at)
                view, at = view[written:], at + written
        os.ftruncate(descriptor, max(at, 1))
        socket.send_fds(channel, [struct.pack("<Q", max(at, 1))], [descriptor])
    finally:
        os.close(descriptor)


def _receive(channel: socket.socket) -> Any:
    """The next message.

    Raises:
        EOFError: The other side is gone, or this is none that :func:`_send` sends.
        OSError: It cannot be sealed, or did not come in time.
    """
    head, descriptors, _, _ = socket.recv_fds(channel, 8, 1)
    if len(head) < 8 or not descriptors:
        raise EOFError
    (size,) = struct.unpack("<Q", head)
    try:
        # Else a worker that was taken over could cut it off while it is read here, which ends this
        # process, or write other pixels into what was proven.
        _seal(descriptors[0])
        memory = memoryview(mmap.mmap(descriptors[0], size, flags=mmap.MAP_PRIVATE))
        return _opened(memory)
    except _NO_MESSAGE as err:
        raise EOFError from err
    finally:
        os.close(descriptors[0])


def _seal(descriptor: int) -> None:
    """Let nobody change a message from here on.

    The kernel answers EBUSY where somebody could still write, and also where it holds a page
    itself for a moment, to move or to reclaim it: see ``memfd_wait_for_pins`` in mm/memfd.c.

    Raises:
        OSError: Somebody can still write.
    """
    for tries_left in reversed(range(_SEAL_TRIES)):
        try:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        except OSError as err:
            if err.errno != errno.EBUSY or not tries_left:
                raise
            time.sleep(0.05)
        else:
            return


def _opened(memory: memoryview) -> Any:
    """What lies in a message. Raises one of ``_NO_MESSAGE``."""
    (count,) = struct.unpack_from("<I", memory)
    sizes = struct.unpack_from(f"<{count + 1}Q", memory, 4)
    at, parts = 4 + 8 * (count + 1), []
    for length in sizes:
        at = -(-at // _ALIGN) * _ALIGN
        parts.append(memory[at : at + length])
        at += length
    return _decode(json.loads(bytes(parts[0])), parts[1:])


#: The address space of a worker is bounded, so this is about the file, not about the machine.
_TOO_LARGE_ANSWER: tuple[Any, ...] = ("refused", "ImageTooLarge", _TOO_MUCH, {})


# --- the worker's side ------------------------------------------------------------------


def serve(descriptor: int, module: str, memory_bytes: int, held: Confinement) -> None:
    """Answer calls to the operations of a module until the other side is gone.

    Args:
        held: See :func:`engine.formats.confine.confine`; told to the other side.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core dump: it would hold pixels
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    operations: Mapping[str, Callable[..., Any]] = importlib.import_module(module).OPERATIONS
    channel = socket.socket(fileno=descriptor)
    _send(channel, held.facts())
    while True:
        try:
            name, arguments = _receive(channel)
        except EOFError:
            return
        _end_with_peer(channel, True)
        try:
            answer: Any = ("done", operations[name](*arguments))
        except EngineError as err:
            answer = ("refused", type(err).__name__, err.message, _plain(err.facts))
        except MemoryError:
            answer = _TOO_LARGE_ANSWER
        except Exception as err:  # noqa: BLE001 - a hostile file can raise anything in ten libraries
            if is_shortage(err):
                answer = ("refused", "MachineOverloaded", _OVERLOADED, {})
            else:
                answer = ("failed", *tracing.for_elsewhere(err))
        del arguments
        _end_with_peer(channel, False)
        try:
            _send(channel, answer)
        except MemoryError:
            _send(channel, _TOO_LARGE_ANSWER)
        except OSError as err:  # nothing of the answer has gone: it goes in one piece
            if not is_shortage(err):
                raise
            _send(channel, ("refused", "MachineOverloaded", _OVERLOADED, {}))
        del answer


def _end_with_peer(channel: socket.socket, wanted: bool) -> None:
    """Let the kernel end this process, in the middle of anything, when the other side is gone.

    It then sends SIGIO, which nobody handles, to the owner of the socket (F_SETOWN). A signal of
    the parent's death would come with the end of the thread that started the worker.
    """
    flags = fcntl.fcntl(channel, fcntl.F_GETFL)
    chosen = flags | os.O_ASYNC if wanted else flags & ~os.O_ASYNC
    fcntl.fcntl(channel, fcntl.F_SETFL, chosen)


def _volume(value: Any) -> int:
    """Bytes in an argument, however deep."""
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_volume, value.values()))
    return sum(map(_volume, value)) if isinstance(value, tuple | list) else 0


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if isinstance(value, int | float | str)}


# --- the engine's side ------------------------------------------------------------------


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    channel: socket.socket

    def stop(self) -> None:
        self.channel.close()
        self.process.kill()
        self.process.wait()

    def receive(self, seconds: float) -> Any:
        """The next message; see :func:`_receive`.

        Args:
            seconds: Of processor time, where the machine is busy; otherwise of anybody's time.

        Raises:
            TimeoutError: The worker used up its time, or waits for nothing.
            MachineOverloaded: It did not get it within ``_BUSY_FACTOR`` times as long.
            Cancelled: Nobody waits for it any more.
        """
        began, before = time.monotonic(), _Spent.of(self.process.pid)
        used = 0.0
        while not self._answers(max(0.5, seconds - used)):
            now = _Spent.of(self.process.pid)
            waited = time.monotonic() - began
            used = now.processor_s - before.processor_s
            kept_waiting = now.waiting or now.queued_s - before.queued_s > waited / 4
            if used >= seconds or not kept_waiting:
                raise TimeoutError
            if waited >= _BUSY_FACTOR * seconds:
                raise MachineOverloaded(_OVERLOADED)
        self.channel.settimeout(SECONDS)  # it comes in one piece
        return _receive(self.channel)

    def _answers(self, seconds: float) -> bool:
        """Does it say something within this time? Raises Cancelled where nobody waits for it."""
        deadline = time.monotonic() + seconds
        ready = select.poll()
        ready.register(self.channel, select.POLLIN)
        while not ready.poll(1000 * max(0.0, min(LOOK_SECONDS, deadline - time.monotonic()))):
            refuse_cancelled()
            if time.monotonic() >= deadline:
                return False
        return True

    def held_bytes(self) -> int:
        """Memory that is its own; 0 where the kernel does not say."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            _, resident, shared, *_ = Path(f"/proc/{self.process.pid}/statm").read_text().split()
            return (int(resident) - int(shared)) * resource.getpagesize()
        return 0

    def killed_from_outside(self) -> bool:
        """Did somebody else end it with SIGKILL, as a machine does that is out of memory?

        A decoder cannot be the cause: what it may use is bounded, and then it gets a MemoryError.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(1.0) == -signal.SIGKILL
        return False


@dataclass(frozen=True)
class _Spent:
    """How a process has fared so far, all its threads together.

    Args:
        processor_s: Time on a processor.
        queued_s: Time in which it could have run, and others did.
        waiting: Does it wait for a processor, a disk or memory just now?
    """

    processor_s: float
    queued_s: float
    waiting: bool

    @classmethod
    def of(cls, process: int) -> _Spent:
        """Nothing where the kernel does not say."""
        ran = queued = 0
        waiting = False
        for thread in Path(f"/proc/{process}/task").glob("*"):
            with contextlib.suppress(OSError, ValueError, IndexError):  # a thread that has ended
                waiting |= (thread / "stat").read_text().rpartition(")")[2].split()[0] in "RD"
                now = [int(field) for field in (thread / "schedstat").read_text().split()]
                ran, queued = ran + now[0], queued + now[1]
        return cls(ran / 1e9, queued / 1e9, waiting)


@dataclass(frozen=True)
class Manner:
    """How workers live beside others.

    Args:
        gives_way: Let everything else have the processors first; not where somebody looks.
        idle_bytes: One that holds more after a call is ended.
    """

    gives_way: bool = True
    idle_bytes: float = math.inf


class Sandbox:
    """A few workers that run the ``OPERATIONS`` of one module of the engine.

    Args:
        module: Full name of the module.
        workers: How many calls run at once; further ones wait.
        seconds: Time for one call, and as much again per 8 MB of bytes among the arguments.
        memory_bytes: Address space of a worker.
        reads: Folders that it may read, besides Python and its libraries.
        manner: How the workers live.
    """

    def __init__(
        self,
        module: str,
        workers: int,
        seconds: float = SECONDS,
        memory_bytes: int = MEMORY_BYTES,
        reads: Sequence[str] = (),
        manner: Manner | None = None,
    ) -> None:
        self._module, self._workers, self._seconds = module, workers, seconds
        self._memory_bytes, self._reads = memory_bytes, tuple(reads)
        self._manner = manner or Manner()
        #: What holds the workers; None before the first has started.
        self.confinement: Confinement | None = None
        self._reset()
        atexit.register(self.close)

    def _reset(self) -> None:
        self._idle: list[_Worker] = []
        self._slots = threading.BoundedSemaphore(self._workers)
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def call(self, operation: str, *arguments: Any, seconds: float | None = None) -> Any:
        """Run one operation in a worker.

        Args:
            seconds: Processor time that it may take; by default by the size of the arguments.

        Raises:
            EngineError: What the operation raised.
            OverBudget: It took more time.
            CorruptImage: It raised anything else, crashed, or used too much memory.
            MachineOverloaded: Memory, processes or processor time of this machine did not suffice.
            Cancelled: Nobody waits for the answer any more; the worker has ended.
        """
        if os.getpid() != self._owner:  # a fork must not share its parent's workers
            self._reset()
        with self._slot():
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            if worker is not None and worker.process.poll() is not None:
                worker.stop()  # something else ended it
                worker = None
            worker = worker or self._started()
            try:
                allowance = self._allowance(arguments) if seconds is None else seconds
                worker.channel.settimeout(allowance)
                _send(worker.channel, (operation, arguments))
                answer = worker.receive(allowance)
            except (EOFError, OSError, MemoryError) as err:
                outside = is_shortage(err) or worker.killed_from_outside()
                worker.stop()
                if outside:
                    raise MachineOverloaded(_OVERLOADED) from err
                ended = {"error": type(err).__name__, "status": worker.process.returncode}
                log.warning("a decoder gave no answer to %s", operation, extra={"facts": ended})
                if isinstance(err, TimeoutError):
                    raise OverBudget(
                        "Reading this file takes much longer than a file of its size should, and"
                        " was stopped. Export it again, with a usual coding.",
                        seconds=round(allowance),
                    ) from err
                raise CorruptImage(
                    "The decoder failed: the file is damaged or malicious. Export it again."
                ) from err
            except BaseException:
                worker.stop()
                raise
            if worker.held_bytes() > self._manner.idle_bytes:
                worker.stop()  # a new one is small
            else:
                with self._lock:
                    self._idle.append(worker)
        return _outcome(answer, operation)

    def held(self) -> Confinement:
        """What holds the workers, as the first one said. Starts one if there was none yet.

        Raises:
            EngineError: None can be started here.
        """
        if self.confinement is None:
            with self._slot():
                worker = self._start()
                with self._lock:
                    self._idle.append(worker)
        assert self.confinement is not None
        return self.confinement

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        """One of the calls that run at once. Raises Cancelled where nobody waits for it."""
        slots = self._slots
        while not slots.acquire(timeout=LOOK_SECONDS):
            refuse_cancelled()
        try:
            yield
        finally:
            slots.release()

    def _allowance(self, arguments: tuple[Any, ...]) -> float:
        return self._seconds * (1 + _volume(arguments) / _SECONDS_BYTES)

    def _code(self) -> str:
        """The folder that the module's code is in."""
        spec = importlib.util.find_spec(self._module.partition(".")[0])
        return "" if spec is None or spec.origin is None else str(Path(spec.origin).parent)

    def _started(self) -> _Worker:
        """A new worker for a call; for the next one where nobody waits for this one any more.

        Raises:
            Cancelled: Nobody waits.
            EngineError: It cannot be started here.
        """
        # On a machine that is busy for long, each call would begin a worker and none would end so.
        with ends_with(threading.Event()):
            worker = self._start()
        try:
            refuse_cancelled()
        except BaseException:
            with self._lock:
                self._idle.append(worker)
            raise
        return worker

    def _start(self) -> _Worker:
        """A new worker that is ready.

        Raises:
            EngineError: It cannot be started here.
        """
        failed = EngineError(
            "Cannot start the image decoder. Check the installation, and the server's limits of"
            " open files and processes."
        )
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except (OSError, MemoryError) as err:
            raise _short_of(err, failed) from err
        with theirs:
            try:
                process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
                    [sys.executable, "-I", "-c", _BOOT, str(theirs.fileno()),
                     str(Path(__file__).parent.parent), self._module, str(self._memory_bytes),
                     json.dumps([*filter(None, [self._code()]), *self._reads]),
                     *filter(None, sys.path)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # libraries quote values of the file there
                    env=_PERTURB | {k: os.environ[k] for k in _INHERITED if k in os.environ},
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # Ctrl-C is for the server, which then lets go
                )  # fmt: skip
            except (OSError, MemoryError) as err:
                ours.close()
                raise _short_of(err, failed) from err
        worker = _Worker(process, ours)
        if self._manner.gives_way:
            give_way(process.pid)
        try:
            self.confinement = _told(worker.receive(self._seconds))
        except (EOFError, OSError, MemoryError) as err:
            outside = is_shortage(err) or worker.killed_from_outside()
            worker.stop()
            if outside:
                raise MachineOverloaded(_OVERLOADED) from err
            raise failed from err
        except BaseException:
            worker.stop()
            raise
        return worker

    def close(self) -> None:
        """Stop all idle workers."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            with contextlib.suppress(OSError):
                worker.stop()


def _told(facts: Any) -> Confinement:
    """What a worker says first. Raises EOFError where it says something else."""
    try:
        return Confinement.told(facts)
    except (ValueError, TypeError) as err:
        raise EOFError from err


def _short_of(err: BaseException, otherwise: EngineError) -> EngineError:
    """Why a worker does not start: the machine, which may have room in a moment, or the limits and
    the installation, which somebody must change."""
    lasting = isinstance(err, OSError) and err.errno in (errno.EMFILE, errno.ENFILE)
    return MachineOverloaded(_OVERLOADED) if is_shortage(err) and not lasting else otherwise


def _outcome(answer: Any, operation: str = "") -> Any:
    match answer:
        case ("done", value):
            return value
        case ("refused", str(name), str(message), dict(facts)) if name in _ERRORS:
            refused = _ERRORS[name](message, **facts)
            refused.from_worker = True
            raise refused
        case ("failed", kind, frames):
            # Damaged files end here, and mistakes of ours: which one it is, the places tell.
            error_id = tracing.new_error_id()
            facts = {"error_id": error_id, **tracing.from_elsewhere(kind, frames)}
            log.warning("a decoder failed at %s", operation, extra={"facts": facts})
            raise CorruptImage(
                "This file is damaged and cannot be read. Export it again. If other programs open"
                f" it, tell your administrator the error id {error_id}.",
                error_id=error_id,
            )
    raise CorruptImage("This file is damaged and cannot be read. Export it again.")
