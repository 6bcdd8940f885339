"""A missed identifier: the image is withdrawn at once, reopened, and sealed anew."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from engine.errors import InputError, NotFound
from engine.formats import images
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.operations.release_decisions import ReleaseDecisions
from engine.operations.stored_images import StoredImages
from engine.permissions import Permission, allowed
from engine.records import Caller, Detection, ImageRecord, ImageState
from engine.seal import pipeline
from engine.store.audit import Event
from engine.store.catalog import ImageRow
from engine.vault import seal_field


class Withdrawals:
    """Flags, and images that were withdrawn because of one."""

    def __init__(self, context: Context, guard: Guard, stored: StoredImages) -> None:
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._hierarchy = context.hierarchy
        self._host = context.host
        self._open_images = context.open_images
        self._decisions = ReleaseDecisions(context)
        self._guard = guard
        self._stored = stored

    @needs(Permission.FLAG)
    def flag(self, caller: Caller, image_id: str, reason: str) -> None:
        """Something should have been sealed: withdraw the image from everyone at once.

        Flagged by somebody with the permission to restore, it goes back to the review queue in
        the same call; otherwise it waits for :meth:`reopen`. Flagging alone never shows a
        technician the original.

        Raises:
            InputError: No reason.
            NotFound: No such released image.
            SealError: Withdrawn, but it cannot be restored: tell the administrator.
        """
        if not reason.strip():
            raise InputError("Describe what was missed. Do not enter the name itself.")
        with self._database.write() as tx:
            row = self._stored.released(tx, image_id)
            key = self._hierarchy.image_key(tx, image_id)
            tag = self._catalog.change(tx, key, image_id, state=str(ImageState.WITHDRAWN))
            self._audit.append(
                tx,
                caller,
                Event(
                    "image.withdraw",
                    patient_id=row.patient_id,
                    image_id=image_id,
                    reason=reason.strip(),
                    detail={"tag": tag},
                ),
            )
            self._decisions.flagged(tx, caller, image_id)
        self._open_images.close_subject(image_id)
        if allowed(caller.role, Permission.RESTORE):
            self._reopen(caller, image_id)

    @needs(Permission.RESTORE, fresh=True)
    def question(self, caller: Caller, image_id: str, reason: str) -> None:
        """Send an image back because a box hides what is needed; a technician decides.

        It is not visible to others until it is sealed again, as the next version.

        Raises:
            InputError: No reason.
            NotFound: No such released image.
            SealError: It cannot be restored; nothing has changed.
        """
        if not reason.strip():
            raise InputError("Say which box, and what it hides. Do not enter a name.")
        self._reopen(caller, image_id, "box-questioned", reason.strip())

    @needs(Permission.RESTORE)
    def waiting(self, caller: Caller, limit: int = 200, offset: int = 0) -> list[ImageRecord]:
        """Images that were flagged and wait for :meth:`reopen`, newest first. Those of a suspended
        stream come before, in the order of risk."""
        self._guard.record_read(
            caller, Event("image.list", detail={"states": [ImageState.WITHDRAWN]})
        )
        waiting = self._catalog.search(
            states=[ImageState.WITHDRAWN],
            patient_ids=self._guard.open_patients(caller),
            limit=limit,
            offset=offset,
        )
        risk = self._decisions.doubted(self._database.read())
        return sorted(waiting, key=lambda r: risk.get(r.image_id, len(risk)))

    @needs(Permission.RESTORE, fresh=True)
    def reopen(self, caller: Caller, image_id: str) -> None:
        """Send a withdrawn image back to the review queue, to be sealed anew.

        It becomes a draft again, made from the restored and proven original, with the boxes
        it had; technicians see it as they saw it when it came in.

        Raises:
            NotFound: No such withdrawn image.
            SealError: It cannot be restored; it stays withdrawn.
        """
        self._reopen(caller, image_id)

    def _reopen(
        self, caller: Caller, image_id: str, why: str = "flagged", reason: str = ""
    ) -> None:
        """The original, restored and proven, becomes a draft under a new key.

        Args:
            why: A key of ``REASONS``.
            reason: In the caller's words, for the log.

        Raises:
            NotFound: It is in another state: one that was flagged is not only questioned.
        """
        state = ImageState.WITHDRAWN if why == "flagged" else ImageState.RELEASED
        tx = self._database.read()

        def read() -> tuple[ImageRow, dict[str, Any], pipeline.Restored, list[Detection]]:
            subject = self._stored.subject(tx, image_id)
            row = self._catalog.verify(tx, subject.key, image_id)
            if row.state != state:
                raise NotFound(f"There is no such {state} image.")
            sealed = [r.detection for r, _ in self._catalog.regions(tx, image_id)]
            return row, *self._stored.opened(caller, subject, row), sealed

        row, old_facts, restored, sealed = self._stored.steady(image_id, read)
        patient_key = self._hierarchy.patient_key(tx, row.patient_id)
        key, wrapped = self._hierarchy.new_image_key(patient_key, image_id)
        boxes = [replace(d, source="person") for d in sealed]
        facts = {
            "name": old_facts["name"],
            "folder": old_facts.get("folder", ""),
            "detections": [d.to_json() for d in boxes],
            "hints": images.patient_hints(restored.image),
            "size_bytes": old_facts["size_bytes"],
            "decoded_bytes": restored.image.pixels.nbytes,
            "still_visible": [],
            "sides": old_facts.get("sides", []),
        }
        version = row.version
        draft = seal_field(
            key, f"image/{image_id}/{version}/draft", restored.image.data, self._host.random
        )
        blob = self._host.write_blob(draft)
        with self._database.write() as tx:
            if self._catalog.tag(tx, image_id) != row.tag:
                raise NotFound(f"There is no such {state} image.")
            tag = self._catalog.seal(
                tx,
                key,
                image_id,
                (),
                wrapped_key=wrapped,
                state=str(ImageState.REVIEW),
                reasons=json.dumps([why]),
                stored_bytes=len(draft),
                draft_blob=blob,
                masked_blob=None,
                sealed_blob=None,
                thumbnail_blob=None,
                facts=self._stored.seal_facts(key, image_id, version, facts),
            )
            self._audit.append(
                tx,
                caller,
                *(
                    Event(
                        "region.decrypt",
                        patient_id=row.patient_id,
                        image_id=image_id,
                        region_id=region_id,
                        detail={"why": "withdrawn"},
                    )
                    for region_id in restored.opened
                ),
                Event(
                    "image.reopen",
                    patient_id=row.patient_id,
                    image_id=image_id,
                    reason=reason,
                    detail={"why": why, "tag": tag},
                ),
            )
        self._open_images.close_subject(image_id)
        for address in row.addresses:
            self._host.delete_blob(address)
