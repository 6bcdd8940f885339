"""What DuckDB has in its log and not yet in its file must be there after a crash, in every table.

``benchmarks/crash.py`` found by chance what this looks for on purpose. With a ``CREATE INDEX`` on a
table, or after an ``ALTER TABLE`` that is still in the log, DuckDB 2.0 replays inserts into the row
group that is on disk; an update of a value that was NULL there is then lost. So every column of
every table is updated from NULL, to NULL and from value to value, behind an insert, and the process
is killed. Tables with an index are only inserted into and deleted from, as the program does.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.store import database as module
from engine.store.database import Cursor, Database, Row
from engine.store.embedded import EmbeddedCursor, EmbeddedDatabase
from tests.fakes import FakeHost

ROOT = Path(__file__).parents[2]
ROWS = 24
NEW_YEAR = datetime(2026, 1, 1)  # noqa: DTZ001 - as the columns have it
#: Not the program's own rows, or changed by the opening itself.
_LEFT_OUT = ("migrations", "audit_guard", "erasures")
#: Only these may have an index; ``audit`` is not deleted from either.
NEVER_UPDATED = {"audit", "image_files", "regions"}
_ALTERS = ("test: another column", "ALTER TABLE images ADD COLUMN later VARCHAR")
_INDEXES = ("test: an index over rows that are updated", "CREATE INDEX i ON images (modality)")


def opened(folder: Path) -> Database:
    return EmbeddedDatabase.open(folder / "c.duckdb", FakeHost(folder), 5)


def columns(tx: Cursor) -> dict[str, list[Row]]:
    """Of every table, its columns: name, type, may be NULL, in a key."""
    found: dict[str, list[Row]] = {}
    for row in tx.all(
        "SELECT table_name, column_name AS name, data_type AS type, is_nullable AS nullable,"
        " EXISTS (FROM duckdb_constraints() k WHERE k.table_name = c.table_name"
        " AND k.constraint_type IN ('PRIMARY KEY', 'UNIQUE')"
        " AND list_contains(k.constraint_column_names, c.column_name)) AS key"
        " FROM duckdb_columns() c WHERE NOT internal ORDER BY table_name, column_index"
    ):
        if row["table_name"] not in _LEFT_OUT:
            found.setdefault(row["table_name"], []).append(row)
    return found


def value(column: Row, number: int) -> Any:
    """Something for this column that differs from number to number where it must."""
    many = number if column["key"] else number % 3
    made = {
        "VARCHAR": f"v{many}",
        "BLOB": f"v{many}".encode(),
        "INTEGER": many,
        "BIGINT": many,
        "DOUBLE": many / 2,
        "BOOLEAN": bool(many % 2),
        "TIMESTAMP": NEW_YEAR + timedelta(days=many),
    }
    return made[column["type"]]


def insert(tx: Cursor, table: str, of: list[Row], number: int) -> None:
    values = [None if c["nullable"] and number % 2 else value(c, number) for c in of]
    places = ", ".join(f"${i + 1}" for i in range(len(of)))
    tx.run(f'INSERT INTO "{table}" VALUES ({places})', *values)  # noqa: S608


def fill(database: Database) -> None:
    """Rows that are in the file, every second with NULL wherever that may be."""
    tables = columns(database.read())
    with database.write() as tx:
        for table, of in tables.items():
            for number in range(ROWS):
                insert(tx, table, of, number)


def work(database: Database) -> None:
    """Insert into every table, then update every column of some row, or delete some rows.

    No transaction updates a table twice: the updates would be replayed as one, and found.
    """
    tables = columns(database.read())
    with database.write() as tx:
        for table, of in tables.items():
            insert(tx, table, of, ROWS)
    for place in range(max(map(len, tables.values()))):
        for odd in (1, 0):  # NULL until now, where it may be; NULL from now on, where it may be
            with database.write() as tx:
                for table, of in tables.items():
                    if place < len(of) and table != "audit":
                        _change(tx, table, of[place], place, odd)


def _change(tx: Cursor, table: str, column: Row, place: int, odd: int) -> None:
    sql = f'SELECT rowid FROM "{table}" ORDER BY rowid LIMIT 1 OFFSET $1'  # noqa: S608
    rowid = tx.count(sql, 2 * (place % 10) + odd)
    if table in NEVER_UPDATED:
        tx.run(f'DELETE FROM "{table}" WHERE rowid = $1', rowid)  # noqa: S608
        return
    new = None if column["nullable"] and not odd else value(column, ROWS + 1 + 2 * place + odd)
    tx.run(f'UPDATE "{table}" SET "{column["name"]}" = $2 WHERE rowid = $1', rowid, new)  # noqa: S608


def rows(database: Database) -> dict[str, list[str]]:
    """All rows of all tables, as text that can be compared."""
    tx = database.read()
    return {
        table: sorted(repr(tuple(r.values())) for r in tx.all(f'SELECT * FROM "{table}"'))  # noqa: S608
        for table in columns(tx)
    }


def killed(folder: Path, what: str, *steps: str) -> str:
    """Run part of this file in a process that kills itself; returns what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.test_replay", str(folder), what, *steps],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout


