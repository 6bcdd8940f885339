"""Health, checkpoints and upkeep: the part of the Engine about the whole system."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

from engine.detection import ModelInfo
from engine.errors import EngineError, SettingsError, StorageError
from engine.host import sweep_unfinished, write_durably
from engine.permissions import Permission
from engine.records import AuditEntry, Caller, File, ImageState
from engine.service.guard import log, needs
from engine.service.measuring import Measuring
from engine.store.audit import Event

ORPHAN_SECONDS = 3600.0
MOST_ORPHANS = 100


class Reports(Measuring):
    """Methods of the Engine."""

    def about(self) -> tuple[ModelInfo, ...]:
        """The networks in use, with version, licence and checksum."""
        return self.detector.models

    @needs(Permission.VIEW_HEALTH)
    def health(self, caller: Caller) -> dict[str, Any]:
        """State of the system for its administrator. No patient data."""
        return self._health()

    def _health(self) -> dict[str, Any]:
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
            **self._condition(),
        }

    def _condition(self) -> dict[str, Any]:
        """What the upkeep knows; see :mod:`engine.service.upkeep`."""
        return {}

    @needs(Permission.VIEW_HEALTH)
    def storage(self, caller: Caller) -> dict[str, float]:
        """Room that is taken, in bytes; sizes of originals are padded (see vault.pad_length)."""
        disk = shutil.disk_usage(self.settings.data)
        tx = self.database.read()
        sizes = {
            row["state"]: row
            for row in tx.all(
                "SELECT state, sum(size_bytes) AS original, sum(stored_bytes) AS stored"
                " FROM images GROUP BY state"
            )
        }

        def total(column: str, *states: ImageState) -> float:
            return float(sum(int(sizes[s][column] or 0) for s in states if s in sizes))

        files = tx.count(
            "SELECT count(draft_blob) + count(masked_blob) + count(sealed_blob)"
            " + count(thumbnail_blob) FROM images"
        )
        return {
            "catalog_bytes": float(
                sum(p.stat().st_size for p in self.settings.data.glob("catalog.duckdb*"))
            ),
            "files": float(files),
            "files_bytes": total("stored", *ImageState),
            "original_bytes": total("original", ImageState.RELEASED),
            "sealed_bytes": total("stored", ImageState.RELEASED),
            "draft_bytes": total("stored", ImageState.DRAFT, ImageState.REVIEW),
            "disk_bytes": float(disk.total),
            "disk_free_bytes": float(disk.free),
        }

    @needs(Permission.READ_AUDIT)
    def audit_file(self, caller: Caller, query: str = "") -> File:
        """Every entry of the log that matches, oldest first, as CSV with its digests; audited."""
        out = io.StringIO()
        table = csv.writer(out)
        names = [f.name for f in fields(AuditEntry)]
        table.writerow(names)
        count = self.database.read().count("SELECT count(*) FROM audit")
        for entry in reversed(self.audit.entries(query=query, limit=count)):
            row = [getattr(entry, name) for name in names]
            table.writerow([_cell(value) for value in row])
        self.audit.record(caller, Event("audit.export", detail={"all": not query}))
        return File("medsec-audit.csv", "text/csv", out.getvalue().encode())

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
        checkpoint = self.audit.checkpoint(self.hierarchy.signer(), self.hierarchy.log_id)
        name = f"audit-{self.host.now():%Y%m%dT%H%M%S%f}.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_durably(folder / name, checkpoint)
        except OSError as err:
            raise StorageError(
                "The folder of checkpoints cannot be written.", errno=err.errno
            ) from err
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
            yield image_id, self._check_image(image_id)[0]

    def _check_image(self, image_id: str) -> tuple[str | None, int]:
        """The code of what is wrong with an image's entry or files, or None, and bytes read."""
        tx = self.database.read()

        def read() -> int:
            key = self.hierarchy.image_key(tx, image_id)
            row = self.catalog.verify(tx, key, image_id)
            self.catalog.verify_newest(tx, row)
            self.open_facts(key, row)
            return sum(len(self.host.read_blob(a)) for a in self.catalog.addresses(row))

        try:
            return None, self._steady(image_id, read)
        except EngineError as err:
            if self.catalog.tag(tx, image_id) is None:
                return None, 0  # erased meanwhile
            return err.code, 0

    def sweep(self) -> int:
        """Delete files that no row needs and that are too old to belong to an upload under way.

        Returns:
            How many were deleted.
        """
        sweep_unfinished(self.settings.data, ORPHAN_SECONDS)
        there = set(self.host.blobs())
        # Before the rows: what leaves this list has rows by then, or is needed no more.
        at_work = set().union(*list(self._at_work.values()))
        needed = self.catalog.blobs(self.database.read()) | at_work
        orphans = [a for a in there - needed if self.host.blob_age_seconds(a) > ORPHAN_SECONDS]
        if len(orphans) > max(MOST_ORPHANS, len(there & needed)):
            # Crashes leave a few; this many say that the catalog is an older one.
            log.error("not swept: %d of %d files belong to no image", len(orphans), len(there))
            return 0
        for address in orphans:
            self.host.delete_blob(address)
        return len(orphans)


def _cell(value: object) -> str:
    """Text that a spreadsheet does not take for a formula."""
    text = (
        json.dumps(value, sort_keys=True)
        if isinstance(value, Mapping)
        else value.isoformat()
        if isinstance(value, datetime)
        else ""
        if value is None
        else str(value)
    )
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
