"""A study or a series to take away as files: masked, or the originals that a session has opened."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from engine.errors import NotFound, TooManyRequests
from engine.formats import images
from engine.operations import study_archives
from engine.operations.admission import Work
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.operations.stored_images import StoredImages, need_of
from engine.operations.study_archives import Note, Taken
from engine.operations.study_places import AT_ONCE, StudyPlaces
from engine.operations.study_restorations import StudyRestorations
from engine.permissions import Permission, Role, allowed
from engine.records import Caller, Format, ImageRecord, ImageState
from engine.store.audit import Event
from engine.tracing import why_ended

_MASKED = (
    "Masked images of one study. What was found to identify the patient is encrypted in MedSec, and"
    " not in these files."
)
_ORIGINALS = (
    "Original images of one study, as they came in. They name the patient: delete them when you no"
    " longer need them."
)
#: Archives that one account takes at the same time: each has a file in memory.
MOST_AT_ONCE = 2
_AGAIN_SECONDS = 60
Places = Sequence[tuple[int, int, ImageRecord]]
#: The caller as of now, from the caller who began, the token of the work and the patient.
Asked = Callable[[Caller, str, str], Caller]


class Archives:
    """Gives studies out file by file.

    Each file is asked for when the one before it is gone: whether the session, the role and the
    relation to the patient are still there, and the log gets its rows. Whoever stops reading ends
    the work.
    """

    def __init__(
        self,
        context: Context,
        guard: Guard,
        stored: StoredImages,
        places: StudyPlaces,
        restorations: StudyRestorations,
    ) -> None:
        self._admission = context.admission
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._guard = guard
        self._host = context.host
        self._places = places
        self._restorations = restorations
        self._stored = stored
        self._studies = context.studies
        self._running: Counter[str] = Counter()  # by account
        self._lock = threading.Lock()

    @needs(Permission.EXPORT)
    def masked(
        self, caller: Caller, study_id: str, series_id: str = ""
    ) -> Iterator[tuple[str, bytes]]:
        """Masked files of a study with a DICOMDIR; see :func:`study_archives.files`.

        Args:
            series_id: Only this series.

        Raises:
            NotFound: No such study or series, or no released image in it.
            TooManyRequests: The account takes ``MOST_AT_ONCE`` already.
        """
        places = self._known(caller, study_id, series_id)
        if not any(image.state is ImageState.RELEASED for _, _, image in places):
            raise NotFound("There is no such study or series.")

        def take(caller: Caller, image: ImageRecord) -> Taken:
            if image.format is Format.DOCUMENT:
                return Taken(b"", Note.DOCUMENT)
            row = self._stored.released(self._database.read(), image.image_id)
            with self._admission.room(Work.PAGE, caller.username, need_of(row, {})):
                data = images.from_storage(self._stored.part(image.image_id, "masked"))
            where = {"patient_id": row.patient_id, "image_id": image.image_id}
            self._audit.record(caller, Event("image.export", detail={"study": study_id}, **where))
            return Taken(data)

        detail = {"study": study_id, "series": series_id, "originals": False}
        asked = self._asked(Permission.EXPORT, lambda now: None)
        return self._given(caller, asked, places, take, _MASKED, detail)

    @needs(Permission.RESTORE)
    def originals(self, caller: Caller, handle: str) -> Iterator[tuple[str, bytes]]:
        """Original files of a study or series that this session has restored, with a DICOMDIR.

        Its reason and request are those of the restoration. Each image is opened and proven
        whole; one of which some class is not granted is left out.

        Args:
            handle: Of :meth:`Studies.restore`.

        Raises:
            NotFound: The restoration is over, or another session's.
            TooManyRequests: The account takes ``MOST_AT_ONCE`` already.
        """
        opened = self._restorations.of(caller, handle)
        wanted = {image.image_id: image for image in opened.images}
        every = self._known(caller, opened.study_id, opened.series_id)
        places = [place for place in every if wanted.pop(place[2].image_id, None)]
        # Gone since it was restored: looked for in vain, so that the reader is told.
        places += [(0, number, image) for number, image in enumerate(wanted.values(), 1)]

        def take(caller: Caller, image: ImageRecord) -> Taken:
            data, proof = self._restorations.original(caller, handle, image.image_id)
            detail = {"format": "original", "partial": False, "study_request": handle}
            where = {"patient_id": image.patient_id, "image_id": image.image_id}
            self._audit.record(caller, Event("image.download", detail=detail, **where))
            return Taken(data, None if proof == "bytes" else Note.RECODED)

        detail = {
            "study": opened.study_id,
            "series": opened.series_id,
            "originals": True,
            "study_request": handle,
        }
        asked = self._asked(Permission.RESTORE, lambda now: self._restorations.of(now, handle))
        return self._given(caller, asked, places, take, _ORIGINALS, detail)

    def _known(self, caller: Caller, study_id: str, series_id: str) -> Places:
        """Images of a study that the caller may know of, with their places."""
        patient_id = self._studies.patient_of(self._database.read(), study_id)
        if patient_id is None or not self._guard.sees(caller, patient_id):
            raise NotFound("There is no such study.")
        while self._places.complete(patient_id) == AT_ONCE:
            pass
        states = [ImageState.RELEASED]
        if allowed(caller.role, Permission.UPLOAD):
            states += [ImageState.DRAFT, ImageState.REVIEW]
        tx = self._database.read()
        held = self._catalog.records_of_patient(tx, patient_id, states)
        found = self._studies.of_patient(tx, patient_id, held, study_id)
        return study_archives.chosen(found[0].series, series_id) if found else []

    def _given(
        self,
        caller: Caller,
        asked: Asked,
        places: Places,
        take: Callable[[Caller, ImageRecord], Taken],
        about: str,
        detail: dict[str, object],
    ) -> Iterator[tuple[str, bytes]]:
        """Logged as requested now; the files are read when they are asked for."""
        patient_id = places[0][2].patient_id if places else ""
        told = {**detail, "images": len(places)}

        def log(outcome: str, **more: object) -> None:
            made = Event("study.export", outcome, patient_id=patient_id, detail={**told, **more})
            self._audit.record(caller, made)

        def run() -> Iterator[tuple[str, bytes]]:
            work = self._guard.begin_work(caller)
            now = caller
            given = 0

            def still() -> Iterator[tuple[int, int, ImageRecord]]:
                nonlocal now
                for place in places:
                    now = asked(caller, work, place[2].patient_id)
                    yield place

            try:
                yield "", b""  # it has begun: whoever drops it now ends it as well
                for path, data in study_archives.files(
                    still(), lambda image: take(now, image), about, self._host
                ):
                    given += path not in (study_archives.DIRECTORY, study_archives.READ_ME)
                    yield path, data
            except BaseException as err:
                log("failed", why=why_ended(err), given=given)
                raise
            finally:
                self._guard.end_work(work)
                self._end(caller.username)
            log("completed", given=given)

        log("requested")
        try:
            self._begin(caller.username)
        except TooManyRequests as err:
            log("refused", why=err.code)
            raise
        files = run()
        next(files)
        return files

    def _begin(self, account: str) -> None:
        with self._lock:
            if self._running[account] >= MOST_AT_ONCE:
                raise TooManyRequests(
                    f"You are downloading {MOST_AT_ONCE} studies already. Wait until one of them"
                    " is complete, or cancel it, and try again.",
                    seconds=_AGAIN_SECONDS,
                )
            self._running[account] += 1

    def _end(self, account: str) -> None:
        with self._lock:
            self._running[account] -= 1
            self._running += Counter()  # forgets those without any

    def _asked(self, permission: Permission, holds: Callable[[Caller], object]) -> Asked:
        """Asks before each file whether all that allowed the first one is still so.

        Args:
            holds: Raises where something else is over.
        """

        def ask(caller: Caller, work: str, patient_id: str) -> Caller:
            if caller.role is Role.OPERATOR:  # has no session
                return caller
            now = self._guard.caller(work)
            self._guard.check(now, "archives.file", permission, fresh=False, enrolling=False)
            if not self._guard.sees(now, patient_id):
                self._guard.refuse_unseen(now, "archives.file", "patient", patient_id)
            holds(now)
            return now

        return ask
