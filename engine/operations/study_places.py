"""Images that an earlier release took in get their place in a study."""

from __future__ import annotations

from typing import Any

from engine.errors import EngineError
from engine.formats import images
from engine.operations.context import Context
from engine.operations.guard import log
from engine.operations.stored_images import OPEN_STATES, StoredImages
from engine.store.studies import Arrival
from engine.vault import open_field

#: At most so many in one go: each one is read from its file.
AT_ONCE = 200


class StudyPlaces:
    """Finds the study of images that have none."""

    def __init__(self, context: Context, stored: StoredImages) -> None:
        self._catalog = context.catalog
        self._database = context.database
        self._hierarchy = context.hierarchy
        self._host = context.host
        self._studies = context.studies
        self._stored = stored
        #: Images that come in get their place at once: where none waits, none will again.
        self._none_waits = False

    def complete(self, patient_id: str | None = None) -> int:
        """Place images without a place, of one patient or of all, by what their files say.

        A sealed image is placed by its masked file, which names its study and series; its date is
        then that of the upload. One that cannot be read is placed as a file without a header.

        Returns:
            How many were placed, at most ``AT_ONCE``.
        """
        if self._none_waits:  # whoever opens a study asks; looking takes longer with every image
            return 0
        waiting = self._studies.unplaced(self._database.read(), patient_id, AT_ONCE)
        self._none_waits = patient_id is None and not waiting
        placed = 0
        for image_id in waiting:
            try:
                placed += self._place(image_id)
            except EngineError as err:  # erased meanwhile, or its patient's key does not open
                log.warning("an image has no study: %s", err.code)
        return placed

    def _place(self, image_id: str) -> int:
        row = self._catalog.row(self._database.read(), image_id)
        facts = self._facts(image_id)
        arrival = Arrival(
            image_id,
            row.patient_id,
            row.uploaded_at,
            row.uploaded_by,
            facts,
            masked=row.state not in OPEN_STATES,
        )
        with self._database.write() as tx:
            if self._studies.study_of(tx, image_id) is not None:
                return 0
            self._catalog.row(tx, image_id)
            self._studies.place(tx, arrival)
        return 1

    def _facts(self, image_id: str) -> dict[str, Any]:
        tx = self._database.read()
        row = self._catalog.row(tx, image_id)
        try:
            if row.state in OPEN_STATES:
                draft = self._stored.draft(tx, image_id)
                original = self._stored.draft_file(draft)
                return images.study_facts_of(images.stored_plain(original))
            key = self._hierarchy.image_key(tx, image_id)
            context = f"image/{image_id}/{row.version}/masked"
            stored = open_field(key, context, self._host.read_blob(row.masked_blob or ""))
            return images.study_facts_of(stored)
        except EngineError as err:
            log.warning("the header of an image cannot be read: %s", err.code)
            return {}
