"""Image and region rows. Every row of an image is bound by a tag under the image's key.

The tag covers all columns of the image and of its regions, so that a changed box, class,
state or file address is detected when the image is next opened. Facts derived from hidden
pixels (file name, digests, measurements) are sealed in ``facts``; columns hold coarse steps of them
(:mod:`engine.measure.coarse`).
"""

from __future__ import annotations

import hmac
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Required, TypedDict, Unpack

from engine.errors import NotFound, SealBroken
from engine.metrics import coarse_bytes, coarse_confidence, coarse_ms, coarse_times
from engine.records import Detection, Format, ImageRecord, ImageState, SealedRegion
from engine.store.database import Cursor, Database, Row
from engine.vault import blind_index, derive

#: Columns that carry the tag itself or the wrapped key, which has its own integrity.
_UNTAGGED = ("tag", "wrapped_key")
_BLOBS = ("draft_blob", "masked_blob", "sealed_blob", "thumbnail_blob")


@dataclass(frozen=True)
class DraftRow:
    """What sealing reads of a draft's row.

    Args:
        version: 0 until it was first sealed.
        reasons: Why a person must look; empty where nobody must.
    """

    image_id: str
    patient_id: str
    version: int
    profile: str
    width: int
    height: int
    frames: int
    reasons: tuple[str, ...]
    times_ms: Mapping[str, float]


@dataclass(frozen=True)
class ImageRow(DraftRow):
    """A row of the table ``images``. The tag binds every column but the wrapped key.

    Args:
        facts: Sealed; they tell of hidden pixels.
        draft_blob, masked_blob, sealed_blob, thumbnail_blob: Addresses of files.
    """

    state: ImageState
    format: Format
    modality: str
    size_bytes: int
    stored_bytes: int
    uploaded_at: datetime
    uploaded_by: str
    sealed_at: datetime | None
    confidence: float | None
    region_count: int
    wrapped_key: bytes
    duplicate_index: bytes
    facts: bytes
    tag: bytes
    draft_blob: str | None
    masked_blob: str | None
    sealed_blob: str | None
    thumbnail_blob: str | None

    @property
    def addresses(self) -> list[str]:
        """Files that the row needs."""
        return [address for b in _BLOBS if (address := getattr(self, b))]

    @property
    def record(self) -> ImageRecord:
        """The row as everybody who may list images sees it."""
        seen = {f.name: getattr(self, f.name) for f in fields(ImageRecord)}
        sizes = {name: coarse_bytes(seen[name]) for name in ("size_bytes", "stored_bytes")}
        return ImageRecord(**{**seen, **sizes})


class Filters(TypedDict, total=False):
    """What a search may ask for; what is None or not there is not asked for.

    Args:
        modality: Empty for files that have none.
        confidence: Least and greatest of the least certain region.
        since, until: First moment of upload, and the first one after.
        reason: Why a person had to look, or what was sealed without asking.
    """

    states: Required[Sequence[ImageState]]
    patient_ids: Sequence[str] | None
    modality: str | None
    label: str | None
    uploaded_by: str | None
    confidence: tuple[float, float] | None
    since: datetime | None
    until: datetime | None
    reason: str | None


_MATCHES = (
    "state IN (SELECT unnest($1::VARCHAR[]))"
    " AND ($2::VARCHAR[] IS NULL OR patient_id IN (SELECT unnest($2::VARCHAR[])))"
    " AND ($3::VARCHAR IS NULL OR modality = $3)"
    " AND ($4::VARCHAR IS NULL OR EXISTS (SELECT 1 FROM regions r"
    "  WHERE r.image_id = images.image_id AND r.label = $4))"
    " AND ($5::VARCHAR IS NULL OR uploaded_by = $5)"
    " AND ($6::DOUBLE PRECISION IS NULL OR floor(confidence * 4) / 4 BETWEEN $6 AND $7)"
    " AND ($8::TIMESTAMP IS NULL OR uploaded_at >= $8)"
    " AND ($9::TIMESTAMP IS NULL OR uploaded_at < $9)"
    " AND ($10::VARCHAR IS NULL OR contains(reasons, '\"' || $10 || '\"'))"
)


