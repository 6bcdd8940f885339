"""Bodies that arrive slowly, or all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from api.bodies import BYTES_PER_SECOND, Bodies

MOST = 1 << 20


async def length(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers how long a body was, as a route does: it reads it whole."""
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


class Client:
    """One request, whose parts are given one by one."""

    def __init__(self, bodies: Bodies, owner: str, patience: float = 60, size: int = 0) -> None:
        headers = [(b"content-length", str(size).encode())] if size else []
        headers = headers or [(b"transfer-encoding", b"chunked")]
        scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
        self._parts: asyncio.Queue[Message] = asyncio.Queue()
        self.said: list[Message] = []

        async def send(message: Message) -> None:
            self.said.append(message)

        self.task = asyncio.ensure_future(
            bodies.serve(length, scope, self._parts.get, send, owner, MOST, patience)
        )

    async def send(self, data: bytes, more: bool = True) -> None:
        await self._parts.put({"type": "http.request", "body": data, "more_body": more})
        for _ in range(20):
            await asyncio.sleep(0)

    async def status(self) -> int:
        await asyncio.wait_for(self.task, 30)
        return int(self.said[0]["status"])

    @property
    def text(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.said)


def play(scene: Callable[[Bodies], Awaitable[None]]) -> None:
    async def stage() -> None:
        await scene(Bodies())

    asyncio.run(stage())


async def statuses(clients: Iterable[Client]) -> list[int]:
    return [await client.status() for client in clients]


def test_a_body_that_stops_coming_ends_and_is_told_why() -> None:
    async def scene(bodies: Bodies) -> None:
        slow = Client(bodies, "a", patience=0.1, size=100)
        await slow.send(b"x")
        assert await slow.status() == 408
        assert b"too slowly" in slow.text
        assert (b"connection", b"close") in slow.said[0]["headers"]

    play(scene)


def test_a_body_may_take_long_as_long_as_it_comes_fast_enough() -> None:
    async def scene(bodies: Bodies) -> None:
        steady, drip = Client(bodies, "a", patience=0.1), Client(bodies, "b", patience=0.1)
        for _ in range(6):
            await steady.send(b"x" * (BYTES_PER_SECOND // 4))
            await drip.send(b"x")
            await asyncio.sleep(0.1)
        await steady.send(b"", more=False)
        assert await statuses([steady, drip]) == [200, 408]

    play(scene)


def test_the_time_in_which_a_request_does_not_read_is_not_the_clients() -> None:
    async def busy(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.3)
        await length(scope, receive, send)

    async def scene(bodies: Bodies) -> None:
        scope = {"type": "http", "method": "POST", "path": "/",
                 "headers": [(b"content-length", b"3")]}  # fmt: skip
        said: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"abc", "more_body": False}

        async def send(message: Message) -> None:
            said.append(message)

        await bodies.serve(busy, scope, receive, send, "a", MOST, 0.1)
        assert said[0]["status"] == 200

    play(scene)


def test_bodies_that_only_announce_much_take_nobodys_room() -> None:
    async def scene(bodies: Bodies) -> None:
        idle = [Client(bodies, f"attacker {i % 2}", size=MOST // 2) for i in range(20)]
        for client in idle:
            await client.send(b"x")
        mine = Client(bodies, "me", size=MOST // 2)
        await mine.send(b"x" * (MOST // 2), more=False)
        assert await mine.status() == 200
        for client in idle:
            client.task.cancel()

    play(scene)


def test_one_account_has_half_of_the_room_at_most() -> None:
    async def scene(bodies: Bodies) -> None:
        greedy = [Client(bodies, "a") for _ in range(3)]
        for client in greedy:
            await client.send(b"x" * (MOST // 5))
        assert await greedy[2].status() == 503
        announced = Client(bodies, "a", size=MOST // 4)
        assert await announced.status() == 503
        mine = Client(bodies, "me", size=MOST // 2)
        await mine.send(b"x" * (MOST // 2), more=False)
        assert await mine.status() == 200
        for client in greedy[:2]:
            await client.send(b"", more=False)
        assert await statuses(greedy[:2]) == [200, 200]

    play(scene)


def test_where_the_room_is_full_who_holds_the_most_gives_the_newest_up() -> None:
    async def scene(bodies: Bodies) -> None:
        first = Client(bodies, "a")
        await first.send(b"x" * (MOST // 4))
        second = Client(bodies, "a")
        await second.send(b"x" * (MOST // 5))
        other = Client(bodies, "b")
        await other.send(b"x" * (MOST * 2 // 5))
        mine = Client(bodies, "me")
        await mine.send(b"x" * (MOST // 4))
        assert await second.status() == 503
        for client in (first, other, mine):
            await client.send(b"", more=False)
        assert await statuses([first, other, mine]) == [200, 200, 200]

    play(scene)


def test_one_account_has_64_bodies_on_their_way_at_once() -> None:
    async def scene(bodies: Bodies) -> None:
        many = [Client(bodies, "a", size=10) for _ in range(64)]
        for client in many:
            await client.send(b"x")
        assert await Client(bodies, "a", size=10).status() == 503
        other = Client(bodies, "b", size=1)
        await other.send(b"x", more=False)
        assert await other.status() == 200
        for client in many:
            await client.send(b"x" * 9, more=False)
        assert set(await statuses(many)) == {200}
        assert not bodies._arriving

    play(scene)


def test_an_error_of_the_application_stays_one() -> None:
    async def wrong(_scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()
        raise ValueError("wrong")

    async def scene(bodies: Bodies) -> None:
        scope = {"type": "http", "headers": [(b"content-length", b"1")]}

        async def receive() -> Message:
            return {"type": "http.request", "body": b"x", "more_body": False}

        async def send(_message: Message) -> None:
            raise AssertionError("nothing to say")

        with pytest.raises(ValueError, match="wrong"):
            await bodies.serve(wrong, scope, receive, send, "a", MOST, 60)
        assert not bodies._arriving

    play(scene)
