"""The outside world: clock, randomness and files. Tests put a fake in its place.

Files are encrypted before they come here and addressed by the SHA-256 of what is written. Where
they lie is a :class:`FileStore`: a :class:`Folder`, or a bucket (``store/object_store``).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import resource
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol

from engine.errors import EngineError, FileUnreadable, NotFound, SealBroken, StorageError

log = logging.getLogger("medsec")

#: What the kernel answers when memory, processes or open files have run out.
_SHORT = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)
_CV_NO_MEMORY = -4  # cv2.error's code, StsNoMem
#: Of what is done in the background: a tenth of the weight of what somebody waits for.
_NICE = 10
#: Of a container: what it may have at most is said here, as seen from inside.
_CONTROL_GROUP = Path("/sys/fs/cgroup")
#: How Python, the loader of libraries and OpenVINO say it: sentences of programs, not of files.
_SHORT_SENTENCES = (
    "can't start new thread", "failed to map segment", "cannot allocate memory",
    "resource temporarily unavailable", "bad_alloc",
)  # fmt: skip


def is_shortage(err: BaseException) -> bool:
    """Did this happen because memory, processes or open files have run out?

    Then the same call may succeed a moment later. Libraries say it in their own ways: MemoryError,
    an errno, a RuntimeError where a thread does not start, an ImportError where a library does not
    fit into memory. An error that was raised because of another one is a shortage if that is one.
    """
    seen: set[int] = set()
    now: BaseException | None = err
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        if isinstance(now, MemoryError) or (isinstance(now, OSError) and now.errno in _SHORT):
            return True
        if isinstance(now, RuntimeError | ImportError):
            said = str(now).lower()
            if any(sentence in said for sentence in _SHORT_SENTENCES):
                return True
        if type(now).__module__ == "cv2" and getattr(now, "code", 0) == _CV_NO_MEMORY:
            return True
        now = now.__cause__ or (None if now.__suppress_context__ else now.__context__)
    return False


def memory_bytes() -> int:
    """Memory of this machine, or of the control group that this process is in, if that is less."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # version 2, and 1
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            sizes.append(int((_CONTROL_GROUP / name).read_text()))
    return min(sizes)


def give_way(process: int) -> None:
    """Let a process have the processors where nothing else wants them.

    The kernel shares a processor among sessions first (``sched_autogroup_enabled``), where each
    has a niceness of its own, and only then among the processes of one.
    """
    with contextlib.suppress(OSError):  # it has ended
        os.setpriority(os.PRIO_PROCESS, process, _NICE)
        os.sched_setscheduler(process, os.SCHED_BATCH, os.sched_param(0))
    with contextlib.suppress(OSError):  # a kernel that makes no such groups
        Path(f"/proc/{process}/autogroup").write_text(str(_NICE))


#: What addresses begin with: whoever compares all of them does it part by part, because millions
#: of names at once take gigabytes.
PARTS = "0123456789abcdef"


class FileStore(Protocol):
    """Files by name, such as ``ab/ab12...``: written whole, read whole.

    Nobody reads a part: a file is authenticated as a whole before any of it is used.
    """

    def put(self, name: str, data: bytes) -> bool:
        """Write a new file; it is there, whole and durable, when this returns.

        Returns:
            False where there is a file of this name, which stays as it is.

        Raises:
            StorageError: It was not written, or nobody knows: then it may be there, whole.
        """

    def replace(self, name: str, data: bytes) -> None:
        """Write a file, in place of what there may be. Raises StorageError, as :meth:`put`."""

    def get(self, name: str) -> bytes:
        """A whole file, never the beginning of one.

        Raises:
            NotFound: There is none.
            StorageError: It cannot be read.
        """

    def versions(self, name: str, *, newest_first: bool = False) -> Iterator[bytes]:
        """What the store has of a file, each version whole: one, where it keeps no older ones.

        Raises:
            StorageError: One cannot be read.
        """

    def delete(self, name: str) -> None:
        """Delete a file; a missing one is no error. Raises StorageError."""

    def names(self, under: str = "") -> Iterator[str]:
        """Names of all files that begin with this, in order; one just written may be missing.

        Raises:
            StorageError: They cannot be listed.
        """

    def age_seconds(self, name: str) -> float:
        """Seconds since the file was written, by the clock that noted it; 0 where it is gone."""

    def delete_under(self, name: str) -> None:
        """Delete all files whose names begin with ``name/``. Raises StorageError."""

    def under(self, name: str) -> FileStore:
        """The files whose names begin with ``name/``, without that."""

    def clear_unfinished(self, older_than_seconds: float = 0.0) -> int:
        """Delete what writes left that a crash ended; says how many. Raises StorageError.

        Args:
            older_than_seconds: 0 only where nobody else writes.
        """

    def opener(self, elsewhere: bool) -> Callable[[], FileStore]:
        """What opens the same files in a worker process; can be pickled.

        Args:
            elsewhere: On other machines, which have rights of their own.
        """


