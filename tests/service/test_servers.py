"""Two servers on one catalog: what one does counts on the other, and one of them leads."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest

from engine import Engine, Hold, Settings, errors, tracing, version
from engine.host import Host
from engine.operations.restorations import Restoration
from engine.permissions import Role
from engine.service import upkeep
from engine.settings import Secret
from engine.store import backup, catalogs, postgresql, servers
from engine.store.audit import Event
from engine.store.postgresql import PostgresDatabase
from tests.conftest import PASSWORD, WHY, Team, text_png
from tests.fakes import ScriptedDetector
from tests.postgresql import Cluster, name_of


@dataclass
class Pair:
    """Two servers, with the people and a patient of one catalog."""

    settings: Settings
    first: Engine
    second: Engine
    team: Team
    patient_id: str

    def upload(self, name: str) -> str:
        data, box = text_png()
        self.first.detector.found = [box]  # type: ignore[attr-defined]
        data += name.encode()  # another file of the same picture
        return self.first.drafts.upload(
            self.team.technician, self.patient_id, f"{name}.png", data
        ).image_id


def opened(settings: Settings) -> Engine:
    """A server; its detector says what a test wants."""
    return Engine.open(settings, Host(settings.data / "blobs"), detector=ScriptedDetector(settings))


def base(engine: Engine) -> PostgresDatabase:
    database = engine.context.database
    assert isinstance(database, PostgresDatabase)
    return database


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Iterator[Pair]:
    folder, url = tmp_path_factory.mktemp("servers"), cluster.new()
    settings = Settings(
        data=folder / "data", key_file=folder / "keys" / "root.key", bcrypt_cost=4,
        database=Secret(url), database_connections=6, servers="many", requests_per_minute=10,
        backup_dir=folder / "backups",
    )  # fmt: skip
    patience = pytest.MonkeyPatch()
    # On a machine that is starved of processors, beats come late.
    patience.setattr(servers, "STALE_SECONDS", 60.0)
    patience.setattr(servers, "DEAD_SECONDS", 120.0)
    first = opened(settings)
    second = opened(settings)
    team = Team(first)
    patient = first.patients.create(team.technician, "P-1", "Erika Musterfrau", 61)
    yield Pair(settings, first, second, team, patient.patient_id)
    second.close()
    first.close()
    patience.undo()
    cluster.take_back(url)


def soon(true: Callable[[], object], seconds: float = 10.0) -> None:
    """Asks again and again; ``seconds`` are for a machine that is starved of processors."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not count in time"
        time.sleep(0.02)


def by_lead(pair: Pair) -> tuple[PostgresDatabase, PostgresDatabase]:
    """The one that leads, and the other one, as soon as one does."""
    databases = (base(pair.first), base(pair.second))
    soon(lambda: sum(d.leads for d in databases) == 1)
    leader, other = sorted(databases, key=lambda d: not d.leads)
    return leader, other


def signed_in(pair: Pair, name: str = "doctor") -> str:
    return pair.first.sessions.sign_in(name, PASSWORD).token


def test_signing_out_counts_on_the_other_server(pair: Pair) -> None:
    token = signed_in(pair)
    assert pair.second.sessions.whoami(token).username == "doctor"
    pair.first.sessions.sign_out(token)
    with pytest.raises(errors.NotSignedIn):
        pair.second.sessions.whoami(token)


def test_a_disabled_account_is_out_on_the_other_server(pair: Pair) -> None:
    admin = pair.team.administrator
    pair.first.people.create(admin, "leaver", "L", Role.DOCTOR, PASSWORD)
    token = signed_in(pair, "leaver")
    pair.second.sessions.whoami(token)
    pair.first.people.set_enabled(admin, "leaver", False)
    with pytest.raises(errors.NotSignedIn):
        pair.second.sessions.whoami(token)
    with pytest.raises(errors.AccessError):
        pair.second.sessions.sign_in("leaver", PASSWORD)


