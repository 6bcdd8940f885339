"""Names that are held and rates of requests: the same in a server's memory and in rows."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest

from engine.errors import SealBroken
from engine.store.database import Database
from engine.store.shared import SLACK, Hold, Shared, SharedHere, SharedRows
from tests.fakes import FakeHost
from tests.store.conftest import Opener

MINUTE = timedelta(minutes=1)
KEY = b"k" * 32


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


@pytest.fixture
def database(host: FakeHost, open_database: Opener) -> Database:
    return open_database(host)


@pytest.fixture
def shared(catalog_on: str, host: FakeHost, database: Database) -> Shared:
    return SharedHere(host) if catalog_on == "duckdb" else SharedRows(database, host, KEY)


def claim(owner: str, value: str = "") -> Hold:
    return Hold("claim", "im_1", owner, value or owner)


def test_a_name_is_held_by_one_owner_until_its_time(shared: Shared, host: FakeHost) -> None:
    assert shared.hold(claim("ada"), MINUTE) is None
    assert shared.hold(claim("bob"), MINUTE) == "ada"
    assert shared.hold(claim("ada", "again"), 2 * MINUTE) is None
    assert (shared.get("claim", "im_1"), shared.get("claim", "im_2")) == ("again", None)
    host.advance(minutes=2)
    assert shared.get("claim", "im_1") is None
    assert shared.all("claim") == []
    assert shared.hold(claim("bob"), MINUTE) is None
    assert shared.all("claim") == ["bob"]


def test_a_longer_hold_stays_as_long(shared: Shared, host: FakeHost) -> None:
    shared.hold(claim("ada"), 10 * MINUTE)
    shared.hold(claim("ada"), MINUTE)
    host.advance(minutes=5)
    assert shared.hold(claim("bob"), MINUTE) == "ada"


def test_who_does_not_hold_a_name_cannot_leave_it(shared: Shared) -> None:
    shared.hold(claim("ada"), MINUTE)
    shared.leave("claim", "im_1", "bob")
    assert shared.get("claim", "im_1") == "ada"
    shared.leave("claim", "im_1", "ada")
    assert shared.hold(claim("bob"), MINUTE) is None


def test_what_is_taken_is_taken_once(shared: Shared) -> None:
    shared.hold(Hold("ticket", "secret", "x", "token"), MINUTE)
    assert (shared.take("ticket", "secret"), shared.take("ticket", "secret")) == ("token", None)


def test_of_many_at_once_one_gets_the_name(shared: Shared) -> None:
    got: list[str] = []

    def take(owner: str) -> None:
        if shared.hold(claim(owner), MINUTE) is None:
            got.append(owner)

    threads = [threading.Thread(target=take, args=(f"n{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_a_clock_that_is_set_back_lets_no_name_be_held_for_long(
    shared: Shared, host: FakeHost
) -> None:
    shared.hold(claim("ada"), MINUTE)
    host.clock -= SLACK + MINUTE
    assert shared.get("claim", "im_1") is None
    assert shared.hold(claim("bob"), MINUTE) is None


def test_requests_of_a_minute_count_and_those_of_the_one_before_for_their_part(
    shared: Shared, host: FakeHost
) -> None:
    assert [shared.hit("a", 4) for _ in range(5)] == [0, 0, 0, 0, 60]
    assert shared.hit("b", 4) == 0
    host.advance(seconds=75)  # a quarter of the next minute: three of the four count still
    assert [shared.hit("a", 4) > 0 for _ in range(3)] == [False, True, True]
    host.advance(minutes=2)
    assert [shared.hit("a", 4, cost) > 0 for cost in (3, 2, 1)] == [False, True, False]
    host.clock -= timedelta(minutes=3)  # no way to begin anew
    assert shared.hit("a", 4) > 0


@pytest.mark.parametrize("catalog_on", ["postgresql"])
def test_a_row_that_was_altered_opens_nothing(shared: Shared, database: Database) -> None:
    shared.hold(claim("ada"), MINUTE)
    assert shared.get("claim", "im_1") == "ada"
    database.read().all("UPDATE shared SET sealed = decode(repeat('00', 200), 'hex')")
    with pytest.raises(SealBroken):
        shared.get("claim", "im_1")


@pytest.mark.parametrize("catalog_on", ["postgresql"])
def test_what_is_over_is_deleted(shared: SharedRows, host: FakeHost, database: Database) -> None:
    shared.hold(claim("ada"), MINUTE)
    shared.hit("a", 4)
    shared.tidy()
    assert database.read().count("SELECT count(*) FROM shared") == 1
    host.advance(minutes=3)
    shared.tidy()
    for table in ("shared", "rates"):
        assert database.read().count(f"SELECT count(*) FROM {table}") == 0  # noqa: S608
