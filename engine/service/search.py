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
        total: How many there are on all pages, as far as they were counted.
        more: There are more than that.
        dates: Day of the study by image, ``YYYY-MM-DD``, where the header says it.
    """

    images: tuple[ImageRecord, ...]
    total: int
    more: bool
    dates: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class SeriesFound:
    """Images of one series that a search found one after the other.

    Args:
        study_id, series_id: Empty where the image has no place in a study.
        image: The one in the middle, which stands for them.
        count: How many there are.
    """

    study_id: str
    series_id: str
    image: ImageRecord
    count: int


@dataclass(frozen=True)
class SeriesPage:
    """One page of a search by series.

    Args:
        series: In the order of their newest image.
        seen: How many images this page covers; the next one begins after them.
        total: How many images match on all pages, as far as they were counted.
        more: There are more than that.
        dates: Day of the study by image, ``YYYY-MM-DD``, where the header says it.
    """

    series: tuple[SeriesFound, ...]
    seen: int
    total: int
    more: bool
    dates: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class Choices:
    """What the filters of a search can be set to: what occurs among released images."""

    modalities: tuple[str, ...]
    uploaders: tuple[str, ...]


#: Lists are counted to a multiple of this, the next one behind the page: to count all of twenty
#: million images takes seconds.
COUNTED = 10_000
#: A page by series looks at no more images than these.
_MOST_OF_PAGE = 2000
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
        filters = self._filters(caller, wanted, patient_id)
        images = self._catalog.search(**filters, limit=limit, offset=offset)
        total, more = self._found(caller, wanted, patient_id, filters, offset + limit)
        ids = [image.image_id for image in images]
        return Found(tuple(images), total, more, self._studies.dates(self._database.read(), ids))

    @needs(Permission.VIEW_MASKED)
    def series(
        self,
        caller: Caller,
        query: ImageQuery | None = None,
        limit: int = 12,
        offset: int = 0,
        patient_id: str | None = None,
    ) -> SeriesPage:
        """One page of what :meth:`images` finds, an entry for each series instead of each image.

        Images of a series that were not taken in one after the other may come on two pages.

        Args:
            limit: Of series.
            offset: Of images: the sum of ``seen`` of the pages before.

        Raises:
            PermissionDenied: A state that this role does not see.
        """
        wanted = query or ImageQuery()
        filters = self._filters(caller, wanted, patient_id)
        places = self._catalog.search_places(**filters, limit=_MOST_OF_PAGE, offset=offset)
        held: dict[str, list[tuple[str, str, str]]] = {}
        seen = 0
        for place in places:
            image_id, _, series_id = place
            key = series_id or image_id
            if key not in held and len(held) == limit:
                break
            held.setdefault(key, []).append(place)
            seen += 1
        total, more = self._found(caller, wanted, patient_id, filters, offset + _MOST_OF_PAGE)
        middle = {of[len(of) // 2]: len(of) for of in held.values()}
        ids = [image_id for image_id, _, _ in middle]
        tx = self._database.read()
        records = {row.record.image_id: row.record for row, _ in self._catalog.many(tx, ids)}
        found = tuple(
            SeriesFound(study_id, series_id, records[image_id], count)
            for (image_id, study_id, series_id), count in middle.items()
            # One that was erased or withdrawn meanwhile stands for nothing.
            if image_id in records and records[image_id].state in wanted.states
        )
        return SeriesPage(found, seen, total, more, self._studies.dates(tx, [*records]))

    def _filters(self, caller: Caller, wanted: ImageQuery, patient_id: str | None) -> Filters:
        """What the catalog is asked for, within what the caller may see."""
        for state in wanted.states:
            if state not in _LISTED or not allowed(caller.role, _LISTED[state]):
                self._audit.record(caller, Event("image.find", "refused", detail={"state": state}))
                raise PermissionDenied("Your role cannot see images in this state.")
        only = self._guard.open_patients(caller)
        patient_ids = only if patient_id is None else [patient_id]
        if wanted.text.strip():
            matching = self._patients.search(wanted.text, _ALL, 0, only)
            keys = [p.patient_id for p in matching]
            patient_ids = [k for k in keys if patient_id in (None, k)]
        return {
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

    def _found(
        self,
        caller: Caller,
        wanted: ImageQuery,
        patient_id: str | None,
        filters: Filters,
        behind: int,
    ) -> tuple[int, bool]:
        """How many images match, and whether there are more; the audit log notes what was asked.

        Args:
            behind: The next page begins here at the latest; whether there is one is always known.
        """
        if wanted.text.strip() or patient_id is not None:
            # Of some patients: all are counted, for the log.
            total = self._catalog.count(**filters)
            read = Event("patient.search", detail={"by": "image", "found": total})
            more = False
        else:
            most = (behind // COUNTED + 1) * COUNTED
            found = self._catalog.count(most, **filters)
            total, more = min(found, most), found > most
            read = Event("image.list", detail={"states": [*wanted.states]})
        self._guard.record_read(caller, read)
        return total, more

    @needs(Permission.VIEW_MASKED)
    def choices(self, caller: Caller) -> Choices:
        """What occurs among the released images that the caller may see."""
        only = self._guard.open_patients(caller)
        modalities, uploaders = self._catalog.choices(self._database.read(), only)
        return Choices(tuple(sorted(modalities)), tuple(sorted(uploaders)))
