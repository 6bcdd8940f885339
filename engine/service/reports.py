"""Statistics, health, keys and upkeep: the part of the Engine about the whole system."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from engine.audit import Event
from engine.database import Row
from engine.errors import EngineError, SettingsError, UnknownKey
from engine.host import write_durably
from engine.networks import ModelInfo
from engine.permissions import Permission, allowed
from engine.records import Caller, ImageState
from engine.service.custody import Custody
from engine.service.guard import log, needs

ORPHAN_SECONDS = 3600.0
MOST_ORPHANS = 100
#: Fewest patients that a number for researchers stands for (G13).
SMALLEST_GROUP = 5


@dataclass(frozen=True)
class Statistics:
    """Numbers of all released images, without a patient, a name or an image id.

    Args:
        images: One row an image, in no order that tells which; see :mod:`ui.charts`.
        regions: One row a sealed region.
        totals: Counts and sums over everything.
    """

    images: pd.DataFrame
    regions: pd.DataFrame
    totals: Mapping[str, float]


class Reports(Custody):
    """Methods of the Engine."""

    def about(self) -> tuple[ModelInfo, ...]:
        """The networks in use, with version, licence and checksum."""
        return self.detector.models

    @needs(Permission.VIEW_HEALTH)
    def health(self, caller: Caller) -> dict[str, Any]:
        """State of the system for its administrator. No patient data."""
        usage = shutil.disk_usage(self.settings.data)
        tx = self.database.read()
        states = tx.all("SELECT state, count(*) AS n FROM images GROUP BY state")
        return {
            "images": {r["state"]: r["n"] for r in states},
            "patients": tx.count("SELECT count(*) FROM patients WHERE erased_at IS NULL"),
            "accounts": tx.count("SELECT count(*) FROM accounts WHERE enabled"),
            "audit_entries": tx.count("SELECT count(*) FROM audit"),
            "stored_bytes": tx.count("SELECT sum(stored_bytes) FROM images"),
            "disk_free_bytes": usage.free,
            "root_keys": list(self.hierarchy.root_key_ids),
            "keys_to_rotate": self.hierarchy.rotation_left(),
        }

    @needs(Permission.READ_AUDIT)
    def write_checkpoint(self, caller: Caller) -> str:
        """Write a signed statement of the audit log's head outside the data folder.

        Raises:
            SettingsError: MEDSEC_CHECKPOINT_DIR is not set.
            AuditBroken: The log does not verify.
        """
        folder = self.settings.checkpoint_dir
        if folder is None:
            raise SettingsError("Set MEDSEC_CHECKPOINT_DIR to a folder outside the data folder.")
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = self.audit.checkpoint(self.hierarchy.signer(), self.hierarchy.log_id)
        name = f"audit-{self.host.now():%Y%m%dT%H%M%S%f}.json"
        write_durably(folder / name, checkpoint)
        self.audit.record(caller, Event("audit.checkpoint"))
        return name

    @needs(Permission.READ_AUDIT)
    def check_checkpoint(self, caller: Caller, checkpoint: bytes) -> int:
        """Does the log still continue this checkpoint? Says how many entries it covers.

        Raises:
            AuditBroken: It does not, or the checkpoint is not ours.
        """
        return self.audit.verify_checkpoint(checkpoint, self.hierarchy.signer().public_bytes)

    @needs(Permission.MANAGE_BACKUPS)
    def verify_images(self, caller: Caller) -> Iterator[tuple[str, str | None]]:
        """Check the catalog entry and every file of every image without opening pictures.

        Yields:
            Image id, and None or the code of the error that was found.
        """
        tx = self.database.read()
        rows = tx.all("SELECT image_id FROM images WHERE state <> 'erased' ORDER BY image_id")
        for image_id in [r["image_id"] for r in rows]:
            try:
                key = self.hierarchy.image_key(tx, image_id)
                row = self.catalog.verify(tx, key, image_id)
                self.catalog.verify_newest(tx, row)
                self.open_facts(key, row)
                for address in self.catalog.addresses(row):
                    self.host.read_blob(address)
            except EngineError as err:
                yield image_id, err.code
            else:
                yield image_id, None

    def sweep(self) -> int:
        """Delete files that no row needs and that are too old to belong to an upload under way.

        Returns:
            How many were deleted.
        """
        there = set(self.host.blobs())
        needed = self.catalog.blobs(self.database.read())
        orphans = [a for a in there - needed if self.host.blob_age_seconds(a) > ORPHAN_SECONDS]
        if len(orphans) > max(MOST_ORPHANS, len(there & needed)):
            # Crashes leave a few; this many say that the catalog is an older one.
            log.error("not swept: %d of %d files belong to no image", len(orphans), len(there))
            return 0
        for address in orphans:
            self.host.delete_blob(address)
        return len(orphans)

    @needs(Permission.STATISTICS)
    def statistics(self, caller: Caller) -> Statistics:
        """Measured numbers of all released images, without any identifier.

        Who may not see single images (researchers, administrators) gets groups of at least
        ``SMALLEST_GROUP`` patients: smaller ones of a month and modality are put together as
        ``other``, and left out, totals included, where that is still too few. Their columns
        are shuffled apart within a group and months stand for days; entropies are rounded to
        0.01 bits.
        """
        tx = self.database.read()
        rows = tx.all(
            "SELECT * FROM images WHERE state = $1 ORDER BY hash(image_id)",
            str(ImageState.RELEASED),
        )
        groups = {r["image_id"]: r["modality"] or r["format"] for r in rows}
        single = allowed(caller.role, Permission.VIEW_METRICS)
        if not single:
            groups = _large_groups(rows, groups)
        rows = [r for r in rows if r["image_id"] in groups]
        sealed: dict[str, list[Row]] = defaultdict(list)
        for region in tx.all("SELECT * FROM regions ORDER BY image_id, place"):
            sealed[region["image_id"]].append(region)
        pictures, regions = [], []
        for row in rows:
            try:
                key = self.hierarchy.image_key(tx, row["image_id"])
            except UnknownKey:
                continue  # erased while we were reading
            facts = self.open_facts(key, row)
            picture, its_regions = _numbers(row, facts, sealed[row["image_id"]])
            pictures.append({**picture, "modality": groups[row["image_id"]]})
            regions += its_regions
        totals = {
            "images": float(len(rows)),
            "regions": float(sum(r["region_count"] for r in rows)),
            "original_bytes": float(sum(p["size_bytes"] for p in pictures)),
            "stored_bytes": float(sum(r["stored_bytes"] for r in rows)),
        }
        tables = pd.DataFrame(pictures), pd.DataFrame(regions)
        if not single:
            tables = (
                self._unlinked(tables[0], ["uploaded_at", "modality"]),
                self._unlinked(tables[1], ["label"]),
            )
        return Statistics(*tables, totals)

    def _unlinked(self, table: pd.DataFrame, groups: list[str]) -> pd.DataFrame:
        """The same values, no longer row by row: each column is shuffled within its group.

        Distributions stay exactly what was measured. What goes is the row: an entropy beside
        a size beside a confidence would point at one image, and its exact value at a name.
        """
        if table.empty:
            return table
        table = table.copy()
        if "uploaded_at" in table:
            table["uploaded_at"] = table["uploaded_at"].dt.to_period("M").dt.to_timestamp()
        seed = int.from_bytes(self.host.random(8), "big")
        shuffled = table.groupby(groups, group_keys=False)[list(table.columns)].apply(
            lambda part: pd.DataFrame(
                {
                    column: part[column].to_numpy()
                    if column in groups
                    else part[column].sample(frac=1, random_state=(seed + i) % 2**32).to_numpy()
                    for i, column in enumerate(part.columns)
                }
            )
        )
        entropies = [c for c in shuffled.columns if c.startswith("entropy")]
        return shuffled.round(dict.fromkeys(entropies, 2)).reset_index(drop=True)


def _numbers(
    row: Row, facts: Mapping[str, Any], sealed: Sequence[Row]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One image's measurements as a table row, and one row for each of its regions."""
    assessment = dict(facts["assessment"])
    measured = assessment.pop("regions")
    assessment.pop("fingerprint")
    picture = {
        # The day, not the moment: a time of day would find the image in a work list.
        "uploaded_at": row["uploaded_at"].replace(hour=0, minute=0, second=0, microsecond=0),
        "profile": row["profile"],
        "format": row["format"],
        "region_count": row["region_count"],
        "confidence": row["confidence"],
        "size_bytes": facts["size_bytes"],
        "stored_bytes": row["stored_bytes"],
        **assessment,
        **{f"{stage}_ms": ms for stage, ms in json.loads(row["times_ms"]).items()},
    }
    regions = [
        {
            "label": region["label"],
            "confidence": region["confidence"],
            "by_person": region["source"] == "person",
            "encrypt_ms": region["encrypt_ms"],
            **numbers,
        }
        for region, numbers in zip(sealed, measured, strict=True)
    ]
    return picture, regions


def _large_groups(rows: Sequence[Row], names: Mapping[str, str]) -> dict[str, str]:
    """Image id to group name, for images in groups of enough patients."""
    months = {r["image_id"]: f"{r['uploaded_at']:%Y-%m}" for r in rows}

    def large(names: Mapping[str, str]) -> dict[str, str]:
        patients: dict[tuple[str, str], set[str]] = defaultdict(set)
        for row in rows:
            patients[months[row["image_id"]], names[row["image_id"]]].add(row["patient_id"])
        enough = {key for key, people in patients.items() if len(people) >= SMALLEST_GROUP}
        return {i: name for i, name in names.items() if (months[i], name) in enough}

    kept = large(names)
    return large({i: kept.get(i, "other") for i in names})
