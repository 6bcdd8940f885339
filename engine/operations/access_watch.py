"""Accounts and rights, watched: are they those that the audit log knows?"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from engine.errors import RosterBroken, SealBroken
from engine.operations.live_settings import LiveSettings
from engine.people.access_integrity import CHANGES, AccessIntegrity
from engine.people.care import Access, bound
from engine.records import Caller
from engine.store.audit import AuditLog, Event
from engine.store.database import Cursor, Database
from engine.store.shared import Hold, Shared

_KIND = "roster"
_KEPT = timedelta(days=3650)


class AccessWatch:
    """Compares accounts and rights with the log, and marks entries that change them."""

    def __init__(
        self,
        database: Database,
        access: Access,
        integrity: AccessIntegrity,
        live: LiveSettings,
        shared: Shared,
    ) -> None:
        self._database = database
        self._access = access
        self._integrity = integrity
        self._live = live
        self._shared = shared
        #: Did this server find it? What is shared does not outlive a crash of the database.
        self._found = False

    @property
    def broken(self) -> bool:
        """Were accounts or rights changed outside MedSec, as whichever server found? Then no entry
        vouches for them."""
        try:
            return self._found or self._shared.get(_KIND, _KIND) is not None
        except SealBroken:
            return True

    @broken.setter
    def broken(self, found: bool) -> None:
        self._found = found
        if found:
            self._shared.hold(Hold(_KIND, _KIND, _KIND, "found"), _KEPT)
        else:
            self._shared.leave(_KIND, _KIND, _KIND)

    def meet(self, audit: AuditLog, caller: Caller, *, operator: bool) -> None:
        """At the start, before anything is changed.

        Raises:
            RosterBroken: In a server; the operator goes on, to accept or to recover.
        """
        begun = True  # what differs from the newest tag has one
        try:
            begun = self.check()
        except RosterBroken:
            self.broken = True
            audit.record(caller, Event("roster.verify", "failed"))
            if not operator:
                raise
        else:
            self.broken = False
        if not begun:
            audit.record(caller, Event("roster.begin"))

    def check(self) -> bool:
        """Compare now, while nobody changes anything; false where the log has no tag yet.

        Raises:
            RosterBroken: They differ.
        """
        with self._database.write() as tx:
            return self._integrity.check(tx)

    def mark(self, tx: Cursor, caller: Caller, event: Event) -> Mapping[str, Any]:
        """What an entry of the log carries besides: the tag over accounts and rights where it
        changes them, and the emergency access under which it happened."""
        mark = {}
        if event.action in CHANGES and event.outcome == "ok" and not self.broken:
            mark["roster"] = self._integrity.tag(tx)
        if event.patient_id and bound(self._live.settings, caller):
            glass_id = self._access.glass_over(tx, caller.username, event.patient_id)
            if glass_id is not None:
                mark["glass"] = glass_id
        return mark
