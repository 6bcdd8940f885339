"""Measured numbers of all released images: tables in memory, and who gets which of them."""

from __future__ import annotations

import threading
from collections.abc import Container, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pandas as pd

from engine.metrics import (
    Throughput,
    coarse_column,
    kind_of_image,
    most_withheld,
    published,
    throughput,
)
from engine.operations.context import Context
from engine.operations.guard import Guard
from engine.operations.stored_images import StoredImages
from engine.permissions import Permission, allowed
from engine.records import Caller, ImageState, SealedRegion
from engine.store.catalog import ImageRow

#: What changes the numbers of released images; each is one row in the log.
_CHANGES = (
    "image.seal", "image.withdraw", "image.reopen", "image.erase", "patient.erase",
    "patient.merge",
)  # fmt: skip


#: Stream, patient, image and classes.
_Release = tuple[tuple[str, str], str, str, Sequence[str]]
_CHUNK = 500
#: What an image's row and the rows of its regions both tell of, in one way or another: an
#: image's confidence is that of its least certain region, its masked share is their area. Two
#: cuts that both had it could be subtracted (``engine.measure.disclosure``): each has its own.
_OF_REGIONS = ("region_count", "confidence")


_OF_IMAGES = ("area_px", "frames", "sealed_bytes", "encrypt_ms")


