"""Released images: masked for everybody who may see them, restored for doctors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engine.errors import InputError, NotFound
from engine.formats import images
from engine.metrics import coarse_log
from engine.operations.context import Context
from engine.operations.erasures import Erasures
from engine.operations.guard import Guard, needs
from engine.operations.masked_images import MaskedImages
from engine.operations.restorations import Restoration, Restorations
from engine.operations.stored_images import StoredImages
from engine.permissions import Permission, allowed
from engine.records import Assessment, AuditEntry, Caller, File, ImageRecord, SealedRegion
from engine.seal.pipeline import assessment_from_json
from engine.store.audit import Event


@dataclass(frozen=True)
class Display:
    """How the values of an image can be shown and measured; nothing of the patient.

    Args:
        spacing_mm: From row to row and from column to column, where the file says so.
        spacing_from: The DICOM attribute that says so: ``PixelSpacing`` (in the patient, or
            calibrated), ``ImagerPixelSpacing`` (on the detector: projections are magnified) or
            ``NominalScannedPixelSpacing`` (on the scanned film).
        windows: The file's own, as (centre, width).
        window: In which the masked picture is shown by itself; None where it has no window,
            because its values are colours or it is not DICOM.
        orientation: Which way up the picture is stored, 1 to 8 as in EXIF. Boxes are in stored
            pixels; pictures are shown upright.
    """

    spacing_mm: tuple[float, float] | None
    spacing_from: str
    windows: tuple[tuple[float, float], ...]
    window: tuple[float, float] | None
    orientation: int


class Images:
    """Released images: masked, measured, restored."""

    def __init__(
        self,
        context: Context,
        guard: Guard,
        stored: StoredImages,
        masked: MaskedImages,
        restorations: Restorations,
        erasures: Erasures,
    ) -> None:
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._hierarchy = context.hierarchy
        self._host = context.host
        self._live = context.live
        self._open_images = context.open_images
        self._erasures = erasures
        self._guard = guard
        self._masked = masked
        self._restorations = restorations
        self._stored = stored

    @needs(Permission.VIEW_MASKED)
    def get(self, caller: Caller, image_id: str) -> ImageRecord:
        """One released image. Raises NotFound."""
        return self._stored.verified(image_id).record

    @needs(Permission.VIEW_MASKED)
    def regions(self, caller: Caller, image_id: str) -> list[SealedRegion]:
        """Where the image is sealed, and as what."""
        return self._stored.regions_of(image_id)

    @needs(Permission.VIEW_MASKED)
    def region(self, caller: Caller, region_id: str) -> tuple[str, SealedRegion]:
        """One sealed region of a released image, and the image's id. Raises NotFound."""
        try:
            image_id = self._catalog.image_of(self._database.read(), region_id)
            found = self._stored.regions_of(image_id)
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
        """A frame of the masked image, upright, shape (H, W, 3), uint8, RGB.

        Args:
            window: Centre and width; DICOM only.
            enhance: Contrast-limited histogram equalisation, for looking only.
        """
        rgb = images.displayed(self._masked.get(caller, image_id), frame, window)
        self._record_view(caller, image_id)
        return images.enhance(rgb) if enhance else rgb

    @needs(Permission.VIEW_MASKED)
    def grid_picture(self, caller: Caller, image_id: str, frame: int = 0) -> bytes:
        """PNG of a masked frame with numbered, labelled boxes. Never shows content.

        Drawn when asked for from the masked file and the box list: it holds nothing more.
        """
        image, sealed = self._stored.steady(
            image_id,
            lambda: (self._masked.get(caller, image_id), self._stored.regions_of(image_id)),
        )
        turned, size = images.orientation(image), (image.width, image.height)
        boxes = [
            replace(d, region=images.to_upright(d.region, turned, *size))
            for d in (r.detection for r in sealed)
            if d.region.frame <= frame < d.region.frame_end
        ]
        self._record_view(caller, image_id)
        return images.grid_picture(images.displayed(image, frame), boxes)

    @needs(Permission.VIEW_MASKED)
    def thumbnail(self, caller: Caller, image_id: str) -> bytes:
        """Small PNG of the masked image."""
        return images.as_png(self._stored.part(image_id, "thumbnail"))

    @needs(Permission.EXPORT)
    def masked_file(self, caller: Caller, image_id: str) -> File:
        """The masked file to take away under a neutral name, whose ending says its format.

        That is the original's format, or PNG or TIFF for those that are not written again.
        """
        tx = self._database.read()
        row = self._stored.released(tx, image_id)
        data = images.from_storage(self._stored.part(image_id, "masked"))
        self._audit.record(
            caller, Event("image.export", patient_id=row.patient_id, image_id=image_id)
        )
        kind = images.sniff(data)
        return File(f"{image_id}.{kind.suffix}", kind.media_type, data)

    @needs(Permission.VIEW_MASKED)
    def history(self, caller: Caller, image_id: str) -> list[AuditEntry]:
        """What happened to this image. Technicians see uploads and sealing only (F25)."""
        self._stored.released(self._database.read(), image_id)
        self._record_view(caller, image_id, "image.history")
        if allowed(caller.role, Permission.READ_HISTORY):
            return self._audit.of_image(image_id)
        visible = ("image.upload", "image.seal", "box.add", "box.remove", "box.change")
        entries = self._audit.of_image(image_id, visible)
        # The digest goes too: it is made of what is left out here.
        return [
            replace(e, reason="", origin="", digest="", detail=coarse_log(e.detail))
            for e in entries
        ]

    @needs(Permission.VIEW_MASKED)
    def display(self, caller: Caller, image_id: str) -> Display:
        """Spacing and windows of a released image, from its masked file. Raises NotFound."""
        image = self._masked.get(caller, image_id)
        facts = image.properties
        return Display(
            facts.get("spacing_mm"),
            facts.get("spacing_from", ""),
            tuple(facts.get("windows", ())),
            images.shown_window(image),
            images.orientation(image),
        )

    @needs(Permission.RESTORE)
    def side_markers(self, caller: Caller, image_id: str) -> list[tuple[str, str]]:
        """Sealed side markers that were read with certainty, for those who may open their boxes.

        A picture whose side marker is hidden can be taken for the other side of the body. What
        is told says what is under a box, so it is in the log.

        Returns:
            Region id and ``L`` or ``R``. That none is told does not mean that there is none.

        Raises:
            NotFound: No such released image.
        """
        tx = self._database.read()
        row = self._stored.verified(image_id)
        facts = self._stored.open_facts(self._hierarchy.image_key(tx, image_id), row)
        may = self._guard.granted(caller)
        found = []
        for marker in facts.get("sides", []):
            x, y = (marker["x1"] + marker["x2"]) / 2, (marker["y1"] + marker["y2"]) / 2
            for region, _ in self._catalog.regions(tx, image_id):
                box, label = region.detection.region, region.detection.label
                if box.holds(x, y, marker["frame"]) and may(label):
                    found.append((region.region_id, str(marker["side"])))
                    break
        if found:
            self._audit.record(
                caller, Event("image.side", patient_id=row.patient_id, image_id=image_id)
            )
        return found

    @needs(Permission.DELETE_IMAGE)
    def erase(self, caller: Caller, image_id: str, reason: str) -> None:
        """Destroy an image's key: nobody opens it again, here or from its packages.

        Raises:
            InputError: No reason.
            NotFound: No such image.
        """
        self._erasures.image(caller, image_id, reason, "image.erase")

    def _record_view(self, caller: Caller, image_id: str, action: str = "image.view") -> None:
        """Log that somebody looked at a sealed image.

        The image is named in the detail and not in its column: what happened to an image stays
        a short list, whoever looks at it.
        """
        patient_id = self._catalog.patient_of(self._database.read(), image_id) or ""
        self._guard.record_read(
            caller, Event(action, patient_id=patient_id, detail={"image": image_id})
        )

    @needs(Permission.RESTORE, fresh=True)
    def restore(self, caller: Caller, image_id: str, reason: str) -> Restoration:
        """Open what is sealed and prove it: all permitted regions or none.

        The log has ``requested`` before anything is decrypted, and ``completed`` or
        ``failed`` with every region after.

        Raises:
            InputError: No reason.
            NotFound: No such image, or withdrawn.
            PermissionDenied: None of the image's classes is granted to this account.
            SealError: Something does not open or is not the original; nothing is shown.
        """
        if self._live.settings.reason_required and not reason.strip():
            raise InputError("Give a reason for access to the original.")
        began = self._host.ticks_ms()
        with self._database.write() as tx:
            row = self._stored.released(tx, image_id)
            requested = Event(
                "image.restore",
                "requested",
                patient_id=row.patient_id,
                image_id=image_id,
                reason=reason.strip(),
            )
            self._audit.append(tx, caller, requested)
        return self._restorations.open(caller, image_id, began)[0]

    @needs(Permission.RESTORE)
    def restoration(self, caller: Caller, handle: str) -> Restoration:
        """A restoration of this session again, without pixels, as long as it is open.

        Raises:
            NotFound: Expired, closed or another session's.
        """
        return self._restorations.of(caller, handle)[1]

    @needs(Permission.RESTORE)
    def open_restoration(self, caller: Caller, image_id: str) -> Restoration | None:
        """What this session has open of an image, for a page that was loaded anew; else None."""
        held = self._open_images.find(caller.session_id, image_id, Restoration)
        if held is None:
            return None
        try:
            return self._restorations.of(caller, held.handle)[1]
        except NotFound:
            return None

    @needs(Permission.RESTORE)
    def restored_frame(
        self,
        caller: Caller,
        handle: str,
        frame: int = 0,
        window: tuple[float, float] | None = None,
        enhance: bool = False,
    ) -> np.ndarray:
        """A frame of a restoration of this session, upright, shape (H, W, 3), uint8, RGB.

        Args:
            window: Centre and width; DICOM only.
            enhance: Contrast-limited histogram equalisation, for looking only.

        Raises:
            NotFound: Expired, closed or another session's.
        """
        image, _ = self._restorations.of(caller, handle)
        rgb = images.displayed(image, frame, window)
        return images.enhance(rgb) if enhance else rgb

    @needs(Permission.RESTORE)
    def restored_file(
        self,
        caller: Caller,
        handle: str,
        format: str = "original",
        frame: int = 0,
        enhance: bool = False,
    ) -> File:
        """A restoration as a file: ``original``, or one frame as ``png`` or ``jpeg``.

        Args:
            enhance: Contrast-limited histogram equalisation of a frame, for looking only.

        Raises:
            InputError: Another format, or ``original`` of a partial restoration or enhanced.
            NotFound: Expired, closed or another session's.
        """
        return self._restorations.file_of(caller, handle, format, frame, enhance)

    @needs(None)
    def close(self, caller: Caller, handle: str) -> None:
        """Forget an opened picture of this session now."""
        self._open_images.close(caller.session_id, handle)

    @needs(Permission.VIEW_METRICS)
    def assessment(self, caller: Caller, image_id: str) -> Assessment:
        """Numbers of one image that say something of hidden pixels (G11).

        Raises:
            NotFound: No such released image.
            PermissionDenied: Some of its classes are not granted to this account.
        """
        row = self._stored.verified(image_id)
        key = self._hierarchy.image_key(self._database.read(), image_id)
        regions = self._stored.regions_of(image_id)
        self._restorations.refuse_classes(caller, "image.metrics", row, regions)
        self._audit.record(
            caller, Event("image.metrics", patient_id=row.patient_id, image_id=image_id)
        )
        return assessment_from_json(self._stored.open_facts(key, row)["assessment"])
