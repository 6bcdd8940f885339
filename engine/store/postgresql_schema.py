"""What PostgreSQL needs in another way than DuckDB: types, functions, indexes, roles and rights.

Two roles share the work. The owner makes and changes tables, by ``database-migrate`` alone. The
server's role reads and writes rows, and of the audit log it can only read and append: it cannot
alter, delete or truncate it, nor turn off the triggers that refuse the same to everybody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from engine.errors import InputError, SettingsError, StorageError
from engine.host import Host
from engine.store.database import Cursor, steps_to_do

#: Everything lies in a schema of this name.
SCHEMA: Final = "medsec"
#: The oldest release whose SQL functions can be bound when they are made.
OLDEST_VERSION: Final = 140000

#: DuckDB's names of types, which are written in capitals in every statement.
_TYPES: Final = ((re.compile(r"\bBLOB\b"), "BYTEA"), (re.compile(r"\bDOUBLE(?! PREC)"), "FLOAT8"))
#: An index serves ``= ANY`` behind an ``OR``, and a subquery there not.
_LISTS: Final = re.compile(r"(?<!NOT )\bIN \(SELECT unnest\((\$\d+::\w+\[\])\)\)")
#: One form for both databases in the tables' steps, but PostgreSQL's triggers are its own.
_OWN_TRIGGERS: Final = "CREATE TRIGGER"

#: Functions that DuckDB has and PostgreSQL has not; their bodies are bound when they are made, so
#: that no table or function of another schema can take the place of one that they use.
_FUNCTIONS: Final = (
    "FUNCTION strlen(text) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE"
    " RETURN octet_length($1)",
    "FUNCTION contains(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE"
    " RETURN strpos($1, $2) > 0",
    "FUNCTION sha256(text) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE"
    " RETURN encode(sha256(convert_to($1, 'UTF8')), 'hex')",
    "FUNCTION hash(text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE"
    " RETURN hashtextextended($1, 0)",
    "FUNCTION json_field(text, text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE"
    " RETURN $1::json ->> $2",
    # Bytes as DuckDB shows them: printable ASCII but quotes and backslashes, the rest in hex.
    "FUNCTION bytes_as_text(bytea) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN"
    " CASE WHEN $1 IS NULL THEN NULL ELSE (SELECT coalesce(string_agg(CASE"
    " WHEN b BETWEEN 32 AND 126 AND b NOT IN (34, 39, 92) THEN chr(b)"
    " ELSE '\\x' || upper(lpad(to_hex(b), 2, '0')) END, '' ORDER BY i), '')"
    " FROM (SELECT i, get_byte($1, i) AS b FROM generate_series(0, length($1) - 1) AS s(i))"
    " AS bytes) END",
    "FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS"
    " 'BEGIN RAISE EXCEPTION ''the audit log is append only''; END'",
)
_OPERATOR: Final = "CREATE OPERATOR ->> (LEFTARG = text, RIGHTARG = text, FUNCTION = json_field)"

#: What comes after the steps that both databases have; each step is recorded like those.
STEPS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (
        "postgresql: the writer's row, triggers of the log, indexes",
        (
            # Its lock is the writers' turn. It names the catalog, and the server that has it.
            "CREATE TABLE writer (one BOOLEAN PRIMARY KEY DEFAULT true CHECK (one),"
            " catalog_id VARCHAR NOT NULL, server VARCHAR NOT NULL)",
            *(
                f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit"
                " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
                for verb in ("UPDATE", "DELETE", "TRUNCATE")
            ),
            # DuckDB has this by itself: the order in which rows came.
            "ALTER TABLE patient_history ADD COLUMN rowid BIGINT GENERATED ALWAYS AS IDENTITY",
            *(
                f"CREATE INDEX pg_{name} ON {columns}"
                for name, columns in (
                    ("audit_of_patient", "audit (patient_id)"),
                    ("audit_of_action", "audit (action, sequence)"),
                    ("care_of_account", "care (username)"),
                    ("files_of_image", "image_files (image_id)"),
                    ("images_by_date", "images (uploaded_at DESC, image_id)"),
                    ("images_of_patient", "images (patient_id)"),
                    ("images_of_state", "images (state)"),
                    ("history_of_patient", "patient_history (patient_id)"),
                    ("merges_into", "patient_merges (into_id)"),
                    ("notes_of_patient", "notes (patient_id)"),
                    ("patients_by_date", "patients (updated_at DESC, patient_id)"),
                    ("places_of_series", "image_places (series_id)"),
                    ("places_of_study", "image_places (study_id)"),
                    ("series_of_study", "series (study_id)"),
                    ("sessions_by_id", "sessions (session_id)"),
                    ("sessions_of_account", "sessions (username)"),
                    ("studies_of_patient", "studies (patient_id)"),
                    ("tokens", "search_tokens (token)"),
                    ("tokens_of_patient", "search_tokens (patient_id)"),
                )
            ),
        ),
    ),
    (
        "postgresql: several servers, and what they share for a short time",
        (
            "ALTER TABLE writer ADD COLUMN leader VARCHAR NOT NULL DEFAULT ''",
            "ALTER TABLE writer ADD COLUMN generation BIGINT NOT NULL DEFAULT 0",
            "CREATE TABLE servers (server_id VARCHAR PRIMARY KEY, machine VARCHAR NOT NULL,"
            " release VARCHAR NOT NULL, together INTEGER NOT NULL, agreed VARCHAR NOT NULL,"
            " started_at TIMESTAMP NOT NULL, heartbeat_at TIMESTAMP NOT NULL)",
            # Not in the write-ahead log: neither on a standby nor in a backup, and empty after a
            # crash. Nothing waits for the disk.
            "CREATE UNLOGGED TABLE shared (kind VARCHAR NOT NULL, name VARCHAR NOT NULL,"
            " owner VARCHAR NOT NULL, server VARCHAR NOT NULL, sealed BYTEA NOT NULL,"
            " since TIMESTAMP NOT NULL, until TIMESTAMP NOT NULL, PRIMARY KEY (kind, name))",
            "CREATE UNLOGGED TABLE rates (name VARCHAR PRIMARY KEY, minute BIGINT NOT NULL,"
            " hits INTEGER NOT NULL, before INTEGER NOT NULL)",
        ),
    ),
    (
        "postgresql: which parts of the log have entries of some days",
        # Of each megabyte the first and the last, which costs a writer next to nothing.
        (
            "CREATE INDEX pg_audit_of_days ON audit USING brin (sequence, occurred_at)"
            " WITH (autosummarize = on)",
        ),
    ),
)

_ROWS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")
#: What the server's role can do with a table, where that is not all four.
_LESS: Final[Mapping[str, tuple[str, ...]]] = {
    "audit": ("SELECT", "INSERT"),
    "audit_guard": (),
    "migrations": ("SELECT",),
    "erasures": ("SELECT", "INSERT"),
    "writer": ("SELECT", "UPDATE (server, leader, generation)"),
}

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")

_ROLES: Final = """\
-- Run as a superuser of the database server, for example: sudo -u postgres psql -f roles.sql
-- Then give both roles a password: \\password {owner} and \\password {server}
CREATE ROLE {owner} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
CREATE ROLE {server} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
CREATE DATABASE {database} OWNER {owner} TEMPLATE template0
    ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8';
