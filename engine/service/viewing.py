"""Everybody's view: finding images and seeing what is masked."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from engine.errors import NotFound
from engine.formats import images
from engine.permissions import Permission, allowed
from engine.records import (
    AuditEntry,
    Caller,
    File,
    Image,
    ImageRecord,
    ImageState,
    SealedRegion,
)
from engine.seal import package
from engine.service.guard import needs
from engine.service.sealing import Sealing
from engine.store.audit import Event
from engine.store.catalog import record
from engine.store.database import Cursor, Row
from engine.store.open_images import size_bytes
from engine.vault import open_field

MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "DICOM": "application/dicom",
    "TIFF": "image/tiff",
    "BMP": "image/bmp",
    "WebP": "image/webp",
}
_MASKED_CACHE_BYTES = 256 * 1024 * 1024


class Viewing(Sealing):
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
        only = self.open_patients(caller)
        patient_ids: Sequence[str] | None = only if patient_id is None else [patient_id]
        if query.strip():
            found = [p.patient_id for p in self.patients_.search(query, 1000, 0, only)]
            patient_ids = [p for p in found if patient_id in (None, p)]
        if query.strip() or patient_id is not None:
            self.record_read(caller, Event("patient.search", detail={"by": "image"}))
        else:
            self.record_read(caller, Event("image.list", detail={"states": [ImageState.RELEASED]}))
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
        return record(self._verified(image_id))

    @needs(Permission.VIEW_MASKED)
    def regions(self, caller: Caller, image_id: str) -> list[SealedRegion]:
        """Where the image is sealed, and as what."""
        return self._regions_of(image_id)

    @needs(Permission.VIEW_MASKED)
    def region(self, caller: Caller, region_id: str) -> tuple[str, SealedRegion]:
        """One sealed region of a released image, and the image's id. Raises NotFound."""
        try:
            image_id = self.catalog.image_of(self.database.read(), region_id)
            found = self._regions_of(image_id)
            return image_id, next(r for r in found if r.region_id == region_id)
        except (NotFound, StopIteration):
            raise NotFound("There is no such region.") from None

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
        self._record_view(caller, image_id)
        return images.enhance(rgb) if enhance else rgb

    @needs(Permission.VIEW_MASKED)
    def grid_picture(self, caller: Caller, image_id: str, frame: int = 0) -> bytes:
        """PNG of a masked frame with numbered, labelled boxes. Never shows content.

        Drawn when asked for from the masked file and the box list: it holds nothing more.
        """
        picture, sealed = self._steady(
            image_id,
            lambda: (
                images.render(self._masked_image(image_id), frame),
                self._regions_of(image_id),
            ),
        )
        boxes = [r.detection for r in sealed]
        self._record_view(caller, image_id)
        return images.grid_picture(
            picture, [d for d in boxes if d.region.frame <= frame < d.region.frame_end]
        )

    @needs(Permission.VIEW_MASKED)
    def thumbnail(self, caller: Caller, image_id: str) -> bytes:
        """Small PNG of the masked image."""
        return images.as_png(self._part(image_id, "thumbnail"))

    @needs(Permission.EXPORT)
    def masked_file(self, caller: Caller, image_id: str) -> File:
        """The masked file to take away, in the original's format, under a neutral name."""
        tx = self.database.read()
        row = self._released(tx, image_id)
        data = images.from_storage(self._part(image_id, "masked"))
        self.audit.record(
            caller, Event("image.export", patient_id=row["patient_id"], image_id=image_id)
        )
        return _file(image_id, row["format"], data)

    @needs(Permission.VIEW_MASKED)
    def image_history(self, caller: Caller, image_id: str) -> list[AuditEntry]:
        """What happened to this image. Technicians see uploads and sealing only (F25)."""
        self._released(self.database.read(), image_id)
        self._record_view(caller, image_id, "image.history")
        if allowed(caller.role, Permission.READ_HISTORY):
            return self.audit.of_image(image_id)
        visible = ("image.upload", "image.seal", "box.add", "box.remove", "box.change")
        entries = self.audit.of_image(image_id, visible)
        return [replace(e, reason="", origin="") for e in entries]

    @needs(Permission.EXPORT)
    def export_package(self, caller: Caller, image_id: str) -> File:
        """The sealed package of a released image; opens only with this system's keys."""
        tx = self.database.read()

        def read() -> tuple[Row, bytes]:
            row = self._verified(image_id)
            content = package.Package(
                image_id,
                row["version"],
                row["facts"],
                tuple(self.catalog.regions(tx, image_id)),
                self.host.read_blob(row["sealed_blob"]),
            )
            return row, package.write(content)

        row, content = self._steady(image_id, read)
        self.audit.record(
            caller, Event("package.export", patient_id=row["patient_id"], image_id=image_id)
        )
        return File(f"{image_id}{package.SUFFIX}", "application/octet-stream", content)

    def _record_view(self, caller: Caller, image_id: str, action: str = "image.view") -> None:
        """Log that somebody looked at a sealed image.

        The image is named in the detail and not in its column: what happened to an image stays
        a short list, whoever looks at it.
        """
        patient_id = self.catalog.patient_of(self.database.read(), image_id) or ""
        self.record_read(caller, Event(action, patient_id=patient_id, detail={"image": image_id}))

    def _released(self, tx: Cursor, image_id: str) -> Row:
        """The row of a released image; drafts and withdrawn ones answer like missing ones."""
        row = self.catalog.row(tx, image_id)
        if row["state"] != ImageState.RELEASED:
            raise NotFound("There is no such image.")
        return row

    def _verified(self, image_id: str) -> Row:
        """The row of a released image: unaltered, and the newest that the log knows."""
        tx = self.database.read()

        def read() -> Row:
            self._released(tx, image_id)
            row = self.catalog.verify(tx, self.hierarchy.image_key(tx, image_id), image_id)
            self.catalog.verify_newest(tx, row)
            return row

        return self._steady(image_id, read)

    def _regions_of(self, image_id: str) -> list[SealedRegion]:
        def read() -> list[SealedRegion]:
            self._verified(image_id)
            return [region for region, _ in self.catalog.regions(self.database.read(), image_id)]

        return self._steady(image_id, read)

    def _part(self, image_id: str, part: str) -> bytes:
        """A part as it is stored; the masked file is read by :mod:`engine.formats.images`."""

        def read() -> bytes:
            row = self._verified(image_id)
            key = self.hierarchy.image_key(self.database.read(), image_id)
            context = f"image/{image_id}/{row['version']}/{part}"
            return open_field(key, context, self.host.read_blob(row[f"{part}_blob"]))

        return self._steady(image_id, read)

    def _masked_image(self, image_id: str) -> Image:
        """Decoded masked image. Cached: it holds nothing hidden, and rights were asked before."""
        row = self._released(self.database.read(), image_id)
        address = row["masked_blob"]
        with self._masked_lock:
            cached = self._masked.get(address)
        if cached is None:
            name = f"{image_id}.{row['format'].lower()}"
            cached = images.decode_stored(name, self._part(image_id, "masked"), self.limits)
            with self._masked_lock:
                self._masked[address] = cached
                while self._masked_bytes() > _MASKED_CACHE_BYTES:
                    self._masked.popitem(last=False)
        return cached

    def _masked_bytes(self) -> int:
        return sum(size_bytes(i) for i in list(self._masked.values()))


def _file(stem: str, format: str, data: bytes) -> File:
    suffix = {"JPEG": "jpg", "DICOM": "dcm", "TIFF": "tif"}.get(format, format.lower())
    return File(f"{stem}.{suffix}", MEDIA_TYPES[format], data)
