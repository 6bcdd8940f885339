"""Doctor's day: finding images, seeing what is masked, and opening what is sealed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePath
from typing import Any

import numpy as np

from engine import images, package, pipeline
from engine.audit import Event
from engine.catalog import record
from engine.database import Cursor, Row
from engine.errors import EngineError, InputError, NotFound
from engine.permissions import Permission, allowed
from engine.pipeline import Subject, assessment_from_json
from engine.records import (
    Assessment,
    AuditEntry,
    Caller,
    File,
    Image,
    ImageRecord,
    ImageState,
    SealedRegion,
)
from engine.service.guard import needs
from engine.service.intake import Intake
from engine.vault import derive, open_field

_MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "DICOM": "application/dicom",
    "TIFF": "image/tiff",
    "BMP": "image/bmp",
    "WebP": "image/webp",
}
_MASKED_CACHE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Restoration:
    """A restored image that this session may look at for minutes; plaintext is not in here.

    Args:
        handle: For :meth:`Viewing.restored_frame` and :meth:`Viewing.restored_file`.
        name: The original's file name; empty where the restoration is partial.
        regions: Every region; ``opened`` says which are open.
        partial: Some regions stayed sealed: the picture is not the original.
        proof: ``bytes``, ``pixels`` or ``regions`` (see :class:`pipeline.Restored`).
        digest: SHA-256 of the original's pixels as taken at intake, in hex.
        decrypt_ms: Per region id.
        total_ms: From the request to the proof.
    """

    handle: str
    record: ImageRecord
    name: str
    frames: int
    regions: tuple[SealedRegion, ...]
    opened: tuple[str, ...]
    partial: bool
    proof: str
    digest: str
    assessment: Assessment | None
    decrypt_ms: Mapping[str, float]
    total_ms: float
    properties: Mapping[str, Any]
    expires_at: datetime


class Viewing(Intake):
    """Methods of the Engine."""

    _masked: OrderedDict[str, Image]
    _masked_lock: threading.Lock

    @needs(Permission.VIEW_MASKED)
    def images(
        self,
        caller: Caller,
        patient_id: str | None = None,
        query: str = "",
        modality: str | None = None,
        label: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> list[ImageRecord]:
        """Released images that match every filter, newest first.

        Args:
            query: A patient's number or the beginnings of words of a name.
        """
        patient_ids: Sequence[str] | None = None if patient_id is None else [patient_id]
        if query.strip():
            found = [p.patient_id for p in self.patients_.search(query, 1000, 0)]
            patient_ids = [p for p in found if patient_id in (None, p)]
        return self.catalog.search(
            states=[ImageState.RELEASED],
            patient_ids=patient_ids,
            modality=modality,
            label=label,
            limit=limit,
            offset=offset,
        )

    @needs(Permission.VIEW_MASKED)
    def image(self, caller: Caller, image_id: str) -> ImageRecord:
        """One released image. Raises NotFound."""
        return record(self._released(self.database.read(), image_id))

    @needs(Permission.VIEW_MASKED)
    def regions(self, caller: Caller, image_id: str) -> list[SealedRegion]:
        """Where the image is sealed, and as what."""
        tx = self.database.read()
        self._released(tx, image_id)
        return [region for region, _ in self.catalog.regions(tx, image_id)]

    @needs(Permission.VIEW_MASKED)
    def masked_frame(
        self,
        caller: Caller,
        image_id: str,
        frame: int = 0,
        window: tuple[float, float] | None = None,
        enhance: bool = False,
    ) -> np.ndarray:
        """A frame of the masked image, shape (H, W, 3), uint8, RGB.

        Args:
            window: Centre and width; DICOM only.
            enhance: Contrast-limited histogram equalisation, for looking only.
        """
        rgb = images.render(self._masked_image(image_id), frame, window)
        return images.enhance(rgb) if enhance else rgb

    @needs(Permission.VIEW_MASKED)
    def grid_picture(self, caller: Caller, image_id: str, frame: int = 0) -> bytes:
        """PNG of a masked frame with numbered, labelled boxes. Never shows content.

        Drawn when asked for from the masked file and the box list: it holds nothing more.
        """
        picture = images.render(self._masked_image(image_id), frame)
        sealed = self.catalog.regions(self.database.read(), image_id)
        boxes = [r.detection for r, _ in sealed]
        return images.grid_picture(
            picture, [d for d in boxes if d.region.frame <= frame < d.region.frame_end]
        )

    @needs(Permission.VIEW_MASKED)
    def thumbnail(self, caller: Caller, image_id: str) -> bytes:
        """Small PNG of the masked image."""
        return self._part(image_id, "thumbnail")

    @needs(Permission.EXPORT)
    def masked_file(self, caller: Caller, image_id: str) -> File:
        """The masked file to take away, in the original's format, under a neutral name."""
        tx = self.database.read()
        row = self._released(tx, image_id)
        data = self._part(image_id, "masked")
        self.audit.record(
            caller, Event("image.export", patient_id=row["patient_id"], image_id=image_id)
        )
        return _file(image_id, row["format"], data)

    @needs(Permission.RESTORE)
    def restore(self, caller: Caller, image_id: str, reason: str) -> Restoration:
        """Open what is sealed and prove it: all permitted regions or none.

        The log has ``requested`` before anything is decrypted, and ``completed`` or
        ``failed`` with every region after.

        Raises:
            InputError: No reason.
            NotFound: No such image, or withdrawn.
            SealError: Something does not open or is not the original; nothing is shown.
        """
        if not reason.strip():
            raise InputError("Say why you need to see the original.")
        began = self.host.ticks_ms()
        with self.database.write() as tx:
            row = self._released(tx, image_id)
            where = {"patient_id": row["patient_id"], "image_id": image_id}
            requested = Event("image.restore", "requested", reason=reason.strip(), **where)
            self.audit.append(tx, caller, requested)
        try:
            restoration, image = self._open(caller, image_id, began)
        except EngineError as err:
            failed = Event("image.restore", "failed", detail={"why": err.code}, **where)
            self.audit.record(caller, failed)
            raise
        self.viewings.add(caller.session_id, restoration.handle, image_id, image, restoration)
        self.audit.record(
            caller,
            *(Event("region.decrypt", region_id=r, **where) for r in restoration.opened),
            Event(
                "image.restore",
                "completed",
                detail={"regions": len(restoration.opened), "proof": restoration.proof},
                **where,
            ),
        )
        return restoration

    @needs(Permission.RESTORE)
    def restoration(self, caller: Caller, handle: str) -> Restoration:
        """A restoration of this session again, without pixels, as long as it is open.

        Raises:
            NotFound: Expired, closed or another session's.
        """
        return self._restoration(caller, handle)[1]

    @needs(Permission.RESTORE)
    def restored_frame(
        self,
        caller: Caller,
        handle: str,
        frame: int = 0,
        window: tuple[float, float] | None = None,
        enhance: bool = False,
    ) -> np.ndarray:
        """A frame of a restoration of this session, shape (H, W, 3), uint8, RGB.

        Args:
            window: Centre and width; DICOM only.
            enhance: Contrast-limited histogram equalisation, for looking only.

        Raises:
            NotFound: Expired, closed or another session's.
        """
        image, _ = self._restoration(caller, handle)
        rgb = images.render(image, frame, window)
        return images.enhance(rgb) if enhance else rgb

    @needs(Permission.RESTORE)
    def restored_file(
        self, caller: Caller, handle: str, format: str = "original", frame: int = 0
    ) -> File:
        """A restoration as a file: ``original``, or one frame as ``png`` or ``jpeg``.

        Raises:
            InputError: Another format, or ``original`` of a partial restoration.
            NotFound: Expired, closed or another session's.
        """
        return self._file_of(caller, handle, format, frame)

    def _file_of(self, caller: Caller, handle: str, format: str, frame: int) -> File:
        image, about = self._restoration(caller, handle)
        if format not in ("original", "png", "jpeg"):
            raise InputError("A restoration comes as original, png or jpeg.")
        if format == "original" and about.partial:
            raise InputError("A partial restoration is not the original: take png or jpeg.")
        self.audit.record(
            caller,
            Event(
                "image.download",
                patient_id=about.record.patient_id,
                image_id=about.record.image_id,
                detail={"format": format, "partial": about.partial},
            ),
        )
        if format == "original":
            return File(about.name, _MEDIA_TYPES[image.format], image.data)
        rgb = images.render(image, frame)
        stem = PurePath(about.name or about.record.image_id).stem
        if format == "png":
            return File(f"{stem}.png", "image/png", images.encode_png(rgb))
        return File(f"{stem}.jpg", "image/jpeg", images.encode_jpeg(rgb))

    @needs(None)
    def close_viewing(self, caller: Caller, handle: str) -> None:
        """Forget an opened picture of this session now."""
        self.viewings.close(caller.session_id, handle)

    @needs(Permission.VIEW_METRICS)
    def assessment(self, caller: Caller, image_id: str) -> Assessment:
        """Numbers of one image that say something of hidden pixels (G11)."""
        tx = self.database.read()
        self._released(tx, image_id)
        key = self.hierarchy.image_key(tx, image_id)
        row = self.catalog.verify(tx, key, image_id)
        self.audit.record(
            caller, Event("image.metrics", patient_id=row["patient_id"], image_id=image_id)
        )
        return assessment_from_json(self.open_facts(key, row)["assessment"])

    @needs(Permission.VIEW_MASKED)
    def image_history(self, caller: Caller, image_id: str) -> list[AuditEntry]:
        """What happened to this image. Technicians see uploads and sealing only (F25)."""
        self._released(self.database.read(), image_id)
        entries = self.audit.entries(image_id=image_id)
        if allowed(caller.role, Permission.READ_HISTORY):
            return entries
        visible = ("image.upload", "image.seal", "box.add", "box.remove", "box.change")
        return [replace(e, reason="", origin="") for e in entries if e.action in visible]

    @needs(Permission.FLAG)
    def flag_missed(self, caller: Caller, image_id: str, reason: str) -> None:
        """Something should have been sealed: withdraw the image from everyone at once.

        Raises:
            InputError: No reason.
            NotFound: No such released image.
        """
        if not reason.strip():
            raise InputError("Say what was missed; do not write the name itself.")
        with self.database.write() as tx:
            row = self._released(tx, image_id)
            key = self.hierarchy.image_key(tx, image_id)
            self.catalog.change(tx, key, image_id, state=str(ImageState.WITHDRAWN))
            self.audit.append(
                tx,
                caller,
                Event(
                    "image.withdraw",
                    patient_id=row["patient_id"],
                    image_id=image_id,
                    reason=reason.strip(),
                ),
            )
        self.viewings.close_subject(image_id)

    @needs(Permission.EXPORT)
    def export_package(self, caller: Caller, image_id: str) -> File:
        """The sealed package of a released image; opens only with this system's keys."""
        tx = self.database.read()
        self._released(tx, image_id)
        row = self.catalog.verify(tx, self.hierarchy.image_key(tx, image_id), image_id)
        content = package.write(
            package.Package(
                image_id,
                row["version"],
                row["facts"],
                tuple(self.catalog.regions(tx, image_id)),
                self.host.read_blob(row["sealed_blob"]),
            )
        )
        self.audit.record(
            caller, Event("package.export", patient_id=row["patient_id"], image_id=image_id)
        )
        return File(f"{image_id}{package.SUFFIX}", "application/octet-stream", content)

    @needs(Permission.RESTORE)
    def restore_package(
        self, caller: Caller, masked: bytes, sealed: bytes, reason: str
    ) -> tuple[File, str]:
        """Make the original from a masked file and its package.

        Returns:
            The original under its own name, and the proof: ``bytes`` or ``pixels``.

        Raises:
            UnknownKey: The image is not of this system, or its key was destroyed.
            SealError: The package or the masked file was altered; nothing is shown.
        """
        if not reason.strip():
            raise InputError("Say why you need to see the original.")
        taken = package.read(sealed)
        image_id = taken.image_id
        requested = Event("package.restore", "requested", image_id=image_id, reason=reason.strip())
        self.audit.record(caller, requested)
        try:
            subject = self._sealed_subject(self.database.read(), image_id, taken.version)
            facts = self.open_facts(subject.key, vars(taken))
            restored = self._restored(subject, facts, masked, taken.container, taken.regions)
        except EngineError as err:
            failed = Event("package.restore", "failed", image_id=image_id, detail={"why": err.code})
            self.audit.record(caller, failed)
            raise
        self.audit.record(
            caller,
            *(Event("region.decrypt", image_id=image_id, region_id=r) for r in restored.opened),
            Event("package.restore", "completed", image_id=image_id),
        )
        image = restored.image
        return File(facts["name"], _MEDIA_TYPES[image.format], image.data), restored.proof

    def _open(self, caller: Caller, image_id: str, began: float) -> tuple[Restoration, Image]:
        tx = self.database.read()
        subject = self._sealed_subject(tx, image_id)
        row = self.catalog.verify(tx, subject.key, image_id)
        facts = self.open_facts(subject.key, row)
        regions = self.catalog.regions(tx, image_id)
        masked = self.host.read_blob(row["masked_blob"])
        restored = self._restored(
            subject,
            facts,
            open_field(subject.key, subject.context("masked"), masked),
            self.host.read_blob(row["sealed_blob"]),
            regions,
        )
        assessment = None
        if allowed(caller.role, Permission.VIEW_METRICS):
            assessment = assessment_from_json(facts["assessment"])
        restoration = Restoration(
            handle=self.host.token("vw"),
            record=record(row),
            name="" if restored.partial else facts["name"],
            frames=restored.image.frames,
            regions=tuple(r for r, _ in regions),
            opened=restored.opened,
            partial=restored.partial,
            proof=restored.proof,
            digest="" if restored.partial else facts["pixel_digest"],
            assessment=assessment,
            decrypt_ms=restored.decrypt_ms,
            total_ms=round(self.host.ticks_ms() - began, 1),
            properties=restored.image.properties,
            expires_at=self.viewings.expiry(),
        )
        return restoration, restored.image

    def _sealed_subject(self, tx: Cursor, image_id: str, version: int | None = None) -> Subject:
        """Keys of a sealed image; by default of the version that the catalog holds."""
        row = self.catalog.row(tx, image_id)
        key = self.hierarchy.image_key(tx, image_id)
        patient_key = self.hierarchy.patient_key(tx, row["patient_id"])
        return Subject(
            image_id,
            row["version"] if version is None else version,
            key,
            derive(patient_key, "pseudonyms"),
        )

    def _restored(
        self,
        subject: Subject,
        facts: Mapping[str, Any],
        masked: bytes,
        container: bytes,
        regions: Sequence[tuple[SealedRegion, int]],
    ) -> pipeline.Restored:
        return pipeline.restore(
            masked,
            container,
            regions,
            facts["remainder_start"],
            subject,
            bytes.fromhex(facts["pixel_digest"]),
            bytes.fromhex(facts["file_digest"]),
            facts["name"],
            self.host,
            self.limits,
        )

    def _restoration(self, caller: Caller, handle: str) -> tuple[Image, Restoration]:
        viewing = self.viewings.get(caller.session_id, handle)
        if not isinstance(viewing.about, Restoration):
            raise NotFound("This picture is no longer open: ask for it again.")
        return viewing.image, viewing.about

    def _released(self, tx: Cursor, image_id: str) -> Row:
        """The row of a released image; drafts and withdrawn ones answer like missing ones."""
        row = self.catalog.row(tx, image_id)
        if row["state"] != ImageState.RELEASED:
            raise NotFound("There is no such image.")
        return row

    def _part(self, image_id: str, part: str) -> bytes:
        tx = self.database.read()
        self._released(tx, image_id)
        key = self.hierarchy.image_key(tx, image_id)
        row = self.catalog.verify(tx, key, image_id)
        context = f"image/{image_id}/{row['version']}/{part}"
        return open_field(key, context, self.host.read_blob(row[f"{part}_blob"]))

    def _masked_image(self, image_id: str) -> Image:
        """Decoded masked image. Cached: it holds nothing hidden, and rights were asked before."""
        row = self._released(self.database.read(), image_id)
        address = row["masked_blob"]
        with self._masked_lock:
            cached = self._masked.get(address)
        if cached is None:
            name = f"{image_id}.{row['format'].lower()}"
            cached = images.decode(name, self._part(image_id, "masked"), self.limits)
            with self._masked_lock:
                self._masked[address] = cached
                while sum(i.pixels.nbytes for i in self._masked.values()) > _MASKED_CACHE_BYTES:
                    self._masked.popitem(last=False)
        return cached


def _file(stem: str, format: str, data: bytes) -> File:
    suffix = {"JPEG": "jpg", "DICOM": "dcm", "TIFF": "tif"}.get(format, format.lower())
    return File(f"{stem}.{suffix}", _MEDIA_TYPES[format], data)
