"""Stored files that move to another place while servers work."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, Settings, errors
from engine.host import Folder, Host
from engine.settings import Secret
from engine.store import file_moves
from engine.store.file_claim import CLAIM, CONTESTED
from engine.store.file_moves import claim_files, move_files
from engine.store.file_stores import OWNER, files_of
from engine.store.object_store import Bucket
from engine.store.two_places import TwoPlaces
from tests.conftest import WHY, Team, Ward, text_png
from tests.fakes import FakeHost, ScriptedDetector
from tests.object_store import ObjectStore
from tests.postgresql import Cluster

_seeds = itertools.count()


def started(settings: Settings) -> Engine:
    """A server; the clock of one that is alone stands, as that of the fixtures' engine does."""
    files = files_of(settings)
    alone = settings.database is None
    host = FakeHost(files, f"seed {next(_seeds)}") if alone else Host(files)
    return Engine.open(settings, host, detector=ScriptedDetector(settings))


def count(settings: Settings) -> int:
    return len(list(Host(files_of(replace(settings, blobs_also=""))).blobs()))


@dataclass
class Places:
    """A folder with files, and a bucket to which they move; settings for each step."""

    old: Settings
    new: Settings

    @property
    def both(self) -> Settings:
        """The old place still, but looks in the new one."""
        return replace(self.old, blobs_also=self.new.blobs)

    @property
    def moving(self) -> Settings:
        return replace(self.new, blobs_also="folder")


@pytest.fixture
def places(settings: Settings, object_store: ObjectStore, store_keys: None) -> Places:
    old = replace(settings, s3_endpoint=object_store.endpoint)
    return Places(old, replace(old, blobs=object_store.new()))


@dataclass
class Moving:
    places: Places
    engine: Engine
    team: Team
    patient_id: str
    image_id: str

    def seal(self, name: str) -> str:
        data, box = text_png()
        self.engine.detector.found = [box]  # type: ignore[attr-defined]
        token = self.team.technician
        data += name.encode()
        image_id = self.engine.drafts.upload(token, self.patient_id, f"{name}.png", data).image_id
        view = self.engine.drafts.open(token, image_id)
        self.engine.drafts.seal(token, image_id, view.detections)
        return image_id

    def proof(self, image_id: str) -> str:
        proof: str = self.engine.images.restore(self.team.doctor, image_id, WHY).proof
        return proof


@pytest.fixture
def moving(ward: Ward, places: Places) -> Iterator[Moving]:
    """A server on both places; one image was sealed before, in the folder."""
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    ward.engine.close()
    engine = started(places.moving)
    yield Moving(places, engine, ward.team, ward.patient_id, image_id)
    engine.close()


def test_files_move_while_people_read_and_write(moving: Moving) -> None:
    places = moving.places
    before = count(places.old)
    assert moving.engine.health.state(moving.team.administrator)["files_moving"]
    other = moving.seal("other")
    assert count(places.old) == before
    assert count(places.new) > 0
    assert [moving.proof(i) for i in (moving.image_id, other)] == ["bytes", "bytes"]
    assert moving.engine.upkeep.move_files()
    assert count(places.old) == 0
    assert [moving.proof(i) for i in (moving.image_id, other)] == ["bytes", "bytes"]
    assert not moving.engine.health.state(moving.team.administrator)["files_moving"]
    [told] = moving.engine.audit.entries(moving.team.administrator, query="files.move")
    assert told.detail["files"] == before
    assert not moving.engine.upkeep.move_files()
    assert list(Folder(places.old.data / "blobs").names()) == []  # no OWNER, no CLAIM
    moving.engine.close()
    with pytest.raises(errors.FilesElsewhere, match="set MEDSEC_BLOBS to s3://"):
        started(places.old)
    moving.engine = started(places.new)
    assert moving.proof(other) == "bytes"


