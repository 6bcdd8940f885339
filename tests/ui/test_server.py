"""The real server by raw HTTP and WebSocket: what a stranger or an ended session gets."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import socket
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import numpy as np
import pytest
import websockets
from PIL import Image as Pillow
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartParser
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

import api
from engine import Detection, Engine, Region, Role, errors
from tests import builders
from tests.conftest import PASSWORD, Team
from tests.fakes import FakeHost, ScriptedDetector
from tests.serving import Server, people, serve, settings
from ui import asgi_guard

BOX = Detection(Region(8, 8, 200, 40), "text", 0.9, "net")


@dataclass
class World:
    """A running server, tokens of its people, and one sealed image and one draft in it."""

    server: Server
    team: Team
    image_id: str
    draft_id: str
    original: bytes

    def ask(self, path: str, token: str = "", method: str = "GET") -> httpx.Response:
        cookies = {api.COOKIE: token} if token else {}
        with httpx.Client(base_url=self.server.url, cookies=cookies) as client:
            return client.request(method, path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("server")
    chosen = settings(folder)
    engine = Engine.open(chosen, detector=ScriptedDetector(chosen, [BOX]))
    team = people(engine)
    patient = engine.patients.create(team.technician, "P1", "Erika Musterfrau", 61)
    original = builders.png(builders.labelled()[0])
    image = engine.drafts.upload(team.technician, patient.patient_id, "erika.png", original)
    engine.drafts.seal(team.technician, image.image_id, [BOX])
    other = builders.png(builders.labelled("DOE JANE", seed=7)[0])
    draft = engine.drafts.upload(team.technician, patient.patient_id, "jane.png", other)
    engine.close()
    with serve(folder) as server:
        yield World(server, team, image.image_id, draft.image_id, original)


def conversation(server: Server, page: str, token: str = "") -> list[ForwardMsg]:
    """Open a page as the browser does and collect what the server sends until it is done."""

    async def talk() -> list[ForwardMsg]:
        async with _line(server, token) as line:
            ask = BackMsg()
            ask.rerun_script.page_name = page
            await line.send(ask.SerializeToString())
            return await _until_finished(line)

    return asyncio.run(talk())


def _line(server: Server, token: str = "") -> Any:
    return websockets.connect(
        server.url.replace("http", "ws") + "/_stcore/stream",
        subprotocols=["streamlit"],  # type: ignore[list-item]
        additional_headers={"Cookie": f"{api.COOKIE}={token}"} if token else {},
        max_size=None,
    )


async def _until_finished(line: Any) -> list[ForwardMsg]:
    got = []
    while True:
        message = ForwardMsg.FromString(await asyncio.wait_for(line.recv(), 30))
        got.append(message)
        if message.WhichOneof("type") == "script_finished":
            return got


def said(messages: list[ForwardMsg]) -> str:
    return "\n".join(str(m.delta) for m in messages if m.WhichOneof("type") == "delta")


# --- strangers --------------------------------------------------------------------------------


def test_the_first_request_to_a_fresh_process_cannot_run_a_page(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    engine = Engine.open(chosen, detector=ScriptedDetector(chosen))
    people(engine)
    engine.close()
    with serve(tmp_path) as server:
        text = said(conversation(server, "Admin"))
    assert "Sign in" in text
    for secret in ("Ada Admin", "Audit log", "Accounts", "access to this page", "Please sign in"):
        assert secret not in text


@pytest.mark.parametrize("page", ["", "Upload", "Review", "Analytics", "Admin"])
def test_a_stranger_gets_the_sign_in_at_every_address(world: World, page: str) -> None:
    text = said(conversation(world.server, page))
    assert "Sign in" in text
    assert "Musterfrau" not in text
    assert "New account" not in text


def test_a_role_does_not_get_another_roles_page(world: World) -> None:
    text = said(conversation(world.server, "Admin", world.team.technician))
    assert "New account" not in text
    assert "A technician" in text  # their own start page instead
    assert "New account" in said(conversation(world.server, "Admin", world.team.administrator))


def test_pages_survive_a_reload_with_the_cookie_alone(world: World) -> None:
    for _ in range(2):
        assert "Waiting to be sealed" in said(
            conversation(world.server, "Upload", world.team.technician)
        )


@pytest.mark.parametrize(
    "path",
    [
        "/media/0123456789abcdef.png",
        "/_stcore/metrics",
        "/_stcore/agent/openapi.json",
        "/_stcore/script-health-check",
        "/component/extra_streamlit_components.CookieManager.cookie_manager/index.html",
        "/api/images/im_0/thumbnail",
        "/api/images/im_0/grid",
        "/api/images/im_0/file",
        "/api/images/im_0/frames/0",
        "/api/drafts/vw_0/frames/0",
        "/api/restorations/vw_0/frames/0",
        "/api/restorations/vw_0/file",
    ],
)
def test_nothing_is_served_without_a_session(world: World, path: str) -> None:
    for token in ("", "wrong", "x" * 5000):
        answer = world.ask(path, token)
        assert answer.status_code == 401, (path, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"


def test_what_the_sign_in_page_needs_is_open(world: World) -> None:
    for path in ("/", "/_stcore/health", "/_stcore/host-config", "/api/health", "/Admin"):
        assert world.ask(path).status_code == 200, path


@pytest.mark.parametrize(("role", "status"), [("", 401), ("doctor", 403)])
def test_an_upload_is_refused_before_its_body_is_read(world: World, role: str, status: int) -> None:
    token = world.team.token(Role(role)) if role else ""
    address = world.server.url.removeprefix("http://")
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), 20) as line:
        line.sendall(
            f"PUT /_stcore/upload_file/session/file HTTP/1.1\r\nHost: {address}\r\n"
            f"Cookie: {api.COOKIE}={token}\r\nContent-Length: 200000000\r\n\r\n".encode()
        )
        assert line.recv(100).startswith(f"HTTP/1.1 {status} ".encode())  # and no body was sent


@pytest.mark.parametrize("role", ["technician", "administrator"])
def test_whoever_sends_files_on_a_page_passes_the_gate(world: World, role: str) -> None:
    """The images of one and the networks of the other: Streamlit answers, not the gate."""
    cookies = {api.COOKIE: world.team.token(Role(role)), "_streamlit_xsrf": "2|0|0|0"}
    answer = httpx.put(
        f"{world.server.url}/_stcore/upload_file/session/file",
        files={"file": b"x"},
        cookies=cookies,
        headers={"X-Xsrftoken": "2|0|0|0"},
    )
    assert answer.headers["content-type"] != "application/problem+json"


@pytest.mark.parametrize(
    ("origin", "opens"),
    [
        ("{own}", True),
        (None, True),  # no browser
        ("http://127.0.0.1:9999", False),  # another program's page on this very machine
        ("http://localhost:9999", False),
        ("http://evil.example", False),
        ("null", False),
        ("http://[", False),
    ],
)
def test_only_our_own_pages_open_the_line_that_the_cookie_goes_with(
    world: World, origin: str | None, opens: bool
) -> None:
    async def talk() -> None:
        async with websockets.connect(
            world.server.url.replace("http", "ws") + "/_stcore/stream",
            subprotocols=["streamlit"],  # type: ignore[list-item]
            additional_headers={"Cookie": f"{api.COOKIE}={world.team.administrator}"},
            origin=origin and origin.format(own=world.server.url),  # type: ignore[arg-type]
        ):
            pass

    if opens:
        asyncio.run(talk())
    else:
        with pytest.raises(websockets.InvalidStatus) as refused:
            asyncio.run(talk())
        assert refused.value.response.status_code == 403
        # Nobody on the internet was asked whether this might be our address.
        assert "external IP" not in world.server.log.read_text()


def test_a_strangers_message_writes_two_lines_into_the_log_at_most(world: World) -> None:
    page = b"".join(m.SerializeToString() for m in conversation(world.server, ""))
    widgets = sorted(set(re.findall(rb"\$\$ID-[0-9a-f]{32}-[\w:.-]+", page)))
    assert len(widgets) >= 3
    messages: list[bytes | str] = ["a text", b"\xff" * 50]
    for widget in widgets:
        ask = BackMsg()
        state = ask.rerun_script.widget_states.widgets.add(id=widget.decode())
        state.arrow_value.data = b"wrong"
        messages.append(ask.SerializeToString())

    async def send(message: bytes | str) -> None:
        async with _line(world.server) as line:
            await line.send(message)
            with contextlib.suppress(websockets.ConnectionClosed):
                await _until_finished(line)

    before = len(world.server.log.read_text())
    for message in messages:
        asyncio.run(send(message))
    written = world.server.log.read_text()[before:]
    assert "Uncaught app execution" in written  # so this is where errors of a page are written
    assert len(written.splitlines()) <= 2 * len(messages)
    assert max(map(len, written.splitlines())) < 2000
    assert "Traceback" not in written


def test_every_answer_carries_the_security_headers(world: World) -> None:
    for path in ("/", "/api/health", "/_stcore/health", "/media/x", "/static/nothing"):
        headers = world.ask(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe-eval" not in policy
        assert "script-src 'self' blob: 'sha256-" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


# --- signed in --------------------------------------------------------------------------------


def test_a_request_with_two_lengths_is_refused_and_its_connection_closed(world: World) -> None:
    where = urlsplit(world.server.url)
    assert where.hostname
    hidden = b"GET /api/health/ HTTP/1.1\r\nHost: a\r\n\r\n"
    with socket.create_connection((where.hostname, where.port or 0), 60) as line:
        line.sendall(
            b"POST /api/auth/token/ HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden
        )
        answer = b"".join(iter(lambda: line.recv(1 << 16), b""))
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1") == 1  # what came behind it was nobody's request


def test_the_sealed_file_is_what_a_download_carries(world: World) -> None:
    answer = world.ask(f"/api/images/{world.image_id}/file", world.team.doctor)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-disposition"].startswith("attachment;")
    assert "erika" not in unquote(answer.headers["content-disposition"])
    original = np.asarray(Pillow.open(io.BytesIO(world.original)).convert("L"))
    sealed = np.asarray(Pillow.open(io.BytesIO(answer.content)).convert("L"))
    assert sealed.shape == original.shape
    assert (sealed[60:] == original[60:]).all()
    assert not (sealed[8:40, 8:200] == original[8:40, 8:200]).all()


def test_pictures_are_never_kept_by_a_cache(world: World) -> None:
    for part in ("thumbnail", "grid", "frames/0"):
        answer = world.ask(f"/api/images/{world.image_id}/{part}", world.team.technician)
        assert answer.status_code == 200, part
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["cache-control"] == "no-store"


def test_media_addresses_want_a_session_and_know_nothing(world: World) -> None:
    assert world.ask("/media/0123456789abcdef.png", world.team.doctor).status_code == 404


def test_a_cookie_is_worth_nothing_after_the_sign_out(world: World) -> None:
    token = _signed_in(world)
    address = f"/api/images/{world.image_id}/thumbnail"
    assert world.ask(address, token).status_code == 200
    answer = world.ask("/api/session", token, "DELETE")
    assert answer.status_code == 204
    assert 'medsec_session=""' in answer.headers["set-cookie"]
    assert world.ask(address, token).status_code == 401
    assert world.ask("/media/x", token).status_code == 401
    assert "Waiting to be sealed" not in said(conversation(world.server, "Upload", token))


def _signed_in(world: World) -> str:
    """A session of its own: by the sign-in form, as the browser sends it."""
    messages, token = sign_in(world.server, "technician", PASSWORD)
    assert token, said(messages)
    return token


def sign_in(server: Server, username: str, password: str) -> tuple[list[ForwardMsg], str]:
    """Fill the form over the WebSocket, take the ticket that comes back, and trade it."""

    async def talk() -> tuple[list[ForwardMsg], str]:
        async with _line(server) as line:
            ask = BackMsg()
            ask.rerun_script.page_name = ""
            await line.send(ask.SerializeToString())
            first = await _until_finished(line)
            fields = {
                e.text_input.label: e.text_input.id
                for e in _elements(first)
                if e.WhichOneof("type") == "text_input"
            }
            button = next(e.button.id for e in _elements(first) if e.WhichOneof("type") == "button")
            for label, value in (("User name", username), ("Password", password)):
                state = ask.rerun_script.widget_states.widgets.add()
                state.id, state.string_value = fields[label], value
            state = ask.rerun_script.widget_states.widgets.add()
            state.id, state.trigger_value = button, True
            await line.send(ask.SerializeToString())
            second = await _until_finished(line)
            while not any("ticket" in e.bidi_component.json for e in _elements(second)):
                more = await _until_finished(line)
                second += more
            ticket = next(
                json.loads(e.bidi_component.json)["ticket"]
                for e in _elements(second)
                if "ticket" in e.bidi_component.json
            )
            answer = httpx.post(f"{server.url}/api/session", json={"ticket": ticket})
            again = httpx.post(f"{server.url}/api/session", json={"ticket": ticket})
            assert (answer.status_code, again.status_code) == (204, 401)
            return second, answer.cookies[api.COOKIE]

    return asyncio.run(talk())


def _elements(messages: list[ForwardMsg]) -> list[Any]:
    return [m.delta.new_element for m in messages if m.delta.WhichOneof("type") == "new_element"]


# --- the REST application by itself -------------------------------------------------------------


class Client:
    """A client of the REST application in this process, over TLS as it sees it."""

    def __init__(self) -> None:
        self.token = ""

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(api.app)
            cookies = {api.COOKIE: self.token}
            async with httpx.AsyncClient(
                transport=transport, base_url="https://medsec.test", cookies=cookies
            ) as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def get(self, path: str) -> httpx.Response:
        return self.ask("GET", path)


@pytest.fixture
def client(engine: Engine) -> Iterator[Client]:
    api.app.state.engine = engine
    yield Client()
    del api.app.state.engine


def test_the_session_cookie_is_out_of_reach_of_scripts(
    client: Client, engine: Engine, team: Team
) -> None:
    answer = client.ask("POST", "/session", json={"ticket": api.issue_ticket(engine, team.doctor)})
    cookie = answer.headers["set-cookie"].lower()
    assert answer.status_code == 204
    for word in ("httponly", "samesite=strict", "secure", "path=/"):
        assert word in cookie


def test_a_new_sign_in_ends_the_session_that_the_browser_had(
    client: Client, engine: Engine, team: Team
) -> None:
    client.token = team.technician
    answer = client.ask("POST", "/session", json={"ticket": api.issue_ticket(engine, team.doctor)})
    assert answer.status_code == 204
    with pytest.raises(errors.NotSignedIn):
        engine.sessions.whoami(team.technician)
    assert engine.sessions.whoami(team.doctor).username == "doctor"


def test_a_ticket_is_good_once_and_not_for_long(engine: Engine, host: FakeHost) -> None:
    first, second = api.issue_ticket(engine, "one"), api.issue_ticket(engine, "two")
    assert api.redeem_ticket(engine, first) == "one"
    for used in (first, "never issued", ""):
        with pytest.raises(errors.NotSignedIn):
            api.redeem_ticket(engine, used)
    host.advance(seconds=api.TICKET_SECONDS)
    with pytest.raises(errors.NotSignedIn):
        api.redeem_ticket(engine, second)


def test_a_restoration_is_seen_by_its_own_session_only(
    client: Client, engine: Engine, team: Team, detector: ScriptedDetector
) -> None:
    detector.found = [BOX]
    patient = engine.patients.create(team.technician, "P1", "Erika Musterfrau", 61)
    original = builders.png(builders.labelled()[0])
    image = engine.drafts.upload(team.technician, patient.patient_id, "erika.png", original)
    engine.drafts.seal(team.technician, image.image_id, [BOX])
    handle = engine.images.restore(team.doctor, image.image_id, "tumour board").handle
    colleague = engine.sessions.sign_in("doctor", PASSWORD).token

    def ask(token: str, part: str) -> int:
        client.token = token
        return client.get(f"/restorations/{handle}/{part}").status_code

    for part in ("frames/0", "file", "file?format=png", "file?format=jpeg"):
        assert ask(team.doctor, part) == 200, part
        assert ask(colleague, part) == 404, part
        assert ask(team.technician, part) == 403, part
        assert ask(team.administrator, part) == 403, part
    client.token = team.doctor
    answer = client.get(f"/restorations/{handle}/file")
    assert answer.content == original
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''erika.png"
    engine.images.close(team.doctor, handle)
    assert ask(team.doctor, "frames/0") == 404


def test_a_draft_is_seen_by_technicians_until_it_is_sealed(
    client: Client, engine: Engine, team: Team, detector: ScriptedDetector
) -> None:
    detector.found = [BOX]
    patient = engine.patients.create(team.technician, "P1", "Erika Musterfrau", 61)
    data = builders.png(builders.labelled()[0])
    image = engine.drafts.upload(team.technician, patient.patient_id, "erika.png", data)
    handle = engine.drafts.open(team.technician, image.image_id).handle

    def ask(token: str) -> int:
        client.token = token
        return client.get(f"/drafts/{handle}/frames/0").status_code

    assert ask(team.technician) == 200
    assert ask(team.doctor) == 403
    engine.drafts.seal(team.technician, image.image_id, [BOX])
    assert ask(team.technician) == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/images/im_0/frames/minus", 422),
        ("/images/im_0/frames/0?center=1&width=0", 422),
        ("/images/im_0/frames/0", 404),
        ("/nothing", 404),
    ],
)
def test_errors_are_problem_documents_without_inner_detail(
    client: Client, team: Team, path: str, status: int
) -> None:
    client.token = team.doctor
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json().keys() == {"type", "title", "status"}
    assert "Traceback" not in answer.text


# --- the gate ---------------------------------------------------------------------------------


def test_request_bodies_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MultiPartParser, "spool_max_size", MultiPartParser.spool_max_size)
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        + b"x" * (3 << 20)
        + b"\r\n--b--\r\n"
    )

    async def chunks() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    async def on_disk() -> bool:
        headers = Headers({"content-type": "multipart/form-data; boundary=b"})
        form = await MultiPartParser(headers, chunks()).parse()
        file = form["file"]
        assert not isinstance(file, str)
        assert file.size == 3 << 20
        rolled = bool(file.file._rolled)  # type: ignore[attr-defined]
        await form.close()
        return rolled

    assert asyncio.run(on_disk())  # as Starlette comes
    asgi_guard.keep_bodies_in_memory()
    assert not asyncio.run(on_disk())


def test_the_gate_refuses_a_base_path_it_could_not_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi_guard.config, "get_option", lambda name: "hospital")
    with pytest.raises(errors.SettingsError):
        asgi_guard.AsgiGuard(lambda *_: None, lambda: None)  # type: ignore[arg-type, return-value]
