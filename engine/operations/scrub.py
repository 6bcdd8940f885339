"""Every stored image checked in the background; what is damaged is reported once."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta
from typing import Any

from engine.errors import EngineError, NotFound, StorageBusy
from engine.operations.context import Context
from engine.operations.guard import log
from engine.operations.stored_images import StoredImages
from engine.permissions import Role
from engine.records import Caller
from engine.store.audit import Event
from engine.store.shared import Hold

#: Until a store that does not answer is asked again.
BUSY_SECONDS = 60.0
_SYSTEM = Caller("system", Role.OPERATOR, "", "upkeep")
_KIND, _FOUND, _RUNNING = "scrub", "found", "running"
_KEPT = timedelta(days=3650)


class Scrub:
    """Checks rows and files, and knows what was found damaged."""

    def __init__(self, context: Context, stored: StoredImages) -> None:
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._hierarchy = context.hierarchy
        self._host = context.host
        self._live = context.live
        self._patients = context.patients
        self._shared = context.shared
        self._stored = stored

    @property
    def state(self) -> dict[str, Any]:
        """What was found so far, on whichever server, and when the last round ended."""
        found = json.loads(self._shared.get(_KIND, _FOUND) or '["", 0, []]')
        finished, count, broken = found
        return {
            "running": self._shared.get(_KIND, _RUNNING) is not None,
            "finished_at": datetime.fromisoformat(finished) if finished else None,
            "images": count,
            "broken": broken,
        }

    def _keep(self, finished_at: datetime | None, count: int, broken: list[str]) -> None:
        text = json.dumps([finished_at.isoformat() if finished_at else "", count, broken])
        self._shared.leave(_KIND, _FOUND, _KIND)
        self._shared.hold(Hold(_KIND, _FOUND, _KIND, text), _KEPT)

    def tell_broken(self, caller: Caller, subject: str, fault: str) -> None:
        """Say once, in the log and on the health page, that an image or a record is damaged."""
        known = self.state
        if subject in known["broken"]:
            return
        log.error("damaged: %s: %s", subject, fault)
        self._keep(known["finished_at"], known["images"], [*known["broken"], subject])
        if subject.startswith("im_"):
            patient_id = self._catalog.patient_of(self._database.read(), subject) or ""
            where = {"image_id": subject, "patient_id": patient_id}
        else:
            where = {"patient_id": subject}
        self._audit.record(caller, Event("scrub.broken", "failed", detail={"why": fault}, **where))

    def check_image(self, image_id: str) -> tuple[str | None, int]:
        """The code of what is wrong with an image's entry or files, or None, and bytes read."""
        tx = self._database.read()

        def read() -> int:
            key = self._hierarchy.image_key(tx, image_id)
            row = self._catalog.verify(tx, key, image_id)
            self._catalog.verify_newest(tx, row)
            self._stored.open_facts(key, row)
            return sum(len(self._host.read_blob(a)) for a in row.addresses)

        try:
            return None, self._stored.steady(image_id, read)
        except StorageBusy:  # which says nothing of the files
            raise
        except EngineError as err:
            if self._catalog.tag(tx, image_id) is None:
                return None, 0  # erased meanwhile
            return err.code, 0

    def _check(self, subject: str) -> tuple[str | None, int]:
        """What is wrong with an image or a patient's record, if anything, and bytes read."""
        if subject.startswith("im_"):
            return self.check_image(subject)
        try:
            self._patients.get(self._database.read(), subject)
        except NotFound:
            pass  # erased meanwhile
        except StorageBusy:
            raise
        except EngineError as err:
            return err.code, 0
        return None, 0

    def _patiently(self, subject: str, stopped: threading.Event) -> tuple[str | None, int] | None:
        """:meth:`_check`, as soon as the store answers; None where there is no time for that."""
        while True:
            try:
                return self._check(subject)
            except StorageBusy as err:
                log.warning("the check of stored files waits: %s", err.code)
            if stopped.wait(BUSY_SECONDS):
                return None

    def run(self, stopped: threading.Event) -> None:
        """Check every image once, no faster than the setting, in an order that changes: a
        server that is restarted often would otherwise never come to the end of the list."""
        tx = self._database.read()
        rows = self._catalog.ids(tx, self._host.random(8).hex())
        people = self._patients.keys(tx)
        broken: list[str] = []
        self._shared.hold(Hold(_KIND, _RUNNING, _KIND, lasting=True), _KEPT)
        try:
            for subject in [*rows, *people]:
                answer = self._patiently(subject, stopped)
                if answer is None:
                    return
                fault, size = answer
                if fault is not None:
                    broken.append(subject)
                    self.tell_broken(_SYSTEM, subject, fault)
                pause = size / (self._live.settings.scrub_mb_per_second * 1e6)
                if stopped.wait(pause):
                    return
        finally:
            self._shared.leave(_KIND, _RUNNING, _KIND)
        self._keep(self._host.now(), len(rows), broken)
        detail = {"images": len(rows), "patients": len(people), "broken": len(broken)}
        self._audit.record(_SYSTEM, Event("scrub.finish", detail=detail))
