"""The queue of what goes to nodes of the network, and the rules that fill it.

A row is written in the transaction that seals an image or in which a person asks for it, so a crash
loses none. What was sent just before a crash is sent again: the same object under the same UID.
Rules are audited rows. Rows of the queue are not; whoever sends asks the log and the nodes again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from engine.errors import InputError, NotFound
from engine.host import Host
from engine.records import Caller
from engine.store.audit import AuditLog
from engine.store.audited_rows import AuditedRows
from engine.store.catalog import ImageRow
from engine.store.database import Cursor, Database
from engine.vault import derive

_FIRST_WAIT = timedelta(minutes=1)
_LONGEST_WAIT = timedelta(hours=1)
#: Three days of a destination that cannot be reached.
MOST_ATTEMPTS = 78
_MOST_DESTINATIONS = 20
#: What was sent or cancelled is forgotten after this time; the log keeps it.
KEPT = timedelta(days=30)


class SendingState(StrEnum):
    """Where an image is on its way."""

    WAITING = "waiting"
    SENT = "sent"
    FAILED = "failed"  # given up: a person has to do something
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Sending:
    """An image on its way to a node.

    Args:
        destination: AE title.
        original: The original; otherwise the masked image.
        cause: The rule that sends it, or the request of a person.
        attempts: Made so far.
        next_at: When it is tried next, where it waits.
        changed_at: When it came into its state, or was last tried.
        error: Why it is not sent, in plain words; empty where nothing failed.
    """

    sending_id: str
    image_id: str
    destination: str
    original: bool
    cause: str
    queued_by: str
    queued_at: datetime
    state: SendingState
    attempts: int
    next_at: datetime
    changed_at: datetime
    error: str


@dataclass(frozen=True)
class ForwardRule:
    """Masked images that go to nodes when they are sealed.

    Args:
        name: 1 to 40 characters.
        to: AE titles of the nodes that get them.
        sender: AE title of the node that sent the image; empty for whoever brought it.
        modality: Such as ``CT``; empty for any.
        profile: Specialty profile under which it was sealed; empty for any.
        enabled: It applies to what is sealed from now on.
    """

    name: str
    to: tuple[str, ...]
    sender: str = ""
    modality: str = ""
    profile: str = ""
    enabled: bool = True

    @classmethod
    def checked(cls, name: str, values: Mapping[str, Any]) -> ForwardRule:
        """A rule of what was typed. Raises InputError."""
        if unknown := sorted(set(values) - ({f.name for f in fields(cls)} - {"name"})):
            raise InputError(f"A rule has no value named {unknown[0][:40]}.")
        if not 1 <= len(name) <= 40 or not name.isprintable() or name != name.strip():
            raise InputError("The name of the rule is not valid. Use 1 to 40 visible characters.")
        rule = cls(name, **{**values, "to": tuple(values.get("to", ()))})
        texts = (*rule.to, rule.sender, rule.modality, rule.profile)
        if not all(isinstance(t, str) and len(t) <= 32 for t in texts):
            raise InputError("A value of the rule is of the wrong type, or too long.")
        if type(rule.enabled) is not bool or not 1 <= len(rule.to) <= _MOST_DESTINATIONS:
            raise InputError(f"Name 1 to {_MOST_DESTINATIONS} nodes that get the images.")
        return rule

    def applies(self, row: ImageRow) -> bool:
        """Does it send this image?"""
        return (
            self.enabled
            and (not self.sender or row.uploaded_by == f"ae:{self.sender}")
            and self.modality in ("", row.modality)
            and self.profile in ("", row.profile)
        )


@dataclass(frozen=True)
class ForwardRuleEntry:
    """A rule with who changed it last."""

    rule: ForwardRule
    changed_at: datetime
    changed_by: str


class ForwardRules:
    """Rules of one catalog, kept in memory: each image that is sealed asks for them."""

    def __init__(self, database: Database, host: Host, key: bytes) -> None:
        self._database = database
        self._rows = AuditedRows("forwardings", host, derive(key, "forwardings"))
        self._lock = threading.Lock()
        self._kept: dict[str, ForwardRuleEntry] | None = None

    def all(self) -> dict[str, ForwardRuleEntry]:
        """Rules by name. Raises SealBroken where a row was altered, removed or set back."""
        with self._lock:
            if self._kept is None:
                self._kept = {
                    name: ForwardRuleEntry(
                        ForwardRule.checked(name, row.facts), row.changed_at, row.changed_by
                    )
                    for name, row in self._rows.all(self._database.read()).items()
                }
            return dict(self._kept)

    def save(self, tx: Cursor, audit: AuditLog, caller: Caller, rule: ForwardRule) -> None:
        """Write a rule, with its audit entry. Call :meth:`forget` after the transaction."""
        before = self._rows.all(tx).get(rule.name)
        facts = {k: v for k, v in asdict(rule).items() if k != "name"}
        self._rows.put(tx, audit, caller, rule.name, facts, before.facts if before else None)

    def remove(self, tx: Cursor, audit: AuditLog, caller: Caller, name: str) -> None:
        """Delete a rule, with its audit entry. Raises NotFound."""
        before = self._rows.all(tx).get(name)
        if before is None:
            raise NotFound("There is no such rule.")
        self._rows.drop(tx, audit, caller, name, before.facts)

    def forget(self) -> None:
        """Read the rows anew next time: they were changed."""
        with self._lock:
            self._kept = None


class SendingRows:
    """Rows of the queue. Callers hold the transaction."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def add(
        self, tx: Cursor, image_id: str, destination: str, *, original: bool, cause: str, by: str
    ) -> str | None:
        """Queue an image; None where the same waits for the same node already."""
        waits = tx.count(
            "SELECT count(*) FROM sendings WHERE image_id = $1 AND destination = $2"
            " AND original = $3 AND state = 'waiting'",
            image_id, destination, original,
        )  # fmt: skip
        if waits:
            return None
        sending_id, now = self._host.token("sd"), self._host.now()
        tx.run(
            "INSERT INTO sendings VALUES ($1, $2, $3, $4, $5, $6, $7, 'waiting', 0, $7, $7, '')",
            sending_id, image_id, destination, original, cause, by, now,
        )  # fmt: skip
        return sending_id

    def get(self, tx: Cursor, sending_id: str) -> Sending:
        """One of them. Raises NotFound."""
        row = tx.one("SELECT * FROM sendings WHERE sending_id = $1", sending_id)
        if row is None:
            raise NotFound("There is no such entry of the queue.")
        return _sending(row)

    def all(
        self, tx: Cursor, state: str, destination: str, limit: int, offset: int
    ) -> list[Sending]:
        """Entries of a state and a destination, empty for any; the newest change first."""
        rows = tx.all(
            "SELECT * FROM sendings WHERE ($1 = '' OR state = $1) AND ($2 = '' OR destination = $2)"
            " ORDER BY changed_at DESC, queued_at DESC, sending_id LIMIT $3 OFFSET $4",
            state, destination, limit, offset,
        )  # fmt: skip
        return [_sending(row) for row in rows]

    def counts(self, tx: Cursor) -> dict[tuple[str, str], int]:
        """How many, by destination and state."""
        rows = tx.all(
            "SELECT destination, state, count(*) AS n FROM sendings GROUP BY destination, state"
        )
        return {(row["destination"], row["state"]): row["n"] for row in rows}

    def due(self, tx: Cursor, destination: str, limit: int) -> list[Sending]:
        """Entries of a destination that are to be tried now, oldest first."""
        now = self._host.now()
        rows = tx.all(
            # A time beyond the longest wait is from a clock that was ahead.
            "SELECT * FROM sendings WHERE state = 'waiting' AND destination = $1"
            " AND (next_at <= $2 OR next_at > $3) ORDER BY queued_at, sending_id LIMIT $4",
            destination, now, now + _LONGEST_WAIT, limit,
        )  # fmt: skip
        return [_sending(row) for row in rows]

    def destinations_due(self, tx: Cursor) -> list[str]:
        """Destinations for which something is to be tried now."""
        now = self._host.now()
        rows = tx.all(
            "SELECT DISTINCT destination FROM sendings WHERE state = 'waiting'"
            " AND (next_at <= $1 OR next_at > $2) ORDER BY destination",
            now, now + _LONGEST_WAIT,
        )  # fmt: skip
        return [row["destination"] for row in rows]

    def move(self, tx: Cursor, sending_id: str, state: SendingState, error: str = "") -> None:
        """Bring an entry into a state; a failed one that waits again begins anew."""
        now = self._host.now()
        tx.run(
            "UPDATE sendings SET state = $2, error = $3, changed_at = $4, next_at = $4,"
            " attempts = CASE WHEN $2 = 'waiting' THEN 0 ELSE attempts END WHERE sending_id = $1",
            sending_id, str(state), error, now,
        )  # fmt: skip

    def later(self, tx: Cursor, sendings: Sequence[Sending], error: str) -> list[Sending]:
        """Try these again later; those that were tried too often have failed, and are returned."""
        now, given_up = self._host.now(), []
        for one in sendings:
            over = one.attempts + 1 >= MOST_ATTEMPTS
            given_up += [one] if over else []
            wait = min(_FIRST_WAIT * 2 ** min(one.attempts, 10), _LONGEST_WAIT)
            tx.run(
                "UPDATE sendings SET attempts = attempts + 1, changed_at = $2, next_at = $3,"
                " state = $4, error = $5 WHERE sending_id = $1",
                one.sending_id, now, now + wait,
                str(SendingState.FAILED if over else SendingState.WAITING), error,
            )  # fmt: skip
        return given_up

    def requested(self, tx: Cursor, sending: Sending) -> bool:
        """Does the log have the person's request for this original?"""
        rows = tx.all(
            "SELECT detail FROM audit WHERE action = 'image.send' AND outcome = 'requested'"
            " AND actor = $1 AND detail ->> 'cause' = $2",
            sending.queued_by, sending.cause,
        )  # fmt: skip
        said = [json.loads(row["detail"]) for row in rows]
        return any(sending.image_id in s["images"] and s["to"] == sending.destination for s in said)

    def forget_old(self, tx: Cursor) -> None:
        """Delete what was sent or cancelled long ago."""
        tx.run(
            "DELETE FROM sendings WHERE state IN ('sent', 'cancelled') AND changed_at < $1",
            self._host.now() - KEPT,
        )


def _sending(row: Mapping[str, Any]) -> Sending:
    return Sending(**{**row, "state": SendingState(row["state"])})