class Catalog:
    """Rows of one database. Callers hold the keys and the transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, tx: Cursor, key: bytes, row: Mapping[str, Any]) -> str:
        """Insert an image row and tag it; returns the tag in hex, for the audit log.

        Args:
            key: The image's data key, 32 bytes.
            row: Columns of the table ``images`` but for the tag.
        """
        columns = ", ".join(row)
        places = ", ".join(f"${i + 1}" for i in range(len(row)))
        tx.run(f"INSERT INTO images ({columns}) VALUES ({places})", *row.values())  # noqa: S608
        # By itself, because ``images`` may have no index: its rows are updated.
        tx.run("INSERT INTO image_files VALUES ($1, $2)", row["duplicate_index"], row["image_id"])
        return self._tag(tx, key, row["image_id"])

    def change(self, tx: Cursor, key: bytes, image_id: str, **columns: Any) -> str:
        """Change columns of a verified image row and compute its tag; returns the tag.

        Raises:
            SealBroken: The row was altered outside MedSec.
        """
        self.verify(tx, key, image_id)
        self._set(tx, image_id, **columns)
        return self._tag(tx, key, image_id)

    def seal(
        self,
        tx: Cursor,
        key: bytes,
        image_id: str,
        regions: Sequence[tuple[SealedRegion, int]],
        **columns: Any,
    ) -> str:
        """Give an image another key, columns and regions, and compute its tag; returns the tag.

        Args:
            regions: Each with the byte at which it starts in the sealed file.
        """
        tx.run("DELETE FROM regions WHERE image_id = $1", image_id)
        rows = [
            {"image_id": image_id, "place": place, "start": start, **_region_row(region)}
            for place, (region, start) in enumerate(regions)
        ]
        if rows:
            names, values = ", ".join(rows[0]), ", ".join(f"${i + 1}" for i in range(len(rows[0])))
            statement = f"INSERT INTO regions ({names}) VALUES ({values})"  # noqa: S608
            tx.run_many(statement, [list(row.values()) for row in rows])
        self._set(tx, image_id, **columns)
        return self._tag(tx, key, image_id)

    def erase(self, tx: Cursor, image_id: str, at: datetime) -> list[str]:
        """Destroy an image's key and everything that could tell of it.

        Returns:
            Addresses of files that nothing needs any more.
        """
        row = self.row(tx, image_id)
        tx.run("DELETE FROM regions WHERE image_id = $1", image_id)
        tx.run("DELETE FROM notes WHERE image_id = $1", image_id)
        tx.run("DELETE FROM image_files WHERE image_id = $1", image_id)
        cases = tx.all("SELECT blob FROM training_cases WHERE image_id = $1", image_id)
        tx.run("DELETE FROM training_cases WHERE image_id = $1", image_id)
        self._set(
            tx, image_id, state=str(ImageState.ERASED), wrapped_key=None, facts=None, tag=None,
            duplicate_index=None, confidence=None, reasons="[]", **dict.fromkeys(_BLOBS),
        )  # fmt: skip
        tx.run(
            "INSERT INTO erasures VALUES ($1, 'image', $2, false) ON CONFLICT DO NOTHING",
            image_id,
            at,
        )
        return row.addresses + [case["blob"] for case in cases]

    def row(self, tx: Cursor, image_id: str) -> ImageRow:
        """The row as it is; its tag was not checked.

        Raises:
            NotFound: No such image, or erased.
        """
        return _image_row(self._raw(tx, image_id))

    def _raw(self, tx: Cursor, image_id: str) -> Row:
        row = tx.one("SELECT * FROM images WHERE image_id = $1", image_id)
        if row is None or row["state"] == ImageState.ERASED:
            raise NotFound("There is no such image.")
        return row

    def patient_of(self, tx: Cursor, image_id: str) -> str | None:
        """Patient of an image in any state; None if there is no such image."""
        row = tx.one("SELECT patient_id FROM images WHERE image_id = $1", image_id)
        return None if row is None else str(row["patient_id"])

    def patient_of_region(self, tx: Cursor, region_id: str) -> str | None:
        """Patient of a region; None if there is no such region."""
        row = tx.one(
            "SELECT patient_id FROM images JOIN regions USING (image_id) WHERE region_id = $1",
            region_id,
        )
        return None if row is None else str(row["patient_id"])

    def tag(self, tx: Cursor, image_id: str) -> bytes | None:
        """What changes with every change of the image; None where there is none, or erased."""
        row = tx.one("SELECT tag FROM images WHERE image_id = $1", image_id)
        return None if row is None else row["tag"]

    def taken_away(self, tx: Cursor, image_ids: Collection[str]) -> list[str]:
        """Those of these images that are not released any more, by whichever server."""
        rows = tx.all(
            "SELECT image_id FROM images WHERE state <> $1"
            " AND image_id IN (SELECT unnest($2::VARCHAR[]))",
            str(ImageState.RELEASED),
            list(image_ids),
        )
        return [row["image_id"] for row in rows]

    def verify(self, tx: Cursor, key: bytes, image_id: str) -> ImageRow:
        """The row, after its tag and those of its regions were checked.

        Raises:
            NotFound: No such image, or erased.
            SealBroken: A column of the image or of a region was changed outside MedSec.
        """
        row = self._raw(tx, image_id)
        if row["tag"] is None or not hmac.compare_digest(row["tag"], self._compute(tx, key, row)):
            raise SealBroken(
                "The catalog entry of this image was altered. Restore it from a backup.",
                image_id=image_id,
            )
        return _image_row(row)

    def verify_newest(self, tx: Cursor, row: ImageRow) -> None:
        """Is this the newest entry of the image, or an older one put back?

        Every change leaves the row's tag in the audit log, in the same transaction.

        Raises:
            SealBroken: The log has a newer version.
        """
        # Nothing but the id is asked of the database: only then does it use its index.
        entries = tx.all("SELECT sequence, detail FROM audit WHERE image_id = $1", row.image_id)
        tags = ((e["sequence"], json.loads(e["detail"]).get("tag")) for e in entries)
        newest = max(((s, tag) for s, tag in tags if tag is not None), default=(0, ""))[1]
        if newest != row.tag.hex():
            raise SealBroken(
                "This image was replaced by an older version. Restore it from a backup.",
                image_id=row.image_id,
            )

    def regions(self, tx: Cursor, image_id: str) -> list[tuple[SealedRegion, int]]:
        """Sealed regions in the order of sealing, each with its start in the sealed file."""
        return [(_region(r), r["start"]) for r in self._region_rows(tx, image_id)]

    def many(
        self, tx: Cursor, image_ids: Sequence[str]
    ) -> list[tuple[ImageRow, list[SealedRegion]]]:
        """Rows of these images that are not erased, each with its regions; tags are not checked."""
        wanted = list(image_ids)
        sealed: dict[str, list[SealedRegion]] = defaultdict(list)
        for region in tx.all(
            "SELECT * FROM regions WHERE image_id IN (SELECT unnest($1::VARCHAR[]))"
            " ORDER BY image_id, place",
            wanted,
        ):
            sealed[region["image_id"]].append(_region(region))
        rows = tx.all(
            "SELECT * FROM images WHERE state <> 'erased'"
            " AND image_id IN (SELECT unnest($1::VARCHAR[]))",
            wanted,
        )
        return [(_image_row(row), sealed[row["image_id"]]) for row in rows]

    def tags(self, tx: Cursor, image_ids: Sequence[str]) -> dict[str, bytes]:
        """Tags of those of these images that are not erased; they are not checked."""
        rows = tx.all(
            "SELECT image_id, tag FROM images WHERE state <> 'erased'"
            " AND image_id IN (SELECT unnest($1::VARCHAR[]))",
            list(image_ids),
        )
        return {row["image_id"]: bytes(row["tag"]) for row in rows}

    def _region_rows(self, tx: Cursor, image_id: str) -> list[Row]:
        rows = tx.all("SELECT * FROM regions WHERE image_id = $1", image_id)
        return sorted(rows, key=lambda r: int(r["place"]))

    def image_of(self, tx: Cursor, region_id: str) -> str:
        """The image of a region. Raises NotFound."""
        row = tx.one("SELECT image_id FROM regions WHERE region_id = $1", region_id)
        if row is None:
            raise NotFound("There is no such region.")
        return str(row["image_id"])

    def add_index(self, tx: Cursor, image_id: str, index: bytes) -> None:
        """Let an image be found by another keyed hash too."""
        tx.run("INSERT INTO image_files VALUES ($1, $2)", index, image_id)

    def waiting_for(self, tx: Cursor, reason: str, senders: str, limit: int) -> list[ImageRow]:
        """Drafts that wait for this reason alone, oldest first.

        Args:
            senders: What the names of those who sent them begin with.
        """
        rows = tx.all(
            "SELECT * FROM images WHERE state = 'review' AND reasons = $1"
            " AND starts_with(uploaded_by, $2) ORDER BY uploaded_at, image_id LIMIT $3",
            json.dumps([reason]),
            senders,
            limit,
        )
        return [_image_row(row) for row in rows]

    def find_duplicate(self, tx: Cursor, index: bytes) -> str | None:
        """The image with this keyed hash of its file, if any."""
        row = tx.one("SELECT image_id FROM image_files WHERE duplicate_index = $1", index)
        return None if row is None else str(row["image_id"])

    def search(
        self, *, limit: int = 50, offset: int = 0, **filters: Unpack[Filters]
    ) -> list[ImageRecord]:
        """Images that match every filter given, newest first."""
        rows = self._database.read().all(
            # First the ids of the page, then its rows: sorting whole rows takes their blobs along.
            "SELECT * FROM images WHERE image_id IN (SELECT image_id FROM images"  # noqa: S608
            f" WHERE {_MATCHES} ORDER BY uploaded_at DESC, image_id LIMIT $11 OFFSET $12)"
            " ORDER BY uploaded_at DESC, image_id",
            *_values(filters),
            limit,
            offset,
        )
        return [_image_row(row).record for row in rows]

    def search_places(
        self, *, limit: int = 50, offset: int = 0, **filters: Unpack[Filters]
    ) -> list[tuple[str, str, str]]:
        """Image, study and series of what :meth:`search` finds; empty where there is no place."""
        rows = self._database.read().all(
            "SELECT m.image_id, p.study_id, p.series_id FROM (SELECT image_id, uploaded_at"  # noqa: S608
            f" FROM images WHERE {_MATCHES} ORDER BY uploaded_at DESC, image_id"
            " LIMIT $11 OFFSET $12) m LEFT JOIN image_places p ON p.image_id = m.image_id"
            " ORDER BY m.uploaded_at DESC, m.image_id",
            *_values(filters),
            limit,
            offset,
        )
        return [(r["image_id"], r["study_id"] or "", r["series_id"] or "") for r in rows]

    def count(self, most: int | None = None, **filters: Unpack[Filters]) -> int:
        """How many images match every filter given.

        Args:
            most: Count no further than to one more than this.
        """
        limit = "" if most is None else f" LIMIT {most + 1}"
        return self._database.read().count(
            f"SELECT count(*) FROM (SELECT 1 FROM images WHERE {_MATCHES}{limit}) AS found",  # noqa: S608
            *_values(filters),
        )

    def ids(self, tx: Cursor, seed: str = "") -> list[str]:
        """Ids of all images that are not erased, in an order that the seed decides."""
        rows = tx.all(
            "SELECT image_id FROM images WHERE state <> 'erased'"
            " ORDER BY CASE WHEN $1 = '' THEN 0 ELSE hash(image_id || $1) END, image_id",
            seed,
        )
        return [r["image_id"] for r in rows]

    def released_tags(self, tx: Cursor) -> dict[str, bytes]:
        """Tags of the released images, by their ids."""
        rows = tx.all("SELECT image_id, tag FROM images WHERE state = $1", str(ImageState.RELEASED))
        return {r["image_id"]: bytes(r["tag"]) for r in rows}

    def choices(self, tx: Cursor, patient_ids: Sequence[str] | None) -> tuple[set[str], set[str]]:
        """Modalities and uploaders that occur among released images of these patients."""
        rows = tx.all(
            "SELECT DISTINCT modality, uploaded_by FROM images WHERE state = $1"
            " AND ($2::VARCHAR[] IS NULL OR patient_id IN (SELECT unnest($2::VARCHAR[])))",
            str(ImageState.RELEASED),
            None if patient_ids is None else list(patient_ids),
        )
        return {r["modality"] for r in rows}, {r["uploaded_by"] for r in rows}

    def erasures(self, tx: Cursor) -> list[tuple[str, str]]:
        """Kind (``image`` or ``patient``) and key of everything that was erased."""
        return [(r["kind"], r["subject_id"]) for r in tx.all("SELECT * FROM erasures")]

    def note_erasure(self, tx: Cursor, kind: str, subject_id: str, at: datetime) -> None:
        """Remember that something was erased that this catalog never had, or has no more."""
        tx.run(
            "INSERT INTO erasures VALUES ($1, $2, $3, true) ON CONFLICT DO NOTHING",
            subject_id,
            kind,
            at,
        )

    def of_patient(self, tx: Cursor, patient_id: str) -> list[str]:
        """Ids of a patient's images that are not erased."""
        rows = tx.all(
            "SELECT image_id FROM images WHERE patient_id = $1 AND state <> 'erased'", patient_id
        )
        return [r["image_id"] for r in rows]

    def extent(self, tx: Cursor, patient_id: str) -> dict[str, Any]:
        """How many images of a patient are not erased, how many of them were never sealed, and
        when the first and the last came in: ``images``, ``unsealed``, ``first``, ``last``."""
        found = tx.one(
            "SELECT count(*) AS images, count(*) FILTER (WHERE version = 0) AS unsealed,"
            " min(uploaded_at) AS first, max(uploaded_at) AS last"
            " FROM images WHERE patient_id = $1 AND state <> 'erased'",
            patient_id,
        )
        assert found is not None
        return dict(found)

    def records_of_patient(
        self, tx: Cursor, patient_id: str, states: Sequence[ImageState]
    ) -> list[ImageRecord]:
        """A patient's images in these states, as everybody who may list images sees them."""
        rows = tx.all(
            "SELECT * FROM images WHERE patient_id = $1"
            " AND state IN (SELECT unnest($2::VARCHAR[]))",
            patient_id,
            [str(state) for state in states],
        )
        return [_image_row(row).record for row in rows]

    def blobs(self, tx: Cursor, part: str = "") -> set[str]:
        """Addresses of all files that are in use.

        Args:
            part: What they begin with.
        """
        others = ("guests", "training_cases", "held_instances", "networks")
        each = " UNION ALL ".join(f"SELECT blob FROM {table}" for table in others)  # noqa: S608
        rows = tx.all(
            f"SELECT blob FROM (SELECT unnest(ARRAY[{', '.join(_BLOBS)}]) AS blob FROM images"  # noqa: S608
            f" UNION ALL {each}) AS b WHERE starts_with(blob, $1)",
            part,
        )
        return {row["blob"] for row in rows if row["blob"]}

    def needing(self, tx: Cursor, blobs: Collection[str]) -> dict[str, str]:
        """Images that need one of these files, each with such an address."""
        rows = tx.all(f"SELECT image_id, {', '.join(_BLOBS)} FROM images")  # noqa: S608
        return {r["image_id"]: a for r in rows for a in _addresses(r) if a in blobs}

    def _set(self, tx: Cursor, image_id: str, **columns: Any) -> None:
        settings = ", ".join(f"{name} = ${i + 2}" for i, name in enumerate(columns))
        tx.run(f"UPDATE images SET {settings} WHERE image_id = $1", image_id, *columns.values())  # noqa: S608

    def _tag(self, tx: Cursor, key: bytes, image_id: str) -> str:
        tag = self._compute(tx, key, self._raw(tx, image_id))
        tx.run("UPDATE images SET tag = $2 WHERE image_id = $1", image_id, tag)
        return tag.hex()

    def _compute(self, tx: Cursor, key: bytes, row: Row) -> bytes:
        regions = self._region_rows(tx, row["image_id"])
        covered = {k: v for k, v in row.items() if k not in _UNTAGGED}
        text = json.dumps([covered, regions], sort_keys=True, default=_plain)
        return blind_index(derive(key, "catalog row"), "image and regions", text)


