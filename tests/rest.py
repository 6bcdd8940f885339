"""A client of the REST application in this process, over TLS as it sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from starlette.datastructures import State
from starlette.types import Receive, Scope, Send

import api
from api.batches import Batches
from api.held_intakes import Intakes
from engine import Detection, Engine, Region, Role, Settings
from tests import builders
from tests.conftest import PASSWORD, Team
from tests.fakes import FakeHost, ScriptedDetector

BOX = Detection(Region(8, 8, 200, 40), "text", 0.9, "net")


async def mounted_app(scope: Scope, receive: Receive, send: Send) -> None:
    """The REST application below ``/api``, where the server mounts it."""
    await api.app({**scope, "root_path": "/api"}, receive, send)


def ask(
    method: str,
    path: str,
    token: str = "",
    *,
    client: str = "192.0.2.1",
    **options: Any,
) -> httpx.Response:
    """One request to ``/api`` and ``path``.

    Args:
        token: Sent as bearer token.
        client: Address it comes from.
    """
    headers = dict(options.pop("headers", {}))
    if token:
        headers["Authorization"] = f"Bearer {token}"

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(mounted_app, client=(client, 50_000))
        async with httpx.AsyncClient(transport=transport, base_url="https://medsec.test") as line:
            return await line.request(method, f"/api{path}", headers=headers, **options)

    return asyncio.run(send())


@contextmanager
def opened(engine: Engine) -> Iterator[None]:
    """The REST application with this engine; afterwards with the previous one again."""
    before = api.app.state
    api.app.state = State(
        {"engine": engine, "batches": Batches(engine), "intakes": Intakes(engine)}
    )
    try:
        yield
    finally:
        api.app.state.intakes.stop()
        api.app.state.batches.stop()
        api.app.state = before


@dataclass
class Hospital:
    """An engine behind the REST application, access tokens of its people, and new patients."""

    engine: Engine
    host: FakeHost
    team: Team
    detector: ScriptedDetector
    tokens: dict[Role, str] = field(default_factory=dict)
    made: int = 0

    def sign_in(self, username: str) -> dict[str, Any]:
        body = {"username": username, "password": PASSWORD}
        answer = ask("POST", "/auth/token/", json=body)
        assert answer.status_code == 200, answer.text
        pair: dict[str, Any] = answer.json()
        return pair

    def picture(self) -> bytes:
        """A picture that is not here yet."""
        self.made += 1
        return builders.png(builders.labelled(f"DOE JANE {self.made}", seed=self.made)[0])

    def patient(self) -> str:
        self.made += 1
        made = self.engine.patients.create(
            self.team.technician, f"P-{self.made}", "Erika Musterfrau", 61
        )
        return made.patient_id

    def draft(self, patient_id: str) -> str:
        token = self.team.technician
        return self.engine.drafts.upload(token, patient_id, "erika.png", self.picture()).image_id

    def image(self, patient_id: str) -> str:
        image_id = self.draft(patient_id)
        self.engine.drafts.seal(self.team.technician, image_id, [BOX])
        return image_id


@contextmanager
def hospital(folder: Path, **chosen: Any) -> Iterator[Hospital]:
    """A hospital in a folder.

    Args:
        chosen: Settings that differ.
    """
    settings = Settings(
        data=folder / "data",
        key_file=folder / "keys" / "root.key",
        bcrypt_cost=4,
        **{"requests_per_minute": 10**6, "anonymous_requests_per_minute": 10**6, **chosen},
    )
    host, detector = FakeHost(settings.data / "blobs"), ScriptedDetector(settings, [BOX])
    engine = Engine.open(settings, host, detector=detector)
    try:
        with opened(engine):
            place = Hospital(engine, host, Team(engine), detector)
            place.tokens = {
                role: place.sign_in("admin" if role is Role.ADMINISTRATOR else str(role))["access"]
                for role in (Role.TECHNICIAN, Role.DOCTOR, Role.RESEARCHER, Role.ADMINISTRATOR)
            }
            yield place
    finally:
        engine.close()
