"""Places that people sealed again and again on a device's images, and rules made of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.errors import NotFound
from engine.metrics import Place
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.operations.release_decisions import ReleaseDecisions
from engine.permissions import Permission
from engine.records import Caller
from engine.store.database import Cursor
from engine.store.device_boxes import Device


@dataclass(frozen=True)
class DeviceEntry:
    """A device with what is known of its images.

    Args:
        parts: What names it, and the values.
        again: Places that are proposed on its next image.
        always: Places that are sealed on every image of it.
    """

    device_id: str
    parts: tuple[tuple[str, str], ...]
    again: tuple[Place, ...]
    always: tuple[Place, ...]


class Devices:
    """Reads and makes rules. No rule takes a box away."""

    def __init__(self, context: Context, guard: Guard, decisions: ReleaseDecisions) -> None:
        self._audit = context.audit
        self._boxes = context.device_boxes
        self._database = context.database
        self._decisions = decisions
        self._guard = guard

    @needs(Permission.MANAGE_SETTINGS)
    def places(self, caller: Caller) -> list[DeviceEntry]:
        """Devices of which there is anything to say.

        Raises:
            SealBroken: A rule was altered outside MedSec.
        """
        found = self._boxes.devices(self._database.read())
        entries = [
            DeviceEntry(name, device.parts, device.memory.again, device.always)
            for name, device in found.items()
        ]
        return [e for e in entries if e.again or e.always]

    @needs(Permission.MANAGE_SETTINGS)
    def always(self, caller: Caller, device_id: str, place_id: str) -> None:
        """Seal a place on every image of a device from now on.

        Raises:
            NotFound: No such device, or people do not seal this place again and again.
            SealBroken: A rule was altered outside MedSec.
        """
        with self._database.write() as tx:
            device = self._device(tx, device_id)
            place = _chosen(device.memory.again, place_id)
            rules = (*device.always, replace(place, images=0))
            self._boxes.rule(tx, self._audit, caller, device, rules)

    @needs(Permission.MANAGE_SETTINGS)
    def stop(self, caller: Caller, device_id: str, place_id: str) -> None:
        """End a rule. What the device earned with it is suspended: it finds less from now on.

        Raises:
            NotFound: No such rule.
            SealBroken: A rule or the ledger of release was altered outside MedSec.
        """
        with self._database.write() as tx:
            device = self._device(tx, device_id)
            place = _chosen(device.always, place_id)
            left = tuple(p for p in device.always if p != place)
            self._boxes.rule(tx, self._audit, caller, device, left)
            self._decisions.changed_device(tx, caller, device.parts)

    def _device(self, tx: Cursor, device_id: str) -> Device:
        device = self._boxes.devices(tx).get(device_id)
        if device is None:
            raise NotFound("There is no such device.")
        return device


def _chosen(places: tuple[Place, ...], place_id: str) -> Place:
    for place in places:
        if place.place_id == place_id:
            return place
    raise NotFound("There is no such place. Reload the page.")
