"""Stored files moved between the data folder and buckets: each compared with its digest on arrival.

Files never change and are named by their content, so most of them can be copied while a server
works. The last step needs the catalog to itself, or servers that look in both places
(:func:`move_on`). What is there already is not sent again, so a move that was interrupted continues
where it was.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

from engine.errors import FileUnreadable, InputError, NotFound, SealBroken, StorageError
from engine.host import PARTS, Host, blob_name
from engine.settings import FOLDER, Settings, within
from engine.store.audit import AuditLog, Event
from engine.store.catalog import Catalog
from engine.store.catalogs import OPERATOR, server_database
from engine.store.database import CATALOG_ID, Database
from engine.store.embedded import EmbeddedDatabase
from engine.store.file_claim import CLAIM, FileClaim, noted
from engine.store.file_stores import OWNER, check_place, claim, claim_all, files_of
from engine.store.key_hierarchy import KeyHierarchy
from engine.store.two_places import TwoPlaces
from engine.vault import Keyring

AT_ONCE = 8
#: ... and beside people who work.
_AT_ONCE_BESIDE = 2
log = logging.getLogger("medsec")
#: As of the sweep: this many say that the catalog is another one.
MOST_UNNEEDED = 100


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
    source, target, _ = _places(settings, to)
    new = sum(1 for _ in _only_in(source, target))
    return Moved(sum(1 for _ in source.blobs()), new)


def copy_files(settings: Settings, to: str) -> Moved:
    """Copy all files that are not there yet, while a server works. See :func:`planned_move`.

    Raises:
        SealBroken: A file was altered.
    """
    source, target, url = _places(settings, to)
    check_place(settings, None, url)
    _refuse_one_place(source, target)
    sent = sum(come for _, come in _each(_bring, source, target, _only_in(source, target)))
    return Moved(sum(1 for _ in source.blobs()), sent)


def move_files(settings: Settings, to: str) -> Moved:
    """Move all files that the catalog needs; those at the old place are deleted at the end.

    Each is read again at the new place and compared with its digest before that.

    Raises:
        SealBroken: A file was altered; nothing was deleted.
        SettingsError: There are no credentials.
        StorageBusy: A server is running.
        StorageError: A place cannot be read or written; nothing was deleted.
    """
    source, target, url = _places(settings, to)
    settings = replace(settings, blobs_also="")
    with contextlib.closing(_catalog(settings, source)) as database:
        if "also" in noted(database.read()):
            raise StorageError(
                "The files are being moved. Set MEDSEC_BLOBS_ALSO, start the server and wait until"
                " its log says that they are."
            )
        old, new = (
            FileClaim(database, host, replace(settings, blobs=place))
            for host, place in ((source, settings.blobs), (target, url))
        )
        old.check_place(url)
        _refuse_one_place(source, target)
        old.refuse_others()
        name = _keys(settings, database, source).log_id
        if settings.blobs:
            claim(source.files, name, new=False)
        if url:
            claim(target.files, name, new=True)
        files = sent = lost = needless = 0
        for part in PARTS:
            needed = Catalog(database).blobs(database.read(), part)
            there = set(target.blobs(part)) & needed
            come = _each(_bring, source, target, sorted(needed - there))
            arrived = {address for address, whole in come if whole}
            sent += len(arrived)
            compared = _each(_compare, source, target, sorted(there))
            arrived |= {address for address, whole in compared if whole}
            left = set(source.blobs(part))
            if left & (needed - arrived):
                raise StorageError(
                    "Files that were missing are there now: the old place is changing. Stop every"
                    " server, then run the command again; nothing was deleted."
                )
            files += len(arrived)
            lost += len(needed - arrived)
            needless += len(left - needed)
        if needless > max(MOST_UNNEEDED, files + lost):
            raise StorageError(
                "Most files at the old place belong to no image: is this their catalog? Nothing was"
                " deleted."
            )
        log = AuditLog(database, source, b"")
        kind = "s3" if url else FOLDER
        log.record(OPERATOR, Event("files.move", detail={"to": kind, "files": files}))
        old.refuse_others()
        new.begin()
        for part in PARTS:
            for _ in _each(_delete, source, target, list(source.blobs(part))):
                pass
        source.files.delete(OWNER)
        old.drop()
    return Moved(files, sent, lost, needless)


def move_on(
    database: Database, host: Host, file_claim: FileClaim, stopped: threading.Event
) -> int | None:
    """Move what is still at the old place, while servers read from both and write to the new one.

    Each file is read again at the new place and compared with its digest before it is deleted at
    the old one. Which files rows need is not asked: what nothing needs is swept at the new place.

    Returns:
        How many were moved now; None where there is nothing to move or some are left.

    Raises:
        OtherCopy: Another copy of this installation uses them.
        StorageError: A place cannot be read or written, or both are one.
    """
    files = host.files
    if not isinstance(files, TwoPlaces) or not file_claim.moves_here():
        return None
    source, target = Host(files.source), Host(files.to)
    _refuse_one_place(source, target)
    moved, waiting = 0, source.blobs()
    with ThreadPoolExecutor(_AT_ONCE_BESIDE) as pool:
        while part := list(islice(waiting, 16 * _AT_ONCE_BESIDE)):
            if stopped.is_set() or not file_claim.moves_here():
                return None
            file_claim.check()
            moved += sum(pool.map(lambda address: _carry(address, source, target), part))
    return None if next(source.blobs(), None) is not None else moved


def end_move(host: Host) -> None:
    """Take away what says whose the old place was."""
    assert isinstance(host.files, TwoPlaces)
    for name in (OWNER, CLAIM):
        host.files.source.delete(name)


def claim_files(settings: Settings, reason: str) -> None:
    """Let this copy of an installation go on with the files at MEDSEC_BLOBS, and no other one.

    Args:
        reason: For the log.

    Raises:
        InputError: No reason.
        SettingsError: There are no credentials.
        StorageBusy: A server is running.
        StorageError: There are no files of this installation, or they cannot be read or written.
    """
    if not reason.strip():
        raise InputError("Give a reason for letting this copy go on.")
    host = Host(files_of(settings))
    with contextlib.closing(_catalog(settings, host)) as database:
        keys = _keys(settings, database, host)
        claim_all(settings, host.files, keys.log_id, new=False)
        log = AuditLog(database, host, keys.system_key("audit"))
        log.record(OPERATOR, Event("files.claim", reason=reason.strip()))
        FileClaim(database, host, settings).take_over()


def _places(settings: Settings, to: str) -> tuple[Host, Host, str]:
    """The old place, the new one, and the new one's URL, which is empty for the data folder."""
    settings = replace(settings, blobs_also="")
    to = to.rstrip("/")
    url, here = "" if to == FOLDER else to, settings.blobs.rstrip("/")
    if url == here or (url and here and within(url, here)):
        raise StorageError("The files are there already. Give another place.")
    if url and settings.backups and within(url, settings.backups):
        raise StorageError("There are the backups. Give another place.")
    there = replace(settings, blobs=url, backups="")
    return Host(files_of(settings)), Host(files_of(there)), url


