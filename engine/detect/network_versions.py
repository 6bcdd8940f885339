"""Learned versions of MedSec's own network: every one that was taken in, and which is in force.

Rows are sealed and bound to the audit log. Files are encrypted, each under a key of its own, so
that a worker of a batch can be given the key of one version and no other key. A version is never
removed: each sealed image names the one that looked at it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from engine.detect.learned_files import LearnedFile, NetworkCard
from engine.detect.own_versions import OwnVersion
from engine.errors import DAMAGED, DetectorError, NotFound
from engine.host import Host
from engine.records import Caller
from engine.store.audit import AuditLog
from engine.store.audited_rows import AuditedRows
from engine.store.database import Cursor, Database
from engine.vault import derive, open_field, seal_field

#: Name of the row that says which version is in force; no version has this name.
STANDING = "standing"


@dataclass(frozen=True)
class VersionRecord:
    """A learned version that was taken in."""

    name: str
    card: NetworkCard
    size_bytes: int
    taken_at: datetime
    taken_by: str


@dataclass(frozen=True)
class VersionStanding:
    """Which versions look.

    Args:
        promoted: Names of learned versions, in the order in which they came in force; the last one
            is in force, and the shipped version where there is none.
        shadow: Name of the one that looks without changing anything; empty where there is none.
        shadow_since: When it began to.
    """

    promoted: tuple[str, ...] = ()
    shadow: str = ""
    shadow_since: datetime | None = None

    @property
    def in_force(self) -> str:
        """Empty for the shipped version."""
        return self.promoted[-1] if self.promoted else ""


@dataclass(frozen=True)
class SentVersion:
    """Where a worker of a batch finds a version, and the key of that file alone.

    Args:
        blob: Address of the encrypted file.
    """

    name: str
    sha256: str
    blob: str
    key: bytes = field(repr=False)

    def open(self, host: Host) -> OwnVersion:
        """Open it.

        Raises:
            DetectorError: The file is missing or altered.
            StorageBusy: It cannot be read now, and nothing is wrong with it.
        """
        try:
            sealed = host.read_blob(self.blob)
            return OwnVersion(
                self.name, self.sha256, open_field(self.key, _context(self.sha256), sealed)
            )
        except DAMAGED as err:
            raise DetectorError(
                "The file of a learned version is missing or altered. Roll back to another.",
                version=self.name,
            ) from err


@dataclass(frozen=True)
class ShadowCounts:
    """What a version did in the shadow, out of the log.

    Args:
        images: That it looked at.
        differing: Of those, images on which its boxes are others.
        more, fewer: Boxes that only it found, and that only the one in force found.
        failed: Images that it could not look at.
        decided: Images that a person decided after both had looked.
        missed, missed_in_force: Of those, where it, and the one in force, would have left visible
            something that the person hid.
    """

    images: int = 0
    differing: int = 0
    more: int = 0
    fewer: int = 0
    failed: int = 0
    decided: int = 0
    missed: int = 0
    missed_in_force: int = 0


class NetworkVersions:
    """The learned versions of one catalog.

    Args:
        key: 32 bytes, from which the keys of rows and files are made.
    """

    def __init__(self, database: Database, host: Host, key: bytes) -> None:
        self._database = database
        self._host = host
        self._key = key
        self._rows = AuditedRows("networks", host, key)
        self._open: dict[str, OwnVersion] = {}
        self._lock = threading.Lock()

    def records(self, tx: Cursor) -> dict[str, VersionRecord]:
        """All learned versions, the first taken in first. Raises SealBroken."""
        found = [
            VersionRecord(
                name,
                NetworkCard.from_json(row.facts["card"]),
                row.facts["size_bytes"],
                row.changed_at,
                row.changed_by,
            )
            for name, row in self._rows.all(tx).items()
            if name != STANDING
        ]
        return {r.name: r for r in sorted(found, key=lambda r: (r.taken_at, r.name))}

    def standing(self, tx: Cursor) -> VersionStanding:
        """Which versions look now. Raises SealBroken."""
        row = self._rows.all(tx).get(STANDING)
        return VersionStanding() if row is None else _standing(row.facts)

    def store(self, file: LearnedFile) -> str:
        """Store the encrypted weights of a version, before its row; returns their address."""
        sha256 = file.card.sha256
        key, context = self._file_key(sha256), _context(sha256)
        return self._host.write_blob(seal_field(key, context, file.version.onnx, self._host.random))

    def add(
        self, tx: Cursor, audit: AuditLog, caller: Caller, file: LearnedFile, blob: str
    ) -> None:
        """Take in a version whose weights are stored; it looks at nothing yet."""
        card = file.card
        facts = {"card": card.to_json(), "size_bytes": len(file.version.onnx), "blob": blob}
        self._rows.put(tx, audit, caller, card.name, facts, None)
        tx.run("UPDATE networks SET blob = $2 WHERE name = $1", card.name, blob)

    def stand(
        self, tx: Cursor, audit: AuditLog, caller: Caller, before: VersionStanding, **change: Any
    ) -> VersionStanding:
        """Change which versions look."""
        after = replace(before, **change)
        facts = {
            "promoted": list(after.promoted),
            "shadow": after.shadow,
            "shadow_since": after.shadow_since.isoformat() if after.shadow_since else None,
        }
        old = self._rows.all(tx).get(STANDING)
        self._rows.put(tx, audit, caller, STANDING, facts, old.facts if old else None)
        return after

    def version(self, name: str) -> OwnVersion:
        """A version with its weights; kept in memory.

        Raises:
            NotFound: There is none of this name.
            DetectorError: Its file is missing or altered.
            StorageBusy: It cannot be read now.
        """
        with self._lock:
            if name not in self._open:
                self._open[name] = self.sent(name).open(self._host)
            return self._open[name]

    def sent(self, name: str) -> SentVersion:
        """Where a worker finds a version. Raises NotFound, SealBroken."""
        row = self._rows.all(self._database.read()).get(name)
        if row is None or name == STANDING:
            raise NotFound("There is no such version of the network.")
        sha256 = str(row.facts["card"]["sha256"])
        return SentVersion(name, sha256, row.facts["blob"], self._file_key(sha256))

    def _file_key(self, sha256: str) -> bytes:
        return derive(self._key, f"network/{sha256}")

    def shadow_counts(self, tx: Cursor, name: str) -> ShadowCounts:
        """What a version did in the shadow, as the log has it."""
        looked = tx.all(
            "SELECT count(*) AS images, sum((failed OR more + fewer > 0)::INT) AS differing,"
            " sum(more) AS more, sum(fewer) AS fewer, sum(failed::INT) AS failed FROM"
            " (SELECT (detail ->> 'more')::INT AS more, (detail ->> 'fewer')::INT AS fewer,"
            " (detail ->> 'failed')::BOOLEAN AS failed FROM audit WHERE action = 'shadow.look'"
            " AND detail ->> 'version' = $1) AS looks",
            name,
        )[0]
        decided = tx.all(
            "SELECT count(*) AS decided, sum((detail ->> 'missed')::BOOLEAN::INT) AS missed,"
            " sum((detail ->> 'missed_in_force')::BOOLEAN::INT) AS missed_in_force FROM audit"
            " WHERE action = 'shadow.decide' AND detail ->> 'version' = $1",
            name,
        )[0]
        return ShadowCounts(**{k: int(v or 0) for k, v in {**looked, **decided}.items()})

    def differing(self, tx: Cursor, name: str, limit: int) -> list[str]:
        """Images on which a version in the shadow had other boxes, the newest first."""
        rows = tx.all(
            "SELECT image_id, max(sequence) AS last FROM audit WHERE action = 'shadow.look'"
            " AND detail ->> 'version' = $1 AND ((detail ->> 'failed')::BOOLEAN"
            " OR (detail ->> 'more')::INT + (detail ->> 'fewer')::INT > 0)"
            " GROUP BY image_id ORDER BY last DESC LIMIT $2",
            name,
            limit,
        )
        return [row["image_id"] for row in rows]

    def looked_at(self, tx: Cursor) -> dict[str, int]:
        """How many images were sealed after each version had looked, by its name."""
        rows = tx.all(
            "SELECT detail ->> 'detector' AS name, count(*) AS images FROM audit"
            " WHERE action = 'image.seal' AND outcome = 'ok' AND detail ->> 'detector' <> ''"
            " GROUP BY 1"
        )
        return {row["name"]: int(row["images"]) for row in rows}


def _context(sha256: str) -> str:
    return f"network/{sha256}/weights"


def _standing(facts: Mapping[str, Any]) -> VersionStanding:
    since = facts["shadow_since"]
    return VersionStanding(
        tuple(facts["promoted"]),
        facts["shadow"],
        datetime.fromisoformat(since) if since else None,
    )
