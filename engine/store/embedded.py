"""The catalog as a DuckDB file.

One process has the file open for its lifetime. Each thread reads with its own cursor.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

import duckdb
import pyarrow as pa

from engine.errors import StorageBusy, StorageError
from engine.fairness import gives_way
from engine.host import Host, sync_folder, write_durably
from engine.store.database import TRIGGERS, Cursor, Database, Row, steps_to_do
from engine.store.turns import Alone, Turns

log = logging.getLogger("medsec")

_ROWS_AT_ONCE = 50_000

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "lock_configuration": True,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


class EmbeddedCursor(Cursor):
    """A DuckDB cursor that answers with dictionaries and raises named errors."""

    def __init__(self, raw: duckdb.DuckDBPyConnection) -> None:
        self._raw = raw

    def run(self, sql: str, *values: Any) -> None:
        """Execute a statement; values stand for ``$1``, ``$2``, ..."""
        try:
            self._raw.execute(sql, list(values))
        except duckdb.Error as err:
            _translate(err)

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Execute a statement once per row; no rows are fine."""
        if rows:
            try:
                self._raw.executemany(sql, [list(r) for r in rows])
            except duckdb.Error as err:
                _translate(err)

    def all(self, sql: str, *values: Any) -> list[Row]:
        """Every row of a query."""
        self.run(sql, *values)
        names = [d[0] for d in self._raw.description or ()]
        try:
            return [dict(zip(names, row, strict=True)) for row in self._raw.fetchall()]
        except duckdb.Error as err:
            _translate(err)

    @staticmethod
    def bytes_as_text(column: str) -> str:
        """DuckDB's own: printable ASCII but quotes and backslashes as it is, the rest in hex."""
        return f"{column}::VARCHAR"