REVOKE ALL ON DATABASE {database} FROM PUBLIC;
GRANT CONNECT ON DATABASE {database} TO {server};
\\connect {database}
REVOKE ALL ON SCHEMA public FROM PUBLIC;
CREATE SCHEMA {schema} AUTHORIZATION {owner};
GRANT USAGE ON SCHEMA {schema} TO {server};
"""

_TO_MIGRATE: Final = (
    "Stop MedSec and run: medsec database-migrate, with MEDSEC_DATABASE naming the role that owns"
    " the tables."
)


@lru_cache(maxsize=1024)
def translated(sql: str) -> str:
    """A statement as PostgreSQL reads it."""
    for pattern, name in _TYPES:
        sql = pattern.sub(name, sql)
    return _LISTS.sub(r"= ANY(\1)", sql)


def role_script(owner: str, server: str, database: str) -> str:
    """SQL for ``psql`` that makes both roles and the database.

    Raises:
        InputError: A name has other characters than small letters, digits and underscores, or both
            roles have one name.
    """
    for name in (owner, server, database):
        if not _NAME.fullmatch(name):
            raise InputError(
                "Choose names of small letters, digits and underscores for roles and database."
            )
    if owner == server:
        raise InputError("Choose two roles: the server's must not own the tables.")
    return _ROLES.format(owner=owner, server=server, database=database, schema=SCHEMA)


def migrate(tx: Cursor, server: str, host: Host) -> list[str]:
    """Bring tables, functions and rights up to date, as their owner, in one transaction.

    Args:
        server: The role that the server signs in with.

    Returns:
        Names of the steps that were done.

    Raises:
        InputError: There is no such role, or it is the owner itself.
        StorageError: A newer MedSec wrote the catalog, or this role may not change it.
    """
    row = tx.one(
        "SELECT current_user AS owner, (SELECT rolname FROM pg_roles WHERE rolname = $1) AS server,"
        " EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $2) AS schema",
        server,
        SCHEMA,
    )
    assert row is not None
    if row["server"] is None or row["server"] == row["owner"] or not row["schema"]:
        raise InputError(
            "Make two roles, the database and its schema first: medsec database-roles prints how."
        )
    tx.run(
        "CREATE TABLE IF NOT EXISTS migrations (name VARCHAR PRIMARY KEY,"
        " applied_at TIMESTAMP NOT NULL)"
    )
    for function in _FUNCTIONS:
        tx.run(f"CREATE OR REPLACE {function}")
    if not tx.count(
        "SELECT count(*) FROM pg_operator WHERE oprname = '->>' AND oprleft = 'text'::regtype"
        " AND oprnamespace = $1::regnamespace",
        SCHEMA,
    ):
        tx.run(_OPERATOR)
    done = []
    for name, statements in (*steps_to_do(tx, _own()), *_own_to_do(tx)):
        for statement in statements:
            if not statement.startswith(_OWN_TRIGGERS) or name in _own():
                tx.run(statement)
        tx.run("INSERT INTO migrations VALUES ($1, $2)", name, host.now())
        done.append(name)
    tx.run("INSERT INTO writer VALUES (true, $1, '') ON CONFLICT DO NOTHING", host.random(16).hex())
    _grant(tx, server)
    return done


def _own() -> frozenset[str]:
    return frozenset(name for name, _ in STEPS)


def _own_to_do(tx: Cursor) -> list[tuple[str, list[str]]]:
    done = {row["name"] for row in tx.all("SELECT name FROM migrations")}
    return [(name, list(statements)) for name, statements in STEPS if name not in done]


def _grant(tx: Cursor, server: str) -> None:
    """The server's role gets what it needs and nothing else, however it was before."""
    role = '"' + server.replace('"', '""') + '"'
    tx.run(f"REVOKE ALL ON ALL TABLES IN SCHEMA {SCHEMA} FROM PUBLIC, {role}")
    tx.run(f"GRANT USAGE ON SCHEMA {SCHEMA} TO {role}")
    for table in _tables(tx):
        for right in _LESS.get(table, _ROWS):
            tx.run(f"GRANT {right} ON {table} TO {role}")


