"""A catalog on a PostgreSQL server: rights, TLS, one server, many writers, crashes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

import cli
from commands.outcome import Outcome
from engine import Engine, Settings
from engine.errors import InputError, SettingsError, StorageBusy, StorageError
from engine.permissions import Role
from engine.records import Caller
from engine.service.batches import BatchOptions, Source
from engine.service.reception import Instance
from engine.settings import Secret
from engine.store import catalogs, postgresql
from engine.store import database as module
from engine.store.audit import AuditLog, Event
from engine.store.audit_forwarding import AuditForwarding
from engine.store.database import CATALOG_ID, Database, Row
from engine.store.postgresql import PostgresDatabase, _options, migrate
from engine.store.postgresql_schema import STEPS, role_script
from tests import builders
from tests.conftest import Team, Ward, text_png
from tests.fakes import FakeHost, ScriptedDetector
from tests.postgresql import OWNER, SERVER, Cluster, programs
from tests.store.conftest import NewCatalog, Opener

WHO = Caller("doctor", Role.DOCTOR, "se_1", "127.0.0.1")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def catalog_on() -> str:
    return "postgresql"


@pytest.fixture
def database(tmp_path: Path, open_database: Opener) -> Database:
    return open_database(FakeHost(tmp_path))


@pytest.fixture
def audit(database: Database, tmp_path: Path) -> AuditLog:
    return AuditLog(database, FakeHost(tmp_path), b"k" * 32)


def opened(url: str, folder: Path) -> PostgresDatabase:
    return PostgresDatabase.open(url, folder, FakeHost(folder), 10, 4)


def as_role(url: str, role: str) -> psycopg.Connection:
    """A connection that finds the tables; what it did is kept."""
    return psycopg.connect(**{**_options(url, 5), "user": role}, autocommit=True)


# --- rights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sql", [
    "UPDATE audit SET actor = 'x'",
    "UPDATE audit SET actor = 'x' WHERE false",
    "DELETE FROM audit",
    "TRUNCATE audit",
    "DROP TABLE audit",
    "ALTER TABLE audit DISABLE TRIGGER ALL",
    "DROP TRIGGER audit_no_update ON audit",
    "ALTER TABLE audit ADD COLUMN more TEXT",
    "CREATE TABLE more (a TEXT)",
    "CREATE TEMP TABLE audit (a TEXT)",
    "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
    "SET session_replication_role = replica",
    "INSERT INTO migrations VALUES ('x', now())",
    "DELETE FROM erasures",
    "UPDATE writer SET catalog_id = 'x'",
])  # fmt: skip
def test_the_servers_role_cannot_change_the_log_or_the_tables(
    audit: AuditLog, catalog_url: Secret, sql: str
) -> None:
    audit.record(WHO, Event("image.restore"))
    with (
        as_role(catalog_url, SERVER) as server,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        server.execute(sql.encode())
    assert audit.verify() == 1


@pytest.mark.parametrize(
    "sql", ["UPDATE audit SET actor = 'x'", "DELETE FROM audit", "TRUNCATE audit"]
)
@pytest.mark.parametrize("role", [OWNER, "postgres"])
def test_the_log_refuses_changes_by_its_owner_too(
    audit: AuditLog, catalog_url: Secret, role: str, sql: str
) -> None:
    audit.record(WHO, Event("image.restore"))
    with as_role(catalog_url, role) as owner, pytest.raises(psycopg.Error, match="append only"):
        owner.execute(sql.encode())
    assert audit.verify() == 1


@pytest.mark.parametrize(("sql", "says"), [
    (f"GRANT UPDATE ON audit TO {SERVER}", "can change the audit log"),
    (f"GRANT UPDATE (actor) ON audit TO {SERVER}", "can change the audit log"),
    (f"GRANT TRUNCATE ON audit TO {SERVER}", "can change the audit log"),
    ("GRANT DELETE ON audit TO PUBLIC", "can change the audit log"),
    (f"GRANT CREATE ON SCHEMA medsec TO {SERVER}", "can change the audit log"),
    (f"REVOKE INSERT ON audit FROM {SERVER}", "lacks rights on 1 tables"),
    (f"REVOKE DELETE ON care FROM {SERVER}", "lacks rights on 1 tables"),
    ("ALTER TABLE audit DISABLE TRIGGER audit_no_delete", "triggers of the audit log"),
    ("DROP TRIGGER audit_no_truncate ON audit", "triggers of the audit log"),
    ("DELETE FROM migrations WHERE name LIKE 'networks%'", "database-migrate"),
    ("INSERT INTO migrations VALUES ('9999 future', now())", "newer version"),
    ("DROP SCHEMA medsec CASCADE", "database-migrate"),
])  # fmt: skip
def test_too_many_and_too_few_rights_are_refused_with_what_to_do(
    catalog_url: Secret, tmp_path: Path, sql: str, says: str
) -> None:
    with as_role(catalog_url, OWNER) as owner:
        owner.execute(sql.encode())
    with pytest.raises(StorageError, match=says):
        opened(catalog_url, tmp_path)
    if "GRANT" in sql or "REVOKE" in sql:  # the command mends what it gave
        if "SCHEMA" in sql or "PUBLIC" in sql:
            with as_role(catalog_url, OWNER) as owner:
                owner.execute(f"REVOKE CREATE ON SCHEMA medsec FROM {SERVER}".encode())
        assert migrate(catalog_url.replace(SERVER, OWNER), SERVER, FakeHost(tmp_path), 2) == []
        opened(catalog_url, tmp_path).close()


@pytest.mark.parametrize("role", [OWNER, "postgres"])
def test_a_server_that_owns_the_tables_is_refused(
    catalog_url: Secret, tmp_path: Path, role: str
) -> None:
    with pytest.raises(StorageError, match="can change the audit log"):
        opened(catalog_url.replace(SERVER, role), tmp_path)


def test_a_database_that_orders_texts_otherwise_is_refused(
    cluster: Cluster, tmp_path: Path
) -> None:
    with cluster.superuser() as admin:
        for name, how in (
            ("latin", "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"),
            ("german", "ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'de' LOCALE 'C.UTF-8'"),
        ):
            admin.execute(f"DROP DATABASE IF EXISTS {name}".encode())
            admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 {how}".encode())
    for name in ("latin", "german"):
        with pytest.raises(SettingsError, match="encoding UTF8 and collation C"):
            opened(cluster.url(name), tmp_path)


def test_a_server_that_answers_before_it_has_saved_is_refused(
    catalog_url: Secret, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="synchronous_commit to on"):
        opened(f"{catalog_url}&options=-c%20synchronous_commit%3Doff", tmp_path)
    opened(f"{catalog_url}&options=-c%20synchronous_commit%3Dlocal", tmp_path).close()


def test_a_server_that_only_reads_is_not_connected_to(catalog_url: Secret, tmp_path: Path) -> None:
    with pytest.raises(StorageBusy, match="Cannot connect to MEDSEC_DATABASE"):
        opened(f"{catalog_url}&options=-c%20default_transaction_read_only%3Don", tmp_path)


@pytest.mark.parametrize(("database", "role"), [("nowhere", SERVER), ("postgres", "nobody")])
def test_a_database_that_cannot_be_connected_to_is_no_lost_connection(
    cluster: Cluster, tmp_path: Path, database: str, role: str
) -> None:
    with pytest.raises(StorageBusy, match="Check address, database, role, password"):
        opened(cluster.url(database, role), tmp_path)


# --- making the tables ------------------------------------------------------------------------


def test_the_script_and_the_command_make_a_database_that_a_server_opens(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.script(role_script("ward_owner", "ward", "ward"))
    urls = [cluster.url("ward", role) for role in ("ward", "ward_owner")]
    with pytest.raises(StorageError, match="database-migrate"):
        opened(urls[0], tmp_path)
    with pytest.raises(StorageError, match="lacks a right"):  # the server's role cannot do it
        migrate(urls[0], "ward_owner", FakeHost(tmp_path), 2)
    with ThreadPoolExecutor(2) as both:  # two at once: one waits for the other, or is told of it
        tries = [both.submit(migrate, urls[1], "ward", FakeHost(tmp_path), 2) for _ in range(2)]
    assert sum(len(t.result()) for t in tries) == len(module.MIGRATIONS) + len(STEPS)
    opened(urls[0], tmp_path).close()
    step = ("0002 test", "CREATE TABLE extra (a INTEGER, b BLOB, c DOUBLE)")
    monkeypatch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, step))
    with pytest.raises(StorageError, match="database-migrate"):
        opened(urls[0], tmp_path)
    assert migrate(urls[1], "ward", FakeHost(tmp_path), 2) == ["0002 test"]
    database = opened(urls[0], tmp_path)
    with database.write() as tx:
        tx.run("INSERT INTO extra VALUES (1, $1, 0.5)", b"x")
    database.close()


def test_a_step_that_fails_leaves_nothing_of_it(
    catalog_url: Secret, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = ("0002 test", "CREATE TABLE extra (a INTEGER); CREATE TABLE extra (a INTEGER)")
    monkeypatch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, step))
    owner = catalog_url.replace(SERVER, OWNER)
    with pytest.raises(StorageError):
        migrate(owner, SERVER, FakeHost(tmp_path), 2)
    monkeypatch.undo()
    assert migrate(owner, SERVER, FakeHost(tmp_path), 2) == []
    opened(catalog_url, tmp_path).close()


@pytest.mark.parametrize(
    "names", [("a", "a", "b"), ("A", "b", "c"), ("a", "b; DROP", "c"), ("a", "b", 'c"')]
)
def test_names_that_are_no_plain_words_are_refused(names: tuple[str, str, str]) -> None:
    with pytest.raises(InputError):
        role_script(*names)


# --- the URL ----------------------------------------------------------------------------------


@pytest.mark.parametrize("url", [
    "postgresql://u:hunter2@db.hospital/medsec",  # libpq would go on in clear text
    "postgresql://u:hunter2@db.hospital/medsec?sslmode=disable",
    "postgresql://u:hunter2@db.hospital/medsec?sslmode=prefer",
    "postgresql://u:hunter2@db.hospital/medsec?sslmode=require",  # encrypted, but to whom?
    "postgresql://u:hunter2@10.0.0.7/medsec",
    "postgresql://u:hunter2@localhost,db.hospital/medsec",
    "postgresql://u:hunter2@localhost/medsec?hostaddr=10.0.0.7",
    "postgresql:///medsec?service=elsewhere",
    "mysql://u:hunter2@localhost/medsec",
    "host=localhost dbname=medsec password=hunter2",
    "postgresql://u:hunter2@localhost",
    "postgresql://u:hunter2@localhost/medsec?sslmod=x",
    "hunter2",
])  # fmt: skip
def test_a_url_that_is_none_or_not_safe_is_refused_without_being_quoted(
    url: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError) as caught:
        opened(url, tmp_path)
    assert "MEDSEC_DATABASE" in str(caught.value)
    assert "hunter2" not in f"{caught.value!r}{caught.value.facts}"


def test_addresses_of_this_machine_and_verified_ones_elsewhere_are_taken() -> None:
    for url in (
        "postgresql:///medsec", "postgresql://localhost/medsec", "postgresql://[::1]:5433/medsec",
        "postgresql://127.0.0.1/medsec", "postgresql://u@/medsec?host=/run/postgresql",
        "postgresql://db.hospital/medsec?sslmode=verify-full",
        "postgresql://a.hospital,b.hospital/medsec?sslmode=verify-ca",
    ):  # fmt: skip
        assert _options(url, 5)["dbname"] == "medsec"


@pytest.mark.parametrize("name", ["PGHOST", "PGHOSTADDR"])
def test_another_machine_that_the_environment_names_must_be_verified_too(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "10.0.0.7")
    with pytest.raises(SettingsError, match="sslmode=verify-full"):
        _options("postgresql:///medsec", 5)
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert _options("postgresql:///medsec", 5)["dbname"] == "medsec"


def test_a_password_is_in_no_message_and_no_settings(
    catalog_url: Secret, settings: Settings, tmp_path: Path
) -> None:
    secret = Secret("postgresql://medsec:hunter2@127.0.0.1:1/medsec")
    chosen = replace(settings, database=secret)
    assert "hunter2" not in repr(chosen)
    with pytest.raises(StorageBusy) as caught:  # nobody listens there
        Engine.open(chosen, FakeHost(tmp_path), detector=ScriptedDetector(settings))
    assert "hunter2" not in f"{caught.value!r}{caught.value.facts}{caught.value.__cause__!r}"


def test_a_secret_url_is_not_taken_from_the_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "medsec.toml"
    file.write_text('database = "postgresql:///medsec"')
    with pytest.raises(SettingsError, match="secret"):
        Settings.load({"MEDSEC_CONFIG": str(file)})


# --- whose catalog ----------------------------------------------------------------------------


def test_rows_and_files_of_two_installations_are_not_mixed(
    settings: Settings, new_catalog: NewCatalog, tmp_path: Path
) -> None:
    detector = ScriptedDetector(settings)
    Engine.open(settings, FakeHost(settings.data / "blobs"), detector=detector).close()
    assert (settings.data / CATALOG_ID).exists()
    other = replace(settings, database=new_catalog())
    with pytest.raises(StorageError, match="another data folder"):
        Engine.open(other, detector=detector)
    with pytest.raises(StorageError, match="another data folder"):
        Engine.open(replace(settings, data=tmp_path / "other"), detector=detector)
    with pytest.raises(StorageError, match="Set MEDSEC_DATABASE"):
        Engine.open(replace(settings, database=None), detector=detector)
    Engine.open(settings, detector=detector).close()


def test_a_folder_with_a_file_of_its_own_is_not_taken_to_a_server(
    settings: Settings,
) -> None:
    detector = ScriptedDetector(settings)
    Engine.open(replace(settings, database=None), detector=detector).close()
    with pytest.raises(StorageError, match="catalog of its own"):
        Engine.open(settings, detector=detector)


def test_a_copy_that_a_killed_backup_left_is_deleted_at_the_start(
    catalog_url: Secret, tmp_path: Path
) -> None:
    for name in (".catalog.duckdb.fresh", ".catalog.duckdb.fresh.wal"):
        (tmp_path / name).write_bytes(b"rows")
    opened(catalog_url, tmp_path).close()
    assert [p.name for p in tmp_path.iterdir()] == [CATALOG_ID]


# --- one server -------------------------------------------------------------------------------


def test_a_second_server_is_refused_until_the_first_has_ended(
    database: Database, catalog_url: Secret, tmp_path: Path
) -> None:
    with pytest.raises(StorageBusy, match="Another MedSec process is using this database"):
        opened(catalog_url, tmp_path)
    database.close()
    opened(catalog_url, tmp_path).close()


_HOLDER = """
import sys
from pathlib import Path
from engine.host import Host
from engine.store.postgresql import PostgresDatabase
database = PostgresDatabase.open(sys.argv[1], Path(sys.argv[2]), Host(Path(sys.argv[2])), 2, 4)
with database.write() as tx:
    tx.run("INSERT INTO audit_forwarded VALUES (1)")
    print("holds", flush=True)
    input()
