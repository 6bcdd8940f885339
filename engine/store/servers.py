"""Several servers on one catalog: who is there, who leads, and what makes one stop.

Each server has a row, and writes the time into it twice a second. One that could not do so for
some seconds answers nothing until it can again. One whose row is old is taken for dead by any
other: its row goes, in a change like all others, and who has no row can change nothing. So what it
held can go on elsewhere, whatever it is still at.

The same round tells each server whether settings and the like were changed elsewhere, and lets one
of them lead.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import socket
import threading
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from engine.errors import NotFound, SettingsError, StorageBusy, StorageError
from engine.host import FileStore, Host
from engine.installation import version
from engine.settings import FOLDER, Settings
from engine.store.database import Cursor, ServerState
from engine.store.two_places import TwoPlaces

log = logging.getLogger("medsec")

BEAT_SECONDS: Final = 0.4
#: Without a beat for so long, a server answers nothing: what it knows may be old.
STALE_SECONDS: Final = 5.0
#: ... and for so long, another one takes it for dead. Longer than the above, and by much.
DEAD_SECONDS: Final = 15.0
#: Ends of sessions and claims mean the same on all servers.
CLOCKS_DIFFER: Final = timedelta(seconds=10)
#: What the writers' row says where no server has the database alone.
MANY: Final = "many"
#: Releases whose servers can run beside each other have one number; it is raised by a release
#: whose rows mean something else to the one before, without a step of the tables.
TOGETHER: Final = 1
#: Settings that are a machine's own. In all others servers must agree: what one refuses or hides,
#: no other may allow or show. Of secrets and paths, whether there is one.
_OWN: Final = frozenset({
    "servers", "database_connections", "batch_workers", "batch_scheduler", "device",
    "threads", "memory_mb", "server_memory_mb", "restore_memory_mb", "host", "port", "tls",
    "tls_certificate", "tls_key", "key", "key_file", "key_passphrase", "dicom_port", "dicom_host",
    "dicom_memory_mb",
})  # fmt: skip
#: Settings of places for files: servers need not have the same while files move.
_PLACES: Final = {"blobs": FOLDER, "blobs_also": ""}
#: Of a file by which servers see that they have the same files.
_SIGN: Final = ".server"
_NOW: Final = "(clock_timestamp() AT TIME ZONE 'UTC')"


class Expelled(StorageError):
    """This server was taken for dead. Another one answers."""

    status = 503


def agreed(settings: Settings) -> Mapping[str, str]:
    """What all servers must agree in, by the names of settings."""
    found = {}
    for f in fields(settings):
        if f.name not in _OWN:
            value, kind = getattr(settings, f.name), str(f.type)
            hidden = kind.startswith(("Secret", "Path"))
            found[f.name] = str(value is not None) if hidden else str(value)
    # Each as one word, and none for no other place: see _know_each_other.
    return found | {n: found[n].rstrip("/") or empty for n, empty in _PLACES.items()}


def _know_each_other(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Does each of two servers find the files that the other one writes?"""
    mine, theirs = ([found.get(n, "") for n in _PLACES] for found in (one, other))
    return mine[0] == theirs[0] or set(mine) == set(theirs)


