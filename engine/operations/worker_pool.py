"""Worker processes for batches, by Dask: this machine's own, or those of a scheduler elsewhere.

Dask has no authentication, so every connection uses mutual TLS, also on one machine: otherwise,
anybody who can reach a scheduler could run code in it. Local workers start with an empty
environment, so that they get no root key. They keep their data in memory, and a task that is lost
with its worker is given to another one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

from engine.cancellation import refuse_cancelled
from engine.errors import EngineError, SettingsError, WorkerLost
from engine.host import give_way, is_shortage, memory_bytes
from engine.installation import ROOT
from engine.operations.worker_watchdog import FOLDER
from engine.settings import Settings
from engine.tracing import unexpected

T = TypeVar("T")
J = TypeVar("J")
R = TypeVar("R")

#: Tasks per worker that are under way or wait: memory is bounded by it, however long the list.
AHEAD = 2
#: How often a task may take its worker with it before it is given up.
LIVES = 2
PATIENCE_SECONDS = 120.0
LOOK_SECONDS = 2.0  # whether workers are still there
_QUIET = {
    # Plaintext and keys stay in memory; nothing is written to the disk of a worker.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    # A paused worker neither accepts nor returns tasks: a batch would wait for it forever. One
    # that needs too much is ended instead, and its file tries again.
    "distributed.worker.memory.pause": False,
    # It looks into all threads of a process and holds what their calls hold, pixels and keys too,
    # a hundred times a second. Nobody reads what it finds.
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.allowed-failures": LIVES,
    "distributed.admin.log-length": 0,
    # The dashboard has no authentication, so it is disabled.
    "distributed.scheduler.http.routes": [],
}
#: Begins a worker: its certificate and key come in one line, and go on to its process with the
#: rest of the configuration, through a pipe as well.
_BEGIN = """
import json, os, sys
line = b""
while not line.endswith(b"\\n"):
    more = os.read(0, 65536)
    if not more:
        sys.exit(1)
    line += more
