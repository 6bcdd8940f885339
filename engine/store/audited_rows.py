"""Sealed rows of administrators' changes, bound to the audit log.

Each change writes the row's tag to the log, in the same transaction, so that an altered, removed
or rolled back row is detected when it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from engine.errors import SealBroken
from engine.host import Host
from engine.records import Caller
from engine.store.audit import AuditLog, Event
from engine.store.database import Cursor
from engine.vault import open_field, seal_field


@dataclass(frozen=True)
class AuditedRow:
    """One decrypted row."""

    facts: Mapping[str, Any]
    changed_at: datetime
    changed_by: str


class AuditedRows:
    """The rows of one table (name, sealed, changed_at, changed_by).

    Args:
        table: Its name, which is also the noun of its audit actions: ``profiles`` gives
            ``profile.save`` and ``profile.reset``.
        key: 32 bytes under which rows are sealed.
    """

    def __init__(self, table: str, host: Host, key: bytes) -> None:
        self._table = table
        self._noun = table.removesuffix("s")
        self._host = host
        self._key = key

    def all(self, tx: Cursor) -> dict[str, AuditedRow]:
        """All rows by name.

        Raises:
            SealBroken: A row was altered, removed or replaced by an older one.
        """
        rows = tx.all(f"SELECT * FROM {self._table} ORDER BY name")  # noqa: S608
        if self._logged(tx) != {row["name"]: _tag(row["sealed"]) for row in rows}:
            raise SealBroken(f"The {self._table} were altered: restore them from a backup.")
        return {
            row["name"]: AuditedRow(
                json.loads(open_field(self._key, self._context(row["name"]), row["sealed"])),
                row["changed_at"],
                row["changed_by"],
            )
            for row in rows
        }

    def put(
        self,
        tx: Cursor,
        audit: AuditLog,
        caller: Caller,
        name: str,
        facts: Mapping[str, Any],
        before: Mapping[str, Any] | None,
    ) -> None:
        """Write a row; the log has the values before and after."""
        text = json.dumps(facts).encode()
        sealed = seal_field(self._key, self._context(name), text, self._host.random)
        tx.run(f"DELETE FROM {self._table} WHERE name = $1", name)  # noqa: S608
        tx.run(
            f"INSERT INTO {self._table} (name, sealed, changed_at, changed_by)"  # noqa: S608
            " VALUES ($1, $2, $3, $4)",
            name, sealed, self._host.now(), caller.username,
        )  # fmt: skip
        tx.announce()
        detail = {"name": name, "tag": _tag(sealed), "before": before, "after": facts}
        audit.append(tx, caller, Event(f"{self._noun}.save", detail=detail))

    def drop(
        self,
        tx: Cursor,
        audit: AuditLog,
        caller: Caller,
        name: str,
        before: Mapping[str, Any],
        after: Mapping[str, Any] | None = None,
    ) -> None:
        """Delete a row; ``after`` is the value that applies from now on."""
        tx.run(f"DELETE FROM {self._table} WHERE name = $1", name)  # noqa: S608
        tx.announce()
        detail = {"name": name, "tag": None, "before": before, "after": after}
        audit.append(tx, caller, Event(f"{self._noun}.reset", detail=detail))

    def _logged(self, tx: Cursor) -> dict[str, str]:
        """The tag of each name's newest row, as the log has it; none of those taken away."""
        rows = tx.all(
            "SELECT detail ->> 'name' AS name, detail ->> 'tag' AS tag FROM audit"
            " WHERE action IN ($1, $2) AND outcome = 'ok' ORDER BY sequence",
            f"{self._noun}.save",
            f"{self._noun}.reset",
        )
        newest = {row["name"]: row["tag"] for row in rows}
        return {name: tag for name, tag in newest.items() if tag is not None}

    def _context(self, name: str) -> str:
        return f"{self._noun}/{name}"


def _tag(sealed: bytes) -> str:
    return hashlib.sha256(sealed).hexdigest()
