"""Copies of one installation on the same files: one goes on, or none deletes anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine import errors
from engine.settings import Settings
from engine.store import file_claim as module
from engine.store.database import Database
from engine.store.embedded import EmbeddedDatabase
from engine.store.file_claim import CLAIM, CONTESTED, FileClaim
from engine.store.file_stores import files_of
from tests.fakes import FakeHost
from tests.object_store import ObjectStore
from tests.store.conftest import DUCKDB

pytestmark = DUCKDB  # what the word is kept in is the same on both


class Copies:
    """A machine whose catalog can be copied; all copies have one place for files."""

    def __init__(self, folder: Path, host: FakeHost, settings: Settings) -> None:
        self._folder, self.host, self._settings = folder, host, settings
        self._opened: list[Database] = []

    def catalog(self, machine: str, content: bytes | None = None) -> Database:
        file = self._folder / machine / "catalog.duckdb"
        file.parent.mkdir(exist_ok=True)
        if content is not None:
            file.write_bytes(content)
        self._opened.append(EmbeddedDatabase.open(file, self.host, 5))
        return self._opened[-1]

    def claim(self, machine: str, database: Database, place: str = "") -> FileClaim:
        chosen = replace(self._settings, data=self._folder / machine)
        return FileClaim(database, self.host, replace(chosen, blobs=place or chosen.blobs))

    def word(self) -> bytes:
        return self.host.files.get(CLAIM)

    def close(self) -> None:
        for database in self._opened:
            database.close()


@pytest.fixture(params=["folder", "bucket"])
def copies(request: pytest.FixtureRequest, tmp_path: Path, settings: Settings) -> Iterator[Copies]:
    there = replace(settings, blobs="s3://bucket/files", database=None)
    host = FakeHost(tmp_path / "files")
    if request.param == "bucket":
        store: ObjectStore = request.getfixturevalue("object_store")
        request.getfixturevalue("store_keys")
        there = replace(there, blobs=store.new(), s3_endpoint=store.endpoint)
        host = FakeHost(files_of(there))
    made = Copies(tmp_path, host, there)
    yield made
    made.close()


def bytes_of(database: Database) -> bytes:
    with database.still() as (_, content):
        return content


def test_a_copy_that_starts_beside_the_original_stops_both_from_deleting(
    copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = copies.catalog("first")
    first = copies.claim("first", database)
    first.take(brought=False)
    first.check()
    other = copies.catalog("second", bytes_of(database))  # a moment ago
    second = copies.claim("second", other)
    second.take(brought=False)
    assert not second.settled  # it deletes nothing before the other one has looked
    for one in (first, second, first, second):
        with pytest.raises(errors.OtherCopy):
            one.check()
        assert one.contested
    with pytest.raises(errors.OtherCopy):
        second.renew()
    assert copies.word() == CONTESTED
    for machine, catalog in (("first", database), ("second", other)):
        with pytest.raises(errors.OtherCopy, match="files-claim"):
            copies.claim(machine, catalog).take(brought=False)

    copies.claim("first", database).take_over()  # a person has decided
    first = copies.claim("first", database)
    first.take(brought=False)
    first.check()
    with pytest.raises(errors.OtherCopy):
        copies.claim("second", other).take(brought=False)
    first.check()
    monkeypatch.setattr(module, "SETTLE_MS", 0.0)
    assert not first.settled  # the person may have been wrong
    copies.host.clock += module.SET_BACK
    assert first.settled


def test_an_older_copy_does_not_start_and_disturbs_nobody(copies: Copies) -> None:
    database = copies.catalog("first")
    first = copies.claim("first", database)
    first.take(brought=False)
    older = bytes_of(database)
    first.renew()
    first.renew()
    other = copies.claim("second", copies.catalog("second", older))
    for _ in range(2):
        with pytest.raises(errors.OtherCopy):
            other.take(brought=False)
    first.check()
    # Set back by its database's own means, it is still the one of this folder, which knows.
    copies.claim("first", copies.catalog("again", older)).take(brought=False)


def test_a_place_that_cannot_be_written_is_read_and_nothing_is_deleted(
    copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = copies.catalog("first")

    def full(*_: object) -> None:
        raise errors.StoreUnavailable("The object store does not answer.")

    monkeypatch.setattr(module, "SETTLE_MS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(type(copies.host.files), "replace", full)
        with pytest.raises(errors.StoreUnavailable):
            copies.claim("first", database).take(brought=False)  # whose they are, nobody knows yet
    copies.host.files.replace(CLAIM, copies.claim("first", database)._words()[0])
    with monkeypatch.context() as patch:
        patch.setattr(type(copies.host.files), "replace", full)
        again = copies.claim("first", database)
        again.take(brought=False)
        assert not again.settled
        again.check()
    again.renew()
    assert again.settled


def test_a_place_that_is_not_mounted_is_no_other_copy(copies: Copies) -> None:
    database = copies.catalog("first")
    first = copies.claim("first", database)
    first.take(brought=False)
    word = copies.word()
    copies.host.files.delete(CLAIM)
    with pytest.raises(errors.StorageBusy, match="no mark"):
        first.check()
    with pytest.raises(errors.FilesElsewhere, match="mounted"):
        copies.claim("first", database).take(brought=False)
    with pytest.raises(errors.NotFound):
        copies.word()  # nothing was written there
    copies.host.files.replace(CLAIM, word)
    first.check()
    assert not first.contested
    copies.claim("first", database).take(brought=False)


def test_a_word_that_arrives_late_is_still_the_catalogs(copies: Copies) -> None:
    database = copies.catalog("first")
    first = copies.claim("first", database)
    first.take(brought=False)
    late = copies.word()
    first.renew()
    first.renew()
    copies.host.files.replace(CLAIM, late)
    first.check()
    assert not first.contested
    copies.claim("first", database).take(brought=False)


def test_a_copy_that_has_stopped_deleting_overwrites_no_word_of_its_own(copies: Copies) -> None:
    database = copies.catalog("first")
    first = copies.claim("first", database)
    first.take(brought=False)
    word = copies.word()
    first.contested = True
    with pytest.raises(errors.OtherCopy):
        first.check()
    assert copies.word() == word


def test_a_catalog_that_was_set_back_deletes_nothing_for_days(
    copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLE_MS", 0.0)
    database = copies.catalog("first")
    first = copies.claim("first", database)
    first.take(brought=False)
    assert first.settled
    older = bytes_of(database)
    first.renew()
    back = copies.claim("first", copies.catalog("again", older))
    back.take(brought=False)
    assert not back.settled
    back = copies.claim("first", copies._opened[-1])  # started again, it still knows
    back.take(brought=False)
    assert not back.settled
    copies.host.clock += module.SET_BACK
    assert back.settled


def test_servers_of_one_catalog_are_no_copies_of_each_other(copies: Copies) -> None:
    database = copies.catalog("first")
    servers = [copies.claim(name, database) for name in ("first", "second")]
    for one in servers:
        (copies._folder / "second").mkdir(exist_ok=True)
        one.take(brought=False)
    for leader in servers:
        leader.renew()
        for one in servers:
            one.check()
    # Each of their folders knows the newest word, whichever wrote it.
    notes = {(copies._folder / name / CLAIM).read_bytes() for name in ("first", "second")}
    assert notes == {copies.word()}


def test_the_catalog_says_where_its_files_are(copies: Copies) -> None:
    database = copies.catalog("first")
    copies.claim("first", database).take(brought=False)
    (copies._folder / "second").mkdir()
    with pytest.raises(errors.FilesElsewhere, match="set MEDSEC_BLOBS to s3://"):
        copies.claim("second", database, "s3://another/place").check_place()
    copies.claim("second", database, "s3://another/place").take_over()
    with pytest.raises(errors.FilesElsewhere, match="another/place"):
        copies.claim("first", database).check_place()