"""


@pytest.mark.slow
def test_a_server_that_was_killed_leaves_the_database_to_the_next(
    catalog_url: Secret, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, catalog_url, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
    ) as first:  # fmt: skip
        assert first.stdout is not None
        assert first.stdout.readline() == b"holds\n"
        with pytest.raises(StorageBusy):
            opened(catalog_url, tmp_path)
        first.kill()
    second = opened(catalog_url, tmp_path)
    with second.write() as tx:
        assert tx.count("SELECT count(*) FROM audit_forwarded") == 0
    second.close()


def test_a_server_that_lost_its_hold_to_another_writes_nothing_more(
    database: Database, audit: AuditLog, catalog_url: Secret, cluster: Cluster, tmp_path: Path
) -> None:
    audit.record(WHO, Event("image.restore"))
    assert isinstance(database, PostgresDatabase)
    holder = database._lease._connection
    assert holder is not None
    with cluster.superuser() as admin:
        admin.execute("SELECT pg_terminate_backend(%s)", [holder.info.backend_pid])
    second = opened(catalog_url, tmp_path)
    with pytest.raises(StorageError, match="taken over"):
        audit.record(WHO, Event("image.restore"))
    AuditLog(second, FakeHost(tmp_path), b"k" * 32).record(WHO, Event("image.restore"))
    assert audit.verify() == 2
    second.close()


# --- writers ----------------------------------------------------------------------------------

_WRITER = """
import os, sys
from pathlib import Path
from engine.host import Host
from engine.permissions import Role
from engine.records import Caller
from engine.store import postgresql
from engine.store.audit import AuditLog, Event

