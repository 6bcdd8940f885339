"""Batches over HTTP: the same batch as that of the command line."""

from __future__ import annotations

import csv
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import api
from api.batches import Batches
from engine import CSV_HEAD, Role, Source
from engine.operations.examination import Examiner
from engine.operations.worker import Job, Outcome, Worker
from engine.records import Image
from tests.rest import Hospital, ask, hospital

T, D = Role.TECHNICIAN, Role.DOCTOR


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Hospital]:
    with hospital(tmp_path) as place:
        yield place


def sent(ward: Hospital, contents: list[bytes], patient_id: str, seal: bool = True) -> str:
    """Send a batch and wait for its end; the address where it is told of."""
    files = [("files", (f"{i}.png", data)) for i, data in enumerate(contents)]
    form = {"patient_id": patient_id, "seal": str(seal).lower()}
    answer = ask("POST", "/batches/", ward.tokens[T], data=form, files=files)
    assert answer.status_code == 202, answer.text
    place: str = answer.headers["location"].removeprefix("/api")
    for _ in range(600):
        if ask("GET", place, ward.tokens[T]).json()["done"]:
            return place
        time.sleep(0.05)
    raise AssertionError("the batch does not end")


def states(ward: Hospital, place: str) -> list[str]:
    return [f["state"] for f in ask("GET", place, ward.tokens[T]).json()["files"]]


def test_a_batch_is_polled_until_each_file_has_its_outcome(ward: Hospital) -> None:
    patient_id, once = ward.patient(), ward.picture()
    place = sent(ward, [ward.picture(), once, once, b"no picture"], patient_id)
    batch = ask("GET", place, ward.tokens[T]).json()
    assert [f["state"] for f in batch["files"]] == ["sealed", "sealed", "present", "refused"]
    assert batch["files"][0]["labels"] == {"text": 1}
    assert batch["files"][3]["problem"]["status"] == 422
    assert batch["files_per_second"] > 0
    images = ask("GET", f"/patients/{patient_id}/images/", ward.tokens[D]).json()["items"]
    assert {i["image_id"] for i in images} == {f["image_id"] for f in batch["files"][:2]}
    for address in (place, f"{place}report/"):
        assert ask("GET", address, ward.tokens[D]).status_code == 404
    assert not ward.engine._guard._work  # the token for it is gone


