"""What is kept for seconds or minutes and has to be the same on every server of a catalog.

A name is held by one owner until a time; who comes second is told what the first one keeps there.
Claims, sign-ins that wait, one-time tickets, reads that were logged and request rates are made of
that. One server alone keeps them in its memory. Several keep them in rows of tables that a crash
of the database empties: that ends a claim or a sign-in, as a restart of a server does.

Whoever reads or writes these rows gains nothing: names are keyed hashes, values are sealed and
bound to kind and name, and a time that is beyond what was given counts as over.
"""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from engine.host import Host
from engine.store.database import Database, Row
from engine.vault import blind_index, open_field, seal_field

#: Clocks of servers differ by less than this; one that is set back by more lets holds end.
SLACK: Final = timedelta(minutes=1)
_TIDY_EVERY: Final = timedelta(minutes=1)
_MINUTE: Final = 60.0
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 (UTC without zone, as stored)
_TRIES: Final = 5


@dataclass(frozen=True)
class Hold:
    """A name that somebody holds.

    Args:
        kind: What it is about, such as ``claim``.
        name: May be secret: it is stored as a keyed hash.
        owner: Who holds it; nobody else's :meth:`Shared.leave` ends it.
        value: What whoever comes second, or asks, is told.
        lasting: It ends with the server that keeps it, at the latest.
    """

    kind: str
    name: str = field(repr=False)
    owner: str
    value: str = field(default="", repr=False)
    lasting: bool = False


