"""Where the encrypted files lie: in the data folder, or in a bucket."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from engine.errors import FilesElsewhere, NotFound, SettingsError, StorageError
from engine.host import FileStore, Folder, write_durably
from engine.settings import FOLDER, Settings
from engine.store.two_places import TwoPlaces

if TYPE_CHECKING:
    from engine.store.object_store import Address

#: In a bucket: whose files these are.
OWNER = "catalog.id"
#: In the data folder: where its files are, unless they always were there.
PLACE = "files.place"


@runtime_checkable
class LockedFiles(FileStore, Protocol):
    """Files that can be locked for a time; a delete leaves what is locked.

    See :mod:`engine.store.locked_bucket`. Times are UTC, by the store's clock.
    """

    lock_days: int

    def check_lock(self) -> datetime:
        """The time now. Raises SettingsError where nothing can be locked."""

    def lock(self, names: Iterable[str], until: datetime) -> list[str]:
        """Lock all versions of these files; gives the names of which there is none."""

    def lock_version(self, name: str, version: str, until: datetime) -> None:
        """Lock one version of a file."""

    def locked_until(self, name: str) -> datetime | None:
        """When the lock on a file's first version ends, or ended; None where there was none."""

    def stored(self, name: str, *, newest_first: bool = False) -> Iterator[tuple[str, bytes]]:
        """Names of versions and their contents. Raises FileUnreadable where none can be read."""

    def holds(self, name: str) -> bool:
        """Does the store refuse to shorten the lock of a file?"""

    def delete_versions(self, name: str, versions: Sequence[str]) -> None:
        """Delete these versions of a file for good, but those that are locked."""


def files_of(settings: Settings) -> FileStore:
    """The store that MEDSEC_BLOBS names.

    Raises:
        SettingsError: There are no credentials for it, or they cannot be read.
    """
    place = _store(settings, settings.blobs)
    also = also_of(settings)
    return place if also is None else TwoPlaces(place, _store(settings, also))


def also_of(settings: Settings) -> str | None:
    """MEDSEC_BLOBS_ALSO as the catalog has places: nothing stands for the data folder."""
    also = settings.blobs_also.rstrip("/")
    return (also if also != FOLDER else "") if also else None


def _store(settings: Settings, url: str) -> FileStore:
    if not url:
        return own_folder(settings)
    # Imported here: who has no object store needs no client for one.
    from engine.store.object_store import Bucket

    return Bucket(_address(settings, url))


def _address(settings: Settings, url: str) -> Address:
    from engine.store.object_store import Address

    ca = str(settings.s3_ca_file) if settings.s3_ca_file else None
    return Address(url, settings.s3_endpoint, settings.s3_region, ca)


def backups_of(settings: Settings) -> FileStore:
    """Where backups lie.

    Raises:
        SettingsError: Nowhere, or there are no credentials.
    """
    if settings.backups and settings.backup_lock_days:
        from engine.store.locked_bucket import LockedBucket

        return LockedBucket(_address(settings, settings.backups), settings.backup_lock_days)
    if settings.backups:
        return _store(settings, settings.backups)
    if settings.backup_dir is None:
        raise SettingsError(
            "Set MEDSEC_BACKUP_DIR to a folder outside the data folder, or MEDSEC_BACKUPS."
        )
    return Folder(settings.backup_dir, "backup")


def check_place(settings: Settings, known: str | None, *also: str) -> None:
    """Refuse to look for files where they are not.

    Args:
        known: What the catalog says. Where it says nothing, None, the data folder's note counts.
        also: Places that would be right, too, of a move that was interrupted.

    Raises:
        FilesElsewhere: MEDSEC_BLOBS names another place than the one in which the files lie.
    """
    note = settings.data / PLACE
    if known is None and note.exists():
        known = note.read_text(encoding="ascii").strip()
    if known is None:
        if settings.blobs and next(own_folder(settings).names(), None) is not None:
            raise FilesElsewhere(
                "The data folder has files of its own. Unset MEDSEC_BLOBS, or move them with medsec"
                " files-move."
            )
    elif known not in (settings.blobs.rstrip("/"), also_of(settings), *also):
        raise FilesElsewhere(
            "The files of this catalog are in another place: set MEDSEC_BLOBS to"
            f" {known or 'nothing'}, or move them with medsec files-move. If the catalog was set"
            " back to a time before they were moved, run medsec files-claim."
        )


def note_place(settings: Settings, url: str) -> None:
    """Remember in the data folder where its files lie; nothing stands for itself."""
    write_durably(settings.data / PLACE, url.rstrip("/").encode())


def own_folder(settings: Settings) -> Folder:
    """The folder for files within the data folder."""
    return Folder(settings.data / "blobs")


def claim_all(settings: Settings, files: FileStore, catalog: str, *, new: bool) -> None:
    """Note it in each bucket that settings name; see :func:`claim`."""
    if isinstance(files, TwoPlaces):
        # That these are the places of this catalog was checked; one of them may be new.
        for url, place in ((settings.blobs, files.to), (also_of(settings), files.source)):
            if url:
                claim(place, catalog, new=True)
    elif settings.blobs:
        claim(files, catalog, new=new)


def claim(files: FileStore, catalog: str, *, new: bool) -> None:
    """Note whose files lie in a bucket: swept against other rows, all would be deleted.

    Args:
        catalog: Name of the catalog.
        new: The catalog names no files yet, or they are being brought.

    Raises:
        StorageError: They are another catalog's, or not there, or the store ignores conditions.
    """
    mine = catalog.encode()
    if new and files.put(OWNER, mine) and files.put(OWNER, mine):
        raise StorageError(
            "The object store ignores conditional writes (If-None-Match). Use one that supports"
            " them."
        )
    try:
        owner = files.get(OWNER)
    except NotFound as err:
        raise StorageError(
            "The bucket has no files of this installation. Set MEDSEC_BLOBS to where they are."
        ) from err
    if owner != mine:
        raise StorageError(
            "The bucket has files of another installation. Set MEDSEC_BLOBS to a prefix of its own."
        )
