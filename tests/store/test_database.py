from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path

import pytest

from engine.errors import InputError, StorageBusy, StorageError
from engine.store import database as module
from engine.store.database import Database
from engine.store.embedded import EmbeddedDatabase
from tests.fakes import FakeHost
from tests.store.conftest import DUCKDB, Opener


@pytest.fixture
def database(tmp_path: Path, open_database: Opener) -> Database:
    return open_database(FakeHost(tmp_path), 0.2)


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


@DUCKDB
def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path, database: Database) -> None:
    script = (
        "from pathlib import Path; from engine.store.embedded import EmbeddedDatabase;"
        " from engine.host import Host; from engine.errors import StorageBusy\n"
        f"try: EmbeddedDatabase.open(Path({str(tmp_path / 'c.duckdb')!r}), Host(Path('x')), 1)\n"
        "except StorageBusy: print('busy')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "busy"


@DUCKDB
def test_the_file_is_for_its_owner_only(tmp_path: Path, database: Database) -> None:
    assert (tmp_path / "c.duckdb").stat().st_mode & 0o077 == 0


def test_reopening_keeps_rows_and_applies_only_new_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = FakeHost(tmp_path)
    first = EmbeddedDatabase.open(tmp_path / "c.duckdb", host, 1)
    with first.write() as tx:
        tx.run("INSERT INTO root_keys VALUES ('a', 'b', $1)", host.now())
    first.close()
    step = ("0002 test", "CREATE TABLE extra (a INTEGER); INSERT INTO extra VALUES (7)")
    monkeypatch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, step))
    second = EmbeddedDatabase.open(tmp_path / "c.duckdb", host, 1)
    assert second.read().count("SELECT a FROM extra") == 7
    assert second.read().count("SELECT count(*) FROM root_keys") == 1
    second.close()


def test_a_folder_from_a_newer_version_is_refused(tmp_path: Path) -> None:
    first = EmbeddedDatabase.open(tmp_path / "c.duckdb", FakeHost(tmp_path), 1)
    with first.write() as tx:
        tx.run("INSERT INTO migrations VALUES ('9999 future', '2030-01-01')")
    first.close()
    with pytest.raises(StorageError, match="newer"):
        EmbeddedDatabase.open(tmp_path / "c.duckdb", FakeHost(tmp_path), 1)


def test_errors_do_not_quote_values(database: Database) -> None:
    row = ("Erika Musterfrau", "b", "2026-01-01")
    with pytest.raises(StorageError) as caught, database.write() as tx:
        tx.run_many("INSERT INTO root_keys VALUES ($1, $2, $3)", [row, row])
    assert "Musterfrau" not in str(caught.value)


def test_threads_read_their_own_rows(database: Database) -> None:
    with database.write() as tx:
        tx.run_many("INSERT INTO audit_forwarded VALUES ($1)", [(i,) for i in range(800)])
    wrong: list[int] = []

    def look(start: int) -> None:
        for i in range(start, start + 100):
            row = database.read().one("SELECT * FROM audit_forwarded WHERE sequence = $1", i)
            if row != {"sequence": i}:
                wrong.append(i)

    threads = [threading.Thread(target=look, args=(t * 100,)) for t in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_both_databases_answer_in_the_same_types(database: Database, tmp_path: Path) -> None:
    """Every type of a column, at its ends, and what expressions make of them."""
    at = datetime(2026, 12, 31, 23, 59, 59, 999_999)  # noqa: DTZ001 (UTC without zone)
    every = bytes(range(256))
    with database.write() as tx:
        tx.run("INSERT INTO profiles VALUES ($1, $2, $3, $4)", "Größe \x7f'\"\\", every, at, "")
        tx.run("INSERT INTO training_cases VALUES ('c', 'p', 'i', $1, $2, 'b', $3, $4, NULL)",
               2**31 - 1, b"", 2**63 - 1, at)  # fmt: skip
        tx.run("INSERT INTO regions VALUES ('r', 'i', 0, 'text', $1, 'person', 0, 0, 1, 1, 0, 1,"
               " 0, 1, $2)", 0.1, 1e300)  # fmt: skip
        tx.run("INSERT INTO erasures VALUES ('x', 'image', $1, true)", at)
    rows = database.read()
    assert rows.one("SELECT * FROM profiles") == {
        "name": "Größe \x7f'\"\\", "sealed": every, "changed_at": at, "changed_by": ""
    }  # fmt: skip
    case = rows.one("SELECT * FROM training_cases")
    assert case is not None
    assert (case["version"], case["wrapped_key"], case["size_bytes"]) == (2**31 - 1, b"", 2**63 - 1)
    assert (case["kept_at"], case["exported_at"]) == (at, None)
    region = rows.one("SELECT confidence, encrypt_ms, sum(start) AS s, avg(x2) AS a FROM regions"
                      " GROUP BY confidence, encrypt_ms")  # fmt: skip
    assert region == {"confidence": 0.1, "encrypt_ms": 1e300, "s": 0, "a": 1.0}
    assert [type(v) for v in region.values()] == [float, float, int, float]
    flags = rows.one("SELECT forgotten, count(*) AS n, max(erased_at) AS e, sum(NULL::INT) AS none"
                     " FROM erasures GROUP BY forgotten")  # fmt: skip
    assert flags == {"forgotten": True, "n": 1, "e": at, "none": None}
    assert type(flags["forgotten"]) is bool
    text = rows.bytes_as_text("sealed")
    shown = rows.one(f"SELECT {text} AS t, changed_at::VARCHAR AS at FROM profiles")  # noqa: S608
    assert shown is not None
    assert hashlib.sha256(shown["t"].encode()).hexdigest() == _BYTES_AS_TEXT
    assert shown["at"] == "2026-12-31 23:59:59.999999"


#: Of all 256 bytes, as DuckDB 2.0 shows them.
_BYTES_AS_TEXT = "e8d8bf1186ceb425d2ddc3f49d8aedff26c44ec8ce3cbebce0657c52f5933c74"


def test_texts_are_ordered_byte_by_byte(database: Database) -> None:
    names = ["b", "a", "Z", "ä", "B", "-", "1", "a b", "ab", "a-b"]
    with database.write() as tx:
        for name in names:
            tx.run("INSERT INTO root_keys VALUES ($1, '', $2)", name, datetime(2026, 1, 1))  # noqa: DTZ001
    rows = database.read().all("SELECT key_id FROM root_keys ORDER BY key_id")
    assert [row["key_id"] for row in rows] == sorted(names, key=str.encode)


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_a_text_that_cannot_be_stored_is_refused_by_name(database: Database, text: str) -> None:
    """PostgreSQL has no NUL in texts, DuckDB no half characters."""
    try:
        with database.write() as tx:
            tx.run("INSERT INTO root_keys VALUES ($1, '', $2)", text, datetime(2026, 1, 1))  # noqa: DTZ001
    except (InputError, StorageError):
        assert database.read().count("SELECT count(*) FROM root_keys") == 0
    else:
        row = database.read().one("SELECT key_id FROM root_keys")
        assert row == {"key_id": text}


@DUCKDB
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


@DUCKDB
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
    EmbeddedDatabase.open(tmp_path / "c.duckdb", FakeHost(tmp_path), 0.2).close()