def test_as_long_as_files_move_no_place_is_forgotten(moving: Moving) -> None:
    places = moving.places
    moving.engine.close()
    with pytest.raises(errors.FilesElsewhere, match="MEDSEC_BLOBS_ALSO to folder"):
        started(places.new)
    with pytest.raises(errors.FilesElsewhere):
        started(places.old)
    with pytest.raises(errors.StorageError, match="being moved"):
        move_files(places.new, "folder")
    third = replace(places.moving, blobs=f"{places.new.blobs}-third")
    with pytest.raises(errors.FilesElsewhere):
        started(third)
    # The way back is the same one.
    moving.engine = started(places.both)
    assert moving.proof(moving.image_id) == "bytes"
    assert moving.engine.upkeep.move_files()
    assert count(places.new) == 0
    moving.engine.close()
    moving.engine = started(places.old)
    assert moving.proof(moving.image_id) == "bytes"


def test_a_move_goes_on_after_a_crash_at_any_file(
    moving: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = file_moves._compare
    for most in (0, 1, 1):
        calls = itertools.count(1)

        def crashes(*args: Any, calls: Iterator[int] = calls, most: int = most) -> bool:
            if next(calls) > most:
                raise errors.StorageError("The power is gone.")
            return compare(*args)

        with monkeypatch.context() as patched:
            patched.setattr(file_moves, "_compare", crashes)
            with pytest.raises(errors.StorageError, match="power"):
                moving.engine.upkeep.move_files()
        moving.engine.close()
        moving.engine = started(moving.places.moving)
        assert moving.proof(moving.image_id) == "bytes"
    # Written to the new place, and not yet deleted at the old one.
    with monkeypatch.context() as patched:
        patched.setattr(
            Folder, "delete", lambda *_: (_ for _ in ()).throw(errors.StorageError("x"))
        )
        with pytest.raises(errors.StorageError):
            moving.engine.upkeep.move_files()
    assert moving.engine.upkeep.move_files()
    assert (count(moving.places.old), moving.proof(moving.image_id)) == (0, "bytes")


def test_a_damaged_file_stays_where_it_is_and_the_others_move(
    moving: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Folder(moving.places.old.data / "blobs")
    host = Host(blobs)
    damaged = host.write_blob(b"whole")
    path = blobs.root / damaged[:2] / damaged
    path.write_bytes(b"rotten")
    assert not moving.engine.upkeep.move_files()
    assert list(host.blobs()) == [damaged]
    assert moving.proof(moving.image_id) == "bytes"
    path.write_bytes(b"whole")
    monkeypatch.setattr("engine.service.upkeep.TICK_SECONDS", 0.01)
    moving.engine.upkeep.start()  # the server tries again by itself
    until = time.monotonic() + 60
    while moving.engine.context.file_claim.moving:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert list(host.blobs()) == []


def test_a_file_that_does_not_open_stays_where_it_is_and_the_others_move(
    moving: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(Folder(moving.places.old.data / "blobs"))
    broken = host.write_blob(b"on a bad sector")
    get = Folder.get

    def gets(self: Folder, name: str) -> bytes:
        if name.endswith(broken) and self.root == moving.places.old.data / "blobs":
            raise errors.FileUnreadable("A stored file cannot be read.", errno=5)
        return get(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "get", gets)
        assert not moving.engine.upkeep.move_files()
    assert list(host.blobs()) == [broken]
    assert moving.engine.upkeep.move_files()


def test_a_catalog_of_before_the_move_takes_no_place_that_is_in_use(
    ward: Ward, places: Places, tmp_path: Path
) -> None:
    """It knows nothing of the new place: what lies there would seem needless to it."""
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    ward.engine.close()
    shutil.copytree(places.old.data, tmp_path / "before")
    engine = started(places.moving)
    one = Moving(places, engine, ward.team, ward.patient_id, image_id)
    later = one.seal("later")
    assert engine.upkeep.move_files()
    engine.close()
    copy = replace(places.moving, data=tmp_path / "before")
    with pytest.raises(errors.OtherCopy):
        started(copy)
    one.engine = started(places.new)  # which has noticed nothing
    assert [one.proof(i) for i in (image_id, later)] == ["bytes"] * 2
    one.engine.close()
    claim_files(copy, "the copy goes on")
    started(copy).close()
    with pytest.raises(errors.OtherCopy):
        started(places.new)


def test_what_is_erased_while_files_move_does_not_come_back(
    moving: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = file_moves._compare
    begun = ["first"]

    def erases_meanwhile(address: str, source: Host, target: Host) -> bool:
        arrived = compare(address, source, target)
        with contextlib.suppress(IndexError):  # each thread that comes later
            begun.pop()
            moving.engine.images.erase(moving.team.administrator, moving.image_id, "asked for")
        return arrived

    monkeypatch.setattr(file_moves, "_compare", erases_meanwhile)
    assert moving.engine.upkeep.move_files()
    with pytest.raises(errors.EngineError):
        moving.proof(moving.image_id)
    assert count(moving.places.old) == 0
    # What is left are bytes without a key, and the sweep takes them.
    monkeypatch.setattr(TwoPlaces, "age_seconds", lambda *_: 1e6)
    moving.engine.upkeep.sweep()
    assert count(moving.places.new) == 0


def test_a_backup_amid_a_move_is_whole(
    moving: Moving, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compare, begun, done = file_moves._compare, ["first"], list[str]()
    object.__setattr__(moving.engine.settings, "backup_dir", tmp_path / "backups")

    def backs_up_meanwhile(address: str, source: Host, target: Host) -> bool:
        arrived = compare(address, source, target)
        with contextlib.suppress(IndexError):  # each thread that comes later
            begun.pop()
            done.append(moving.engine.backups.make(moving.team.administrator))
        return arrived

    monkeypatch.setattr(file_moves, "_compare", backs_up_meanwhile)
    assert moving.engine.upkeep.move_files()
    assert moving.engine.backups.verify(moving.team.administrator, done[0]) >= 2
    # Its catalog speaks of a move, and all its files come back to one place.
    bare = replace(moving.places.old, data=tmp_path / "again", backup_dir=tmp_path / "backups")
    with pytest.raises(errors.SettingsError, match="Unset MEDSEC_BLOBS_ALSO"):
        Engine.from_backup(replace(bare, blobs=moving.places.new.blobs, blobs_also="folder"))
    detector = ScriptedDetector(bare)
    again = Engine.from_backup(bare, done[0], detector=detector)
    assert again.images.restore(again.operator_token(), moving.image_id, WHY).proof == "bytes"
    assert not again.context.file_claim.moving
    again.close()
    Engine.open(bare, detector=detector).close()


def test_a_copy_of_the_installation_at_either_place_ends_the_move(moving: Moving) -> None:
    files = moving.engine.context.host.files
    assert isinstance(files, TwoPlaces)
    for place in (files.source, files.to):
        word = place.get(CLAIM)
        place.replace(CLAIM, b"a word of another copy")
        with pytest.raises(errors.OtherCopy):
            moving.engine.upkeep.move_files()
        assert [p.get(CLAIM) for p in (files.source, files.to)] == [CONTESTED] * 2
        for p in (files.source, files.to):
            p.replace(CLAIM, word)
        moving.engine.context.file_claim.contested = False
    assert count(moving.places.old) > 0
    # A place that is not mounted has no word, so nothing is taken for all there is.
    files.source.delete(CLAIM)
    with pytest.raises(errors.StorageBusy, match="no mark"):
        moving.engine.upkeep.move_files()
    moving.engine.close()
    with pytest.raises(errors.FilesElsewhere, match="mounted"):
        started(moving.places.moving)
    claim_files(moving.places.moving, "it was taken away by hand")
    moving.engine = started(moving.places.moving)
    assert moving.engine.upkeep.move_files()
    # A catalog that is set back into the move.
    with moving.engine.context.database.write() as tx:
        tx.run("INSERT INTO stored_files VALUES ('also', '')")
    moving.engine.close()
    with pytest.raises(errors.FilesElsewhere, match="MEDSEC_BLOBS_ALSO"):
        started(moving.places.new)
    claim_files(moving.places.new, "set back")
    moving.engine = started(moving.places.new)
    assert moving.proof(moving.image_id) == "bytes"


def test_two_names_of_one_place_are_not_emptied(
    moving: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = moving.engine.context.host.files
    assert isinstance(files, TwoPlaces)
    monkeypatch.setattr(files, "to", files.source)
    there = count(moving.places.old)
    with pytest.raises(errors.StorageError, match="another name"):
        moving.engine.upkeep.move_files()
    assert count(moving.places.old) == there


def test_a_file_that_moves_between_two_looks_is_found(tmp_path: Path) -> None:
    to, source = Folder(tmp_path / "to"), Folder(tmp_path / "source")
    files = TwoPlaces(to, source)
    source.put("ab/one", b"1")
    to.put("ab/two", b"2")
    source.put("ab/two", b"2")
    assert list(files.names()) == ["ab/one", "ab/two"]
    get = to.get

    class Late(Folder):
        def get(self, name: str) -> bytes:
            if (source.root / name).exists():  # it moves behind this look
                os.replace(source.root / name, to.root / name)
                raise errors.NotFound("not yet")
            return get(name)

    assert TwoPlaces(Late(to.root), source).get("ab/one") == b"1"
    files.delete("ab/two")
    assert list(files.names()) == ["ab/one"]
    with pytest.raises(errors.NotFound):
        files.get("ab/two")
    opened = files.opener(False)()
    assert opened.get("ab/one") == b"1"


def test_servers_move_one_after_another_and_none_misses_a_file(
    places: Places, cluster: Cluster, tmp_path: Path
) -> None:
    url = cluster.new()
    shared = Secret(url)

    def many(settings: Settings) -> Settings:
        return replace(
            settings, database=shared, servers="many", database_connections=4,
            data=tmp_path / "shared",
        )  # fmt: skip

    old, both, new = many(places.old), many(places.both), many(places.new)
    swapped = many(places.moving)
    first = started(old)
    team = Team(first)
    patient = first.patients.create(team.technician, "P-1", "Erika Musterfrau", 61).patient_id
    one = Moving(places, first, team, patient, "")
    early = one.seal("early")
    with pytest.raises(errors.SettingsError, match="MEDSEC_BLOBS_ALSO"):
        started(swapped)  # the first would not find what this one writes
    second = started(both)
    first.close()
    third = started(swapped)
    try:
        late = replace_engine(one, third).seal("late")
        assert replace_engine(one, second).proof(late) == "bytes"
        later = one.seal("later")  # still to the old place
        assert not second.upkeep.move_files()
        assert not third.upkeep.move_files()
        with pytest.raises(errors.SettingsError, match="MEDSEC_BLOBS_ALSO"):
            started(new)
        second.close()
        assert third.upkeep.move_files()
        fourth = started(new)
        assert [replace_engine(one, fourth).proof(i) for i in (early, late, later)] == ["bytes"] * 3
        fourth.close()
    finally:
        third.close()
    assert count(old) == 0
    assert OWNER not in list(files_of(old).names())
    cluster.take_back(url)


def test_servers_whose_folders_are_not_shared_do_not_move_files_to_one_of_them(
    places: Places, cluster: Cluster, tmp_path: Path
) -> None:
    url = cluster.new()

    def many(settings: Settings, folder: str) -> Settings:
        return replace(
            settings, database=Secret(url), servers="many", database_connections=4,
            data=tmp_path / folder,
        )  # fmt: skip

    both = replace(places.new, blobs_also="folder")
    started(many(places.new, "first")).close()
    first = started(many(both, "first"))
    try:
        with pytest.raises(errors.StorageError, match="MEDSEC_DATA"):
            started(many(both, "second"))
        with pytest.raises(errors.StorageError, match="MEDSEC_DATA"):
            started(many(replace(places.old, blobs_also=places.new.blobs), "second"))
        started(many(places.new, "second")).close()  # it only looks in the bucket
    finally:
        first.close()
    cluster.take_back(url)


def replace_engine(one: Moving, engine: Engine) -> Moving:
    one.engine = engine
    return one


def test_a_bucket_gives_a_place_that_workers_open(places: Places) -> None:
    files = files_of(places.moving)
    assert isinstance(files, TwoPlaces)
    assert isinstance(files.to, Bucket)
    opened = files.opener(False)()
    opened.put("ab/x", b"x")
    assert files.to.get("ab/x") == b"x"
