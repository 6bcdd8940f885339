"""Finding images by what may be known of them, and what a viewer needs besides pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from engine.errors import NotFound, PermissionDenied
from engine.permissions import Permission, allowed
from engine.records import Caller, ImageRecord, ImageState
from engine.service.guard import needs
from engine.service.restoring import Restoration, Restoring
from engine.store.audit import Event
from engine.store.catalog import Filters

#: What else it takes to see images that are not released. Pictures of them are never shown.
_LISTED: dict[ImageState, Permission] = {
    ImageState.RELEASED: Permission.VIEW_MASKED,
    ImageState.DRAFT: Permission.UPLOAD,
    ImageState.REVIEW: Permission.UPLOAD,
    ImageState.WITHDRAWN: Permission.RESTORE,
}


@dataclass(frozen=True)
class Found:
    """One page of a search.

    Args:
        images: Newest first.
        total: How many there are on all pages.
    """

    images: tuple[ImageRecord, ...]
    total: int


@dataclass(frozen=True)
class Choices:
    """What the filters of a search can be set to: what occurs among released images."""

    modalities: tuple[str, ...]
    uploaders: tuple[str, ...]


@dataclass(frozen=True)
class Display:
    """How the values of an image can be shown and measured; nothing of the patient.

    Args:
        spacing_mm: From row to row and from column to column, where the file says so.
        spacing_from: The DICOM attribute that says so: ``PixelSpacing`` (in the patient, or
            calibrated), ``ImagerPixelSpacing`` (on the detector: projections are magnified) or
            ``NominalScannedPixelSpacing`` (on the scanned film).
        windows: The file's own, as (centre, width).
    """

    spacing_mm: tuple[float, float] | None
    spacing_from: str
    windows: tuple[tuple[float, float], ...]


class Finding(Restoring):
    """Methods of the Engine."""

    @needs(Permission.VIEW_MASKED)
    def find_images(
        self,
        caller: Caller,
        *,
        states: Sequence[ImageState] = (ImageState.RELEASED,),
        patient_id: str | None = None,
        query: str = "",
        modality: str | None = None,
        label: str | None = None,
        uploaded_by: str | None = None,
        confidence: tuple[float, float] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> Found:
        """One page of the images that match every filter, newest first, and how many there are.

        Args:
            states: Others than released only where the role works with them.
            query: A patient's number or the beginnings of words of a name.
            modality: Empty for files that have none.
            confidence: Least and greatest of the least certain region of an image.
            since, until: First moment of upload, and the first one after.

        Raises:
            PermissionDenied: A state that this role does not see.
        """
        for state in states:
            if state not in _LISTED or not allowed(caller.role, _LISTED[state]):
                self.audit.record(caller, Event("image.find", "refused", detail={"state": state}))
                raise PermissionDenied("Images of this state are not part of your role.")
        only = self.open_patients(caller)
        patient_ids = only if patient_id is None else [patient_id]
        if query.strip():
            matching = self.patients_.search(query, _ALL, 0, only)
            patient_ids = [p.patient_id for p in matching if patient_id in (None, p.patient_id)]
        filters: Filters = {
            "states": states,
            "patient_ids": patient_ids,
            "modality": modality,
            "label": label,
            "uploaded_by": uploaded_by,
            "confidence": confidence,
            "since": since,
            "until": until,
        }
        images = self.catalog.search(**filters, limit=limit, offset=offset)
        total = self.catalog.count(**filters)
        if query.strip() or patient_id is not None:
            self.record_read(
                caller, Event("patient.search", detail={"by": "image", "found": total})
            )
        else:
            self.record_read(caller, Event("image.list", detail={"states": [*states]}))
        return Found(tuple(images), total)

    @needs(Permission.VIEW_MASKED)
    def image_choices(self, caller: Caller) -> Choices:
        """What occurs among the released images that the caller may see."""
        only = self.open_patients(caller)
        rows = self.database.read().all(
            "SELECT DISTINCT modality, uploaded_by FROM images WHERE state = $1"
            " AND ($2::VARCHAR[] IS NULL OR patient_id IN (SELECT unnest($2::VARCHAR[])))",
            str(ImageState.RELEASED),
            only,
        )
        return Choices(
            tuple(sorted({r["modality"] for r in rows})),
            tuple(sorted({r["uploaded_by"] for r in rows})),
        )

    @needs(Permission.VIEW_MASKED)
    def display(self, caller: Caller, image_id: str) -> Display:
        """Spacing and windows of a released image, from its masked file. Raises NotFound."""
        facts = self._masked_image(image_id).properties
        return Display(
            facts.get("spacing_mm"), facts.get("spacing_from", ""), tuple(facts.get("windows", ()))
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
        tx = self.database.read()
        row = self._verified(image_id)
        facts = self.open_facts(self.hierarchy.image_key(tx, image_id), row)
        may = self.granted(caller)
        found = []
        for marker in facts.get("sides", []):
            x, y = (marker["x1"] + marker["x2"]) / 2, (marker["y1"] + marker["y2"]) / 2
            for region, _ in self.catalog.regions(tx, image_id):
                box = region.detection.region
                if box.holds(x, y, marker["frame"]) and may(region.detection.label):
                    found.append((region.region_id, str(marker["side"])))
                    break
        if found:
            self.audit.record(
                caller, Event("image.side", patient_id=row["patient_id"], image_id=image_id)
            )
        return found

    @needs(Permission.RESTORE)
    def open_restoration(self, caller: Caller, image_id: str) -> Restoration | None:
        """What this session has open of an image, for a page that was loaded anew; else None."""
        held = self.viewings.find(caller.session_id, image_id, Restoration)
        if held is None:
            return None
        try:
            return self._restoration(caller, held.handle)[1]
        except NotFound:
            return None


_ALL = 1 << 31