def main(folder: Path, what: str, *steps: str) -> None:
    """The process that is killed."""
    module.MIGRATIONS += tuple(s for s in (_ALTERS, _INDEXES) if s[0] in steps)
    if what == "migrate":
        # Killed after the last step, before what follows it.
        real = EmbeddedCursor.run

        def run(self: EmbeddedCursor, sql: str, *values: Any) -> None:
            if sql == "CHECKPOINT":
                os.kill(os.getpid(), signal.SIGKILL)
            real(self, sql, *values)

        EmbeddedCursor.run = run  # type: ignore[method-assign]
    database = opened(folder)
    work(database)
    os.write(1, json.dumps(rows(database)).encode())
    os.kill(os.getpid(), signal.SIGKILL)


def lost(folder: Path, *steps: str) -> set[str]:
    """Tables whose rows are not what they were when the process was killed."""
    before = json.loads(killed(folder, "work", *steps))
    database = opened(folder)
    after = rows(database)
    database.close()
    assert before.keys() == after.keys()
    return {table for table in before if before[table] != after[table]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    database = opened(tmp_path)
    fill(database)
    database.close()
    return tmp_path


def test_every_table_keeps_what_was_inserted_updated_and_deleted_before_a_kill(
    folder: Path,
) -> None:
    assert lost(folder) == set()


def test_updates_survive_a_kill_after_a_kill_amid_a_migration(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(folder, "migrate", _ALTERS[0])
    monkeypatch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, _ALTERS))
    assert lost(folder, _ALTERS[0]) == set()


def test_files_of_an_older_folder_are_known_after_a_kill_amid_its_migration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [name for name, _ in module.MIGRATIONS]
    older = module.MIGRATIONS[: names.index("files that are here already, by their keyed hash")]
    with monkeypatch.context() as patch:
        patch.setattr(module, "MIGRATIONS", older)
        database = opened(tmp_path)
        fill(database)
        database.close()
    killed(tmp_path, "migrate")
    database = opened(tmp_path)
    tx = database.read()
    images = tx.all("SELECT image_id, duplicate_index AS file FROM images ORDER BY image_id")
    files = {(row["image_id"], row["file"]) for row in images if row["file"] is not None}
    assert files
    for _, file in files:
        found = tx.all("SELECT image_id FROM image_files WHERE duplicate_index = $1", file)
        assert {(row["image_id"], file) for row in found} == {f for f in files if f[1] == file}
    database.close()


def test_an_index_over_rows_that_are_updated_would_lose_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should this fail after an update of DuckDB, the rule below may no longer be needed."""
    monkeypatch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, _INDEXES))
    database = opened(tmp_path)
    fill(database)
    database.close()
    assert lost(tmp_path, _INDEXES[0]) == {"images"}


def test_rows_of_a_table_with_an_index_are_never_updated(folder: Path) -> None:
    database = opened(folder)
    sql = "SELECT DISTINCT table_name AS t FROM duckdb_indexes() WHERE sql <> ''"
    indexed = {row["t"] for row in database.read().all(sql)}
    database.close()
    assert indexed == NEVER_UPDATED
    source = "\n".join(p.read_text() for p in (ROOT / "engine").rglob("*.py"))
    for table in indexed:
        assert f"INSERT INTO {table}" in source
        assert not re.search(rf"UPDATE {table}\b", source)
        assert not re.search(rf"INSERT INTO {table}\b[^;]*?ON CONFLICT[^;]*?DO UPDATE", source)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