def test_failed_attempts_of_both_servers_are_counted_together(pair: Pair) -> None:
    pair.first.people.create(pair.team.administrator, "guessed", "G", Role.DOCTOR, PASSWORD)
    for engine in (pair.first, pair.second) * 2 + (pair.first,):
        with pytest.raises(errors.NotSignedIn):
            engine.sessions.sign_in("guessed", "something else entirely")
    with pytest.raises(errors.AccountLocked):
        pair.second.sessions.sign_in("guessed", PASSWORD)


def test_requests_of_both_servers_are_counted_together(pair: Pair) -> None:
    hits = [engine.shared.hit("account/x", 10) for engine in (pair.first, pair.second) * 6]
    assert hits[:10] == [0] * 10
    assert all(hits[10:])


def test_a_draft_that_is_open_on_one_server_is_taken_on_the_other(pair: Pair) -> None:
    image_id = pair.upload("claimed")
    admin = pair.team.administrator
    pair.first.people.create(admin, "second", "S", Role.TECHNICIAN, PASSWORD)
    pair.first.drafts.open(pair.team.technician, image_id)
    other = pair.second.sessions.sign_in("second", PASSWORD).token
    with pytest.raises(errors.NotFound, match="technician is working on this image"):
        pair.second.drafts.open(other, image_id)
    pair.first.worklist.leave(pair.team.technician, image_id)
    pair.second.drafts.open(other, image_id)


def test_a_restoration_of_the_other_server_is_not_here_and_a_flag_closes_it(pair: Pair) -> None:
    image_id = pair.upload("flagged")
    view = pair.first.drafts.open(pair.team.technician, image_id)
    pair.first.drafts.seal(pair.team.technician, image_id, view.detections)
    token = signed_in(pair)
    handle = pair.first.images.restore(token, image_id, WHY).handle
    with pytest.raises(errors.NotFound, match="Open it again"):
        pair.second.images.restored_frame(token, handle, 0)
    pair.first.images.restored_frame(token, handle, 0)
    pair.second.withdrawals.flag(pair.team.doctor, image_id, "a name is visible")
    assert image_id in pair.first.context.open_images.subjects(Restoration)
    pair.first.upkeep.forget_ended()
    assert image_id not in pair.first.context.open_images.subjects(Restoration)
    with pytest.raises(errors.NotFound, match="Open it again"):
        pair.first.images.restored_frame(token, handle, 0)


def test_what_a_session_had_open_is_forgotten_when_it_ends_elsewhere(pair: Pair) -> None:
    image_id = pair.upload("forgotten")
    token = pair.first.sessions.sign_in("technician", PASSWORD).token
    pair.first.drafts.open(token, image_id)
    session = pair.first.caller(token).session_id
    pair.second.sessions.sign_out(token)
    assert session in pair.first.context.open_images.sessions()
    pair.first.upkeep.forget_ended()
    assert session not in pair.first.context.open_images.sessions()


def test_accounts_changed_outside_are_an_alarm_on_all_servers(pair: Pair, cluster: Cluster) -> None:
    name = name_of(str(pair.settings.database))

    def let(role: str) -> None:
        with cluster.superuser(name) as admin:
            admin.execute(
                "UPDATE medsec.accounts SET role = %s WHERE username = 'researcher'", [role]
            )

    let("doctor")
    try:
        pair.first.upkeep._next_ms.pop("roster", None)
        pair.first.upkeep._roster_due()
        for engine in (pair.first, pair.second):
            state = engine.health.state(pair.team.administrator)
            assert "accounts and rights" in state["broken"]
        # So no entry of the other server vouches for them.
        pair.second.people.create(
            pair.team.administrator, "newcomer", "N. Comer", Role.TECHNICIAN, PASSWORD
        )
        with pytest.raises(errors.RosterBroken):
            pair.first.audit.verify_access(pair.team.administrator)
        # What is shared goes with a crash of the database; who found it still knows.
        pair.second.context.watch.broken = False
        assert pair.first.context.watch.broken
    finally:
        let("researcher")
        pair.first.context.watch.broken = False
        pair.second.context.audit.record(upkeep._SYSTEM, Event("roster.accept", reason="undone"))
    pair.first.audit.verify_access(pair.team.administrator)


