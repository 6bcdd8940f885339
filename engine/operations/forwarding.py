"""Masked images that go to nodes of the network when they are sealed."""

from __future__ import annotations

import threading

from engine.errors import SealBroken
from engine.operations.context import Context
from engine.operations.guard import log
from engine.store.catalog import ImageRow
from engine.store.database import Cursor


class Forwarding:
    """Queues what the rules send, in the transaction that seals it."""

    def __init__(self, context: Context) -> None:
        self._rules = context.forward_rules
        self._rows = context.sendings
        #: Something was queued: whoever sends need not wait for the next round.
        self.queued = threading.Event()

    def sealed(self, tx: Cursor, row: ImageRow) -> None:
        """An image was sealed: queue it for every node that a rule names, for each once."""
        if row.format != "DICOM":
            return
        try:
            rules = self._rules.all()
        except SealBroken as err:  # sealing goes on; the page of the network says it too
            log.error("nothing is forwarded: %s", err.code)
            return
        for name, entry in sorted(rules.items()):
            if entry.rule.applies(row):
                for title in entry.rule.to:
                    cause = f"rule {name}"
                    self._rows.add(
                        tx, row.image_id, title, original=False, cause=cause, by="system"
                    )
                    self.queued.set()
