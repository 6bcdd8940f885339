"""Requests that wait for decoders: fair among accounts, and never with all threads."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import httpx
import pytest

from api.turns import Turns
from engine import Role, errors
from engine.cancellation import ends_with, refuse_cancelled
from engine.formats.needs import Need
from engine.operations.admission import Work
from tests.rest import ask, hospital, mounted_app

_MB = 1 << 20
ALL = Need(1 << 40, 1 << 40, 1.0)


def test_an_account_with_many_requests_delays_another_one_by_one_at_most() -> None:
    async def crowd() -> list[str]:
        turns, began, ends = Turns(at_once=1), [], asyncio.Semaphore(0)

        async def request(account: str) -> None:
            async with turns.turn(account):
                began.append(account)
                await ends.acquire()

        tasks = [asyncio.create_task(request("many")) for _ in range(45)]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(request("one")))
        await asyncio.sleep(0)
        for _ in tasks:
            ends.release()
        await asyncio.gather(*tasks)
        return began

    assert asyncio.run(crowd())[:3] == ["many", "one", "many"]


def test_who_is_gone_while_waiting_leaves_the_turn_to_others() -> None:
    async def crowd() -> None:
        turns, ends = Turns(at_once=1), asyncio.Event()

        async def request() -> None:
            async with turns.turn("a"):
                await ends.wait()

        first, second, third = (asyncio.create_task(request()) for _ in range(3))
        await asyncio.sleep(0)
        second.cancel()
        first.cancel()
        ends.set()
        await asyncio.wait_for(third, 30)
        await asyncio.gather(first, second, return_exceptions=True)
        async with asyncio.timeout(30):
            async with turns.turn("b"):
                pass

    asyncio.run(crowd())


def test_health_and_sign_in_wait_behind_no_upload(tmp_path: Path) -> None:
    """So many uploads wait for room; the server has forty threads."""
    with hospital(tmp_path) as place:
        patient, admission = place.patient(), place.engine.context.admission
        picture = place.picture()

        async def crowd() -> tuple[int, int, list[int]]:
            transport = httpx.ASGITransport(mounted_app)
            token = {"Authorization": f"Bearer {place.tokens[Role.TECHNICIAN]}"}
            async with httpx.AsyncClient(
                transport=transport, base_url="https://medsec.test", timeout=120
            ) as line:
                with admission.room(Work.PAGE, "somebody", ALL):
                    uploads = [
                        asyncio.create_task(
                            line.post(
                                f"/api/patients/{patient}/images/",
                                headers=token,
                                files={"image": ("a.png", picture)},
                            )
                        )
                        for _ in range(45)
                    ]
                    async with asyncio.timeout(60):
                        while len(admission._waiting) < 2:
                            await asyncio.sleep(0.05)
                        health = await line.get("/api/health/")
                        wrong = {"username": "nobody", "password": "x" * 20}
                        sign_in = await line.post("/api/auth/token/", json=wrong)
                    assert not any(upload.done() for upload in uploads)
                answers = await asyncio.gather(*uploads)
                return health.status_code, sign_in.status_code, [a.status_code for a in answers]

        health, sign_in, uploads = asyncio.run(crowd())
        assert (health, sign_in) == (200, 401)
        assert set(uploads) <= {201, 409}  # the same picture again
        assert 201 in uploads


def test_an_upload_whose_client_is_gone_waits_no_longer(tmp_path: Path) -> None:
    with hospital(tmp_path) as place:
        patient, admission = place.patient(), place.engine.context.admission

        async def give_up() -> None:
            body = httpx.Request(
                "POST", "https://medsec.test/", files={"image": ("a.png", place.picture())}
            )
            sent, gone = [{"type": "http.request", "body": body.read()}], asyncio.Event()

            async def receive() -> dict[str, object]:
                if sent:
                    return sent.pop()
                await gone.wait()
                return {"type": "http.disconnect"}

            async def send(message: object) -> None:
                pass

            headers = [
                (b"authorization", f"Bearer {place.tokens[Role.TECHNICIAN]}".encode()),
                (b"content-type", body.headers["content-type"].encode()),
                (b"content-length", body.headers["content-length"].encode()),
            ]
            path = f"/api/patients/{patient}/images/"
            scope = {
                "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1",
                "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
                "headers": headers, "scheme": "https", "client": ("192.0.2.1", 5),
                "server": ("medsec.test", 443),
            }  # fmt: skip
            with admission.room(Work.PAGE, "somebody", ALL):
                request = asyncio.create_task(mounted_app(scope, receive, send))  # type: ignore[arg-type]
                async with asyncio.timeout(60):
                    while not admission._waiting:
                        await asyncio.sleep(0.05)
                    gone.set()
                    await request
                assert admission._waiting == []

        asyncio.run(give_up())
        assert ask("GET", "/drafts/", place.tokens[Role.TECHNICIAN]).json()["items"] == []


def test_what_was_cancelled_is_told_so_in_threads_that_it_started() -> None:
    gone = threading.Event()

    async def work() -> None:
        with ends_with(gone):
            await asyncio.to_thread(refuse_cancelled)
            gone.set()
            await asyncio.to_thread(refuse_cancelled)

    with pytest.raises(errors.Cancelled):
        asyncio.run(work())
    refuse_cancelled()
