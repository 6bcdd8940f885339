"""Rows, keys and files of one image, read as of one moment."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from engine.errors import EngineError, NotFound
from engine.formats import images
from engine.formats.limits import Extent
from engine.formats.needs import Need
from engine.operations.admission import Work
from engine.operations.context import Context
from engine.records import Caller, Image, ImageRecord, ImageState, SealedRegion
from engine.seal import package, pipeline
from engine.seal.pipeline import Original, SealedFiles, Subject
from engine.store.catalog import ImageRow
from engine.store.database import Cursor
from engine.vault import derive, open_field, seal_field

R = TypeVar("R")
Permitted = Callable[[str], bool]


#: Facts up to this length, and so much more for each box, are all sealed to one length: how many
#: digits their numbers have depends on hidden pixels.
_FACTS_BYTES, _FACTS_BYTES_OF_BOX = 6144, 512


#: Of an image of which nothing else is known.
_PX_BYTES = 4

#: States of an image that waits for a technician.
OPEN_STATES = (ImageState.DRAFT, ImageState.REVIEW)


@dataclass(frozen=True)
class Draft:
    """A draft whose row verified.

    Args:
        key: The image's data key, 32 bytes.
        facts: What is known of hidden pixels.
    """

    row: ImageRow
    key: bytes = field(repr=False)
    facts: dict[str, Any] = field(repr=False)


def need_of(row: ImageRow, facts: Mapping[str, Any]) -> Need:
    """What work on an image that is here needs."""
    pixels = row.width * row.height * row.frames
    decoded = facts.get("decoded_bytes", pixels * _PX_BYTES)  # earlier releases did not keep it
    extent = Extent(row.width, row.height, row.frames, decoded)
    return Need.of(facts.get("size_bytes", row.size_bytes), extent)


class SealedFacts(Protocol):
    """Facts as they lie in a row or in a package."""

    @property
    def image_id(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def facts(self) -> bytes: ...


def _everything(label: str) -> bool:
    return True


class StoredImages:
    """Reads images; asks nobody for a permission, so services do that before."""

    def __init__(self, context: Context) -> None:
        self._admission = context.admission
        self._catalog = context.catalog
        self._database = context.database
        self._hierarchy = context.hierarchy
        self._host = context.host
        self._live = context.live

    def steady(self, image_id: str, read: Callable[[], R]) -> R:
        """Rows and files of an image as of one moment: read again if it changed meanwhile.

        Rows, regions, the log and files are read one after the other. Somebody may seal,
        flag or erase the image in between; what was read then is a mixture, and an error
        that comes of it is none. Every change gives the image another tag.
        """
        while True:
            before = self._catalog.tag(self._database.read(), image_id)
            try:
                answer = read()
            except EngineError:
                if self._catalog.tag(self._database.read(), image_id) == before:
                    raise
                continue
            if self._catalog.tag(self._database.read(), image_id) == before:
                return answer

    def released(self, tx: Cursor, image_id: str) -> ImageRow:
        """The row of a released image; drafts and withdrawn ones answer like missing ones."""
        row = self._catalog.row(tx, image_id)
        if row.state != ImageState.RELEASED:
            raise NotFound("There is no such image.")
        return row

    def verified(self, image_id: str) -> ImageRow:
        """The row of a released image: unaltered, and the newest that the log knows."""
        tx = self._database.read()

        def read() -> ImageRow:
            self.released(tx, image_id)
            row = self._catalog.verify(tx, self._hierarchy.image_key(tx, image_id), image_id)
            self._catalog.verify_newest(tx, row)
            return row

        return self.steady(image_id, read)

    def regions_of(self, image_id: str) -> list[SealedRegion]:
        """Where a released image is sealed, and as what."""

        def read() -> list[SealedRegion]:
            self.verified(image_id)
            return [region for region, _ in self._catalog.regions(self._database.read(), image_id)]

        return self.steady(image_id, read)

    def part(self, image_id: str, part: str) -> bytes:
        """The stored ``masked`` file of a released image, or its ``thumbnail``."""

        def read() -> bytes:
            row = self.verified(image_id)
            key = self._hierarchy.image_key(self._database.read(), image_id)
            context = f"image/{image_id}/{row.version}/{part}"
            return open_field(key, context, self._host.read_blob(getattr(row, f"{part}_blob")))

        return self.steady(image_id, read)

    def package(self, image_id: str) -> tuple[ImageRow, bytes]:
        """The sealed package of a released image, and its row."""

        def read() -> tuple[ImageRow, bytes]:
            row = self.verified(image_id)
            content = package.Package(
                image_id,
                row.version,
                row.facts,
                tuple(self._catalog.regions(self._database.read(), image_id)),
                self._host.read_blob(row.sealed_blob or ""),
            )
            return row, package.write(content)

        return self.steady(image_id, read)

    def subject(self, tx: Cursor, image_id: str, version: int | None = None) -> Subject:
        """Keys of a sealed image; by default of the version that the catalog holds."""
        row = self._catalog.row(tx, image_id)
        key = self._hierarchy.image_key(tx, image_id)
        patient_key = self._hierarchy.patient_key(tx, row.patient_id)
        return Subject(
            image_id,
            row.version if version is None else version,
            key,
            derive(patient_key, "pseudonyms"),
        )

    def opened(
        self, caller: Caller, subject: Subject, row: ImageRow, permitted: Permitted = _everything
    ) -> tuple[dict[str, Any], pipeline.Restored]:
        """Sealed facts and the restored original of a row that verified."""
        if row.masked_blob is None or row.sealed_blob is None:  # reopened since: a draft again
            raise NotFound("There is no such image.")
        self._catalog.verify_newest(self._database.read(), row)
        facts = self.open_facts(subject.key, row)
        masked = self._host.read_blob(row.masked_blob)
        files = SealedFiles(
            open_field(subject.key, subject.context("masked"), masked),
            self._host.read_blob(row.sealed_blob),
            self._catalog.regions(self._database.read(), row.image_id),
            facts["remainder_start"],
        )
        return facts, self.restored(caller, row, subject, facts, files, permitted)

    def restored(
        self,
        caller: Caller,
        row: ImageRow,
        subject: Subject,
        facts: Mapping[str, Any],
        files: SealedFiles,
        permitted: Permitted = _everything,
    ) -> pipeline.Restored:
        """The original from a masked file and its sealed container, proven by ``facts``.

        Raises:
            MachineOverloaded: Others restore so much that there is no room for this one.
        """
        original = Original(
            facts["name"],
            bytes.fromhex(facts["pixel_digest"]),
            bytes.fromhex(facts["file_digest"]),
        )
        limits = self._live.limits
        with self._admission.room(Work.PAGE, caller.username, need_of(row, facts)):
            return pipeline.restore(files, original, subject, self._host, limits, permitted)

    def draft(self, tx: Cursor, image_id: str) -> Draft:
        """A draft that verified. Raises NotFound, SealBroken."""

        def read() -> Draft:
            if self._catalog.row(tx, image_id).state not in OPEN_STATES:
                raise NotFound("This draft no longer exists: the image is already sealed.")
            key = self._hierarchy.image_key(tx, image_id)
            row = self._catalog.verify(tx, key, image_id)
            return Draft(row, key, self.open_facts(key, row))

        return self.steady(image_id, read)

    def draft_file(self, draft: Draft) -> bytes:
        """The original of a draft. Raises NotFound where somebody changed the draft."""
        row = draft.row
        context = f"image/{row.image_id}/{row.version}/draft"
        try:
            return open_field(draft.key, context, self._host.read_blob(row.draft_blob or ""))
        except EngineError:
            if self._catalog.tag(self._database.read(), row.image_id) != row.tag:
                raise NotFound("Another user changed this draft. Open it again.") from None
            raise

    def draft_image(self, draft: Draft) -> Image:
        """The decoded original of a draft, for who opens it."""
        return images.decode_opened(draft.facts["name"], self.draft_file(draft), self._live.limits)

    def record(self, image_id: str) -> ImageRecord:
        """What may be known of an image without opening anything. Raises NotFound."""
        return self._catalog.row(self._database.read(), image_id).record

    def open_facts(self, key: bytes, row: SealedFacts) -> dict[str, Any]:
        """What is known of hidden pixels; only for methods that may."""
        context = f"image/{row.image_id}/{row.version}/facts"
        facts: dict[str, Any] = json.loads(open_field(key, context, row.facts))
        return facts

    def seal_facts(
        self, key: bytes, image_id: str, version: int, facts: Mapping[str, Any]
    ) -> bytes:
        """What :meth:`open_facts` opens."""
        text = json.dumps(facts, ensure_ascii=False).encode()
        boxes = max(len(facts.get(name, ())) for name in ("detections", "confidences", "boxes"))
        floor = _FACTS_BYTES + boxes * _FACTS_BYTES_OF_BOX
        context = f"image/{image_id}/{version}/facts"
        return seal_field(key, context, text, self._host.random, floor_bytes=floor)