class Folder:
    """Files in a folder of this machine.

    Args:
        root: Made on first use, mode 0700.
        of: What it is, for errors: "data" or "backup".
    """

    def __init__(self, root: Path, of: str = "data") -> None:
        self.root = root
        self._of = of

    def put(self, name: str, data: bytes) -> bool:
        if self._path(name).exists():
            return False
        self.replace(name, data)
        return True

    def replace(self, name: str, data: bytes) -> None:
        path = self._path(name)
        try:
            # A folder whose name is not synced may be gone after a crash, with all that is in it.
            for folder in (self.root, path.parent):
                if not folder.is_dir():
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                    sync_folder(folder.parent)
            write_durably(path, data)
        except OSError as err:
            raise StorageError(
                f"Cannot write to the {self._of} folder. Check free space and permissions.",
                errno=err.errno,
            ) from err

    def get(self, name: str) -> bytes:
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError as err:
            raise NotFound(
                "A stored file is missing. Restore it from a backup.", file=name
            ) from err
        except OSError as err:
            raise FileUnreadable(
                "A stored file cannot be read. Check the disk, or restore it from a backup.",
                file=name,
                errno=err.errno,
            ) from err

    def versions(self, name: str, *, newest_first: bool = False) -> Iterator[bytes]:
        with contextlib.suppress(NotFound):
            yield self.get(name)

    def delete(self, name: str) -> None:
        with self._deleting():
            self._path(name).unlink()

    def delete_under(self, name: str) -> None:
        with self._deleting():
            shutil.rmtree(self._path(name))

    @contextlib.contextmanager
    def _deleting(self) -> Iterator[None]:
        """What is gone already is no error. Raises StorageError."""
        try:
            yield
        except FileNotFoundError:
            pass
        except OSError as err:
            raise StorageError(
                f"Files of the {self._of} folder cannot be deleted. Check their owner.",
                errno=err.errno,
            ) from err

    def under(self, name: str) -> FileStore:
        return Folder(self._path(name), self._of)

    def names(self, under: str = "") -> Iterator[str]:
        # Folder by folder: a list of all files would be long before the first of them is given.
        base, _, begin = under.rpartition("/")
        try:
            with os.scandir(self.root / base) as found:
                inside = sorted((entry.name, entry.is_dir()) for entry in found)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as err:
            raise StorageError(
                f"Cannot list the {self._of} folder. Check the owner of its files.",
                errno=err.errno,
            ) from err
        for last, is_folder in inside:
            name = f"{base}/{last}" if base else last
            if last.startswith(begin) and not last.startswith("."):
                if is_folder:
                    yield from self.names(f"{name}/")
                else:
                    yield name

    def age_seconds(self, name: str) -> float:
        try:
            return max(0.0, time.time() - self._path(name).stat().st_mtime)
        except FileNotFoundError:  # deleted meanwhile
            return 0.0

    def clear_unfinished(self, older_than_seconds: float = 0.0) -> int:
        return sweep_unfinished(self.root, older_than_seconds, under=True)

    def opener(self, elsewhere: bool) -> Callable[[], FileStore]:
        return partial(Folder, self.root.resolve())

    def _path(self, name: str) -> Path:
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError("not the name of a file")
        return self.root / name


