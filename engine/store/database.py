"""The DuckDB file: reading, writing and migrations.

One process has the file open for its lifetime. Each thread reads with its own cursor;
``write()`` is exclusive, because two overlapping transactions would both append after
the same audit row and both commit. There are no foreign keys (DuckDB leaves orphans and
hangs on some migrations with them): the rules live in the engine.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import duckdb

from engine.errors import StorageBusy, StorageError
from engine.fairness import gives_way
from engine.host import Host, sync_folder
from engine.store.turns import Turns

log = logging.getLogger("medsec")

_TRIGGERS = tuple(
    f"CREATE TRIGGER audit_no_{verb.lower()} AFTER {verb} ON audit FOR EACH STATEMENT"
    " INSERT INTO audit_guard SELECT error('the audit log is append only')"
    for verb in ("UPDATE", "DELETE")
)

#: Numbered, additive steps. A step that was released never changes; a new one is appended.
MIGRATIONS: tuple[tuple[str, str], ...] = (
    (
        "0001 keys, people, patients, images, audit",
        """
        CREATE TABLE root_keys (key_id VARCHAR PRIMARY KEY, check_value VARCHAR NOT NULL,
            added_at TIMESTAMP NOT NULL);
        CREATE TABLE system_keys (name VARCHAR PRIMARY KEY, root_key_id VARCHAR NOT NULL,
            wrapped_key BLOB NOT NULL);
        CREATE TABLE accounts (username VARCHAR PRIMARY KEY, name VARCHAR NOT NULL,
            role VARCHAR NOT NULL, password_hash VARCHAR NOT NULL, enabled BOOLEAN NOT NULL,
            created_at TIMESTAMP NOT NULL, last_sign_in_at TIMESTAMP);
        CREATE TABLE sign_in_failures (name_digest VARCHAR PRIMARY KEY,
            failures INTEGER NOT NULL, failed_at TIMESTAMP NOT NULL, locked_until TIMESTAMP);
        CREATE TABLE sessions (token_digest VARCHAR PRIMARY KEY, session_id VARCHAR NOT NULL,
            username VARCHAR NOT NULL, created_at TIMESTAMP NOT NULL,
            seen_at TIMESTAMP NOT NULL, expires_at TIMESTAMP NOT NULL, ended_at TIMESTAMP,
            origin VARCHAR NOT NULL);
        CREATE TABLE refresh_tokens (token_digest VARCHAR PRIMARY KEY,
            session_id VARCHAR NOT NULL, expires_at TIMESTAMP NOT NULL, used_at TIMESTAMP);
        CREATE TABLE patients (patient_id VARCHAR PRIMARY KEY, root_key_id VARCHAR,
            wrapped_key BLOB, id_index BLOB UNIQUE, record BLOB, created_at TIMESTAMP NOT NULL,
            updated_at TIMESTAMP NOT NULL, erased_at TIMESTAMP);
        CREATE TABLE patient_tokens (patient_id VARCHAR NOT NULL, token BLOB NOT NULL);
        CREATE TABLE patient_history (patient_id VARCHAR NOT NULL, changed_at TIMESTAMP NOT NULL,
            changed_by VARCHAR NOT NULL, record BLOB NOT NULL);
        CREATE TABLE images (image_id VARCHAR PRIMARY KEY, patient_id VARCHAR NOT NULL,
            state VARCHAR NOT NULL, version INTEGER NOT NULL, wrapped_key BLOB,
            duplicate_index BLOB, format VARCHAR NOT NULL, modality VARCHAR NOT NULL,
            profile VARCHAR NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL,
            frames INTEGER NOT NULL, size_bytes BIGINT NOT NULL, stored_bytes BIGINT NOT NULL,
            uploaded_at TIMESTAMP NOT NULL, uploaded_by VARCHAR NOT NULL, sealed_at TIMESTAMP,
            sealed_by VARCHAR, reasons VARCHAR NOT NULL, confidence DOUBLE,
            region_count INTEGER NOT NULL, times_ms VARCHAR NOT NULL,
            draft_blob VARCHAR, masked_blob VARCHAR, sealed_blob VARCHAR,
            thumbnail_blob VARCHAR, facts BLOB, tag BLOB);
        CREATE TABLE regions (region_id VARCHAR PRIMARY KEY, image_id VARCHAR NOT NULL,
            place INTEGER NOT NULL, label VARCHAR NOT NULL, confidence DOUBLE NOT NULL,
            source VARCHAR NOT NULL, x1 INTEGER NOT NULL, y1 INTEGER NOT NULL,
            x2 INTEGER NOT NULL, y2 INTEGER NOT NULL, frame INTEGER NOT NULL,
            frame_end INTEGER NOT NULL, start BIGINT NOT NULL, size_bytes BIGINT NOT NULL,
            encrypt_ms DOUBLE NOT NULL);
        CREATE TABLE notes (note_id VARCHAR PRIMARY KEY, patient_id VARCHAR NOT NULL,
            image_id VARCHAR, author VARCHAR NOT NULL, written_at TIMESTAMP NOT NULL,
            text BLOB NOT NULL);
        CREATE TABLE erasures (subject_id VARCHAR PRIMARY KEY, kind VARCHAR NOT NULL,
            erased_at TIMESTAMP NOT NULL, forgotten BOOLEAN NOT NULL DEFAULT false);
        CREATE TABLE audit (sequence BIGINT PRIMARY KEY, occurred_at VARCHAR NOT NULL,
            actor VARCHAR NOT NULL, role VARCHAR NOT NULL, action VARCHAR NOT NULL,
            outcome VARCHAR NOT NULL, patient_id VARCHAR NOT NULL, image_id VARCHAR NOT NULL,
            region_id VARCHAR NOT NULL, reason VARCHAR NOT NULL, origin VARCHAR NOT NULL,
            detail VARCHAR NOT NULL, digest VARCHAR NOT NULL);
        CREATE TABLE audit_guard (refusal VARCHAR);
        """
        + ";".join(_TRIGGERS),
    ),
    (
        "care relations, broken glass, classes granted apart",
        """
        CREATE TABLE care (patient_id VARCHAR NOT NULL, username VARCHAR NOT NULL,
            since TIMESTAMP NOT NULL, assigned_by VARCHAR NOT NULL,
            PRIMARY KEY (patient_id, username));
        CREATE TABLE glass (glass_id VARCHAR PRIMARY KEY, patient_id VARCHAR NOT NULL,
            username VARCHAR NOT NULL, reason BLOB NOT NULL, opened_at TIMESTAMP NOT NULL,
            expires_at TIMESTAMP NOT NULL, ended_at TIMESTAMP, ended_by VARCHAR,
            reviewed_at TIMESTAMP, reviewed_by VARCHAR, verdict VARCHAR, remark BLOB);
        CREATE TABLE class_grants (username VARCHAR PRIMARY KEY, labels VARCHAR NOT NULL,
            granted_at TIMESTAMP NOT NULL, granted_by VARCHAR NOT NULL);
        """,
    ),
    (
        "profiles: specialty profiles that an administrator changed",
        """
        CREATE TABLE profiles (name VARCHAR PRIMARY KEY, sealed BLOB NOT NULL,
            changed_at TIMESTAMP NOT NULL, changed_by VARCHAR NOT NULL);
        """,
    ),
    (
        "second factors, requests for accounts, what sessions have proven",
        """
        CREATE TABLE second_factors (username VARCHAR PRIMARY KEY, secret BLOB NOT NULL,
            confirmed_at TIMESTAMP, last_step BIGINT NOT NULL);
        CREATE TABLE recovery_codes (username VARCHAR NOT NULL, code_digest VARCHAR NOT NULL,
            used_at TIMESTAMP);
        CREATE TABLE account_requests (request_id VARCHAR PRIMARY KEY, username VARCHAR NOT NULL,
            name VARCHAR NOT NULL, role VARCHAR NOT NULL, password_hash VARCHAR NOT NULL,
            requested_at TIMESTAMP NOT NULL, origin VARCHAR NOT NULL);
        ALTER TABLE sessions ADD COLUMN proven_at TIMESTAMP;
        ALTER TABLE sessions ADD COLUMN door VARCHAR DEFAULT 'browser'
        """,
    ),
    (
        "merged patients: their numbers name the one that stays",
        """
        CREATE TABLE patient_merges (patient_id VARCHAR PRIMARY KEY, into_id VARCHAR NOT NULL,
            id_index BLOB, merged_at TIMESTAMP NOT NULL, merged_by VARCHAR NOT NULL);
        ALTER TABLE patient_history ADD COLUMN merged BOOLEAN DEFAULT false
        """,
    ),
    (
        "guests: networks of the hospital's own",
        """
        CREATE TABLE guests (name VARCHAR PRIMARY KEY, sealed BLOB NOT NULL,
            changed_at TIMESTAMP NOT NULL, changed_by VARCHAR NOT NULL, blob VARCHAR);
        """,
    ),
    (
        "outbox: notices by e-mail",
        """
        CREATE TABLE outbox (mail_id VARCHAR PRIMARY KEY, about VARCHAR NOT NULL,
            subject VARCHAR NOT NULL, body VARCHAR NOT NULL, created_at TIMESTAMP NOT NULL,
            attempts INTEGER NOT NULL, next_at TIMESTAMP NOT NULL, sent_at TIMESTAMP);
        """,
    ),
    (
        "evaluations: figures of profiles and networks that an administrator added",
        """
        CREATE TABLE evaluations (name VARCHAR PRIMARY KEY, sealed BLOB NOT NULL,
            changed_at TIMESTAMP NOT NULL, changed_by VARCHAR NOT NULL);
        """,
    ),
    (
        "single sign-on: whose address is whose account, and what was used up",
        """
        CREATE TABLE identities (username VARCHAR PRIMARY KEY, email VARCHAR NOT NULL,
            issuer VARCHAR, subject VARCHAR, linked_at TIMESTAMP NOT NULL);
        CREATE TABLE spent_assertions (digest VARCHAR PRIMARY KEY, spent_at TIMESTAMP NOT NULL);
        """,
    ),
    (
        "training: cases in which something was missed",
        """
        CREATE TABLE training_cases (case_id VARCHAR PRIMARY KEY, patient_id VARCHAR NOT NULL,
            image_id VARCHAR NOT NULL, version INTEGER NOT NULL, wrapped_key BLOB NOT NULL,
            blob VARCHAR NOT NULL, size_bytes BIGINT NOT NULL, kept_at TIMESTAMP NOT NULL,
            exported_at TIMESTAMP);
        """,
    ),
    (
        "settings: those that an administrator changed",
        """
        CREATE TABLE settings (name VARCHAR PRIMARY KEY, sealed BLOB NOT NULL,
            changed_at TIMESTAMP NOT NULL, changed_by VARCHAR NOT NULL);
        """,
    ),
    # ``CREATE INDEX`` only on tables whose rows are never updated. With one, DuckDB 2.0 replays
    # inserts after a crash into the row group that is on disk, and then loses updates of values
    # that were NULL there (benchmarks/NOTES.md, tests/store/test_replay.py). Without one, and with
    # PRIMARY KEY and UNIQUE, it starts a new row group and loses nothing.
    (
        "lookups of one image that do not grow with all others",
        """
        CREATE INDEX regions_of_image ON regions (image_id);
        CREATE INDEX audit_of_image ON audit (image_id);
        """,
    ),
    (
        "files that are here already, by their keyed hash",
        """
        CREATE TABLE image_files (duplicate_index BLOB NOT NULL, image_id VARCHAR NOT NULL);
        INSERT INTO image_files SELECT duplicate_index, image_id FROM images
            WHERE duplicate_index IS NOT NULL;
        CREATE INDEX image_of_file ON image_files (duplicate_index);
        """,
    ),
    (
        "studies: images that belong together",
        """
        CREATE TABLE studies (study_id VARCHAR PRIMARY KEY, patient_id VARCHAR NOT NULL,
            study_uid VARCHAR NOT NULL, record BLOB NOT NULL, created_at TIMESTAMP NOT NULL);
        CREATE TABLE series (series_id VARCHAR PRIMARY KEY, study_id VARCHAR NOT NULL,
            record BLOB NOT NULL, created_at TIMESTAMP NOT NULL);
        CREATE TABLE image_places (image_id VARCHAR PRIMARY KEY, series_id VARCHAR NOT NULL,
            study_id VARCHAR NOT NULL, place BLOB NOT NULL);
        """,
    ),
    (
        "the last entry of the log that the audit repository has",
        "CREATE TABLE audit_forwarded (sequence BIGINT NOT NULL)",
    ),
    (
        "search by parts of numbers, and without strokes of letters",
        """
        CREATE TABLE search_tokens (patient_id VARCHAR NOT NULL, token BLOB NOT NULL);
        DELETE FROM patient_tokens;
        """,
    ),
    (
        "network: nodes (DICOM application entities), and what they sent of unknown patients",
        """
        CREATE TABLE nodes (name VARCHAR PRIMARY KEY, sealed BLOB NOT NULL,
            changed_at TIMESTAMP NOT NULL, changed_by VARCHAR NOT NULL);
        CREATE TABLE held_instances (held_id VARCHAR PRIMARY KEY, node VARCHAR NOT NULL,
            received_at TIMESTAMP NOT NULL, file_index BLOB NOT NULL, instance_index BLOB NOT NULL,
            blob VARCHAR NOT NULL, facts BLOB NOT NULL);
        """,
    ),
    (
        "device rules: places that are sealed on every image of a device",
        """
        CREATE TABLE device_rules (name VARCHAR PRIMARY KEY, sealed BLOB NOT NULL,
            changed_at TIMESTAMP NOT NULL, changed_by VARCHAR NOT NULL);
        """,
    ),
    (
        "recipients: de-identification profiles, and pseudonyms that the hospital gives",
        """
        CREATE TABLE deidentifications (name VARCHAR PRIMARY KEY, sealed BLOB NOT NULL,
            changed_at TIMESTAMP NOT NULL, changed_by VARCHAR NOT NULL);
        CREATE TABLE pseudonyms (recipient VARCHAR PRIMARY KEY, sealed BLOB NOT NULL,
            changed_at TIMESTAMP NOT NULL, changed_by VARCHAR NOT NULL);
        """,
    ),
    (
        "passkeys",
        """
        CREATE TABLE passkeys (credential_id VARCHAR PRIMARY KEY, username VARCHAR NOT NULL,
            added_at TIMESTAMP NOT NULL, used_at TIMESTAMP, sealed BLOB NOT NULL);
        """,
    ),
    (
        "sending: what goes to nodes of the network, and the rules by which masked images go",
        """
        CREATE TABLE forwardings (name VARCHAR PRIMARY KEY, sealed BLOB NOT NULL,
            changed_at TIMESTAMP NOT NULL, changed_by VARCHAR NOT NULL);
        CREATE TABLE sendings (sending_id VARCHAR PRIMARY KEY, image_id VARCHAR NOT NULL,
            destination VARCHAR NOT NULL, original BOOLEAN NOT NULL, cause VARCHAR NOT NULL,
            queued_by VARCHAR NOT NULL, queued_at TIMESTAMP NOT NULL, state VARCHAR NOT NULL,
            attempts INTEGER NOT NULL, next_at TIMESTAMP NOT NULL, changed_at TIMESTAMP NOT NULL,
            error VARCHAR NOT NULL);
        """,
    ),
    (
        "networks: learned versions of MedSec's own network, and which is in force",
        """
        CREATE TABLE networks (name VARCHAR PRIMARY KEY, sealed BLOB NOT NULL,
            changed_at TIMESTAMP NOT NULL, changed_by VARCHAR NOT NULL, blob VARCHAR);
        """,
    ),
)

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "lock_configuration": True,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}

Row = dict[str, Any]


class Cursor:
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

    def one(self, sql: str, *values: Any) -> Row | None:
        """The first row of a query, or None."""
        rows = self.all(sql, *values)
        return rows[0] if rows else None

    def count(self, sql: str, *values: Any) -> int:
        """The single number of a query."""
        # Never fetchone(): the rest of the answer would keep this cursor's transaction open, and
        # while one is open, DuckDB writes no checkpoint and keeps what every later one undid.
        row = self.one(sql, *values)
        number = next(iter(row.values())) if row else None
        return int(number) if number is not None else 0


class Database:
    """One open catalog file."""

    def __init__(self, raw: duckdb.DuckDBPyConnection, path: Path, wait_seconds: float) -> None:
        self._raw = raw
        self._path = path
        self._wait = wait_seconds
        self._turns = Turns()
        self._copying = threading.Lock()  # all copies have one name
        self._local = threading.local()

    @classmethod
    def open(cls, path: Path, host: Host, wait_seconds: float) -> Database:
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
        rows = Cursor(raw)
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
            cursor = self._local.cursor = Cursor(self._raw.cursor())
        return cursor

    def held_bytes(self) -> int:
        """Memory that the database uses for pages, indexes and changes under way."""
        return self.read().count("SELECT sum(memory_usage_bytes) FROM duckdb_memory()")

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
        done = {row["name"] for row in self.read().all("SELECT name FROM migrations")}
        unknown = done - {name for name, _ in MIGRATIONS}
        if unknown:
            raise StorageError(
                "This data folder was written by a newer version of MedSec. Update MedSec first."
            )
        for name, sql in MIGRATIONS:
            if name not in done:
                with self.write() as tx:
                    for statement in sql.split(";"):
                        if statement.strip():
                            tx.run(statement)
                    tx.run("INSERT INTO migrations VALUES ($1, $2)", name, host.now())
        # At every start: after a crash within a migration the log still holds an ALTER TABLE,
        # and what is updated after one is lost with the next crash, as with an index.
        self.read().run("CHECKPOINT")


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
            target.register("incoming", rows)
            target.execute(f'INSERT INTO "{name}" SELECT * FROM incoming')  # noqa: S608
            target.unregister("incoming")
        indexes = cursor.execute("SELECT sql FROM duckdb_indexes() WHERE sql <> ''").fetchall()
        for statement in (*(sql for (sql,) in indexes), *_TRIGGERS):
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
