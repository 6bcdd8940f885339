"""Single sign-on through the real server and a real identity provider on this machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from cryptography.hazmat.primitives.asymmetric import rsa
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

import api
from engine import Engine
from tests.conftest import Team
from tests.fakes import ScriptedDetector
from tests.provider import Provider, provider
from tests.serving import Server, people, serve, settings
from tests.ui.test_server import _elements, _until_finished, conversation, said

BUTTON = "Sign in through your organisation"
DORA = {"sub": "4711", "email": "dora@hospital.example", "email_verified": True}
IDENTITY = "_streamlit_user"


@dataclass
class World:
    server: Server
    provider: Provider
    team: Team


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("single")
    with provider() as issuer:
        chosen = settings(folder)
        engine = Engine.open(chosen, detector=ScriptedDetector(chosen))
        team = people(engine)
        engine.people.link_identity(team.administrator, "doctor", "dora@hospital.example")
        engine.close()
        file = issuer.secrets_file(folder, "http://127.0.0.1:{port}")
        with serve(folder, MEDSEC_SINGLE_SIGN_ON=str(file)) as server:
            yield World(server, issuer, team)


@pytest.fixture(autouse=True)
def honest(request: pytest.FixtureRequest) -> None:
    if "world" in request.fixturenames:
        issuer = request.getfixturevalue("world").provider
        issuer.person, issuer.tamper, issuer.signs_with = dict(DORA), {}, issuer.key


class Browser:
    """A cookie jar, and pages opened as a browser opens them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.client = httpx.Client(base_url=server.url, follow_redirects=True, timeout=60)
        self.client.get("/_stcore/health")  # as the page does; brings the token against forgery

    def open(self, press: str = "") -> list[ForwardMsg]:
        """Open the front page, press a button if one is named, and collect what comes."""
        return asyncio.run(self._open(press))

    async def _open(self, press: str) -> list[ForwardMsg]:
        cookies = {c.name: c.value or "" for c in self.client.cookies.jar}
        async with websockets.connect(
            self.server.url.replace("http", "ws") + "/_stcore/stream",
            subprotocols=["streamlit", cookies["_streamlit_xsrf"]],  # type: ignore[list-item]
            additional_headers={
                "Origin": self.server.url,
                "Cookie": "; ".join(f"{k}={v}" for k, v in cookies.items()),
            },
            max_size=None,
        ) as line:
            ask = BackMsg()
            ask.rerun_script.page_name = ""
            await line.send(ask.SerializeToString())
            got = await _until_finished(line)
            while not press and not _rests(got):
                got += await _until_finished(line)
            if press:
                state = ask.rerun_script.widget_states.widgets.add()
                state.id = next(e.button.id for e in _elements(got) if e.button.label == press)
                state.trigger_value = True
                await line.send(ask.SerializeToString())
                got = await _until_finished(line)
            return got

    def through_the_provider(self) -> None:
        """Press the button and follow where it leads, there and back."""
        sent = self.open(BUTTON)
        url = next(m.auth_redirect.url for m in sent if m.WhichOneof("type") == "auth_redirect")
        answer = self.client.get(url)
        assert answer.status_code == 200
        assert str(answer.url) == f"{self.server.url}/"

    @property
    def identity(self) -> dict[str, str]:
        """What Streamlit has put into the browser about the person."""
        return {c.name: c.value or "" for c in self.client.cookies.jar if IDENTITY in c.name}


@pytest.fixture
def visit() -> Iterator[Callable[[Server], Browser]]:
    """A new browser in front of a server."""
    open_ones: list[Browser] = []

    def start(server: Server) -> Browser:
        open_ones.append(Browser(server))
        return open_ones[-1]

    yield start
    for one in open_ones:
        one.client.close()


Visit = Callable[[Server], Browser]


def _rests(messages: list[ForwardMsg]) -> bool:
    """Nothing more comes by itself: there is a ticket, a sentence, or the form."""
    text = said(messages)
    return "Signing in" in text or "begin again" in text or "User name" in text


def ticket(messages: list[ForwardMsg]) -> str:
    held = [e.bidi_component.json for e in _elements(messages) if "ticket" in e.bidi_component.json]
    return str(json.loads(held[0])["ticket"]) if held else ""


