"""Backups in a bucket with object lock, against somebody with all of the server's rights."""

from __future__ import annotations

import contextlib
import os
import time
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from engine import Engine, Settings, errors
from engine.crypto.root_keys import PassphraseCost
from engine.host import Host, blob_name
from engine.service.engine import _backups_in
from engine.settings import Secret
from engine.store import backup as module
from engine.store import object_store as store_module
from engine.store.backup import Backups, Snapshot
from engine.store.file_stores import backups_of
from engine.store.locked_bucket import LockedBucket
from engine.store.object_store import Bucket
from engine.vault import SALT_RECORD, Keyring
from tests import builders
from tests.conftest import WHY, Ward, text_png
from tests.fakes import FakeHost, ScriptedDetector
from tests.object_store import ObjectStore, client

BUCKET = "locked"


@pytest.fixture
def settings(settings: Settings, object_store: ObjectStore, store_keys: None) -> Settings:
    asked = client(object_store.endpoint)
    with contextlib.suppress(asked.exceptions.BucketAlreadyOwnedByYou):  # by another test
        asked.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
    return replace(
        settings,
        backups=f"s3://{BUCKET}/{object_store.new().rpartition('/')[2]}",
        backup_lock_days=1,
        backups_kept=1,
        s3_endpoint=object_store.endpoint,
    )


@pytest.fixture
def place(settings: Settings) -> LockedBucket:
    place = backups_of(settings)
    assert isinstance(place, LockedBucket)
    return place


@pytest.fixture
def intruder(settings: Settings, object_store: ObjectStore) -> Intruder:
    return Intruder(settings, object_store)


class Intruder:
    """What can be done with the server's rights on the bucket."""

    def __init__(self, settings: Settings, store: ObjectStore) -> None:
        self.client = client(store.endpoint)
        self.prefix = settings.backups.removeprefix(f"s3://{BUCKET}/") + "/"

    def versions(self, kind: str = "Versions") -> list[dict[str, Any]]:
        answer = self.client.list_object_versions(Bucket=BUCKET, Prefix=self.prefix)
        found: list[dict[str, Any]] = answer.get(kind, [])
        return found

    def visible(self) -> list[str]:
        """As who knows of no versions sees the bucket."""
        answer = self.client.list_objects_v2(Bucket=BUCKET, Prefix=self.prefix)
        return [entry["Key"] for entry in answer.get("Contents", [])]

    def delete_versions(self) -> list[str]:
        """What could be deleted for good."""
        gone = []
        for version in self.versions():
            try:
                self.client.delete_object(
                    Bucket=BUCKET, Key=version["Key"], VersionId=version["VersionId"],
                    BypassGovernanceRetention=True,
                )  # fmt: skip
                gone.append(version["Key"])
            except ClientError as err:
                refusal = err.response["Error"]["Code"]
                if refusal != "AccessDenied":
                    raise
        return gone

    def wreck(self) -> None:
        """Put something else in place of every file, and delete that."""
        for key in self.visible():
            self.client.put_object(Bucket=BUCKET, Key=key, Body=b"{}")
            self.client.delete_object(Bucket=BUCKET, Key=key)
        assert self.visible() == []


class Small:
    """Backups of one file, without an engine."""

    def __init__(self, place: LockedBucket, host: FakeHost) -> None:
        self.host, self.place = host, place
        self.backups = Backups(place, Keyring([b"k" * 32]), host, far=True)
        self.address = host.write_blob(b"sealed")
        self.file = f"blobs/{blob_name(self.address)}"

    def make(self, salt: bytes | None = None) -> str:
        self.host.advance(minutes=1)
        return self.backups.make(Snapshot(b"catalog", [self.address], [], 0), self.host, salt)


@pytest.fixture
def small(place: LockedBucket, host: FakeHost) -> Small:
    return Small(place, host)


def place_of(engine: Engine) -> LockedBucket:
    place = engine.context._backup_place
    assert isinstance(place, LockedBucket)
    return place