import dask
dask.config.set(json.loads(line))
from distributed.cli.dask_worker import main
main(sys.argv[1:])
"""
_GONE = (
    "The workers for batches are gone: look whether there is memory enough for them, and send the"
    " rest again."
)


class WorkerPool:
    """A pool of ready workers; a context manager."""

    def __init__(self, client: Any, cleanup: contextlib.ExitStack, here: _Here | None) -> None:
        self._client, self._cleanup, self._here = client, cleanup, here

    @property
    def size(self) -> int:
        """How many tasks run at once now: workers elsewhere come and go."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return sum(worker["nthreads"] for worker in workers)

    @classmethod
    def open(cls, settings: Settings, workers: int, equip: Callable[[], None]) -> Self:
        """Start workers here, or join those of ``batch_scheduler``, and equip each once.

        Args:
            workers: How many to start here.
            equip: Picklable; called in every worker, also in those that come later.

        Raises:
            SettingsError: The scheduler is not reached, or its workers write to disk.
        """
        import dask
        from distributed import Client, Security

        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # their texts show arguments
        cleanup = contextlib.ExitStack()
        here: _Here | None = None
        try:
            cleanup.enter_context(dask.config.set(_QUIET))
            if settings.batch_scheduler:
                security = Security(
                    tls_ca_file=str(settings.batch_ca),
                    tls_client_cert=str(settings.batch_cert),
                    tls_client_key=str(settings.batch_key),
                    require_encryption=True,
                )
                address = settings.batch_scheduler
            else:
                address, security, here = _start(workers, cleanup)
            try:
                client = cleanup.enter_context(
                    Client(
                        address, security=security, timeout=PATIENCE_SECONDS, set_as_default=False
                    )
                )
                client.wait_for_workers(1, timeout=PATIENCE_SECONDS)  # others join under way
            except (OSError, TimeoutError, ValueError) as err:
                raise SettingsError(
                    "The batch workers do not answer. Check MEDSEC_BATCH_SCHEDULER and its"
                    " certificates, or remove the setting."
                ) from err
            try:
                client.register_plugin(_plugin(equip))
            except EngineError:
                raise
            except Exception as err:  # whatever importing another release raises
                error_id = unexpected("the workers for batches could not be equipped", err)
                raise SettingsError(
                    "The batch workers cannot load MedSec and its networks. Install the same"
                    f" release on them. The log has the cause under the error id {error_id}.",
                    error_id=error_id,
                ) from err
            return cls(client, cleanup, here)
        except BaseException:
            cleanup.close()
            raise

    def run(
        self, work: Callable[[J], R], tasks: Iterable[tuple[T, J | None]]
    ) -> Iterator[tuple[T, R | WorkerLost | None]]:
        """Each task with the result of its job, in the order in which they finish.

        Args:
            work: A function of a module; may run more than once for a job.
            tasks: Drawn only as workers become free. Jobs travel, what stands before them
                stays; without a job the answer is None.

        Raises:
            SettingsError: There are no workers any more, or they are of another release.
        """
        lost: list[tuple[T, J | None]] = []
        for task, job, answer in self._flow(work, tasks):
            if isinstance(answer, WorkerLost):
                lost.append((task, job))
            else:
                yield task, answer
        # Dask blames all tasks of a dead worker; each of them is retried alone.
        for suspect in lost:
            for task, _, answer in self._flow(work, [suspect]):
                yield task, answer

    def _flow(
        self, work: Callable[[J], R], tasks: Iterable[tuple[T, J | None]]
    ) -> Iterator[tuple[T, J | None, R | WorkerLost | None]]:
        from distributed import as_completed

        waiting: dict[Any, tuple[T, J]] = {}
        done = as_completed(loop=self._client.loop)
        source = iter(tasks)
        more = True
        while True:
            room = max(1, self.size) * AHEAD
            while more and len(waiting) < room:
                drawn = next(source, None)
                if drawn is None:
                    more = False
                    continue
                task, job = drawn
                if job is None:
                    yield task, None, None
                else:
                    sent = pickle.dumps((work, job))
                    future = self._client.submit(_opaque(), sent, pure=False)
                    waiting[future] = (task, job)
                    done.add(future)
            if not waiting:
                return
            self._wait(done)
            future = next(done)
            answer = _answer(future)
            future.release()
            yield *waiting.pop(future), answer

    def _wait(self, done: Any) -> None:
        """Until a task is done. Dask itself would wait for ever for workers that are gone."""
        seen = looked = time.monotonic()
        while not done.has_ready():
            time.sleep(0.05)
            refuse_cancelled()
            now = time.monotonic()
            if now - looked < LOOK_SECONDS:
                continue
            looked = now
            if self._here is not None:
                self._here.replace_lost()
            if self.size:
                seen = now
            elif now - seen > PATIENCE_SECONDS:
                raise SettingsError(_GONE)

    def close(self) -> None:
        """Stop the workers."""
        self._cleanup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _opaque() -> Callable[[bytes], Any]:
    """What a task is to a scheduler: a function of bytes.

    A scheduler unpickles tasks. As bytes, no key is an object in it, and it needs no MedSec:
    being no function of a module, this one travels whole.
    """

    def open_and_work(sent: bytes) -> Any:
        import pickle

        work, job = pickle.loads(sent)  # noqa: S301 - from who may run code here anyway
        return work(job)

    return open_and_work


def _answer(future: Any) -> Any:
    """The result of a task, or WorkerLost.

    Raises:
        SettingsError: It could not start, or there are no workers; the other tasks would fail too.
    """
    from distributed.scheduler import KilledWorker

    if future.status == "finished":
        return future.result()
    if future.status == "cancelled":  # with its scheduler
        raise SettingsError(_GONE)
    err = future.exception()
    if err is None:  # its worker was lost meanwhile, and another one has done it
        return future.result()
    if isinstance(err, KilledWorker):
        return WorkerLost(
            "This file was skipped because its worker process died repeatedly. Check the file."
        )
    error_id = unexpected("a worker for batches failed outside of its work", err)
    if is_shortage(err):  # while the job was opened, or the answer packed
        return WorkerLost(
            "The worker on this file had too little memory. End other programs or set fewer"
            " MEDSEC_BATCH_WORKERS, then send the file again."
        )
    raise SettingsError(
        "The batch workers run another version. Install the same release of MedSec and its"
        f" packages on them. The log has the cause under the error id {error_id}.",
        error_id=error_id,
    )


