"""The catalog's database: what both kinds of it do, and the steps that make its tables.

A catalog is a DuckDB file (:mod:`engine.store.embedded`) or lies on a PostgreSQL server
(:mod:`engine.store.postgresql`). Every statement is written for both; what PostgreSQL needs in
another way is in ``postgresql_schema`` alone. Each thread reads by its own cursor; ``write()`` is
exclusive, because two overlapping transactions would both append after the same audit row and both
commit. There are no foreign keys (DuckDB leaves orphans and hangs on some migrations with them):
the rules live in the engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from engine.errors import StorageError

#: They keep the log from being changed in a DuckDB file.
TRIGGERS = tuple(
    f"CREATE TRIGGER audit_no_{verb.lower()} AFTER {verb} ON audit FOR EACH STATEMENT"
    " INSERT INTO audit_guard SELECT error('the audit log is append only')"
    for verb in ("UPDATE", "DELETE")
)


#: Numbered, additive steps, as DuckDB reads them. A step that was released never changes; a new one
#: is appended.
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
        + ";".join(TRIGGERS),
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
    (
        "files: where they lie, and the word of the copy that may delete them",
        "CREATE TABLE stored_files (name VARCHAR PRIMARY KEY, value VARCHAR NOT NULL)",
    ),
    (
        "held instances: keyed hash of what one answer can assign, so that it is counted unopened",
        "ALTER TABLE held_instances ADD COLUMN together BLOB",
    ),
)

Row = dict[str, Any]

#: A file beside the stored files that says to which catalog on a server they belong.
CATALOG_ID = "catalog.id"


@dataclass(frozen=True)
class ServerState:
    """One of several servers, as its row says.

    Args:
        machine: Name of the machine that it runs on.
        heartbeat_at: When it last said that it is there.
        leads: Does it do the scheduled work?
        writes_to: A digest of the place in which it puts new files.
    """

    server_id: str
    machine: str
    release: str
    started_at: datetime
    heartbeat_at: datetime
    leads: bool
    writes_to: str


class Cursor(ABC):
    """Runs statements, answers with dictionaries and raises named errors."""

    @abstractmethod
    def run(self, sql: str, *values: Any) -> None:
        """Execute a statement; values stand for ``$1``, ``$2``, ..."""

    @abstractmethod
    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Execute a statement once per row; no rows are fine."""

    @abstractmethod
    def all(self, sql: str, *values: Any) -> list[Row]:
        """Every row of a query."""

    @staticmethod
    @abstractmethod
    def bytes_as_text(column: str) -> str:
        """SQL for the text of a column of bytes, the same text in both databases."""

    def announce(self) -> None:  # noqa: B027 - nothing to do where there is one server
        """Let other servers read anew what they keep in memory of settings and the like."""

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


class Database(ABC):
    """One open catalog."""

    #: Of this server, where several may have the catalog open; empty where it is alone.
    server_id = ""
    #: Called when this server was taken for dead: it can do nothing more.
    when_expelled: Callable[[], None] = staticmethod(lambda: None)

    def servers(self) -> list[ServerState]:
        """All servers that have the catalog open, where there can be several."""
        return []

    @property
    def leads(self) -> bool:
        """Is this the server that does what is to be done once, such as the backup on time?"""
        return True

    def as_leader(self) -> AbstractContextManager[None]:
        """Within it, this thread can write only as long as its server leads.

        Raises:
            StorageBusy: By :meth:`write`, where another server leads by now.
        """
        return nullcontext()

    @abstractmethod
    def alone(
        self, what: str, wait_seconds: float = 0.0
    ) -> AbstractContextManager[Callable[[], None]]:
        """Do something that no other thread of any server does at the same time.

        Gives what raises TurnLost as soon as that is not so any more: to be called now and then,
        and before what was done counts.

        Args:
            wait_seconds: For the one that does it now.

        Raises:
            StorageBusy: Somebody does it.
        """

    def watch(self, changed: Callable[[], None]) -> None:  # noqa: B027 - as above
        """Say what to do when other servers have changed what is kept in memory."""

    @abstractmethod
    def read(self) -> Cursor:
        """This thread's own cursor; within :meth:`write` the one of its transaction."""

    @abstractmethod
    def write(self) -> AbstractContextManager[Cursor]:
        """One exclusive, atomic transaction; cannot be nested.

        Raises:
            StorageBusy: The turn did not come in time.
            StorageError: The database refused; nothing was changed.
            ChangeUnknown: The connection to it was lost at the end.
        """

    @abstractmethod
    def settle(self) -> None:
        """Wait until all that can be read now is on the disk.

        For what is done on the word of another thread's change: answered, signed, sent, deleted.

        Raises:
            StorageBusy: The database cannot be reached.
        """

    @abstractmethod
    def still(self) -> AbstractContextManager[tuple[Cursor, bytes]]:
        """A snapshot of the rows, also as the bytes of a DuckDB file, while writes continue.

        Raises:
            StorageBusy: The turn did not come in time.
            StorageError: The copy cannot be written.
        """

    @abstractmethod
    def held_bytes(self) -> int:
        """Memory of this process that the database uses."""

    @abstractmethod
    def stored_bytes(self) -> int:
        """Room that the catalog takes on disk."""

    @abstractmethod
    def close(self) -> None:
        """Let the catalog go.

        Raises:
            StorageBusy: Another thread was reading all the time.
        """


def steps_to_do(tx: Cursor, own: Collection[str] = frozenset()) -> list[tuple[str, list[str]]]:
    """Names and statements of the steps that a catalog has not had yet.

    Args:
        own: Names of steps that one kind of database has beside these.

    Raises:
        StorageError: It was written by a newer MedSec.
    """
    done = {row["name"] for row in tx.all("SELECT name FROM migrations")}
    if done - {name for name, _ in MIGRATIONS} - set(own):
        raise StorageError(
            "This catalog was written by a newer version of MedSec. Update MedSec first."
        )
    return [
        (name, [s.strip() for s in sql.split(";") if s.strip()])
        for name, sql in MIGRATIONS
        if name not in done
    ]
