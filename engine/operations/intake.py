"""Files become drafts, and drafts become released images: the rows, in one transaction each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.errors import DuplicateImage, ReviewNeeded
from engine.metrics import coarse_times
from engine.operations.context import Context
from engine.operations.examination import Devices, Examined
from engine.operations.forwarding import Forwarding
from engine.operations.preparation import Prepared
from engine.operations.release_decisions import ReleaseDecisions
from engine.operations.shadow import look_event
from engine.operations.stored_images import StoredImages
from engine.records import Caller, ImageState, Patient
from engine.seal.pipeline import Stopwatch, Subject
from engine.store.audit import Event
from engine.store.catalog import ImageRow
from engine.store.database import Cursor
from engine.store.studies import Arrival
from engine.vault import derive, seal_field


@dataclass(frozen=True)
class Entry:
    """A file that is stored, encrypted whole, and that no catalog row knows of yet.

    Args:
        duplicate_index: Keyed hash of the file.
        instance_index: Keyed hash of a DICOM instance that a node sent: the same instance in
            another coding is the same.
    """

    image_id: str
    patient_id: str
    key: bytes = field(repr=False)
    wrapped_key: bytes = field(repr=False)
    duplicate_index: bytes = field(repr=False)
    blob: str
    stored_bytes: int
    instance_index: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class FreshKey:
    """A new data key for an image about to be sealed, and its wrapping."""

    subject: Subject = field(repr=False)
    wrapped_key: bytes = field(repr=False)


class Intake:
    """Writes what an upload, a seal or a batch has made ready."""

    def __init__(self, context: Context, stored: StoredImages) -> None:
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._device_boxes = context.device_boxes
        self._hierarchy = context.hierarchy
        self._host = context.host
        self._patients = context.patients
        self._studies = context.studies
        self._stored = stored
        #: May an image be released without a person?
        self.decisions = ReleaseDecisions(context)
        #: What nodes of the network get when it is sealed.
        self.forwarding = Forwarding(context)
        #: Files of batches under way that no row knows of yet, by batch: not to be swept.
        self.at_work: dict[str, set[str]] = {}

    def patient(self, patient_id: str) -> Patient:
        """Whose files are to come in. Raises NotFound."""
        return self._patients.get(self._database.read(), patient_id)

    def keep(
        self,
        patient_key: bytes,
        patient_id: str,
        data: bytes,
        duplicate_index: bytes,
        watch: Stopwatch,
    ) -> Entry:
        """Encrypt a file whole under a fresh key and store it; no row knows of it yet."""
        image_id = self._host.token("im")
        key, wrapped = self._hierarchy.new_image_key(patient_key, image_id)
        with watch.stage("encrypt_draft"):
            sealed = seal_field(key, f"image/{image_id}/0/draft", data, self._host.random)
        with watch.stage("store_draft"):
            blob = self._host.write_blob(sealed)
        return Entry(image_id, patient_id, key, wrapped, duplicate_index, blob, len(sealed))

    def enter(
        self,
        tx: Cursor,
        caller: Caller,
        entry: Entry,
        examined: Examined,
        times_ms: Mapping[str, float],
    ) -> None:
        """The draft's row and its entry in the log. Raises DuplicateImage, NotFound."""
        self.refuse_duplicate(tx, entry.duplicate_index)
        if entry.instance_index is not None:
            self.refuse_duplicate(tx, entry.instance_index)
        self._patients.refuse_erased(tx, entry.patient_id)
        now = self._host.now()
        tag = self._catalog.add(
            tx,
            entry.key,
            {
                "image_id": entry.image_id,
                "patient_id": entry.patient_id,
                "version": 0,
                "wrapped_key": entry.wrapped_key,
                "duplicate_index": entry.duplicate_index,
                "stored_bytes": entry.stored_bytes,
                "uploaded_at": now,
                "uploaded_by": caller.username,
                "times_ms": json.dumps(coarse_times(times_ms)),
                "draft_blob": entry.blob,
                "facts": self._stored.seal_facts(
                    entry.key, entry.image_id, 0, {**examined.facts, "times_ms": dict(times_ms)}
                ),
                **examined.columns,
            },
        )
        if entry.instance_index is not None:
            self._catalog.add_index(tx, entry.image_id, entry.instance_index)
        arrival = Arrival(
            entry.image_id, entry.patient_id, now, caller.username, examined.facts["study"]
        )
        study_id = self._studies.place(tx, arrival)
        self._audit.append(
            tx,
            caller,
            Event(
                "image.upload",
                patient_id=entry.patient_id,
                image_id=entry.image_id,
                detail={
                    "format": examined.columns["format"],
                    "found": examined.columns["region_count"],
                    "why": list(examined.reasons),
                    "study": study_id,
                    "detector": examined.facts["detector"],
                    "tag": tag,
                },
            ),
            *look_event(entry.patient_id, entry.image_id, examined.facts),
        )
        self.decisions.arrive(tx, caller, entry.image_id, examined)
        self.decisions.arrive_in_shadow(tx, caller, entry.image_id, examined)

    def refuse_duplicate(self, tx: Cursor, index: bytes) -> None:
        """Raises DuplicateImage where a file with this keyed hash is here already."""
        image_id = self._catalog.find_duplicate(tx, index)
        if image_id is not None:
            patient_id = self._catalog.row(tx, image_id).patient_id
            self._database.settle()  # the sender may throw its copy away now
            raise DuplicateImage(
                "This image has already been uploaded.", image_id=image_id, patient_id=patient_id
            )

    def devices(self, caller: Caller) -> Devices:
        """What is known of devices, for a file that this caller sends. Raises SealBroken."""
        return Devices(caller.username, self._device_boxes.memories(self._database.read()))

    def fresh_key(self, image_id: str, version: int, patient_key: bytes) -> FreshKey:
        """A key for the version of an image that is about to be sealed."""
        key, wrapped = self._hierarchy.new_image_key(patient_key, image_id)
        subject = Subject(image_id, version, key, derive(patient_key, "pseudonyms"))
        return FreshKey(subject, wrapped)

    def release(
        self,
        tx: Cursor,
        caller: Caller,
        row: ImageRow,
        draft_key: bytes,
        fresh: FreshKey,
        prepared: Prepared,
    ) -> None:
        """Rows, tag and log of a sealed image; the draft's key is gone from here on.

        Raises:
            ReviewNeeded: Somebody changed the draft, or a person has to look at it.
        """
        subject, image_id = fresh.subject, row.image_id
        # Anything that happened to the draft meanwhile, a review above all, comes first.
        if self._catalog.row(tx, image_id).tag != row.tag:
            raise ReviewNeeded(
                "Another user changed this draft. Open it again.",
                image_id=image_id,
                reasons=list(row.reasons),
            )
        self._catalog.verify(tx, draft_key, image_id)
        self.decisions.sealed(tx, caller, row, prepared.look, prepared.shadow_look)
        tag = self._catalog.seal(
            tx,
            subject.key,
            image_id,
            prepared.regions,
            wrapped_key=fresh.wrapped_key,
            state=str(ImageState.RELEASED),
            version=subject.version,
            sealed_at=self._host.now(),
            sealed_by=caller.username,
            draft_blob=None,
            facts=self._stored.seal_facts(subject.key, image_id, subject.version, prepared.facts),
            **prepared.columns,
        )
        labels = Counter(r.detection.label for r, _ in prepared.regions)
        compared = (prepared.shadow,) if prepared.shadow and row.version == 0 else ()
        self._audit.append(
            tx,
            caller,
            *prepared.corrections,
            *compared,
            Event(
                "image.seal",
                patient_id=row.patient_id,
                image_id=image_id,
                reason=str(prepared.facts["confirm"]),
                detail={
                    "version": subject.version,
                    "regions": len(prepared.regions),
                    # Which statistics it may be in is decided by what it held then.
                    "labels": dict(labels),
                    "reviewed": prepared.facts["reasons"],
                    "automatic": prepared.facts["automatic"],
                    # A draft of a later version says nothing of the detector's first answer.
                    "device": prepared.facts["device"] if row.version == 0 else [],
                    "detector": prepared.facts["detector"],
                    "rescanned_by": prepared.facts["rescanned_by"],
                    "tag": tag,
                },
            ),
        )
        self.forwarding.sealed(tx, row)


def clean_folder(folder: str) -> str:
    """A path below a folder, each part as :func:`clean_name` has it; empty where it is too long."""
    parts = [p for p in folder.replace("\\", "/").split("/") if p.strip() not in ("", ".", "..")]
    clean = "/".join(map(clean_name, parts))
    return clean if len(clean) <= 1024 else ""


def clean_name(name: str) -> str:
    """The last part of a path, at most 255 characters (F39)."""
    plain = name.encode("utf-8", "replace").decode()  # names of other encodings
    last = plain.replace("\\", "/").rsplit("/", 1)[-1].strip()
    last = "".join(c for c in last if c.isprintable())
    if len(last) > 255:
        stem, dot, suffix = last.rpartition(".")
        last = (stem[: 255 - len(suffix) - 1] + dot + suffix) if dot else last[:255]
    return "unnamed" if last in ("", ".", "..") else last
