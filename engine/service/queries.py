"""What nodes of the network ask: which masked objects there are, and the objects themselves.

A node sees what an administrator allows it: nothing, masked objects of images that it sent itself,
or all of them. Hospital numbers are no key here: an answer would say whose a pseudonym is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine.errors import InputError, NotFound, PermissionDenied
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.operations.masked_objects import UNIQUE, MaskedObject, MaskedObjects, summary
from engine.permissions import Permission
from engine.records import Caller
from engine.store.audit import Event
from engine.store.nodes import Node

PREFIX = "ae:"
#: Levels from above, and the attribute that says which one is meant.
LEVELS = tuple(UNIQUE)


class Queries:
    """Query and retrieval for application entities (PS3.4 annex C)."""

    def __init__(self, context: Context, guard: Guard, masked: MaskedObjects) -> None:
        self._audit = context.audit
        self._nodes = context.nodes
        self._guard = guard
        self._masked = masked

    @needs(Permission.QUERY)
    def allowed(self, caller: Caller) -> bool:
        """May this node find and fetch anything at all?"""
        node = self._nodes.get(_title(caller))
        return node is not None and bool(node.queries)

    @needs(Permission.QUERY)
    def find(self, caller: Caller, level: str, keys: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Attributes of what matches, newest study first, each read when it is asked for.

        Args:
            level: ``patient``, ``study``, ``series`` or ``instance``.
            keys: Values by tag of eight hex digits; see :func:`engine.formats.dicom_web.matches`.

        Raises:
            PermissionDenied: The node may not query, or no longer.
        """
        sender = self._sender(caller)
        detail = {"level": level, "keys": sorted(tag for tag, value in keys.items() if value)}
        self._guard.record_read(caller, Event("study.search", detail=detail))
        return (summary(level, group) for group in self._masked.groups(level, keys, None, sender))

    @needs(Permission.QUERY)
    def select(self, caller: Caller, level: str, keys: Mapping[str, str]) -> list[MaskedObject]:
        """Every object of what unique keys name, for :meth:`fetch`.

        Raises:
            InputError: The key of the level is missing.
            PermissionDenied: The node may not query, or no longer.
        """
        sender = self._sender(caller)
        if not keys.get(UNIQUE[level]):
            raise InputError("Name what is to be retrieved by the unique key of its level.")
        named = {UNIQUE[name]: keys.get(UNIQUE[name], "") for name in LEVELS}
        groups = self._masked.groups(level, named, None, sender)
        found = [one for group in groups for one in group]
        for study in {one.uid(UNIQUE["study"]): one for one in found}.values():
            count = sum(one.uid(UNIQUE["study"]) == study.uid(UNIQUE["study"]) for one in found)
            read = Event("study.read", patient_id=study.patient_id, detail={"objects": count})
            self._guard.record_read(caller, read)
        return found

    @needs(Permission.QUERY)
    def fetch(
        self, caller: Caller, found: MaskedObject, native: bool = False, to: str = ""
    ) -> bytes:
        """The file of a masked object.

        Args:
            native: In Explicit VR Little Endian; otherwise as it is stored.
            to: The node that gets it, where that is another one.

        Raises:
            NotFound: It was withdrawn meanwhile.
            PermissionDenied: The node may not query, or no longer.
            UnsupportedFormat: It cannot be decompressed.
        """
        self._sender(caller)
        data = self._masked.file(found.image_id, native)
        detail = {"to": to} if to else None
        given = Event(
            "image.export", patient_id=found.patient_id, image_id=found.image_id, detail=detail
        )
        self._guard.record_read(caller, given)
        return data

    @needs(Permission.QUERY)
    def destination(self, caller: Caller, title: str) -> Node:
        """Where a node may have objects sent to.

        Raises:
            NotFound: No such node, or none that receives.
            PermissionDenied: The node may not query, or no longer.
        """
        self._sender(caller)
        node = self._nodes.get(title)
        if node is None or not node.receives:
            refused = Event("image.send", "refused", detail={"why": "unknown-destination"})
            self._audit.record(caller, refused)
            raise NotFound("There is no such destination.")
        return node

    def _sender(self, caller: Caller) -> str | None:
        """Whose images the node may see; None for everybody's. Raises PermissionDenied."""
        node = self._nodes.get(_title(caller))
        if node is None or not node.queries:
            refused = Event("study.search", "refused", detail={"why": "node-may-not-query"})
            self._audit.record(caller, refused)
            raise PermissionDenied("This application entity may not query here.")
        return caller.username if node.queries == "own" else None


def _title(caller: Caller) -> str:
    return caller.username.removeprefix(PREFIX)
