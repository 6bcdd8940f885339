"""Studies that come in whole: whose they are, and drafts that wait to be looked at.

A file is decoded, compared with the record and stored encrypted before it is acknowledged; what
has been acknowledged has a row, and a crash loses nothing of it. Networks look at it later
(:meth:`engine.service.batches.Batches.look`). Until then it says that nobody has looked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.errors import DuplicateImage, InputError, OtherPatient, UnsupportedFormat
from engine.formats import images
from engine.operations.admission import Work
from engine.operations.context import Context
from engine.operations.examination import CONFIRMED, NOT_LOOKED_AT, Examined, Examiner
from engine.operations.guard import Guard, needs
from engine.operations.header_identity import differences
from engine.operations.intake import Intake, clean_folder, clean_name
from engine.operations.stored_images import OPEN_STATES, StoredImages
from engine.permissions import Permission
from engine.records import Caller, ImageRecord, Patient
from engine.seal.pipeline import Stopwatch
from engine.service.batches import LOOKING
from engine.store.audit import Event
from engine.vault import blind_index

#: Drafts of one person that are found at once to be looked at.
_MOST = 5000


@dataclass(frozen=True)
class Header:
    """What the beginning of a file says, and the record that it is compared with.

    Args:
        hints, study: As of :func:`engine.formats.images.heads`. Empty where it says nothing.
        record: The chosen patient, or the one whose number the header has; None for none.
        differs: In what header and record differ.
        refused: Why no file that begins so is taken; empty for one that may be.
    """

    hints: dict[str, Any] = field(repr=False)
    study: dict[str, Any] = field(repr=False)
    record: Patient | None = field(repr=False)
    differs: tuple[str, ...]
    refused: str = ""


@dataclass(frozen=True)
class TakeOptions:
    """How a file is taken in.

    Args:
        profile: Specialty profile; None for the setting's.
        folder: Where it lay, below what was dropped; sealed with the name.
        seal_undoubted: Seal it without a person's look where a network leaves no doubt.
        reason: Why it comes in although its header names another patient.
    """

    profile: str | None = None
    folder: str = field(default="", repr=False)
    seal_undoubted: bool = False
    reason: str = field(default="", repr=False)


class Intakes:
    """Takes in what is looked at later."""

    def __init__(
        self, context: Context, guard: Guard, examiner: Examiner, stored: StoredImages,
        intake: Intake,
    ) -> None:  # fmt: skip
        self._admission = context.admission
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._hierarchy = context.hierarchy
        self._host = context.host
        self._live = context.live
        self._patients = context.patients
        self._shared = context.shared
        self._examiner = examiner
        self._guard = guard
        self._intake = intake
        self._stored = stored

    @needs(Permission.UPLOAD)
    def headers(
        self, caller: Caller, beginnings: Sequence[bytes], patient_id: str | None = None
    ) -> list[Header]:
        """Whose files are, by their first bytes, and how that compares with the records.

        What no file may begin with is refused here, so the log says it here, as of files that come
        whole.

        Args:
            beginnings: Of each file its first bytes. Nothing of them is kept.
            patient_id: The patient that a person chose; without one, that of the header's number.

        Raises:
            NotFound: No such patient.
        """
        chosen = None if patient_id is None else self._intake.patient(patient_id)
        tx = self._database.read()
        records: dict[str, Patient | None] = {}
        found = []
        for said in images.heads(beginnings):
            hints, study = said.get("hints", {}), said.get("study", {})
            number = str(hints.get("id", "")).strip()
            if chosen is None and number and number not in records:
                key = self._patients.known(tx, number)
                records[number] = None if key is None else self._patients.get(tx, key)
            record = chosen or records.get(number)
            differs = () if record is None else differences(record, hints)
            found.append(Header(hints, study, record, differs, said.get("refused", "")))
        known = sum(r is not None for r in records.values())
        read = Event("patient.search", detail={"by": "header", "found": known})
        self._guard.record_read(caller, read)
        if refused := sum(bool(header.refused) for header in found):
            why = {"why": UnsupportedFormat.code, "files": refused}
            whose = "" if chosen is None else chosen.patient_id
            failed = Event("image.upload", "failed", patient_id=whose, detail=why)
            self._audit.record(caller, failed)
        return found

    @needs(Permission.UPLOAD)
    def differs(self, caller: Caller, patient_id: str, hints: Mapping[str, Any]) -> tuple[str, ...]:
        """In what a header differs from another record than its own. Raises NotFound."""
        return differences(self._intake.patient(patient_id), hints)

    @needs(Permission.UPLOAD)
    def take(
        self, caller: Caller, patient_id: str, name: str, data: bytes, options: TakeOptions
    ) -> ImageRecord:
        """Take a file in, to be looked at later: check, decode, compare, keep it as a draft.

        Raises:
            InputError: The file cannot be taken; nothing of it is kept.
            OtherPatient: Its header names another patient, and no reason was given.
            DuplicateImage: It is here already; ``facts['image_id']``.
            NotFound: No such patient.
        """
        patient = self._intake.patient(patient_id)
        try:
            return self._take(caller, patient, name, data, options)
        except InputError as err:
            why = {"why": err.code, **{k: v for k, v in err.facts.items() if k == "differs"}}
            failed = Event("image.upload", "failed", patient_id=patient.patient_id, detail=why)
            self._audit.record(caller, failed)
            raise

    def _take(
        self, caller: Caller, patient: Patient, name: str, data: bytes, options: TakeOptions
    ) -> ImageRecord:
        watch = Stopwatch(self._host)
        profile = self._examiner.profile(options.profile)
        index = blind_index(self._hierarchy.system_key("index"), "image/file", data)
        self._intake.refuse_duplicate(self._database.read(), index)
        need = self._admission.need_of(caller.username, data, self._live.limits)
        with self._admission.room(Work.INTAKE, caller.username, need), watch.stage("decode"):
            image = images.decode(clean_name(name), data, self._live.limits, need.seconds)
        differs = differences(patient, images.patient_hints(image))
        if differs and not options.reason.strip():
            raise OtherPatient(
                "This file names another patient than the record. Choose the right patient, or say"
                " why it belongs here.",
                differs=list(differs),
            )
        unseen = self._examiner.unseen(image, profile)
        own = {
            "folder": clean_folder(options.folder),
            "seal_undoubted": options.seal_undoubted and self._live.settings.auto_seal,
        }
        examined = Examined(unseen.columns, {**unseen.facts, **own})
        patient_key = self._hierarchy.patient_key(self._database.read(), patient.patient_id)
        entry = self._intake.keep(patient_key, patient.patient_id, data, index, watch)
        why = Event(
            "patient.differs",
            patient_id=patient.patient_id,
            image_id=entry.image_id,
            reason=options.reason.strip(),
            detail={"differs": list(differs)},
        )
        try:
            with self._database.write() as tx:
                self._intake.enter(tx, caller, entry, examined, watch.times_ms)
                if differs:
                    self._audit.append(tx, caller, why)
        except DuplicateImage:  # somebody sent the same file meanwhile
            self._host.delete_blob(entry.blob)
            raise
        return self._stored.record(entry.image_id)

    @needs(Permission.UPLOAD)
    def unseen(self, caller: Caller) -> list[str]:
        """Ids of the caller's drafts that wait for workers, to be looked at or to be sealed.

        Without those that another server is at.
        """
        held: list[list[str]] = [json.loads(value) for value in self._shared.all(LOOKING)]
        elsewhere = {i for i, server_id in held if server_id != self._database.server_id}
        found = [
            record
            for reason in (NOT_LOOKED_AT, CONFIRMED)
            for record in self._catalog.search(
                states=OPEN_STATES, uploaded_by=caller.username, reason=reason, limit=_MOST
            )
        ]
        return [r.image_id for r in reversed(found) if r.image_id not in elsewhere]