def _refuse_one_place(source: Host, target: Host) -> None:
    """Two names can lead to one place, which would then be emptied. Raises StorageError."""
    mark = f"{source.token_of(16)}.move"
    target.files.replace(mark, b"")
    try:
        source.files.get(mark)
    except NotFound:
        return
    finally:
        target.files.delete(mark)
    raise StorageError("The files are there already, under another name. Give another place.")


def _keys(settings: Settings, database: Database, host: Host) -> KeyHierarchy:
    """The catalog's keys; with what it is called, as a bucket has it."""
    hierarchy = KeyHierarchy(database, Keyring.load(settings, host.random), host)
    hierarchy.open()
    return hierarchy


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


def _compare(address: str, source: Host, target: Host) -> bool:
    """Read what an earlier call brought, or bring it again."""
    try:
        target.read_blob(address)
    except (NotFound, SealBroken):  # the old place may still have it
        return _bring(address, source, target)
    return True


def _delete(address: str, source: Host, target: Host) -> bool:
    source.files.delete(blob_name(address))
    return True


def _only_in(source: Host, target: Host) -> Iterator[str]:
    """Addresses that only the first has; both lists are in order, so neither is held."""
    there = target.blobs()
    other = next(there, None)
    for address in source.blobs():
        while other is not None and other < address:
            other = next(there, None)
        if other != address:
            yield address


def _carry(address: str, source: Host, target: Host) -> bool:
    """Returns False for a file that is damaged or not readable, which stays where it is."""
    try:
        if _compare(address, source, target):
            source.files.delete(blob_name(address))
    except (FileUnreadable, SealBroken) as err:
        log.error("not moved, because it does not open (%s): %s", err.code, address)
        return False
    return True


def _each(
    do: Callable[[str, Host, Host], bool], source: Host, target: Host, addresses: Iterable[str]
) -> Iterator[tuple[str, bool]]:
    """Some at once, without a list of all that is to be done."""
    waiting = iter(addresses)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while part := list(islice(waiting, 64 * AT_ONCE)):
            done = pool.map(lambda address: do(address, source, target), part)
            yield from zip(part, done, strict=True)