class EmbeddedDatabase(Database):
    """One open catalog file."""

    def __init__(self, raw: duckdb.DuckDBPyConnection, path: Path, wait_seconds: float) -> None:
        self._raw = raw
        self._path = path
        self._wait = wait_seconds
        self._turns = Turns()
        self._alone = Alone()
        self._copying = threading.Lock()  # all copies have one name
        self._local = threading.local()

    @classmethod
    def open(cls, path: Path, host: Host, wait_seconds: float) -> EmbeddedDatabase:
        """Open or make the file and bring its tables up to date.

        Raises:
            StorageBusy: Another process holds the file.
            StorageError: It cannot be opened, or was written by a newer MedSec.
        """
        database = cls(_connect(path), path, wait_seconds)
        try:
            try:
                _discard(_fresh(path))  # a crash left it: nobody else holds the folder
                path.chmod(0o600)
            except OSError as err:
                raise StorageError(
                    "Cannot change the data folder. Check its owner, and that it is not mounted"
                    " read-only.",
                    errno=err.errno,
                ) from err
            database._migrate(host)
            database._forget_erased()
        except BaseException:
            database._raw.close()
            raise
        return database

    def close(self) -> None:
        """Write everything to the file and close it.

        Raises:
            StorageBusy: Another thread was reading all the time.
        """
        pause = threading.Event()
        with self._turns.take(None):
            with contextlib.suppress(duckdb.Error):
                self._raw.execute("CHECKPOINT")
            for _ in range(1000):
                try:
                    self._raw.close()
                except duckdb.ResourceInUseException:  # during a query of another thread
                    pause.wait(0.01)
                else:
                    return
        raise StorageBusy("The catalog is still being read. It is released when the program ends.")

    def alone(
        self, what: str, wait_seconds: float = 0.0
    ) -> AbstractContextManager[Callable[[], None]]:
        """Among the threads of this process, which alone has the file."""
        return self._alone.doing(what, wait_seconds)

    def settle(self) -> None:
        """Nothing to wait for: what is not on the disk cannot be read."""

    @contextlib.contextmanager
    def still(self) -> Iterator[tuple[Cursor, bytes]]:
        """A snapshot of the rows, also as the bytes of a new file, while writes continue.

        A copy of the live file would contain erased data, because DuckDB leaves old blocks in the
        file.

        Raises:
            StorageBusy: The turn did not come in time.
            StorageError: The copy cannot be written.
        """
        raw = self._raw.cursor()
        rows = EmbeddedCursor(raw)
        try:
            with self._turns.take(self._wait):
                rows.run("BEGIN TRANSACTION")
                rows.count("SELECT count(*) FROM migrations")  # BEGIN alone fixes no moment yet
            with self._copying:
                yield rows, self._copied(raw)
        finally:
            # Open, it would keep DuckDB from writing its log into the file.
            with contextlib.suppress(duckdb.Error):
                raw.execute("ROLLBACK")
            raw.close()

    def _copied(self, raw: duckdb.DuckDBPyConnection) -> bytes:
        fresh = _fresh(self._path)
        try:
            _copy(raw, fresh)
            return fresh.read_bytes()
        except (OSError, duckdb.Error) as err:
            raise StorageError(
                "Cannot write to the data folder. Check free space and permissions."
            ) from err
        finally:
            with contextlib.suppress(OSError):
                _discard(fresh)

    def read(self) -> Cursor:
        """This thread's own cursor: a shared connection silently mixes up rows."""
        cursor = getattr(self._local, "cursor", None)
        if cursor is None:
            cursor = self._local.cursor = EmbeddedCursor(self._raw.cursor())
        return cursor

    def held_bytes(self) -> int:
        """Memory for pages, indexes and changes under way."""
        return self.read().count("SELECT sum(memory_usage_bytes) FROM duckdb_memory()")

    def stored_bytes(self) -> int:
        """Size of the file and of its log."""
        return sum(p.stat().st_size for p in self._path.parent.glob(f"{self._path.name}*"))

    def tables(self) -> dict[str, list[str]]:
        """The columns of each table that has rows of the catalog."""
        rows = self.read().all(
            "SELECT table_name, list(column_name ORDER BY column_index) AS columns"
            " FROM duckdb_columns() WHERE NOT internal"
            " AND table_name NOT IN ('migrations', 'audit_guard') GROUP BY table_name ORDER BY 1"
        )
        return {row["table_name"]: row["columns"] for row in rows}

    def rows_of(self, table: str, columns: Sequence[str]) -> Iterator[list[Any]]:
        """All rows of a table in parts, in the order in which they came."""
        names = ", ".join(f'"{name}"' for name in columns)
        raw = self._raw.cursor()
        try:
            raw.execute(f'SELECT {names} FROM "{table}" ORDER BY rowid')  # noqa: S608
            while part := raw.fetchmany(_ROWS_AT_ONCE):
                yield part
        except duckdb.Error as err:
            _translate(err)
        finally:
            raw.close()

    def append(
        self, table: str, columns: Sequence[str], parts: Iterable[Sequence[Sequence[Any]]]
    ) -> None:
        """Add rows in bulk.

        Args:
            parts: Rows, each with one value per column.
        """
        names = ", ".join(f'"{name}"' for name in columns)
        with self._turns.take(self._wait):
            try:
                for part in parts:
                    values = zip(*part, strict=True)
                    rows = pa.table({n: pa.array(v) for n, v in zip(columns, values, strict=True)})
                    self._raw.register("incoming", rows)
                    self._raw.execute(
                        f'INSERT INTO "{table}" ({names}) SELECT * FROM incoming'  # noqa: S608
                    )
                    self._raw.unregister("incoming")
            except duckdb.Error as err:
                _translate(err)

    @contextlib.contextmanager
    def write(self) -> Iterator[Cursor]:
        """One exclusive, atomic transaction; cannot be nested.

        Raises:
            StorageBusy: The turn did not come in time.
            StorageError: The database refused; nothing was changed.
        """
        with self._turns.take(self._wait, gives_way()):
            cursor = self.read()
            cursor.run("BEGIN TRANSACTION")
            try:
                yield cursor
                cursor.run("COMMIT")
            except BaseException:
                # COMMIT after an error returns normally and rolls back: never try it.
                with contextlib.suppress(StorageError):
                    cursor.run("ROLLBACK")
                raise

    def _forget_erased(self) -> None:
        """After an erasure, rewrite the file, so that it does not contain destroyed keys.

        If the disk is full, this is deferred to the next start, and work continues.

        Raises:
            StorageError: That file does not open any more.
        """
        erased = self.read().count("SELECT count(*) FROM erasures WHERE NOT forgotten")
        if not erased:
            return
        fresh, forgotten = _fresh(self._path), False
        try:
            self._raw.execute("CHECKPOINT")  # a log left behind would be replayed over the copy
            _copy(self._raw, fresh)
            self._raw.close()
            fresh.replace(self._path)
            self._path.with_name(f"{self._path.name}.wal").unlink(missing_ok=True)
            sync_folder(self._path.parent)
            forgotten = True
        except (OSError, duckdb.Error) as err:
            log.error(
                "destroyed keys stay in the file until the next start: %s", type(err).__name__
            )
        finally:
            self._raw.close()
            self._local = threading.local()
            with contextlib.suppress(OSError):
                _discard(fresh)
        self._raw = _connect(self._path)  # anew in either case: what failed may have broken it
        if forgotten:
            with self.write() as tx:  # last: killed before, the next start does it all again
                tx.run("UPDATE erasures SET forgotten = true")

    def _migrate(self, host: Host) -> None:
        with self.write() as tx:
            tx.run(
                "CREATE TABLE IF NOT EXISTS migrations (name VARCHAR PRIMARY KEY,"
                " applied_at TIMESTAMP NOT NULL)"
            )
        for name, statements in steps_to_do(self.read()):
            with self.write() as tx:
                for statement in statements:
                    tx.run(statement)
                tx.run("INSERT INTO migrations VALUES ($1, $2)", name, host.now())
        # At every start: after a crash within a migration the log still holds an ALTER TABLE,
        # and what is updated after one is lost with the next crash, as with an index.
        self.read().run("CHECKPOINT")


