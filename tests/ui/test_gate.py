"""Shares at the gate: open pages, and files that a page's uploader sends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

import api
from engine import Engine, errors
from tests.conftest import Team
from ui import asgi_guard, background_jobs
from ui.asgi_guard import AsgiGuard
from ui.upload_room import UploadRoom


async def nothing() -> Message:
    return await asyncio.Future()


async def settle() -> None:
    """Let all that can go on do so; the gate asks in other threads who somebody is."""
    for _ in range(50):
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("known", [True, False])
def test_an_account_has_so_many_open_pages(
    engine: Engine, team: Team, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi_guard, "PAGES_OF_ACCOUNT", 3)
    monkeypatch.setattr(asgi_guard, "PAGES_OF_ADDRESS", 3)

    async def scene() -> None:
        leave = asyncio.Event()

        async def page(_scope: Scope, _receive: Receive, _send: Send) -> None:
            await leave.wait()

        gate = AsgiGuard(page, lambda: engine)
        closed: list[Any] = []

        async def send(message: Message) -> None:
            closed.append(message.get("code"))

        def come(token: str, address: str) -> asyncio.Task[None]:
            headers = [(b"host", b"a"), (b"cookie", f"{api.COOKIE}={token}".encode())]
            scope = {"type": "websocket", "path": "/_stcore/stream", "headers": headers,
                     "client": (address, 1), "query_string": b""}  # fmt: skip
            return asyncio.ensure_future(gate(scope, nothing, send))

        mine = team.doctor if known else ""
        pages = [come(mine, "192.0.2.1") for _ in range(4)]
        await settle()
        assert closed == [1013]
        other = come(team.technician if known else "", "192.0.2.1" if known else "192.0.2.2")
        await settle()
        assert closed == [1013]
        leave.set()
        await asyncio.gather(*pages, other)
        leave.clear()
        again = come(mine, "192.0.2.1")  # a page that was closed gives its place back
        await settle()
        assert closed == [1013]
        leave.set()
        await again

    asyncio.run(scene())


def test_files_of_the_uploader_wait_outside_until_there_is_room() -> None:
    async def scene() -> None:
        room, order = UploadRoom(), list[str]()

        async def send(name: str, account: str, size: int, leave: asyncio.Event) -> None:
            async with room.take(account, f"page of {account}", size, 100):
                order.append(name)
                await leave.wait()

        first, second, third = asyncio.Event(), asyncio.Event(), asyncio.Event()
        tasks = [asyncio.ensure_future(send("a1", "a", 40, first))]
        await settle()
        tasks.append(asyncio.ensure_future(send("a2", "a", 20, second)))  # over half
        tasks.append(asyncio.ensure_future(send("b1", "b", 40, second)))
        await settle()
        assert order == ["a1", "b1"]
        tasks.append(asyncio.ensure_future(send("c1", "c", 30, third)))  # over all
        await settle()
        assert order == ["a1", "b1"]
        first.set()
        second.set()
        third.set()
        await asyncio.gather(*tasks)
        assert sorted(order) == ["a1", "a2", "b1", "c1"]

    asyncio.run(scene())


def test_a_file_larger_than_the_share_of_an_account_comes_alone() -> None:
    async def scene() -> None:
        async with UploadRoom().take("a", "page", 90, 100):
            pass

    asyncio.run(asyncio.wait_for(scene(), 30))


def test_files_that_wait_to_be_taken_in_count_until_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = api.FairPool(at_once=1)
    monkeypatch.setattr(api, "jobs", pool)
    monkeypatch.setattr("ui.upload_room._PATIENCE_SECONDS", 0.0)

    async def take() -> None:
        async with UploadRoom().take("a", "page", 20, 100):
            pass

    async def scene() -> None:
        free = asyncio.Event()
        loop = asyncio.get_running_loop()
        job = background_jobs.Job(
            "a", "a", lambda _: asyncio.run_coroutine_threadsafe(free.wait(), loop).result(), 40
        )
        with pytest.raises(errors.StorageBusy):
            await take()
        free.set()
        while not job.done:
            await asyncio.sleep(0.01)
        await take()

    asyncio.run(scene())
    pool.stop()
