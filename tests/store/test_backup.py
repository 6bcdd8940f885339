"""Recovery from nothing but the backup and the key; erased stays erased; damage is found."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import cli
import commands.folder
from engine import Engine, Settings, errors
from engine.service.upkeep import _SYSTEM as SYSTEM
from engine.settings import Secret
from engine.store import embedded, postgresql
from engine.store.backup import PENDING_ERASURES, Snapshot
from engine.store.embedded import EmbeddedDatabase
from tests import builders
from tests.conftest import PASSWORD, WHY, Team, Ward, text_png
from tests.fakes import FakeHost, ScriptedDetector
from tests.store.conftest import NewCatalog, left

Recover = Callable[..., Engine]


@pytest.fixture
def settings(tmp_path: Path, catalog_url: Secret | None) -> Settings:
    return Settings(
        database=catalog_url,
        data=tmp_path / "data",
        key_file=tmp_path / "keys" / "root.key",
        backup_dir=tmp_path / "backups",
        backups_kept=2,
        bcrypt_cost=4,
    )


@pytest.fixture
def recovered(settings: Settings, new_catalog: NewCatalog) -> Iterator[Recover]:
    """Makes a data folder, and where it has one a database, from a backup."""
    opened: list[Engine] = []

    def recovered(name: str | None = None, of: Settings = settings) -> Engine:
        elsewhere = replace(of, data=settings.data.parent / "recovered", database=new_catalog())
        opened.append(Engine.from_backup(elsewhere, name, detector=ScriptedDetector(settings)))
        return opened[-1]

    yield recovered
    for engine in opened:
        engine.close()


def test_everything_comes_back_from_backup_and_key_alone(
    ward: Ward, settings: Settings, recovered: Recover
) -> None:
    data, found = text_png()
    image_id = ward.seal(data, "Erika.png", [found])
    draft = ward.upload(builders.png(builders.labelled("WAITS")[0]), found=[found])
    ward.engine.backups.make(ward.team.administrator)
    entries = ward.engine.audit.verify(ward.team.administrator)
    ward.engine.close()
    for path in settings.data.rglob("*"):  # the disk is lost
        if path.is_file():
            path.unlink()
    engine = recovered()
    token = engine.operator_token()
    opened = engine.images.restore(token, image_id, WHY)
    file = engine.images.restored_file(token, opened.handle)
    assert (file.name, file.data) == ("Erika.png", data)
    assert [d.image_id for d in engine.drafts.waiting(token)] == [draft]
    assert [code for _, code in engine.health.verify_images(token)] == [None, None]
    assert engine.audit.verify(token) >= entries - 2
    engine.close()


def test_a_passphrase_is_enough_to_recover(
    tmp_path: Path, recovered: Recover, catalog_url: Secret | None
) -> None:
    settings = Settings(
        data=tmp_path / "data",
        database=catalog_url,
        key_passphrase=Secret("a long passphrase that people remember"),
        backup_dir=tmp_path / "backups",
        bcrypt_cost=4,
    )
    engine = Engine.open(
        settings, FakeHost(settings.data / "blobs"), detector=ScriptedDetector(settings)
    )
    team = Team(engine)
    engine.patients.create(team.technician, "P-1", "Erika Musterfrau")
    engine.backups.make(team.administrator)
    engine.close()
    again = recovered(of=settings)
    assert [p.name for p in again.patients.search(again.operator_token())] == ["Erika Musterfrau"]
    again.close()


def test_a_backup_says_nothing_without_the_key(ward: Ward, settings: Settings) -> None:
    data, found = text_png()
    ward.seal(data, "Erika.png", [found])
    ward.engine.backups.make(ward.team.administrator)
    assert settings.backup_dir is not None
    for path in settings.backup_dir.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for word in (b"Erika", b"Musterfrau", b"doctor", b"image.seal", data[60:100]):
                assert word not in content


def test_what_was_erased_after_a_backup_is_erased_again(
    ward: Ward, settings: Settings, recovered: Recover
) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    admin = ward.team.administrator
    old = ward.engine.backups.make(admin)
    ward.engine.patients.erase(admin, "P-1", "asked for it")
    ward.engine.context.host.advance(minutes=1)  # type: ignore[attr-defined]
    ward.engine.backups.make(admin)
    ward.engine.close()
    engine = recovered(old)
    token = engine.operator_token()
    with pytest.raises(errors.NotFound):
        engine.images.restore(token, image_id, WHY)
    with pytest.raises(errors.UnknownKey):
        engine.context.hierarchy.patient_key(engine.context.database.read(), ward.patient_id)
    engine.close()


def test_what_an_older_backup_never_heard_of_stays_erased_after_a_recovery_from_it(
    ward: Ward, settings: Settings, host: FakeHost, recovered: Recover
) -> None:
    data, found = text_png()
    other = ward.seal(builders.png(builders.labelled("OTHER")[0]), found=[found])
    admin = ward.team.administrator
    first = ward.engine.backups.make(admin)
    host.advance(minutes=1)
    image_id = ward.seal(data, found=[found])
    second = ward.engine.backups.make(admin)
    ward.engine.images.erase(admin, image_id, "asked for it")
    ward.engine.close()
    engine = recovered(first)
    assert ("image", image_id) in engine._erasures.known(engine.context.database.read())
    engine.images.erase(engine.operator_token(), other, "asked for it too")
    engine.close()
    shutil.rmtree(settings.data.parent / "recovered")
    engine = recovered(second)
    with pytest.raises(errors.NotFound):
        engine.images.restore(engine.operator_token(), image_id, WHY)
    engine.close()


def test_a_backup_folder_that_is_not_mounted_stops_the_start_where_a_list_was(
    ward: Ward, settings: Settings
) -> None:
    data, found = text_png()
    ward.engine.images.erase(ward.team.administrator, ward.seal(data, found=[found]), "asked")
    ward.engine.close()
    assert settings.backup_dir is not None
    aside = settings.backup_dir.with_name("unmounted")
    settings.backup_dir.rename(aside)
    settings.backup_dir.mkdir()
    with pytest.raises(errors.StorageError, match="is MEDSEC_BACKUP_DIR mounted"):
        Engine.open(settings, detector=ScriptedDetector(settings))
    settings.backup_dir.rmdir()
    aside.rename(settings.backup_dir)
    Engine.open(settings, detector=ScriptedDetector(settings)).close()
    new = replace(settings, backup_dir=aside)  # which has none yet, and gets it
    Engine.open(new, detector=ScriptedDetector(new)).close()
    assert (aside / "erasures.json").exists()


def test_the_list_of_erasures_only_grows(ward: Ward) -> None:
    backups = ward.engine.context.backup_folder()
    backups.record_erasures([("image", "im_one")])
    backups.record_erasures([("image", "im_two")])
    assert backups.erasures() == {("image", "im_one"), ("image", "im_two")}


@pytest.mark.parametrize("damage", ["lost", "altered"])
def test_a_list_of_erasures_that_is_gone_is_made_again_from_the_backups(
    ward: Ward, settings: Settings, damage: str
) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    ward.engine.images.erase(ward.team.administrator, image_id, "asked for it")
    ward.engine.backups.make(ward.team.administrator)
    assert settings.backup_dir is not None
    path = settings.backup_dir / "erasures.json"
    if damage == "lost":
        path.unlink()
    else:
        path.write_text(path.read_text().replace(image_id, "im_nobody"))
    backups = ward.engine.context.backup_folder()
    backups.record_erasures([])
    assert backups.erasures() == {("image", image_id)}


def test_a_draft_sealed_while_a_backup_runs_does_not_break_it(
    ward: Ward, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, found = text_png()
    image_id = ward.upload(data, found=[found])
    engine = ward.engine
    real = engine.context.host.read_blob
    sealed = []

    def read(address: str) -> bytes:
        if not sealed:  # between the snapshot and the first copy
            sealed.append(True)
            engine.drafts.seal(ward.team.technician, image_id, [found])
        return real(address)

    monkeypatch.setattr(engine.context.host, "read_blob", read)
    name = engine.backups.make(ward.team.administrator)
    monkeypatch.undo()
    assert engine.backups.verify(ward.team.administrator, name) == 1
    assert left(engine) == engine.context.catalog.blobs(
        engine.context.database.read()
    )  # the draft's file went after


def _damage(path: Path, damage: str) -> None:
    if damage != "rotten":
        path.unlink()
    if damage == "unreadable":  # in the way of a bad sector, also for root
        path.mkdir()
    elif damage == "rotten":
        path.write_bytes(b"rotten")


@pytest.mark.parametrize(
    ("damage", "why"),
    [("lost", "not-found"), ("rotten", "seal-broken"), ("unreadable", "file-unreadable")],
)
def test_a_stored_file_that_is_gone_stops_no_backup_and_is_told(
    ward: Ward, settings: Settings, host: FakeHost, damage: str, why: str, recovered: Recover
) -> None:
    data, found = text_png()
    engine, admin = ward.engine, ward.team.administrator
    whole = ward.seal(data, found=[found])
    broken = ward.seal(builders.png(builders.labelled("BROKEN")[0]), found=[found])
    row = engine.context.catalog.row(engine.context.database.read(), broken)
    _damage(engine.context.host.path(row.sealed_blob), damage)
    name = engine.backups.make(admin)
    assert engine.backups.missing(admin, name) == [row.sealed_blob]
    assert engine.backups.verify(admin, name) == 5
    [made] = engine.audit.entries(admin, query="backup.make")
    assert (made.detail["why"], made.detail["missing"]) == ("files-missing", 1)
    host.advance(minutes=1)
    engine.backups.make(admin)  # tells of the image once
    [told] = engine.audit.entries(admin, query="scrub.broken")
    assert (told.image_id, told.detail["why"]) == (broken, why)
    assert engine.health.state(admin)["broken"] == [broken]
    engine.close()
    engine = recovered()
    token = engine.operator_token()
    opened = engine.images.restore(token, whole, WHY)
    assert engine.images.restored_file(token, opened.handle).data == data
    with pytest.raises(errors.NotFound, match="stored file is missing"):
        engine.images.restore(token, broken, WHY)
    engine.close()


@pytest.mark.parametrize("damage", ["lost", "rotten"])
def test_a_stored_file_that_is_gone_is_in_the_next_backup_if_an_earlier_one_has_it(
    ward: Ward, settings: Settings, host: FakeHost, damage: str, recovered: Recover
) -> None:
    data, found = text_png()
    engine, admin = ward.engine, ward.team.administrator
    image_id = ward.seal(data, found=[found])
    engine.backups.make(admin)
    row = engine.context.catalog.row(engine.context.database.read(), image_id)
    _damage(engine.context.host.path(row.sealed_blob), damage)
    host.advance(minutes=1)
    name = engine.backups.make(admin)
    assert engine.backups.missing(admin, name) == []
    engine.close()
    engine = recovered(name)
    token = engine.operator_token()
    opened = engine.images.restore(token, image_id, WHY)
    assert engine.images.restored_file(token, opened.handle).data == data
    engine.close()


def test_others_write_while_the_rows_are_copied_and_the_backup_is_of_one_moment(
    ward: Ward, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    engine, admin = ward.engine, ward.team.administrator
    entries = engine.context.database.read().count("SELECT count(*) FROM audit")
    monkeypatch.setattr(engine.context.database, "_wait", 0.2)
    module, name = (postgresql, "_stream") if settings.database else (embedded, "_copy")
    real = getattr(module, name)
    meanwhile = []

    def copy(*arguments: object) -> object:
        if not meanwhile:
            engine.patients.create(ward.team.technician, "P-2", "Max Beispiel")
            engine.images.erase(admin, image_id, "asked for it")
            meanwhile.append(engine.context.database.read().count("SELECT count(*) FROM patients"))
        return real(*arguments)

    monkeypatch.setattr(module, name, copy)
    name = engine.backups.make(admin)
    monkeypatch.undo()
    assert meanwhile == [2]
    backups = engine.context.backup_folder()
    manifest, key = backups._manifest(name)
    assert (manifest["audit_entries"], manifest["missing"]) == (entries, {})
    assert len(manifest["blobs"]) == 3  # deleted when the backup was done
    assert left(engine) == set()
    file = settings.data.parent / "copy.duckdb"
    file.write_bytes(backups._catalog(manifest, key))
    copied = EmbeddedDatabase.open(file, engine.context.host, 1.0)
    rows = copied.read()
    assert rows.count("SELECT count(*) FROM audit") == entries
    assert [r["state"] for r in rows.all("SELECT state FROM images")] == ["released"]
    assert rows.count("SELECT count(*) FROM patients") == 1
    copied.close()


def test_a_copy_that_fails_leaves_no_transaction_open(
    ward: Ward, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if settings.database:
            patch.setattr(embedded.EmbeddedDatabase, "append", full)
        else:
            patch.setattr(embedded, "_copy", full)
        with pytest.raises(errors.StorageError, match="free space"):
            ward.engine.backups.make(ward.team.administrator)
    rows = ward.engine.context.database.read()
    if settings.database:
        open_ones = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'"
        assert rows.count(f"{open_ones} AND datname = current_database()") == 0
    else:
        rows.run("CHECKPOINT")  # refused while one is open
        assert not (settings.data / "catalog.duckdb.wal").exists()
    assert not list(settings.data.glob(".*.fresh*"))


@pytest.mark.parametrize("where", ["manifest.json", "catalog.sealed", "blob", "lost"])
def test_damage_to_a_backup_is_found(ward: Ward, settings: Settings, where: str) -> None:
    data, found = text_png()
    ward.seal(data, found=[found])
    admin = ward.team.administrator
    name = ward.engine.backups.make(admin)
    assert settings.backup_dir is not None
    blobs = sorted(p for p in (settings.backup_dir / "blobs").rglob("*") if p.is_file())
    path = blobs[0] if where in ("blob", "lost") else settings.backup_dir / name / where
    if where == "lost":
        path.unlink()
    elif where == "manifest.json":
        manifest = json.loads(path.read_text())
        manifest["erasures"] = [["patient", "pt_nobody"]]
        path.write_text(json.dumps(manifest))
    else:
        content = path.read_bytes()
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(errors.BackupInvalid):
        ward.engine.backups.verify(admin, name)


def test_old_backups_go_and_the_rest_stays_whole(ward: Ward, host: FakeHost) -> None:
    _, found = text_png()
    admin = ward.team.administrator
    names = []
    for i in range(3):
        ward.seal(builders.png(builders.labelled(f"IMAGE {i}")[0]), found=[found])
        host.advance(minutes=1)
        names.append(ward.engine.backups.make(admin))
    assert ward.engine.backups.names(admin) == names[1:]
    assert ward.engine.backups.verify(admin, names[2]) == 9


def test_after_a_recovery_the_newest_backup_is_the_one_made_since(
    ward: Ward, settings: Settings, host: FakeHost, recovered: Recover
) -> None:
    """The one that nobody went back to has the longer log, but it is a dead branch."""
    _, found = text_png()
    admin = ward.team.administrator
    first = ward.engine.backups.make(admin)
    host.advance(minutes=1)
    for i in range(5):
        ward.seal(builders.png(builders.labelled(f"IMAGE {i}")[0]), found=[found])
    dead = ward.engine.backups.make(admin)
    ward.engine.close()
    engine = recovered(first)
    made = engine.backups.make(engine.operator_token())
    backups = engine.context.backup_folder()
    entries = {name: m["audit_entries"] for name, m in backups._readable().items()}
    assert entries[dead] > entries[made]
    assert backups.newest() == made
    engine.close()


def test_backups_are_pruned_in_the_order_in_which_they_were_made_whatever_the_clock_said(
    ward: Ward, host: FakeHost
) -> None:
    admin = ward.team.administrator
    ahead = ward.engine.backups.make(admin)
    host.advance(days=-400)
    names = []
    for _ in range(2):
        host.advance(minutes=1)
        names.append(ward.engine.backups.make_as(SYSTEM))
    assert ward.engine.context.backup_folder().names() == names
    assert ahead not in names


def test_a_backup_that_cannot_be_read_now_is_older_than_one_made_after_it(
    ward: Ward, settings: Settings, host: FakeHost
) -> None:
    assert settings.backup_dir is not None
    engine = ward.engine
    engine.backups.make_as(SYSTEM)
    host.advance(minutes=1)
    lost = settings.backup_dir / engine.backups.make_as(SYSTEM) / "manifest.json"
    content = lost.read_bytes()
    lost.write_bytes(b"")
    host.advance(days=-1)
    made = engine.context.backup_folder().make(Snapshot(b"", [], [], 0), engine.context.host, None)
    lost.write_bytes(content)  # its disk is back
    assert engine.context.backup_folder().newest() == made


def test_a_folder_that_is_no_backup_stops_nothing_and_stays(
    ward: Ward, settings: Settings, host: FakeHost
) -> None:
    assert settings.backup_dir is not None
    engine = ward.engine
    first = engine.backups.make_as(SYSTEM)
    foreign = [settings.backup_dir / f"copy-of-{first}", settings.backup_dir / "0-for-auditors"]
    for folder in foreign:
        shutil.copytree(settings.backup_dir / first, folder)
    assert engine.health._condition()["backup_overdue"] is False
    host.advance(hours=30)
    engine.upkeep.tend()
    host.advance(minutes=1)
    engine.backups.make_as(SYSTEM)
    assert len(engine.context.backup_folder().names()) == 2
    assert [folder.exists() for folder in foreign] == [True, True]


def test_the_command_line_checks_every_backup_and_says_if_there_is_none(
    ward: Ward,
    settings: Settings,
    host: FakeHost,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert settings.backup_dir is not None
    _, found = text_png()
    image_id = ward.seal(builders.png(builders.labelled("IMAGE")[0]), found=[found])
    row = ward.engine.context.catalog.row(ward.engine.context.database.read(), image_id)
    ward.engine.context.host.path(row.sealed_blob).unlink()
    names = []
    for _ in range(2):
        host.advance(minutes=1)
        names.append(ward.engine.backups.make_as(SYSTEM))
    ward.engine.close()
    (settings.backup_dir / names[0] / "catalog.sealed").write_bytes(b"rotten")

    @contextmanager
    def opened(*_: object) -> Iterator[tuple[Engine, str]]:
        engine = Engine.open(settings, detector=ScriptedDetector(settings), operator=True)
        yield engine, engine.operator_token()
        engine.close()

    monkeypatch.setattr(commands.folder, "opened", opened)
    assert cli.main(["backup", "--verify"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"backup {names[0]}: failed (backup-invalid)")
    assert lines[1:] == [
        f"backup {names[1]}: 2 files, whole; 1 more lost before it was made",
        "1 of 2 backups broken",
    ]
    shutil.rmtree(settings.backup_dir / names[0])
    assert cli.main(["backup", "--verify"]) == 0
    shutil.rmtree(settings.backup_dir)  # not mounted
    assert cli.main(["backup", "--verify"]) == 1
    assert "no backup" in capsys.readouterr().err


def test_a_backup_is_not_restored_over_something(ward: Ward, settings: Settings) -> None:
    ward.engine.backups.make(ward.team.administrator)
    ward.engine.close()
    with pytest.raises(errors.StorageError):
        Engine.from_backup(settings, detector=ScriptedDetector(settings))


def test_without_a_folder_a_backup_says_what_to_set(ward: Ward, settings: Settings) -> None:
    ward.engine.close()
    bare = replace(settings, backup_dir=None)
    again = Engine.open(bare, detector=ScriptedDetector(bare))
    admin = again.sessions.sign_in("admin", PASSWORD).token
    with pytest.raises(errors.SettingsError, match="MEDSEC_BACKUP_DIR"):
        again.backups.make(admin)
    again.close()


def test_a_damaged_list_of_what_to_erase_keeps_the_folder_closed(
    engine: Engine, settings: Settings
) -> None:
    engine.close()
    pending = settings.data / PENDING_ERASURES
    for content in (b"[[", None):
        if content is None:
            pending.mkdir()  # neither read nor deleted
        else:
            pending.write_bytes(content)
        with pytest.raises(errors.StorageError, match="Recover it again"):
            Engine.open(settings, detector=ScriptedDetector(settings))
        if content is not None:
            pending.unlink()
