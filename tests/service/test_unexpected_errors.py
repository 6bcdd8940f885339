"""An error that nobody expected leaves its places in the log under an id, and no patient's name;
a machine that is short of memory or processes is told as that, and its files are tried again."""

from __future__ import annotations

import errno
import io
import json
import logging
import mmap
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from fastapi import FastAPI

import cli
from api import problems
from engine import BatchItem, Engine, Host, Source, errors, tracing
from engine.errors import CorruptImage, DetectorError, MachineOverloaded
from engine.formats import images, raster_view
from engine.formats import sandbox as sandbox_module
from engine.formats.sandbox import Sandbox
from engine.host import is_shortage
from engine.measure import similarity as similarity_module
from engine.operations import worker
from engine.operations import worker_pool as crew_module
from engine.operations.examination import Examiner
from engine.service.upkeep import Upkeep
from tests import decoding
from tests.conftest import Ward, text_png

NAME = decoding.NAME
ERROR_ID = re.compile(r"E-[0-9A-HJKMNP-TV-Z]{6}")


class Log(logging.Handler):
    """What the log of a server and that of a terminal hold."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(tracing.JsonLines().format(r)) for r in self.records]

    @property
    def text(self) -> str:
        plain = "\n".join(tracing.PlainLines().format(r) for r in self.records)
        return plain + json.dumps(self.lines)

    def of(self, error_id: str) -> dict[str, Any]:
        [line] = [line for line in self.lines if line.get("error_id") == error_id]
        return line


@pytest.fixture
def log() -> Iterator[Log]:
    handler = Log()
    logging.getLogger("medsec").addHandler(handler)
    yield handler
    logging.getLogger("medsec").removeHandler(handler)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PAUSE_SECONDS", 0.0)


def sealed(ward: Ward) -> BatchItem:
    data, found = text_png()
    ward.detector.found = [found]
    [item] = ward.engine.batches.seal(
        ward.team.technician, ward.patient_id, [Source("a.png", lambda: data)], few=True
    )
    return item


def failing(real: Callable[..., Any], err: Exception, times: int) -> Callable[..., Any]:
    """``real``, but its first calls raise."""
    left = [times]

    def call(*args: Any, **named: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise err
        return real(*args, **named)

    return call


# --- what is logged ---------------------------------------------------------------------------


def broken(value: str) -> None:
    try:
        int(value)
    except ValueError as err:
        raise KeyError(value) from err


def test_the_log_says_where_and_never_what(log: Log) -> None:
    try:
        broken(NAME)
    except KeyError as err:
        error_id = tracing.unexpected("a test failed", err)
    assert ERROR_ID.fullmatch(error_id)
    line = log.of(error_id)
    assert (line["message"], line["error"]) == ("a test failed", "KeyError")
    assert re.fullmatch(r"tests/service/test_unexpected_errors.py:\d+ broken", line["where"][-1])
    assert [cause["error"] for cause in line["causes"]] == ["ValueError"]
    assert error_id in log.text
    assert "MUSTERFRAU" not in log.text


def test_the_sentence_of_an_error_of_ours_is_logged_and_an_errno_is() -> None:
    ours = tracing.described(errors.StorageError("The disk is full.", errno=28))
    assert (ours["error"], ours["says"]) == ("StorageError", "The disk is full.")
    system = tracing.described(OSError(errno.ENOMEM, "no memory", f"/{NAME}.png"))
    assert (system["error"], system["errno"]) == ("OSError", "ENOMEM")
    assert "MUSTERFRAU" not in json.dumps(system)


def test_an_endless_recursion_is_a_short_entry() -> None:
    def again() -> None:
        again()

    with pytest.raises(RecursionError) as caught:
        again()
    where = tracing.described(caught.value)["where"]
    assert len(where) < 40
    assert any(place.endswith(" more)") for place in where)


def test_ids_differ() -> None:
    assert len({tracing.new_error_id() for _ in range(1000)}) > 990


def test_no_library_of_the_server_logs_an_exception_s_text(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script = (
        "import logging, sys, threading\n"
        "from engine import log_as_json\n"
        "log_as_json()\n"
        "other = logging.getLogger('uvicorn.error')\n"
        "other.addHandler(logging.StreamHandler())\n"
        "def fail(): raise ValueError(sys.argv[1])\n"
        "for name in ('uvicorn.error', 'medsec'):\n"
        "    try: fail()\n"
        "    except ValueError: logging.getLogger(name).exception('told')\n"
        "thread = threading.Thread(target=fail); thread.start(); thread.join()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, NAME], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stderr.count("ValueError") == 3
    assert done.stderr.count(" fail") == 3
    assert "MUSTERFRAU" not in done.stderr


def test_a_connection_that_is_lost_is_a_line_like_all_others() -> None:
    script = (
        "import logging\n"
        "from engine import log_as_json\n"
        "log_as_json()\n"
        "logging.getLogger('psycopg.pool').warning('error connecting in %r', 'medsec')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    line = json.loads(done.stderr)
    assert (line["level"], line["logger"]) == ("warning", "psycopg.pool")
    assert line["message"] == "error connecting in 'medsec'"


# --- a worker ---------------------------------------------------------------------------------


def test_a_file_that_fails_unexpectedly_names_an_id_and_the_log_says_where(
    ward: Ward, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Examiner, "examine", failing(Examiner.examine, ValueError(NAME), 9))
    item = sealed(ward)
    assert (item.state, item.error and item.error[0]) == ("failed", "unexpected")
    assert item.error is not None
    assert item.error[1] == tracing.something_wrong(item.error_id)
    line = log.of(item.error_id)
    assert (line["level"], line["error"]) == ("error", "ValueError")
    assert any(place.startswith("engine/operations/worker.py:") for place in line["where"])
    assert item.error_id in item.json_line("a.png")
    assert item.csv_line("a.png").rstrip().endswith(item.error_id)
    assert "MUSTERFRAU" not in log.text + item.json_line("a.png")


def test_what_a_worker_logs_comes_home_with_its_answer(
    ward: Ward, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a worker process, whose own log goes nowhere."""
    monkeypatch.setattr(Examiner, "examine", failing(Examiner.examine, ValueError(NAME), 9))
    engine = ward.engine
    monkeypatch.setattr(worker, "_HERE", worker.Worker(engine.context))
    outcomes = []

    def here(caller: Any, task: Any) -> Any:
        outcomes.append(worker.work(task.job))
        assert log.records == []  # nothing was written here
        return outcomes[-1]

    monkeypatch.setattr(engine.batches, "_here", here)
    item = sealed(ward)
    line = log.of(item.error_id)
    assert (line["from"], line["error"]) == ("worker", "ValueError")
    assert line["where"]
    assert "MUSTERFRAU" not in log.text + repr(outcomes)
    assert len(outcomes[0].told) == 2  # it was tried twice


