"""Doctor's day: opening what is sealed, with proof and a record of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import PurePath
from typing import Any

import numpy as np

from engine.errors import EngineError, InputError, NotFound, PermissionDenied, SealBroken
from engine.formats import images
from engine.permissions import Permission, allowed
from engine.records import (
    Assessment,
    Caller,
    Detection,
    File,
    Image,
    ImageRecord,
    ImageState,
    SealedRegion,
)
from engine.seal import package, pipeline
from engine.seal.pipeline import Subject, assessment_from_json
from engine.service.guard import needs
from engine.service.viewing import MEDIA_TYPES, Viewing
from engine.store.audit import Event
from engine.store.catalog import record
from engine.store.database import Cursor, Row
from engine.vault import derive, open_field, seal_field


@dataclass(frozen=True)
class Restoration:
    """A restored image that this session may look at for minutes; plaintext is not in here.

    Args:
        handle: For :meth:`Viewing.restored_frame` and :meth:`Viewing.restored_file`.
        name: The original's file name; empty where the restoration is partial.
        regions: Every region; ``opened`` says which are open.
        partial: Some regions stayed sealed: the picture is not the original.
        proof: ``bytes``, ``pixels`` or ``outside`` (see :class:`pipeline.Restored`).
        margin_px: Around regions that stayed sealed; ``outside`` is not said of it.
        digest: SHA-256 of the original's pixels as taken at intake, in hex.
        decrypt_ms: Per region id.
        total_ms: From the request to the proof.
    """

    handle: str
    record: ImageRecord
    name: str = field(repr=False)
    frames: int
    regions: tuple[SealedRegion, ...]
    opened: tuple[str, ...]
    partial: bool
    proof: str
    digest: str = field(repr=False)
    assessment: Assessment | None = field(repr=False)
    decrypt_ms: Mapping[str, float]
    total_ms: float
    properties: Mapping[str, Any]
    expires_at: datetime
    margin_px: int = 0

    @property
    def withheld(self) -> tuple[str, ...]:
        """Classes that stayed sealed, each once, by name."""
        return tuple(
            sorted({r.detection.label for r in self.regions if r.region_id not in self.opened})
        )


class Restoring(Viewing):
    """Methods of the Engine."""

    @needs(Permission.RESTORE, fresh=True)
    def restore(self, caller: Caller, image_id: str, reason: str) -> Restoration:
        """Open what is sealed and prove it: all permitted regions or none.

        The log has ``requested`` before anything is decrypted, and ``completed`` or
        ``failed`` with every region after.

        Raises:
            InputError: No reason.
            NotFound: No such image, or withdrawn.
            PermissionDenied: None of the image's classes is granted to this account.
            SealError: Something does not open or is not the original; nothing is shown.
        """
        if self.settings.reason_required and not reason.strip():
            raise InputError("Say why you need to see the original.")
        began = self.host.ticks_ms()
        with self.database.write() as tx:
            row = self._released(tx, image_id)
            where = {"patient_id": row["patient_id"], "image_id": image_id}
            requested = Event("image.restore", "requested", reason=reason.strip(), **where)
            self.audit.append(tx, caller, requested)
        try:
            restoration, image = self._steady(image_id, lambda: self._open(caller, image_id, began))
        except EngineError as err:
            failed = Event("image.restore", "failed", detail={"why": err.code}, **where)
            self.audit.record(caller, failed)
            raise
        self.viewings.add(caller.session_id, restoration.handle, image_id, image, restoration)
        self.audit.record(
            caller,
            *(Event("region.decrypt", region_id=r, **where) for r in restoration.opened),
            Event(
                "image.restore",
                "completed",
                detail={
                    "regions": len(restoration.opened),
                    "proof": restoration.proof,
                    "withheld": list(restoration.withheld),
                },
                **where,
            ),
        )
        return restoration

    @needs(Permission.RESTORE)
    def restoration(self, caller: Caller, handle: str) -> Restoration:
        """A restoration of this session again, without pixels, as long as it is open.

        Raises:
            NotFound: Expired, closed or another session's.
        """
        return self._restoration(caller, handle)[1]

    @needs(Permission.RESTORE)
    def restored_frame(
        self,
        caller: Caller,
        handle: str,
        frame: int = 0,
        window: tuple[float, float] | None = None,
        enhance: bool = False,
    ) -> np.ndarray:
        """A frame of a restoration of this session, shape (H, W, 3), uint8, RGB.

        Args:
            window: Centre and width; DICOM only.
            enhance: Contrast-limited histogram equalisation, for looking only.

        Raises:
            NotFound: Expired, closed or another session's.
        """
        image, _ = self._restoration(caller, handle)
        rgb = images.render(image, frame, window)
        return images.enhance(rgb) if enhance else rgb

    @needs(Permission.RESTORE)
    def restored_file(
        self,
        caller: Caller,
        handle: str,
        format: str = "original",
        frame: int = 0,
        enhance: bool = False,
    ) -> File:
        """A restoration as a file: ``original``, or one frame as ``png`` or ``jpeg``.

        Args:
            enhance: Contrast-limited histogram equalisation of a frame, for looking only.

        Raises:
            InputError: Another format, or ``original`` of a partial restoration or enhanced.
            NotFound: Expired, closed or another session's.
        """
        return self._file_of(caller, handle, format, frame, enhance)

    def _file_of(self, caller: Caller, handle: str, format: str, frame: int, enhance: bool) -> File:
        image, about = self._restoration(caller, handle)
        if format not in ("original", "png", "jpeg"):
            raise InputError("A restoration comes as original, png or jpeg.")
        if format == "original" and about.partial:
            raise InputError("A partial restoration is not the original: take png or jpeg.")
        if format == "original" and enhance:
            raise InputError("The original is never changed: take png or jpeg enhanced.")
        if format == "original":
            file = File(about.name, MEDIA_TYPES[image.format], image.data)
        else:
            rgb = images.render(image, frame)
            rgb = images.enhance(rgb) if enhance else rgb
            stem = PurePath(about.name or about.record.image_id).stem
            if format == "png":
                file = File(f"{stem}.png", "image/png", images.encode_png(rgb))
            else:
                file = File(f"{stem}.jpg", "image/jpeg", images.encode_jpeg(rgb))
        self.audit.record(
            caller,
            Event(
                "image.download",
                patient_id=about.record.patient_id,
                image_id=about.record.image_id,
                detail={"format": format, "partial": about.partial},
            ),
        )
        return file

    @needs(None)
    def close_viewing(self, caller: Caller, handle: str) -> None:
        """Forget an opened picture of this session now."""
        self.viewings.close(caller.session_id, handle)

    @needs(Permission.VIEW_METRICS)
    def assessment(self, caller: Caller, image_id: str) -> Assessment:
        """Numbers of one image that say something of hidden pixels (G11).

        Raises:
            NotFound: No such released image.
            PermissionDenied: Some of its classes are not granted to this account.
        """
        row = self._verified(image_id)
        key = self.hierarchy.image_key(self.database.read(), image_id)
        regions = self._regions_of(image_id)
        self._refuse_classes(caller, "image.metrics", row, regions)
        self.audit.record(
            caller, Event("image.metrics", patient_id=row["patient_id"], image_id=image_id)
        )
        return assessment_from_json(self.open_facts(key, row)["assessment"])

    @needs(Permission.FLAG)
    def flag_missed(self, caller: Caller, image_id: str, reason: str) -> None:
        """Something should have been sealed: withdraw the image from everyone at once.

        From somebody who may restore, it goes back to the review queue in the same call;
        otherwise it waits for :meth:`reopen`, or a flag would open any image to technicians.

        Raises:
            InputError: No reason.
            NotFound: No such released image.
            SealError: Withdrawn, but it cannot be restored: tell the administrator.
        """
        if not reason.strip():
            raise InputError("Say what was missed; do not write the name itself.")
        with self.database.write() as tx:
            row = self._released(tx, image_id)
            key = self.hierarchy.image_key(tx, image_id)
            tag = self.catalog.change(tx, key, image_id, state=str(ImageState.WITHDRAWN))
            self.audit.append(
                tx,
                caller,
                Event(
                    "image.withdraw",
                    patient_id=row["patient_id"],
                    image_id=image_id,
                    reason=reason.strip(),
                    detail={"tag": tag},
                ),
            )
        self.viewings.close_subject(image_id)
        if allowed(caller.role, Permission.RESTORE):
            self._reopen(caller, image_id)

    @needs(Permission.RESTORE)
    def withdrawn(self, caller: Caller, limit: int = 200, offset: int = 0) -> list[ImageRecord]:
        """Images that were flagged and wait for :meth:`reopen`, newest first."""
        self.record_read(caller, Event("image.list", detail={"states": [ImageState.WITHDRAWN]}))
        return self.catalog.search(
            states=[ImageState.WITHDRAWN],
            patient_ids=self.open_patients(caller),
            limit=limit,
            offset=offset,
        )

    @needs(Permission.RESTORE, fresh=True)
    def reopen(self, caller: Caller, image_id: str) -> None:
        """Send a withdrawn image back to the review queue, to be sealed anew.

        It becomes a draft again, made from the restored and proven original, with the boxes
        it had; technicians see it as they saw it when it came in.

        Raises:
            NotFound: No such withdrawn image.
            SealError: It cannot be restored; it stays withdrawn.
        """
        if self.catalog.row(self.database.read(), image_id)["state"] != ImageState.WITHDRAWN:
            raise NotFound("There is no such withdrawn image.")
        self._reopen(caller, image_id)

    def _reopen(self, caller: Caller, image_id: str) -> None:
        tx = self.database.read()

        def read() -> tuple[Row, dict[str, Any], pipeline.Restored, list[Detection]]:
            subject = self._sealed_subject(tx, image_id)
            row = self.catalog.verify(tx, subject.key, image_id)
            sealed = [r.detection for r, _ in self.catalog.regions(tx, image_id)]
            return row, *self._opened(subject, row), sealed

        row, old_facts, restored, sealed = self._steady(image_id, read)
        patient_key = self.hierarchy.patient_key(tx, row["patient_id"])
        key, wrapped = self.hierarchy.new_image_key(patient_key, image_id)
        boxes = [replace(d, source="person") for d in sealed]
        facts = {
            "name": old_facts["name"],
            "detections": [pipeline.detection_to_json(d) for d in boxes],
            "hints": images.patient_hints(restored.image),
            "size_bytes": old_facts["size_bytes"],
            "still_visible": [],
            "sides": old_facts.get("sides", []),
        }
        version = row["version"]
        draft = seal_field(
            key, f"image/{image_id}/{version}/draft", restored.image.data, self.host.random
        )
        blob = self.host.write_blob(draft)
        with self.database.write() as tx:
            if self.catalog.tag(tx, image_id) != row["tag"]:
                raise NotFound("There is no such withdrawn image.")
            tag = self.catalog.seal(
                tx,
                key,
                image_id,
                (),
                wrapped_key=wrapped,
                state=str(ImageState.REVIEW),
                reasons=json.dumps(["flagged"]),
                stored_bytes=len(draft),
                draft_blob=blob,
                masked_blob=None,
                sealed_blob=None,
                thumbnail_blob=None,
                facts=self._seal_facts(key, image_id, version, facts),
            )
            self.audit.append(
                tx,
                caller,
                *(
                    Event(
                        "region.decrypt",
                        patient_id=row["patient_id"],
                        image_id=image_id,
                        region_id=region_id,
                        detail={"why": "withdrawn"},
                    )
                    for region_id in restored.opened
                ),
                Event(
                    "image.reopen",
                    patient_id=row["patient_id"],
                    image_id=image_id,
                    detail={"tag": tag},
                ),
            )
        for address in self.catalog.addresses(row):
            self.host.delete_blob(address)

    @needs(Permission.RESTORE, fresh=True)
    def restore_package(
        self, caller: Caller, masked: bytes, sealed: bytes, reason: str
    ) -> tuple[File, str]:
        """Make the original from a masked file and its package.

        Returns:
            The original under its own name, and the proof: ``bytes`` or ``pixels``.

        Raises:
            NotFound: The image is not of this system, was withdrawn or erased.
            PermissionDenied: Some of its classes are not granted to this account.
            SealError: The package or the masked file was altered; nothing is shown.
        """
        if not reason.strip():
            raise InputError("Say why you need to see the original.")
        taken = package.read(sealed)
        image_id = taken.image_id
        if self.bound(caller):
            self.refuse_unseen(caller, "restore_package", "image", image_id)
        of = self.catalog.patient_of(self.database.read(), image_id) or ""
        where: dict[str, Any] = {"patient_id": of, "image_id": image_id}
        requested = Event("package.restore", "requested", reason=reason.strip(), **where)
        self.audit.record(caller, requested)
        try:
            row = self._released(self.database.read(), image_id)
            self._refuse_classes(caller, "package.restore", row, [r for r, _ in taken.regions])
            subject = self._sealed_subject(self.database.read(), image_id, taken.version)
            facts = self.open_facts(subject.key, vars(taken))
            # Nothing of a file is read before it is known to be ours.
            if hashlib.sha256(masked).hexdigest() != facts["masked_digest"]:
                raise SealBroken("The masked file was changed.", image_id=image_id)
            stored = images.stored_plain(masked)
            restored = self._restored(subject, facts, stored, taken.container, taken.regions)
        except EngineError as err:
            failed = Event("package.restore", "failed", detail={"why": err.code}, **where)
            self.audit.record(caller, failed)
            raise
        self.audit.record(
            caller,
            *(Event("region.decrypt", region_id=r, **where) for r in restored.opened),
            Event("package.restore", "completed", **where),
        )
        image = restored.image
        return File(facts["name"], MEDIA_TYPES[image.format], image.data), restored.proof

    def _open(self, caller: Caller, image_id: str, began: float) -> tuple[Restoration, Image]:
        tx = self.database.read()
        subject = self._sealed_subject(tx, image_id)
        row = self.catalog.verify(tx, subject.key, image_id)
        granted = self.granted(caller)
        labels = {r.detection.label for r, _ in self.catalog.regions(tx, image_id)}
        if labels and not any(granted(label) for label in labels):
            raise PermissionDenied("None of the classes sealed here is granted to your account.")
        facts, restored = self._opened(subject, row, granted)
        assessment = None
        # Its numbers are computed from every hidden pixel, so only who sees all sees them.
        if allowed(caller.role, Permission.VIEW_METRICS) and not restored.partial:
            assessment = assessment_from_json(facts["assessment"])
        restoration = Restoration(
            handle=self.host.token("vw"),
            record=record(row),
            name="" if restored.partial else facts["name"],
            frames=restored.image.frames,
            regions=tuple(r for r, _ in self.catalog.regions(tx, image_id)),
            opened=restored.opened,
            partial=restored.partial,
            proof=restored.proof,
            digest="" if restored.partial else facts["pixel_digest"],
            assessment=assessment,
            decrypt_ms=restored.decrypt_ms,
            total_ms=round(self.host.ticks_ms() - began, 1),
            properties=restored.image.properties,
            expires_at=self.viewings.expiry(),
            margin_px=restored.margin_px,
        )
        return restoration, restored.image

    def _refuse_classes(
        self, caller: Caller, action: str, row: Row, regions: Sequence[SealedRegion]
    ) -> None:
        """Stop who may not see everything under an image's boxes.

        Raises:
            PermissionDenied: Some of the classes are not granted to this account.
        """
        granted = self.granted(caller)
        withheld = sorted({r.detection.label for r in regions if not granted(r.detection.label)})
        if withheld:
            refused = Event(
                action,
                "refused",
                patient_id=row["patient_id"],
                image_id=row["image_id"],
                detail={"withheld": withheld},
            )
            self.audit.record(caller, refused)
            raise PermissionDenied("Some classes sealed here are not granted to your account.")

    def _opened(
        self, subject: Subject, row: Row, permitted: Callable[[str], bool] = lambda label: True
    ) -> tuple[dict[str, Any], pipeline.Restored]:
        """Sealed facts and the restored original of a row that verified."""
        if row["masked_blob"] is None:  # reopened since it was asked for: it is a draft again
            raise NotFound("There is no such image.")
        self.catalog.verify_newest(self.database.read(), row)
        facts = self.open_facts(subject.key, row)
        masked = self.host.read_blob(row["masked_blob"])
        restored = self._restored(
            subject,
            facts,
            open_field(subject.key, subject.context("masked"), masked),
            self.host.read_blob(row["sealed_blob"]),
            self.catalog.regions(self.database.read(), row["image_id"]),
            permitted,
        )
        return facts, restored

    def _sealed_subject(self, tx: Cursor, image_id: str, version: int | None = None) -> Subject:
        """Keys of a sealed image; by default of the version that the catalog holds."""
        row = self.catalog.row(tx, image_id)
        key = self.hierarchy.image_key(tx, image_id)
        patient_key = self.hierarchy.patient_key(tx, row["patient_id"])
        return Subject(
            image_id,
            row["version"] if version is None else version,
            key,
            derive(patient_key, "pseudonyms"),
        )

    def _restored(
        self,
        subject: Subject,
        facts: Mapping[str, Any],
        stored: bytes,
        container: bytes,
        regions: Sequence[tuple[SealedRegion, int]],
        permitted: Callable[[str], bool] = lambda label: True,
    ) -> pipeline.Restored:
        return pipeline.restore(
            stored,
            container,
            regions,
            facts["remainder_start"],
            subject,
            bytes.fromhex(facts["pixel_digest"]),
            bytes.fromhex(facts["file_digest"]),
            facts["name"],
            self.host,
            self.limits,
            permitted,
        )

    def _restoration(self, caller: Caller, handle: str) -> tuple[Image, Restoration]:
        viewing = self.viewings.get(caller.session_id, handle)
        row = self.catalog.row(self.database.read(), viewing.subject_id)
        about = viewing.about
        granted = self.granted(caller)
        # Withdrawn, erased or sealed anew while it was being opened, or no longer this
        # caller's to see: what was open is over.
        if (
            not isinstance(about, Restoration)
            or row["state"] != ImageState.RELEASED
            or row["version"] != about.record.version
            or not self.sees(caller, row["patient_id"])
            or not all(
                granted(r.detection.label) for r in about.regions if r.region_id in about.opened
            )
        ):
            self.viewings.close(caller.session_id, handle)
            raise NotFound("This picture is no longer open: ask for it again.")
        return viewing.image, about
