"""Nodes of the network (DICOM application entities), and what they sent of unknown patients.

A node is an audited row: sealed, and bound to the audit log by its tag. An instance whose patient
is not known is held, encrypted whole under a key of the installation, until a person says whose it
is.
"""

from __future__ import annotations

import ipaddress
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any

from engine.errors import InputError, NotFound, SealBroken
from engine.host import Host
from engine.records import Caller
from engine.store.audit import AuditLog
from engine.store.audited_rows import AuditedRows
from engine.store.database import Cursor, Database
from engine.vault import blind_index, derive, open_field, seal_field

#: An AE title: printable ASCII without backslash, at most 16 characters (PS3.5 6.2).
_TITLE = re.compile(r"[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?")
_MOST_ADDRESSES = 20
#: What a node may find and fetch.
QUERIES = ("", "own", "all")


@dataclass(frozen=True)
class Node:
    """What an administrator allows an application entity.

    Args:
        title: AE title, 1 to 16 characters.
        description: For people, at most 100 characters.
        addresses: IP addresses or networks (``10.1.0.0/16``) from which it may call.
        certificate: SHA-256 of its TLS certificate in hex; empty for any that the CA vouches for.
        profile: Specialty profile of its images; empty for the setting's.
        creates_patients: A patient whose number is not known gets a record; otherwise the instance
            is held until a person says whose it is.
        seals: Images without doubt are sealed at once, where the setting ``auto_seal`` allows it;
            otherwise every image waits for a person.
        sends: May hand instances in.
        queries: Which masked objects it may find and fetch: none (empty), ``own``, those of images
            that it sent itself, or ``all``.
        host: Name or IP address under which it takes objects; empty where nothing is sent to it.
        port: Its port there, 1 to 65535.
        tls: It is called over TLS, with this server's certificate.
        receives: Masked objects may be sent to it.
        originals: A person with the right may send originals to it.
        renames: It gets masked objects under identifiers of its own, so that they cannot be joined
            with those of others, nor restored from the file alone.
        deidentification: Profile by which copies are made for it; empty for masked objects.
        packages: It gets masked objects with their sealed package inside, from which this
            installation restores them. Not together with ``renames``.
    """

    title: str
    description: str = ""
    addresses: tuple[str, ...] = ()
    certificate: str = ""
    profile: str = ""
    creates_patients: bool = False
    seals: bool = False
    sends: bool = True
    queries: str = ""
    host: str = ""
    port: int = 0
    tls: bool = False
    receives: bool = False
    originals: bool = False
    renames: bool = False
    deidentification: str = ""
    packages: bool = False

    @classmethod
    def checked(cls, title: str, values: Mapping[str, Any]) -> Node:
        """A node of what was typed.

        Raises:
            InputError: Which value is not valid, and what it may be.
        """
        known = {f.name for f in fields(cls)} - {"title"}
        if unknown := sorted(set(values) - known):
            raise InputError(f"A node has no value named {unknown[0][:40]}.")
        if not _TITLE.fullmatch(title):
            raise InputError(
                "The AE title is not valid. Use 1 to 16 visible ASCII characters without backslash."
            )
        node = cls(title, **{**values, "addresses": tuple(values.get("addresses", ()))})
        texts = (
            node.description, node.certificate, node.profile, node.queries, node.host,
            node.deidentification, *node.addresses,
        )  # fmt: skip
        flags = (
            node.creates_patients, node.seals, node.sends, node.tls, node.receives,
            node.originals, node.renames,
            node.packages,
        )  # fmt: skip
        if not all(isinstance(t, str) for t in texts) or not all(type(f) is bool for f in flags):
            raise InputError("A value of the node is of the wrong type.")
        if len(node.description) > 100 or not node.description.isprintable():
            raise InputError("The description is not valid. Use at most 100 visible characters.")
        if not 1 <= len(node.addresses) <= _MOST_ADDRESSES:
            raise InputError(
                f"Name 1 to {_MOST_ADDRESSES} IP addresses or networks from which it calls."
            )
        for address in node.addresses:
            try:
                ipaddress.ip_network(address)
            except ValueError as err:
                raise InputError(
                    "An address is not valid. Use IP addresses such as 10.1.2.3, or networks such"
                    " as 10.1.0.0/16."
                ) from err
        if node.certificate and not _DIGEST.fullmatch(node.certificate):
            raise InputError(
                "The fingerprint is not valid. Use the SHA-256 of the certificate, 64 hex digits in"
                " lower case."
            )
        node._check_place()
        return node

    def _check_place(self) -> None:
        """What it may ask for, and where it takes objects. Raises InputError."""
        if self.queries not in QUERIES:
            raise InputError("A node may find nothing, its own images (own) or all of them (all).")
        if type(self.port) is not int or not 0 <= self.port <= 65_535:
            raise InputError("The port is not valid. Use 1 to 65535, or 0 for none.")
        if self.host and not _HOST.fullmatch(self.host):
            raise InputError(
                "The host is not valid. Use a name such as pacs.example, or an IP address."
            )
        if (self.receives or self.originals) and not (self.host and self.port):
            raise InputError("Name the host and the port under which the node takes images.")
        if self.deidentification and (self.renames or self.packages):
            raise InputError(
                "Copies have identifiers of their own, and no package. Take these options away, or"
                " the de-identification profile."
            )
        if self.renames and self.packages:
            raise InputError(
                "A node gets either identifiers of its own, or sealed packages, which name the"
                " image."
            )
        if self.originals and not self.receives:
            raise InputError("A node that may have originals has to receive images.")

    def calls_from(self, address: str) -> bool:
        """May it call from this IP address?"""
        try:
            here = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(here, ipaddress.IPv6Address) and here.ipv4_mapped is not None:
            here = here.ipv4_mapped
        return any(here in ipaddress.ip_network(network) for network in self.addresses)


