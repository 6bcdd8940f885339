"""Catalogs on a database server: made ready by their owner, filled from a file, moved and back."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import SettingsError, StorageError
from engine.host import Host, sync_folder, write_durably
from engine.permissions import Role
from engine.records import Caller
from engine.settings import Settings
from engine.store.audit import AuditLog, Event, readable
from engine.store.database import CATALOG_ID, Database
from engine.store.embedded import EmbeddedDatabase, file_of
from engine.store.servers import Servers, agreed

if TYPE_CHECKING:
    from engine.store.postgresql import PostgresDatabase

OPERATOR = Caller("operator", Role.OPERATOR, "", "command line")


def server_database(settings: Settings, host: Host, *, many: bool = False) -> PostgresDatabase:
    """Open the catalog that MEDSEC_DATABASE names.

    Args:
        many: As one of several servers; by default as the only process.

    Raises:
        SettingsError: It names none, or not safely.
        StorageBusy: Another process has it, or it cannot be reached.
        StorageError: Tables or rights are not as they must be.
    """
    # Imported here: who has no such database needs no driver for one.
    from engine.store.postgresql import PostgresDatabase

    return PostgresDatabase.open(
        _url(settings),
        settings.data,
        host,
        settings.write_wait_seconds,
        settings.database_connections,
        Servers(host, agreed(settings), settings.backup_dir) if many else None,
    )


def prepare_database(settings: Settings, server_role: str) -> list[str]:
    """Make tables, functions and rights in the database that MEDSEC_DATABASE names, as their owner.

    Args:
        server_role: The role that the server signs in with.

    Returns:
        Names of the steps that were done.

    Raises:
        InputError: There is no such role or schema.
        SettingsError: MEDSEC_DATABASE names no database, or not safely.
        StorageBusy: A server has it, or it cannot be reached.
        StorageError: A newer MedSec wrote it, or this role may not change it.
    """
    from engine.store.postgresql import migrate

    host = Host(settings.data / "blobs")
    return migrate(_url(settings), server_role, host, settings.write_wait_seconds)


def refuse_filled(settings: Settings, host: Host) -> None:
    """Raises StorageError if the database that MEDSEC_DATABASE names has rows already."""
    with contextlib.closing(server_database(settings, host)) as database:
        database.refuse_filled()


def fill_from_file(settings: Settings, host: Host, catalog: bytes) -> None:
    """Take all rows of a catalog's file into the empty database that MEDSEC_DATABASE names.

    Args:
        catalog: The file's content.

    Raises:
        StorageError: There are rows already, or the file cannot be read, or PostgreSQL could not
            search its log; nothing was changed.
    """
    wait = settings.write_wait_seconds
    with (
        contextlib.closing(server_database(settings, host)) as database,
        file_of(catalog, settings.data, host, wait) as source,
    ):
        _refuse_unreadable(source)
        database.fill(source)


def planned_move(settings: Settings, back: bool) -> Mapping[str, int]:
    """What :func:`move_to_server` has to move, or :func:`move_to_file`; nothing is changed.

    Returns:
        Rows by table.

    Raises:
        AuditBroken, StorageBusy, StorageError: As the move would.
    """
    host, wait = Host(settings.data / "blobs"), settings.write_wait_seconds
    file, bound = settings.data / "catalog.duckdb", settings.data / CATALOG_ID
    _refuse_place(file, back)
    was_bound = bound.exists()
    try:
        with (
            contextlib.closing(server_database(settings, host)) as server,
            _as_file(server, settings, host)[0] if back else _opened(file, host, wait) as source,
        ):
            AuditLog(source, host, b"").verify()
            if not back:
                _refuse_unreadable(source)
            if not back and not server.fresh:
                _compared(source, server, "Choose an empty database.")
            return {
                table: sum(len(part) for part in source.rows_of(table, columns[:1]))
                for table, columns in source.tables().items()
            }
    finally:
        if not was_bound:  # opening a database binds this folder to it
            bound.unlink(missing_ok=True)


def _refuse_place(file: Path, back: bool) -> None:
    if back and file.exists():
        raise StorageError("This data folder has a catalog of its own already.")
    if not back and not file.exists():
        raise StorageError("This data folder has no catalog of its own. Check MEDSEC_DATA.")


def _opened(
    file: Path, host: Host, wait_seconds: float
) -> contextlib.AbstractContextManager[EmbeddedDatabase]:
    return contextlib.closing(EmbeddedDatabase.open(file, host, wait_seconds))


def _as_file(
    server: PostgresDatabase, settings: Settings, host: Host
) -> tuple[contextlib.AbstractContextManager[EmbeddedDatabase], bytes]:
    """The rows of a server as the file that they would become: to be opened, and its content."""
    with server.still() as (_, content):
        pass
    return file_of(content, settings.data, host, settings.write_wait_seconds), content


def move_to_server(settings: Settings) -> Mapping[str, int]:
    """Move the catalog from the data folder's file to the database that MEDSEC_DATABASE names.

    The file is deleted when every row has been compared: kept, it would keep the keys of what is
    erased later. Interrupted anywhere, it continues when it is called again.

    Returns:
        Rows by table.

    Raises:
        AuditBroken: The log does not verify.
        StorageBusy: A server has the file or the database.
        StorageError: The database has another catalog, or rows differ, or it could not search the
            log. The file is still there.
    """
    host, wait = Host(settings.data / "blobs"), settings.write_wait_seconds
    file = settings.data / "catalog.duckdb"
    _refuse_place(file, back=False)
    with (
        _opened(file, host, wait) as source,
        contextlib.closing(server_database(settings, host)) as target,
    ):
        AuditLog(source, host, b"").verify()
        _refuse_unreadable(source)
        if target.fresh:  # else an earlier call was interrupted
            _record(source, host, "postgresql")
            target.fill(source)
        rows = _compared(source, target, "Choose an empty database.")
        AuditLog(target, host, b"").verify()
    for path in (file, file.with_name(f"{file.name}.wal")):
        path.unlink(missing_ok=True)
    sync_folder(settings.data)
    return rows


def move_to_file(settings: Settings) -> Mapping[str, int]:
    """Move the catalog from the database that MEDSEC_DATABASE names into the data folder's file.

    The database keeps its rows: drop it, because it has the keys of what is erased later.

    Returns:
        Rows by table.

    Raises:
        AuditBroken: The log does not verify.
        StorageBusy: A server has the database.
        StorageError: The folder has a file already, or rows differ. The database is as it was.
    """
    host, file = Host(settings.data / "blobs"), settings.data / "catalog.duckdb"
    _refuse_place(file, back=True)
    with contextlib.closing(server_database(settings, host)) as source:
        AuditLog(source, host, b"").verify()
        _record(source, host, "file")
        opened, content = _as_file(source, settings, host)
        with opened as copy:
            rows = _compared(copy, source, "Nothing was moved. Tell your administrator.")
            AuditLog(copy, host, b"").verify()
        write_durably(file, content)
    (settings.data / CATALOG_ID).unlink()
    sync_folder(settings.data)
    return rows


def _refuse_unreadable(source: EmbeddedDatabase) -> None:
    """Raises StorageError where PostgreSQL could not search the log."""
    for part in source.rows_of("audit", ["sequence", "detail"]):
        for sequence, detail in part:
            said = json.loads(detail)
            if readable(said) != said:
                raise StorageError(
                    f"Entry {sequence} of the audit log has a character that PostgreSQL cannot"
                    " read. Keep this catalog in a file.",
                    sequence=sequence,
                )


def _record(source: Database, host: Host, to: str) -> None:
    """In the log that is moved, so that both have it."""
    AuditLog(source, host, b"").record(OPERATOR, Event("database.move", detail={"to": to}))


def _compared(
    file: EmbeddedDatabase, server: PostgresDatabase, what_to_do: str
) -> Mapping[str, int]:
    """Rows by table. Raises StorageError where those of file and server differ."""
    counts = {}
    for table, columns in file.tables().items():
        if table == "erasures":  # a file that is opened forgets what was erased, and marks it
            columns = [name for name in columns if name != "forgotten"]
        here = _sum(file.rows_of(table, columns))
        if here != _sum(server.rows_of(table, columns)):
            raise StorageError(
                f"The database has other rows than the file. {what_to_do}", table=table
            )
        counts[table] = here[0]
    return counts


def _sum(parts: Iterable[Sequence[Sequence[object]]]) -> tuple[int, int]:
    """How many rows there are, and a sum over their digests, whatever their order."""
    count = total = 0
    for part in parts:
        for row in part:
            digest = hashlib.sha256(repr(tuple(row)).encode()).digest()
            total = (total + int.from_bytes(digest)) % (1 << 256)
            count += 1
    return count, total


def _url(settings: Settings) -> str:
    if settings.database is None:
        raise SettingsError("Set MEDSEC_DATABASE to the URL of a PostgreSQL database.")
    return settings.database
