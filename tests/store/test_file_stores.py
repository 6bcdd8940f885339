"""Files in a folder and in a bucket: the same promises, kept by a bad object store, too."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from engine import errors
from engine.host import FileStore, Host
from engine.settings import Settings
from engine.store import object_store as module
from engine.store.file_stores import claim, files_of
from engine.store.object_store import Bucket
from engine.store.time_limit import TimeLimit
from tests.certificates import Authority
from tests.object_store import FaultyProxy, ObjectStore

DAY = 86_400.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data")  # no test here asks a catalog


@pytest.fixture
def remote(settings: Settings, object_store: ObjectStore, store_keys: None) -> Settings:
    return replace(settings, blobs=object_store.new(), s3_endpoint=object_store.endpoint)


@pytest.fixture(params=["folder", "bucket"])
def files(request: pytest.FixtureRequest, settings: Settings) -> FileStore:
    chosen = request.getfixturevalue("remote") if request.param == "bucket" else settings
    return files_of(chosen)


@pytest.fixture
def bucket(remote: Settings) -> Bucket:
    opened = files_of(remote)
    assert isinstance(opened, Bucket)
    return opened


@pytest.fixture
def behind(remote: Settings, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> FileStore:
    """The bucket through the proxy, with little patience."""
    for name, value in (("ATTEMPTS", 2), ("READ_SECONDS", 0.5), ("PAUSE_SECONDS", 0.01)):
        monkeypatch.setattr(module, name, value)
    return files_of(replace(remote, s3_endpoint=proxy.endpoint))


# the same promises


def test_a_file_is_written_once_read_replaced_and_deleted(files: FileStore) -> None:
    assert files.put("ab/one", b"first")
    assert not files.put("ab/one", b"second")
    assert files.get("ab/one") == b"first"
    files.replace("ab/one", b"third")
    assert files.get("ab/one") == b"third"
    files.delete("ab/one")
    files.delete("ab/one")
    with pytest.raises(errors.NotFound):
        files.get("ab/one")


def test_an_empty_file_is_a_file(files: FileStore) -> None:
    assert files.put("ab/empty", b"")
    assert files.get("ab/empty") == b""


def test_names_are_listed_in_order_by_how_they_begin(
    files: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    wanted = ["aa/1", "aa/2", "ab/1", "ab/x/3", "b"]
    for name in reversed(wanted):
        files.put(name, b"x")
    assert list(files.names()) == wanted
    assert list(files.names("a")) == wanted[:4]
    assert list(files.names("ab/")) == ["ab/1", "ab/x/3"]
    assert list(files.names("none/")) == []


def test_the_age_of_a_file_is_told_by_the_clock_that_noted_it(
    files: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.put("ab/one", b"x")
    assert files.age_seconds("ab/none") == 0.0
    if isinstance(files, Bucket):  # ours is a day ahead of the store's
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + DAY)
    assert 0.0 <= files.age_seconds("ab/one") < 60.0


def test_a_file_that_has_rotted_is_refused_and_written_again(files: FileStore) -> None:
    host = Host(files)
    address = host.write_blob(b"content")
    assert host.write_blob(b"content") == address
    assert list(host.blobs()) == [address]
    files.replace(f"{address[:2]}/{address}", b"c0ntent")
    with pytest.raises(errors.SealBroken) as caught:
        host.read_blob(address)
    assert caught.value.facts == {"blob": address}
    host.write_blob(b"content")
    assert host.read_blob(address) == b"content"


def test_workers_open_the_same_files(files: FileStore) -> None:
    files.put("ab/one", b"x")
    sent = pickle.dumps(files.opener(elsewhere=False))
    assert pickle.loads(sent)().get("ab/one") == b"x"  # noqa: S301 - our own


def test_many_write_at_once_and_all_files_are_whole(files: FileStore) -> None:
    host = Host(files)
    contents = [bytes([n]) * 1000 for n in range(8)] * 2
    with ThreadPoolExecutor(8) as pool:
        addresses = list(pool.map(host.write_blob, contents))
    assert [host.read_blob(a) for a in addresses] == contents
    assert len(list(host.blobs())) == 8


# only a bucket


def test_a_bucket_lets_one_of_many_writers_win(bucket: Bucket) -> None:
    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(lambda n: bucket.put("one", bytes([n])), range(6)))
    assert won.count(True) == 1
    assert bucket.get("one") == bytes([won.index(True)])


def test_a_large_file_goes_in_parts(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 5 * 1024 * 1024)
    content = bytes(range(256)) * (11 * 4096)  # 11 MiB
    assert bucket.put("large", content)
    assert not bucket.put("large", content[::-1])
    assert bucket.get("large") == content
    assert unfinished(bucket) == 0


def unfinished(bucket: Bucket) -> int:
    page = bucket._client.list_multipart_uploads(Bucket=bucket._bucket, Prefix=bucket._prefix)
    return len(page.get("Uploads", ()))


def test_unfinished_parts_are_swept_when_they_are_old(bucket: Bucket) -> None:
    bucket._client.create_multipart_upload(Bucket=bucket._bucket, Key=f"{bucket._prefix}ab/left")
    assert bucket.clear_unfinished(DAY) == 0
    assert unfinished(bucket) == 1
    assert bucket.clear_unfinished() == 1
    assert unfinished(bucket) == 0


def test_a_bucket_belongs_to_one_installation(bucket: Bucket) -> None:
    claim(bucket, "this", new=True)
    claim(bucket, "this", new=True)
    with pytest.raises(errors.StorageError, match="another installation"):
        claim(bucket, "that", new=True)


def test_a_store_that_ignores_conditions_is_refused(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "put", lambda name, data: True)
    with pytest.raises(errors.StorageError, match="If-None-Match"):
        claim(bucket, "this", new=True)


def test_workers_elsewhere_get_no_credentials(bucket: Bucket) -> None:
    assert b"medsec-test-secret" in pickle.dumps(bucket.opener(elsewhere=False))
    assert b"medsec-test" not in pickle.dumps(bucket.opener(elsewhere=True))
    assert "medsec-test" not in repr(bucket.opener(elsewhere=False))


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        ({"secret": "another"}, errors.StoreUnavailable, "refuses"),
        ({"secret": None}, errors.SettingsError, "AWS_ACCESS_KEY_ID"),
        ({"s3_endpoint": "http://127.0.0.1:9"}, errors.StoreUnavailable, "does not answer"),
    ],
)
def test_what_is_set_wrongly_is_said(
    remote: Settings,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str],
    kind: type[errors.EngineError],
    match: str,
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    if "secret" in change:
        if change["secret"] is None:
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                monkeypatch.delenv(name)
            monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        else:
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", change["secret"])
        change = {}
    with pytest.raises(kind, match=match):
        files_of(replace(remote, **change)).put("ab/one", b"x")


@pytest.mark.parametrize(
    "wrong",
    [
        {"blobs": "https://bucket"},
        {"blobs": "s3://B"},
        {"blobs": "s3://bucket/../x"},
        {"blobs": "s3://bucket"},
        {"s3_endpoint": "http://store.example"},
        {"backup_lock_days": 30},  # and no bucket for backups
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(errors.SettingsError):
        Settings(**wrong)  # type: ignore[arg-type]


# a store that is slow, full of errors, or breaks off


@pytest.mark.parametrize("fault", ["503", "500", "drop", "lost"])
def test_what_passes_is_tried_again(behind: FileStore, proxy: FaultyProxy, fault: str) -> None:
    host = Host(behind)
    proxy.times(1, fault, "PUT")
    address = host.write_blob(b"content")
    proxy.times(1, fault, "GET")
    assert host.read_blob(address) == b"content"
    proxy.times(1, fault, "DELETE")
    host.delete_blob(address)
    assert list(host.blobs()) == []


@pytest.mark.parametrize("fault", ["503", "drop", "lost", "slow"])
def test_what_does_not_pass_is_a_named_error_and_nothing_half(
    behind: FileStore, proxy: FaultyProxy, bucket: Bucket, fault: str
) -> None:
    host = Host(behind)
    proxy.times(100, fault)
    with pytest.raises(errors.StoreUnavailable, match="MEDSEC_S3_ENDPOINT"):
        host.write_blob(b"content")
    with pytest.raises(errors.StoreUnavailable):
        list(host.blobs())
    host.delete_blob("00" * 32)  # left to the sweep
    there = list(Host(bucket).blobs())
    assert len(there) == (1 if fault == "lost" else 0)
    assert [Host(bucket).read_blob(a) for a in there] == [b"content"] * len(there)


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD"])
def test_a_store_that_answers_a_byte_now_and_then_is_waited_for_so_long(
    behind: FileStore, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Each byte comes within the time limit of a read, so that alone ends nothing."""
    monkeypatch.setattr(module, "CALL_SECONDS", 0.6)
    behind.put("ab/one", b"x" * 1000)
    proxy.times(100, "drip", method)
    began = time.monotonic()
    with pytest.raises(errors.StoreUnavailable, match="too slowly"):
        {
            "GET": lambda: behind.get("ab/one"),
            "PUT": lambda: behind.put("ab/two", b"x"),
            "HEAD": lambda: behind.age_seconds("ab/one"),
        }[method]()
    assert time.monotonic() - began < 12.0  # with a try that ends at once
    monkeypatch.setattr(module, "CALL_SECONDS", 60.0)
    proxy.times(0, "drip")
    assert behind.get("ab/one") == b"x" * 1000  # the next call has its own time


