"""Where the stored files lie, and which copy of an installation may delete some of them.

A catalog on a server, or files in a bucket, can be copied without the other: a machine is cloned, a
backup or an earlier state is started beside the original. To each of two copies the files that only
the other one knows seem needless. So beside the files lies a random word, and the catalog knows the
newest ones. It changes with each start and every hour.

- A start that does not know the word is refused: another copy went on after this one was made.
- One that knows it gets the next word. Should the other copy run, it looks within a minute, finds a
  word that it does not know, and writes in its place that the files are contested.
- Where they are contested, no copy deletes anything, and none starts, until somebody has decided
  which one goes on (:meth:`FileClaim.take_over`).
- Files are deleted by the sweep alone, many looks after a start.
- Where no word lies there at all, nobody can say: a folder is not mounted, perhaps. Nothing is
  deleted then, and a catalog that knows words does not start.

The word is also noted in the data folder: a catalog that its database set back to an earlier moment
knows none of today's, but its folder does. It starts, and deletes nothing for some days: it may be
set to a later moment still.

A catalog in a file with its files beside it needs none of this: they are copied together.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from datetime import datetime, timedelta
from typing import Final

from engine.errors import FilesElsewhere, NotFound, OtherCopy, StorageBusy, StorageError
from engine.host import FileStore, Host, write_durably
from engine.settings import FOLDER, Settings
from engine.store.database import Cursor, Database
from engine.store.file_stores import PLACE, also_of, check_place, note_place
from engine.store.two_places import TwoPlaces

#: Beside the files, and what the data folder knows of it.
CLAIM: Final = "files.claim"
CONTESTED: Final = b"contested"
LOOK_SECONDS: Final = 60.0
#: No sweep for so long after a start: another copy that runs has looked several times by then.
SETTLE_MS: Final = 600_000.0
#: ... and after the catalog was set back.
SET_BACK: Final = timedelta(days=7)
#: Newest words that the catalog keeps: one that was sent long ago may still arrive.
WORDS: Final = 8
_PATIENCE_SECONDS: Final = 30.0
_WHAT: Final = "claim of the files"
log = logging.getLogger("medsec")


class FileClaim:
    """This catalog's claim to the files at one place.

    Args:
        host: Of that place.
        settings: ``blobs`` names it.
    """

    def __init__(self, database: Database, host: Host, settings: Settings) -> None:
        self._database = database
        self._host = host
        self._settings = settings
        self._folder = settings.data
        self._place = settings.blobs.rstrip("/")
        self._also = also_of(settings)
        #: Can the catalog be copied without its files?
        self.needed = bool(settings.blobs or settings.blobs_also) or settings.database is not None
        #: The newest word that this process saw and that was the catalog's; of the start, the note.
        self._known = b""
        with contextlib.suppress(FileNotFoundError):
            self._known = (self._folder / CLAIM).read_bytes()
        #: Since when the newest word lies beside the files; None while it could not be written.
        self._since_ms: float | None = None
        self._lock = threading.Lock()
        #: Was another copy found? Then nothing is deleted any more.
        self.contested = False

    @property
    def settled(self) -> bool:
        """Would another copy have been found by now, and is this the newest state of it?"""
        if not self.needed:
            return True
        if self._since_ms is None or self._host.ticks_ms() - self._since_ms < SETTLE_MS:
            return False
        since = self.set_back_at
        return since is None or self._host.now() - since >= SET_BACK

    @property
    def set_back_at(self) -> datetime | None:
        """When this catalog was found to have been set back, or a person let it go on; or None."""
        noted_at = noted(self._database.read()).get("set_back_at")
        return datetime.fromisoformat(noted_at) if noted_at else None

    def check_place(self, *also: str) -> None:
        """Refuse to look for files where they are not. What the database says counts.

        Args:
            also: Places that would be right, too, of a move that was interrupted.

        Raises:
            FilesElsewhere: MEDSEC_BLOBS names another place.
        """
        known = noted(self._database.read())
        check_place(self._settings, known.get("place"), *also)
        if known.get("also", self._place) not in (self._place, self._also, *also):
            raise FilesElsewhere(
                "Some files of this catalog are still in another place: set MEDSEC_BLOBS_ALSO to"
                f" {known['also'] or FOLDER} until all have moved."
            )

    @property
    def moving(self) -> bool:
        """May some files still be at another place?"""
        return "also" in noted(self._database.read())

    def moves_here(self) -> bool:
        """Are files to be moved, and do all servers write to the new place by now?"""
        known, servers = noted(self._database.read()), self._database.servers()
        return (known.get("place"), known.get("also", "-")) == (self._place, self._also) and (
            len({server.writes_to for server in servers}) <= 1
        )

    def moved(self, tx: Cursor) -> bool:
        """In a transaction: nothing is left at the other place; False where that may be wrong.

        A server that writes there would have said so by now, and none can start meanwhile.
        """
        if not self.moves_here():
            return False
        tx.run("DELETE FROM stored_files WHERE name = 'also'")
        tx.announce()
        return True

    def take(self, *, brought: bool) -> None:
        """At a start, before anybody works.

        Args:
            brought: Files and catalog come out of a backup.

        Raises:
            OtherCopy: Another copy of this installation uses the files, or did after this one.
            StorageError: The place cannot be read or written.
        """
        if brought:
            self._forget_other_place()
        if not self.needed:
            self._note_place()
            if self._words():
                self._note(claim="")  # files and catalog are one now
                self.drop()
            return
        with self._database.alone(_WHAT, _PATIENCE_SECONDS):
            there = b"" if brought else self._refused_or_mine()
            if there and there not in self._words():  # only the folder knows it
                self._note(set_back_at=self._host.now().isoformat())
            if self._begins_to_move():
                self._refuse_used_place(brought)
                # Before the catalog says so: from then on, both places have to have one.
                self._lay(self._next_word(), everywhere=True)
                self._note_place()
                return
            self._note_place()
            word = self._next_word()
            try:
                self._lay(word)
            except StorageError as err:
                if not there:
                    raise
                # Reading goes on where a disk is full; nothing is deleted until it is written.
                log.error("the claim of the files was not written: %s", err.code)

    def _refused_or_mine(self) -> bytes:
        """The word that lies there and is this catalog's; nothing where it never had one."""
        there = self._there()
        if not there and self._words():
            raise FilesElsewhere(
                "The place of the stored files has no mark of this catalog. Is the folder mounted,"
                " or MEDSEC_BLOBS another one? If the files are there, run medsec files-claim."
            )
        self._refuse_foreign(there)
        return there

    def _refuse_used_place(self, brought: bool) -> None:
        """A catalog from before a move knows nothing of the new place, nor that it is in use."""
        files = self._host.files
        word = _word_at(files.to) if isinstance(files, TwoPlaces) and not brought else b""
        self._refuse_foreign(word)

    def refuse_others(self) -> None:
        """Raises OtherCopy where the files' word is none that this catalog knows."""
        self._refuse_foreign(self._there())

    def _refuse_foreign(self, there: bytes) -> None:
        if self.needed and there and not self._is_mine(there):
            raise _other_copy()

    def take_over(self) -> None:
        """Let this copy go on, whichever used the files before, at both places that settings name;
        no server may run.

        Raises:
            StorageError: The place cannot be read or written.
        """
        self._note(set_back_at=self._host.now().isoformat())
        self._forget_other_place()
        self._note_place()
        self._lay(self._next_word(), everywhere=True)

    def begin(self) -> None:
        """Claim a place, to which the files were moved.

        Raises:
            StorageError: It cannot be written.
        """
        self._note_place()
        self._lay(self._next_word())

    def _forget_other_place(self) -> None:
        """What the catalog says of a move is of another time: its files are all here."""
        if self._also is None and self.moving:
            with self._database.write() as tx:
                tx.run("DELETE FROM stored_files WHERE name = 'also'")

    def _begins_to_move(self) -> bool:
        known = noted(self._database.read()).get("place")
        return self._also is not None and known not in (None, self._place)

    def drop(self) -> None:
        """There are no files of this catalog any more."""
        self._host.files.delete(CLAIM)

    def renew(self) -> None:
        """Change the word: copies made by now are known as such. Raises as :meth:`check`."""
        if not self.needed:
            return
        self.check()
        with self._database.alone(_WHAT, _PATIENCE_SECONDS):
            if self._is_mine(self._there()):
                self._lay(self._next_word())
                return
        self.check()

    def check(self) -> None:
        """Are the files this copy's alone?

        Raises:
            OtherCopy: No. Then none of them may be deleted, and the other copy is told so.
            StorageBusy: The place or the database does not answer, or there is no word.
        """
        if not self.needed:
            return
        with self._lock:
            known = self._words()[:1]
            if not self.contested and [self._there()] == known:
                self._remember(*known)
                return
            # Perhaps another server of this catalog was changing it just now.
            with self._database.alone(_WHAT, _PATIENCE_SECONDS):
                there = self._there()
                if not there:
                    raise StorageBusy("The place of the stored files has no mark of this catalog.")
                mine = self._is_mine(there)
                if self.contested or not mine:
                    self.contested = True
                    if there != CONTESTED and not mine:
                        for place in self._places():
                            place.replace(CLAIM, CONTESTED)
                    raise _other_copy()

    def _places(self) -> list[FileStore]:
        """Where the catalog says that files are: at one place, or at two while they move."""
        files = self._host.files
        if not isinstance(files, TwoPlaces):
            return [files]
        known = noted(self._database.read())
        said = {known.get("place", self._place), known.get("also")}
        both = ((self._place, files.to), (self._also, files.source))
        return [place for name, place in both if name in said]

    def _there(self) -> bytes:
        """The word: one that is not mine, if there is any; nothing where a place has none."""
        words = [_word_at(place) for place in self._places()]
        foreign = [word for word in words if word and not self._is_mine(word)]
        return (
            foreign[0] if foreign else min(words, key=lambda w: (w != b"", w in self._words()[:1]))
        )

    def _words(self) -> list[bytes]:
        """Those that the catalog knows, the newest first."""
        return noted(self._database.read()).get("claim", "").encode().split()

    def _is_mine(self, there: bytes) -> bool:
        return there not in (b"", CONTESTED) and there in (*self._words(), self._known)

    def _note(self, **words: str) -> None:
        with self._database.write() as tx:
            _note(tx, **words)

    def _note_place(self) -> None:
        """In the catalog, and in the data folder; and from where files have to move, if they do."""
        if noted(self._database.read()).get("place") != self._place:
            words = {"place": self._place}
            if self._begins_to_move():
                words["also"] = str(self._also)
            with self._database.write() as tx:
                _note(tx, **words)
                tx.announce()
        if self._place or (self._folder / PLACE).exists():
            note_place(self._settings, self._place)

    def _next_word(self) -> bytes:
        """A new word, which the catalog knows before it lies beside the files."""
        word = self._host.token_of(16).encode()
        self._note(claim=b" ".join([word, *self._words()][:WORDS]).decode("ascii"))
        return word

    def _lay(self, word: bytes, *, everywhere: bool = False) -> None:
        if not self.needed:
            return
        files = self._host.files
        both = [files.to, files.source] if isinstance(files, TwoPlaces) else [files]
        for place in both if everywhere else self._places():
            place.replace(CLAIM, word)
        if self._since_ms is None:
            self._since_ms = self._host.ticks_ms()
        self._remember(word)

    def _remember(self, word: bytes) -> None:
        if self._known != word:
            write_durably(self._folder / CLAIM, word)
            self._known = word


def _word_at(place: FileStore) -> bytes:
    try:
        return place.get(CLAIM)
    except NotFound:
        return b""


def noted(tx: Cursor) -> dict[str, str]:
    """What the catalog knows: ``place``, ``claim`` (words), ``set_back_at``; and, while files move,
    ``also``, where some still are."""
    return {row["name"]: row["value"] for row in tx.all("SELECT name, value FROM stored_files")}


def _note(tx: Cursor, **words: str) -> None:
    for name, value in words.items():
        tx.run(
            "INSERT INTO stored_files VALUES ($1, $2)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            name,
            value,
        )


def _other_copy() -> OtherCopy:
    return OtherCopy(
        "Another copy of this installation uses its stored files, or did since this one was copied"
        " or set back. Stop the copy that is not to go on, or give it a place of its own by"
        " recovering a backup. With all servers stopped, medsec files-claim then lets this one go"
        " on."
    )
