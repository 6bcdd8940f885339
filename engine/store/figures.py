"""Counts over the whole catalog: for health, storage, drift and statistics. Nobody is named."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from engine.metrics import CONFIDENCE_STEPS
from engine.records import ImageState
from engine.store.database import Database, Row


@dataclass(frozen=True)
class Sizes:
    """Room that the images of one state take, in bytes; originals are padded."""

    original: int
    stored: int


#: Month of upload, such as ``2026-03``, and profile. Erased images belong to none.
Stream = tuple[str, str]

_IMAGES = (
    "SELECT image_id, patient_id, profile, date_trunc('month', uploaded_at) AS month FROM images"
    " WHERE state <> $1"
)
_CORRECTIONS = (
    "SELECT image_id, CASE action WHEN 'image.look' THEN 'image.upload' ELSE action END AS action,"
    " CASE WHEN action IN ('image.upload', 'image.look') THEN detail ->> 'found' END AS found"
    " FROM audit WHERE outcome = 'ok' AND action IN ('image.upload', 'image.look',"
    " 'image.withdraw', 'box.add', 'box.remove', 'box.change')"
    " AND NOT (action = 'image.upload' AND contains(detail, 'not-looked-at'))"
    " AND coalesce(detail ->> 'why', '') <> 'release-suspended'"
)


@dataclass(frozen=True)
class Correction:
    """What the log says of boxes in the images of one month and profile.

    Args:
        action: As in the audit log.
        found: Boxes that were found at the upload.
        times: So many entries say this.
    """

    stream: Stream
    action: str
    found: int
    times: int


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

    def people(self) -> dict[Stream, int]:
        """How many patients have images."""
        rows = self._database.read().all(
            "SELECT month, profile, count(*) AS times"  # noqa: S608
            f" FROM (SELECT DISTINCT month, profile, patient_id FROM ({_IMAGES}) AS i) AS each"
            " GROUP BY month, profile",
            str(ImageState.ERASED),
        )
        return {_stream(row): row["times"] for row in rows}

    def corrections(self) -> list[Correction]:
        """Looks at uploads, flags and changes of boxes.

        An image that came in without a look counts when it was looked at, and one that was flagged
        again after it was mended counts as one that is flagged.
        """
        rows = self._database.read().all(
            "SELECT month, profile, action, found, CASE WHEN action = 'image.withdraw'"  # noqa: S608
            " THEN count(DISTINCT a.image_id) ELSE count(*) END AS times"
            f" FROM ({_CORRECTIONS}) AS a JOIN ({_IMAGES}) AS i ON i.image_id = a.image_id"
            " GROUP BY month, profile, action, found",
            str(ImageState.ERASED),
        )
        return [
            Correction(_stream(row), row["action"], int(row["found"] or 0), row["times"])
            for row in rows
        ]

    def corrected(self) -> dict[Stream, int]:
        """How many images people added, removed or changed a box of."""
        rows = self._database.read().all(
            "SELECT month, profile, count(*) AS times FROM (SELECT DISTINCT image_id"  # noqa: S608
            f" FROM ({_CORRECTIONS}) AS b WHERE action IN ('box.add', 'box.remove', 'box.change'))"
            f" AS a JOIN ({_IMAGES}) AS i ON i.image_id = a.image_id GROUP BY month, profile",
            str(ImageState.ERASED),
        )
        return {_stream(row): row["times"] for row in rows}

    def confidences(self) -> list[tuple[Stream, float, int]]:
        """Coarse confidence of sealed regions that no person drew, and how many have it."""
        rows = self._database.read().all(
            "SELECT month, profile, floor(confidence * $2) AS step, count(*) AS times"  # noqa: S608
            f" FROM regions AS r JOIN ({_IMAGES}) AS i ON i.image_id = r.image_id"
            " WHERE source <> 'person' GROUP BY month, profile, floor(confidence * $2)",
            str(ImageState.ERASED),
            CONFIDENCE_STEPS,
        )
        return [(_stream(row), row["step"] / CONFIDENCE_STEPS, row["times"]) for row in rows]

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


def _stream(row: Row) -> Stream:
    return f"{row['month']:%Y-%m}", row["profile"]