def test_what_an_intruder_does_to_a_locked_backup_does_not_keep_it_from_coming_back(
    ward: Ward, settings: Settings, intruder: Intruder, tmp_path: Path
) -> None:
    engine, admin = ward.engine, ward.team.administrator
    data, found = text_png()
    kept = ward.seal(data, "Erika.png", [found])
    gone = ward.seal(builders.png(builders.labelled("OTHER")[0]), found=[found])
    name = engine.backups.make(admin)
    until = engine.backups.locked_until(admin, name)
    now = datetime.now(UTC).replace(tzinfo=None)
    assert until is not None
    assert timedelta(hours=23) < until - now <= timedelta(days=1)
    assert engine.health.state(admin)["last_backup_locked_until"] == until
    made = engine.audit.entries(admin, query="backup.make")[0]
    assert made.detail["locked_until"] == f"{until:%Y-%m-%dT%H:%M:%SZ}"
    engine.images.erase(admin, gone, "asked for it")
    engine.close()

    for version in intruder.versions():
        head = intruder.client.head_object(
            Bucket=BUCKET, Key=version["Key"], VersionId=version["VersionId"]
        )
        assert head["ObjectLockMode"] == "COMPLIANCE"
    before = {v["VersionId"] for v in intruder.versions()}
    assert intruder.delete_versions() == []
    intruder.wreck()
    assert before <= {v["VersionId"] for v in intruder.versions()}

    elsewhere = replace(settings, data=tmp_path / "recovered")
    again = Engine.from_backup(elsewhere, detector=ScriptedDetector(elsewhere))
    token = again.operator_token()
    opened = again.images.restore(token, kept, WHY)
    assert again.images.restored_file(token, opened.handle).data == data
    with pytest.raises(errors.NotFound):  # erased after the backup, and the list was wrecked, too
        again.images.restore(token, gone, WHY)
    assert again.backups.verify(token, name) == 6
    # The next backup brings what is hidden to light again, or does without it.
    later = again.backups.make(token)
    assert again.backups.verify(token, later) > 0
    again.close()


def test_pruning_leaves_what_is_locked_and_says_until_when(
    ward: Ward, host: FakeHost, intruder: Intruder
) -> None:
    engine, admin = ward.engine, ward.team.administrator
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    first = engine.backups.make(admin)
    engine.images.erase(admin, image_id, "asked for it")
    host.advance(minutes=1)
    second = engine.backups.make(admin)
    until = engine.backups.locked_until(admin, first)
    assert until is not None
    assert engine.backups.names(admin) == [first, second]
    pruned = engine.audit.entries(admin, query="backup.prune")[0]
    assert pruned.detail == {"locked": {first: f"{until:%Y-%m-%dT%H:%M:%SZ}"}}
    assert engine.backups.verify(admin, first) == 3
    # What only looks like a later backup is none.
    host.advance(minutes=1)
    junk = f"{intruder.prefix}{host.now():{module.NAME}}/manifest.json"
    intruder.client.put_object(Bucket=BUCKET, Key=junk, Body=b"{}")
    state = engine.health.state(admin)
    assert (state["last_backup_at"], state["last_backup_locked_until"]) == (
        host.now() - timedelta(minutes=1),
        engine.backups.locked_until(admin, second),
    )


