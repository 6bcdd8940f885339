"""A few kills; a hundred and more are ``make soak``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks import crash, crash_server
from engine import Settings
from engine.operations.worker_pool import WorkerPool

ROOT = Path(__file__).parents[2]


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    run = crash.Soak(tmp_path / "soak", seed=7, longest_s=1.0)
    run.go(kills=3, tell=lambda line: None)
    assert run.ledger.problems == []
    assert run.kills == 3
    assert run.ledger.uploaded


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    run = crash_server.ServerSoak(tmp_path / "soak", seed=7)
    run.go(kills=3, tell=lambda line: None)
    assert run.ledger.problems == []
    assert run.kills == 3
    assert run.ledger.uploaded
    assert run.answered > 0


@pytest.mark.slow
def test_a_worker_of_a_batch_does_not_outlive_who_started_it(tmp_path: Path) -> None:
    """By itself it would finish what it is at first; one that is held never does."""
    starter = subprocess.Popen(
        [sys.executable, "-m", "tests.service.test_crash"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout is not None
    with starter.stdout as said:
        worker = psutil.Process(int(said.readline()))
        left = psutil.Process(starter.pid).children(recursive=True)
        assert worker in left
        worker.suspend()
        starter.kill()
        starter.wait()
    _, alive = psutil.wait_procs(left, timeout=30)
    assert alive == []


def prepare() -> None:
    """Nothing to prepare."""


def who(_: int) -> int:
    return os.getpid()


if __name__ == "__main__":
    from tests.service import test_crash as ours  # by this name the worker finds what it is to do

    with WorkerPool.open(Settings(), 1, ours.prepare) as crew:
        for _, process in crew.run(ours.who, [("who", 0)]):
            print(process, flush=True)  # noqa: T201
        time.sleep(3600)