def test_what_a_batch_waits_for_others_is_no_part_of_its_rate(
    ward: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.monotonic()
    later = iter(range(1, 1000))
    clock = SimpleNamespace(monotonic=lambda: began if next(later) == 1 else began + 3600.0)
    monkeypatch.setattr("api.batches.time", clock)  # it was sent, and an hour later it begins
    place = sent(ward, [ward.picture()], ward.patient())
    monkeypatch.undo()
    batch = ask("GET", place, ward.tokens[T]).json()
    assert batch["done"]
    assert batch["files_per_second"] == 0.0  # one file in no time, not in an hour


def test_a_batch_over_http_is_the_batch_of_the_command_line(ward: Hospital) -> None:
    """The same method, the same rows in the log, the same columns in the report."""
    patient_id = ward.patient()
    place = sent(ward, [ward.picture(), b"no picture"], patient_id)
    [first, _] = ask("GET", place, ward.tokens[T]).json()["files"]
    log = [(e.action, e.outcome) for e in ward.engine.context.audit.of_image(first["image_id"])]
    items = ward.engine.batches.seal(
        ward.team.technician, patient_id, [Source("0.png", ward.picture)], few=True
    )
    [item] = list(items)
    assert log == [
        (e.action, e.outcome) for e in ward.engine.context.audit.of_image(str(item.image_id))
    ]
    told = ask("GET", f"{place}report/", ward.tokens[T])
    assert told.headers["content-type"].startswith("text/csv")
    head, *lines = csv.reader(told.text.splitlines())
    assert head == CSV_HEAD.strip().split(",")
    assert [line[:2] for line in lines] == [["0.png", "sealed"], ["1.png", "failed"]]
    assert (lines[0][4], lines[1][head.index("error")]) == (
        "text=1",
        "unsupported-format",
    )
    more = ask("GET", f"{place}report/?format=jsonl", ward.tokens[T]).text.splitlines()
    assert "rescan" in json.loads(more[0])["times_ms"]


def test_a_batch_that_a_stop_cut_off_goes_on_when_it_is_sent_again(
    ward: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient_id, contents = ward.patient(), [ward.picture() for _ in range(3)]
    files = [("files", (f"{i}.png", data)) for i, data in enumerate(contents)]
    begun, go_on, work = threading.Event(), threading.Event(), Worker.work

    def slow(worker: Worker, job: Job) -> Outcome:
        begun.set()
        go_on.wait(20)
        return work(worker, job)

    monkeypatch.setattr(Worker, "work", slow)
    form = {"patient_id": patient_id, "seal": "true"}
    ask("POST", "/batches/", ward.tokens[T], data=form, files=files)
    begun.wait(20)
    before = api.app.state.batches
    stopping = threading.Thread(target=before.stop)  # as the server does when it ends
    stopping.start()
    while not all(job.stopped.is_set() for job in before._jobs.values()):
        time.sleep(0.01)
    go_on.set()
    stopping.join()
    api.app.state.batches = Batches(ward.engine)  # the next server
    sealed = ask("GET", f"/patients/{patient_id}/images/", ward.tokens[D]).json()["items"]
    assert len(sealed) == 1
    assert states(ward, sent(ward, contents, patient_id)) == ["present", "sealed", "sealed"]


def test_files_taken_in_as_drafts_are_sealed_when_they_are_sent_again(ward: Hospital) -> None:
    patient_id, contents = ward.patient(), [ward.picture(), ward.picture()]
    for seal, expected in ((False, "draft"), (False, "draft"), (True, "sealed"), (True, "present")):
        assert states(ward, sent(ward, contents, patient_id, seal)) == [expected] * 2
    elsewhere = ask("GET", sent(ward, contents[:1], ward.patient()), ward.tokens[T]).json()
    assert elsewhere["files"][0]["problem"]["type"] == "urn:medsec:duplicate-image"


def test_a_batch_ends_with_the_session_that_sent_it(
    ward: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient_id, work, signed_out = ward.patient(), Worker.work, threading.Event()

    def signing_out(worker: Worker, job: Job) -> Outcome:
        ward.engine.people.end_sessions(ward.team.administrator, "technician")
        signed_out.set()
        return work(worker, job)

    monkeypatch.setattr(Worker, "work", signing_out)
    files = [("files", (f"{i}.png", ward.picture())) for i in range(3)]
    form = {"patient_id": patient_id, "seal": "true"}
    answer = ask("POST", "/batches/", ward.tokens[T], data=form, files=files)
    place = answer.headers["location"].removeprefix("/api")
    signed_out.wait(20)
    ward.tokens[T] = ward.sign_in("technician")["access"]
    while not (batch := ask("GET", place, ward.tokens[T]).json())["done"]:
        time.sleep(0.05)
    assert [f["state"] for f in batch["files"]] == ["sealed", "refused", "refused"]
    assert batch["files"][1]["problem"]["type"] == "urn:medsec:not-signed-in"


def test_a_file_that_fails_unexpectedly_leaves_the_rest_of_its_batch(
    ward: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, examine = ward.picture(), Examiner.examine

    def failing(examiner: Examiner, image: Image, *rest: Any) -> Any:
        if image.data == broken:
            raise ZeroDivisionError
        return examine(examiner, image, *rest)

    monkeypatch.setattr(Examiner, "examine", failing)
    place = sent(ward, [broken, ward.picture()], ward.patient(), seal=False)
    batch = ask("GET", place, ward.tokens[T]).json()
    assert [f["state"] for f in batch["files"]] == ["refused", "draft"]
    assert "ZeroDivision" not in json.dumps(batch)
