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
from typing import Any

from engine.errors import (
    DAMAGED,
    BackupInvalid,
    EngineError,
    NotFound,
    SealBroken,
    StorageBusy,
    StorageError,
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

    def record_erasures(self, erasures: Sequence[tuple[str, str]]) -> None:
        """Store the list of erasures with the backups, which were made before.

        Entries are never removed from the list, even if the catalog is an older one.

        Raises:
            StorageError: The folder cannot be written.
        """
        known = {*erasures, *self.erasures()}
        record = self._signed({"erasures": sorted(list(e) for e in known)}, _ERASURES)
        now = self._lock.check_lock() if self._lock is not None else None
        self._place.replace(_ERASURES, json.dumps(record).encode())
        if self._lock is not None and now is not None:
            self._lock.lock_newest(_ERASURES, now + timedelta(self._lock.lock_days))

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
        if salt_record is not None and self._lock is None:
            self._place.replace(SALT_RECORD, salt_record)
        elif salt_record is not None:
            self._place.put(SALT_RECORD, salt_record)  # its first version counts
        new: list[str] = []
        missing = {}
        for part, addresses in groupby(snapshot.blobs, key=itemgetter(0)):
            known = set(self._blobs.blobs(part)) if self._far else set()
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
        # From here on, not from the beginning: to bring the first files can take days.
        lock = _Plan(self._lock, there) if self._lock is not None else None
        manifest = self._signed(
            {
                **({} if lock is None else {_FILES_LOCKED: lock.files_until.isoformat()}),
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
        self._place.replace(f"{name}/{_CATALOG}", sealed)
        # The manifest comes last: without it there is no backup.
        still_alone()
        if not self._place.put(f"{name}/{_MANIFEST}", json.dumps(manifest).encode()):
            raise StorageError("There is a backup of this moment already. Make another one.")
        try:
            self._verify(name, new)
            still_alone()
            if lock is not None:
                self._lock_backup(lock, name, present)
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
        return self._verify(name)

    def _verify(self, name: str, new: Sequence[str] | None = None) -> int:
        """Check all files, or those that are new in this backup."""
        manifest, key = self._manifest(name)
        self._catalog(manifest, key)
        for address in manifest["blobs"] if new is None else new:
            try:
                self._blob(address)
            except DAMAGED as err:
                raise BackupInvalid(
                    "A file of this backup is missing or altered. Use another backup.", name=name
                ) from err
        return len(manifest["blobs"])

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
        gone, locked = [], {}
        now = self._host.now() if self._lock is None else self._lock.check_lock()
        for name in older[: max(0, len(older) + 1 - keep)]:
            until = self.locked_until(name)
            if until is not None and until >= now:
                locked[name] = until
                continue
            gone.append(name)
            still_alone()
            self._place.delete(f"{name}/{_MANIFEST}")  # first, so that no half backup counts
            self._place.delete_under(name)
            readable.pop(name, None)
        if set(readable) == set(self.names()):  # else one that we cannot read may need them
            needed: set[str] = set()
            for name in readable:
                needed.update(self._manifest(name)[0]["blobs"])
            for part in PARTS:
                for address in set(self._blobs.blobs(part)) - needed:
                    still_alone()
                    self._blobs.delete_blob(address)
        if self._lock is not None:
            self._lock.delete_older(_ERASURES)
        return gone, locked

    def _lock_backup(self, plan: _Plan, name: str, present: Sequence[str]) -> None:
        """Lock all files of a backup that is written and verified; its manifest comes last.

        Raises:
            StorageError: A file has gone meanwhile, or the store has not locked what it should.
        """
        lock = plan.files
        kept = set(self._manifest(plan.before)[0]["blobs"]) if plan.before else set()
        files = (f"blobs/{blob_name(address)}" for address in present if address not in kept)
        if lock.lock(files, plan.files_until):
            raise StorageError("Files of the backup have gone meanwhile. Make another one.")
        lock.lock([SALT_RECORD, f"{name}/{_CATALOG}"], plan.until)
        lock.lock_newest(_ERASURES, plan.until)
        held = lock.holds(f"{name}/{_CATALOG}")
        if held:
            lock.lock([f"{name}/{_MANIFEST}"], plan.until)
            until = self.locked_until(name)  # in whole seconds
            held = until is not None and until >= plan.until.replace(microsecond=0)
        if not held:
            raise StorageError(
                "The object store has not locked the backup, or lets locks be shortened. Use"
                " another store."
            )

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
        try:
            return _erased([self._record(_ERASURES, _ERASURES, newest_first=True)[0]])
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

    def _record(
        self, file: str, name: str, *, newest_first: bool = False
    ) -> tuple[dict[str, Any], bytes]:
        """What :meth:`_signed` made, and its key: the first version that is whole.

        Raises:
            BackupInvalid: None is.
        """
        broken = BackupInvalid(
            "This backup cannot be read with the available keys. Add the right root key.",
            name=name,
        )
        try:
            for content in self._place.versions(file, newest_first=newest_first):
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

    def _catalog(self, manifest: dict[str, Any], key: bytes) -> bytes:
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


class _Plan:
    """Until when the files of a backup are to be locked.

    Args:
        there: Manifests of all backups, by name.

    Raises:
        SettingsError: The bucket has no object lock.
    """

    def __init__(self, files: LockedFiles, there: Mapping[str, Mapping[str, Any]]) -> None:
        self.files = files
        self.until = files.check_lock() + timedelta(days=files.lock_days)
        #: The backup whose files are locked for long enough; empty where there is none.
        self.before = max(there, key=lambda name: _rank(name, there), default="")
        said = there.get(self.before, {}).get(_FILES_LOCKED)
        self.files_until = self.until + AHEAD
        if said is not None and datetime.fromisoformat(said) >= self.until:
            self.files_until = datetime.fromisoformat(said)
        else:
            self.before = ""


def _erased(records: Iterable[Mapping[str, Any]]) -> set[tuple[str, str]]:
    return {(kind, subject) for record in records for kind, subject in record["erasures"]}


def _generation(manifest: Mapping[str, Any]) -> int:
    """How many backups this one has behind it; those of the first versions did not count."""
    return int(manifest.get("generation", 0))


def _rank(name: str, manifests: Mapping[str, Mapping[str, Any]]) -> tuple[int, int, str]:
    """What puts backups in order, oldest first."""
    manifest = manifests.get(name, {})
    return _generation(manifest), manifest.get("audit_entries", 0), name


@_writing("data")
def bring_salt_record(place: FileStore, data: Path) -> None:
    """Copy the salt record of the passphrase from the backups, before the root key is derived.

    Raises:
        StorageError: The data folder cannot be written.
    """
    record = next(place.versions(SALT_RECORD), None)
    if record is not None and not (data / SALT_RECORD).exists():
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(data / SALT_RECORD, record)


def _tag(key: bytes, manifest: dict[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return blind_index(derive(key, "backup manifest"), "manifest", text).hex()