class Host:
    """One machine's clock and randomness, and the files.

    Args:
        files: Where files lie; a path stands for that folder.
    """

    def __init__(self, files: Path | FileStore) -> None:
        self.files: FileStore = Folder(files) if isinstance(files, Path) else files
        #: False where other servers read these files: what nothing needs is left to the sweep.
        self.deletes_at_once = True
        self._pins = 0
        self._condemned: set[str] = set()
        self._pin_lock = threading.Lock()

    def now(self) -> datetime:
        """UTC with microseconds, without a time zone object, as the catalog stores it."""
        return datetime.now(UTC).replace(tzinfo=None)

    def ticks_ms(self) -> float:
        """Monotonic milliseconds for durations; never compared with :meth:`now`."""
        return time.perf_counter() * 1000.0

    def random(self, count: int) -> bytes:
        """Bytes from the operating system's generator, fit for keys."""
        return secrets.token_bytes(count)

    @staticmethod
    def token_of(count: int) -> str:
        """Random bytes in hex, for names that need not be repeatable in tests."""
        return secrets.token_hex(count)

    def token(self, prefix: str) -> str:
        """A new opaque identifier: prefix and 96 random bits in hex."""
        return f"{prefix}_{self.random(12).hex()}"

    def write_blob(self, data: bytes) -> str:
        """Write once, atomically and durably; the same bytes twice are one file.

        Returns:
            SHA-256 of the bytes in hex: the address.

        Raises:
            StorageError: Disk full, read-only or gone, or the store does not answer. Nothing half
                is left behind.
        """
        address = hashlib.sha256(data).hexdigest()
        name = blob_name(address)
        if not self.files.put(name, data):
            try:
                self.read_blob(address)
            except (NotFound, SealBroken, StorageError):  # one that has rotted is written again
                self.files.replace(name, data)
        return address

    def read_blob(self, address: str) -> bytes:
        """Read and check against the address.

        Raises:
            NotFound: The file is gone.
            SealBroken: The file is not what was written.
            StorageError: It cannot be read.
        """
        try:
            data = self.files.get(blob_name(address))
        except EngineError as err:
            err.facts["blob"] = address
            raise
        if hashlib.sha256(data).hexdigest() != address:
            raise SealBroken("A stored file was changed. Restore it from a backup.", blob=address)
        return data

    def delete_blob(self, address: str, *, swept: bool = False) -> None:
        """Delete the file, or defer this while a backup runs; a missing file is no error.

        One that cannot be removed now is left to the sweep: what needed it no more has happened.

        Args:
            swept: By the sweep, which knows that nobody needs it.
        """
        if not (swept or self.deletes_at_once):
            return
        with self._pin_lock:
            if self._pins:
                self._condemned.add(address)
                return
        self._unlink(address)

    @contextlib.contextmanager
    def keeping_blobs(self) -> Iterator[None]:
        """Defer deletions while a backup copies files that its catalog still references."""
        with self._pin_lock:
            self._pins += 1
        try:
            yield
        finally:
            with self._pin_lock:
                self._pins -= 1
                condemned = set() if self._pins else self._condemned
                if condemned:
                    self._condemned = set()
            for address in condemned:
                self._unlink(address)

    def _unlink(self, address: str) -> None:
        try:
            self.files.delete(blob_name(address))
        except StorageError as err:
            log.error("a file cannot be deleted: %s %s", err.code, err.facts)

    def blobs(self, part: str = "") -> Iterator[str]:
        """Addresses of all files there are, in order.

        Args:
            part: One of ``PARTS``, for those that begin with it.
        """
        for name in self.files.names(part):
            address = name.rpartition("/")[2]
            if _is_address(address) and name == blob_name(address):
                yield address

    def blob_age_seconds(self, address: str) -> float:
        """Seconds since the file was written; 0 where it is gone. A young orphan may be an upload
        under way."""
        return self.files.age_seconds(blob_name(address))


def _is_address(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def blob_name(address: str) -> str:
    """What the file of an address is called where it lies."""
    if not _is_address(address):
        raise ValueError("not a blob address")
    return f"{address[:2]}/{address}"


def forbid_core_dumps() -> None:
    """A core dump would write keys and plaintext to disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def sweep_unfinished(folder: Path, older_than_seconds: float = 0.0, *, under: bool = False) -> int:
    """Delete the temporary files of :func:`write_durably` that a crash left; says how many.

    Args:
        older_than_seconds: 0 only where nobody writes: when the folder has just been opened.
        under: Those in all folders under it, too.

    Raises:
        StorageError: One cannot be deleted.
    """
    swept = 0
    try:
        for path in list((folder.rglob if under else folder.glob)(".*.part")):
            with contextlib.suppress(FileNotFoundError):  # finished meanwhile
                if time.time() - path.stat().st_mtime >= older_than_seconds:
                    path.unlink()
                    swept += 1
    except OSError as err:
        raise StorageError(
            "Cannot delete unfinished files. Check the owner of their folder, and that it is"
            " not mounted read-only.",
            errno=err.errno,
        ) from err
    return swept


def write_durably(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file atomically: after a crash it is complete or does not exist.

    Temporary name in the same folder, fsync, rename, fsync of the folder.
    """
    # Not from the file's own name: with a longer one, a name that just fits would not.
    temporary = path.with_name(f".{secrets.token_hex(12)}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable: files that were written, renamed or deleted."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
