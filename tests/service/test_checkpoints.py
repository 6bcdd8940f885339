"""Checkpoints of the audit log: when the server writes them, and what happens where it cannot."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine import Engine, Settings, errors
from engine.records import AuditEntry
from engine.service.upkeep import _SYSTEM
from tests.conftest import Team
from tests.fakes import FakeHost, ScriptedDetector


class Hours:
    """The fake host's clocks, turned together as time passes."""

    def __init__(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        self._host, self._ticks_ms = host, 0.0
        monkeypatch.setattr(host, "ticks_ms", lambda: self._ticks_ms)

    def pass_by(self, hours: float) -> None:
        self._host.advance(hours=hours)
        self._ticks_ms += hours * 3_600_000.0


@pytest.fixture
def hours(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> Hours:
    return Hours(host, monkeypatch)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data=tmp_path / "data",
        key_file=tmp_path / "keys" / "root.key",
        backup_hours=0,  # none but those that a test asks for
        checkpoint_dir=tmp_path / "elsewhere" / "checkpoints",
        checkpoint_hours=24,
        bcrypt_cost=4,
    )


def reopened(engine: Engine, settings: Settings, host: FakeHost) -> Engine:
    engine.close()
    return Engine.open(settings, host, detector=ScriptedDetector(settings), operator=True)


def written(settings: Settings) -> list[str]:
    folder = settings.checkpoint_dir
    assert folder is not None
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def logged(engine: Engine) -> list[AuditEntry]:
    """Oldest first."""
    return list(reversed(engine.context.audit.entries(query="audit.checkpoint")))


# --- the schedule -----------------------------------------------------------------------------


def test_one_is_written_at_the_start_and_one_when_the_last_is_old_enough(
    engine: Engine, settings: Settings, hours: Hours
) -> None:
    engine.upkeep.tend()
    engine.upkeep.tend()
    assert len(written(settings)) == 1
    hours.pass_by(23.9)
    engine.upkeep.tend()
    assert len(written(settings)) == 1
    hours.pass_by(0.2)
    engine.upkeep.tend()
    engine.upkeep.tend()
    assert len(written(settings)) == 2


def test_every_start_writes_one(
    engine: Engine, settings: Settings, host: FakeHost, hours: Hours
) -> None:
    engine.upkeep.tend()
    hours.pass_by(0.1)
    engine = reopened(engine, settings, host)
    engine.upkeep.tend()
    assert len(written(settings)) == 2
    engine.close()


def test_zero_hours_leave_it_at_the_start(
    engine: Engine, settings: Settings, host: FakeHost, hours: Hours
) -> None:
    engine = reopened(engine, replace(settings, checkpoint_hours=0), host)
    for _ in range(3):
        engine.upkeep.tend()
        hours.pass_by(1000)
    assert len(written(settings)) == 1
    engine.close()


def test_a_schedule_of_less_than_an_hour_is_kept(
    engine: Engine, settings: Settings, host: FakeHost, hours: Hours
) -> None:
    engine = reopened(engine, replace(settings, checkpoint_hours=0.25), host)
    for _ in range(4):
        engine.upkeep.tend()
        hours.pass_by(0.25)
    assert len(written(settings)) == 4
    engine.close()


def test_a_clock_that_is_set_back_puts_none_off(
    engine: Engine, settings: Settings, host: FakeHost, hours: Hours
) -> None:
    host.advance(days=400)
    engine.upkeep.tend()
    host.advance(days=-400)
    hours.pass_by(25)
    engine.upkeep.tend()
    assert len(written(settings)) == 2


def test_without_a_folder_nothing_is_written_and_nothing_logged(
    engine: Engine, settings: Settings, host: FakeHost, hours: Hours
) -> None:
    engine = reopened(engine, replace(settings, checkpoint_dir=None), host)
    for _ in range(3):
        engine.upkeep.tend()
        hours.pass_by(25)
    token = engine.operator_token()
    with pytest.raises(errors.SettingsError, match="MEDSEC_CHECKPOINT_DIR"):
        engine.audit.write_checkpoint(token)
    assert (written(settings), logged(engine)) == ([], [])
    engine.close()


# --- with a backup ----------------------------------------------------------------------------


def test_a_backup_brings_one_which_counts_in_the_schedule(
    engine: Engine, settings: Settings, host: FakeHost, hours: Hours, tmp_path: Path
) -> None:
    engine = reopened(engine, replace(settings, backup_dir=tmp_path / "backups"), host)
    token = engine.operator_token()
    engine.upkeep.tend()
    hours.pass_by(20)
    engine.backups.make(token)
    assert len(written(settings)) == 2
    hours.pass_by(20)
    engine.upkeep.tend()
    assert len(written(settings)) == 2
    hours.pass_by(5)
    engine.upkeep.tend()
    assert len(written(settings)) == 3
    newest = settings.checkpoint_dir / written(settings)[1]  # type: ignore[operator]
    assert engine.audit.check_checkpoint(token, newest.read_bytes()) > 0
    engine.close()


def test_a_checkpoint_that_fails_does_not_lose_the_backup(
    engine: Engine, settings: Settings, host: FakeHost, tmp_path: Path
) -> None:
    assert settings.checkpoint_dir is not None
    settings.checkpoint_dir.parent.mkdir()
    settings.checkpoint_dir.write_bytes(b"a file in its place")
    engine = reopened(engine, replace(settings, backup_dir=tmp_path / "backups"), host)
    name = engine.backups.make(engine.operator_token())
    assert engine.backups.names(engine.operator_token()) == [name]
    [made] = engine.context.audit.entries(query="backup.make")
    assert (made.outcome, made.detail["name"]) == ("ok", name)
    [failed] = logged(engine)
    assert (failed.outcome, failed.detail["why"]) == ("failed", "storage-error")
    engine.close()


# --- where it cannot be written ---------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_logged_and_tried_again_in_an_hour(
    engine: Engine, settings: Settings, hours: Hours
) -> None:
    folder = settings.checkpoint_dir
    assert folder is not None
    folder.parent.mkdir()
    folder.write_bytes(b"a file in its place")
    engine.upkeep.tend()
    hours.pass_by(0.5)
    engine.upkeep.tend()
    assert [(e.actor, e.outcome, e.detail["why"]) for e in logged(engine)] == [
        ("system", "failed", "storage-error")
    ]
    hours.pass_by(0.6)
    engine.upkeep.tend()
    assert len(logged(engine)) == 2
    folder.unlink()
    hours.pass_by(0.5)
    engine.upkeep.tend()
    assert written(settings) == []
    hours.pass_by(0.6)
    engine.upkeep.tend()
    assert len(written(settings)) == 1
    assert logged(engine)[-1].detail == {"name": written(settings)[0]}