def _start(workers: int, cleanup: contextlib.ExitStack) -> tuple[Any, Any, _Here]:
    """A scheduler in this process and workers in their own, each with one thread."""
    from distributed import LocalCluster, Security

    security = Security.temporary()
    cluster = cleanup.enter_context(
        LocalCluster(
            n_workers=0, processes=True, host="127.0.0.1", protocol="tls", security=security,
            dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL,
        )
    )  # fmt: skip
    folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix=FOLDER))
    memory = memory_bytes() // (workers + 1)
    # Not in the environment, which other programs of this user can read and every child inherits.
    tls = {
        "distributed.comm.tls.ca-file": security.tls_ca_file,
        "distributed.comm.tls.worker.cert": security.tls_worker_cert,
        "distributed.comm.tls.worker.key": security.tls_worker_key,
    }
    environment = {
        "PATH": os.defpath,
        "HOME": folder,
        "TMPDIR": folder,
        "PYTHONPATH": str(ROOT),
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_CONFIG_DIR": folder,
        "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "False",
        "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
        "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False",
        "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
        "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": "[]",
        **{k: os.environ[k] for k in ("LD_LIBRARY_PATH", "LANG") if k in os.environ},
    }

    def begin() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
            [sys.executable, "-c", _BEGIN, cluster.scheduler_address,
             "--nworkers", "1", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1",
             "--dashboard-address", "127.0.0.1:0",  # else on every address of this machine
             "--memory-limit", str(memory), "--local-directory", folder,
             "--death-timeout", "30",
             "--preload-nanny", str(Path(__file__).with_name("worker_watchdog.py"))],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,  # its end ends the worker, when this process ends
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # libraries quote what they work on there
            start_new_session=True,  # Ctrl-C is for us, who then let them go
        )  # fmt: skip
        assert process.stdin is not None
        give_way(process.pid)
        with contextlib.suppress(BrokenPipeError):  # it ended at once; others are begun for it
            process.stdin.write(json.dumps(tls).encode() + b"\n")
            process.stdin.flush()
        return process

    here = _Here(begin, workers)
    cleanup.callback(here.stop)
    return cluster, security, here


class _Here:
    """Worker processes of this machine.

    Args:
        begin: Starts one.
    """

    def __init__(self, begin: Callable[[], subprocess.Popen[bytes]], count: int) -> None:
        self._begin = begin
        self._processes = [begin() for _ in range(count)]

    def replace_lost(self) -> None:
        """Start others for those that ended: on a busy machine Dask's nanny gives up on them."""
        for place, process in enumerate(self._processes):
            if process.poll() is not None:
                _stop(process)
                self._processes[place] = self._begin()

    def stop(self) -> None:
        for process in self._processes:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdin is not None
    process.stdin.close()


def _unfit() -> bool:
    """Runs in a worker: does its configuration spill data to disk, or pause?"""
    import dask

    return any(
        dask.config.get(f"distributed.worker.memory.{name}", default=0.6) is not False
        for name in ("target", "spill", "pause")
    )


def _plugin(equip: Callable[[], None]) -> Any:
    from distributed import WorkerPlugin

    class Equipped(WorkerPlugin):
        name = "medsec"

        def setup(self, worker: Any) -> None:
            if _unfit():
                raise SettingsError(
                    "The batch workers can write plaintext to disk, or pause. Set"
                    " distributed.worker.memory.target, .spill and .pause to false on them."
                )
            equip()

    return Equipped()
