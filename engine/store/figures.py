"""Counts over the whole catalog: for health, storage, drift and statistics. Nobody is named."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from engine.metrics import coarse_confidence
from engine.records import ImageState
from engine.store.database import Database


@dataclass(frozen=True)
class Sizes:
    """Room that the images of one state take, in bytes; originals are padded."""

    original: int
    stored: int


@dataclass(frozen=True)
class Upload:
    """When an image came, under which profile, and an opaque key of whose it is."""

    image_id: str
    patient_id: str
    profile: str
    uploaded_at: datetime


@dataclass(frozen=True)
class Correction:
    """What the log says of an image's boxes.

    Args:
        action: As in the audit log.
        found: Boxes that were found at the upload.
    """

    image_id: str
    action: str
    found: int


@dataclass(frozen=True)
class Release:
    """The first release of an image, as the log knows it, even where the image is gone."""

    image_id: str
    patient_id: str
    uploaded_at: datetime
    modality: str
    labels: tuple[str, ...]


class Figures:
    """Figures of one catalog, as of now."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def states(self) -> dict[str, int]:
        """How many images there are, by state."""
        rows = self._database.read().all("SELECT state, count(*) AS n FROM images GROUP BY state")
        return {row["state"]: row["n"] for row in rows}

    def patients(self) -> int:
        """Patients who are not erased."""
        return self._count("SELECT count(*) FROM patients WHERE erased_at IS NULL")

    def accounts(self) -> int:
        """Accounts that are enabled."""
        return self._count("SELECT count(*) FROM accounts WHERE enabled")

    def stored_bytes(self) -> int:
        """Size of all stored files."""
        return self._count("SELECT sum(stored_bytes) FROM images")

    def files(self) -> int:
        """How many files are stored."""
        return self._count(
            "SELECT count(draft_blob) + count(masked_blob) + count(sealed_blob)"
            " + count(thumbnail_blob) FROM images"
        )

    def sizes(self) -> dict[str, Sizes]:
        """Sizes by state."""
        rows = self._database.read().all(
            "SELECT state, sum(size_bytes) AS original, sum(stored_bytes) AS stored"
            " FROM images GROUP BY state"
        )
        return {r["state"]: Sizes(int(r["original"] or 0), int(r["stored"] or 0)) for r in rows}

    def uploads(self) -> list[Upload]:
        """Every image that is not erased."""
        rows = self._database.read().all(
            "SELECT image_id, patient_id, profile, uploaded_at FROM images WHERE state <> $1",
            str(ImageState.ERASED),
        )
        return [Upload(**row) for row in rows]

    def corrections(self) -> list[Correction]:
        """Looks at uploads, flags and changes of boxes, in the order of the log.

        An image that came in without a look counts when it was looked at.
        """
        rows = self._database.read().all(
            "SELECT image_id, CASE action WHEN 'image.look' THEN 'image.upload' ELSE action END"
            " AS action, detail ->> 'found' AS found FROM audit WHERE outcome = 'ok'"
            " AND action IN ('image.upload', 'image.look', 'image.withdraw', 'box.add',"
            " 'box.remove', 'box.change')"
            " AND NOT (action = 'image.upload' AND contains(detail, 'not-looked-at'))"
            " AND coalesce(detail ->> 'why', '') <> 'release-suspended'"
            " ORDER BY sequence"
        )
        return [Correction(r["image_id"], r["action"], int(r["found"] or 0)) for r in rows]

    def confidences(self) -> list[tuple[str, float]]:
        """Image and coarse confidence of every sealed region that no person drew."""
        rows = self._database.read().all(
            "SELECT image_id, confidence FROM regions WHERE source <> 'person'"
        )
        return [(row["image_id"], coarse_confidence(row["confidence"])) for row in rows]

    def releases(self) -> Iterator[Release]:
        """Every image ever released, by its first release.

        Classes come from the log: the catalog forgets those of images that are gone.
        """
        rows = self._database.read().all(
            "SELECT a.sequence, a.image_id, a.patient_id, a.detail, i.uploaded_at, i.modality"
            " FROM audit a JOIN images i ON i.image_id = a.image_id"
            " WHERE a.action = 'image.seal' AND a.outcome = 'ok' ORDER BY a.sequence"
        )
        seen = set()
        for row in rows:
            if row["image_id"] not in seen:
                seen.add(row["image_id"])
                labels = tuple(sorted(json.loads(row["detail"]).get("labels", {})))
                yield Release(
                    row["image_id"], row["patient_id"], row["uploaded_at"], row["modality"], labels
                )

    def newest(self, actions: Sequence[str]) -> int:
        """Sequence of the newest entry of the log with one of these actions; 0 without any."""
        return self._count(
            "SELECT max(sequence) FROM audit WHERE action IN (SELECT unnest($1::VARCHAR[]))",
            list(actions),
        )

    def _count(self, sql: str, *values: object) -> int:
        return self._database.read().count(sql, *values)
