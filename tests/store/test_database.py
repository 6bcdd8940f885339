from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.errors import StorageBusy, StorageError
from engine.store import database as module
from engine.store.database import Database
from tests.fakes import FakeHost


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database.open(tmp_path / "c.duckdb", FakeHost(tmp_path), 0.2)


def test_a_failed_write_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database.write() as tx:
            tx.run("INSERT INTO root_keys VALUES ('a', 'b', '2026-01-01')")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert database.read().count("SELECT count(*) FROM root_keys") == 0


def test_a_second_writer_waits_and_is_told_so(database: Database) -> None:
    with database.write(), pytest.raises(StorageBusy), database.write():
        pass


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path, database: Database) -> None:
    script = (
        "from pathlib import Path; from engine.store.database import Database;"
        " from engine.host import Host; from engine.errors import StorageBusy\n"
        f"try: Database.open(Path({str(tmp_path / 'c.duckdb')!r}), Host(Path('x')), 1)\n"
        "except StorageBusy: print('busy')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "busy"


def test_the_file_is_for_its_owner_only(tmp_path: Path, database: Database) -> None:
    assert (tmp_path / "c.duckdb").stat().st_mode & 0o077 == 0


def test_reopening_keeps_rows_and_applies_only_new_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = FakeHost(tmp_path)
    first = Database.open(tmp_path / "c.duckdb", host, 1)
    with first.write() as tx:
        tx.run("INSERT INTO root_keys VALUES ('a', 'b', $1)", host.now())
    first.close()
    step = ("0002 test", "CREATE TABLE extra (a INTEGER); INSERT INTO extra VALUES (7)")
    monkeypatch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, step))
    second = Database.open(tmp_path / "c.duckdb", host, 1)
    assert second.read().count("SELECT a FROM extra") == 7
    assert second.read().count("SELECT count(*) FROM root_keys") == 1
    second.close()


def test_a_folder_from_a_newer_version_is_refused(tmp_path: Path) -> None:
    first = Database.open(tmp_path / "c.duckdb", FakeHost(tmp_path), 1)
    with first.write() as tx:
        tx.run("INSERT INTO migrations VALUES ('9999 future', '2030-01-01')")
    first.close()
    with pytest.raises(StorageError, match="newer"):
        Database.open(tmp_path / "c.duckdb", FakeHost(tmp_path), 1)


def test_errors_do_not_quote_values(database: Database) -> None:
    row = ("Erika Musterfrau", "b", "2026-01-01")
    with pytest.raises(StorageError) as caught, database.write() as tx:
        tx.run_many("INSERT INTO root_keys VALUES ($1, $2, $3)", [row, row])
    assert "Musterfrau" not in str(caught.value)


def test_threads_read_their_own_rows(database: Database) -> None:
    with database.write() as tx:
        tx.run("CREATE TABLE n AS SELECT range AS i FROM range(1000)")
    wrong: list[int] = []

    def look(start: int) -> None:
        for i in range(start, start + 100):
            row = database.read().one("SELECT i FROM n WHERE i = $1", i)
            if row != {"i": i}:
                wrong.append(i)

    threads = [threading.Thread(target=look, args=(t * 100,)) for t in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("ask_for", "answer"), [("all", [{"n": 1}]), ("one", {"n": 1}), ("count", 1)]
)
def test_a_thread_that_has_its_answer_keeps_no_transaction_open(
    database: Database, ask_for: str, answer: object
) -> None:
    """One that stays open keeps the log from being written into the file, and all undone rows."""
    with database.write() as tx:
        tx.run("INSERT INTO root_keys VALUES ('a', 'b', '2026-01-01')")
    answers = []

    def ask() -> None:
        cursor = database.read()
        answers.append(getattr(cursor, ask_for)("SELECT 1 AS n FROM root_keys WHERE key_id = 'a'"))
        asked.set()
        done.wait(20)

    asked, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=ask)
    thread.start()
    asked.wait(20)
    try:
        with database.write() as tx:
            tx.run("UPDATE root_keys SET check_value = 'c' WHERE key_id = 'a'")
        database.read().run("CHECKPOINT")  # DuckDB refuses it while a transaction is open
    finally:
        done.set()
        thread.join()
    assert answers == [answer]


def test_the_file_is_let_go_though_somebody_reads(tmp_path: Path, database: Database) -> None:
    begun, over = threading.Event(), threading.Event()

    def look() -> None:
        with contextlib.suppress(StorageError):
            while not over.is_set():
                database.read().count("SELECT sum(range) FROM range(300000)")
                begun.set()

    reader = threading.Thread(target=look)
    reader.start()
    begun.wait()
    database.close()
    over.set()
    reader.join()
    Database.open(tmp_path / "c.duckdb", FakeHost(tmp_path), 0.2).close()
