"""Decoders end with whoever waits for them, and give way to what somebody looks at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from engine.cancellation import ends_with
from engine.errors import Cancelled
from engine.formats import images, sandbox
from engine.formats.sandbox import Sandbox
from engine.settings import Settings
from tests import builders

#: Its operations: one of them never ends. Workers may not load what this module needs.
OPERATIONS = "tests.formats.test_hostile"


@pytest.fixture
def box() -> Iterator[Sandbox]:
    made = Sandbox(OPERATIONS, workers=2, seconds=30)
    yield made
    made.close()


def test_a_decoder_ends_when_nobody_waits_for_it_any_more(box: Sandbox) -> None:
    assert box.call("mirror", 1) == (1,)
    process, gone = box._idle[0].process, threading.Event()

    def leave() -> None:
        while not busy(process.pid):
            time.sleep(0.01)
        gone.set()

    client = threading.Thread(target=leave)
    with ends_with(gone):
        client.start()
        with pytest.raises(Cancelled):
            box.call("spin", seconds=1000.0)
    client.join()
    assert process.poll() is not None
    assert box.call("mirror", 2) == (2,)


def test_who_waits_for_a_decoder_can_leave_too(box: Sandbox) -> None:
    gone = threading.Event()
    with box._slot(), box._slot(), ends_with(gone):
        threading.Timer(0.1, gone.set).start()
        with pytest.raises(Cancelled):
            box.call("mirror", 1)
    assert box.call("mirror", 2) == (2,)


def test_a_decoder_that_starts_is_there_for_the_next_call_when_its_own_is_given_up() -> None:
    gone = threading.Event()
    box = Sandbox(OPERATIONS, 1)
    gone.set()
    with ends_with(gone), pytest.raises(Cancelled):
        box.call("mirror", 1)
    (worker,) = box._idle
    assert box.call("mirror", 2) == (2,)
    assert [kept.process.pid for kept in box._idle] == [worker.process.pid]
    box.close()


_SERVER = """
from engine.formats.sandbox import Sandbox
Sandbox({!r}, 1).call("spin", seconds=100000.0)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_decoder_at_work_ends_with_its_server_however_that_ended(number: int) -> None:
    code = [sys.executable, "-c", _SERVER.format(OPERATIONS)]
    places = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(code, env=places) as server:
        try:
            below = psutil.Process(server.pid)
            while not (children := below.children()) or not busy(children[0].pid):
                assert server.poll() is None
                time.sleep(0.05)
        finally:
            server.send_signal(number)
            server.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []


def test_decoders_of_what_comes_in_give_way_and_those_of_pages_do_not() -> None:
    image = images.decode(
        "a", builders.png(np.zeros((8, 8), np.uint8)), images.Limits.of(Settings())
    )
    images.from_storage(images.for_storage(builders.dicom(np.zeros((64, 64), np.uint16))))
    assert image.width == 8
    for box, nice in ((images._SANDBOX, 10), (images._PAGES, 0)):
        process = box._idle[0].process.pid
        assert os.getpriority(os.PRIO_PROCESS, process) >= nice
        group = Path(f"/proc/{process}/autogroup")
        if group.exists() and nice:
            assert group.read_text().split()[-1] == str(nice)
    giving = os.sched_getscheduler(images._SANDBOX._idle[0].process.pid)
    assert giving == os.SCHED_BATCH
    assert os.sched_getscheduler(images._PAGES._idle[0].process.pid) == os.SCHED_OTHER


def busy(process: int) -> bool:
    """Is a worker at work, and no longer at its start?"""
    now = sandbox._Spent.of(process)
    time.sleep(0.2)
    later = sandbox._Spent.of(process)
    return later.processor_s > 1.0 and later.processor_s > now.processor_s