@contextlib.contextmanager
def fresh_file(
    folder: Path, host: Host, wait_seconds: float
) -> Iterator[tuple[EmbeddedDatabase, Callable[[], bytes]]]:
    """A new catalog file that is filled from elsewhere, and what closes it and gives its bytes.

    Raises:
        StorageError: It cannot be written.
    """
    with _passing(folder) as path:
        copy = EmbeddedDatabase.open(path, host, wait_seconds)

        def content() -> bytes:
            copy.close()
            return path.read_bytes()

        with contextlib.closing(copy):
            yield copy, content


@contextlib.contextmanager
def file_of(
    content: bytes, folder: Path, host: Host, wait_seconds: float
) -> Iterator[EmbeddedDatabase]:
    """The catalog in the bytes of a file, brought up to date.

    Raises:
        StorageError: It cannot be read, or not be written to the folder for that.
    """
    with _passing(folder) as path:
        write_durably(path, content)
        with contextlib.closing(EmbeddedDatabase.open(path, host, wait_seconds)) as source:
            yield source


def discard_copy(folder: Path) -> None:
    """Delete the copy of a catalog that a crash left, while nobody else holds the folder.

    Raises:
        StorageError: It cannot be deleted.
    """
    with _passing(folder):
        pass


@contextlib.contextmanager
def _passing(folder: Path) -> Iterator[Path]:
    """The path of a copy that is deleted in the end. Raises StorageError."""
    path = _fresh(folder / "catalog.duckdb")
    try:
        _discard(path)
        yield path
    except OSError as err:
        raise StorageError(
            "Cannot write to the data folder. Check free space and permissions."
        ) from err
    finally:
        with contextlib.suppress(OSError):
            _discard(path)


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    """Raises StorageBusy or StorageError."""
    try:
        return duckdb.connect(str(path), config=_CONFIG)
    except duckdb.Error as err:
        if "could not set lock" in str(err).lower():
            raise StorageBusy(
                "Another MedSec process is using this data folder. Stop it first, or use its pages."
            ) from err
        raise StorageError(
            "Cannot open the catalog. Check free space, or restore it from a backup."
        ) from err


def _fresh(path: Path) -> Path:
    """Temporary path for a copy of the catalog."""
    return path.with_name(f".{path.name}.fresh")


def _discard(path: Path) -> None:
    """Delete a copy of the catalog and its log."""
    for part in (path, path.with_name(f"{path.name}.wal")):
        part.unlink(missing_ok=True)


def _copy(cursor: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Write all tables and triggers into a fresh file, row by row, not block by block."""
    _discard(path)
    path.touch(mode=0o600)
    path.unlink()  # DuckDB makes the file itself; the folder is its owner's alone
    target = duckdb.connect(str(path), config=_CONFIG)
    try:
        tables = cursor.execute(
            "SELECT table_name, sql FROM duckdb_tables() WHERE NOT internal ORDER BY table_name"
        ).fetchall()
        for name, sql in tables:
            target.execute(sql)
            rows = cursor.sql(f'SELECT * FROM "{name}"').to_arrow_table()  # noqa: S608
            if rows.num_rows:
                target.register("incoming", rows)
                target.execute(f'INSERT INTO "{name}" SELECT * FROM incoming')  # noqa: S608
                target.unregister("incoming")
        indexes = cursor.execute("SELECT sql FROM duckdb_indexes() WHERE sql <> ''").fetchall()
        for statement in (*(sql for (sql,) in indexes), *TRIGGERS):
            target.execute(statement)
        target.execute("CHECKPOINT")
    finally:
        target.close()


def _translate(err: duckdb.Error) -> NoReturn:
    """Named errors only; DuckDB's own text may quote values, so it stays in the cause."""
    if isinstance(err, duckdb.ConstraintException):
        raise StorageError("The catalog already has such an entry.") from err
    if isinstance(err, duckdb.FatalException):
        raise StorageError("The catalog failed. Restart MedSec.", fatal=True) from err
    raise StorageError(
        "The catalog refused the request. Tell your administrator.", kind=type(err).__name__
    ) from err
