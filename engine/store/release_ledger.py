"""The ledger of earned release, as entries of the audit log that nobody without the key can write.

Each line is an entry of the log, in the transaction of what it says. Its facts are sealed under a
system key and bound to the number of the line and to the line before, so that whoever writes the
database's file can neither add, change, move nor leave out a line. What a technician must not know,
such as which image was drawn as a sample, is in the sealed part only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from engine.errors import SealBroken
from engine.host import Host
from engine.metrics import Ledger, LedgerKind, LedgerLine, Route, StreamName
from engine.records import Caller
from engine.store.audit import AuditLog, Event
from engine.store.database import Cursor
from engine.vault import open_field, seal_field

#: Actions of the log that are lines of the ledger.
ACTIONS = {f"release.{kind}": kind for kind in LedgerKind}


class ReleaseLedger:
    """The ledger of one log, read once and then line by line.

    Args:
        key: 32 bytes under which lines are sealed.
    """

    def __init__(self, host: Host, key: bytes) -> None:
        self._host = host
        self._key = key
        self._lock = threading.RLock()
        self._forget()

    def _forget(self) -> None:
        self._ledger = Ledger()
        #: Sequence and seal of the last line that was read, and how many there were.
        self._last: tuple[int, str] = (0, "")
        self._lines = 0

    @contextmanager
    def reading(self, tx: Cursor) -> Iterator[Ledger]:
        """All lines that this cursor sees; nobody else changes the ledger meanwhile.

        Raises:
            SealBroken: A line was altered, added or left out.
        """
        with self._lock:
            self._catch_up(tx)
            yield self._ledger

    def append(
        self,
        tx: Cursor,
        audit: AuditLog,
        caller: Caller,
        line: LedgerLine,
        numbers: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a line, in the caller's transaction.

        Args:
            numbers: For people who read the log; they are not read back.

        Raises:
            SealBroken: A line before it was altered, added or left out.
        """
        with self._lock:
            self._catch_up(tx)
            context = self._context(self._lines, self._last[1])
            sealed = seal_field(self._key, context, _packed(line), self._host.random)
            detail = {**(numbers or {}), "line": base64.b64encode(sealed).decode()}
            event = Event(
                f"release.{line.kind}", image_id=line.image_id, reason=line.why, detail=detail
            )
            audit.append(tx, caller, event)
            self._catch_up(tx)

    def _catch_up(self, tx: Cursor) -> None:
        """Read what is new. A change that was rolled back after it had been read is forgotten."""
        sequence, seal = self._last
        if sequence:
            there = tx.one(
                "SELECT detail ->> 'line' AS line FROM audit WHERE sequence = $1", sequence
            )
            if there is None or there["line"] is None or _digest(there["line"]) != seal:
                self._forget()
        rows = tx.all(
            "SELECT sequence, occurred_at, action, image_id, detail ->> 'line' AS line FROM audit"
            " WHERE sequence > $1 AND action IN (SELECT unnest($2::VARCHAR[])) ORDER BY sequence",
            self._last[0],
            list(ACTIONS),
        )
        for row in rows:
            try:
                self._read(row)
            except (SealBroken, ValueError, TypeError, KeyError) as err:
                self._forget()
                raise SealBroken(
                    "The ledger of released images was altered. Nothing is released without a"
                    " person until the catalog is restored from a backup.",
                    sequence=row["sequence"],
                ) from err

    def _read(self, row: Mapping[str, Any]) -> None:
        context = self._context(self._lines, self._last[1])
        sealed = base64.b64decode(row["line"], validate=True)
        facts = json.loads(open_field(self._key, context, sealed))
        line = _unpacked(facts, datetime.fromisoformat(row["occurred_at"]))
        if (line.kind, line.image_id) != (ACTIONS[row["action"]], row["image_id"]):
            raise ValueError("the line is another one's")
        self._ledger.add(line)
        self._last, self._lines = (row["sequence"], _digest(row["line"])), self._lines + 1

    @staticmethod
    def _context(number: int, before: str) -> str:
        return f"release/{number}/{before}"


def _digest(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()


def _packed(line: LedgerLine) -> bytes:
    facts: dict[str, Any] = {"kind": line.kind, "image": line.image_id}
    if line.kind is LedgerKind.ARRIVE:
        facts |= {"route": line.route, "empty": line.empty, "whole": _name(line.whole)}
    if line.shadow:
        facts["shadow"] = True
    if line.stream is not None:
        facts["stream"] = _name(line.stream)
    if line.kind is LedgerKind.LOOK:
        facts["missed"] = line.missed
    if line.kind is LedgerKind.SUSPEND:
        facts |= {"why": line.why, "doubted": list(line.doubted)}
    return json.dumps(facts, ensure_ascii=False).encode()


def _name(name: StreamName | None) -> list[Any]:
    assert name is not None
    return [name.version, name.parts]


def _unpacked(facts: Mapping[str, Any], at: datetime) -> LedgerLine:
    def named(key: str) -> StreamName | None:
        if key not in facts:
            return None
        version, parts = facts[key]
        return StreamName(version, tuple((str(n), str(v)) for n, v in parts))

    return LedgerLine(
        LedgerKind(facts["kind"]),
        facts["image"],
        at,
        stream=named("stream"),
        whole=named("whole"),
        route=Route(facts.get("route", Route.PERSON)),
        empty=bool(facts.get("empty", False)),
        missed=bool(facts.get("missed", False)),
        why=facts.get("why", ""),
        doubted=tuple(facts.get("doubted", ())),
        shadow=bool(facts.get("shadow", False)),
    )