class Shared(ABC):
    """Names that are held, and rates of requests."""

    def __init__(self, host: Host) -> None:
        self._host = host

    @abstractmethod
    def hold(self, hold: Hold, lifetime: timedelta) -> str | None:
        """Hold a name, or hold it for longer; a longer hold of the same owner stays as long.

        Returns:
            None, or what another owner keeps there; then nothing is changed.
        """

    @abstractmethod
    def get(self, kind: str, name: str) -> str | None:
        """What is kept under a name; None where nobody holds it now."""

    @abstractmethod
    def take(self, kind: str, name: str) -> str | None:
        """As :meth:`get`, and nobody gets it again."""

    @abstractmethod
    def leave(self, kind: str, name: str, owner: str) -> None:
        """End the hold of an owner, if there is one."""

    @abstractmethod
    def all(self, kind: str) -> list[str]:
        """What is kept under all names of a kind that are held now."""

    @abstractmethod
    def hit(self, name: str, amount: int, cost: int = 1) -> int:
        """Count a request, unless there were too many in the last minute.

        Args:
            amount: So many there may be in a minute.
            cost: So many it counts for.

        Returns:
            0, or seconds until the next try; then it was not counted.
        """

    @abstractmethod
    def tidy(self) -> None:
        """Forget what is over."""

    def _minute(self) -> tuple[int, float]:
        """Number of the present minute, and which part of it is left."""
        seconds = (self._host.now() - _EPOCH).total_seconds()
        return int(seconds // _MINUTE), 1.0 - seconds % _MINUTE / _MINUTE


def _live(since: datetime, until: datetime, now: datetime) -> bool:
    return since - SLACK <= now < until


@dataclass
class _Kept:
    hold: Hold
    since: datetime
    until: datetime


class SharedHere(Shared):
    """Of the one server that holds a catalog, in its memory."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._kept: dict[tuple[str, str], _Kept] = {}
        #: Minute, requests in it, and in the one before.
        self._rates: dict[str, tuple[int, int, int]] = {}
        self._tidied = host.now()
        self._lock = threading.Lock()

    def hold(self, hold: Hold, lifetime: timedelta) -> str | None:
        now = self._host.now()
        with self._lock:
            if not timedelta() <= now - self._tidied < _TIDY_EVERY:
                self._tidy(now)
            until, place = now + lifetime, (hold.kind, hold.name)
            there = self._kept.get(place)
            if there is not None and _live(there.since, there.until, now):
                if there.hold.owner != hold.owner:
                    return there.hold.value
                until = max(until, there.until)
            self._kept[place] = _Kept(hold, now, until)
        return None

    def get(self, kind: str, name: str) -> str | None:
        with self._lock:
            return self._value(self._kept.get((kind, name)))

    def take(self, kind: str, name: str) -> str | None:
        with self._lock:
            return self._value(self._kept.pop((kind, name), None))

    def leave(self, kind: str, name: str, owner: str) -> None:
        with self._lock:
            there = self._kept.get((kind, name))
            if there is not None and there.hold.owner == owner:
                del self._kept[kind, name]

    def all(self, kind: str) -> list[str]:
        with self._lock:
            kept = [self._value(k) for (of, _), k in self._kept.items() if of == kind]
        return [value for value in kept if value is not None]

    def hit(self, name: str, amount: int, cost: int = 1) -> int:
        with self._lock:
            minute, left = self._minute()
            of, hits, before = self._rates.get(name, (minute, 0, 0))
            if of < minute:
                of, hits, before = minute, 0, hits if of == minute - 1 else 0
                self._rates = {n: r for n, r in self._rates.items() if r[0] >= minute - 1}
            if before * left + hits + cost > amount:
                return max(1, round(left * _MINUTE))
            self._rates[name] = of, hits + cost, before
        return 0

    def _value(self, kept: _Kept | None) -> str | None:
        if kept is None or not _live(kept.since, kept.until, self._host.now()):
            return None
        return kept.hold.value

    def tidy(self) -> None:
        with self._lock:
            self._tidy(self._host.now())

    def _tidy(self, now: datetime) -> None:
        self._tidied = now
        self._kept = {p: k for p, k in self._kept.items() if _live(k.since, k.until, now)}


#: Of a row that is there already: is it held now? ``$6`` is now, ``$8`` now with slack.
_HELD: Final = "(s.since <= $8 AND $6 < s.until)"
_SAME: Final = f"(s.owner = excluded.owner AND {_HELD} AND s.until > excluded.until)"


class SharedRows(Shared):
    """Of several servers, in rows on PostgreSQL.

    Args:
        key: 32 bytes, for names and values.
    """

    def __init__(self, database: Database, host: Host, key: bytes) -> None:
        super().__init__(host)
        self._database = database
        self._key = key

    def hold(self, hold: Hold, lifetime: timedelta) -> str | None:
        now = self._host.now()
        row = (
            hold.kind, self._name(hold.kind, hold.name), hold.owner,
            self._database.server_id if hold.lasting else "", self._sealed(hold, now + lifetime),
            now, now + lifetime, now + SLACK,
        )  # fmt: skip
        for _ in range(_TRIES):
            got = self._database.read().all(
                "INSERT INTO shared AS s (kind, name, owner, server, sealed, since, until)"  # noqa: S608
                " VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (kind, name) DO UPDATE SET"
                f" server = CASE WHEN {_SAME} THEN s.server ELSE excluded.server END,"
                f" sealed = CASE WHEN {_SAME} THEN s.sealed ELSE excluded.sealed END,"
                f" until = CASE WHEN {_SAME} THEN s.until ELSE excluded.until END,"
                " owner = excluded.owner, since = excluded.since"
                f" WHERE s.owner = excluded.owner OR NOT {_HELD} RETURNING 1 AS x",
                *row,
            )
            if got:
                return None
            there = self.get(hold.kind, hold.name)
            if there is not None:
                return there
        return ""  # it comes and goes: somebody else has it all the time

    def get(self, kind: str, name: str) -> str | None:
        return self._first(
            kind,
            self._database.read().all(
                "SELECT * FROM shared WHERE kind = $1 AND name = $2", kind, self._name(kind, name)
            ),
        )

    def take(self, kind: str, name: str) -> str | None:
        return self._first(
            kind,
            self._database.read().all(
                "DELETE FROM shared WHERE kind = $1 AND name = $2 RETURNING *",
                kind,
                self._name(kind, name),
            ),
        )

    def leave(self, kind: str, name: str, owner: str) -> None:
        self._database.read().all(
            "DELETE FROM shared WHERE kind = $1 AND name = $2 AND owner = $3",
            kind,
            self._name(kind, name),
            owner,
        )

    def all(self, kind: str) -> list[str]:
        rows = self._database.read().all("SELECT * FROM shared WHERE kind = $1", kind)
        kept = [self._first(kind, [row]) for row in rows]
        return [value for value in kept if value is not None]

    def hit(self, name: str, amount: int, cost: int = 1) -> int:
        minute, left = self._minute()
        hits = "(CASE WHEN r.minute >= $2 THEN r.hits ELSE 0 END)"
        before = (
            "(CASE WHEN r.minute >= $2 THEN r.before WHEN r.minute = $2 - 1 THEN r.hits ELSE 0 END)"
        )
        counted = self._database.read().all(
            "INSERT INTO rates AS r (name, minute, hits, before)"
            " SELECT $1, $2::BIGINT, $3::INTEGER, 0 WHERE $3 <= $4::INTEGER"
            " ON CONFLICT (name) DO UPDATE SET"
            f" before = {before}, hits = {hits} + $3, minute = GREATEST(r.minute, $2)"
            f" WHERE {before} * $5::FLOAT8 + {hits} + $3 <= $4 RETURNING 1 AS x",
            self._name("rate", name),
            minute,
            cost,
            amount,
            left,
        )
        return 0 if counted else max(1, round(left * _MINUTE))

    def tidy(self) -> None:
        tx = self._database.read()
        tx.all("DELETE FROM shared WHERE until <= $1", self._host.now())
        tx.all("DELETE FROM rates WHERE minute < $1", self._minute()[0] - 1)

    def _name(self, kind: str, name: str) -> str:
        return blind_index(self._key, f"shared/{kind}", name.encode()).hex()

    def _sealed(self, hold: Hold, until: datetime) -> bytes:
        text = json.dumps([hold.name, until.isoformat(), hold.value])
        return seal_field(self._key, f"shared/{hold.kind}", text.encode(), self._host.random)

    def _first(self, kind: str, rows: Sequence[Row]) -> str | None:
        """What the first of these rows keeps, if it is held now. Raises SealBroken."""
        for row in rows:
            text = open_field(self._key, f"shared/{kind}", row["sealed"])
            name, until, value = json.loads(text)
            ours = self._name(kind, name) == row["name"]  # else it was moved
            if ours and _live(row["since"], datetime.fromisoformat(until), self._host.now()):
                return str(value)
        return None
