"""Stored files moved between the data folder and buckets: each compared with its digest on arrival.

Files never change and are named by their content, so most of them can be copied while a server
works. The last step needs the catalog to itself. What is there already is not sent again, so a
move that was interrupted continues where it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

from engine.errors import NotFound, SealBroken, StorageError
from engine.host import Host
from engine.permissions import Role
from engine.records import Caller
from engine.settings import Settings
from engine.store.audit import AuditLog, Event
from engine.store.catalog import Catalog
from engine.store.catalogs import server_database
from engine.store.database import CATALOG_ID, Database
from engine.store.embedded import EmbeddedDatabase
from engine.store.file_stores import OWNER, files_of, note_place

R = TypeVar("R")

#: What --to says for the data folder.
FOLDER = "folder"
AT_ONCE = 8
_OPERATOR = Caller("operator", Role.OPERATOR, "", "command line")


@dataclass(frozen=True)
class Moved:
    """Files of a move.

    Args:
        files: That are, or have to be, at the new place.
        sent: Of those, files that were not there before.
        lost: Files that the catalog names and no place has; they were lost before.
        swept: Files that no row needs: not moved.
    """

    files: int
    sent: int
    lost: int = 0
    swept: int = 0


def planned_move(settings: Settings, to: str) -> Moved:
    """What a move would do; nothing is written, and a server may work meanwhile.

    Args:
        to: ``s3://bucket/prefix`` or ``folder``.

    Raises:
        SettingsError: There are no credentials.
        StorageError: The files are there already, or a place cannot be listed.
    """
    source, target = _places(settings, to)
    new = sum(1 for _ in _only_in(source, target))
    return Moved(sum(1 for _ in source.blobs()), new)


def copy_files(settings: Settings, to: str) -> Moved:
    """Copy all files that are not there yet, while a server works. See :func:`planned_move`.

    Raises:
        SealBroken: A file was altered.
    """
    source, target = _places(settings, to)
    sent = _each(lambda address: _bring(address, source, target), _only_in(source, target))
    return Moved(sum(1 for _ in source.blobs()), sum(sent))


def move_files(settings: Settings, to: str) -> Moved:
    """Move all files that the catalog needs; those at the old place are deleted at the end.

    Each is read again at the new place and compared with its digest before that.

    Raises:
        SealBroken: A file was altered; nothing was deleted.
        SettingsError: There are no credentials.
        StorageBusy: A server is running.
        StorageError: A place cannot be read or written; nothing was deleted.
    """
    source, target = _places(settings, to)
    with contextlib.closing(_catalog(settings, source)) as database:
        needed = Catalog(database).blobs(database.read())
        there = set(target.blobs())
        before = there & needed
        sent = sum(_each(lambda a: _bring(a, source, target), sorted(needed - there)))
        for _ in _each(lambda a: _compare(a, source, target), sorted(before)):
            pass
        left = set(source.blobs())
        moved = Moved(len(before) + sent, sent, len(needed) - len(before) - sent,
                      len(left - needed))  # fmt: skip
        log = AuditLog(database, source, b"")
        kind = FOLDER if to == FOLDER else "s3"
        log.record(_OPERATOR, Event("files.move", detail={"to": kind, "files": moved.files}))
        note_place(settings, "" if to == FOLDER else to)
        for _ in _each(source.delete_blob, sorted(left)):
            pass
        source.files.delete(OWNER)
    return moved


def _places(settings: Settings, to: str) -> tuple[Host, Host]:
    if to == (settings.blobs or FOLDER).rstrip("/"):
        raise StorageError("The files are there already. Give another place.")
    there = replace(settings, blobs="" if to == FOLDER else to)
    return Host(files_of(settings)), Host(files_of(there))


def _catalog(settings: Settings, host: Host) -> Database:
    """The catalog, which no server has open. Raises StorageBusy."""
    if settings.database is not None:
        return server_database(settings, host)
    file = settings.data / "catalog.duckdb"
    if not file.exists():
        where = "MEDSEC_DATABASE" if (settings.data / CATALOG_ID).exists() else "MEDSEC_DATA"
        raise StorageError(f"There is no catalog here. Check {where}.")
    return EmbeddedDatabase.open(file, host, settings.write_wait_seconds)


def _bring(address: str, source: Host, target: Host) -> bool:
    """Returns False where the file was lost before. Raises SealBroken."""
    try:
        content = source.read_blob(address)
    except NotFound:
        return False
    target.write_blob(content)
    target.read_blob(address)
    return True


def _compare(address: str, source: Host, target: Host) -> None:
    """Read what an earlier call brought, or bring it again."""
    try:
        target.read_blob(address)
    except (NotFound, SealBroken):  # the old place may still have it
        if not _bring(address, source, target):
            raise


def _only_in(source: Host, target: Host) -> Iterator[str]:
    """Addresses that only the first has; both lists are in order, so neither is held."""
    there = target.blobs()
    other = next(there, None)
    for address in source.blobs():
        while other is not None and other < address:
            other = next(there, None)
        if other != address:
            yield address


def _each(do: Callable[[str], R], addresses: Iterable[str]) -> Iterator[R]:
    """Some at once, without a list of all that is to be done."""
    waiting = iter(addresses)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while part := list(islice(waiting, 64 * AT_ONCE)):
            yield from pool.map(do, part)
