"""Every stored image checked in the background; what is damaged is reported once."""

from __future__ import annotations

import threading
from typing import Any

from engine.errors import EngineError, NotFound
from engine.operations.context import Context
from engine.operations.guard import log
from engine.operations.stored_images import StoredImages
from engine.permissions import Role
from engine.records import Caller
from engine.store.audit import Event

_SYSTEM = Caller("system", Role.OPERATOR, "", "upkeep")


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
        self._stored = stored
        #: What was found so far, and when the last round ended.
        self.state: dict[str, Any] = {
            "running": False, "finished_at": None, "images": 0, "broken": [],
        }  # fmt: skip

    def tell_broken(self, caller: Caller, subject: str, fault: str) -> None:
        """Say once, in the log and on the health page, that an image or a record is damaged."""
        if subject in self.state["broken"]:
            return
        log.error("damaged: %s: %s", subject, fault)
        self.state["broken"] = [*self.state["broken"], subject]
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
        except EngineError as err:
            return err.code, 0
        return None, 0

    def run(self, stopped: threading.Event) -> None:
        """Check every image once, no faster than the setting, in an order that changes: a
        server that is restarted often would otherwise never come to the end of the list."""
        tx = self._database.read()
        rows = self._catalog.ids(tx, self._host.random(8).hex())
        people = self._patients.keys(tx)
        broken: list[str] = []
        self.state["running"] = True
        try:
            for subject in [*rows, *people]:
                fault, size = self._check(subject)
                if fault is not None:
                    broken.append(subject)
                    self.tell_broken(_SYSTEM, subject, fault)
                pause = size / (self._live.settings.scrub_mb_per_second * 1e6)
                if stopped.wait(pause):
                    return
        finally:
            self.state["running"] = False
        self.state |= {
            "finished_at": self._host.now(),
            "images": len(rows),
            "broken": broken,
        }
        detail = {"images": len(rows), "patients": len(people), "broken": len(broken)}
        self._audit.record(_SYSTEM, Event("scrub.finish", detail=detail))