def test_a_linked_person_signs_in_and_only_the_engines_cookie_stays(
    world: World, visit: Visit
) -> None:
    dora = visit(world.server)
    assert BUTTON in said(dora.open())
    dora.through_the_provider()
    left = dora.identity
    assert left
    assert not [name for name in left if "tokens" in name]  # the provider's stay in the server
    answer = dora.client.post("/api/session", json={"ticket": ticket(dora.open())})
    assert answer.status_code == 204
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert dora.identity == {}  # the month-long one is gone
    token = dora.client.cookies[api.COOKIE]
    assert "A doctor" in said(conversation(world.server, "", token))

    # A copy of what the provider said opens nothing any more.
    thief = visit(world.server)
    for name, value in left.items():
        thief.client.cookies.set(name, value, domain="127.0.0.1", path="/")
    again = thief.open()
    assert ticket(again) == ""
    assert "begin again" in said(again)
    thief.client.delete("/api/session")
    assert thief.identity == {}

    # Signing out ends the engine's session.
    assert dora.client.delete("/api/session").status_code == 204
    assert "A doctor" not in said(conversation(world.server, "", token))


@pytest.mark.parametrize("person", [
    {"email_verified": False},
    {"email": "somebody@hospital.example"},
    {"sub": "4712"},
])  # fmt: skip
def test_who_is_not_verified_linked_and_the_same_gets_a_sentence(
    world: World, visit: Visit, person: dict[str, Any]
) -> None:
    if "sub" in person:  # the address must belong to another person already
        dora = visit(world.server)
        dora.through_the_provider()
        assert ticket(dora.open())
    world.provider.person.update(person)
    eve = visit(world.server)
    eve.through_the_provider()
    got = eve.open()
    assert ticket(got) == ""
    assert "begin again" in said(got)


@pytest.mark.parametrize("tamper", [
    {"aud": "another client"},
    {"iss": "https://elsewhere.example"},
    {"nonce": "of another sign-in"},
    {"exp": 1},
])  # fmt: skip
def test_an_id_token_for_somebody_else_leaves_nothing_in_the_browser(
    world: World, visit: Visit, tamper: dict[str, Any]
) -> None:
    world.provider.tamper = tamper
    eve = visit(world.server)
    eve.through_the_provider()
    assert eve.identity == {}
    assert "User name" in said(eve.open())


def test_an_id_token_of_another_key_is_refused(world: World, visit: Visit) -> None:
    world.provider.signs_with = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    eve = visit(world.server)
    eve.through_the_provider()
    assert eve.identity == {}


def test_a_callback_that_this_browser_did_not_begin_is_refused(world: World, visit: Visit) -> None:
    eve = visit(world.server)
    sent = eve.open(BUTTON)
    url = next(m.auth_redirect.url for m in sent if m.WhichOneof("type") == "auth_redirect")
    first = eve.client.get(url, follow_redirects=False)
    back = httpx.get(first.headers["location"], follow_redirects=False).headers["location"]
    victim = visit(world.server)  # is made to open the address that was meant for eve
    victim.client.get(back)
    assert victim.identity == {}
    assert "User name" in said(victim.open())


def test_a_forged_identity_cookie_is_nobodys(world: World, visit: Visit) -> None:
    eve = visit(world.server)
    eve.client.cookies.set(IDENTITY, json.dumps({**DORA, "is_logged_in": True}))
    got = eve.open()
    assert ticket(got) == ""
    assert "User name" in said(got)


def test_without_the_setting_a_stray_file_switches_nothing_on(
    tmp_path: Path, world: World, visit: Visit
) -> None:
    chosen = settings(tmp_path)
    engine = Engine.open(chosen, detector=ScriptedDetector(chosen))
    people(engine)
    engine.close()
    (tmp_path / ".streamlit").mkdir()
    file = world.provider.secrets_file(tmp_path, "http://127.0.0.1:{port}")
    file.rename(tmp_path / ".streamlit" / "secrets.toml")
    with serve(tmp_path) as server:
        assert BUTTON not in said(visit(server).open())
