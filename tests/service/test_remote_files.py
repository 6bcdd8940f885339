"""The whole engine with its files in an object store, on a good day and on a bad one."""

from __future__ import annotations

import re
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from engine import Engine, Settings, claim_files, errors
from engine.service import upkeep
from engine.settings import Secret
from engine.store import object_store as module
from engine.store.file_stores import files_of
from tests import builders
from tests.conftest import WHY, Team, Ward, text_png
from tests.fakes import FakeHost, ScriptedDetector
from tests.object_store import FaultyProxy, ObjectStore, client
from tests.postgresql import Cluster
from tests.service.test_scrub import Waits

NAMES = re.compile(r"catalog\.id|files\.claim|([0-9a-f]{2})/\1[0-9a-f]{62}")


@pytest.fixture
def settings(
    settings: Settings,
    proxy: FaultyProxy,
    object_store: ObjectStore,
    store_keys: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Settings:
    for name, value in (("ATTEMPTS", 1), ("READ_SECONDS", 5.0), ("PAUSE_SECONDS", 0.01)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(upkeep, "ORPHAN_ELSEWHERE_SECONDS", -1.0)
    return replace(
        settings,
        blobs=object_store.new(),
        s3_endpoint=proxy.endpoint,
        backup_dir=tmp_path / "backups",
    )


@pytest.fixture
def host(settings: Settings) -> FakeHost:
    return FakeHost(files_of(settings))


@pytest.fixture
def prepared() -> None:
    """Nothing: a prepared folder has its files in it."""


def stored(settings: Settings, store: ObjectStore) -> dict[str, bytes]:
    """Every object by its name, and that none says anything besides."""
    bucket, _, prefix = settings.blobs.removeprefix("s3://").partition("/")
    asked = client(store.endpoint)
    found = {}
    for entry in asked.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/").get("Contents", ()):
        answer = asked.get_object(Bucket=bucket, Key=entry["Key"])
        assert answer["Metadata"] == {}
        found[entry["Key"].removeprefix(f"{prefix}/")] = answer["Body"].read()
    return found


def test_a_day_on_an_object_store(
    ward: Ward, settings: Settings, object_store: ObjectStore, tmp_path: Path
) -> None:
    engine, team = ward.engine, ward.team
    data, found = text_png()
    kept = ward.seal(data, "Erika.png", [found])
    assert engine.upkeep.sweep() == 1  # the draft's file: none is deleted at once
    gone = ward.upload(builders.png(builders.labelled("WAITS")[0]), found=[found])
    assert engine.images.restore(team.doctor, kept, WHY).proof == "bytes"
    name = engine.backups.make(team.administrator)
    assert engine.backups.verify(team.administrator, name) == 4
    objects = stored(settings, object_store)
    assert len(objects) == 6  # with those that say whose they are
    for key, content in objects.items():
        assert NAMES.fullmatch(key)
        assert not any(word in content for word in (b"Erika", b"Musterfrau", b"P-1", data[:20]))
    assert not (settings.data / "blobs").exists()

    engine.drafts.discard(team.technician, gone, "not his")
    orphan = engine.context.host.write_blob(b"left by a crash")
    assert engine.upkeep.sweep() == 2
    assert len(stored(settings, object_store)) == 5
    assert orphan not in set(engine.context.host.blobs())
    assert list(engine.health.verify_images(team.administrator)) == [(kept, None)]
    engine.close()

    # Not where others may be at work: what is newer than the backup would be swept.
    with pytest.raises(errors.StorageError, match="empty place"):
        Engine.from_backup(replace(settings, data=tmp_path / "new"))
    # another machine takes the backup, to a place of its own
    elsewhere = replace(settings, data=tmp_path / "new", blobs=object_store.new())
    recovered = Engine.from_backup(elsewhere, detector=ScriptedDetector(elsewhere))
    token = recovered.operator_token()
    opened = recovered.images.restore(token, kept, WHY)
    assert recovered.images.restored_file(token, opened.handle).data == data
    assert recovered.drafts.waiting(token) == []  # what was discarded later is not back
    recovered.close()
    with pytest.raises(errors.StorageError, match="no catalog"):
        Engine.open(replace(settings, data=tmp_path / "other", key_file=tmp_path / "other.key"))


def test_a_store_that_is_away_is_an_error_with_a_name_and_no_damage(
    ward: Ward, settings: Settings, proxy: FaultyProxy
) -> None:
    engine, team = ward.engine, ward.team
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    proxy.times(10_000, "503")
    with pytest.raises(errors.StoreUnavailable):
        ward.upload(data + b" ", found=[found])
    assert engine.drafts.waiting(team.technician) == []
    with pytest.raises(errors.StoreUnavailable):
        engine.images.restore(team.doctor, image_id, WHY)
    with pytest.raises(errors.StoreUnavailable):
        engine.backups.make(team.administrator)
    assert engine.backups.names(team.administrator) == []
    # The check of files waits until the store is back, and reports nothing as damaged.
    pauses = Waits()
    real = pauses.wait

    def back(timeout: float | None = None) -> bool:
        proxy.times(0, "503")
        return real(timeout)

    pauses.wait = back  # type: ignore[method-assign]
    engine.upkeep.scrub.run(pauses)
    assert 60.0 in pauses.pauses
    assert engine.upkeep.scrub.state["broken"] == []
    assert engine.images.restore(team.doctor, image_id, WHY).proof == "bytes"
    entries = [e.outcome for e in engine.context.audit.entries(query="image.restore")]
    assert "failed" in entries


def test_a_list_that_is_late_deletes_nothing_that_is_needed(ward: Ward, proxy: FaultyProxy) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    ward.engine.context.host.write_blob(b"left by a crash")
    proxy.times(1, "late", "GET")
    assert ward.engine.upkeep.sweep() + ward.engine.upkeep.sweep() == 2  # and the draft's
    assert len(list(ward.engine.context.host.blobs())) == 3
    assert ward.engine.images.restore(ward.team.doctor, image_id, WHY).proof == "bytes"


def test_another_installation_keeps_off(ward: Ward, settings: Settings, tmp_path: Path) -> None:
    ward.engine.close()
    other = replace(settings, data=tmp_path / "other", key_file=tmp_path / "other.key")
    with pytest.raises(errors.StorageError, match="another installation"):
        Engine.open(other, detector=ScriptedDetector(other))


def test_the_engine_opens_again_on_its_bucket(ward: Ward, settings: Settings) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    ward.engine.close()
    again = Engine.open(settings, detector=ScriptedDetector(settings), operator=True)
    token = again.operator_token()
    assert again.images.restore(token, image_id, WHY).proof == "bytes"
    again.close()


def test_backups_in_a_bucket_hold_the_new_alone_and_bring_back_all_but_the_erased(
    settings: Settings,
    host: FakeHost,
    proxy: FaultyProxy,
    object_store: ObjectStore,
    tmp_path: Path,
) -> None:
    kept_in = replace(settings, backup_dir=None, backups=object_store.new(), backups_kept=2)
    engine = Engine.open(kept_in, host, detector=ScriptedDetector(kept_in))
    team = Team(engine)
    patient = engine.patients.create(team.technician, "P-1", "Erika Musterfrau", 61)
    detector = engine.detector
    assert isinstance(detector, ScriptedDetector)
    ward = Ward(engine, team, detector, patient.patient_id)
    data, found = text_png()
    kept = ward.seal(data, found=[found])
    engine.backups.make(team.administrator)
    gone = ward.upload(builders.png(builders.labelled("WAITS")[0]), found=[found])
    host.advance(minutes=1)
    proxy.requests.clear()
    second = engine.backups.make(team.administrator)
    # Of the seven files, those of the first image are not moved again.
    read = [r for r in proxy.requests if r.startswith("GET") and re.search(r"/[0-9a-f]{64}$", r)]
    assert len(read) == 2  # the draft's, where it was and where it is now
    assert engine.backups.verify(team.administrator, second) == 4

    proxy.times(10_000, "503")
    with pytest.raises(errors.StoreUnavailable):
        engine.backups.make(team.administrator)
    proxy.times(0, "503")
    assert engine.backups.names(team.administrator)[-1] == second

    engine.drafts.discard(team.technician, gone, "not his")
    host.advance(minutes=1)
    engine.backups.make(team.administrator)
    assert len(engine.backups.names(team.administrator)) == 2  # the first was pruned
    engine.close()

    elsewhere = replace(kept_in, data=tmp_path / "new", blobs=object_store.new())
    recovered = Engine.from_backup(elsewhere, second, detector=ScriptedDetector(elsewhere))
    token = recovered.operator_token()
    assert recovered.images.restore(token, kept, WHY).proof == "bytes"
    assert recovered.drafts.waiting(token) == []
    place = recovered.context.backup_folder()._blobs
    place.files.replace(f"{(rotten := next(place.blobs()))[:2]}/{rotten}", b"rotten")
    with pytest.raises(errors.BackupInvalid):
        recovered.backups.verify(token, second)
    recovered.close()


def test_what_was_erased_stays_erased_in_a_catalog_set_back_beside_backups_in_a_bucket(
    settings: Settings, host: FakeHost, proxy: FaultyProxy, object_store: ObjectStore
) -> None:
    kept_in = replace(settings, backup_dir=None, backups=object_store.new())
    engine = Engine.open(kept_in, host, detector=ScriptedDetector(kept_in))
    team = Team(engine)
    patient = engine.patients.create(team.technician, "P-1", "Erika Musterfrau", 61)
    assert isinstance(engine.detector, ScriptedDetector)
    ward = Ward(engine, team, engine.detector, patient.patient_id)
    data, found = text_png()
    gone = ward.seal(data, found=[found])
    engine.close()
    file = settings.data / "catalog.duckdb"
    before = file.read_bytes()
    engine = Engine.open(kept_in, host, detector=ScriptedDetector(kept_in))
    engine.images.erase(team.administrator, gone, "asked for it")
    engine.close()
    file.write_bytes(before)  # as a disk's own means bring it back

    # The list cannot be read: nobody may see what it names, so nobody is let in.
    bucket = kept_in.backups.removeprefix("s3:/")
    for fault in ("503", "drop"):
        proxy.fault = lambda _, path, fault=fault: fault if path.startswith(bucket) else None
        with pytest.raises(errors.StoreUnavailable, match="list of what was erased"):
            Engine.open(kept_in, host, detector=ScriptedDetector(kept_in))
    proxy.fault = lambda method, path: None
    engine = Engine.open(kept_in, host, detector=ScriptedDetector(kept_in), operator=True)
    with pytest.raises(errors.NotFound):
        engine.images.restore(engine.operator_token(), gone, WHY)
    assert ("image", gone) in engine._erasures.known(engine.context.database.read())
    engine.close()


def test_two_live_copies_of_one_installation_delete_nothing_of_each_other(
    ward: Ward, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, data, found = ward.engine, *text_png()
    with first.context.database.still() as (_, content):  # a machine is cloned
        copied = replace(settings, data=tmp_path / "copy", backup_hours=0.0)
        copied.data.mkdir()
        (copied.data / "catalog.duckdb").write_bytes(content)
    second = Engine.open(copied, detector=ScriptedDetector(copied, [found]), operator=True)
    mine = ward.seal(data, found=[found])
    token = second.operator_token()
    picture = builders.png(builders.labelled("THEIRS")[0])
    theirs = second.drafts.upload(token, ward.patient_id, "b.png", picture).image_id
    first.context.live.settings = replace(first.settings, backups_kept=1)
    backups = [first.backups.make(ward.team.administrator)]
    there = len(list(first.context.host.blobs()))
    first.upkeep.look_for_copies()
    monkeypatch.setattr(upkeep, "LOOK_SECONDS", 0.05)
    second.upkeep.start()  # as a server, it looks by itself
    until = time.monotonic() + 30
    while not second.context.file_claim.contested:
        assert time.monotonic() < until
        time.sleep(0.05)
    for engine in (first, second):
        engine.upkeep.look_for_copies()
        with pytest.raises(errors.OtherCopy):
            engine.upkeep.sweep()
    second.drafts.discard(token, theirs, "not his")  # nor at once
    assert len(list(first.context.host.blobs())) == there
    assert first.images.restore(ward.team.doctor, mine, WHY).proof == "bytes"
    ward.engine.context.host.advance(minutes=1)  # type: ignore[attr-defined]
    backups.append(first.backups.make(ward.team.administrator))
    assert first.backups.names(ward.team.administrator) == backups  # none was pruned
    state = first.health.state(ward.team.administrator)
    assert "another copy uses the files" in state["broken"]
    [told] = first.context.audit.entries(query="files.contest")
    assert told.outcome == "failed"
    first.close()
    second.close()
    for chosen in (settings, copied):
        with pytest.raises(errors.OtherCopy, match="files-claim"):
            Engine.open(chosen, detector=ScriptedDetector(chosen))

    claim_files(settings, "the clone is switched off")
    again = Engine.open(settings, detector=ScriptedDetector(settings), operator=True)
    assert again.upkeep.sweep() > 0  # the clone's, and the draft's
    assert again.images.restore(again.operator_token(), mine, WHY).proof == "bytes"
    assert "the clone" in again.context.audit.entries(query="files.claim")[0].reason
    again.close()


@pytest.mark.parametrize(
    "both",
    [
        {"blobs": "s3://bucket/files", "backups": "s3://bucket/files/backups"},
        {"blobs": "s3://bucket/x", "backups": "s3://bucket/x/"},
        {"backups": "s3://bucket/backups", "backup_dir": Path("backups")},
    ],
)
def test_backups_lie_in_one_place_apart_from_the_files(both: dict[str, str]) -> None:
    with pytest.raises(errors.SettingsError, match="MEDSEC_BACKUPS"):
        Settings(**both)  # type: ignore[arg-type]


def test_two_servers_need_no_folder_in_common(
    settings: Settings, cluster: Cluster, object_store: ObjectStore, tmp_path: Path
) -> None:
    """Catalog on PostgreSQL, files and backups in buckets: each has a data folder of its own."""
    first_of = replace(
        settings,
        database=Secret(cluster.new()),
        database_connections=6,
        servers="many",
        backup_dir=None,
        backups=object_store.new(),
    )
    second_of = replace(first_of, data=tmp_path / "second")
    first, second = (
        Engine.open(chosen, detector=ScriptedDetector(chosen)) for chosen in (first_of, second_of)
    )
    team = Team(first)
    patient = first.patients.create(team.technician, "P-1", "Erika Musterfrau", 61)
    assert isinstance(first.detector, ScriptedDetector)
    ward = Ward(first, team, first.detector, patient.patient_id)
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    assert second.images.restore(team.doctor, image_id, WHY).proof == "bytes"
    assert second.backups.make(team.administrator) in first.backups.names(team.administrator)
    with pytest.raises(errors.SettingsError, match="would not look"):
        Engine.open(replace(second_of, data=tmp_path / "third", blobs=object_store.new()))
    first.close()  # and its machine is gone
    shutil.rmtree(first_of.data)
    assert second.images.masked_file(team.doctor, image_id).data
    second.close()
    again = Engine.open(replace(first_of, data=tmp_path / "fourth"), detector=second.detector)
    assert again.images.restore(team.doctor, image_id, WHY).proof == "bytes"
    # Files that were moved by another server's hand: this one stops within a beat.
    ended = threading.Event()
    again.context.database.when_expelled = ended.set
    with again.context.database.write() as tx:
        tx.run("UPDATE stored_files SET value = 's3://ready/moved' WHERE name = 'place'")
        tx.announce()
    assert ended.wait(20)
    with pytest.raises(errors.StorageError, match="Start it again"):
        again.patients.create(team.technician, "P-2", "Jan Nowak", 44)
    again.close()
    with pytest.raises(errors.FilesElsewhere, match="s3://ready/moved"):
        Engine.open(replace(first_of, data=tmp_path / "fourth"), detector=second.detector)
    assert first_of.database is not None
    cluster.take_back(first_of.database)