def test_a_failure_that_does_not_come_again_costs_nothing(
    ward: Ward, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Examiner, "examine", failing(Examiner.examine, ValueError(NAME), 1))
    assert sealed(ward).state == "sealed"
    [line] = [line for line in log.lines if "error_id" in line]
    assert (line["level"], line["error"]) == ("warning", "ValueError")


#: What libraries raise where memory, processes or files have run out, and what calls them.
FAULTS: dict[str, tuple[Any, str, Exception]] = {
    "a picture": (raster_view, "render", MemoryError()),
    "a thumbnail": (images, "thumbnail", MemoryError()),
    "a thread of a measurement": (
        similarity_module, "ThreadPoolExecutor", RuntimeError("can't start new thread"),
    ),
    "a process": (subprocess, "Popen", OSError(errno.ENOMEM, "Cannot allocate memory")),
    "a process, too many": (subprocess, "Popen", BlockingIOError(errno.EAGAIN, "unavailable")),
    "a message": (os, "memfd_create", OSError(errno.ENOMEM, "Cannot allocate memory")),
    "an answer": (sandbox_module, "_decode", MemoryError()),
    "a map of it": (mmap, "mmap", OSError(errno.ENOMEM, "Cannot allocate memory")),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_shortage_is_named_blames_no_file_and_is_tried_again(
    ward: Ward, log: Log, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    place, name, err = FAULTS[fault]
    real = getattr(place, name)
    used = 0

    def call(*args: Any, **named: Any) -> Any:
        nonlocal used
        used += 1
        if used <= times:
            raise err
        return real(*args, **named)

    images._SANDBOX.close()  # so that a process has to start
    times = 10_000
    with monkeypatch.context() as patch:
        patch.setattr(place, name, call)
        item = sealed(ward)
        assert item.error is not None
        assert (item.state, item.error[0]) == ("failed", MachineOverloaded.code)
        assert "end other programs" in item.error[1]
    images._SANDBOX.close()
    times, used = 1, 0
    with monkeypatch.context() as patch:
        patch.setattr(place, name, call)
        assert sealed(ward).state == "sealed"
        assert used > 1


def subclass_of_memory_error() -> Exception:
    """As NumPy raises it."""
    try:
        np.empty(1 << 60, np.uint8)
    except MemoryError as err:
        return err
    raise AssertionError("so much memory?")


@pytest.mark.parametrize(
    ("err", "short"),
    [
        (MemoryError(), True),
        (subclass_of_memory_error(), True),
        (OSError(errno.ENOMEM, ""), True),
        (OSError(errno.EAGAIN, ""), True),
        (OSError(errno.EMFILE, ""), True),
        (RuntimeError("can't start new thread"), True),
        (ImportError("libx.so: failed to map segment from shared object"), True),
        (OSError(errno.ENOENT, ""), False),
        (RuntimeError("another"), False),
        (TimeoutError(), False),
        (ValueError(NAME), False),
    ],
)
def test_what_is_a_shortage(err: Exception, short: bool) -> None:
    assert is_shortage(err) is short
    outer = ValueError()
    outer.__cause__ = err
    assert is_shortage(outer) is short


def test_opencv_out_of_memory_is_a_shortage_and_its_other_errors_are_not() -> None:
    with pytest.raises(cv2.error) as caught:
        cv2.resize(np.zeros((9, 9), np.uint8), (0, 0))
    assert not is_shortage(caught.value)
    caught.value.code = -4  # StsNoMem
    assert is_shortage(caught.value)


def test_a_network_that_finds_no_memory_is_not_called_broken(ward: Ward) -> None:
    from engine.detect import looking

    def nothing(_settings: object) -> Any:
        raise MemoryError

    def wrong(_settings: object) -> Any:
        raise ImportError(NAME)

    def no_thread(_settings: object) -> Any:
        try:
            raise RuntimeError("Exception from core.cpp:117:\nResource temporarily unavailable")
        except RuntimeError as err:
            raise DetectorError("A network could not be loaded.") from err

    for opener, kind in (
        (nothing, MachineOverloaded),
        (no_thread, MachineOverloaded),
        (wrong, DetectorError),
    ):
        here = looking.NetworksHere(ward.engine.settings)
        before = looking.NETWORKS["zxing"]
        looking.NETWORKS["zxing"] = opener
        try:
            with pytest.raises(kind) as caught:
                here.open("zxing")
        finally:
            looking.NETWORKS["zxing"] = before
        assert "MUSTERFRAU" not in str(caught.value)


def test_many_writers_of_the_same_file_agree(tmp_path: Path) -> None:
    """As two workers would who write the same bytes."""
    hosts = [Host(tmp_path / "blobs") for _ in range(8)]
    at_once = threading.Barrier(len(hosts))

    def write(host: Host) -> str:
        at_once.wait()
        return host.write_blob(b"the same" * 1000)

    for _ in range(5):
        with ThreadPoolExecutor(len(hosts)) as pool:
            [address] = set(pool.map(write, hosts))
        assert hosts[0].read_blob(address) == b"the same" * 1000
        assert [p.name for p in (tmp_path / "blobs").rglob("*") if p.is_file()] == [address]
        hosts[0].delete_blob(address)


def test_a_worker_that_fails_outside_its_work_is_in_the_log(log: Log) -> None:
    def of(err: Exception) -> Any:
        return crew_module._answer(SimpleNamespace(status="error", exception=lambda: err))

    assert isinstance(of(MemoryError()), errors.WorkerLost)
    with pytest.raises(errors.SettingsError, match=ERROR_ID) as caught:
        of(AttributeError(NAME))
    assert log.of(caught.value.facts["error_id"])["error"] == "AttributeError"
    assert "MUSTERFRAU" not in log.text


# --- decoders ---------------------------------------------------------------------------------


@pytest.fixture
def box() -> Iterator[Sandbox]:
    made = Sandbox(decoding.__name__, workers=1, seconds=30)
    yield made
    made.close()


def test_a_decoder_that_fails_tells_where_and_never_what(box: Sandbox, log: Log) -> None:
    with pytest.raises(CorruptImage, match=ERROR_ID) as caught:
        box.call("surprise")
    line = log.of(caught.value.facts["error_id"])
    assert (line["message"], line["error"]) == ("a decoder failed at surprise", "ValueError")
    assert line["where"][-1].startswith("tests/decoding.py:")
    assert line["where"][0].startswith("engine/formats/sandbox.py:")
    assert "MUSTERFRAU" not in log.text


def test_a_decoder_that_was_taken_over_writes_nothing_of_its_own_into_the_log() -> None:
    told = tracing.from_elsewhere(
        NAME,
        (
            ("engine/formats/images.py", 12), (f"engine/{NAME}.py", 1), ("../../etc/passwd", 1),
            ("/etc/hosts.py", 1), ("engine/formats/images.py", 10**9),
            ("engine/formats/images.py", NAME), 7,
        ),
    )  # fmt: skip
    assert told == {"error": "an exception of a library", "where": ["engine/formats/images.py:12"]}
    assert tracing.from_elsewhere(5, NAME)["where"] == []


@pytest.mark.parametrize("kind", ["DetectorError", "MachineOverloaded", "CorruptImage"])
def test_a_sentence_that_a_worker_made_up_is_not_in_the_log(log: Log, kind: str) -> None:
    """A network or decoder that was taken over could refuse with what it read in the picture."""
    with pytest.raises(errors.EngineError, match="MUSTERFRAU") as caught:
        sandbox_module._outcome(("refused", kind, NAME, {}))
    tracing.unexpected("a test failed", caught.value)
    try:
        raise DetectorError("The network failed.") from caught.value
    except DetectorError:
        logging.getLogger("medsec").exception("detector failed")
    assert kind in log.text
    assert "The network failed." in log.text
    assert "MUSTERFRAU" not in log.text


def test_a_decoder_that_the_machine_ends_is_no_damaged_file(box: Sandbox) -> None:
    with pytest.raises(MachineOverloaded):
        box.call("die", int(signal.SIGKILL))  # as a machine does that is out of memory
    with pytest.raises(CorruptImage):
        box.call("die", int(signal.SIGSEGV))
    with pytest.raises(MachineOverloaded):
        box.call("no_process")
    assert box.call("mirror", 1) == (1,)


def test_a_decoder_on_a_busy_machine_gets_its_time_and_a_hostile_one_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Other tests run beside this one: its own time is to run out, not the machine's patience.
    monkeypatch.setattr(sandbox_module, "_BUSY_FACTOR", 1000.0)
    patient = Sandbox(decoding.__name__, workers=1, seconds=1)
    assert patient.call("mirror") == ()
    worker = patient._idle[0].process.pid
    others = os.sched_getaffinity(0)
    crowded = {min(others)}
    # Until whoever began it has ended, however that came: nobody else would end it.
    spin = (
        f"import os\nos.sched_setaffinity(0, {crowded})\nhere = os.getppid()\n"
        "print(flush=True)\nwhile os.getppid() == here: pass"
    )
    # A session of its own: Linux shares a processor among sessions first (sched(7)). Decoders have
    # a tenth of its weight.
    other = subprocess.Popen(
        [sys.executable, "-c", spin], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert other.stdout is not None
        other.stdout.readline()  # it spins from here on
        for thread in os.listdir(f"/proc/{worker}/task"):
            os.sched_setaffinity(int(thread), crowded)
        began = time.monotonic()
        patient.call("busy", 0.7)  # of its own time; the clock says several times as much
        assert time.monotonic() - began > 1.0
        with pytest.raises(CorruptImage):
            patient.call("busy", 60.0)
    finally:
        other.kill()
        other.communicate()
    for hostile in (("busy", 60.0), ("rest",)):
        began = time.monotonic()
        with pytest.raises(CorruptImage):
            patient.call(*hostile)
        assert time.monotonic() - began < 15
    patient.close()


def test_a_decoder_that_gets_no_time_at_all_is_no_damaged_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox_module, "_BUSY_FACTOR", 2.0)
    spent = sandbox_module._Spent(0.0, 0.0, True)  # it waits for a processor all the time
    monkeypatch.setattr(sandbox_module._Spent, "of", lambda process: spent)
    box = Sandbox(decoding.__name__, workers=1, seconds=1)
    box._seconds = 30
    box.call("mirror")
    box._seconds = 0.5
    with pytest.raises(MachineOverloaded):
        box.call("rest")
    box.close()


# --- what people see --------------------------------------------------------------------------


def test_the_api_answers_with_the_id(log: Log) -> None:
    app = FastAPI()
    problems.install(app)

    @app.get("/broken")
    def _broken() -> None:
        raise ValueError(NAME)

    @app.get("/short")
    def _short() -> None:
        raise MemoryError

    async def ask(path: str) -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(path)

    import anyio

    answer = anyio.run(ask, "/broken")
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:medsec:unexpected")
    [error_id] = ERROR_ID.findall(answer.text)
    assert log.of(error_id)["error"] == "ValueError"
    assert "MUSTERFRAU" not in log.text + answer.text
    answer = anyio.run(ask, "/short")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:medsec:machine-overloaded")


def test_the_command_line_names_the_id_and_prints_no_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], log: Log, tmp_path: Path
) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise ValueError(NAME)

    monkeypatch.setattr(Engine, "open", wrong)
    assert cli.main(["profiles", "--data", str(tmp_path), "--key", str(tmp_path / "k")]) == 2
    said = capsys.readouterr().err
    [error_id] = set(ERROR_ID.findall(said))
    assert log.of(error_id)["error"] == "ValueError"
    assert "MUSTERFRAU" not in said + log.text