@dataclass(frozen=True)
class NodeEntry:
    """A node with who changed it last."""

    node: Node
    changed_at: datetime
    changed_by: str


class NodeRows:
    """Nodes of one catalog, kept in memory: each instance that arrives asks for its sender."""

    def __init__(self, database: Database, host: Host, key: bytes) -> None:
        self._database = database
        self._rows = AuditedRows("nodes", host, derive(key, "nodes"))
        self._lock = threading.Lock()
        self._kept: dict[str, NodeEntry] | None = None

    def all(self) -> dict[str, NodeEntry]:
        """Nodes by AE title.

        Raises:
            SealBroken: A row was altered, removed or replaced by an older one.
        """
        with self._lock:
            if self._kept is None:
                rows = self._rows.all(self._database.read())
                self._kept = {
                    name: NodeEntry(Node.checked(name, row.facts), row.changed_at, row.changed_by)
                    for name, row in rows.items()
                }
            return dict(self._kept)

    def get(self, title: str) -> Node | None:
        """One node; None where there is none. Raises SealBroken."""
        entry = self.all().get(title)
        return entry.node if entry else None

    def save(self, tx: Cursor, audit: AuditLog, caller: Caller, node: Node) -> None:
        """Write a node, with its audit entry. Call :meth:`forget` after the transaction."""
        before = self._rows.all(tx).get(node.title)
        facts = {k: v for k, v in asdict(node).items() if k != "title"}
        self._rows.put(tx, audit, caller, node.title, facts, before.facts if before else None)

    def remove(self, tx: Cursor, audit: AuditLog, caller: Caller, title: str) -> None:
        """Delete a node, with its audit entry. Raises NotFound."""
        before = self._rows.all(tx).get(title)
        if before is None:
            raise NotFound("There is no such node.")
        self._rows.drop(tx, audit, caller, title, before.facts)

    def forget(self) -> None:
        """Read the rows anew next time: they were changed."""
        with self._lock:
            self._kept = None


@dataclass(frozen=True)
class HeldInstance:
    """An instance that waits for a person to say whose it is.

    Args:
        node: AE title of its sender.
        hints: What its header says of the patient: see :func:`engine.formats.dicom.patient_hints`.
        blob: Address of the encrypted file.
        indexes: Keyed hashes of the file and of the instance.
        study: Study Instance UID in its header; empty where it has none.
    """

    held_id: str
    node: str
    received_at: datetime
    hints: Mapping[str, Any] = field(repr=False)
    blob: str = field(repr=False)
    indexes: tuple[bytes, bytes] = field(repr=False)
    study: str = field(default="", repr=False)