@pytest.mark.slow  # the lock must last until all is locked, also on a busy machine
def test_what_is_locked_no_more_is_pruned_for_good(
    ward: Ward, host: FakeHost, intruder: Intruder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AHEAD", timedelta())
    engine, admin = ward.engine, ward.team.administrator
    place = place_of(engine)
    place.lock_days = 10 / 86_400  # type: ignore[assignment]
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    first = engine.backups.make(admin)
    engine.images.erase(admin, image_id, "asked for it")
    until = engine.backups.locked_until(admin, first)
    assert until is not None
    while place.check_lock() <= until:
        time.sleep(0.2)
    host.advance(minutes=1)
    second = engine.backups.make(admin)
    assert engine.backups.names(admin) == [second]
    pruned = engine.audit.entries(admin, query="backup.prune")[0]
    assert pruned.detail == {"names": [first]}
    # For good: neither hidden versions nor markers, of backups or of files that only they had.
    names = {v["Key"].removeprefix(intruder.prefix) for v in intruder.versions()}
    assert names == {f"{second}/manifest.json", f"{second}/catalog.sealed", "erasures.json"}
    assert intruder.versions("DeleteMarkers") == []


def test_files_that_backups_share_are_locked_again_once_a_week_and_not_by_each(
    ward: Ward, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, admin = ward.engine, ward.team.administrator
    data, found = text_png()
    ward.seal(data, found=[found])
    engine.backups.make(admin)
    locked: list[str] = []
    real = LockedBucket._lock

    def watched(self: LockedBucket, name: str, *words: Any) -> bool:
        locked.append(name)
        return real(self, name, *words)

    monkeypatch.setattr(LockedBucket, "_lock", watched)
    host.advance(minutes=1)
    engine.backups.make(admin)
    assert [name for name in locked if name.startswith("blobs/")] == []
    locked.clear()
    place_of(engine).lock_days = 9  # longer than one day and a week
    host.advance(minutes=1)
    name = engine.backups.make(admin)
    assert len([name for name in locked if name.startswith("blobs/")]) == 3
    blob = next(name for name in locked if name.startswith("blobs/"))
    ends = place_of(engine).locked_until(blob)
    backup_ends = engine.backups.locked_until(admin, name)
    assert ends is not None
    assert backup_ends is not None
    assert ends - backup_ends > timedelta(days=6)


def test_a_bucket_without_object_lock_is_refused_at_the_start_and_by_each_backup(
    ward: Ward, settings: Settings, object_store: ObjectStore, tmp_path: Path
) -> None:
    plain = replace(settings, data=tmp_path / "other", backups=object_store.new())
    with pytest.raises(errors.SettingsError, match="no object lock"):
        Engine.open(plain, Host(plain.data / "blobs"), detector=ScriptedDetector(plain))
    place_of(ward.engine)._bucket = "ready"  # as after the bucket was made anew
    with pytest.raises(errors.SettingsError, match="no object lock"):
        ward.engine.backups.make(ward.team.administrator)
    assert ward.engine.backups.names(ward.team.administrator) == []


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("_lock", lambda self, name, versions, until: True),  # it locks nothing
        ("holds", lambda self, name: False),  # it lets locks be shortened, as moto's server does
    ],
)
def test_a_store_that_only_says_it_has_locked_is_found_out(
    ward: Ward, monkeypatch: pytest.MonkeyPatch, method: str, answer: Any
) -> None:
    monkeypatch.setattr(LockedBucket, method, answer)
    with pytest.raises(errors.StorageError, match="not locked"):
        ward.engine.backups.make(ward.team.administrator)
    assert ward.engine.backups.names(ward.team.administrator) == []


def test_versions_are_read_across_pages_and_not_those_of_longer_names(
    place: LockedBucket, intruder: Intruder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "PAGE", 2)
    for content in (b"1", b"2", b"3", b"4", b"5"):
        place.replace("a", content)
    place.replace("a.longer", b"x")
    place.replace("b", b"y")
    assert list(place.versions("a")) == [b"1", b"2", b"3", b"4", b"5"]
    assert next(place.versions("a", newest_first=True)) == b"5"
    assert list(place.names()) == ["a", "a.longer", "b"]
    intruder.client.delete_object(Bucket=BUCKET, Key=f"{intruder.prefix}a")
    assert (place.get("a"), list(place.names("a"))) == (b"5", ["a", "a.longer"])
    older = [version for version, _ in place.stored("a", newest_first=True)][1:]
    place.delete_versions("a", older)
    assert list(place.versions("a")) == [b"5"]
    place.delete("a")
    assert list(place.names()) == ["a.longer", "b"]
    assert intruder.versions("DeleteMarkers") == []
    with pytest.raises(errors.NotFound):
        place.get("a")


class Killed(BaseException):
    """As by SIGKILL: nothing is cleared up."""


