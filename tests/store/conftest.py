"""Each test of this folder runs on both databases, unless it says which one it is about."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine import Engine
from engine.host import Host
from engine.settings import Secret, Settings
from engine.store.database import Database
from engine.store.embedded import EmbeddedDatabase
from engine.store.postgresql import PostgresDatabase
from tests.fakes import FakeHost

#: Of tests that are about the file itself.
DUCKDB = pytest.mark.parametrize("catalog_on", ["duckdb"], indirect=True)

Opener = Callable[..., Database]
NewCatalog = Callable[[], Secret | None]


def left(engine: Engine) -> set[str]:
    """Files that stay: on PostgreSQL what nothing needs goes with the sweep, and not at once."""
    host = engine.context.host
    if engine.context.file_claim.needed:
        assert isinstance(host, FakeHost)
        for address in host.blobs():
            os.utime(host.path(address), (0, 0))
        engine.upkeep.sweep()
    return set(host.blobs())


@pytest.fixture(params=["duckdb", "postgresql"])
def catalog_on(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def new_catalog(catalog_on: str, request: pytest.FixtureRequest) -> Iterator[NewCatalog]:
    """Gives an empty database at each call; None stands for a file."""
    taken: list[str] = []

    def new_catalog() -> Secret | None:
        if catalog_on == "duckdb":
            return None
        taken.append(request.getfixturevalue("cluster").new())
        return Secret(taken[-1])

    yield new_catalog
    for url in taken:
        request.getfixturevalue("cluster").take_back(url)


@pytest.fixture
def catalog_url(new_catalog: NewCatalog, monkeypatch: pytest.MonkeyPatch) -> Secret | None:
    """The database of this test's settings, and of commands that it calls."""
    url = new_catalog()
    if url is not None:
        monkeypatch.setenv("MEDSEC_DATABASE", url)
    return url


@pytest.fixture
def settings(settings: Settings, catalog_url: Secret | None) -> Settings:
    return replace(settings, database=catalog_url)


@pytest.fixture
def open_database(tmp_path: Path, catalog_url: Secret | None) -> Iterator[Opener]:
    """Opens this test's catalog, again and again if it is closed in between."""
    opened: list[Database] = []

    def open_database(host: Host, wait_seconds: float = 5.0) -> Database:
        if catalog_url is None:
            opened.append(EmbeddedDatabase.open(tmp_path / "c.duckdb", host, wait_seconds))
        else:
            wait = max(wait_seconds, 2.0)  # connections are waited for as well
            opened.append(PostgresDatabase.open(catalog_url, tmp_path, host, wait, 8))
        return opened[-1]

    yield open_database
    for database in opened:
        database.close()
