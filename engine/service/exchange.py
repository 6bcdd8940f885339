"""Diffie-Hellman key exchange, and what travels under an exchanged key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine.errors import EngineError, InputError, NotFound, PermissionDenied
from engine.formats import images
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.operations.restorations import Restorations
from engine.operations.stored_images import StoredImages
from engine.permissions import Permission
from engine.records import Caller
from engine.seal.pipeline import Restored
from engine.store.audit import Event
from engine.vault import Group


class Exchange:
    """Key exchange."""

    def __init__(
        self, context: Context, guard: Guard, stored: StoredImages, restorations: Restorations
    ) -> None:
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._exchanges = context.exchanges
        self._live = context.live
        self._guard = guard
        self._restorations = restorations
        self._stored = stored

    @needs(None)
    def offer(self, caller: Caller, group: str = Group.FFDHE3072) -> dict[str, Any]:
        """Diffie-Hellman parameters and the server's signed public value, for one answer.

        Raises:
            InputError: A group that is not offered.
        """
        try:
            chosen = Group(group)
        except ValueError as err:
            raise InputError(f"Unknown group. Use one of: {', '.join(Group)}.") from err
        return self._exchanges.offer(caller.session_id, chosen)

    @needs(None)
    def answer(self, caller: Caller, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Take the client's public value; both sides then hold the same AES-256 key.

        Raises:
            ExchangeError: Used, expired, another session's, or a value that is not allowed.
        """
        confirmed = self._exchanges.accept(caller.session_id, answer)
        self._audit.record(caller, Event("key.exchange"))
        return confirmed

    @needs(Permission.RESTORE)
    def deliver_file(
        self,
        caller: Caller,
        handle: str,
        exchange_id: str,
        format: str = "original",
        frame: int = 0,
        enhance: bool = False,
    ) -> bytes:
        """A restoration of this session, readable only with this session's exchanged key.

        The message is bound to what was asked for, so that a proxy cannot answer with another
        image: context ``image/<image id>/<format>/<frame>/<plain or enhanced>``.

        Raises:
            ExchangeError: There is no such exchange for this session.
            NotFound: The restoration expired, was closed or is another session's.
        """
        channel = self._exchanges.channel(caller.session_id, exchange_id)
        image_id = self._restorations.of(caller, handle)[1].record.image_id
        file = self._restorations.file_of(caller, handle, format, frame, enhance)
        look = "enhanced" if enhance else "plain"
        return channel.encrypt(file.data, f"image/{image_id}/{format}/{frame}/{look}")

    @needs(Permission.RESTORE, fresh=True)
    def deliver_region(
        self,
        caller: Caller,
        image_id: str,
        region_id: str,
        reason: str,
        exchange_id: str,
        frame: int | None = None,
    ) -> bytes:
        """What is under one box, readable only with this session's exchanged key.

        Regions of a class are sealed in one stream, so those of its class are opened and
        proven with it; the pixels of one leave this method.

        Args:
            frame: One of the region's; by default its first.

        Returns:
            A PNG of the box as a screen shows it, under the channel's key, with the context
            ``region/<region id>/<frame>``.

        Raises:
            InputError: No reason.
            NotFound: No such region of a released image, or none on this frame.
            PermissionDenied: Its class is not granted to this account.
            SealError: It does not open; no such exchange for this session.
        """
        if self._live.settings.reason_required and not reason.strip():
            raise InputError("Give a reason for access to the original.")
        channel = self._exchanges.channel(caller.session_id, exchange_id)
        tx = self._database.read()
        row = self._stored.released(tx, image_id)
        where = Event(
            "region.decrypt",
            "requested",
            patient_id=row.patient_id,
            image_id=image_id,
            region_id=region_id,
            reason=reason.strip(),
        )
        self._audit.record(caller, where)
        try:
            regions = [r for r, _ in self._catalog.regions(tx, image_id)]
            region = next((r for r in regions if r.region_id == region_id), None)
            if region is None:
                raise NotFound("There is no such region.")
            box, label = region.detection.region, region.detection.label
            chosen = box.frame if frame is None else frame
            if not box.frame <= chosen < box.frame_end:
                raise NotFound("The region is not on this frame. Choose another frame.")
            if not self._guard.granted(caller)(label):
                raise PermissionDenied(
                    "Your account cannot open regions of this class. Ask an administrator."
                )

            def read() -> Restored:
                subject = self._stored.subject(tx, image_id)
                row = self._catalog.verify(tx, subject.key, image_id)
                return self._stored.opened(caller, subject, row, lambda other: other == label)[1]

            restored = self._stored.steady(image_id, read)
            shown = images.render(restored.image, chosen)[box.y1 : box.y2, box.x1 : box.x2]
            shown = images.upright(shown, images.orientation(restored.image))
            payload = images.encode_png(shown)
        except EngineError as err:
            failed = replace(where, outcome="failed", reason="", detail={"why": err.code})
            self._audit.record(caller, failed)
            raise
        same = [replace(where, outcome="ok", reason="", region_id=r) for r in restored.opened]
        self._audit.record(caller, *same)
        return channel.encrypt(payload, f"region/{region_id}/{chosen}")