# As several servers will: each writes under the name that is there, and none holds the database.
postgresql._Lease._take = lambda self: setattr(
    self, "_connection", postgresql.psycopg.connect(**self._options, **postgresql._CONNECTION))
postgresql._Lease.take_over = lambda self, tx, server: None
postgresql._Lease.check = lambda self, server: None
url, folder, processes, entries = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])


def write():
    database = postgresql.PostgresDatabase.open(url, folder, Host(folder), 60, 2)
    audit = AuditLog(database, Host(folder), b"k" * 32)
    caller = Caller(f"writer{os.getpid()}", Role.DOCTOR, "", "")
    for i in range(entries):
        audit.record(caller, Event("image.restore", image_id=f"im_{i}"))
    database.close()


children = []
for _ in range(processes):
    children.append(os.fork())
    if not children[-1]:
        write()
        os._exit(0)
sys.exit(sum(os.waitpid(child, 0)[1] for child in children) != 0)
"""


@pytest.mark.parametrize(
    "processes",
    [pytest.param(1, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow), 16],
)
def test_any_number_of_processes_makes_one_chain(
    audit: AuditLog, database: Database, catalog_url: Secret, tmp_path: Path, processes: int
) -> None:
    entries = 240 // processes
    subprocess.run(
        [sys.executable, "-c", _WRITER, catalog_url, tmp_path, str(processes), str(entries)],
        cwd=ROOT, check=True, timeout=120,
    )  # fmt: skip
    assert audit.verify() == entries * processes
    by_writer = database.read().all("SELECT actor, count(*) AS n FROM audit GROUP BY actor")
    assert sorted(r["n"] for r in by_writer) == [entries] * processes


def test_a_turn_that_another_process_has_is_waited_for_and_not_for_ever(
    audit: AuditLog, catalog_url: Secret
) -> None:
    with as_role(catalog_url, SERVER) as other, other.transaction():
        other.execute("SELECT * FROM writer FOR UPDATE")
        with pytest.raises(StorageBusy, match="busy"):
            audit.record(WHO, Event("image.restore"))
    audit.record(WHO, Event("image.restore"))
    assert audit.verify() == 1


def test_a_change_is_seen_whole_or_not_at_all(database: Database, audit: AuditLog) -> None:
    with database.write() as tx:
        audit.append(tx, WHO, Event("image.restore"))
        assert database.read().count("SELECT count(*) FROM audit") == 1  # its own
        with ThreadPoolExecutor(1) as other:
            count = "SELECT count(*) FROM audit"
            assert other.submit(lambda: database.read().count(count)).result() == 0
    assert database.read().count("SELECT count(*) FROM audit") == 1


def test_what_another_thread_changed_is_on_the_disk_once_it_is_settled(
    database: Database, audit: AuditLog, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = "SELECT pg_current_wal_insert_lsn() AS insert, pg_current_wal_flush_lsn() AS flush"
    changed: list[Row] = []

    def before_the_disk(connection: psycopg.Connection[Row]) -> None:
        changed.extend(connection.execute(here.encode()).fetchall())
        database.settle()
        changed.extend(connection.execute(here.encode()).fetchall())

    monkeypatch.setattr(postgresql, "_on_disk", before_the_disk)
    with cluster.superuser() as admin:  # nothing else writes it to the disk meanwhile
        try:
            admin.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
            admin.execute("SELECT pg_reload_conf()")
            audit.record(WHO, Event("image.restore"))
        finally:
            admin.execute("ALTER SYSTEM RESET wal_writer_delay")
            admin.execute("SELECT pg_reload_conf()")
    before, after = changed
    written, flushed = (
        [int(part, 16) for part in lsn.split("/")] for lsn in (before["insert"], after["flush"])
    )
    assert written <= flushed


def test_nothing_is_answered_signed_sent_or_deleted_on_a_change_that_is_not_settled(
    ward: Ward, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsettled(_: Database) -> None:
        raise StorageBusy("not on the disk")

    engine, technician = ward.engine, ward.team.technician
    picture, instance = text_png()[0], builders.dicom(builders.radiograph(), PatientID="P-1")
    ward.upload(picture)
    engine.reception.store(technician, Instance("", "", instance))
    host, context = engine.context.host, engine.context
    orphan = host.write_blob(b"an old draft")
    os.utime(host.path(orphan), (0, 0))
    forwarding = AuditForwarding(context.database, context.audit, settings, context.shared)
    sent: list[bytes] = []
    monkeypatch.setattr(forwarding, "_send", sent.append)
    monkeypatch.setattr(PostgresDatabase, "settle", unsettled)
    for act in (
        lambda: ward.upload(picture),
        lambda: engine.drafts.check(technician, "a.png", picture),
        lambda: engine.reception.store(technician, Instance("", "", instance)),
        lambda: context.audit.checkpoint(context.hierarchy.signer(), "log"),
        forwarding.deliver,
        engine.upkeep.sweep,
    ):
        with pytest.raises(StorageBusy, match="not on the disk"):
            act()
    [item] = engine.batches.seal(
        technician, ward.patient_id, [Source("a", lambda: picture)], few=True
    )
    assert item.error is not None
    assert item.error[0] == "storage-busy"
    assert sent == []
    assert orphan in set(host.blobs())


# --- the database server goes down ------------------------------------------------------------


@pytest.fixture
def mortal() -> Iterator[Cluster]:
    """A server that may be killed, and that writes to the disk as in service."""
    if programs() is None:
        pytest.skip("no PostgreSQL server is installed")
    cluster = Cluster(durable=True)
    yield cluster
    cluster.close()


@pytest.mark.parametrize("way", [pytest.param("restart", marks=pytest.mark.slow), "kill"])
def test_a_database_server_that_goes_down_amid_writes_loses_no_acknowledged_entry(
    mortal: Cluster, tmp_path: Path, way: str
) -> None:
    database = PostgresDatabase.open(mortal.new(), tmp_path, FakeHost(tmp_path), 10, 8)
    audit = AuditLog(database, FakeHost(tmp_path), b"k" * 32)
    acknowledged: list[str] = []
    over = threading.Event()
    unnamed: list[BaseException] = []

    def work(name: str) -> None:
        number = 0
        while not over.is_set():
            number += 1
            entry = f"{name}_{number}"
            try:
                audit.record(WHO, Event("image.restore", image_id=entry))
            except StorageError:
                continue
            except BaseException as err:
                unnamed.append(err)
                raise
            acknowledged.append(entry)

    def written(more: int) -> None:
        until, pause = len(acknowledged) + more, threading.Event()
        for _ in range(6000):
            if len(acknowledged) >= until or unnamed:
                return
            pause.wait(0.01)
        raise AssertionError("nothing is written any more")

    threads = [threading.Thread(target=work, args=(f"im{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            written(100)
            if way == "kill":
                mortal.kill()
            else:
                mortal.stop("fast")
            mortal.start()
        written(100)  # the pool has recovered by itself
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert unnamed == []
    entries = audit.verify()
    kept = {r["image_id"] for r in database.read().all("SELECT image_id FROM audit")}
    assert set(acknowledged) <= kept
    assert entries == len(kept)  # none is there twice
    database.close()


@pytest.mark.slow
def test_reads_go_on_after_a_restart_as_if_nothing_had_been(
    mortal: Cluster, tmp_path: Path
) -> None:
    url = mortal.new()
    database = PostgresDatabase.open(url, tmp_path, FakeHost(tmp_path), 10, 8)
    with ThreadPoolExecutor(6) as threads:
        count = "SELECT count(*) FROM migrations"
        before = set(threads.map(lambda _: database.read().count(count), range(60)))
        mortal.stop("fast")
        with pytest.raises(StorageBusy):
            database.read().count(count)
        mortal.start()
        with database.still() as (rows, _):
            assert {rows.count(count)} == before
        assert set(threads.map(lambda _: database.read().count(count), range(60))) == before
    with pytest.raises(StorageBusy, match="using this database"):  # it is held again
        opened(url, tmp_path)
    database.close()


def test_a_draft_whose_saving_nobody_knows_of_keeps_its_file(
    ward: Ward, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks when the draft is committed and its answer is not there yet."""
    to_disk, broken = postgresql._on_disk, []
    rows, technician = ward.engine.context.database.read(), ward.team.technician

    def breaks(connection: psycopg.Connection) -> None:
        if not broken and rows.count("SELECT count(*) FROM images"):
            broken.append(connection.info.backend_pid)
            with cluster.superuser() as admin:
                admin.execute("SELECT pg_terminate_backend(%s, 5000)", broken)
        to_disk(connection)

    with monkeypatch.context() as patch:
        patch.setattr(postgresql, "_on_disk", breaks)
        [item] = ward.engine.batches.seal(
            technician, ward.patient_id, [Source("a", lambda: text_png()[0])],
            options=BatchOptions(seal=False), few=True,
        )  # fmt: skip
    assert broken
    assert item.error is not None
    assert item.error[0] == "change-unknown"
    [draft] = ward.engine.drafts.waiting(technician)
    ward.engine.drafts.open(technician, draft.image_id)  # decodes the file


