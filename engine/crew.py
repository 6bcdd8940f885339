"""Worker processes for batches, by Dask: this machine's own, or those of a scheduler elsewhere.

Dask asks nobody who they are, so every connection is TLS with certificates on both sides, on
one machine too: whoever reaches a scheduler could otherwise run code in it. Workers of this
machine start with an empty environment, so that no root key comes along; they keep what they
work on in memory, and a task that was lost with its worker is given to another.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

from engine.errors import SettingsError, WorkerLost
from engine.settings import Settings

T = TypeVar("T")
J = TypeVar("J")
R = TypeVar("R")

#: Tasks per worker that are under way or wait: memory is bounded by it, however long the list.
AHEAD = 2
#: How often a task may take its worker with it before it is given up.
LIVES = 2
PATIENCE_SECONDS = 120.0
_QUIET = {
    # Plaintext and keys stay in memory: nothing is written to a worker's disk.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.scheduler.allowed-failures": LIVES,
    "distributed.admin.log-length": 0,
    # Pages about tasks and workers, which Dask serves in clear and to anybody.
    "distributed.scheduler.http.routes": [],
}
_ROOT = Path(__file__).parent.parent


class Crew:
    """Workers that are ready; a context manager.

    Args:
        size: How many workers there are.
    """

    def __init__(self, client: Any, size: int, cleanup: contextlib.ExitStack) -> None:
        self._client, self.size, self._cleanup = client, size, cleanup

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
                address, security = _start(workers, cleanup)
            try:
                client = cleanup.enter_context(
                    Client(
                        address, security=security, timeout=PATIENCE_SECONDS, set_as_default=False
                    )
                )
                client.wait_for_workers(max(1, workers), timeout=PATIENCE_SECONDS)
            except (OSError, TimeoutError, ValueError) as err:
                raise SettingsError(
                    "The workers for batches do not answer: check MEDSEC_BATCH_SCHEDULER and its"
                    " certificates, or leave it out."
                ) from err
            if any(client.run(_spills).values()):
                raise SettingsError(
                    "The workers for batches write to disk what they work on: set"
                    " distributed.worker.memory.target and .spill to false there."
                )
            client.register_plugin(_plugin(equip))
            return cls(client, len(client.scheduler_info(n_workers=-1)["workers"]), cleanup)
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
        """
        from distributed import as_completed

        waiting: dict[Any, T] = {}
        done = as_completed(loop=self._client.loop)
        source = iter(tasks)
        more = True
        while True:
            while more and len(waiting) < self.size * AHEAD:
                drawn = next(source, None)
                if drawn is None:
                    more = False
                elif drawn[1] is None:
                    yield drawn[0], None
                else:
                    future = self._client.submit(work, drawn[1], pure=False)
                    waiting[future] = drawn[0]
                    done.add(future)
            if not waiting:
                return
            future = next(done)
            answer: R | WorkerLost
            if future.status == "finished":
                answer = future.result()
            else:
                answer = WorkerLost("The worker on this file died each time: it is left out.")
            task = waiting.pop(future)
            future.release()
            yield task, answer

    def close(self) -> None:
        """Let the workers go."""
        self._cleanup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _start(workers: int, cleanup: contextlib.ExitStack) -> tuple[Any, Any]:
    """A scheduler in this process and workers in their own, each with one thread."""
    from distributed import LocalCluster, Security

    security = Security.temporary()
    cluster = cleanup.enter_context(
        LocalCluster(
            n_workers=0, processes=True, host="127.0.0.1", protocol="tls", security=security,
            dashboard_address=None, silence_logs=logging.CRITICAL,
        )
    )  # fmt: skip
    folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="medsec-workers-"))
    memory = _memory_bytes() // (workers + 1)
    tls = "DASK_DISTRIBUTED__COMM__TLS__"
    environment = {
        "PATH": os.defpath,
        "HOME": folder,
        "TMPDIR": folder,
        "PYTHONPATH": str(_ROOT),
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_CONFIG_DIR": folder,
        "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "False",
        "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
        "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": "[]",
        f"{tls}CA_FILE": security.tls_ca_file,
        f"{tls}WORKER__CERT": security.tls_worker_cert,
        f"{tls}WORKER__KEY": security.tls_worker_key,
        **{k: os.environ[k] for k in ("LD_LIBRARY_PATH", "LANG") if k in os.environ},
    }
    for _ in range(workers):
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
            [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address,
             "--nworkers", "1", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1",
             "--dashboard-address", "127.0.0.1:0",  # else on every address of this machine
             "--memory-limit", str(memory), "--local-directory", folder,
             "--death-timeout", "30", "--preload-nanny", str(Path(__file__).with_name("leash.py"))],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,  # nothing is written: it holds the worker's leash
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # libraries quote what they work on there
            start_new_session=True,  # Ctrl-C is for us, who then let them go
        )  # fmt: skip
        cleanup.callback(_stop, process)
    return cluster, security


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdin is not None
    process.stdin.close()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _spills() -> bool:
    """Runs in a worker: would it write what it works on to its disk?"""
    import dask

    return any(
        dask.config.get(f"distributed.worker.memory.{name}", default=0.6) is not False
        for name in ("target", "spill")
    )


def _plugin(equip: Callable[[], None]) -> Any:
    from distributed import WorkerPlugin

    class Equipped(WorkerPlugin):
        name = "medsec"

        def setup(self, worker: Any) -> None:
            equip()

    return Equipped()
