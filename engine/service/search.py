"""Finding images by what may be known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from engine.errors import PermissionDenied
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.permissions import Permission, allowed
from engine.records import Caller, ImageRecord, ImageState
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
class ImageQuery:
    """What a search asks for; what is None or empty is not asked for.

    Args:
        states: Others than released only where the role works with them.
        text: A patient's number or the beginnings of words of a name.
        modality: Empty for files that have none.
        confidence: Least and greatest of the least certain region of an image.
        since, until: First moment of upload, and the first one after.
        reason: A key of ``REASONS``: why a person had to look, or what was sealed unasked.
    """

    states: Sequence[ImageState] = (ImageState.RELEASED,)
    text: str = field(default="", repr=False)
    modality: str | None = None
    label: str | None = None
    uploaded_by: str | None = None
    confidence: tuple[float, float] | None = None
    since: datetime | None = None
    until: datetime | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Found:
    """One page of a search.

    Args:
        images: Newest first.
        total: How many there are on all pages.
        dates: Day of the study by image, ``YYYY-MM-DD``, where the header says it.
    """

    images: tuple[ImageRecord, ...]
    total: int
    dates: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class Choices:
    """What the filters of a search can be set to: what occurs among released images."""

    modalities: tuple[str, ...]
    uploaders: tuple[str, ...]


#: More patients than there are.
_ALL = 1 << 31


class Search:
    """Searches."""

    def __init__(self, context: Context, guard: Guard) -> None:
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._patients = context.patients
        self._studies = context.studies
        self._guard = guard

    @needs(Permission.VIEW_MASKED)
    def images(
        self,
        caller: Caller,
        query: ImageQuery | None = None,
        limit: int = 50,
        offset: int = 0,
        patient_id: str | None = None,
    ) -> Found:
        """One page of the images that match, newest first, and how many there are.

        Args:
            patient_id: Of this patient only. A parameter by itself, so that ``needs`` asks for
                the care relation.

        Raises:
            PermissionDenied: A state that this role does not see.
        """
        wanted = query or ImageQuery()
        for state in wanted.states:
            if state not in _LISTED or not allowed(caller.role, _LISTED[state]):
                self._audit.record(caller, Event("image.find", "refused", detail={"state": state}))
                raise PermissionDenied("Your role cannot see images in this state.")
        only = self._guard.open_patients(caller)
        patient_ids = only if patient_id is None else [patient_id]
        named = bool(wanted.text.strip())
        if named:
            matching = self._patients.search(wanted.text, _ALL, 0, only)
            keys = [p.patient_id for p in matching]
            patient_ids = [k for k in keys if patient_id in (None, k)]
        filters: Filters = {
            "states": wanted.states,
            "patient_ids": patient_ids,
            "modality": wanted.modality,
            "label": wanted.label,
            "uploaded_by": wanted.uploaded_by,
            "confidence": wanted.confidence,
            "since": wanted.since,
            "until": wanted.until,
            "reason": wanted.reason,
        }
        images = self._catalog.search(**filters, limit=limit, offset=offset)
        total = self._catalog.count(**filters)
        read = Event("image.list", detail={"states": [*wanted.states]})
        if named or patient_id is not None:
            read = Event("patient.search", detail={"by": "image", "found": total})
        self._guard.record_read(caller, read)
        ids = [image.image_id for image in images]
        return Found(tuple(images), total, self._studies.dates(self._database.read(), ids))

    @needs(Permission.VIEW_MASKED)
    def choices(self, caller: Caller) -> Choices:
        """What occurs among the released images that the caller may see."""
        only = self._guard.open_patients(caller)
        modalities, uploaders = self._catalog.choices(self._database.read(), only)
        return Choices(tuple(sorted(modalities)), tuple(sorted(uploaders)))
