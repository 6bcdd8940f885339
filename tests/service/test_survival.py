"""What a crash, a bad disk, a wrong key or a strange clock may do: a named error, nothing lost."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest

from engine import Engine, Settings, errors
from engine.crypto.keyring import new_key
from engine.crypto.root_keys import line_of
from engine.host import Host
from engine.service.upkeep import _SYSTEM
from engine.store import embedded
from engine.store.backup import PENDING_ERASURES, Backups, bring_salt_record
from tests import builders
from tests.conftest import PASSWORD, WHY, Ward, text_png
from tests.fakes import FakeHost, ScriptedDetector


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data=tmp_path / "data",
        key_file=tmp_path / "keys" / "root.key",
        backup_dir=tmp_path / "backups",
        bcrypt_cost=4,
    )


def reopened(settings: Settings) -> Engine:
    return Engine.open(settings, detector=ScriptedDetector(settings), operator=True)


def restored(engine: Engine, image_id: str) -> bytes:
    token = engine.operator_token()
    return engine.images.restored_file(
        token, engine.images.restore(token, image_id, WHY).handle
    ).data


# --- crashes ----------------------------------------------------------------------------------


def test_what_a_crash_left_unfinished_is_swept_at_the_next_start(
    ward: Ward, settings: Settings
) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    ward.engine.close()
    left = [
        settings.data / ".catalog.duckdb.fresh",
        settings.data / ".catalog.duckdb.fresh.wal",
        settings.data / "blobs" / "ab" / f".{'ab' * 32}.012345678901.part",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    engine = reopened(settings)
    assert [path for path in left if path.exists()] == []
    assert restored(engine, image_id) == data
    engine.close()


def test_a_young_temporary_file_of_a_running_server_is_left_alone(
    ward: Ward, settings: Settings
) -> None:
    young = settings.data / "blobs" / ".x.012345678901.part"
    old = settings.data / "blobs" / ".y.012345678901.part"
    for path in (young, old):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    ward.engine.upkeep.sweep()
    assert (young.exists(), old.exists()) == (True, False)


def test_erased_keys_leave_the_file_also_when_the_start_after_it_is_killed(
    ward: Ward, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = ward.engine.context.database.read().one("SELECT wrapped_key FROM patients")
    assert wrapped is not None
    ward.engine.patients.erase(ward.team.administrator, "P-1", "asked for it")
    ward.engine.close()

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            reopened(settings)
    reopened(settings).close()
    assert wrapped["wrapped_key"] not in (settings.data / "catalog.duckdb").read_bytes()


def test_an_interrupted_backup_is_cleared_by_the_next(ward: Ward, settings: Settings) -> None:
    assert settings.backup_dir is not None
    half = settings.backup_dir / "20250101T000000000000"
    write = settings.backup_dir / "blobs" / "ab" / f".{'ab' * 32}.012345678901.part"
    for path in (half / "catalog.sealed", write):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"half")
    name = ward.engine.backups.make(ward.team.administrator)
    assert ward.engine.backups.names(ward.team.administrator) == [name]
    assert not half.exists()
    assert not write.exists()


def test_two_backups_at_once_do_not_take_each_others_files(ward: Ward) -> None:
    with ward.engine.context.database.alone("backup"), pytest.raises(errors.StorageBusy):
        ward.engine.backups.make(ward.team.administrator)


def test_an_interrupted_recovery_goes_on(
    ward: Ward, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    ward.engine.backups.make(ward.team.administrator)
    ward.engine.close()
    elsewhere = replace(settings, data=settings.data.parent / "recovered")
    real = Host.write_blob
    written: list[bytes] = []

    def killed(self: Host, content: bytes) -> str:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(content)
        return real(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Host, "write_blob", killed)
        with pytest.raises(KeyboardInterrupt):
            Engine.from_backup(elsewhere, detector=ScriptedDetector(settings))
    assert (elsewhere.data / PENDING_ERASURES).exists()
    with pytest.raises(errors.StorageError, match="recover-data"):
        reopened(elsewhere)
    engine = Engine.from_backup(elsewhere, detector=ScriptedDetector(settings))
    assert restored(engine, image_id) == data
    engine.close()


def test_what_was_erased_after_the_last_backup_is_erased_again(
    ward: Ward, settings: Settings
) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    other = ward.seal(builders.png(builders.labelled("STAYS")[0]), found=[found])
    ward.engine.backups.make(ward.team.administrator)
    ward.engine.images.erase(ward.team.administrator, image_id, "asked for it")
    ward.engine.close()
    engine = Engine.from_backup(
        replace(settings, data=settings.data.parent / "recovered"),
        detector=ScriptedDetector(settings),
    )
    with pytest.raises(errors.NotFound):
        restored(engine, image_id)
    assert restored(engine, other)
    engine.close()


def test_a_catalog_that_was_set_back_erases_again_and_ends_its_sessions(
    ward: Ward, settings: Settings
) -> None:
    """Not by MedSec: with the database's own means, or a snapshot of the machine's disk."""
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    other = ward.seal(builders.png(builders.labelled("STAYS")[0]), found=[found])
    ward.engine.close()
    engine = reopened(settings)
    before = engine.sessions.sign_in("admin", PASSWORD).token
    engine.close()
    earlier = (settings.data / "catalog.duckdb").read_bytes()
    engine = reopened(settings)
    engine.images.erase(before, image_id, "asked for it")
    engine.close()
    (settings.data / "catalog.duckdb").write_bytes(earlier)
    engine = reopened(settings)
    with pytest.raises(errors.NotSignedIn):
        engine.caller(before)
    with pytest.raises(errors.NotFound):
        restored(engine, image_id)
    assert restored(engine, other)
    token = engine.sessions.sign_in("admin", PASSWORD).token
    [entry] = [e for e in engine.audit.entries(token) if e.action == "image.erase"]
    assert (entry.actor, entry.image_id, entry.reason) == (
        "system", image_id, "erased before this recovery"
    )  # fmt: skip
    engine.close()
    again = reopened(settings)  # once is enough
    assert again.caller(token)
    again.close()


def test_the_list_of_erasures_reaches_the_backups_when_they_are_there_again(
    ward: Ward, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise errors.StorageError("The backup folder cannot be written.")

    image_id = ward.seal(text_png()[0], found=[text_png()[1]])
    with monkeypatch.context() as patch:
        patch.setattr(Backups, "record_erasures", away)
        ward.engine.images.erase(ward.team.administrator, image_id, "asked for it")
        assert ward.engine.health.state(ward.team.administrator)["erasures_kept"] is False
    ward.engine.upkeep.tend()
    assert ward.engine.health.state(ward.team.administrator)["erasures_kept"] is True
    assert settings.backup_dir is not None
    assert image_id in (settings.backup_dir / "erasures.json").read_text()


# --- disks, keys and clocks -------------------------------------------------------------------


def _full(ward: Ward, settings: Settings, patch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    patch.setattr(os, "fsync", fsync)


def _read_only(ward: Ward, settings: Settings, patch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refusing(path: object, flags: int, *rest: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, *rest)  # type: ignore[arg-type]

    patch.setattr(os, "open", refusing)


@pytest.mark.parametrize("fault", [_full, _read_only])
def test_a_disk_that_takes_nothing_more_is_a_named_error_and_nothing_is_lost(
    ward: Ward, settings: Settings, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., None]
) -> None:
    data, found = text_png()
    kept = ward.seal(data, found=[found])
    draft = ward.upload(builders.png(builders.labelled("WAITS")[0]), found=[found])
    files = set(ward.engine.context.host.blobs())
    technician = ward.team.technician
    with monkeypatch.context() as patch:
        fault(ward, settings, patch)
        with pytest.raises(errors.StorageError):
            ward.upload(builders.png(builders.labelled("TOO MUCH")[0]))
        with pytest.raises(errors.StorageError):
            ward.engine.drafts.seal(technician, draft, [found])
        with pytest.raises(errors.StorageError):
            ward.engine.backups.make(ward.team.administrator)
    assert set(ward.engine.context.host.blobs()) == files
    assert list(settings.data.rglob("*.part")) == []
    assert [r.image_id for r in ward.engine.drafts.waiting(technician)] == [draft]
    assert ward.engine.audit.verify(ward.team.administrator) > 0
    ward.engine.drafts.seal(technician, draft, [found])
    ward.engine.close()
    engine = reopened(settings)
    assert restored(engine, kept) == data
    engine.close()


@pytest.mark.slow
def test_a_data_folder_on_a_really_full_disk_is_a_named_error(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: DuckDB's own files meet it too."""
    script = f"""
import resource, signal
from pathlib import Path
from engine import Engine, Settings, errors
from tests import builders
from tests.conftest import Team
from tests.fakes import ScriptedDetector
settings = Settings(data=Path({str(tmp_path / "data")!r}), bcrypt_cost=4,
                    key_file=Path({str(tmp_path / "root.key")!r}))
engine = Engine.open(settings, detector=ScriptedDetector(settings), operator=True)
token = engine.operator_token()
patient = engine.patients.create(token, "P-1", "Erika Musterfrau").patient_id
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
taken = 0
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 22, 1 << 22))
try:
    for number in range(20000):
        engine.patients.create(token, f"N-{{number}}", "Name " * 15, note="x" * 9000)
        taken += 1
except errors.StorageError as err:
    print("refused", taken)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.startswith("refused"), done.stderr
    taken = int(done.stdout.split()[1])
    settings = Settings(data=tmp_path / "data", key_file=tmp_path / "root.key", bcrypt_cost=4)
    engine = reopened(settings)
    numbers = engine.context.database.read().count("SELECT count(*) FROM patients")
    assert numbers == taken + 1
    assert engine.audit.verify(engine.operator_token()) >= taken
    engine.close()


@pytest.mark.parametrize("fault", [
    OSError(errno.ENOSPC, "No space left on device"), duckdb.FatalException("failed"),
])  # fmt: skip
def test_a_full_disk_at_the_start_puts_the_forgetting_of_keys_off_to_the_next(
    ward: Ward, settings: Settings, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    wrapped = ward.engine.context.database.read().one("SELECT wrapped_key FROM patients")
    assert wrapped is not None
    other = ward.engine.patients.create(ward.team.technician, "P-2", "Max Beispiel")
    assert other.patient_id
    ward.engine.images.erase(ward.team.administrator, image_id, "asked for it")
    ward.engine.patients.erase(ward.team.administrator, "P-1", "asked for it")
    ward.engine.close()

    def full(*_: object) -> None:
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(embedded, "_copy", full)
        engine = reopened(settings)
    token = engine.operator_token()
    assert [p.name for p in engine.patients.search(token)] == ["Max Beispiel"]
    engine.audit.verify(token)
    engine.close()
    assert wrapped["wrapped_key"] in (settings.data / "catalog.duckdb").read_bytes()
    reopened(settings).close()
    assert wrapped["wrapped_key"] not in (settings.data / "catalog.duckdb").read_bytes()


def test_a_start_on_a_disk_that_is_nearly_full_opens_or_is_a_named_error(
    ward: Ward, settings: Settings
) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    ward.engine.backups.make(ward.team.administrator)
    ward.engine.images.erase(ward.team.administrator, image_id, "asked for it")
    ward.engine.close()
    size = (settings.data / "catalog.duckdb").stat().st_size
    elsewhere = replace(settings, data=settings.data.parent / "recovered")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ways: dict[str, Callable[[], Engine]] = {
        "opened": lambda: reopened(settings),
        "recovered": lambda: Engine.from_backup(elsewhere, detector=ScriptedDetector(settings)),
    }
    went: dict[str, list[bool]] = {way: [] for way in ways}
    for limit in (300_000, size // 2, size + 4096, 4 * size):
        for way, begin in ways.items():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # stands for the disk
            try:
                begin().close()
                went[way].append(True)
            except errors.StorageError:
                went[way].append(False)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
        shutil.rmtree(elsewhere.data, ignore_errors=True)
    for way, tries in went.items():
        assert tries[-1], f"not even a large disk was enough: {way} {tries}"
        assert not all(tries), f"no disk was too small: {way} {tries}"
    engine = reopened(settings)
    engine.audit.verify(engine.operator_token())
    engine.close()


@pytest.mark.parametrize("refused", ["chmod", "unlink"])
def test_a_data_folder_of_another_owner_is_a_named_error(
    ward: Ward, settings: Settings, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    ward.engine.close()
    left = settings.data / "blobs" / "ab" / f".{'ab' * 32}.012345678901.part"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")

    def never(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(Path, refused, never)
        with pytest.raises(errors.StorageError, match="own"):
            reopened(settings)
    reopened(settings).close()


def test_a_recovery_onto_a_full_disk_is_a_named_error(
    ward: Ward, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward.engine.backups.make(ward.team.administrator)
    ward.engine.close()
    elsewhere = replace(settings, data=settings.data.parent / "recovered")
    assert settings.backup_dir is not None
    with monkeypatch.context() as patch:
        _full(ward, settings, patch)
        with pytest.raises(errors.StorageError, match="data folder"):
            Engine.from_backup(elsewhere, detector=ScriptedDetector(settings))
        with pytest.raises(errors.StorageError, match="data folder"):
            bring_salt_record(b"salt", elsewhere.data)


@pytest.mark.parametrize(
    ("damage", "error"), [("changed", errors.SealBroken), ("lost", errors.NotFound)]
)
def test_a_damaged_or_lost_file_is_a_named_error_and_the_backup_brings_it_back(
    ward: Ward, settings: Settings, damage: str, error: type[errors.EngineError]
) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    other = ward.seal(builders.png(builders.labelled("OTHER")[0]), found=[found])
    engine, doctor = ward.engine, ward.team.doctor
    engine.backups.make(ward.team.administrator)
    row = engine.context.catalog.row(engine.context.database.read(), image_id)
    path = engine.context.host.path(row.sealed_blob)
    if damage == "lost":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(error, match="backup"):
        engine.images.restore(doctor, image_id, WHY)
    assert engine.images.restore(doctor, other, WHY).proof in ("bytes", "pixels")
    assert settings.backup_dir is not None
    kept = settings.backup_dir / "blobs" / path.parent.name / path.name
    shutil.copy(kept, path)  # as the error says
    handle = engine.images.restore(doctor, image_id, WHY).handle
    assert engine.images.restored_file(doctor, handle).data == data


def test_a_wrong_key_opens_nothing_and_changes_nothing(ward: Ward, settings: Settings) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    ward.engine.close()
    assert settings.key_file is not None
    right = settings.key_file.read_text()
    before = (settings.data / "catalog.duckdb").read_bytes()
    settings.key_file.write_text(line_of(new_key(os.urandom)))
    with pytest.raises(errors.SettingsError):
        reopened(settings)
    assert (settings.data / "catalog.duckdb").read_bytes() == before
    settings.key_file.write_text(right)
    engine = reopened(settings)
    assert restored(engine, image_id) == data
    engine.close()


def test_a_clock_that_jumps_back_is_told_and_loses_nothing(
    ward: Ward, host: FakeHost, settings: Settings
) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    first = ward.engine.backups.make(ward.team.administrator)
    host.advance(days=-40)
    engine = ward.engine
    engine.upkeep.tend()
    with pytest.raises(errors.NotSignedIn):  # sessions from the future are over
        engine.images.restore(ward.team.doctor, image_id, WHY)
    operator = engine.context.audit.entries(query="clock.back")
    assert len(operator) == 1
    assert operator[0].detail["seconds"] > 39 * 86400
    engine.context.audit.verify()
    again = engine.context.backup_folder().names()[0]
    assert again < first  # the newest has an older name
    ward.engine.close()
    recovered = Engine.from_backup(
        replace(settings, data=settings.data.parent / "recovered"),
        detector=ScriptedDetector(settings),
    )
    entries = recovered.context.audit.entries(query="backup.restore")
    assert entries[0].detail["name"] == again
    assert restored(recovered, image_id) == data
    recovered.close()


# --- reading while somebody writes ------------------------------------------------------------


@pytest.mark.parametrize("then", ["flag", "erase"])
def test_a_change_in_the_middle_of_a_read_is_no_broken_seal(
    ward: Ward, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    engine, team = ward.engine, ward.team
    real = engine.context.host.read_blob
    done: list[str] = []

    def read(address: str) -> bytes:
        if not done:  # after the rows were read, before the files are
            done.append(address)
            if then == "flag":
                engine.withdrawals.flag(team.doctor, image_id, "a name is left")
            else:
                engine.images.erase(team.administrator, image_id, "asked for it")
        return real(address)

    monkeypatch.setattr(engine.context.host, "read_blob", read)
    with pytest.raises(errors.NotFound, match="no such image"):
        engine.images.thumbnail(team.doctor, image_id)
    assert done


def test_an_image_reopened_after_it_was_asked_for_is_not_there(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    engine, doctor = ward.engine, ward.team.doctor
    real = engine.images._restorations.open

    def flagged(*given: object) -> object:  # between the request and the first read
        if engine.context.catalog.row(engine.context.database.read(), image_id).state == "released":
            engine.withdrawals.flag(doctor, image_id, "a name is left")
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.images._restorations, "open", flagged)
    with pytest.raises(errors.NotFound):
        engine.images.restore(doctor, image_id, WHY)


def test_one_damaged_record_does_not_hide_the_other_patients(ward: Ward) -> None:
    engine, team = ward.engine, ward.team
    engine.patients.create(team.technician, "P-2", "Max Beispiel")
    with engine.context.database.write() as tx:
        tx.run("UPDATE patients SET record = $1 WHERE patient_id = $2", b"x" * 200, ward.patient_id)
    assert sorted(p.name for p in engine.patients.search(team.doctor)) == [
        "Damaged record: tell the administrator",
        "Max Beispiel",
    ]
    assert [p.name for p in engine.patients.search(team.doctor, "Beispiel")] == ["Max Beispiel"]
    with pytest.raises(errors.SealBroken):
        engine.patients.get(team.doctor, ward.patient_id)


# --- what nobody asks for ---------------------------------------------------------------------


def test_the_scrub_finds_what_rots_and_tells_it_once(ward: Ward) -> None:
    engine, admin = ward.engine, ward.team.administrator
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    ward.seal(builders.png(builders.labelled("WHOLE")[0]), found=[found])
    row = engine.context.catalog.row(engine.context.database.read(), image_id)
    engine.context.host.path(row.masked_blob).write_bytes(b"rotten")
    engine.upkeep._scrub.run(threading.Event())
    engine.upkeep._scrub.run(threading.Event())
    health = engine.health.state(admin)
    assert (health["scrubbed_images"], health["broken"]) == (2, [image_id])
    told = engine.audit.entries(admin, query="scrub.broken")
    assert [(e.image_id, e.detail["why"]) for e in told] == [(image_id, "seal-broken")]
    assert len(engine.audit.entries(admin, query="scrub.finish")) == 2


def test_backups_come_on_time_and_an_old_one_is_an_alarm(
    ward: Ward, host: FakeHost, settings: Settings
) -> None:
    engine = ward.engine

    def health() -> dict[str, object]:
        return engine.health._condition()

    assert health()["backup_overdue"] is True
    engine.upkeep.tend()
    assert len(engine.context.backup_folder().names()) == 1
    assert health()["backup_overdue"] is False
    host.advance(hours=settings.backup_hours - 1)
    engine.upkeep.tend()
    assert len(engine.context.backup_folder().names()) == 1
    host.advance(hours=2)
    engine.upkeep._next_ms.clear()  # an hour later, as the monotonic clock has it
    engine.upkeep.tend()
    assert len(engine.context.backup_folder().names()) == 2
    host.clock += timedelta(hours=settings.backup_alarm_hours + 1)
    assert health()["backup_overdue"] is True


def test_a_backup_from_the_future_silences_no_alarm_and_puts_none_off(
    ward: Ward, host: FakeHost, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ward.engine
    host.advance(days=400)  # the clock was ahead for a while
    ahead = engine.backups.make_as(_SYSTEM)
    host.advance(days=-400)
    assert engine.health._condition()["backup_overdue"] is True
    for _ in range(2):  # one is due, a second is not
        engine.upkeep._next_ms.clear()
        engine.upkeep.tend()
        host.advance(hours=1)
    assert len(engine.context.backup_folder().names()) == 2
    assert engine.health._condition()["last_backup_at"] < host.now()

    def full(*_: object) -> str:
        raise errors.StorageError("The backup folder cannot be written.")

    monkeypatch.setattr(Backups, "make", full)
    host.advance(hours=settings.backup_alarm_hours + 1)
    assert engine.health._condition()["backup_overdue"] is True
    assert ahead in engine.context.backup_folder().names()


def test_a_backup_that_fails_is_in_the_log_and_is_tried_again_later(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, calls = ward.engine, []

    def full(*_: object) -> str:
        calls.append(1)
        raise errors.StorageError("The backup folder cannot be written.")

    monkeypatch.setattr(Backups, "make", full)
    engine.upkeep.tend()
    engine.upkeep.tend()
    assert len(calls) == 1
    failed = engine.audit.entries(ward.team.administrator, query="backup.make")
    assert [(e.outcome, e.detail["why"]) for e in failed] == [("failed", "storage-error")]


def test_old_backups_that_cannot_be_deleted_are_told_and_the_new_one_is_in_the_log(
    ward: Ward, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ward.engine
    object.__setattr__(engine.settings, "backups_kept", 1)
    old = engine.backups.make_as(_SYSTEM)
    host.advance(hours=30)

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refused)
        engine.upkeep.tend()
    made = engine.context.audit.entries(query="backup.make")
    new = engine.context.backup_folder().names()[-1]
    assert [(e.outcome, e.detail.get("name"), e.detail.get("why")) for e in made] == [
        ("failed", None, "storage-error"),
        ("ok", new, None),
        ("ok", old, None),
    ]
    engine.upkeep._next_ms.clear()
    host.advance(hours=30)
    engine.upkeep.tend()
    assert len(engine.context.backup_folder().names()) == 1
    [pruned] = engine.context.audit.entries(query="backup.prune")
    assert pruned.detail == {"names": [new]}


def test_orphans_are_swept_while_the_server_runs(ward: Ward, settings: Settings) -> None:
    orphan = ward.engine.context.host.write_blob(b"nobody needs this")
    os.utime(ward.engine.context.host.path(orphan), (0, 0))
    ward.engine.upkeep.tend()
    assert orphan not in set(ward.engine.context.host.blobs())
    assert ward.engine.audit.entries(ward.team.administrator, query="files.sweep")


def test_the_upkeep_ends_with_the_engine(ward: Ward) -> None:
    ward.engine.upkeep.start()
    ward.engine.close()
    assert not any(thread.is_alive() for thread in ward.engine.upkeep._threads)