def test_settings_and_profiles_count_on_the_other_server_with_its_next_beat(pair: Pair) -> None:
    assert servers.BEAT_SECONDS < 0.5  # within a second, then
    admin = pair.team.administrator
    pair.first.runtime_settings.change(admin, "step_up_minutes", "7")
    soon(lambda: pair.second.settings.step_up_minutes == 7)
    pair.second.profiles.save(admin, "chest", {"title": "Thorax"})
    soon(lambda: pair.first.profiles.get("chest").title == "Thorax")
    pair.second.runtime_settings.reset(admin, "step_up_minutes")
    soon(lambda: pair.first.settings.step_up_minutes == 0)


def test_a_sign_in_begun_on_one_server_ends_on_the_other_and_once(pair: Pair) -> None:
    challenges = [engine.context.challenges for engine in (pair.first, pair.second)]
    handle = challenges[0].issue("doctor", "password", "hash")
    assert challenges[1].get(handle).username == "doctor"
    challenges[1].finish(handle, "hash")
    with pytest.raises(errors.NotSignedIn):
        challenges[0].finish(handle, "hash")


def test_a_read_that_one_server_logged_is_not_logged_by_the_other(pair: Pair) -> None:
    logs = [engine.context.read_log for engine in (pair.first, pair.second)]
    read = ("se_1", "image.list")
    assert [log.new(*read) for log in logs] == [True, True]  # not before the entry is written
    logs[0].logged(*read)
    assert [log.new(*read) for log in logs] == [False, False]


