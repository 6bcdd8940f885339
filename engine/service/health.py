"""State of the system for its administrator, and its e-mail. No patient data."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from engine.errors import EngineError, InputError
from engine.operations import prometheus
from engine.operations.context import Context
from engine.operations.erasures import Erasures
from engine.operations.guard import Guard, needs
from engine.operations.masked_images import MaskedImages
from engine.permissions import Permission
from engine.records import Caller, ImageState
from engine.service.backups import Backups
from engine.service.upkeep import Upkeep
from engine.store.audit import Event
from engine.store.outbox import TEST, Notice


class Health:
    """What an administrator and a monitoring system see of the system."""

    def __init__(
        self,
        context: Context,
        guard: Guard,
        backups: Backups,
        erasures: Erasures,
        masked: MaskedImages,
        upkeep: Upkeep,
    ) -> None:
        self._audit = context.audit
        self._database = context.database
        self._hierarchy = context.hierarchy
        self._host = context.host
        self._live = context.live
        self._open_images = context.open_images
        self._outbox = context.outbox
        self._backups = backups
        self._erasures = erasures
        self._guard = guard
        self._masked = masked
        self._scrub = upkeep.scrub
        self._upkeep = upkeep
        self._watch = context.watch

    @needs(Permission.VIEW_HEALTH)
    def state(self, caller: Caller) -> dict[str, Any]:
        """State of the system for its administrator. No patient data."""
        return self._state()

    def _state(self) -> dict[str, Any]:
        usage = shutil.disk_usage(self._live.settings.data)
        tx = self._database.read()
        states = tx.all("SELECT state, count(*) AS n FROM images GROUP BY state")
        return {
            "images": {r["state"]: r["n"] for r in states},
            "patients": tx.count("SELECT count(*) FROM patients WHERE erased_at IS NULL"),
            "accounts": tx.count("SELECT count(*) FROM accounts WHERE enabled"),
            "audit_entries": tx.count("SELECT count(*) FROM audit"),
            "stored_bytes": tx.count("SELECT sum(stored_bytes) FROM images"),
            "disk_free_bytes": usage.free,
            "root_keys": list(self._hierarchy.root_key_ids),
            "keys_to_rotate": self._hierarchy.rotation_left(),
            **self._condition(),
        }

    def _condition(self) -> dict[str, Any]:
        """What the background work found."""
        last = self._backups.last_at()
        alarm = timedelta(hours=self._live.settings.backup_alarm_hours)
        return {
            "last_backup_at": last,
            "backup_overdue": last is None or self._host.now() - last > alarm,
            "erasures_kept": self._erasures.kept,
            "scrubbed_at": self._scrub.state["finished_at"],
            "scrubbed_images": self._scrub.state["images"],
            "scrub_running": self._scrub.state["running"],
            "broken": [*self._scrub.state["broken"], *["accounts and rights"] * self._watch.broken],
            "clock_back_seconds": self._upkeep.clock_back_s,
        }

    @needs(Permission.VIEW_HEALTH)
    def storage(self, caller: Caller) -> dict[str, float]:
        """Room that is taken, in bytes; sizes of originals are padded (see vault.pad_length)."""
        disk = shutil.disk_usage(self._live.settings.data)
        tx = self._database.read()
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
                sum(p.stat().st_size for p in self._live.settings.data.glob("catalog.duckdb*"))
            ),
            "files": float(files),
            "files_bytes": total("stored", *ImageState),
            "original_bytes": total("original", ImageState.RELEASED),
            "sealed_bytes": total("stored", ImageState.RELEASED),
            "draft_bytes": total("stored", ImageState.DRAFT, ImageState.REVIEW),
            "disk_bytes": float(disk.total),
            "disk_free_bytes": float(disk.free),
        }

    @needs(Permission.VIEW_HEALTH)
    def metrics(self, caller: Caller) -> bytes:
        """Counts and times for a monitoring system, in Prometheus' text format."""
        now = self._state()
        last = now["last_backup_at"]
        condition = {
            "disk_free_bytes": now["disk_free_bytes"],
            "stored_bytes": now["stored_bytes"],
            "audit_entries": now["audit_entries"],
            "keys_to_rotate": now["keys_to_rotate"],
            "backup_overdue": now["backup_overdue"],
            "backup_age_seconds": (
                (self._host.now() - last).total_seconds() if last is not None else math.inf
            ),
            "erasures_kept": now["erasures_kept"],
            "broken": len(now["broken"]),
            "clock_back_seconds": now["clock_back_seconds"],
        }
        held = {
            "opened_pictures": self._open_images.held_bytes,
            "masked_pictures": self._masked.held_bytes(),
            "catalog": self._database.held_bytes(),
        }
        return prometheus.text(now["images"], condition, held)

    @needs(Permission.VIEW_HEALTH)
    def notices(self, caller: Caller) -> list[Notice]:
        """E-mails of the last weeks and what became of them, newest first."""
        return self._outbox.notices()

    @needs(Permission.MANAGE_SETTINGS)
    def send_test_mail(self, caller: Caller) -> None:
        """Send a test to everybody in MEDSEC_MAIL_TO, now.

        Raises:
            InputError: There is no mail server in the settings.
            MailFailed: It did not take the message.
        """
        if not self._outbox.on:
            raise InputError("Set MEDSEC_SMTP_HOST, MEDSEC_MAIL_FROM and MEDSEC_MAIL_TO first.")
        try:
            self._outbox.send(self._host.token("ml"), *TEST, self._host.now())
        except EngineError as err:
            self._audit.record(caller, Event("mail.test", "failed", detail={"why": err.code}))
            raise
        self._audit.record(caller, Event("mail.test"))

    @needs(Permission.MANAGE_BACKUPS)
    def verify_images(self, caller: Caller) -> Iterator[tuple[str, str | None]]:
        """Check the catalog entry and every file of every image without opening pictures.

        Yields:
            Image id, and None or the code of the error that was found.
        """
        tx = self._database.read()
        rows = tx.all("SELECT image_id FROM images WHERE state <> 'erased' ORDER BY image_id")
        for image_id in [r["image_id"] for r in rows]:
            yield image_id, self._scrub.check_image(image_id)[0]