def _values(filters: Filters) -> tuple[Any, ...]:
    """What the places of ``_MATCHES`` stand for."""
    patients = filters.get("patient_ids")
    low, high = filters.get("confidence") or (None, None)
    return (
        [str(s) for s in filters["states"]],
        None if patients is None else list(patients),
        filters.get("modality"),
        filters.get("label"),
        filters.get("uploaded_by"),
        low,
        high,
        filters.get("since"),
        filters.get("until"),
        filters.get("reason"),
    )


def _addresses(row: Row) -> list[str]:
    return [row[b] for b in _BLOBS if row[b]]


def _image_row(row: Row) -> ImageRow:
    plain = {f.name: row[f.name] for f in fields(ImageRow)}
    plain["state"], plain["format"] = ImageState(row["state"]), Format(row["format"])
    plain["reasons"] = tuple(json.loads(row["reasons"]))
    # Older releases wrote both in full.
    plain["times_ms"] = coarse_times(json.loads(row["times_ms"]))
    if row["confidence"] is not None:
        plain["confidence"] = coarse_confidence(row["confidence"])
    return ImageRow(**plain)


def _region_row(region: SealedRegion) -> Row:
    """The inverse of :func:`_region`."""
    return {
        "region_id": region.region_id,
        **region.detection.to_row(),
        "size_bytes": region.size_bytes,
        "encrypt_ms": region.encrypt_ms,
    }


def _region(row: Row) -> SealedRegion:
    return SealedRegion(
        region_id=row["region_id"],
        detection=Detection.from_row(
            {**row, "confidence": coarse_confidence(row["confidence"])}  # older ones are in full
        ),
        size_bytes=row["size_bytes"],
        encrypt_ms=coarse_ms(row["encrypt_ms"]),
    )


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"cannot tag a {type(value).__name__}")
