"""Nodes of the network: which application entities may do what; administrators say it."""

from __future__ import annotations

from typing import Any

from engine.operations.context import Context
from engine.operations.examination import Examiner
from engine.operations.guard import Guard, needs
from engine.permissions import Permission
from engine.records import Caller
from engine.store.nodes import Node, NodeEntry


class Nodes:
    """Configuration of the peers of this hospital's network."""

    def __init__(self, context: Context, guard: Guard, examiner: Examiner) -> None:
        self._audit = context.audit
        self._database = context.database
        self._nodes = context.nodes
        self._recipients = context.recipients
        self._examiner = examiner
        self._guard = guard

    @needs(Permission.MANAGE_SETTINGS)
    def entries(self, caller: Caller) -> dict[str, NodeEntry]:
        """Nodes by AE title.

        Raises:
            SealBroken: A row was altered, removed or replaced by an older one.
        """
        return self._nodes.all()

    @needs(Permission.MANAGE_SETTINGS)
    def save(self, caller: Caller, title: str, values: dict[str, Any]) -> Node:
        """Add a node, or replace what is said of it. It counts from the next instance on.

        Args:
            title: AE title.
            values: Of :class:`Node` by name; what is missing is its default.

        Raises:
            InputError: A value is not valid; nothing is changed.
        """
        node = Node.checked(title, values)
        self._examiner.profile(node.profile or None)
        if node.deidentification:
            self._recipients.profile(node.deidentification)
        with self._database.write() as tx:
            self._nodes.save(tx, self._audit, caller, node)
        self._nodes.forget()
        return node

    @needs(Permission.MANAGE_SETTINGS)
    def remove(self, caller: Caller, title: str) -> None:
        """Take a node away: it is refused from the next instance on. Raises NotFound."""
        with self._database.write() as tx:
            self._nodes.remove(tx, self._audit, caller, title)
        self._nodes.forget()