@pytest.mark.parametrize("at", ["lock", "holds"])
def test_a_backup_that_is_killed_before_it_is_locked_is_none_and_the_next_locks_all(
    small: Small, intruder: Intruder, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(LockedBucket, at, die)
        with pytest.raises(Killed):
            small.make()
    assert small.backups.names() == []
    name = small.make()
    assert small.place.locked_until(small.file) is not None
    intruder.delete_versions()
    assert small.backups.verify(name) == 1


def test_a_backup_that_fails_its_check_is_none_though_nothing_can_be_deleted(
    small: Small, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _bucket("keeps", object_store, {"Mode": "COMPLIANCE", "Days": 30})
    small.backups = Backups(_elsewhere(small, "keeps"), Keyring([b"k" * 32]), small.host, far=True)
    with monkeypatch.context() as patch:
        patch.setattr(Backups, "_blob", _raise(errors.NotFound("gone")))
        with pytest.raises(errors.BackupInvalid):
            small.make()
    assert small.backups.names() == []
    assert small.backups.verify(small.make()) == 1


def test_manifests_that_were_copied_to_another_bucket_prove_no_locks(
    small: Small, object_store: ObjectStore
) -> None:
    first = small.make()
    _bucket("copy", object_store)
    there = _elsewhere(small, "copy")
    for name in small.place.names():
        there.replace(name, small.place.get(name))
    assert there.locked_until(small.file) is None
    small.backups = Backups(there, Keyring([b"k" * 32]), small.host, far=True)
    assert small.backups.names() == [first]
    small.make()
    assert there.locked_until(small.file) is not None


def test_locks_that_can_be_lifted_are_refused_or_made_ones_that_cannot(
    small: Small, object_store: ObjectStore, intruder: Intruder
) -> None:
    _bucket("lifted", object_store, {"Mode": "GOVERNANCE", "Days": 30})
    with pytest.raises(errors.SettingsError, match="governance"):
        _elsewhere(small, "lifted").check_lock()
    far = datetime.now(UTC) + timedelta(days=60)
    intruder.client.put_object(
        Bucket=BUCKET, Key=intruder.prefix + small.file, Body=b"sealed",
        ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=far,
    )  # fmt: skip
    assert small.place.locked_until(small.file) is None
    small.make()
    until = small.place.locked_until(small.file)
    assert until is not None
    assert until > (datetime.now(UTC) + timedelta(days=59)).replace(tzinfo=None)


def test_junk_under_the_name_of_a_new_file_is_not_taken_for_it(
    small: Small, intruder: Intruder
) -> None:
    intruder.client.put_object(Bucket=BUCKET, Key=intruder.prefix + small.file, Body=b"junk")
    name = small.make()
    assert small.backups.verify(name) == 1
    assert list(small.place.versions(small.file)) == [b"junk", b"sealed"]


def test_a_list_of_erasures_that_is_put_again_hides_no_later_one(
    small: Small, intruder: Intruder
) -> None:
    listed = small.place.locked_until
    small.backups.record_erasures([("image", "im_one")])
    old = small.place.get("erasures.json")
    small.backups.record_erasures([("image", "im_two")])
    everything = {("image", "im_one"), ("image", "im_two")}
    for _ in range(2):  # before and after a backup, which renews the lock of the right one
        intruder.client.put_object(Bucket=BUCKET, Key=f"{intruder.prefix}erasures.json", Body=old)
        intruder.delete_versions()
        assert small.backups.erasures() == everything
        small.backups.prune(1, small.make())
    assert listed("erasures.json") is not None
    small.backups.record_erasures([])
    assert small.backups.erasures() == everything


def test_versions_that_the_store_does_not_give_out_stop_nothing(
    small: Small, intruder: Intruder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.backups.record_erasures([("image", "im_one")])
    name = small.make()
    foreign: dict[str, Any] = {
        "SSECustomerAlgorithm": "AES256", "SSECustomerKey": b"s" * 32
    }  # fmt: skip
    for key in [*intruder.visible(), f"{intruder.prefix}20300101T000000000000/manifest.json"]:
        intruder.client.put_object(Bucket=BUCKET, Key=key, Body=b"{}", **foreign)
    assert small.backups.erasures() == {("image", "im_one")}
    assert small.backups.newest() == name
    assert small.backups.locked_until(name) is not None
    small.backups.restore(name, tmp_path / "recovered", Host(tmp_path / "files"))
    later = small.make()
    small.backups.prune(9, later)
    assert small.backups.newest() == later
    # Where the store gives out none at all, it is the rights that are wrong, and not the files.
    monkeypatch.setattr(LockedBucket, "_read", _raise(errors.FileUnreadable("refused")))
    with pytest.raises(errors.StoreUnavailable):
        small.backups.erasures()


def test_a_salt_that_an_intruder_put_first_hides_not_the_right_one(
    settings: Settings, place: LockedBucket, intruder: Intruder, host: FakeHost, tmp_path: Path
) -> None:
    with_passphrase = replace(
        settings, key_file=None, key_passphrase=Secret("a long passphrase that people remember")
    )
    settings.data.mkdir(parents=True)
    cost = PassphraseCost(19_456, 2, 1)
    keyring = Keyring.load(with_passphrase, os.urandom, create=True, cost=cost)
    salt = (settings.data / SALT_RECORD).read_bytes()
    digits = salt.index(b'salt = "') + 8
    for wrong in (b"junk", salt[:digits] + b"0" * 32 + salt[digits + 32 :]):
        intruder.client.put_object(Bucket=BUCKET, Key=intruder.prefix + SALT_RECORD, Body=wrong)
    for _ in range(2):
        host.advance(minutes=1)
        name = Backups(place, keyring, host).make(Snapshot(b"", [], [], 0), host, salt)
    assert list(place.versions(SALT_RECORD))[-1] == salt
    assert len(list(place.versions(SALT_RECORD))) == 3
    elsewhere = replace(with_passphrase, data=tmp_path / "recovered")
    assert _backups_in(place, elsewhere, host).newest() == name
    assert (elsewhere.data / SALT_RECORD).read_bytes() == salt
    (elsewhere.data / SALT_RECORD).unlink()
    mistyped = replace(elsewhere, key_passphrase=Secret("another long passphrase of people"))
    with pytest.raises(errors.BackupInvalid, match="fits none of 3 salts"):
        _backups_in(place, mistyped, host)
    assert not (elsewhere.data / SALT_RECORD).exists()


def test_what_nobody_can_delete_keeps_the_rest_from_being_pruned_no_longer(
    small: Small, intruder: Intruder
) -> None:
    """Unlocked backups, as when their locks have ended; one is held, and junk locked for ever."""
    for version in range(2):
        small.address = small.host.write_blob(b"file %d" % version)
        unlocked = Backups(_plain(small.place), Keyring([b"k" * 32]), small.host, far=True)
        small.host.advance(minutes=1)
        unlocked.make(Snapshot(b"catalog", [small.address], [], 0), small.host, None)
    held, gone = small.backups.names()
    intruder.client.put_object_legal_hold(
        Bucket=BUCKET, Key=f"{intruder.prefix}{held}/manifest.json", LegalHold={"Status": "ON"}
    )
    junk = "20990101T000000000000"
    intruder.client.put_object(
        Bucket=BUCKET, Key=f"{intruder.prefix}{junk}/manifest.json", Body=b"{}",
        ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=datetime(2099, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    only_gone = f"blobs/{blob_name(small.address)}"
    small.address = small.host.write_blob(b"sealed")
    last = small.make()
    pruned, locked = small.backups.prune(1, last)
    assert (pruned, list(locked)) == ([gone], [junk])
    assert small.backups.names() == [held, last, junk]
    assert list(small.place.names(only_gone)) == []
    assert small.backups.verify(held) == 1
    assert not small.backups.is_readable(junk)


def test_what_is_too_large_for_the_memory_is_not_read(
    place: LockedBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.replace("a", b"ours")
    place.replace("a", b"x" * 100)
    place._most_bytes = 50
    assert place.get("a") == b"ours"


def _bucket(name: str, store: ObjectStore, retention: dict[str, Any] | None = None) -> None:
    asked = client(store.endpoint)
    with contextlib.suppress(asked.exceptions.BucketAlreadyOwnedByYou):
        asked.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    if retention:
        asked.put_object_lock_configuration(
            Bucket=name,
            ObjectLockConfiguration={
                "ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": retention},
            },
        )  # fmt: skip


def _plain(place: LockedBucket) -> Bucket:
    there = Bucket(place._at)
    assert there._prefix == place._prefix
    return there


def _elsewhere(small: Small, bucket: str) -> LockedBucket:
    there = copy(small.place)
    there._bucket = bucket
    there._at = replace(there._at, url=there._at.url.replace(BUCKET, bucket, 1))
    return there


def _raise(err: BaseException) -> Any:
    def raises(*_: Any, **__: Any) -> None:
        raise err

    return raises
