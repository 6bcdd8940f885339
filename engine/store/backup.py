"""Backups: the encrypted catalog, the files (already encrypted), and a manifest over both.

One place, a folder or a bucket, holds any number of backups. Files are content-addressed and shared
between them, so a new backup stores only new files. Each backup is complete: it and the root key
restore the whole system. Erased data stays erased: a restore applies the erasures recorded in
*every* backup of the place, including later ones, and in the list of erasures that is stored with
the backups.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from random import SystemRandom
from typing import Any

from engine.errors import (
    DAMAGED,
    BackupInvalid,
    EngineError,
    FileUnreadable,
    NotFound,
    SealBroken,
    StorageBusy,
    StorageError,
    StoreUnavailable,
)
from engine.host import PARTS, FileStore, Host, blob_name, sweep_unfinished, write_durably
from engine.store.database import CATALOG_ID
from engine.store.file_stores import PLACE, LockedFiles
from engine.vault import SALT_RECORD, Keyring, blind_index, derive, new_key, open_field, seal_field

VERSION = 1
DAY_SECONDS = 86_400.0
#: What a backup is called: when it was made, by the clock of that moment.
NAME = "%Y%m%dT%H%M%S%f"
PENDING_ERASURES = "pending-erasures.json"
_CATALOG = "catalog.sealed"
_MANIFEST = "manifest.json"
_ERASURES = "erasures.json"
_FILES_LOCKED = "files_locked_until"
#: What the names of all backups begin with: the many files that they share are not listed.
_MILLENNIUM = "2"
_NAME = re.compile(r"\d{8}T\d{12}")
#: Files that backups share are locked for so much longer than those, so that not each of them has
#: to be locked again by every backup, but once in this time.
AHEAD = timedelta(days=7)
#: Files of the newest backup whose locks are looked at: in a bucket to which it was copied none is
#: locked.
PROBES = 32


@contextlib.contextmanager
def _writing(which: str) -> Iterator[None]:
    """Turn errors of a full or missing disk into a StorageError."""
    try:
        yield
    except OSError as err:
        raise StorageError(
            f"Cannot write to the {which} folder. Check free space and permissions.",
            errno=err.errno,
        ) from err


@dataclass(frozen=True)
class Snapshot:
    """The contents of a backup, as of one moment.

    Args:
        catalog: The database file.
        blobs: Addresses of all files that its rows need, in order.
        erasures: Erased patients and images: (kind, id).
        audit_entries: Length of the audit log.
    """

    catalog: bytes
    blobs: Sequence[str]
    erasures: Sequence[tuple[str, str]]
    audit_entries: int


class Backups:
    """All backups in one place.

    Args:
        place: Outside the data folder.
        far: Files are, or the backups, in an object store: of what a backup there has already,
            nothing is read again when another one is made.
    """

    def __init__(
        self, place: FileStore, keyring: Keyring, host: Host, *, far: bool = False
    ) -> None:
        self._place = place
        self._keyring = keyring
        self._host = host
        self._blobs = Host(place.under("blobs"))
        self._far = far
        self._lock = place if isinstance(place, LockedFiles) else None

    def check_lock(self) -> None:
        """Raises SettingsError where backups are to be locked and the bucket cannot do it."""
        if self._lock is not None:
            self._lock.check_lock()

    def locked_until(self, name: str) -> datetime | None:
        """Until when nobody can, or could, delete a backup, UTC; None where it is not locked."""
        return None if self._lock is None else self._lock.locked_until(f"{name}/{_MANIFEST}")

    def names(self) -> list[str]:
        """Complete backups, oldest first; without interrupted and foreign ones."""
        there = (n.removesuffix(f"/{_MANIFEST}") for n in self._place.names(_MILLENNIUM))
        return sorted(name for name in there if _NAME.fullmatch(name))

    def newest(self) -> str:
        """The most recent backup, by its generation, not by clock or length of the log.

        After a recovery from an older backup, an abandoned backup can have the longer log.

        Raises:
            BackupInvalid: No backup can be read with the available keys.
        """
        found = self._readable()
        if not found:
            raise BackupInvalid(
                "No backup can be read with the available keys. Add the right root key."
            )
        return max(found, key=lambda name: _rank(name, found))

    def is_readable(self, name: str) -> bool:
        """Can the manifest of a backup be read, with the available keys?"""
        try:
            self._manifest(name)
        except BackupInvalid:
            return False
        return True

    def record_erasures(self, erasures: Sequence[tuple[str, str]]) -> None:
        """Store the list of erasures with the backups, which were made before.

        Entries are never removed from the list, even if the catalog is an older one.

        Raises:
            StorageError: The folder cannot be written.
        """
        if self._lock is not None:
            until = self._lock.check_lock() + timedelta(self._lock.lock_days)
            self._lock_erasures(until, erasures)
        else:
            self._write_erasures({*erasures, *self.erasures()})

    def make(
        self,
        snapshot: Snapshot,
        source: Host,
        salt_record: bytes | None,
        still_alone: Callable[[], None] = lambda: None,
    ) -> str:
        """Write a backup and check what was written.

        A missing stored file does not prevent a backup: the manifest records it as missing.

        Args:
            salt_record: What a passphrase needs besides to become the root key; not secret.
            still_alone: Raises TurnLost where another backup may be made here by now, which
                takes files away that no manifest names yet.

        Returns:
            Its name, from the time.

        Raises:
            SettingsError: It is to be locked, and the bucket has no object lock.
            TurnLost: By ``still_alone``; nothing counts as a backup then.
            StorageError: The folder cannot be written; nothing counts as a backup then.
        """
        name = f"{self._host.now():{NAME}}"
        there = self._readable()
        self.check_lock()
        # Each of those that cannot be read now may be a generation later than those that can.
        unread = len(self.names()) - len(there)
        generation = 1 + unread + max((_generation(m) for m in there.values()), default=0)
        key = new_key(self._host.random)
        sealed = seal_field(key, f"backup/{name}/catalog", snapshot.catalog, self._host.random)
        self._clear_unfinished()
        if salt_record is not None and salt_record not in salt_records(self._place):
            self._place.replace(SALT_RECORD, salt_record)
        kept, kept_until = self._locked_already(there)
        new: list[str] = []
        missing = {}
        for part, addresses in groupby(snapshot.blobs, key=itemgetter(0)):
            # With a lock, what only has the right name may be an intruder's: it is looked at.
            known = kept
            if self._far and self._lock is None:
                known = set(self._blobs.blobs(part))
            for address in addresses:
                if address in known:
                    continue
                still_alone()
                fault = self._bring(address, source)
                if fault:
                    missing[address] = fault
                else:
                    new.append(address)
        present = [a for a in snapshot.blobs if a not in missing]
        self._place.replace(f"{name}/{_CATALOG}", sealed)
        self._check({"name": name}, key, new)
        still_alone()
        until, files_until = self._lock_files(name, present, kept, kept_until)
        manifest = self._signed(
            {
                **({} if files_until is None else {_FILES_LOCKED: files_until.isoformat()}),
                "name": name,
                "generation": generation,
                "catalog": hashlib.sha256(sealed).hexdigest(),
                "blobs": present,
                "missing": missing,
                "erasures": sorted(list(e) for e in snapshot.erasures),
                "audit_entries": snapshot.audit_entries,
            },
            name,
            key,
        )
        # The manifest comes last, when all is checked and locked: without it there is no backup.
        still_alone()
        if not self._place.put(f"{name}/{_MANIFEST}", json.dumps(manifest).encode()):
            raise StorageError("There is a backup of this moment already. Make another one.")
        try:
            self._manifest(name)
            still_alone()
            if until is not None:
                self._lock_manifest(name, until)
        except EngineError:
            with contextlib.suppress(StorageBusy):
                self._place.delete(f"{name}/{_MANIFEST}")  # then it is none
            raise
        return name

    def verify(self, name: str) -> int:
        """Check manifest, catalog and every file.

        Returns:
            Number of files.

        Raises:
            BackupInvalid: Something is missing, altered or under another key.
        """
        manifest, key = self._manifest(name)
        self._check(manifest, key, manifest["blobs"])
        return len(manifest["blobs"])

    def _check(self, manifest: Mapping[str, Any], key: bytes, addresses: Iterable[str]) -> None:
        """Check the catalog and these files. Raises BackupInvalid."""
        self._catalog(manifest, key)
        for address in addresses:
            try:
                self._blob(address)
            except DAMAGED as err:
                raise BackupInvalid(
                    "A file of this backup is missing or altered. Use another backup.",
                    name=manifest["name"],
                ) from err

    def missing(self, name: str) -> dict[str, str]:
        """Files that were missing or damaged when a backup was made: reason by address.

        Raises:
            BackupInvalid: The manifest is altered or under another key.
        """
        return dict(self._manifest(name)[0].get("missing", {}))

    @_writing("data")
    def restore(
        self, name: str, data: Path, target: Host, keep: Callable[[bytes], None] | None = None
    ) -> None:
        """Write a backup into a data folder that does not exist yet or is empty.

        Erasures that this and every other readable backup knows lie beside the catalog as
        ``PENDING_ERASURES``, to be applied before anybody is served.

        Args:
            target: Where the files go; what is there already stays.
            keep: What to do with the catalog's file; by default it goes into the folder.

        Raises:
            BackupInvalid: Something is missing, altered or under another key.
            StorageError: The data folder is not empty, or cannot be written.
        """
        if data.exists():
            sweep_unfinished(data)
            there = {p.name for p in data.iterdir()} - {SALT_RECORD, CATALOG_ID, PLACE}
            # Files of an interrupted recovery are content-addressed, so it continues from there.
            if there and not (PENDING_ERASURES in there and "catalog.duckdb" not in there):
                raise StorageError(
                    "A backup can be restored only into an empty folder. Choose another folder."
                )
        self.verify(name)
        manifest, key = self._manifest(name)
        # Those that cannot be read, of another key or damaged, must not stop a recovery.
        erasures = sorted(self.erasures() | _erased(self._readable().values()))
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Applied at the next start, whichever that is, and only then deleted.
        write_durably(data / PENDING_ERASURES, json.dumps(erasures).encode())
        for address in manifest["blobs"]:
            target.write_blob(self._blob(address))
        catalog = self._catalog(manifest, key)
        if keep is None:
            write_durably(data / "catalog.duckdb", catalog)
        else:
            keep(catalog)

    def prune(
        self, keep: int, newest: str, still_alone: Callable[[], None] = lambda: None
    ) -> tuple[list[str], dict[str, datetime]]:
        """Delete all but the newest backups and the files that only they needed.

        What is locked stays until a later call.

        Args:
            newest: The one just made, which stays, whatever the clock says.
            still_alone: As of :meth:`make`.

        Returns:
            Names of those that were deleted, and when those can be that are still locked.

        Raises:
            TurnLost: By ``still_alone``.
            StorageError: One cannot be deleted.
        """
        readable = self._readable()  # those that are not bring nothing back, and go first
        older = sorted(set(self.names()) - {newest}, key=lambda name: _rank(name, readable))
        tried, locked = older[: max(0, len(older) + 1 - keep)], {}
        now = self._host.now() if self._lock is None else self._lock.check_lock()
        for name in tried:
            until = self.locked_until(name)
            if until is not None and until >= now:
                locked[name] = until
                continue
            still_alone()
            self._place.delete(f"{name}/{_MANIFEST}")  # first, so that no half backup counts
            if self._lock is not None and self.is_readable(name):  # the store keeps it
                continue
            self._place.delete_under(name)
            readable.pop(name, None)
        there = set(self.names())
        # One that we cannot read may need them. Files of one that is locked are locked as long.
        if there <= {*readable, *tried}:
            needed: set[str] = set()
            for name in readable:
                needed.update(self._manifest(name)[0]["blobs"])
            for part in PARTS:
                for address in set(self._blobs.blobs(part)) - needed:
                    still_alone()
                    self._blobs.delete_blob(address)
        self._drop_lists()
        return [name for name in tried if name not in there], locked

    def _locked_already(
        self, there: Mapping[str, Mapping[str, Any]]
    ) -> tuple[set[str], datetime | None]:
        """Files of the newest backup, and until when they are locked; none where they are not.

        A manifest is written when all that it names is locked. Copied into another bucket it says
        so all the same: so its own lock is looked at, and those of some of its files.

        Args:
            there: Manifests of all backups, by name.
        """
        name = max(there, key=lambda name: _rank(name, there), default="")
        said = there.get(name, {}).get(_FILES_LOCKED)
        lock = self._lock
        if lock is None or said is None or self.locked_until(name) is None:
            return set(), None
        until = datetime.fromisoformat(said)
        files = self._manifest(name)[0]["blobs"]
        some = SystemRandom().sample(files, min(len(files), PROBES))
        locks = (lock.locked_until(f"blobs/{blob_name(address)}") for address in some)
        if until <= lock.check_lock() or any(
            end is None or end < until.replace(microsecond=0) for end in locks
        ):
            return set(), None
        return set(files), until

    def _lock_files(
        self, name: str, present: Sequence[str], kept: set[str], kept_until: datetime | None
    ) -> tuple[datetime | None, datetime | None]:
        """Lock all files of a backup that are written and checked, before its manifest is there.

        Args:
            kept: Files that are locked already.

        Returns:
            Until when the backup is locked, and the files that it shares with others.

        Raises:
            StorageError: A file has gone meanwhile, or the store has not locked what it should.
        """
        lock = self._lock
        if lock is None:
            return None, None
        # From here on, not from the beginning: to bring the first files can take days.
        now = lock.check_lock()
        until = now + timedelta(days=lock.lock_days)
        if kept_until is not None and kept_until <= now:  # they could be deleted since
            raise StorageError("Locks of older files have ended meanwhile. Make another backup.")
        if kept_until is not None and kept_until >= until:
            files_until = kept_until
        else:
            kept, files_until = set(), until + AHEAD
        files = (f"blobs/{blob_name(address)}" for address in present if address not in kept)
        if lock.lock(files, files_until):
            raise StorageError("Files of the backup have gone meanwhile. Make another one.")
        lock.lock([SALT_RECORD, f"{name}/{_CATALOG}"], until)
        self._lock_erasures(until)
        if not lock.holds(f"{name}/{_CATALOG}"):
            raise _not_locked()
        return until, files_until

    def _lock_manifest(self, name: str, until: datetime) -> None:
        """The last step: what is locked until then is a backup. Raises StorageError."""
        if self._lock is not None:
            self._lock.lock([f"{name}/{_MANIFEST}"], until)
        held = self.locked_until(name)
        if held is None or held < until.replace(microsecond=0):  # stores keep whole seconds
            raise _not_locked()

    def _lock_erasures(self, until: datetime, more: Iterable[tuple[str, str]] = ()) -> None:
        """Lock a list of erasures that names these and all that any names; writes it if need be.

        Raises:
            StorageError: It cannot be written, or locked.
        """
        if self._lock is None:
            return
        known = {*more, *self.erasures()}
        if not self._lock_list(known, until):
            self._write_erasures(known)
            if not self._lock_list(known, until):
                raise StorageError("The list of erasures was not written. Try again.")

    def _lock_list(self, known: set[tuple[str, str]], until: datetime) -> bool:
        """Lock the newest list that names all of these; False where there is none."""
        full = _full(self._lists()[1], known)
        if full is not None and self._lock is not None:
            self._lock.lock_version(_ERASURES, full, until)
        return full is not None

    def _write_erasures(self, known: set[tuple[str, str]]) -> None:
        record = self._signed({"erasures": sorted(list(e) for e in known)}, _ERASURES)
        self._place.replace(_ERASURES, json.dumps(record).encode())

    def _drop_lists(self) -> None:
        """Delete all lists of erasures but the newest that names all, which is locked."""
        if self._lock is None:
            return
        known, lists, seen = self._lists()
        full = _full(lists, known)
        if full is not None:
            self._lock.delete_versions(_ERASURES, [v for v in seen if v != full])

    def _lists(self) -> tuple[set[tuple[str, str]], dict[str, int], list[str]]:
        """With a lock: what any authentic list of erasures names.

        An intruder needs no key to put an older one on top, so none counts alone.

        Returns:
            That, how many each of them names, and all versions that can be read; newest first.

        Raises:
            StoreUnavailable: There are some, and the store gives out none.
        """
        known: set[tuple[str, str]] = set()
        lists, seen = {}, []
        assert self._lock is not None
        try:
            for version, content in self._lock.stored(_ERASURES, newest_first=True):
                seen.append(version)
                with contextlib.suppress(BackupInvalid):
                    named = _erased([self._opened(content, _ERASURES)[0]])
                    known |= named
                    lists[version] = len(named)
        except FileUnreadable as err:
            raise StoreUnavailable(
                "The object store gives out no list of erasures. Check its credentials and their"
                " rights on versions.",
                **err.facts,
            ) from err
        return known, lists, seen

    def _blob(self, address: str) -> bytes:
        """A file, from an older version where the newest is not it. Raises as ``read_blob``."""
        try:
            return self._blobs.read_blob(address)
        except DAMAGED:
            for data in self._place.versions(f"blobs/{blob_name(address)}"):
                if hashlib.sha256(data).hexdigest() == address:
                    return data
            raise

    def _bring(self, address: str, source: Host) -> str:
        """Copy a file into the backups; returns its defect if no backup has it either."""
        try:
            content = source.read_blob(address)
        except DAMAGED as lost:
            try:
                self._blob(address)
            except DAMAGED:
                return lost.code
        else:
            self._blobs.write_blob(content)
        return ""

    def _clear_unfinished(self) -> None:
        """Delete remains of interrupted backups; the next backup copies new files again."""
        self._place.clear_unfinished(DAY_SECONDS if self._far else 0.0)
        whole = set(self.names())
        for name in {n.partition("/")[0] for n in self._place.names(_MILLENNIUM)} - whole:
            if _NAME.fullmatch(name):
                self._place.delete_under(name)

    def _readable(self) -> dict[str, dict[str, Any]]:
        """Manifests, by name, of all complete backups under an available key, without their many
        addresses of files."""
        found = {}
        for name in self.names():
            with contextlib.suppress(BackupInvalid):
                manifest = self._manifest(name)[0]
                del manifest["blobs"]
                found[name] = manifest
        return found

    def is_empty(self) -> bool:
        """Are there neither backups nor a list of erasures? Raises StorageError."""
        return not self.names() and next(self._place.names(_ERASURES), None) is None

    def erasures(self) -> set[tuple[str, str]]:
        """What the list of erasures names; if it is lost or altered, what the backups name."""
        if self._lock is not None:
            known, lists, _ = self._lists()
            return known if lists else _erased(self._readable().values())
        try:
            return _erased([self._record(_ERASURES, _ERASURES)[0]])
        except BackupInvalid:
            return _erased(self._readable().values())

    def _signed(self, facts: dict[str, Any], name: str, key: bytes | None = None) -> dict[str, Any]:
        """Facts with a key of their own, wrapped by the root, and a tag under it."""
        key = key or new_key(self._host.random)
        key_id, wrapped = self._keyring.wrap(key, f"backup/{name}")
        record = {
            "version": VERSION, "root_key_id": key_id, "wrapped_key": wrapped.hex(), **facts,
        }  # fmt: skip
        return {**record, "tag": _tag(key, record)}

    def _manifest(self, name: str) -> tuple[dict[str, Any], bytes]:
        return self._record(f"{name}/{_MANIFEST}", name)

    def _record(self, file: str, name: str) -> tuple[dict[str, Any], bytes]:
        """What :meth:`_signed` made, and its key: the first version that is whole.

        Raises:
            BackupInvalid: None is.
        """
        broken = BackupInvalid(
            "This backup cannot be read with the available keys. Add the right root key.",
            name=name,
        )
        try:
            for content in self._place.versions(file):
                try:
                    return self._opened(content, name)
                except BackupInvalid as err:
                    broken = err
        except DAMAGED as err:
            raise broken from err
        raise broken

    def _opened(self, content: bytes, name: str) -> tuple[dict[str, Any], bytes]:
        """A record and its key. Raises BackupInvalid."""
        try:
            record: dict[str, Any] = json.loads(content)
            wrapped = bytes.fromhex(record["wrapped_key"])
            key = self._keyring.unwrap(record["root_key_id"], wrapped, f"backup/{name}")
            tag = record.pop("tag")
        except (ValueError, KeyError, TypeError, *DAMAGED) as err:
            raise BackupInvalid(
                "This backup cannot be read with the available keys. Add the right root key.",
                name=name,
            ) from err
        if not hmac.compare_digest(tag, _tag(key, record)) or record["version"] != VERSION:
            raise BackupInvalid(
                "The manifest of this backup was altered. Use another backup.", name=name
            )
        return record, key

    def _catalog(self, manifest: Mapping[str, Any], key: bytes) -> bytes:
        name = manifest["name"]
        broken: Exception = NotFound("There is no such file.")
        try:
            for sealed in self._place.versions(f"{name}/{_CATALOG}"):
                try:
                    return open_field(key, f"backup/{name}/catalog", sealed)
                except SealBroken as err:
                    broken = err
        except DAMAGED as err:
            broken = err
        raise BackupInvalid(
            "The catalog of this backup is missing or altered. Use another backup.", name=name
        ) from broken


def _not_locked() -> StorageError:
    return StorageError(
        "The object store has not locked the backup, or lets locks be shortened. Use another store."
    )


def _full(lists: Mapping[str, int], known: set[tuple[str, str]]) -> str | None:
    """The newest list that names all that is known, of lists that name nothing else.

    Args:
        lists: How many erasures each names, newest first.
    """
    return next((version for version, count in lists.items() if count == len(known)), None)


def _erased(records: Iterable[Mapping[str, Any]]) -> set[tuple[str, str]]:
    return {(kind, subject) for record in records for kind, subject in record["erasures"]}


def _generation(manifest: Mapping[str, Any]) -> int:
    """How many backups this one has behind it; those of the first versions did not count."""
    return int(manifest.get("generation", 0))


def _rank(name: str, manifests: Mapping[str, Mapping[str, Any]]) -> tuple[int, int, str]:
    """What puts backups in order, oldest first."""
    manifest = manifests.get(name, {})
    return _generation(manifest), manifest.get("audit_entries", 0), name


def salt_records(place: FileStore) -> list[bytes]:
    """Salt records of a passphrase that lie with the backups, without repeats, the first first."""
    try:
        return list(dict.fromkeys(place.versions(SALT_RECORD)))
    except FileUnreadable:
        return []


@_writing("data")
def bring_salt_record(record: bytes, data: Path) -> None:
    """Write one into the data folder, before the root key is derived.

    Raises:
        StorageError: The data folder cannot be written.
    """
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_durably(data / SALT_RECORD, record)


def _tag(key: bytes, manifest: dict[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return blind_index(derive(key, "backup manifest"), "manifest", text).hex()
