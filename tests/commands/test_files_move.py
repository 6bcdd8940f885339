"""``files-move``: to an object store and back, interrupted, and where a file is damaged."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import cli
from engine import Engine, Settings, errors
from engine.host import Host
from engine.store import file_moves
from engine.store.file_stores import PLACE, claim, files_of
from engine.store.object_store import Bucket
from tests.conftest import WHY, Ward, text_png
from tests.fakes import ScriptedDetector
from tests.object_store import ObjectStore

Move = Callable[..., int]


@pytest.fixture
def remote(
    settings: Settings,
    object_store: ObjectStore,
    store_keys: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Settings:
    """The place to which the files of the settings' folder move."""
    monkeypatch.setenv("MEDSEC_S3_ENDPOINT", object_store.endpoint)
    return replace(settings, blobs=object_store.new(), s3_endpoint=object_store.endpoint)


@pytest.fixture
def move(settings: Settings, remote: Settings) -> Move:
    def move(*words: str, to: str = "") -> int:
        where = ["--data", str(settings.data), "--key", str(settings.key_file)]
        return cli.main(["files-move", *where, "--to", to or remote.blobs, *words])

    return move


@pytest.fixture
def image_id(ward: Ward) -> str:
    """A sealed image in a folder that nobody has open."""
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    ward.engine.context.host.write_blob(b"left by a crash")
    ward.engine.close()
    return image_id


def take_over(settings: Settings) -> int:
    where = ["--data", str(settings.data), "--key", str(settings.key_file)]
    return cli.main(["files-claim", *where, "--reason", "the copy is gone"])


def count(settings: Settings) -> int:
    return len(list(Host(files_of(settings)).blobs()))


def restored(settings: Settings, image_id: str) -> str:
    engine = Engine.open(settings, detector=ScriptedDetector(settings), operator=True)
    try:
        proof: str = engine.images.restore(engine.operator_token(), image_id, WHY).proof
        moved = engine.context.audit.entries(query="files.move")
        assert [e.detail["to"] for e in moved] == (["s3"] if settings.blobs else ["folder", "s3"])
        return proof
    finally:
        engine.close()


def test_files_move_to_a_bucket_and_back(
    move: Move,
    settings: Settings,
    remote: Settings,
    image_id: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert move("--dry-run") == 0
    assert "4 of 4 files have to be copied" in capsys.readouterr().out
    assert count(remote) == 0
    with pytest.raises(errors.StorageError, match="files-move"):
        Engine.open(remote)

    assert move("--copy-only") == 0
    assert (count(settings), count(remote)) == (4, 4)
    assert move() == 0
    said = capsys.readouterr().out
    assert "moved and compared: 3 files, 0 of them sent now; 1 that nothing needs" in said
    assert count(settings) == 0
    assert restored(remote, image_id) == "bytes"
    with pytest.raises(errors.StorageError, match="set MEDSEC_BLOBS to s3://"):
        Engine.open(settings)

    monkeypatch.setenv("MEDSEC_BLOBS", remote.blobs)
    assert move(to="folder") == 0
    assert (count(settings), count(remote)) == (3, 0)
    assert restored(settings, image_id) == "bytes"


def test_a_move_that_was_interrupted_goes_on(
    move: Move,
    settings: Settings,
    remote: Settings,
    image_id: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put, done = Bucket.put, []

    def broken(bucket: Bucket, name: str, data: bytes) -> bool:
        if done:
            raise errors.StoreUnavailable("The object store does not answer.")
        if "/" in name:  # no note of whose files these are
            done.append(name)
        return put(bucket, name, data)

    monkeypatch.setattr(Bucket, "put", broken)
    assert move() == 2
    monkeypatch.setattr(Bucket, "put", put)
    assert (count(settings), count(remote)) == (4, 1)
    assert move() == 0
    assert "3 files, 2 of them sent now" in capsys.readouterr().out
    assert restored(remote, image_id) == "bytes"


def test_a_damaged_file_stops_the_move_before_anything_is_deleted(
    move: Move, settings: Settings, image_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    [first, *_] = sorted(p for p in (settings.data / "blobs").rglob("*") if p.stat().st_size > 50)
    first = next(p for p in [first, *_] if p.is_file())
    kept = first.read_bytes()
    first.write_bytes(b"rotten")
    assert move() == 2
    assert "was changed" in capsys.readouterr().err
    assert count(settings) == 4
    first.write_bytes(kept)
    assert move() == 0


@pytest.mark.slow
def test_a_server_that_is_running_is_not_moved_from_under(
    move: Move, ward: Ward, settings: Settings, remote: Settings
) -> None:
    ward.engine.context.host.write_blob(b"something")
    # In a process of its own: DuckDB refuses other processes only.
    call = [sys.executable, "cli.py", "files-move", "--data", str(settings.data)]
    call += ["--key", str(settings.key_file), "--to", remote.blobs]
    done = subprocess.run(call, capture_output=True, text=True, cwd=Path(cli.__file__).parent)
    assert (done.returncode, "Another MedSec process" in done.stderr) == (2, True)
    assert count(settings) == 1
    assert move("--copy-only") == 0
    assert move(to="s3://x") == 2
    assert move(to="folder") == 2


def test_a_place_by_another_spelling_is_not_emptied(
    move: Move, remote: Settings, image_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert move() == 0
    monkeypatch.setenv("MEDSEC_BLOBS", remote.blobs)
    for there in (remote.blobs, f"{remote.blobs}/", f"{remote.blobs}/inside"):
        assert move(to=there) == 2
    assert count(remote) == 3
    files = files_of(remote)
    with pytest.raises(errors.StorageError, match="another name"):
        file_moves._refuse_one_place(Host(files), Host(files))
    assert restored(remote, image_id) == "bytes"


def test_files_of_another_installation_are_neither_moved_nor_joined(
    move: Move,
    settings: Settings,
    remote: Settings,
    image_id: str,
    object_store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    claim(files_of(remote), "another", new=True)
    Host(files_of(remote)).write_blob(b"theirs")
    assert move() == 2
    assert "another installation" in capsys.readouterr().err
    assert (count(settings), count(remote)) == (4, 1)
    # Nor is their place emptied by somebody who names it as the own.
    mine = replace(remote, blobs=object_store.new())
    assert move(to=mine.blobs) == 0
    monkeypatch.setenv("MEDSEC_BLOBS", remote.blobs)
    assert move(to="folder") == 2
    assert count(remote) == 1
    # A setting that is wrong is refused, and the right one works after it.
    with pytest.raises(errors.StorageError, match="set MEDSEC_BLOBS to s3://"):
        Engine.open(remote)
    (settings.data / PLACE).unlink()  # the catalog knows it, too
    with pytest.raises(errors.FilesElsewhere, match=mine.blobs):
        Engine.open(replace(remote, blobs=object_store.new()))
    monkeypatch.setenv("MEDSEC_BLOBS", object_store.new())
    assert take_over(settings) == 2
    assert "no files of this installation" in capsys.readouterr().err
    assert restored(mine, image_id) == "bytes"