# --- moves ------------------------------------------------------------------------------------


def test_a_catalog_moves_to_a_server_and_back_and_nothing_is_lost(
    settings: Settings, new_catalog: NewCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the commands, with rows of every part, and an interruption before the file is deleted."""
    detector = ScriptedDetector(settings)
    settings = replace(settings, care_relation=True)
    in_file = replace(settings, database=None)
    host = FakeHost(settings.data / "blobs")
    engine = Engine.open(in_file, host, detector=detector)
    team = Team(engine)
    ward = Ward(engine, team, detector, "")
    ward.patient_id = engine.patients.create(team.technician, "P-1", "Erika Muster").patient_id
    data, found = text_png()
    image_id = ward.seal(data, found=[found])
    pictures = [builders.radiograph(seed=seed) for seed in (5, 6)]
    others = [ward.upload(builders.png(pixels)) for pixels in pictures]
    engine.care.break_glass(
        team.doctor, ward.patient_id, "she collapsed in the waiting room: Größe 'x'"
    )
    engine.patients.update(team.technician, ward.patient_id, age=62)
    engine.close()
    where = ["--data", str(settings.data), "--key", str(settings.key_file)]
    assert cli.main(["database-move", "--back", *where]) == Outcome.REFUSED  # nothing is there
    assert cli.main(["database-move", "--back", "--dry-run", *where]) == Outcome.REFUSED
    assert cli.main(["database-move", "--dry-run", *where]) == 0
    plan = catalogs.planned_move(settings, back=False)
    assert not (settings.data / CATALOG_ID).exists()
    with monkeypatch.context() as patch:
        patch.setattr(catalogs, "_compared", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cli.main(["database-move", *where])
    file = settings.data / "catalog.duckdb"
    assert file.exists()
    for _ in range(2):
        assert cli.main(["database-move", *where]) == 0
        assert not file.exists()
        engine = Engine.open(settings, host, detector=detector, operator=True)
        entries = engine.audit.verify(engine.operator_token())
        assert plan["audit"] < entries  # the entry of the move came
        opened_image = engine.images.restore(team.doctor, image_id, "second opinion")
        assert engine.images.restored_file(team.doctor, opened_image.handle).data == data
        assert engine.patients.get(team.doctor, "P-1").age == 62
        assert not engine.context.watch.broken
        engine.images.erase(team.administrator, others.pop(), "asked for")
        engine.close()
        plan = catalogs.planned_move(settings, back=True)
        assert not file.exists()
        assert cli.main(["database-move", "--back", *where]) == 0
        assert file.exists()
        assert not (settings.data / CATALOG_ID).exists()
        monkeypatch.setenv("MEDSEC_DATABASE", str(new_catalog()))
        settings = replace(settings, database=Secret(os.environ["MEDSEC_DATABASE"]))
        engine = Engine.open(in_file, host, detector=detector, operator=True)
        assert engine.audit.verify(engine.operator_token()) > plan["audit"] > entries
        assert not engine.context.watch.broken
        assert engine.patients.get(team.doctor, "P-1").age == 62
        moves = engine.audit.entries(engine.operator_token(), query="database.move")
        engine.close()
    assert [e.detail["to"] for e in reversed(moves)] == ["postgresql", "file"] * 2


def test_a_log_that_postgresql_could_not_search_stays_in_its_file(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_file, detector = replace(settings, database=None), ScriptedDetector(settings)
    with monkeypatch.context() as earlier:
        earlier.setattr("engine.store.audit.readable", lambda detail: detail)
        with contextlib.closing(Engine.open(in_file, detector=detector)) as engine:
            engine.context.audit.record(WHO, Event("image.upload", detail={"why": "a\0"}))
            with engine.context.database.still() as (_, catalog):
                pass
    where = ["--data", str(settings.data), "--key", str(settings.key_file)]
    assert cli.main(["database-move", *where]) == Outcome.REFUSED
    assert "has a character that PostgreSQL cannot read" in capsys.readouterr().err
    Engine.open(in_file, detector=detector).close()  # it is still there, and nothing was moved
    with pytest.raises(StorageError, match="Keep this catalog in a file"):
        catalogs.fill_from_file(settings, FakeHost(settings.data), catalog)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_catalog_does_not_move_onto_another(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = ScriptedDetector(settings)
    other = replace(settings, data=tmp_path / "other")
    Engine.open(other, detector=detector).close()
    Engine.open(replace(settings, database=None), detector=detector).close()
    where = ["--data", str(settings.data), "--key", str(settings.key_file)]
    assert cli.main(["database-move", *where]) == Outcome.REFUSED
    assert "belongs to another data folder" in capsys.readouterr().err
    Engine.open(replace(settings, database=None), detector=detector).close()
    Engine.open(other, detector=detector).close()


def test_the_commands_make_a_database_that_a_server_opens(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    names = ["--owner", "clinic_owner", "--server", "clinic", "--database", "clinic"]
    assert cli.main(["database-roles", *names]) == 0
    cluster.script(capsys.readouterr().out)
    monkeypatch.setenv("MEDSEC_DATABASE", cluster.url("clinic", "clinic_owner"))
    where = ["--data", str(tmp_path / "data"), "--server", "clinic"]
    assert cli.main(["database-migrate", *where]) == 0
    assert cli.main(["database-migrate", *where]) == 0
    assert "0 steps" in capsys.readouterr().out
    opened(cluster.url("clinic", "clinic"), tmp_path).close()
    assert cli.main(["database-roles", "--owner", "medsec"]) == Outcome.REFUSED
