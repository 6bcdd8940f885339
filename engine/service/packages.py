"""Sealed packages beside masked files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from engine.errors import EngineError, InputError, NotFound, SealBroken, StorageError
from engine.formats import images
from engine.formats.dicom_pixels import NATIVE
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.operations.restorations import Restorations
from engine.operations.stored_images import StoredImages
from engine.permissions import Permission
from engine.records import Caller, File, Format
from engine.seal import package
from engine.seal.pipeline import SealedFiles
from engine.store.audit import Event
from engine.store.catalog import ImageRow


class Packages:
    """Sealed packages, exported and restored."""

    def __init__(
        self, context: Context, guard: Guard, stored: StoredImages, restorations: Restorations
    ) -> None:
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._host = context.host
        self._live = context.live
        self._guard = guard
        self._restorations = restorations
        self._stored = stored

    @needs(Permission.EXPORT)
    def export(self, caller: Caller, image_id: str) -> File:
        """The sealed package of a released image; opens only with this system's keys."""
        row, content = self._stored.package(image_id)
        self._audit.record(
            caller, Event("package.export", patient_id=row.patient_id, image_id=image_id)
        )
        return File(f"{image_id}{package.SUFFIX}", "application/octet-stream", content)

    @needs(Permission.EXPORT)
    def whole(self, caller: Caller, image_id: str) -> File:
        """A masked DICOM with its sealed package inside, which any archive keeps together.

        Raises:
            InputError: It is of another format.
        """
        row, content = self._stored.package(image_id)
        masked = images.from_storage(self._stored.part(image_id, "masked"))
        whole = images.carry(masked, content)
        self._audit.record(
            caller, Event("package.export", patient_id=row.patient_id, image_id=image_id)
        )
        return File(f"{image_id}.dcm", Format.DICOM.media_type, whole)

    @needs(Permission.RESTORE, fresh=True)
    def restore(
        self, caller: Caller, masked: bytes, sealed: bytes, reason: str
    ) -> tuple[File, str]:
        """Make the original from a masked file and its package.

        Returns:
            The original under its own name and folder, and the proof: ``bytes`` or ``pixels``.

        Raises:
            NotFound: The image is not of this system, was withdrawn or erased.
            PermissionDenied: Some of its classes are not granted to this account.
            SealError: The package or the masked file was altered; nothing is shown.
        """
        if not reason.strip():
            raise InputError("Give a reason for access to the original.")
        taken = package.read(sealed)
        image_id = taken.image_id
        if self._guard.bound(caller):
            self._guard.refuse_unseen(caller, "packages.restore", "image", image_id)
        of = self._catalog.patient_of(self._database.read(), image_id) or ""
        where: dict[str, Any] = {"patient_id": of, "image_id": image_id}
        requested = Event("package.restore", "requested", reason=reason.strip(), **where)
        self._audit.record(caller, requested)
        try:
            row = self._stored.released(self._database.read(), image_id)
            self._restorations.refuse_classes(
                caller, "package.restore", row, [r for r, _ in taken.regions]
            )
            subject = self._stored.subject(self._database.read(), image_id, taken.version)
            facts = self._stored.open_facts(subject.key, taken)
            files = SealedFiles(
                self._masked(row, taken.version, masked, facts),
                taken.container,
                taken.regions,
                facts["remainder_start"],
            )
            restored = self._stored.restored(caller, row, subject, facts, files)
        except EngineError as err:
            failed = Event("package.restore", "failed", detail={"why": err.code}, **where)
            self._audit.record(caller, failed)
            raise
        self._audit.record(
            caller,
            *(Event("region.decrypt", region_id=r, **where) for r in restored.opened),
            Event("package.restore", "completed", **where),
        )
        image = restored.image
        folder = str(facts.get("folder", ""))
        original = File(facts["name"], image.format.media_type, image.data, folder)
        return original, restored.proof

    def _masked(
        self, row: ImageRow, version: int, masked: bytes, facts: Mapping[str, Any]
    ) -> bytes:
        """The masked file, in the form in which it is stored.

        One that an archive wrote anew is compared with the one that left, which is kept here. Where
        that is lost, the file itself is taken: the digest of the original, which is sealed in the
        package, decides about what comes of it.

        Args:
            version: Of the image that the package belongs to.
            facts: Of the original: what was sealed with the package.

        Raises:
            SealBroken: It is another one, or was changed as no archive may change it.
        """
        digest = facts["masked_digest"]  # SHA-256 of the masked file that left, in hex
        if hashlib.sha256(masked).hexdigest() == digest:
            return images.stored_plain(masked)
        broken = SealBroken("The masked file was changed.", image_id=row.image_id)
        if row.format != Format.DICOM or row.version != version:
            raise broken
        self._stored.verified(row.image_id)
        try:
            left = self._stored.part(row.image_id, "masked")
        except (NotFound, SealBroken, StorageError):  # the row is sound, its file is lost
            return images.stored_plain(_as_sealed(masked, facts))
        if hashlib.sha256(images.from_storage(left)).hexdigest() != digest:
            raise broken
        if not images.came_back(left, masked, self._live.limits):
            raise broken
        return left


def _as_sealed(masked: bytes, facts: Mapping[str, Any]) -> bytes:
    """A file of an archive in the coding in which it was sealed, where that was without any."""
    sealed = str(facts.get("properties", {}).get("transfer_syntax", ""))
    _, now = images.web_header(images.stored_plain(masked))
    return images.uncompressed(masked) if sealed in NATIVE and now not in NATIVE else masked
