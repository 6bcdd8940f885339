"""A cohort leaves the hospital: masked images with a signed statement that anyone can verify.

What leaves is masked and de-identified; who hands it over, to check that later, and which of it a
person had looked at, is in the statement and in the audit log, per image.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from engine.errors import InputError, NotFound
from engine.formats import images
from engine.formats.dicom_profile import METHODS
from engine.installation import version
from engine.metrics import CONFIDENCE
from engine.operations.conformance import Conformance
from engine.operations.context import Context
from engine.operations.guard import Guard, needs
from engine.operations.recipient_copies import Recipient, RecipientCopies
from engine.operations.release_decisions import ReleaseDecisions
from engine.operations.stored_images import StoredImages
from engine.operations.study_places import AT_ONCE, StudyPlaces
from engine.permissions import Permission
from engine.records import Caller, Format, ImageRecord, ImageState
from engine.seal import package
from engine.seal.release_statement import SUMS, closing_files, fingerprint
from engine.store.audit import Event
from engine.store.catalog import ImageRow
from engine.store.recipients import checked_recipient
from engine.tracing import why_ended
from engine.vault import public_key_pem

#: How long what was prepared can be taken away.
_KEPT = timedelta(minutes=30)
#: Most images in one cohort.
MOST_IMAGES = 100_000


@dataclass(frozen=True)
class CohortOrder:
    """What shall leave, and how.

    Args:
        study_ids: Whole studies.
        image_ids: Images besides.
        reason: What for, and to whom.
        new_identifiers: New UIDs and pseudonyms for this cohort alone, so that nobody can join it
            with another by them.
        packages: With the sealed packages, which only this installation opens.
        profile: De-identification profile of copies that are made for the recipient; without one
            the masked files leave as they are.
        recipient: Whose copies: the same name gets the same pseudonyms and dates again.
        validate: Ask ``dciodvfy`` about each file, where it is installed.
    """

    study_ids: Sequence[str] = ()
    image_ids: Sequence[str] = ()
    reason: str = field(default="", repr=False)
    new_identifiers: bool = False
    packages: bool = False
    profile: str = ""
    recipient: str = ""
    validate: bool = False


@dataclass(frozen=True)
class Cohort:
    """A cohort that is ready to be taken away.

    Args:
        files: Path without its ending, and the image, of each file.
        fingerprint: SHA-256 of the key that will sign; the receiver needs it by another way.
    """

    release_id: str
    order: CohortOrder
    files: tuple[tuple[str, ImageRecord], ...]
    fingerprint: str
    expires_at: datetime
    session_id: str = field(repr=False)

    @property
    def patients(self) -> int:
        return len({image.patient_id for _, image in self.files})


@dataclass(frozen=True)
class _Leaving:
    """What is the same for all files of a cohort.

    Args:
        key: For identifiers of this cohort alone.
        whom: For whom copies are made, if they are.
    """

    cohort: Cohort
    key: bytes | None = field(repr=False)
    whom: Recipient | None
    conformance: Conformance


class Cohorts:
    """Prepares cohorts and hands them over."""

    def __init__(
        self,
        context: Context,
        guard: Guard,
        stored: StoredImages,
        places: StudyPlaces,
        decisions: ReleaseDecisions,
        copies: RecipientCopies,
    ) -> None:
        self._copies = copies
        self._recipients = context.recipients
        self._patients = context.patients
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._detector = context.detector
        self._hierarchy = context.hierarchy
        self._host = context.host
        self._live = context.live
        self._studies = context.studies
        self._decisions = decisions
        self._guard = guard
        self._places = places
        self._stored = stored
        self._ready: dict[str, Cohort] = {}

    @needs(Permission.RELEASE_COHORT)
    def public_key(self, caller: Caller) -> tuple[bytes, str]:
        """The key that signs statements, as PEM, and its fingerprint."""
        pem = self._pem()
        return pem, fingerprint(pem)

    @needs(Permission.RELEASE_COHORT, fresh=True)
    def prepare(self, caller: Caller, order: CohortOrder) -> Cohort:
        """Choose what leaves; nothing is read yet.

        Raises:
            InputError: No reason, nothing chosen, too much, or packages under new identifiers.
            NotFound: A study or image that the caller may not know of, or that is not released.
        """
        if not order.reason.strip():
            raise InputError("Say what the images are for, and who gets them.")
        if (order.new_identifiers or order.profile) and order.packages:
            raise InputError(
                "Sealed packages belong to files under their usual identifiers. Choose one of both."
            )
        whom = self._whom(order)
        placed = self._placed(caller, order)
        if all(image.format is Format.DOCUMENT for _, image in placed):
            raise InputError("Choose at least one sealed image. Documents stay here.")
        if len(placed) > MOST_IMAGES:
            raise InputError(f"A cohort has at most {MOST_IMAGES:,} images. Make several.")
        if whom is not None:
            for patient_id in {image.patient_id for _, image in placed}:
                self._copies.pseudonym(whom, self._patients.get(self._database.read(), patient_id))
        now = self._host.now()
        for old in [c for c in self._ready.values() if c.expires_at <= now]:
            self._ready.pop(old.release_id, None)
        cohort = Cohort(
            self._host.token("rl"),
            order,
            tuple(placed),
            fingerprint(self._pem()),
            now + _KEPT,
            caller.session_id,
        )
        self._ready[cohort.release_id] = cohort
        self._record(caller, cohort, "requested", reason=order.reason.strip())
        return cohort

    def _whom(self, order: CohortOrder, once: bytes | None = None) -> Recipient | None:
        """For whom copies are made; None where masked files leave as they are.

        Raises:
            InputError: A name or profile that cannot be.
        """
        name = checked_recipient(order.recipient)
        if not order.profile:
            if name:
                raise InputError("Choose a de-identification profile for this recipient.")
            return None
        if name and order.new_identifiers:
            raise InputError(
                "A named recipient gets the same identifiers each time. Leave the name out, or the"
                " new identifiers."
            )
        return Recipient(name, self._recipients.profile(order.profile), once)

    @needs(Permission.RELEASE_COHORT)
    def files(self, caller: Caller, release_id: str) -> Iterator[tuple[str, bytes]]:
        """The files of a cohort, once, with the signed statement last.

        A cohort that breaks off has no statement, and so does not verify.

        Yields:
            Path, its parts joined by ``/``, and content.

        Raises:
            NotFound: It was taken away, is over, or belongs to another session; or one of its
                images was withdrawn or erased meanwhile.
            SealBroken: A stored file was altered.
        """
        cohort = self._ready.pop(release_id, None)
        if (
            cohort is None
            or cohort.session_id != caller.session_id
            or cohort.expires_at <= self._host.now()
        ):
            raise NotFound("There is no such cohort. Prepare it again.")
        return self._files(caller, cohort)

    def _files(self, caller: Caller, cohort: Cohort) -> Iterator[tuple[str, bytes]]:
        key = self._host.random(32) if cohort.order.new_identifiers else None
        digests: dict[str, str] = {}
        listed: list[dict[str, Any]] = []
        conformance = Conformance(cohort.order.validate)
        try:
            leaving = _Leaving(cohort, key, self._whom(cohort.order, key), conformance)
            for path, image in cohort.files:
                if image.format is Format.DOCUMENT:
                    conformance.leave_out(_study_of(path))
                    continue
                for name, data, facts in self._of_image(caller, leaving, path, image):
                    digests[name] = hashlib.sha256(data).hexdigest()
                    listed.append({"path": name, "sha256": digests[name], **facts})
                    yield name, data
            about = {"manifest.json": listed, "conformance.json": conformance.report()}
            for name, content in about.items():
                if not content:
                    continue  # no DICOM, so nothing to report
                data = json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"
                digests[name] = hashlib.sha256(data).hexdigest()
                yield name, data
            facts = self._facts(caller, cohort, listed)
            closing = closing_files(digests, facts, self._hierarchy.release_signer())
        except BaseException as err:
            self._record(caller, cohort, "failed", why=why_ended(err))
            raise
        self._record(caller, cohort, "completed", list=hashlib.sha256(closing[SUMS]).hexdigest())
        yield from closing.items()

    def _pem(self) -> bytes:
        return public_key_pem(self._hierarchy.release_signer().public_bytes)

    def _placed(self, caller: Caller, order: CohortOrder) -> list[tuple[str, ImageRecord]]:
        """Paths of all chosen images: patient, study, series, image, by number."""
        tx = self._database.read()
        patients: dict[str, None] = {}
        for kind, names, of in (
            ("study", order.study_ids, self._studies.patient_of),
            ("image", order.image_ids, self._catalog.patient_of),
        ):
            for name in dict.fromkeys(names):
                patient_id = of(tx, name)
                if patient_id is None or not self._guard.sees(caller, patient_id):
                    self._guard.refuse_unseen(caller, "cohorts.prepare", kind, name)
                patients[str(patient_id)] = None
        wanted_studies, wanted_images = set(order.study_ids), set(order.image_ids)
        placed: list[tuple[str, ImageRecord]] = []
        for number, patient_id in enumerate(sorted(patients), 1):
            while self._places.complete(patient_id) == AT_ONCE:
                pass
            tx = self._database.read()
            released = self._catalog.records_of_patient(tx, patient_id, [ImageState.RELEASED])
            studies = self._studies.of_patient(tx, patient_id, released) if released else []
            for s, study in enumerate(reversed(studies), 1):
                for r, series in enumerate(study.series, 1):
                    for i, image in enumerate(series.images, 1):
                        if study.study_id in wanted_studies or image.image_id in wanted_images:
                            place = f"patient-{number:05}/study-{s:03}/series-{r:03}/{i:05}"
                            placed.append((place, image))
        found = {image.image_id for _, image in placed}
        if wanted_images - found:
            raise NotFound("One of these images is not sealed. Choose sealed images only.")
        return placed

    def _of_image(
        self, caller: Caller, leaving: _Leaving, path: str, image: ImageRecord
    ) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
        """The file of one image, and its package where that goes along."""
        cohort = leaving.cohort
        if not self._guard.sees(caller, image.patient_id):  # asked again: this takes a while
            self._guard.refuse_unseen(caller, "cohorts.files", "image", image.image_id)
        row = self._stored.verified(image.image_id)
        data, outcomes = self._made(row, leaving)
        if images.sniff(data) is Format.DICOM:
            leaving.conformance.add(_study_of(path), data, outcomes)
        looked = not self._sealed_unseen(image.image_id)
        methods = leaving.whom.profile.options.methods if leaving.whom else METHODS
        facts = {
            "format": str(images.sniff(data)),
            "modality": row.modality,
            "frames": image.frames,
            "hidden_regions": row.region_count,
            "looked_at_by_a_person": looked,
            "deidentification": [code for code, _ in methods]
            if images.sniff(data) is Format.DICOM
            else [],
        }
        handed = Event(
            "image.release",
            patient_id=row.patient_id,
            image_id=image.image_id,
            reason=cohort.order.reason.strip(),
            detail={
                "cohort": cohort.release_id,
                **({"profile": cohort.order.profile} if cohort.order.profile else {}),
                **({"recipient": cohort.order.recipient} if cohort.order.recipient else {}),
            },
        )
        self._audit.record(caller, handed)
        yield f"{path}.{images.sniff(data).suffix}", data, facts
        if cohort.order.packages:
            yield (
                f"{path}{package.SUFFIX}",
                self._stored.package(image.image_id)[1],
                {"package": True},
            )

    def _made(self, row: ImageRow, leaving: _Leaving) -> tuple[bytes, Mapping[str, Any]]:
        """The file that leaves, and what became of its attributes where that is known."""
        if leaving.whom is not None:
            made = self._copies.copy(row, leaving.whom)
            return made.data, made.outcomes
        data = images.from_storage(self._stored.part(row.image_id, "masked"))
        return (data if leaving.key is None else images.renamed(data, leaving.key)), {}

    def _sealed_unseen(self, image_id: str) -> bool:
        """Did the newest sealing go without a person's look?"""
        newest = self._audit.of_image(image_id, ("image.seal",), limit=1)
        return bool(newest and newest[0].detail.get("automatic"))

    def _facts(
        self, caller: Caller, cohort: Cohort, listed: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        """What the statement says besides the digests."""
        left_out = sum(image.format is Format.DOCUMENT for _, image in cohort.files)
        whom = self._whom(cohort.order)
        methods = whom.profile.options.methods if whom else METHODS
        ids = [image.image_id for _, image in cohort.files]
        earned, bound = self._decisions.earned(self._database.read(), ids)
        looks = Counter(f["looked_at_by_a_person"] for f in listed if "package" not in f)
        return {
            "release": cohort.release_id,
            "made_at": self._host.now().replace(tzinfo=UTC).isoformat(timespec="seconds"),
            "released_by": caller.username,
            "role": str(caller.role),
            "site": self._live.settings.site,
            "product": f"MedSec {version()}",
            "identifiers": "of this release alone"
            if cohort.order.new_identifiers
            else "of this recipient"
            if whom
            else "of this installation",
            "patients": cohort.patients,
            "images": len(cohort.files) - left_out,
            "documents_left_out": left_out,
            "looked_at_by_a_person": looks[True],
            "sealed_without_a_look": looks[False],
            # Of those without a look: what people's looks at others of their kind bound.
            "released_by_evidence": {
                "images": earned,
                "share_with_a_miss_at_most": bound,
                "confidence": CONFIDENCE,
            },
            "deidentification": [
                {"code": code, "scheme": "DCM", "meaning": meaning} for code, meaning in methods
            ],
            "recipient": cohort.order.recipient,
            "networks": [
                {"name": m.name, "version": m.version, "sha256": m.sha256}
                for m in self._detector.models
            ],
        }

    def _record(
        self, caller: Caller, cohort: Cohort, outcome: str, reason: str = "", **detail: Any
    ) -> None:
        told = {"cohort": cohort.release_id, "images": len(cohort.files), **detail}
        self._audit.record(caller, Event("cohort.release", outcome, reason=reason, detail=told))


def _study_of(path: str) -> str:
    """The patient and study of a path."""
    return path.rsplit("/", 2)[0]