@dataclass(frozen=True)
class Statistics:
    """Numbers of all released images, without a patient, a name or an image id.

    Args:
        images: One row an image, in no order that tells which; see :mod:`ui.charts`.
        regions: One row a sealed region.
        single: Rows belong together: the caller may see the numbers of single images. Where
            not, every column is shuffled by itself within its month and kind of image.
        withheld: At most so many images are not told of because their group is too small, besides
            those of the newest patients: see :func:`engine.measure.disclosure.most_withheld`. The
            same whatever the filter; 0 where nothing is withheld from this caller.
    """

    images: pd.DataFrame
    regions: pd.DataFrame
    single: bool
    withheld: int = 0

    @property
    def totals(self) -> dict[str, float]:
        """Counts and sums over what these tables hold."""
        sizes = self.images.reindex(columns=["size_bytes", "stored_bytes"]).sum()
        return {
            "images": float(len(self.images)),
            "regions": float(len(self.regions)),
            "original_bytes": float(sizes["size_bytes"]),
            "stored_bytes": float(sizes["stored_bytes"]),
        }

    @property
    def throughput(self) -> Throughput | None:
        """Images and bytes per second of work; None where no time was measured."""
        stages = [c for c in self.images.columns if c.endswith("_ms")]
        spent = self.images[stages].sum(axis=1) if stages else pd.Series(dtype=float)
        if not spent.sum() > 0:
            return None
        return throughput(self.images["size_bytes"].tolist(), spent.tolist())

    def only(
        self,
        modalities: Sequence[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        labels: Sequence[str] | None = None,
    ) -> Statistics:
        """The rows of some kinds of image, uploaded from a day up to another, and of some classes.

        Whole months and kinds are what ``engine.measure.disclosure`` cuts by, so that a choice
        among them tells of no group that is too small. Classes choose among regions alone.
        """

        def keep(table: pd.DataFrame) -> pd.DataFrame:
            if table.empty:
                return table
            chosen = pd.Series(True, table.index)
            if modalities is not None:
                chosen &= table["modality"].isin(modalities)
            if since is not None:
                chosen &= table["uploaded_at"] >= since
            if until is not None:
                chosen &= table["uploaded_at"] <= until
            if labels is not None and "label" in table:
                chosen &= table["label"].isin(labels)
            return table[chosen]

        return Statistics(keep(self.images), keep(self.regions), self.single, self.withheld)


@dataclass(frozen=True)
class Rows:
    """The numbers of all released images with their ids: columns of numbers, not an object each.

    Args:
        tags: Of the images' rows in the catalog that the numbers are of, by image.
        images: A row an image.
        regions: A row a region.
    """

    tags: Mapping[str, bytes]
    images: pd.DataFrame
    regions: pd.DataFrame

    def of(self, image_ids: Container[str]) -> Rows:
        """Those of some images."""
        tags = {image: tag for image, tag in self.tags.items() if image in image_ids}
        return Rows(tags, _of_images(self.images, tags), _of_images(self.regions, tags))

    def and_of(self, others: Sequence[Rows]) -> Rows:
        """Those of other images, too."""
        tags = dict(self.tags)
        for other in others:
            tags |= other.tags
        every = (self, *others)
        return Rows(
            tags,
            _one_after_the_other([r.images for r in every]),
            _one_after_the_other([r.regions for r in every]),
        )


class Measured:
    """The tables of all released images, in memory, for as long as no image changes.

    Opening the sealed numbers of ten thousand images takes seconds; they are opened once, and
    after that only those of images that are new. Nothing in here is a picture or names anybody,
    and it leaves only by way of :meth:`MeasuredNumbers.of`.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.stamp: int | None = None
        self.rows = Rows({}, pd.DataFrame(), pd.DataFrame())
        self.full = Statistics(pd.DataFrame(), pd.DataFrame(), True)
        self.public = Statistics(pd.DataFrame(), pd.DataFrame(), False, most_withheld((), 0))
        self.told: set[str] = set()  # images that the public tables hold


class MeasuredNumbers:
    """The tables of measured numbers, narrowed to what a caller may see."""

    def __init__(self, context: Context, guard: Guard, stored: StoredImages) -> None:
        self._access = context.access
        self._catalog = context.catalog
        self._database = context.database
        self._figures = context.figures
        self._hierarchy = context.hierarchy
        self._host = context.host
        self._guard = guard
        self._measured = Measured()
        self._stored = stored

    def of(self, caller: Caller) -> Statistics:
        """The tables as far as a caller may see them: single images only of patients whom they
        may see, and only where every class is theirs to open."""
        kept = self.all()
        narrowed = self._access.classes(self._database.read(), caller.username) is not None
        if narrowed or not allowed(caller.role, Permission.VIEW_METRICS):
            return kept.public
        only = self._guard.open_patients(caller)
        return kept.full if only is None else self._of_patients(kept, only)

    def images_of(self, patient_ids: Sequence[str]) -> set[str]:
        """Ids of the images of these patients."""
        tx = self._database.read()
        return {i for patient_id in patient_ids for i in self._catalog.of_patient(tx, patient_id)}

    def _of_patients(self, kept: Measured, patient_ids: Sequence[str]) -> Statistics:
        theirs = kept.rows.of(self.images_of(patient_ids))
        return Statistics(_unnamed(theirs.images), _unnamed(theirs.regions), True)

    def all(self) -> Measured:
        """The tables as of now."""
        kept = self._measured
        with kept.lock:
            stamp = self._figures.newest(_CHANGES)
            if stamp != kept.stamp:
                self._measure(kept)
                kept.stamp = stamp
            return kept

    def _measure(self, kept: Measured) -> None:
        tags = self._catalog.released_tags(self._database.read())
        known = {i for i, tag in kept.rows.tags.items() if tags.get(i) == tag}
        missing = [i for i in tags if i not in known]
        rows = kept.rows if len(known) == len(kept.rows.tags) else kept.rows.of(known)
        kept.rows = rows = rows.and_of(
            [self._opened(missing[n : n + _CHUNK]) for n in range(0, len(missing), _CHUNK)]
        )
        pictures, regions = rows.images, rows.regions
        seed = int.from_bytes(self._host.random(4), "big")
        mixed = [t.sample(frac=1, random_state=seed) if len(t) else t for t in (pictures, regions)]
        kept.full = Statistics(_unnamed(mixed[0]), _unnamed(mixed[1]), True)
        released = list(self._releases())
        public, kept.told = self._public(pictures, regions, released)
        ever = [(patient, image_id) for _, patient, image_id, _ in released]
        kept.public = replace(public, withheld=most_withheld(ever, len(public.images)))

    def _opened(self, image_ids: Sequence[str]) -> Rows:
        """Measured numbers of some images."""
        tx = self._database.read()
        keys = dict(self._hierarchy.image_keys(tx, list(image_ids)))
        tags, images, regions = {}, [], []
        for row, sealed in self._catalog.many(tx, image_ids):
            # Erased or withdrawn while we were reading: the next stamp knows.
            if row.state == ImageState.RELEASED and row.image_id in keys:
                facts = self._stored.open_facts(keys[row.image_id], row)
                image, some = _table_rows(row, facts, sealed)
                tags[row.image_id] = row.tag
                images.append(image)
                regions += some
        return Rows(tags, pd.DataFrame(images), pd.DataFrame(regions))

    def _public(
        self, pictures: pd.DataFrame, regions: pd.DataFrame, released: Sequence[_Release]
    ) -> tuple[Statistics, set[str]]:
        """The tables for those who may not see single images, and whose images are in them."""
        if pictures.empty:
            return Statistics(pictures, regions, False), set()
        kinds = pictures["modality"].where(~pictures["picture"], "").map(kind_of_image)
        pictures = pictures.assign(modality=kinds)
        first = set(pictures.loc[pictures["version"] == 1, "image_id"])
        told = published(
            ((stream, patient, image_id) for stream, patient, image_id, _ in released), first
        )
        images = _unlinked(
            pictures[pictures["image_id"].isin(told)].drop(columns=[*_OF_REGIONS]),
            ["uploaded_at", "modality"],
            self._seed(),
        )
        if regions.empty:
            return Statistics(images, regions, False), told
        regions = regions.assign(modality=regions["image_id"].map(
            dict(zip(pictures["image_id"], kinds, strict=True))
        ))  # fmt: skip
        pairs: list[Hashable] = list(zip(regions["image_id"], regions["label"], strict=True))
        told_regions = published(
            (
                ((stream, label), patient, (image_id, label))
                for stream, patient, image_id, labels in released
                for label in labels
            ),
            {pair for pair in pairs if pair[0] in first},  # type: ignore[index]
        )
        chosen = regions[[pair in told_regions for pair in pairs]].drop(columns=[*_OF_IMAGES])
        told_rows = _unlinked(chosen, ["uploaded_at", "modality", "label"], self._seed())
        return Statistics(images, told_rows, False), told

    def _releases(self) -> Iterator[_Release]:
        """Every image ever released, by its first release."""
        for release in self._figures.releases():
            stream = (f"{release.uploaded_at:%Y-%m}", kind_of_image(release.modality))
            yield stream, release.patient_id, release.image_id, release.labels

    def _seed(self) -> int:
        return int.from_bytes(self._host.random(8), "big")


def _one_after_the_other(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    some = [table for table in tables if len(table)]
    # A column that was empty in a part has no type there.
    return pd.concat(some, ignore_index=True).infer_objects() if some else pd.DataFrame()


def _of_images(table: pd.DataFrame, image_ids: Container[str]) -> pd.DataFrame:
    """Rows of some images, without the times of stages that none of them went through."""
    chosen = table[[i in image_ids for i in table["image_id"]]] if len(table) else table
    if chosen.empty:
        return pd.DataFrame()
    stages = [c for c in chosen if c.endswith("_ms") and chosen[c].isna().all()]
    return chosen.drop(columns=stages)


def _unnamed(table: pd.DataFrame) -> pd.DataFrame:
    names = ["image_id", "version", "picture"]
    return table.drop(columns=names, errors="ignore").reset_index(drop=True)


def _unlinked(table: pd.DataFrame, groups: list[str], seed: int) -> pd.DataFrame:
    """The same values, no longer row by row: each column is shuffled within its group.

    What goes is the row, for an entropy beside a size beside a confidence would point at one
    image, and the exact value, which would point at a name: of it, declared steps remain.
    """
    table = _unnamed(table)
    if table.empty:
        return table
    table["uploaded_at"] = table["uploaded_at"].dt.to_period("M").dt.to_timestamp()
    table = table.sort_values(groups, kind="stable")
    shuffled = {
        column: table[column].to_numpy()
        if column in groups
        # Shuffle all, then let each group have its own back: a stable sort by group.
        else table[[*groups, column]]
        .sample(frac=1, random_state=(seed + number) % 2**32)
        .sort_values(groups, kind="stable")[column]
        .to_numpy()
        for number, column in enumerate(table.columns)
    }
    mixed = pd.DataFrame(shuffled)
    for column in mixed.select_dtypes("number").columns:
        mixed[column] = [coarse_column(column, value) for value in mixed[column]]
    return mixed


def _table_rows(
    row: ImageRow, facts: Mapping[str, Any], sealed: Sequence[SealedRegion]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One image's measurements as a table row, and one row for each of its regions."""
    assessment = dict(facts["assessment"])
    measured = assessment.pop("regions")
    assessment.pop("fingerprint")
    # The day, not the moment: a time of day would find the image in a work list.
    day = row.uploaded_at.replace(hour=0, minute=0, second=0, microsecond=0)
    kind = row.modality or str(row.format)
    # In full where the image was sealed since the columns are coarse.
    sure = facts.get("confidences") or [r.detection.confidence for r in sealed]
    spent_ms = facts.get("encrypt_ms") or [r.encrypt_ms for r in sealed]
    picture = {
        "image_id": row.image_id,
        "version": row.version,
        "picture": not row.modality,
        "uploaded_at": day,
        "modality": kind,
        "profile": row.profile,
        "format": str(row.format),
        "region_count": row.region_count,
        "confidence": min(
            (c for c, r in zip(sure, sealed, strict=True) if r.detection.source != "person"),
            default=row.confidence,
        ),
        "size_bytes": facts["size_bytes"],
        "stored_bytes": row.stored_bytes,
        **assessment,
        **{f"{stage}_ms": ms for stage, ms in facts.get("times_ms", row.times_ms).items()},
    }
    regions = [
        {
            "image_id": row.image_id,
            "uploaded_at": day,
            "modality": kind,
            "label": region.detection.label,
            "confidence": confidence,
            "by_person": region.detection.source == "person",
            "encrypt_ms": spent,
            **numbers,
        }
        for region, numbers, confidence, spent in zip(sealed, measured, sure, spent_ms, strict=True)
    ]
    return picture, regions
