"""The database recovered to an earlier moment by PostgreSQL's own means, beside files of today."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from pathlib import Path

import pytest

from engine import Detection, Engine, Region, Settings, errors
from engine.service import upkeep
from engine.settings import Secret
from tests import builders
from tests.conftest import PASSWORD, WHY, Team
from tests.fakes import ScriptedDetector
from tests.postgresql import Cluster, programs

BOX = Detection(Region(8, 8, 200, 40), "text", 0.9, "net")


class Archived:
    """A cluster that archives its write-ahead log, as docs/operating.md says."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.log, self.base = cluster, cluster.folder / "wal", cluster.folder / "base"
        self.log.mkdir()
        shutil.chown(self.log, cluster.folder.stat().st_uid)
        with cluster.superuser() as admin:
            admin.execute("ALTER SYSTEM SET archive_mode = on")
            copy = f"test ! -f {self.log}/%f && cp %p {self.log}/%f"
            admin.execute(f"ALTER SYSTEM SET archive_command = '{copy}'".encode())
        cluster.stop("fast")
        cluster.start()

    def base_backup(self) -> None:
        self.cluster.run("pg_basebackup", "-D", str(self.base), "-h", str(self.cluster.folder),
                         "-p", str(self.cluster.port), "-U", "postgres", "-c", "fast")  # fmt: skip

    def now(self) -> str:
        with self.cluster.superuser() as admin:
            row = admin.execute("SELECT clock_timestamp()::text").fetchone()
        assert row is not None
        return str(row[0])

    def all_is_archived(self) -> None:
        with self.cluster.superuser() as admin:
            row = admin.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
        assert row is not None
        until, pause = time.monotonic() + 60, threading.Event()
        while not (self.log / str(row[0])).exists():
            assert time.monotonic() < until, "nothing was archived"
            pause.wait(0.05)

    def recover(self, moment: str) -> None:
        """The machine is lost; another one begins with the base backup."""
        self.cluster.stop()
        shutil.rmtree(self.cluster.data)
        self.base.rename(self.cluster.data)
        with (self.cluster.data / "postgresql.auto.conf").open("a") as settings:
            settings.write(
                f"restore_command = 'cp {self.log}/%f %p'\n"
                f"recovery_target_time = '{moment}'\n"
                "recovery_target_action = 'promote'\n"
            )
        (self.cluster.data / "recovery.signal").touch()
        self.cluster.start()
        until, pause = time.monotonic() + 60, threading.Event()
        while self.cluster.asked("SELECT pg_is_in_recovery()") == "True":
            assert time.monotonic() < until, "the recovery does not end"
            pause.wait(0.05)


def opened(settings: Settings) -> Engine:
    detector = ScriptedDetector(settings, [BOX])
    return Engine.open(settings, detector=detector, operator=True)


def uploaded(engine: Engine, team: Team, patient_id: str, text: str) -> tuple[str, bytes]:
    data = builders.png(builders.labelled(text)[0])
    image = engine.drafts.upload(team.technician, patient_id, f"{text}.png", data)
    return image.image_id, data


def sealed(engine: Engine, team: Team, patient_id: str, text: str) -> tuple[str, bytes]:
    image_id, data = uploaded(engine, team, patient_id, text)
    engine.drafts.seal(team.technician, image_id, [BOX])
    return image_id, data


def restored(engine: Engine, image_id: str) -> bytes:
    token = engine.operator_token()
    handle = engine.images.restore(token, image_id, WHY).handle
    return engine.images.restored_file(token, handle).data


@pytest.mark.slow
def test_a_database_recovered_to_a_moment_says_what_is_lost_and_brings_back_nothing_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "ORPHAN_SECONDS", -1.0)  # as if hours had passed
    if programs() is None:
        pytest.skip("no PostgreSQL server is installed")
    with contextlib.closing(Cluster()) as cluster:
        archived = Archived(cluster)
        settings = Settings(
            data=tmp_path / "data", key_file=tmp_path / "keys" / "root.key", bcrypt_cost=4,
            backup_dir=tmp_path / "backups", checkpoint_dir=tmp_path / "checkpoints",
            database=Secret(cluster.new()),
        )  # fmt: skip
        engine = opened(settings)
        team = Team(engine)
        patient = engine.patients.create(team.technician, "P-1", "Erika Musterfrau", 61).patient_id
        other = engine.patients.create(team.technician, "P-2", "Jan Nowak", 44).patient_id
        kept, first = sealed(engine, team, patient, "FIRST")
        image_gone, _ = sealed(engine, team, patient, "IMAGE")
        patient_gone, _ = sealed(engine, team, other, "PATIENT")
        draft, _ = uploaded(engine, team, patient, "DRAFT")
        engine.backups.make(team.administrator)
        archived.base_backup()
        later, second = sealed(engine, team, patient, "SECOND")  # in the archive alone
        moment = archived.now()

        engine.images.erase(team.administrator, image_gone, "asked for it")
        engine.patients.erase(team.administrator, other, "asked for it")
        engine.drafts.seal(team.technician, draft, [BOX])  # whose file the sweep deletes
        too_late, _ = sealed(engine, team, patient, "TOO LATE")
        engine.upkeep.sweep()
        checkpoint = settings.checkpoint_dir / engine.audit.write_checkpoint(team.administrator)
        engine.close()
        archived.all_is_archived()
        archived.recover(moment)

        engine = opened(settings)
        with pytest.raises(errors.NotSignedIn):  # one may have been ended since
            engine.caller(team.administrator)
        administrator = engine.sessions.sign_in("admin", PASSWORD).token
        technician = engine.sessions.sign_in("technician", PASSWORD).token
        assert restored(engine, kept) == first
        assert restored(engine, later) == second
        for image_id in (image_gone, patient_gone, too_late):
            with pytest.raises(errors.NotFound):
                restored(engine, image_id)
        with pytest.raises(errors.NotFound):
            engine.patients.get(technician, other)
        erased = [e for e in engine.audit.entries(administrator) if e.action.endswith(".erase")]
        assert {(e.actor, e.action) for e in erased} == {
            ("system", "image.erase"), ("system", "patient.erase")
        }  # fmt: skip
        # The log is whole, but shorter than it was, which a checkpoint alone can tell.
        engine.audit.verify(administrator)
        with pytest.raises(errors.AuditBroken):
            engine.audit.check_checkpoint(administrator, checkpoint.read_bytes())
        # What was deleted since is named, and comes back from MedSec's own backups.
        engine.upkeep.scrub.run(threading.Event())
        assert engine.upkeep.scrub.state["broken"] == [draft]
        with pytest.raises(errors.EngineError, match="backup"):
            engine.drafts.open(technician, draft)
        assert settings.backup_dir is not None
        shutil.copytree(settings.backup_dir / "blobs", settings.data / "blobs", dirs_exist_ok=True)
        engine.upkeep.scrub.run(threading.Event())
        assert engine.upkeep.scrub.state["broken"] == []
        engine.drafts.open(technician, draft)
        engine.drafts.seal(technician, draft, [BOX])
        for image_id in (image_gone, patient_gone):  # files without keys
            with pytest.raises(errors.NotFound):
                restored(engine, image_id)
        engine.close()
        again = opened(settings)  # what was done once is not done again
        assert again.caller(administrator)
        again.close()