def test_a_terminal_s_log_has_the_places() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(tracing.PlainLines())
    record = logging.LogRecord("medsec", logging.ERROR, "x.py", 1, "it failed", (), None)
    try:
        broken(NAME)
    except KeyError as err:
        record.exc_info = (KeyError, err, err.__traceback__)
    handler.emit(record)
    written = stream.getvalue()
    assert written.startswith("it failed\n  KeyError\n    tests/service/test_unexpected_errors.py:")
    assert "  caused by ValueError\n" in written
    assert "MUSTERFRAU" not in written


def test_upkeep_that_fails_is_in_the_log_with_its_places(
    ward: Ward, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(_self: Upkeep) -> None:
        raise ValueError(NAME)

    monkeypatch.setattr(Upkeep, "_sweep_due", wrong)
    ward.engine.upkeep.tend()
    [line] = [line for line in log.lines if "sweep" in line["message"]]
    assert ERROR_ID.fullmatch(line["error_id"])
    assert line["where"][-1].endswith(" wrong")
    assert "MUSTERFRAU" not in log.text


def test_work_in_the_background_of_pages_leaves_its_failure_in_the_log(log: Log) -> None:
    from ui import background_jobs

    done = threading.Event()

    def wrong() -> None:
        done.set()
        raise ValueError(NAME)

    background_jobs.begin(wrong)
    assert done.wait(10)
    deadline = time.monotonic() + 10
    while not log.records and time.monotonic() < deadline:
        time.sleep(0.01)
    assert log.lines[0]["error"] == "ValueError"
    assert "MUSTERFRAU" not in log.text