def test_the_rest_of_the_upkeep_goes_on_where_a_checkpoint_fails(
    engine: Engine, settings: Settings, hours: Hours, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept = []

    def sweep(still_alone: object) -> int:
        swept.append(1)
        return 0

    def broken(_: object) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(engine.upkeep, "sweep", sweep)
    monkeypatch.setattr(engine.upkeep._checkpoints, "write", broken)
    for _ in range(2):
        engine.upkeep.tend()
        hours.pass_by(2)
    assert len(swept) == 2


def test_a_folder_within_the_data_folder_is_refused(
    engine: Engine, settings: Settings, host: FakeHost, tmp_path: Path
) -> None:
    inside = tmp_path / "keys" / ".." / "data" / "checkpoints"
    engine = reopened(engine, replace(settings, checkpoint_dir=inside), host)
    with pytest.raises(errors.SettingsError, match="outside"):
        engine.audit.write_checkpoint(engine.operator_token())
    assert not inside.exists()
    assert [(e.outcome, e.detail["why"]) for e in logged(engine)] == [("failed", "settings-error")]
    engine.close()


def test_no_checkpoint_is_written_of_a_log_that_was_altered(
    engine: Engine, settings: Settings, team: Team
) -> None:
    with engine.context.database.write() as tx:
        tx.run("DROP TRIGGER audit_no_update ON audit")
        tx.run("UPDATE audit SET actor = 'nobody' WHERE sequence = 2")
    with pytest.raises(errors.AuditBroken):
        engine.audit.write_checkpoint(team.administrator)
    assert written(settings) == []
    assert [(e.outcome, e.detail["why"]) for e in logged(engine)] == [("failed", "audit-broken")]


# --- the file ---------------------------------------------------------------------------------


def test_the_file_is_for_its_owner_alone_and_names_nobody(
    engine: Engine, settings: Settings, host: FakeHost, team: Team
) -> None:
    name = engine.audit.write_checkpoint(team.administrator)
    assert name == f"audit-{host.now():%Y%m%dT%H%M%S%f}.json"
    assert written(settings) == [name]
    folder = settings.checkpoint_dir
    assert folder is not None
    assert (folder.stat().st_mode & 0o777, (folder / name).stat().st_mode & 0o777) == (0o700, 0o600)
    outer = json.loads((folder / name).read_bytes())
    assert set(json.loads(outer["body"])) == {"log", "size", "head", "signed_at"}
    assert set(outer) == {"body", "signature", "public_key"}
    [entry] = logged(engine)
    assert (entry.actor, entry.outcome, entry.detail) == ("admin", "ok", {"name": name})


def test_the_same_clock_twice_overwrites_no_checkpoint(
    engine: Engine, settings: Settings, host: FakeHost
) -> None:
    """A clock that was set back may show the same time again."""
    engine.upkeep._checkpoints.write(_SYSTEM)
    [first] = written(settings)
    assert settings.checkpoint_dir is not None
    content = (settings.checkpoint_dir / first).read_bytes()
    engine.upkeep._checkpoints.write(_SYSTEM)
    assert len(written(settings)) == 2
    assert (settings.checkpoint_dir / first).read_bytes() == content
