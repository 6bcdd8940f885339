"""State of the system for its administrator, and its e-mail. No patient data."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from engine.errors import EngineError, InputError
from engine.formats import images
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

#: So long before a certificate of a recipient ends, somebody is told.
_RENEWAL = timedelta(days=30)


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
        self._catalog = context.catalog
        self._database = context.database
        self._detector = context.detector
        self._file_claim = context.file_claim
        self._figures = context.figures
        self._hierarchy = context.hierarchy
        self._host = context.host
        self._live = context.live
        self._open_images = context.open_images
        self._outbox = context.outbox
        self._backups = backups
        self._forwarding = context.forwarding
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
        return {
            "images": self._figures.states(),
            "patients": self._figures.patients(),
            "accounts": self._figures.accounts(),
            "audit_entries": self._audit.count(),
            "stored_bytes": self._figures.stored_bytes(),
            "disk_free_bytes": usage.free,
            "root_keys": list(self._hierarchy.root_key_ids),
            "keys_to_rotate": self._hierarchy.rotation_left(),
            "confinement": images.confinement().facts(),
            "networks_apart": self._detector.keyless,
            "server": self._database.server_id,
            "leads": self._database.leads,
            "servers": self._database.servers(),
            **self._condition(),
        }

    def _condition(self) -> dict[str, Any]:
        """What the background work found."""
        (last, locked_until), scrub = self._backups.last(), self._scrub.state
        alarm = timedelta(hours=self._live.settings.backup_alarm_hours)
        return {
            "last_backup_at": last,
            "last_backup_locked_until": locked_until,
            "backup_overdue": last is None or self._host.now() - last > alarm,
            "erasures_kept": self._erasures.kept,
            "scrubbed_at": scrub["finished_at"],
            "scrubbed_images": scrub["images"],
            "scrub_running": scrub["running"],
            "broken": [
                *scrub["broken"],
                *["accounts and rights"] * self._watch.broken,
                *["another copy uses the files"] * self._file_claim.contested,
            ],
            "files_moving": self._file_claim.moving,
            "clock_back_seconds": self._upkeep.clock_back_s,
            "audit_forwarding": self._forwarding.on,
            "audit_waiting": self._forwarding.waiting() if self._forwarding.on else 0,
            "audit_trouble": self._forwarding.trouble,
            "recipients_ending": [
                recipient.subject
                for recipient in self._live.named_recipients
                if not recipient.valid(self._host.now() + _RENEWAL)
            ],
        }

    @needs(Permission.VIEW_HEALTH)
    def storage(self, caller: Caller) -> dict[str, float]:
        """Room that is taken, in bytes; originals are padded (see vault.pad_length),
        their sum has two digits."""
        disk = shutil.disk_usage(self._live.settings.data)
        sizes = self._figures.sizes()

        def stored(*states: ImageState) -> float:
            return float(sum(sizes[s].stored for s in states if s in sizes))

        released = sizes.get(ImageState.RELEASED)
        return {
            "catalog_bytes": float(self._database.stored_bytes()),
            "files": float(self._figures.files()),
            "files_bytes": stored(*ImageState),
            "original_bytes": float(f"{released.original if released else 0:.2g}"),
            "sealed_bytes": stored(ImageState.RELEASED),
            "draft_bytes": stored(ImageState.DRAFT, ImageState.REVIEW),
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
            "audit_waiting": now["audit_waiting"],
            "leads": now["leads"],
            "servers": len(now["servers"]),
        }
        held = {
            "opened_pictures": self._open_images.held_bytes,
            "masked_pictures": self._masked.held_bytes(),
            "catalog": self._database.held_bytes(),
        }
        return prometheus.text(now["images"], condition, held, now["server"])

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
        for image_id in self._catalog.ids(self._database.read()):
            yield image_id, self._scrub.check_image(image_id)[0]
