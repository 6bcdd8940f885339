"""Clients that are slow, silent or many, on the real server."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import streamlit
import websockets

import api
from engine import Engine
from tests.conftest import PASSWORD, Team
from tests.fakes import ScriptedDetector
from tests.serving import Server, people, serve, settings
from ui.connections import MOST_OF_ONE

PATIENCE = 2.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Team]]:
    folder = tmp_path_factory.mktemp("slow")
    chosen = settings(folder)
    engine = Engine.open(chosen, detector=ScriptedDetector(chosen, []))
    team = people(engine)
    engine.patients.create(team.technician, "P1", "Jan Nowak", 61)
    engine.close()
    with serve(folder, MEDSEC_REQUEST_PATIENCE_SECONDS=str(PATIENCE)) as server:
        yield server, team


def connect(server: Server) -> socket.socket:
    where = urlsplit(server.url)
    assert where.hostname
    assert where.port
    return socket.create_connection((where.hostname, where.port), 30)


def drip(line: socket.socket) -> None:
    """Go on with a head, slowly, until the server ends the connection or should have."""
    until = time.monotonic() + PATIENCE * 10
    while time.monotonic() < until:
        line.sendall(b"X-Drip: a\r\n")
        time.sleep(0.1)


def heard(line: socket.socket) -> bytes:
    """What the server says until it ends the connection, which it must do in time."""
    line.settimeout(PATIENCE * 10)
    said = b""
    try:
        while part := line.recv(1 << 16):
            said += part
    except ConnectionResetError:
        pass
    return said


@pytest.mark.parametrize("said", [b"", b"GET /api/health/ HTTP/1.1\r\nHost: a\r\nX-Half: "])
def test_a_connection_that_says_no_whole_request_ends(
    place: tuple[Server, Team], said: bytes
) -> None:
    with connect(place[0]) as line:
        line.sendall(said)
        assert heard(line) == b""


def test_a_request_whose_head_drips_ends(place: tuple[Server, Team]) -> None:
    with connect(place[0]) as line:
        line.sendall(b"GET /api/health/ HTTP/1.1\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            drip(line)


def test_a_second_request_has_no_more_time_for_its_head(place: tuple[Server, Team]) -> None:
    with connect(place[0]) as line:
        line.sendall(b"GET /api/health/ HTTP/1.1\r\nHost: a\r\n\r\nGET /")
        assert heard(line).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "head",
    [
        b"POST /api/auth/token/ HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n",
        b"POST /api/auth/token/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n",
    ],
)
def test_a_body_that_stops_coming_is_answered_and_its_connection_closed(
    place: tuple[Server, Team], head: bytes
) -> None:
    with connect(place[0]) as line:
        line.sendall(head + b"{")
        said = heard(line)
    assert said.startswith(b"HTTP/1.1 408")
    assert b"urn:medsec:request-too-slow" in said


def test_idle_uploads_of_one_account_stop_nobody_elses(place: tuple[Server, Team]) -> None:
    server, _team = place
    head = (
        "POST /api/patients/P1/images/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nAuthorization: Bearer "
    )
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=server.url, timeout=60))

        def token(role: str) -> str:
            body = {"username": role, "password": PASSWORD}
            return str(client.post("/api/auth/token/", json=body).json()["access"])

        mine = token("technician")
        lines = [stack.enter_context(connect(server)) for _ in range(8)]
        for line in lines:
            line.sendall(head.encode() + mine.encode() + b"\r\n\r\n3\r\n--b\r\n")
        # As large as all pictures may be; what is wrong with it is told after it was read.
        file = {"image": ("a.png", b"x" * (19 << 20))}
        answer = client.post(
            "/api/patients/P1/images/", headers={"Authorization": f"Bearer {mine}"}, files=file
        )
        assert answer.status_code == 422, answer.text
        for line in lines:
            assert heard(line).startswith(b"HTTP/1.1 408")


def test_a_client_that_does_not_read_its_answer_ends(place: tuple[Server, Team]) -> None:
    scripts = Path(streamlit.__file__).parent / "static" / "static" / "js"
    largest = max(scripts.iterdir(), key=lambda path: path.stat().st_size)
    ask = f"GET /static/js/{largest.name} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    times = 40_000_000 // largest.stat().st_size  # more than fits into any buffer
    with connect(place[0]) as line:
        line.sendall(ask * times)
        time.sleep(PATIENCE * 2.5)
        said = heard(line)
    assert said.startswith(b"HTTP/1.1 200")
    assert len(said) < 30_000_000


def test_an_open_page_is_not_ended_however_silent_it_is(place: tuple[Server, Team]) -> None:
    server, team = place
    address = server.url.replace("http", "ws") + "/_stcore/stream"

    async def talk() -> None:
        cookie = {"Cookie": f"{api.COOKIE}={team.doctor}"}
        async with websockets.connect(
            address,
            subprotocols=["streamlit"],  # type: ignore[list-item]
            additional_headers=cookie,
        ) as page:
            await asyncio.sleep(PATIENCE * 2)
            await asyncio.wait_for(await page.ping(), 10)

    asyncio.run(talk())


def test_one_address_has_so_many_connections_without_a_request(
    place: tuple[Server, Team],
) -> None:
    server, _team = place
    with ExitStack() as stack:
        lines = [stack.enter_context(connect(server)) for _ in range(MOST_OF_ONE + 20)]
        assert httpx.get(f"{server.url}/api/health/", timeout=30).status_code == 200
        lines[0].settimeout(PATIENCE / 2)  # ended at once, not by its patience
        assert lines[0].recv(1) == b""