def test_over_tls_the_same_certificate_is_asked_for_and_the_same_time_is_given(
    remote: Settings, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    authority = Authority("Hospital CA")
    files = [tmp_path / name for name in ("certificate.pem", "key.pem", "ca.pem")]
    for path, content in zip(files, (*authority.signed("localhost"), authority.pem), strict=True):
        path.write_bytes(content)
    there = proxy.speak_tls(*files[:2]).replace("127.0.0.1", "localhost")
    trusted = files_of(replace(remote, s3_endpoint=there, s3_ca_file=files[2]))
    trusted.put("ab/one", b"x" * 1000)
    assert trusted.get("ab/one") == b"x" * 1000
    with pytest.raises(errors.StoreUnavailable, match="not trusted"):
        files_of(replace(remote, s3_endpoint=there)).get("ab/one")
    monkeypatch.setattr(module, "CALL_SECONDS", 0.6)
    proxy.times(100, "drip", "GET")
    with pytest.raises(errors.StoreUnavailable, match="too slowly"):
        trusted.get("ab/one")


def test_a_large_file_has_more_time() -> None:
    with TimeLimit(0.05).counting() as limit:
        limit.extend(60.0)  # what its size is worth
        time.sleep(0.2)
        assert not limit.over
    with TimeLimit(0.05).counting() as limit:
        time.sleep(0.2)
        assert limit.over


def test_a_read_that_is_cut_short_is_never_a_file(behind: FileStore, proxy: FaultyProxy) -> None:
    behind.put("ab/one", b"x" * 100_000)
    proxy.times(1, "cut", "GET")
    assert behind.get("ab/one") == b"x" * 100_000
    proxy.times(100, "cut", "GET")
    with pytest.raises(errors.StoreUnavailable, match="broke off"):
        behind.get("ab/one")


def test_a_byte_that_changes_on_the_way_is_not_stored(
    behind: FileStore, proxy: FaultyProxy, bucket: Bucket
) -> None:
    proxy.times(100, "flip", "PUT")
    with pytest.raises(errors.StorageError):
        behind.put("ab/one", b"content")
    assert list(bucket.names()) == []


def test_a_part_that_fails_takes_all_parts_with_it(
    behind: FileStore, proxy: FaultyProxy, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 5 * 1024 * 1024)
    proxy.fault = lambda method, path: "503" if "partNumber=2" in path else None
    with pytest.raises(errors.StoreUnavailable):
        behind.put("large", bytes(11 * 1024 * 1024))
    assert unfinished(bucket) == 0
    assert list(bucket.names()) == []


@pytest.mark.slow
def test_a_store_that_is_killed_among_writers_loses_nothing_acknowledged(
    object_store: ObjectStore, settings: Settings, store_keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_SECONDS", 3.0)
    here = ObjectStore()
    acknowledged: list[tuple[str, bytes]] = []
    failed: list[Exception] = []
    stop = threading.Event()
    try:
        host = Host(files_of(replace(settings, blobs=here.new(), s3_endpoint=here.endpoint)))

        def write(writer: int) -> None:
            count = 0
            while not stop.is_set():
                count += 1
                content = f"{writer} {count} ".encode() * 5000
                try:
                    acknowledged.append((host.write_blob(content), content))
                except errors.StoreUnavailable as err:
                    failed.append(err)

        with ThreadPoolExecutor(4) as pool:
            writers = [pool.submit(write, n) for n in range(4)]
            try:
                for _ in range(3):
                    goal = len(acknowledged) + 20
                    wait_until(lambda goal=goal: len(acknowledged) >= goal)  # type: ignore[misc]
                    here.kill()
                    time.sleep(0.5)
                    here.start()
            finally:
                stop.set()
            for writer in writers:
                writer.result()
        assert len(acknowledged) >= 60
        for address, content in acknowledged:
            assert host.read_blob(address) == content
    finally:
        here.close()


def wait_until(done: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)