class HeldInstances:
    """Rows of held instances. Callers hold the transaction.

    The column ``together`` is a keyed hash: equal for images that one answer can assign, of one
    study that one node sent, whose headers say the same of the patient. What names no study stands
    alone.
    """

    def __init__(self, host: Host, key: bytes) -> None:
        self._host = host
        self._key = derive(key, "held instances")

    def seal(self, held_id: str, data: bytes) -> bytes:
        """A file as it is stored."""
        return seal_field(self._key, f"held/{held_id}/file", data, self._host.random)

    def open(self, held: HeldInstance) -> bytes:
        """The file of a held instance. Raises SealBroken, StorageError."""
        return open_field(self._key, f"held/{held.held_id}/file", self._host.read_blob(held.blob))

    def add(self, tx: Cursor, held: HeldInstance) -> None:
        """Insert a row."""
        file_index, instance_index = held.indexes
        facts = json.dumps({
            "node": held.node, "blob": held.blob, "hints": dict(held.hints), "study": held.study,
        })  # fmt: skip
        tx.run(
            "INSERT INTO held_instances (held_id, node, received_at, file_index, instance_index,"
            " blob, facts, together) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            held.held_id, held.node, held.received_at, file_index, instance_index, held.blob,
            seal_field(
                self._key, f"held/{held.held_id}/facts", facts.encode(), self._host.random
            ),
            self._together(held),
        )  # fmt: skip

    def all(self, tx: Cursor, limit: int, offset: int) -> list[HeldInstance]:
        """Held instances, oldest first. Raises SealBroken."""
        rows = tx.all(
            "SELECT * FROM held_instances ORDER BY received_at, held_id LIMIT $1 OFFSET $2",
            limit,
            offset,
        )
        return [self._held(row) for row in rows]

    def first(self, tx: Cursor, limit: int) -> list[tuple[HeldInstance, int]]:
        """The oldest of those that belong together, and how many these are; oldest first.

        No other is opened. Raises SealBroken.
        """
        rows = tx.all(
            "SELECT * FROM held_instances AS h JOIN (SELECT held_id AS oldest,"
            " row_number() OVER (PARTITION BY together ORDER BY received_at, held_id) AS place,"
            " count(*) OVER (PARTITION BY together) AS images FROM held_instances) AS c"
            " ON h.held_id = c.oldest WHERE place = 1 ORDER BY received_at, held_id LIMIT $1",
            limit,
        )
        return [(self._held(row), row["images"]) for row in rows]

    def with_(self, tx: Cursor, held_id: str) -> list[HeldInstance]:
        """A held instance and those that belong to it, oldest first. Raises SealBroken."""
        rows = tx.all(
            "SELECT * FROM held_instances WHERE together ="
            " (SELECT together FROM held_instances WHERE held_id = $1)"
            " ORDER BY received_at, held_id",
            held_id,
        )
        return [self._held(row) for row in rows]

    def of_earlier_releases(self, tx: Cursor) -> list[HeldInstance]:
        """Rows that do not say yet what they belong to. Raises SealBroken."""
        rows = tx.all("SELECT * FROM held_instances WHERE together IS NULL")
        return [self._held(row) for row in rows]

    def join(self, tx: Cursor, held: HeldInstance) -> None:
        """Write what a row of an earlier release belongs to."""
        sql = "UPDATE held_instances SET together = $2 WHERE held_id = $1"
        tx.run(sql, held.held_id, self._together(held))

    def _together(self, held: HeldInstance) -> bytes:
        said = sorted((name, str(value)) for name, value in held.hints.items())
        what = [held.node, held.study, said] if held.study else [held.held_id]
        return blind_index(self._key, "held/together", json.dumps(what))

    def get(self, tx: Cursor, held_id: str) -> HeldInstance:
        """One of them. Raises NotFound, SealBroken."""
        row = tx.one("SELECT * FROM held_instances WHERE held_id = $1", held_id)
        if row is None:
            raise NotFound("There is no such held image. It may have been assigned already.")
        return self._held(row)

    def has(self, tx: Cursor, indexes: tuple[bytes, bytes]) -> bool:
        """Is this file, or this instance, held?"""
        sql = "SELECT count(*) FROM held_instances WHERE file_index = $1 OR instance_index = $2"
        return tx.count(sql, *indexes) > 0

    def count(self, tx: Cursor) -> int:
        """How many are held."""
        return tx.count("SELECT count(*) FROM held_instances")

    def remove(self, tx: Cursor, held_id: str) -> None:
        """Delete a row; its file is the caller's to delete after the transaction."""
        tx.run("DELETE FROM held_instances WHERE held_id = $1", held_id)

    def _held(self, row: Mapping[str, Any]) -> HeldInstance:
        facts = json.loads(open_field(self._key, f"held/{row['held_id']}/facts", row["facts"]))
        held = HeldInstance(
            row["held_id"],
            facts["node"],
            row["received_at"],
            facts["hints"],
            facts["blob"],
            (row["file_index"], row["instance_index"]),
            facts.get("study", ""),  # rows of 0.1 have none
        )
        if row["together"] not in (None, self._together(held)):  # none: of an earlier release
            raise SealBroken(
                "A held image does not belong where its row says.", held_id=held.held_id
            )
        return held
