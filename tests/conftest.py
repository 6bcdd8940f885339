"""Fixtures: an engine on a temporary folder, with one account per role."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import Engine, Role, Settings
from tests.fakes import FakeHost, ScriptedDetector

PASSWORD = "four unrelated words here"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", key_file=tmp_path / "keys" / "root.key", bcrypt_cost=4)


@pytest.fixture
def host(settings: Settings) -> FakeHost:
    return FakeHost(settings.data / "blobs")


@pytest.fixture
def detector(settings: Settings) -> ScriptedDetector:
    return ScriptedDetector(settings)


@pytest.fixture
def engine(settings: Settings, host: FakeHost, detector: ScriptedDetector) -> Iterator[Engine]:
    engine = Engine.open(settings, host, detector=detector)
    yield engine
    engine.close()


class Team:
    """One signed-in account per role; each attribute is a token."""

    def __init__(self, engine: Engine) -> None:
        engine.create_first_administrator(engine.setup_code(), "admin", "Ada Admin", PASSWORD)
        self.administrator = engine.sign_in("admin", PASSWORD).token
        for role in (Role.TECHNICIAN, Role.DOCTOR, Role.RESEARCHER):
            engine.create_account(self.administrator, str(role), f"A {role}", role, PASSWORD)
            setattr(self, str(role), engine.sign_in(str(role), PASSWORD).token)

    technician: str
    doctor: str
    researcher: str

    def token(self, role: Role) -> str:
        token: str = getattr(self, str(role))
        return token


@pytest.fixture
def team(engine: Engine) -> Team:
    return Team(engine)
