"""What people drew on the images of each device, out of the audit log, and rules made of it.

The log has every box that a person added, and which device made the image that was sealed. Rules
are rows that are sealed and bound to the log, so that one that was taken away is found.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.host import Host
from engine.metrics import LATEST, Memories, Memory, Place, device_id, recurring
from engine.records import Caller, Detection, Region
from engine.store.audit import AuditLog
from engine.store.audited_rows import AuditedRows
from engine.store.database import Cursor

Parts = tuple[tuple[str, str], ...]


@dataclass
class Device:
    """One device with a layout of its images.

    Args:
        images: Boxes that people drew on the latest ones, oldest first.
    """

    parts: Parts
    images: deque[list[Detection]] = field(default_factory=lambda: deque(maxlen=LATEST))
    always: tuple[Place, ...] = ()

    @property
    def memory(self) -> Memory:
        """What is proposed and what is sealed on the next image."""
        again = [p for p in recurring(list(self.images)) if not any(map(p.like, self.always))]
        return Memory(tuple(again), self.always)


class DeviceBoxes:
    """The devices of one log.

    Args:
        key: 32 bytes under which rules are sealed.
    """

    def __init__(self, host: Host, key: bytes) -> None:
        self._rules = AuditedRows("device_rules", host, key)
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._devices: dict[str, Device] = {}
        self._drawn: dict[str, list[Detection]] = defaultdict(list)
        #: Sequence and digest of the last entry that was read.
        self._last: tuple[int, str] = (0, "")

    def devices(self, tx: Cursor) -> dict[str, Device]:
        """Every device of which a person sealed an image, by its short name.

        Raises:
            SealBroken: A rule was altered, removed or replaced by an older one.
        """
        rules = self._rules.all(tx)
        with self._lock:
            self._catch_up(tx)
            found = {
                name: Device(d.parts, deque(d.images, LATEST)) for name, d in self._devices.items()
            }
        for name, row in rules.items():
            device = found.setdefault(name, Device(_parts(row.facts["parts"])))
            device.always = tuple(_place(p) for p in row.facts["always"])
        return found

    def memories(self, tx: Cursor) -> Memories:
        """What is known of each device of which there is anything to say. Raises SealBroken."""
        memories = {name: device.memory for name, device in self.devices(tx).items()}
        return {name: m for name, m in memories.items() if m.again or m.always}

    def rule(
        self, tx: Cursor, audit: AuditLog, caller: Caller, device: Device, always: tuple[Place, ...]
    ) -> None:
        """Let these places be sealed on every image of a device."""
        before = _facts(device, device.always) if device.always else None
        name = device_id(device.parts)
        self._rules.put(tx, audit, caller, name, _facts(device, always), before)

    def _catch_up(self, tx: Cursor) -> None:
        sequence, digest = self._last
        if sequence:
            there = tx.one("SELECT digest FROM audit WHERE sequence = $1", sequence)
            if there is None or there["digest"] != digest:  # rolled back after it had been read
                self._forget()
        rows = tx.all(
            "SELECT sequence, action, image_id, detail, digest FROM audit WHERE sequence > $1"
            " AND action IN ('box.add', 'image.seal') AND outcome = 'ok' ORDER BY sequence",
            self._last[0],
        )
        for row in rows:
            detail = json.loads(row["detail"])
            if row["action"] == "box.add":
                box = Detection.from_json(detail)
                if box.source == "person":
                    self._drawn[row["image_id"]].append(box)
            else:
                drawn = self._drawn.pop(row["image_id"], [])
                if detail.get("device") and not detail["automatic"]:
                    parts = _parts(detail["device"])
                    device = self._devices.setdefault(device_id(parts), Device(parts))
                    device.images.append(drawn)
            self._last = row["sequence"], row["digest"]


def _parts(said: Any) -> Parts:
    return tuple((str(name), str(value)) for name, value in said)


def _facts(device: Device, always: tuple[Place, ...]) -> dict[str, Any]:
    return {
        "parts": [list(part) for part in device.parts],
        "always": [{"label": p.label, **p.region.to_json()} for p in always],
    }


def _place(said: Mapping[str, Any]) -> Place:
    return Place(said["label"], Region.from_json(said))