class Servers:
    """This server among those of a catalog.

    Args:
        agreed: What all of them must agree in.
        backups: The folder of backups, with the list of what was erased since: for all the same.
    """

    def __init__(self, host: Host, agreed: Mapping[str, str], backups: Path | None = None) -> None:
        self._backups = backups
        self.server_id = f"sv_{host.token_of(8)}"
        self._host = host
        self._agreed = {n: hashlib.sha256(v.encode()).hexdigest()[:16] for n, v in agreed.items()}
        self._beaten_ms = host.ticks_ms()
        #: Of each other server the time in its row, and since when that has not changed.
        self._others: dict[str, tuple[datetime, float]] = {}
        #: Counted up by changes of what servers keep in memory; what this server has taken in.
        self.generation = 0
        self.expelled = False

    def join(self, tx: Cursor) -> None:
        """Be one of the servers from here on.

        Raises:
            SettingsError: The clock is wrong, or settings differ from those of servers that run.
            StorageError: A server of a release runs that this one cannot run beside.
        """
        clock = tx.one(f"SELECT {_NOW} AS now")
        assert clock is not None
        self._refuse_clock(clock["now"])
        # In this order: a server that starts at the same time sees this one, or is seen.
        self._leave_sign()
        tx.run("UPDATE writer SET server = $1 WHERE server <> $1", MANY)
        tx.run(
            "INSERT INTO servers (server_id, machine, release, together, agreed, started_at,"  # noqa: S608
            f" heartbeat_at) VALUES ($1, $2, $3, $4, $5, {_NOW}, {_NOW})",
            self.server_id, socket.gethostname(), version(), TOGETHER,
            json.dumps(self._agreed, sort_keys=True),
        )  # fmt: skip
        try:
            for row in tx.all("SELECT * FROM servers WHERE server_id <> $1", self.server_id):
                if row["server_id"] not in self.dead(tx):
                    said = json.loads(row["agreed"])
                    self._refuse_unlike(row["together"], said)
                    self._refuse_elsewhere(row["server_id"], said)
        except BaseException:
            self.leave(tx)
            raise
        self.generation = tx.count("SELECT generation FROM writer")
        self._beaten_ms = self._host.ticks_ms()

    def _refuse_clock(self, there: datetime) -> None:
        if abs(there - self._host.now()) > CLOCKS_DIFFER:
            raise SettingsError(
                "The clocks of this machine and of the database server differ by more than"
                f" {CLOCKS_DIFFER.seconds} seconds. Set both, by NTP."
            )

    def _refuse_unlike(self, together: int, agreed: Mapping[str, str]) -> None:
        if together != TOGETHER:
            raise StorageError(
                "Servers of another release run that this one cannot run beside. Stop all of them,"
                " then start those of one release."
            )
        if not _know_each_other(self._agreed, agreed):
            raise SettingsError(
                "Servers that run write files to a place in which this one would not look, or the"
                " other way round. Give both places to all of them first, in MEDSEC_BLOBS_ALSO."
            )
        names = sorted(
            n for n, said in self._agreed.items() if n not in _PLACES and agreed.get(n) != said
        )
        if names:
            raise SettingsError(
                "Servers that run have other values of"
                f" {', '.join('MEDSEC_' + n.upper() for n in names)}. Give all the same, or stop"
                " those first."
            )

    def _leave_sign(self) -> None:
        for place in self._places().values():
            place.replace(f"{self.server_id}{_SIGN}", b"")
        if self._backups is None:
            return
        try:
            self._backups.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._backups / f"{self.server_id}{_SIGN}").touch(mode=0o600)
        except OSError as err:
            raise StorageError(
                "Cannot write to the backup folder. Check MEDSEC_BACKUP_DIR and permissions.",
                errno=err.errno,
            ) from err

    def _places(self) -> dict[str, FileStore]:
        """Where this server looks for files, by the setting that says so."""
        files = self._host.files
        if isinstance(files, TwoPlaces):
            return {"blobs": files.to, "blobs_also": files.source}
        return {"blobs": files}

    def _refuse_elsewhere(self, server_id: str, agreed: Mapping[str, str]) -> None:
        """Raises StorageError where another server has its files or backups in another place.

        The data folder of each has one name, and may be another folder.
        """
        if self._backups is not None and not (self._backups / f"{server_id}{_SIGN}").exists():
            raise StorageError(
                "Servers that run have their backups in another folder. Let MEDSEC_BACKUP_DIR name"
                " the same shared folder on all of them."
            )
        try:
            for setting, place in self._places().items():
                if self._agreed.get(setting) in {agreed.get(name) for name in _PLACES}:
                    place.get(f"{server_id}{_SIGN}")
        except NotFound as err:
            raise StorageError(
                "Servers that run have their files in another folder. Let MEDSEC_DATA name the same"
                " shared folder on all of them, or MEDSEC_BLOBS the same place in an object store."
            ) from err

    def _forget_sign(self, server_id: str) -> None:
        # Not waited for: this is done amid a change, and an object store may not answer.
        threading.Thread(target=self._remove_sign, args=(server_id,), daemon=True).start()

    def _remove_sign(self, server_id: str) -> None:
        with contextlib.suppress(StorageError):
            self._host.files.delete(f"{server_id}{_SIGN}")
        if self._backups is not None:
            with contextlib.suppress(OSError):
                (self._backups / f"{server_id}{_SIGN}").unlink()

    def beat(self, tx: Cursor) -> int:
        """Say that this server is there; gives the number of the newest change.

        Raises:
            Expelled: It was taken for dead.
            SettingsError: The clock went wrong.
        """
        row = tx.one(
            f"UPDATE servers SET heartbeat_at = {_NOW} WHERE server_id = $1"  # noqa: S608
            f" RETURNING (SELECT generation FROM writer) AS generation, {_NOW} AS now",
            self.server_id,
        )
        if row is None:
            raise self.expulsion()
        self._refuse_clock(row["now"])
        return int(row["generation"])

    def beaten(self, at_ms: float) -> None:
        """All that a round has to do was done; it began then."""
        self._beaten_ms = at_ms

    @property
    def stale(self) -> bool:
        """May what this server knows be old?"""
        return self._host.ticks_ms() - self._beaten_ms > STALE_SECONDS * 1000

    @property
    def patience_ms(self) -> int:
        """How long a change may wait for its next step; what this server knows is old then."""
        return round(STALE_SECONDS * 1000)

    def refuse_stale(self) -> None:
        """Raises StorageBusy where this server cannot say that it is there, Expelled for ever."""
        if self.expelled:
            raise self.expulsion()
        if self.stale:
            raise StorageBusy(
                "This server cannot reach the database in time. Try again in a moment."
            )

    def expulsion(self) -> Expelled:
        """From here on, this server does nothing more."""
        self.expelled = True
        return Expelled(
            "This server was taken for dead, or another MedSec took over the database. Start it"
            " again.",
            fatal=True,
        )

    @staticmethod
    def all(tx: Cursor) -> list[ServerState]:
        """Every server that has a row, the oldest first."""
        rows = tx.all(
            "SELECT server_id, machine, release, started_at, heartbeat_at, server_id = leader AS"
            " leads, agreed AS writes_to FROM servers CROSS JOIN writer"
            " ORDER BY started_at, server_id"
        )
        return [
            ServerState(**row | {"writes_to": json.loads(row["writes_to"]).get("blobs", "")})
            for row in rows
        ]

    def silent(self, tx: Cursor, at_ms: float) -> list[str]:
        """Servers whose rows this one saw unchanged for so long that they are dead.

        By this machine's own ticks, and only while it looked: no clock that is set, and no outage
        of the database, makes servers take each other for dead.

        Args:
            at_ms: When this round began.
        """
        if at_ms - self._beaten_ms > STALE_SECONDS * 1000:
            self._others = {}
        rows = tx.all(
            "SELECT server_id, heartbeat_at FROM servers WHERE server_id <> $1", self.server_id
        )
        before = self._others
        self._others = {
            row["server_id"]: (row["heartbeat_at"], at_ms)
            if before.get(row["server_id"], (None,))[0] != row["heartbeat_at"]
            else before[row["server_id"]]
            for row in rows
        }
        long_ago = at_ms - DEAD_SECONDS * 1000
        return [server_id for server_id, (_, since) in self._others.items() if since < long_ago]

    @staticmethod
    def dead(tx: Cursor) -> list[str]:
        """Servers that have said nothing for long, by the database's clock: for :meth:`join`."""
        rows = tx.all(
            "SELECT server_id FROM servers WHERE heartbeat_at <"  # noqa: S608
            f" {_NOW} - INTERVAL '{DEAD_SECONDS} seconds'"
        )
        return [row["server_id"] for row in rows]

    def bury(self, tx: Cursor, server_id: str) -> None:
        """In a change: from the next one on, this server can make none. What it held is free."""
        tx.run("DELETE FROM servers WHERE server_id = $1", server_id)
        tx.run("DELETE FROM shared WHERE server = $1", server_id)
        self._forget_sign(server_id)
        log.warning("server %s was taken for dead", server_id)

    def leave(self, tx: Cursor) -> None:
        """This server stops."""
        tx.run("DELETE FROM shared WHERE server = $1", self.server_id)
        tx.run("DELETE FROM servers WHERE server_id = $1", self.server_id)
        self._forget_sign(self.server_id)

    def lead(self, tx: Cursor) -> None:
        """In a change: no server that led before can write as leader any more."""
        tx.run("UPDATE writer SET leader = $1", self.server_id)
        log.info("server %s does the scheduled work", self.server_id)