def _tables(tx: Cursor) -> list[str]:
    rows = tx.all(
        "SELECT relname::text AS name FROM pg_class WHERE relnamespace = $1::regnamespace"
        " AND relkind = 'r' ORDER BY relname",
        SCHEMA,
    )
    return [row["name"] for row in rows]


def check_server(version: int, tx: Cursor) -> None:
    """Does this database compare and order texts as DuckDB does, and answer when it has saved?

    Raises:
        SettingsError: It does not.
    """
    row = tx.one(
        "SELECT pg_encoding_to_char(encoding) AS encoding, datcollate AS collation,"
        " current_setting('synchronous_commit') AS waits,"
        " to_jsonb(d) ->> 'datlocprovider' AS provider"  # since PostgreSQL 15
        " FROM pg_database d WHERE datname = current_database()"
    )
    assert row is not None
    if version < OLDEST_VERSION:
        raise SettingsError("MEDSEC_DATABASE must name PostgreSQL 14 or newer. Update it first.")
    if row["waits"] == "off":
        raise SettingsError(
            "The database of MEDSEC_DATABASE answers before a change is on its disk. Set"
            " synchronous_commit to on for the server, the database and MedSec's roles."
        )
    plain = row["provider"] != "i" and row["collation"] in ("C", "POSIX", "C.UTF-8", "C.utf8")
    if row["encoding"] != "UTF8" or not plain:
        raise SettingsError(
            "MEDSEC_DATABASE must name a database with encoding UTF8 and collation C. Make one as"
            " medsec database-roles prints."
        )


def check_tables(tx: Cursor) -> None:
    """Are all steps done?

    Raises:
        StorageError: With what to do.
    """
    there = tx.count(
        "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = $1 AND c.relname = 'migrations'",
        SCHEMA,
    )
    if not there or steps_to_do(tx, _own()) or _own_to_do(tx):
        raise StorageError(
            f"The database has no tables, or those of an earlier release. {_TO_MIGRATE}"
        )


def check_rights(tx: Cursor) -> None:
    """Has the server's role what it needs, and of the log no more than that?

    Raises:
        StorageError: With what to do.
    """
    row = tx.one(
        "SELECT (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user)"
        " OR pg_has_role(current_user, relowner, 'MEMBER')"
        " OR has_any_column_privilege(oid, 'UPDATE') OR has_table_privilege(oid, 'DELETE')"
        " OR has_table_privilege(oid, 'TRUNCATE') OR has_table_privilege(oid, 'TRIGGER')"
        " OR has_schema_privilege($1, 'CREATE') AS much,"
        " (SELECT count(*) FROM pg_trigger WHERE tgrelid = c.oid AND tgenabled = 'O'"
        " AND tgname LIKE 'audit_no_%') AS triggers"
        " FROM pg_class c WHERE oid = 'audit'::regclass",
        SCHEMA,
    )
    assert row is not None
    if row["much"]:
        raise StorageError(
            "The database role can change the audit log. Let MEDSEC_DATABASE name the server's"
            " role, not the one that owns the tables, and run medsec database-migrate again."
        )
    if row["triggers"] != 3:
        raise StorageError(
            "The database's triggers of the audit log are missing or turned off. Compare the log"
            " with a backup, and restore the triggers as the owner."
        )
    lacks = [
        table
        for table in _tables(tx)
        for right in _LESS.get(table, _ROWS)
        if not tx.count(
            "SELECT has_any_column_privilege($1, $2)::INT"
            if right not in ("DELETE", "TRUNCATE")
            else "SELECT has_table_privilege($1, $2)::INT",
            f"{SCHEMA}.{table}",
            right.partition(" ")[0],
        )
    ]
    if lacks:
        raise StorageError(f"The database role lacks rights on {len(lacks)} tables. {_TO_MIGRATE}")
