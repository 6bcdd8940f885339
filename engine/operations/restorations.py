"""Opening what is sealed, with proof: what restoring, delivering and packages share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePath
from typing import Any

from engine.errors import EngineError, InputError, NotFound, PermissionDenied
from engine.formats import images
from engine.operations.context import Context
from engine.operations.guard import Guard
from engine.operations.stored_images import StoredImages
from engine.permissions import Permission, allowed
from engine.records import Assessment, Caller, File, Image, ImageRecord, ImageState, SealedRegion
from engine.seal.pipeline import Restored, assessment_from_json
from engine.store.audit import Event
from engine.store.catalog import ImageRow
from engine.store.open_images import Group


@dataclass(frozen=True)
class Restoration:
    """A restored image that this session can look at for minutes; plaintext is not in here.

    Args:
        handle: For ``restored_frame`` and ``restored_file`` of :class:`Images`.
        name: The original's file name; empty where the restoration is partial.
        regions: Every region; ``opened`` says which are open.
        partial: Some regions stayed sealed: the picture is not the original.
        proof: ``bytes``, ``pixels`` or ``outside`` (see :class:`pipeline.Restored`).
        margin_px: Around regions that stayed sealed; ``outside`` is not said of it.
        digest: SHA-256 of the original's pixels as taken at intake, in hex.
        decrypt_ms: Per region id.
        total_ms: From the request to the proof.
    """

    handle: str
    record: ImageRecord
    name: str = field(repr=False)
    frames: int
    regions: tuple[SealedRegion, ...]
    opened: tuple[str, ...]
    partial: bool
    proof: str
    digest: str = field(repr=False)
    assessment: Assessment | None = field(repr=False)
    decrypt_ms: Mapping[str, float]
    total_ms: float
    properties: Mapping[str, Any]
    expires_at: datetime
    margin_px: int = 0

    @property
    def withheld(self) -> tuple[str, ...]:
        """Classes that stayed sealed, each once, by name."""
        return tuple(
            sorted({r.detection.label for r in self.regions if r.region_id not in self.opened})
        )


@dataclass(frozen=True)
class Part:
    """An image of a request for several.

    Args:
        reason: Of the request, for the image's own rows in the log.
        version: Of the image when it was requested.
    """

    reason: str = field(repr=False)
    version: int
    group: Group


class Restorations:
    """Restored images of a session, and the files made from them."""

    def __init__(self, context: Context, guard: Guard, stored: StoredImages) -> None:
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._host = context.host
        self._open_images = context.open_images
        self._guard = guard
        self._stored = stored

    def open(
        self,
        caller: Caller,
        image_id: str,
        began: float,
        part: Part | None = None,
    ) -> tuple[Restoration, Image]:
        """Decrypt, prove and keep for the session what the caller is granted of an image.

        The caller has logged that it was requested. Here the log gets ``completed`` and a row a
        region, or ``failed``.

        Args:
            began: The host's ticks when the request came, in ms.
            part: The request that it is a part of, where that was for several images.

        Raises:
            NotFound: No such released image, or another version of it.
            PermissionDenied: None of its classes is granted.
            SealError: Something does not open or is not the original.
        """
        row = self._catalog.row(self._database.read(), image_id)
        where: dict[str, Any] = {"patient_id": row.patient_id, "image_id": image_id}
        about = {**where, "reason": part.reason if part else ""}
        whole = {"study_request": part.group.name} if part else {}
        try:
            restoration, image = self._stored.steady(
                image_id, lambda: self._read(caller, image_id, began, part)
            )
        except EngineError as err:
            failed = Event("image.restore", "failed", detail={"why": err.code, **whole}, **about)
            self._audit.record(caller, failed)
            raise
        self._open_images.add(
            caller.session_id,
            restoration.handle,
            image_id,
            image,
            restoration,
            part.group if part else None,
        )
        self._guard.forget_if_ended(caller)
        detail = {
            "regions": len(restoration.opened),
            "proof": restoration.proof,
            "withheld": list(restoration.withheld),
            **whole,
        }
        self._audit.record(
            caller,
            *(Event("region.decrypt", region_id=r, **where) for r in restoration.opened),
            Event("image.restore", "completed", detail=detail, **about),
        )
        return restoration, image

    def once(
        self, caller: Caller, image_id: str, cause: str, part: Part | None = None
    ) -> tuple[bytes, str]:
        """The original file of an image, all of it or nothing, and its proof; no session keeps it.

        The caller has logged the request. The log gets the rows of :meth:`open`.

        Args:
            part: The request that it is a part of, where that was for several images.

        Raises:
            NotFound: No such released image, or another version of it.
            PermissionDenied: Some of its classes are not granted.
            SealError: Something does not open or is not the original.
        """
        row = self._catalog.row(self._database.read(), image_id)
        where: dict[str, Any] = {"patient_id": row.patient_id, "image_id": image_id}
        about = {**where, "reason": part.reason if part else ""}
        whole = {"cause": cause, **({"study_request": part.group.name} if part else {})}
        try:
            restored = self._stored.steady(image_id, lambda: self._whole(caller, image_id, part))
        except EngineError as err:
            detail = {"why": err.code, **whole}
            self._audit.record(caller, Event("image.restore", "failed", detail=detail, **about))
            raise
        done = {"regions": len(restored.opened), "withheld": [], **whole}
        self._audit.record(
            caller,
            *(Event("region.decrypt", region_id=r, **where) for r in restored.opened),
            Event("image.restore", "completed", detail=done, **about),
        )
        return restored.image.data, restored.proof

    def _whole(self, caller: Caller, image_id: str, part: Part | None) -> Restored:
        tx = self._database.read()
        _refuse_newer(self._stored.released(tx, image_id), part)
        subject = self._stored.subject(tx, image_id)
        row = self._catalog.verify(tx, subject.key, image_id)
        granted = self._guard.granted(caller)
        _, restored = self._stored.opened(caller, subject, row, granted)
        if restored.partial:
            raise PermissionDenied("The account cannot open some classes of this image.")
        return restored

    def _read(
        self, caller: Caller, image_id: str, began: float, part: Part | None
    ) -> tuple[Restoration, Image]:
        tx = self._database.read()
        _refuse_newer(self._stored.released(tx, image_id), part)
        subject = self._stored.subject(tx, image_id)
        row = self._catalog.verify(tx, subject.key, image_id)
        granted = self._guard.granted(caller)
        labels = {r.detection.label for r, _ in self._catalog.regions(tx, image_id)}
        if labels and not any(granted(label) for label in labels):
            raise PermissionDenied(
                "Your account cannot open any class of this image. Ask an administrator."
            )
        facts, restored = self._stored.opened(caller, subject, row, granted)
        assessment = None
        # Its numbers are computed from every hidden pixel, so only who sees all sees them.
        if allowed(caller.role, Permission.VIEW_METRICS) and not restored.partial:
            assessment = assessment_from_json(facts["assessment"])
        restoration = Restoration(
            handle=self._host.token("vw"),
            record=row.record,
            name="" if restored.partial else facts["name"],
            frames=restored.image.frames,
            regions=tuple(r for r, _ in self._catalog.regions(tx, image_id)),
            opened=restored.opened,
            partial=restored.partial,
            proof=restored.proof,
            digest="" if restored.partial else facts["pixel_digest"],
            assessment=assessment,
            decrypt_ms=restored.decrypt_ms,
            total_ms=round(self._host.ticks_ms() - began, 1),
            properties=restored.image.properties,
            expires_at=part.group.closes_at if part else self._open_images.expiry(),
            margin_px=restored.margin_px,
        )
        return restoration, restored.image

    def refuse_classes(
        self, caller: Caller, action: str, row: ImageRow, regions: Sequence[SealedRegion]
    ) -> None:
        """Stop a caller who is not granted every class under an image's boxes.

        Raises:
            PermissionDenied: Some of the classes are not granted to this account.
        """
        granted = self._guard.granted(caller)
        withheld = sorted({r.detection.label for r in regions if not granted(r.detection.label)})
        if withheld:
            refused = Event(
                action,
                "refused",
                patient_id=row.patient_id,
                image_id=row.image_id,
                detail={"withheld": withheld},
            )
            self._audit.record(caller, refused)
            raise PermissionDenied("Your account cannot open some classes of this image.")

    def of(self, caller: Caller, handle: str) -> tuple[Image, Restoration]:
        """An open restoration of this session. Raises NotFound where it is over."""
        viewing = self._open_images.get(caller.session_id, handle)
        row = self._catalog.row(self._database.read(), viewing.subject_id)
        about = viewing.about
        granted = self._guard.granted(caller)
        # Withdrawn, erased or sealed anew while it was being opened, or no longer this
        # caller's to see: what was open is over.
        if (
            not isinstance(about, Restoration)
            or row.state != ImageState.RELEASED
            or row.version != about.record.version
            or not self._guard.sees(caller, row.patient_id)
            or not all(
                granted(r.detection.label) for r in about.regions if r.region_id in about.opened
            )
        ):
            self._open_images.close(caller.session_id, handle)
            raise NotFound("This image is no longer open. Open it again.")
        return viewing.image, about

    def file_of(self, caller: Caller, handle: str, format: str, frame: int, enhance: bool) -> File:
        """A restoration as a file; audited. See :meth:`Images.restored_file`."""
        image, about = self.of(caller, handle)
        if format not in ("original", "png", "jpeg"):
            raise InputError("Unknown format. Use original, png or jpeg.")
        if format == "original" and about.partial:
            raise InputError("A partial restoration has no original file. Use png or jpeg.")
        if format == "original" and enhance:
            raise InputError("The original file cannot be enhanced. Use png or jpeg.")
        if format == "original":
            file = File(about.name, image.format.media_type, image.data)
        else:
            rgb = images.displayed(image, frame)
            rgb = images.enhance(rgb) if enhance else rgb
            stem = PurePath(about.name or about.record.image_id).stem
            if format == "png":
                file = File(f"{stem}.png", "image/png", images.encode_png(rgb))
            else:
                file = File(f"{stem}.jpg", "image/jpeg", images.encode_jpeg(rgb))
        self._audit.record(
            caller,
            Event(
                "image.download",
                patient_id=about.record.patient_id,
                image_id=about.record.image_id,
                detail={"format": format, "partial": about.partial},
            ),
        )
        return file


def _refuse_newer(row: ImageRow, part: Part | None) -> None:
    if part and row.version != part.version:
        raise NotFound("This image was sealed anew. Restore the study again.")
