"""A list is counted as far as somebody asks, on both databases."""

from __future__ import annotations

from engine.host import Host
from engine.records import ImageState
from engine.store.catalog import Catalog
from tests.store.conftest import Opener
from tests.store.test_monthly_drift import fill


def test_a_count_stops_behind_its_bound(open_database: Opener, host: Host) -> None:
    database = open_database(host)
    with database.write() as tx:
        fill(tx, 60, seed=1)
    catalog = Catalog(database)
    for filters in ({"states": [ImageState.RELEASED]}, {"states": [*ImageState]}):
        every = catalog.count(**filters)
        assert every > 10
        assert [catalog.count(most, **filters) for most in (0, 3, every - 1, every, 99)] == [
            1, 4, every, every, every,
        ]  # fmt: skip
