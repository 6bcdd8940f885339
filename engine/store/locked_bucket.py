"""Backups in a bucket with S3 Object Lock: for some days nobody can delete them.

Such a bucket keeps every version of a file, and a version that is locked can be neither deleted nor
changed until its retention ends: not by this server, nor by who has taken it over. What they can
still do is write a newer version, or a marker that says "deleted". Neither hides a file here: files
are listed and read by their versions, and deleted for good or not at all.

The mode is *compliance*: *governance* lets whoever has a right to it lift the lock, which is what
an intruder would look for. So nobody can shorten a retention that was chosen too long, either.

A version that the store does not give out, for ever (under another's key, archived) or that is too
large to be one of ours, counts as damaged: another version may be whole.

Source: Amazon S3 User Guide, "Locking objects with Object Lock"; API Reference, PutObjectRetention,
ListObjectVersions (newest version first).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any

from engine.errors import FileUnreadable, NotFound, SettingsError, StoreUnavailable
from engine.host import memory_bytes
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
#: Refusals that say nothing about a version: they are of whoever asks, or of the moment.
_OURS = (
    "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "NoSuchBucket", "RequestTimeTooSkewed",
    "RequestTimeout", "SignatureDoesNotMatch", "SlowDown", "Throttling", "TokenRefreshRequired",
)  # fmt: skip
log = logging.getLogger("medsec")


class LockedBucket(Bucket):
    """Files under a prefix of a bucket with object lock.

    Args:
        lock_days: For how long a backup is locked.
    """

    def __init__(self, at: Address, lock_days: int, credentials: Sequence[Secret] = ()) -> None:
        super().__init__(at, credentials)
        self.lock_days = lock_days
        # To read and to decrypt takes twice: nobody here has written more.
        self._most_bytes = memory_bytes() // 2

    def check_lock(self) -> datetime:
        """The store's time, UTC.

        Raises:
            SettingsError: The bucket has no object lock, or locks by itself in a mode that can be
                lifted.
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
        rule = answer["ObjectLockConfiguration"].get("Rule", {}).get("DefaultRetention", {})
        if rule.get("Mode") == "GOVERNANCE":
            raise SettingsError(
                "The bucket of MEDSEC_BACKUPS locks what is new in governance mode (its default"
                " retention): such a lock can be lifted. Remove that rule from the bucket; MedSec"
                " locks backups itself."
            )
        return _time(answer)

    def get(self, name: str) -> bytes:
        try:
            return super().get(name)
        except (NotFound, FileUnreadable):  # or there is a marker over it
            for data in self.versions(name, newest_first=True):
                return data
            raise

    def versions(self, name: str, *, newest_first: bool = False) -> Iterator[bytes]:
        for _, data in self.stored(name, newest_first=newest_first):
            yield data

    def stored(self, name: str, *, newest_first: bool = False) -> Iterator[tuple[str, bytes]]:
        found = self._versions(name)
        refused, given = None, False
        for version in found if newest_first else reversed(found):
            try:
                data = self._read(name, VersionId=version)
            except NotFound:  # deleted meanwhile
                continue
            except FileUnreadable as err:
                refused = err
            else:
                given = True
                yield version, data
        if refused is not None and not given:
            raise refused

    def _read(self, name: str, **words: str) -> bytes:
        try:
            return super()._read(name, **words)
        except StoreUnavailable as err:
            if not _refused(err):
                raise
            raise FileUnreadable(
                "The object store does not give out a version of a file.", **err.facts
            ) from err

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

    def delete_versions(self, name: str, versions: Sequence[str]) -> None:
        """For good; those that are locked stay. Newest first."""
        self._delete(name, versions)

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

    def lock_version(self, name: str, version: str, until: datetime) -> None:
        """Lock one version. Raises StoreUnavailable."""
        self._lock(name, [version], until)

    def locked_until(self, name: str) -> datetime | None:
        """When the lock of a file's first version ends, or ended, UTC; None without one.

        Later versions of a file that is written once are others'.
        """
        versions = self._versions(name)
        return self._retention(name, versions[-1])[1] if versions else None

    def holds(self, name: str) -> bool:
        """Does the store refuse to shorten the lock of a file? Some take locks, and end them."""
        version = self._versions(name)[0]
        until = self._retention(name, version)[1]
        if until is None:
            return False
        earlier = until - timedelta(seconds=1)
        try:
            self._retain(name, version, earlier)
        except StoreUnavailable as err:
            if err.facts.get("status") in (400, 403):
                return True
            raise
        return False

    def _lock(self, name: str, versions: Sequence[str], until: datetime) -> bool:
        for version in versions:
            try:
                self._retain(name, version, until)
            except StoreUnavailable as err:
                # A lock in governance mode becomes one that nobody can lift, and no shorter one.
                already, locked = self._retention(name, version)
                if locked is not None and locked >= until.replace(microsecond=0):
                    continue
                if locked is not None or already is None or not _refused(err):
                    raise
                later = max(already, until)
                self._retain(name, version, later, BypassGovernanceRetention=True)
        return bool(versions)

    def _retain(self, name: str, version: str, until: datetime, **words: bool) -> None:
        retention = {"Mode": "COMPLIANCE", "RetainUntilDate": until.replace(tzinfo=UTC)}
        self._ask("put_object_retention", name, VersionId=version, Retention=retention, **words)

    def _retention(self, name: str, version: str) -> tuple[datetime | None, datetime | None]:
        """When the lock of a version ends, or ended, in whole seconds; None without one.

        Returns:
            Of a lock in any mode, and of one that nobody can lift.
        """
        try:
            answer = self._ask("get_object_retention", name, VersionId=version)["Retention"]
        except NotFound:
            return None, None
        except StoreUnavailable as err:
            if err.facts.get("status") == 404 and err.facts["store_code"] not in _OURS:
                return None, None
            raise
        until: datetime = answer["RetainUntilDate"].astimezone(UTC).replace(tzinfo=None)
        return until, until if answer["Mode"] == "COMPLIANCE" else None

    def _delete(self, name: str, versions: Sequence[str]) -> None:
        for version in reversed(versions):  # so that what is left meanwhile is the newest
            try:
                self._ask("delete_object", name, VersionId=version)
            except StoreUnavailable as err:
                if not _refused(err):
                    raise
                until = self._retention(name, version)[1]
                # By a legal hold, perhaps: that must not keep the rest from being deleted.
                if until is None or until <= self.check_lock():
                    log.error("a version that is not locked cannot be deleted: %s", err.facts)

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


def _refused(err: StoreUnavailable) -> bool:
    """Does the store refuse this of a version, and not because of who asks, or when?"""
    status = err.facts.get("status", 0)
    return 400 <= status < 500 and err.facts["store_code"] not in _OURS


def _time(answer: Any) -> datetime:
    """By the store's clock, UTC."""
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    return parsedate_to_datetime(headers["date"]).astimezone(UTC).replace(tzinfo=None)
