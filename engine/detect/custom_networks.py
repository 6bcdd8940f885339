"""Custom networks of the hospital: uploaded, checked by a test run, and stored encrypted."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from engine.detect.custom_network import (
    DEFAULT_SIDE_PX,
    MEMORY_BYTES,
    SECONDS,
    SIDES_PX,
    CustomNetwork,
    Runner,
    Shape,
    inspect,
)
from engine.detect.networks import ModelInfo
from engine.errors import DAMAGED, DetectorError, InputError, NotFound
from engine.formats.sandbox import Sandbox
from engine.host import Host
from engine.records import Caller
from engine.store.audit import AuditLog
from engine.store.audited_rows import AuditedRows
from engine.store.database import Cursor, Database
from engine.vault import open_field, seal_field

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
TITLE_LENGTH = 60


def custom_network_sandbox() -> Sandbox:
    """The sandbox for custom networks: one process without keys and files."""
    return Sandbox("engine.detect.custom_network", 1, SECONDS, MEMORY_BYTES)


@dataclass(frozen=True)
class CustomNetworkRecord:
    """A network of the hospital's own.

    Args:
        names: Its classes as the file names them, each with MedSec's class or an empty string.
        side: Of the square picture that it is shown, px.
        check_ms: How long a picture took when it was checked.
    """

    name: str
    title: str
    sha256: str
    size_bytes: int
    side: int
    names: Mapping[str, str]
    check_ms: float
    added_at: datetime
    added_by: str

    @property
    def finds(self) -> tuple[str, ...]:
        """Classes of MedSec that it detects."""
        return tuple(dict.fromkeys(label for label in self.names.values() if label))


@dataclass(frozen=True)
class SentNetwork:
    """A network as an administrator sends it.

    Args:
        names: For each of its classes that counts, MedSec's class.
        side: Of the picture it is shown, px, where the file leaves that open.
    """

    name: str
    title: str
    model: bytes = field(repr=False)
    names: Mapping[str, str]
    side: int | None


class CustomNetworkStore:
    """The networks of one catalog.

    Args:
        key: 32 bytes under which rows and files are sealed.
        limit_bytes: Largest file that is taken.
    """

    def __init__(
        self, database: Database, host: Host, key: bytes, limit_bytes: int, threads: int
    ) -> None:
        self._database = database
        self._host = host
        self._key = key
        self._limit = limit_bytes
        self._threads = threads
        self._rows = AuditedRows("guests", host, key)
        self._open: dict[str, CustomNetwork] = {}
        self._lock = threading.Lock()
        self.sandbox = custom_network_sandbox()

    def records(self) -> dict[str, CustomNetworkRecord]:
        """All custom networks by name. Raises SealBroken if a row was altered."""
        return {
            name: CustomNetworkRecord(
                name,
                row.facts["title"],
                row.facts["sha256"],
                row.facts["size_bytes"],
                row.facts["side"],
                dict(row.facts["names"]),
                row.facts["check_ms"],
                row.changed_at,
                row.changed_by,
            )
            for name, row in self._rows.all(self._database.read()).items()
        }

    def inspected(self, model: bytes) -> Shape:
        """Input size and classes of a network file. Raises InputError if it is not valid."""
        if len(model) > self._limit:
            raise InputError(
                f"The network is too large ({len(model) / 1e6:.0f} MB). The limit is"
                f" {self._limit / 1e6:.0f} MB.",
                limit_bytes=self._limit,
            )
        return inspect(self.sandbox, model)

    def checked(
        self, sent: SentNetwork, known: Collection[str], taken: Collection[str]
    ) -> dict[str, object]:
        """Check a network before it is accepted: read, run and time it.

        Args:
            known: Classes of MedSec.
            taken: Names of networks that are there.

        Returns:
            The facts of its row.

        Raises:
            InputError: It cannot be taken; says why.
        """
        name, title, model, names, side = sent.name, sent.title, sent.model, sent.names, sent.side
        if not _NAME.fullmatch(name) or name in taken:
            raise InputError(
                "The network's name is not valid or already used. Use up to 32 lowercase"
                " letters, digits and hyphens, beginning with a letter."
            )
        if not title.strip() or len(title) > TITLE_LENGTH:
            raise InputError(f"A network's title has 1 to {TITLE_LENGTH} characters.")
        shape = self.inspected(model)
        wanted = shape.side or side or DEFAULT_SIDE_PX
        if wanted % 32 or not SIDES_PX[0] <= wanted <= SIDES_PX[1]:
            raise InputError(
                f"The picture's side is a multiple of 32 from {SIDES_PX[0]} to {SIDES_PX[1]} px."
            )
        if side and shape.side and side != shape.side:
            raise InputError(
                f"The input size of this network is {shape.side} px. Use this size.",
                side=shape.side,
            )
        strange = sorted(set(names) - set(shape.names))
        if strange:
            raise InputError(f"The network has no such classes: {', '.join(strange)}.")
        labels = {n: names.get(n, "") for n in shape.names}
        if set(labels.values()) - {"", *known} or not any(labels.values()):
            raise InputError(f"Map at least one class to one of {', '.join(sorted(known))}.")
        sha256 = hashlib.sha256(model).hexdigest()
        facts: dict[str, object] = {
            "title": title.strip(),
            "sha256": sha256,
            "size_bytes": len(model),
            "side": wanted,
            "names": labels,
        }
        network = as_network(self.sandbox, model, CustomNetworkRecord(
            name, title, sha256, len(model), wanted, labels, 0.0, self._host.now(), ""
        ), self._threads)  # fmt: skip
        try:
            for picture in _trial_pictures(wanted):
                began = self._host.ticks_ms()
                network.look(picture, 0.05)
                facts["check_ms"] = round(self._host.ticks_ms() - began, 1)
        except DetectorError as err:
            raise InputError(f"The network was run and failed: {err.message}") from err
        return facts

    def store(self, model: bytes, facts: Mapping[str, object]) -> str:
        """Store the encrypted file of a checked network, before its row; returns its address."""
        context = f"guest/{facts['sha256']}/model"
        return self._host.write_blob(seal_field(self._key, context, model, self._host.random))

    def add(
        self,
        tx: Cursor,
        audit: AuditLog,
        caller: Caller,
        name: str,
        blob: str,
        facts: Mapping[str, object],
    ) -> None:
        """Enter a network whose file is stored: its row and audit entry."""
        self._rows.put(tx, audit, caller, name, {**facts, "blob": blob}, None)
        tx.run("UPDATE guests SET blob = $2 WHERE name = $1", name, blob)

    def remove(self, tx: Cursor, audit: AuditLog, caller: Caller, name: str) -> str:
        """Remove a network; returns the address of its file, which can be deleted.

        Raises:
            NotFound: There is none of this name.
        """
        row = self._rows.all(tx).get(name)
        if row is None:
            raise NotFound("There is no such custom network.")
        self._rows.drop(tx, audit, caller, name, row.facts)
        with self._lock:
            self._open.pop(name, None)
        return str(row.facts["blob"])

    def forget(self) -> None:
        """Load networks anew when they are next used: they were changed."""
        with self._lock:
            self._open.clear()

    def network(self, name: str) -> CustomNetwork:
        """A runnable network, loaded on first use.

        Raises:
            DetectorError: It is missing, or its file was altered.
        """
        with self._lock:
            if name not in self._open:
                self._open[name] = self._opened(name)
            return self._open[name]

    def _opened(self, name: str) -> CustomNetwork:
        packed = self.packed(name)
        return as_network(self.sandbox, packed.model, packed.record, self._threads)

    def packed(self, name: str) -> PackedModel:
        """A network for a worker elsewhere: its decrypted file and its record, without keys.

        Raises:
            DetectorError: It is missing, or its file was altered.
            StorageBusy: Its file cannot be read now.
        """
        row = self._rows.all(self._database.read()).get(name)
        if row is None:
            raise DetectorError(f"There is no network {name!r}.", network=name)
        try:
            sealed = self._host.read_blob(row.facts["blob"])
            model = open_field(self._key, f"guest/{row.facts['sha256']}/model", sealed)
        except DAMAGED as err:
            raise DetectorError(
                "The file of a custom network is missing or altered. Upload it again.",
                network=name,
            ) from err
        return PackedModel(self.records()[name], model)


@dataclass(frozen=True)
class PackedModel:
    """A network as it travels to a worker of a batch.

    Args:
        model: The file; its SHA-256 is the record's.
    """

    record: CustomNetworkRecord
    model: bytes = field(repr=False)

    def unpack(self, sandbox: Sandbox, threads: int) -> CustomNetwork:
        """The runnable network, in a sandbox of the worker.

        Raises:
            DetectorError: The file does not match the record.
        """
        if hashlib.sha256(self.model).hexdigest() != self.record.sha256:
            raise DetectorError(
                "A custom network was altered on its way to a worker.",
                network=self.record.name,
            )
        return as_network(sandbox, self.model, self.record, threads)


def as_network(
    sandbox: Sandbox, model: bytes, record: CustomNetworkRecord, threads: int
) -> CustomNetwork:
    """A runnable network from its file and record."""
    return CustomNetwork(
        sandbox,
        model,
        Runner(record.sha256, record.side, len(record.names), threads),
        [label or None for label in record.names.values()],
        ModelInfo(
            name=record.title,
            version=f"{record.added_at:%Y-%m-%d}",
            sha256=record.sha256,
            licence="the hospital's own",
            classes=record.finds,
            source="sent by an administrator; runs without access to keys",
        ),
    )


def _trial_pictures(side: int) -> list[np.ndarray]:
    """A grey one, noise, and one that is wide: what a network must answer whatever it shows."""
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return [np.full((side, side, 3), 114, np.uint8), noise, noise[: side // 2]]