def test_a_read_whose_entry_could_not_be_written_is_logged_with_the_next_try(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> None:
        raise errors.StorageBusy("The catalog is busy.")

    guard, caller = pair.first._guard, pair.first.caller(pair.team.doctor)
    before = pair.first.context.audit.count()
    monkeypatch.setattr(pair.first.context.audit, "record", busy)
    with pytest.raises(errors.StorageBusy):
        guard.record_read(caller, Event("image.list", detail={"busy": True}))
    monkeypatch.undo()
    for engine in (pair.second, pair.first):
        engine._guard.record_read(caller, Event("image.list", detail={"busy": True}))
    assert pair.first.context.audit.count() == before + 1


def test_root_keys_are_not_changed_while_servers_run(pair: Pair) -> None:
    for new_root in (True, False):
        with pytest.raises(errors.InputError, match="Stop all servers"):
            pair.first.keys.rotate(pair.team.administrator, new_root=new_root)


def test_a_server_that_cannot_take_in_a_change_leads_no_more(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, other = by_lead(pair)

    def broken() -> None:
        raise errors.SealBroken("The settings were altered.")

    monkeypatch.setattr(leader, "_changed", broken)
    monkeypatch.setattr(servers, "STALE_SECONDS", 2.0)
    pair.second.runtime_settings.change(pair.team.administrator, "restore_minutes", "4")
    soon(lambda: other.leads, 20)
    monkeypatch.undo()
    soon(lambda: not leader._servers.stale)  # type: ignore[union-attr]
    assert not leader.leads


def test_a_change_waits_for_a_second_administrator_on_the_other_server(pair: Pair) -> None:
    admin = pair.team.administrator
    for name in ("other", "third"):
        pair.first.people.create(admin, name, "O", Role.ADMINISTRATOR, PASSWORD)
    both = (pair.first, pair.second)
    for engine in both:
        engine.context.live.use(replace(engine.settings, four_eyes=True))
    try:
        with pytest.raises(errors.ConfirmationNeeded):
            pair.first.people.set_role(admin, "third", Role.DOCTOR)
        other = pair.second.sessions.sign_in("other", PASSWORD).token
        (waiting,) = pair.second.people.proposals(other)
        assert pair.second.people.confirm(other, waiting.proposal_id).role is Role.DOCTOR
        assert not pair.first.people.proposals(admin)
    finally:
        for engine in both:
            engine.context.live.use(replace(engine.settings, four_eyes=False))


def test_one_backup_is_made_at_a_time(pair: Pair) -> None:
    with base(pair.second).alone("backup"), pytest.raises(errors.StorageBusy):
        pair.first.backups.make(pair.team.administrator)
    pair.first.backups.make(pair.team.administrator)


def test_a_backup_whose_lock_was_lost_is_none(
    pair: Pair, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server may make one by now, which takes away files that no manifest names."""
    pair.upload("more to copy")
    before = pair.first.backups.names(pair.team.administrator)
    bring = backup.Backups._bring

    def lost(self: backup.Backups, address: str, source: Host) -> str:
        with cluster.superuser() as admin:
            ended = admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                " AND objid = 16"
            ).fetchall()
        monkeypatch.undo()
        assert ended == [(True,)]
        return bring(self, address, source)

    monkeypatch.setattr(backup.Backups, "_bring", lost)
    with pytest.raises(errors.TurnLost, match="backup was given up"):
        pair.first.backups.make(pair.team.administrator)
    assert pair.first.backups.names(pair.team.administrator) == before
    assert pair.second.backups.make(pair.team.administrator)  # nothing is in its way


def test_files_that_nothing_needs_are_left_to_the_sweep(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_id = pair.upload("thrown away")
    before = set(pair.first.context.host.blobs())
    pair.first.drafts.discard(pair.team.technician, image_id, "twice")
    assert set(pair.first.context.host.blobs()) == before
    monkeypatch.setattr(upkeep, "ORPHAN_ELSEWHERE_SECONDS", -1.0)
    assert pair.first.upkeep.sweep() >= 1
    assert set(pair.first.context.host.blobs()) < before


def test_rows_of_what_is_shared_say_nothing_and_cannot_be_moved(pair: Pair) -> None:
    shared, database = pair.first.shared, base(pair.first)
    shared.hold(Hold("ticket", "very secret", "x", "the token"), upkeep.timedelta(minutes=1))
    rows = database.read().all("SELECT * FROM shared")
    assert "very secret" not in repr(rows)
    assert "the token" not in repr(rows)
    other = shared._name("ticket", "another")  # type: ignore[attr-defined]
    mine = shared._name("ticket", "very secret")  # type: ignore[attr-defined]
    database.read().all("UPDATE shared SET name = $1 WHERE name = $2", other, mine)
    assert shared.take("ticket", "another") is None


def test_both_servers_write_one_chain(pair: Pair) -> None:
    def write(engine: Engine) -> None:
        who = engine.caller(pair.team.doctor)
        for _ in range(15):
            engine.context.audit.record(who, Event("image.list"))

    threads = [threading.Thread(target=write, args=(e,)) for e in (pair.first, pair.second) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pair.second.audit.verify(pair.team.administrator) > 60


def test_a_process_that_must_be_alone_is_refused_while_servers_run(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_TRIES", 1)
    with pytest.raises(errors.StorageBusy, match="MEDSEC_SERVERS=many"):
        opened(replace(pair.settings, servers="one"))
    with pytest.raises(errors.StorageBusy, match="MEDSEC_SERVERS=many"):
        Engine.open(pair.settings, operator=True)
    with pytest.raises(errors.StorageBusy):
        catalogs.prepare_database(pair.settings, "medsec_server")


def test_a_server_with_other_rules_or_of_another_kind_is_refused(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(errors.SettingsError, match="MEDSEC_CARE_RELATION"):
        opened(replace(pair.settings, care_relation=True))
    with pytest.raises(errors.SettingsError, match="MEDSEC_CONFIDENCE, MEDSEC_PADDING"):
        opened(replace(pair.settings, confidence=0.5, padding=0.0))
    monkeypatch.setattr(servers, "TOGETHER", servers.TOGETHER + 1)
    with pytest.raises(errors.StorageError, match="another release"):
        opened(pair.settings)


def test_a_server_with_a_folder_of_its_own_is_refused(pair: Pair, tmp_path: Path) -> None:
    copied = replace(pair.settings, data=tmp_path / "copy")
    copied.data.mkdir()
    (copied.data / "catalog.id").write_bytes((pair.settings.data / "catalog.id").read_bytes())
    with pytest.raises(errors.StorageError, match="same shared folder"):
        opened(copied)


def test_a_server_with_backups_of_its_own_is_refused(pair: Pair, tmp_path: Path) -> None:
    there = pair.settings.backup_dir
    assert there is not None
    there.rename(tmp_path / "unmounted")  # the same name, another folder
    try:
        with pytest.raises(errors.StorageError, match="MEDSEC_BACKUP_DIR"):
            opened(pair.settings)
    finally:
        shutil.rmtree(there, ignore_errors=True)
        (tmp_path / "unmounted").rename(there)


def test_a_clock_that_is_wrong_is_refused(pair: Pair) -> None:
    class Late(Host):
        def now(self) -> upkeep.datetime:
            return super().now() - upkeep.timedelta(seconds=30)

    with pytest.raises(errors.SettingsError, match="clocks"):
        Engine.open(pair.settings, Late(pair.settings.data / "blobs"))


def write_as_leader(database: PostgresDatabase) -> None:
    with database.as_leader(), database.write():
        pass


def test_one_server_leads_and_another_follows_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, other = by_lead(pair)
    with pytest.raises(errors.StorageBusy, match="Another server"):
        write_as_leader(other)
    write_as_leader(leader)
    monkeypatch.setattr(leader, "_beat", lambda: None)  # it cannot connect again
    leader._lease.close()  # as when the network drops it
    soon(lambda: other.leads)
    with pytest.raises(errors.StorageBusy, match="Another server"):
        write_as_leader(leader)
    monkeypatch.undo()
    soon(lambda: leader._lease.connection is not None)
    assert [other.leads, leader.leads] == [True, False]


_LEADS = """
import sys, time
from pathlib import Path
from engine.host import Host
from engine.store.postgresql import PostgresDatabase
from engine.store.servers import Servers
url, folder = sys.argv[1], Path(sys.argv[2])
host = Host(folder / "blobs")
database = PostgresDatabase.open(url, folder, host, 5, 4, Servers(host, {}))
database.watch(lambda: None)
while not database.leads:
    time.sleep(0.05)
print("leads", flush=True)
with database.as_leader(), database.write():
    time.sleep(600)  # amid a change
"""


def test_a_leader_that_is_killed_amid_a_change_is_followed(
    tmp_path: Path, cluster: Cluster
) -> None:
    url, host = cluster.new(), Host(tmp_path / "blobs")
    child = subprocess.Popen(
        [sys.executable, "-c", _LEADS, url, str(tmp_path)],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "leads\n"
    follower = PostgresDatabase.open(url, tmp_path, host, 5, 4, servers.Servers(host, {}))
    follower.watch(lambda: None)
    try:
        time.sleep(2 * servers.BEAT_SECONDS)
        assert not follower.leads
        child.kill()
        soon(lambda: follower.leads)
        write_as_leader(follower)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        follower.close()
        cluster.take_back(url)


def test_a_server_that_cannot_say_that_it_is_there_answers_nothing(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "STALE_SECONDS", 0.0)
    with pytest.raises(errors.StorageBusy, match="cannot reach the database in time"):
        pair.second.sessions.whoami(pair.team.doctor)
    monkeypatch.undo()
    soon(lambda: pair.second.sessions.whoami(pair.team.doctor))


def test_a_server_that_falls_silent_amid_a_change_does_not_hold_up_the_others(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers.Servers, "patience_ms", 1000)
    caller = pair.first.caller(pair.team.technician)
    lost = pytest.raises(errors.StorageBusy, match="connection to the database was lost")
    with lost, base(pair.first).write() as tx:
        tx.announce()
        pair.second.context.audit.record(caller, Event("image.list"))  # waits a second, not for us
        tx.announce()
    pair.first.context.audit.record(caller, Event("image.list"))
    assert pair.first.audit.verify(pair.team.administrator) > 0


def test_a_dead_server_can_write_no_more_and_what_it_held_is_free(pair: Pair) -> None:
    third = opened(pair.settings)
    ended = threading.Event()
    third.context.database.when_expelled = ended.set
    image_id = pair.upload("held")
    technician = third.caller(pair.team.technician)
    third.context.claims.hold(technician, image_id)
    stranger = replace(technician, username="somebody")
    with pytest.raises(errors.NotFound):
        pair.second.context.claims.claim(stranger, image_id)
    base(third)._beat = lambda: None  # type: ignore[method-assign]
    time.sleep(0.5)  # a round may be under way
    with psycopg.connect(str(pair.settings.database)) as rows:
        rows.execute(
            "UPDATE medsec.servers SET heartbeat_at = heartbeat_at - INTERVAL '10 minutes'"
            " WHERE server_id = %s",
            [third.context.database.server_id],
        )
    time.sleep(2 * servers.BEAT_SECONDS)  # both have seen that row, and it stays as it is
    for engine in (pair.first, pair.second):
        others = base(engine)._servers._others  # type: ignore[union-attr]
        for name, (at, since) in list(others.items()):
            if name == third.server_id:
                others[name] = at, since - 600_000
    soon(lambda: _claims(pair.second, stranger, image_id))
    with pytest.raises(servers.Expelled, match="taken for dead") as caught:
        third.context.audit.record(technician, Event("image.list"))
    assert caught.value.status == 503  # asked again, a proxy gives it to another one
    del base(third)._beat  # type: ignore[method-assign]
    assert ended.wait(10)
    third.close()


def _claims(engine: Engine, caller: object, image_id: str) -> bool:
    try:
        engine.context.claims.claim(caller, image_id)  # type: ignore[arg-type]
    except errors.NotFound:
        return False
    return True


@pytest.mark.slow
def test_all_servers_come_back_when_the_database_was_away_for_long(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "DEAD_SECONDS", 8.0)
    monkeypatch.setattr(servers, "STALE_SECONDS", 2.0)
    own = Cluster()
    settings = Settings(
        data=tmp_path / "data", key_file=tmp_path / "keys" / "root.key", bcrypt_cost=4,
        database=Secret(own.new()), database_connections=4, servers="many", write_wait_seconds=2,
    )  # fmt: skip
    both = [opened(settings), opened(settings)]
    ended = threading.Event()
    try:
        team = Team(both[0])
        time.sleep(9)  # each could take the other for dead
        for engine in both:
            engine.context.database.when_expelled = ended.set
        own.stop("fast")
        time.sleep(9)
        for engine in both:
            with pytest.raises(errors.StorageBusy):
                engine.sessions.whoami(team.doctor)
        own.start()
        for engine in both:
            soon(lambda engine=engine: _answers(engine, team.doctor), 30)  # type: ignore[misc]
        assert not ended.is_set()
        assert sum(e.context.database.leads for e in both) == 1
        assert len(both[0].context.database.servers()) == 2
        assert both[1].audit.verify(team.administrator) > 0
    finally:
        for engine in both:
            engine.close()
        own.close()


def _answers(engine: Engine, token: str) -> bool:
    try:
        return engine.sessions.whoami(token).username == "doctor"
    except errors.StorageBusy:
        return False


def test_the_catalog_of_a_file_has_one_server(tmp_path: Path) -> None:
    with pytest.raises(errors.SettingsError, match="MEDSEC_DATABASE"):
        Settings(data=tmp_path, servers="many")


def test_health_metrics_and_log_lines_name_the_server(pair: Pair) -> None:
    admin, own = pair.team.administrator, pair.second.server_id
    state = pair.second.health.state(admin)
    assert {s.server_id for s in state["servers"]} == {pair.first.server_id, own}
    assert state["server"] == own
    assert [s.leads for s in state["servers"]].count(True) == 1
    metrics = pair.second.health.metrics(admin).decode()
    assert f'medsec_server{{release="{version()}",server="{own}"}} 1.0' in metrics
    assert 'medsec_state{what="servers"} 2.0' in metrics
    record = logging.LogRecord("medsec", logging.INFO, "", 0, "hello", None, None)
    try:
        tracing.name_server(own)
        assert json.loads(tracing.JsonLines().format(record))["server"] == own
    finally:
        tracing.name_server("")
    assert "server" not in json.loads(tracing.JsonLines().format(record))


def test_what_started_is_in_the_log_with_its_server(pair: Pair) -> None:
    starts = pair.first.audit.entries(pair.team.administrator, "system.start")
    assert {pair.first.server_id, pair.second.server_id} <= {e.detail["server"] for e in starts}
