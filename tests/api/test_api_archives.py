"""A study over REST as a ZIP: made while it is sent, ended when nobody reads it."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import Iterator

import pytest
from starlette.types import Message, Send

from api.zips import zipped
from engine import Role, errors
from tests import builders
from tests.conftest import WHY
from tests.rest import BOX, Hospital, ask, hospital, mounted_app

SLICES = 3


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    with hospital(tmp_path_factory.mktemp("archives")) as place:
        yield place


@pytest.fixture(scope="module")
def originals(ward: Hospital) -> list[bytes]:
    patient_id, token = ward.patient(), ward.team.technician
    made = []
    for instance in range(1, SLICES + 1):
        pixels = builders.radiograph(256, 64, seed=instance)
        made.append(builders.dicom(pixels, instance=instance, modality="CT"))
        image_id = ward.engine.drafts.upload(token, patient_id, "a.dcm", made[-1]).image_id
        ward.engine.drafts.seal(token, image_id, [BOX])
    return made


@pytest.fixture
def study_id(ward: Hospital, originals: list[bytes]) -> str:
    [found] = ask("GET", "/images/?limit=1", ward.tokens[Role.DOCTOR]).json()["items"]
    study = ward.engine.studies.study_of(ward.team.doctor, found["image_id"])
    assert study is not None
    return study


def outcomes(ward: Hospital) -> list[str]:
    entries = ward.engine.context.audit.entries(limit=50)
    return [e.outcome for e in reversed(entries) if e.action == "study.export"]


def test_a_study_is_downloaded_masked_and_original(
    ward: Hospital, originals: list[bytes], study_id: str
) -> None:
    token = ward.tokens[Role.DOCTOR]
    answer = ask("GET", f"/studies/{study_id}/archive/", token)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-disposition"] == f'attachment; filename="{study_id}-masked.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as masked:
        assert len(masked.namelist()) == SLICES + 2
        assert not {masked.read(name) for name in masked.namelist()} & set(originals)
    opened = ask("POST", f"/studies/{study_id}/restorations/", token, headers={"X-Reason": WHY})
    answer = ask("GET", f"/study-restorations/{opened.json()['handle']}/archive/", token)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as whole:
        given = [whole.read(name) for name in whole.namelist()]
    assert given[:-2] == originals
    assert outcomes(ward) == ["requested", "completed"] * 2


def call(path: str, token: str, send: Send, gone: asyncio.Event) -> None:
    """One request to the application by a client that goes away when ``gone`` is set."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
        "scheme": "https", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"authorization", f"Bearer {token}".encode())],
        "client": ("192.0.2.1", 50_000), "server": ("medsec.test", 443),
    }  # fmt: skip

    asked = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Message:
        for message in asked:
            return message
        await gone.wait()
        return {"type": "http.disconnect"}

    async def within_time() -> None:
        await asyncio.wait_for(mounted_app(scope, receive, send), 60)

    asyncio.run(within_time())


def test_a_client_that_goes_away_ends_the_work(ward: Hospital, study_id: str) -> None:
    before = len(outcomes(ward))
    gone = asyncio.Event()

    async def send(message: Message) -> None:
        if message.get("body"):
            gone.set()
            await asyncio.Event().wait()  # a client that reads no more

    call(f"/api/studies/{study_id}/archive/", ward.tokens[Role.DOCTOR], send, gone)
    assert outcomes(ward)[before:] == ["requested", "failed"]
    [failed, *_] = [
        e for e in ward.engine.context.audit.entries(limit=50) if e.action == "study.export"
    ]
    assert (failed.detail["why"], failed.detail["given"]) == ("reader-gone", 1)


def test_a_third_at_a_time_is_told_to_wait(ward: Hospital, study_id: str) -> None:
    token = ward.tokens[Role.DOCTOR]
    running = [ward.engine.archives.masked(token, study_id) for _ in range(2)]
    answer = ask("GET", f"/studies/{study_id}/archive/", token)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
    assert "downloading 2 studies" in answer.json()["title"]
    running.clear()
    assert ask("GET", f"/studies/{study_id}/archive/", token).status_code == 200


def test_an_answer_that_breaks_off_has_no_end(ward: Hospital, study_id: str) -> None:
    """Or a client would take the half of a study for all of it."""
    token = ward.tokens[Role.DOCTOR]
    handle = ward.engine.studies.restore(token, study_id, WHY).handle
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)
        if message.get("body"):
            ward.engine.studies.close(token, handle)

    call(f"/api/study-restorations/{handle}/archive/", token, send, asyncio.Event())
    assert [m["type"] for m in sent] == ["http.response.start", "http.response.body"]
    assert sent[-1]["more_body"]
    assert outcomes(ward)[-2:] == ["requested", "failed"]


def test_an_archive_that_breaks_off_is_no_zip(ward: Hospital, study_id: str) -> None:
    files = ward.engine.archives.masked(ward.team.doctor, study_id)

    def broken() -> Iterator[tuple[str, bytes]]:
        yield next(files)
        raise errors.StorageError("The disk is gone.")

    received: list[bytes] = []
    with pytest.raises(errors.StorageError):
        received.extend(zipped(broken()))
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(b"".join(received)))
