"""Backups in a bucket with S3 Object Lock: for some days nobody can delete them.

Such a bucket keeps every version of a file, and a version that is locked can be neither deleted nor
changed until its retention ends: not by this server, nor by who has taken it over. What they can
still do is write a newer version, or a marker that says "deleted". Neither hides a file here: files
are listed and read by their versions, and deleted for good or not at all.

The mode is *compliance*: *governance* lets whoever has a right to it lift the lock, which is what
an intruder would look for. So nobody can shorten a retention that was chosen too long, either.

Source: Amazon S3 User Guide, "Locking objects with Object Lock"; API Reference, PutObjectRetention,
ListObjectVersions (newest version first).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any

from engine.errors import NotFound, SettingsError, StoreUnavailable
from engine.settings import Secret
from engine.store import object_store
from engine.store.object_store import Address, Bucket

#: Requests at a time, and names that wait for them.
LOCKERS = 16
_AT_ONCE = 1000
#: What stores answer that have no object lock, or not for this bucket.
_NO_LOCK = (
    "ObjectLockConfigurationNotFoundError", "ObjectLockConfigurationNotFound", "NotImplemented",
    "MethodNotAllowed", "InvalidRequest",
)  # fmt: skip


class LockedBucket(Bucket):
    """Files under a prefix of a bucket with object lock.

    Args:
        lock_days: For how long a backup is locked.
    """

    def __init__(self, at: Address, lock_days: int, credentials: Sequence[Secret] = ()) -> None:
        super().__init__(at, credentials)
        self.lock_days = lock_days

    def check_lock(self) -> datetime:
        """The store's time, UTC.

        Raises:
            SettingsError: The bucket has no object lock.
        """
        try:
            answer = self._ask("get_object_lock_configuration", None)
        except (NotFound, StoreUnavailable) as err:
            if isinstance(err, StoreUnavailable) and err.facts.get("store_code") not in _NO_LOCK:
                raise
            answer = {}
        if answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
            raise SettingsError(
                "The bucket of MEDSEC_BACKUPS has no object lock. Name one that has it, or unset"
                " MEDSEC_BACKUP_LOCK_DAYS: then backups can be deleted."
            )
        return _time(answer)

    def get(self, name: str) -> bytes:
        try:
            return super().get(name)
        except NotFound:  # or there is a marker over it
            for data in self.versions(name, newest_first=True):
                return data
            raise

    def versions(self, name: str, *, newest_first: bool = False) -> Iterator[bytes]:
        found = self._versions(name)
        for version in found if newest_first else reversed(found):
            yield self._read(name, VersionId=version)

    def names(self, under: str = "") -> Iterator[str]:
        last = None
        for name, _ in self._listed("Versions", under):
            if name != last:
                yield name
            last = name

    def delete(self, name: str) -> None:
        """For good, all versions; those that are locked stay."""
        self._delete(name, self._versions(name))
        self._delete(name, [v for n, v in self._listed("DeleteMarkers", name) if n == name])

    def delete_older(self, name: str) -> None:
        """All versions but the newest; those that are locked stay."""
        self._delete(name, self._versions(name)[1:])

    def lock(self, names: Iterable[str], until: datetime) -> list[str]:
        """Lock every version of these files, unless they are locked for longer.

        Args:
            until: UTC, by the store's clock.

        Returns:
            Those that are not there.
        """
        waiting, missing = iter(names), []
        with ThreadPoolExecutor(LOCKERS, "object-lock") as pool:
            while some := list(islice(waiting, _AT_ONCE)):
                locked = pool.map(lambda name: self._lock(name, self._versions(name), until), some)
                missing += [name for name, there in zip(some, locked, strict=True) if not there]
        return missing

    def lock_newest(self, name: str, until: datetime) -> None:
        """Lock what was just written. Raises as :meth:`put`."""
        self._lock(name, self._versions(name)[:1], until)

    def locked_until(self, name: str) -> datetime | None:
        """When the last lock of a version of the file ends, or ended, UTC; None without any."""
        return max(filter(None, (self._until(name, v) for v in self._versions(name))), default=None)

    def holds(self, name: str) -> bool:
        """Does the store refuse to shorten the lock of a file? Some take locks, and end them."""
        version = self._versions(name)[0]
        until = self._until(name, version)
        if until is None:
            return False
        earlier = (until - timedelta(seconds=1)).replace(tzinfo=UTC)
        retention = {"Mode": "COMPLIANCE", "RetainUntilDate": earlier}
        try:
            self._ask("put_object_retention", name, VersionId=version, Retention=retention)
        except StoreUnavailable as err:
            if err.facts.get("status") in (400, 403):
                return True
            raise
        return False

    def _lock(self, name: str, versions: Sequence[str], until: datetime) -> bool:
        retention = {"Mode": "COMPLIANCE", "RetainUntilDate": until.replace(tzinfo=UTC)}
        for version in versions:
            try:
                self._ask("put_object_retention", name, VersionId=version, Retention=retention)
            except StoreUnavailable:
                already = self._until(name, version)
                if already is None or already < until.replace(microsecond=0):
                    raise
        return bool(versions)

    def _until(self, name: str, version: str) -> datetime | None:
        """When the lock of a version ends, or ended, in whole seconds; None without one."""
        answer = self._ask("head_object", name, VersionId=version)
        until: datetime | None = answer.get("ObjectLockRetainUntilDate")
        return None if until is None else until.astimezone(UTC).replace(tzinfo=None)

    def _delete(self, name: str, versions: Sequence[str]) -> None:
        for version in reversed(versions):  # so that what is left meanwhile is the newest
            try:
                self._ask("delete_object", name, VersionId=version)
            except StoreUnavailable:
                until = self._until(name, version)
                if until is None or until <= self.check_lock():
                    raise

    def _versions(self, name: str) -> list[str]:
        """Ids of a file's versions, the newest first."""
        found = []
        for listed, version in self._listed("Versions", name):
            if listed != name:  # a longer one that begins so, and all that follow
                break
            found.append(version)
        return found

    def _listed(self, kind: str, under: str) -> Iterator[tuple[str, str]]:
        """Names and versions: names in order, of each the newest version first."""
        after: dict[str, str] = {}
        while True:
            page = self._ask(
                "list_object_versions",
                None,
                Prefix=self._prefix + under,
                MaxKeys=object_store.PAGE,
                **after,
            )
            for found in page.get(kind, ()):
                yield found["Key"].removeprefix(self._prefix), found["VersionId"]
            if not page["IsTruncated"]:
                return
            after = {"KeyMarker": page["NextKeyMarker"]}
            if page.get("NextVersionIdMarker"):
                after["VersionIdMarker"] = page["NextVersionIdMarker"]


def _time(answer: Any) -> datetime:
    """By the store's clock, UTC."""
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    return parsedate_to_datetime(headers["date"]).astimezone(UTC).replace(tzinfo=None)
