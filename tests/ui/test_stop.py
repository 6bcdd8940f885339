"""A server that is told to stop while its decoders are at files made to cost much."""

from __future__ import annotations

import errno
import json
import signal
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks import fairness
from engine import Engine, cannot_start, errors
from engine.store.database import CATALOG_ID
from engine.tracing import JsonLines
from tests.conftest import PASSWORD
from tests.fakes import ScriptedDetector
from tests.serving import Server, launch, people, settings, wait
from ui.shutdown import PATIENCE_SECONDS


def upload(server: Server, access: str, data: bytes, answers: list[int]) -> None:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        try:
            answer = client.post(
                "/api/patients/P-1/images/",
                headers={"Authorization": f"Bearer {access}"},
                files={"image": ("a.jpg", data)},
            )
        except httpx.TransportError:
            answers.append(0)
        else:
            answers.append(answer.status_code)


def test_a_server_that_is_told_to_stop_stops_and_leaves_no_process(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    engine = Engine.open(chosen, detector=ScriptedDetector(chosen, []))
    technician = people(engine).technician
    engine.patients.create(technician, "P-1", "Jan Nowak", 61)
    engine.close()
    costly = fairness.of_scans(100, 4000)
    server, process = launch(tmp_path)
    answers: list[int] = []
    threads: list[threading.Thread] = []
    try:
        wait(server, process, 90)
        body = {"username": "technician", "password": PASSWORD}
        access = httpx.post(f"{server.url}/api/auth/token/", json=body).json()["access"]
        for number in range(6):
            data = fairness.numbered(costly, number)
            thread = threading.Thread(target=upload, args=(server, access, data, answers))
            thread.start()
            threads.append(thread)
        while not busy(process.pid):
            assert process.poll() is None
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_SECONDS + 20)  # a slow machine takes longer than a promise may
    finally:
        process.kill()
        process.wait(30)
    for thread in threads:
        thread.join(60)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    # What was not taken in was not acknowledged, and what was is there.
    engine = Engine.open(chosen, detector=ScriptedDetector(chosen, []))
    token = engine.sessions.sign_in("technician", PASSWORD).token
    assert len(engine.drafts.waiting(token)) >= answers.count(201)
    engine.close()


def busy(pid: int) -> bool:
    """Is a decoder of what comes in at work?"""
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if child.nice() > 0 and child.cpu_percent(0.1) > 20:
                return True
        except psutil.NoSuchProcess:
            continue
    return False


def test_a_server_that_cannot_start_says_what_to_do_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    (folder / CATALOG_ID).touch()  # its catalog is on a database server, which is not named
    server, process = launch(tmp_path)
    assert process.wait(90) == 1
    said = server.log.read_text()
    assert "MedSec cannot start: The catalog of this data folder is on a PostgreSQL" in said
    assert "Traceback" not in said
    [line] = [line for line in said.splitlines() if line.startswith("{")]
    entry = json.loads(line)
    assert (entry["level"], entry["message"]) == ("error", "the server cannot start")
    assert entry["code"] == "storage-error"


def test_why_a_server_cannot_start_is_logged_without_texts_of_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cause = OSError(errno.ECONNREFUSED, "https://store.invalid/Erika")
    err = errors.StoreUnavailable("Away: s3://mine.", store_code="SlowDown", status=503, blob="ab")
    err.__cause__ = cause
    cannot_start(err)
    [record] = caplog.records
    entry = json.loads(JsonLines().format(record))
    assert (entry["code"], entry["store_code"], entry["status"]) == (
        "store-unavailable", "SlowDown", 503,
    )  # fmt: skip
    assert [c["error"] for c in entry["causes"]] == ["ConnectionRefusedError"]
    assert entry["causes"][0]["errno"] == "ECONNREFUSED"
    for text in ("invalid", "Erika", "mine", "blob"):
        assert text not in json.dumps(entry)
