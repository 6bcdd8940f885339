"""Learned versions of MedSec's own network: taken in, in the shadow, in force, and back.

A version looks in the shadow before it can come in force, and a second administrator confirms it.
To go back is one step and waits for nobody. Every version stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from engine.detection import (
    LEARNT,
    MissingVersion,
    NetworkCard,
    OwnVersion,
    ShadowCounts,
    VersionStanding,
    read_learned,
    shipped_name,
)
from engine.errors import (
    ConfirmationNeeded,
    DetectorError,
    EngineError,
    InputError,
    NotFound,
    PermissionDenied,
    StorageBusy,
)
from engine.formats import images
from engine.operations.admission import Work
from engine.operations.context import Context
from engine.operations.examination import Examiner
from engine.operations.guard import Guard, log, needs
from engine.operations.shadow import Shadow, differing
from engine.operations.stored_images import OPEN_STATES, StoredImages, need_of
from engine.people.proposals import Change, Proposal, Proposals, Said
from engine.permissions import Permission, Role
from engine.records import Caller, Detection, ImageRecord, Region
from engine.store.audit import Event
from engine.store.database import Cursor

PROMOTE = "network.promote"
MOST_SHOWN = 100
SHOWN_PX = 640


@dataclass(frozen=True)
class VersionEntry:
    """A version of MedSec's own network, for administrators.

    Args:
        state: ``in force``, ``shadow``, ``candidate`` (not yet in force) or ``replaced``.
        images: That were sealed after it had looked.
        card: None for the shipped version, whose card is ``model/CARD.md``.
        shadow: What it did in the shadow.
    """

    name: str
    state: str
    images: int
    card: NetworkCard | None = None
    taken_at: datetime | None = None
    taken_by: str = ""
    shadow: ShadowCounts = ShadowCounts()


@dataclass(frozen=True)
class Difference:
    """A draft on which the version in the shadow has other boxes than the one in force.

    Args:
        more, fewer: Boxes that only it, and that only the one in force found.
        failed: It could not look.
    """

    record: ImageRecord
    version: str
    more: tuple[Detection, ...] = field(repr=False)
    fewer: tuple[Detection, ...] = field(repr=False)
    failed: bool = False


class Versions:
    """Which version of MedSec's own network looks."""

    def __init__(
        self, context: Context, guard: Guard, examiner: Examiner, stored: StoredImages
    ) -> None:
        self._accounts = context.accounts
        self._admission = context.admission
        self._audit = context.audit
        self._catalog = context.catalog
        self._custom_networks = context.custom_networks
        self._database = context.database
        self._detector = context.detector
        self._host = context.host
        self._proposals = Proposals(context.host, context.shared, "network")
        self._versions = context.network_versions
        self._examiner = examiner
        self._guard = guard
        self._stored = stored

    def meet(self) -> None:
        """Let the detector look with the versions that the registry names.

        Where the one in force does not open, no other takes its place: every image goes to a
        person until an administrator rolls back.

        Raises:
            StorageBusy: The store of files does not answer; what looked before goes on.
        """
        standing = self._versions.standing(self._database.read())
        own, candidate = self._opened(standing.in_force), self._opened(standing.shadow)
        self._detector.own = own
        self._detector.candidate = None if isinstance(candidate, MissingVersion) else candidate

    def _opened(self, name: str) -> OwnVersion | None:
        if not name:
            return None
        try:
            return self._versions.version(name)
        except StorageBusy:  # that is no damage: it is tried again
            raise
        except EngineError as err:
            log.error("a learned version does not open: %s", err.code)
            return MissingVersion(name, "", b"")

    @needs(Permission.MANAGE_SETTINGS)
    def entries(self, caller: Caller) -> list[VersionEntry]:
        """The shipped version and every learned one, the newest last."""
        tx = self._database.read()
        standing, looked_at = self._versions.standing(tx), self._versions.looked_at(tx)
        shipped = shipped_name()
        state = "replaced" if standing.in_force else "in force"
        return [
            VersionEntry(shipped, state, looked_at.get(shipped, 0)),
            *(
                VersionEntry(
                    name,
                    _state(name, standing),
                    looked_at.get(name, 0),
                    record.card,
                    record.taken_at,
                    record.taken_by,
                    self._versions.shadow_counts(tx, name),
                )
                for name, record in self._versions.records(tx).items()
            ),
        ]

    @needs(Permission.MANAGE_SETTINGS)
    def take_in(self, caller: Caller, data: bytes) -> NetworkCard:
        """Take a candidate that ``medsec learn`` wrote; it looks at nothing yet.

        Raises:
            InputError: Not such a file, not learned from the version in force, or it does not run.
            CandidateWorse: Its card says that it hides less of what names a patient.
        """
        file = read_learned(data)
        file.card.refuse_worse()
        if not any(found.shipped for found in file.card.sets.values()):
            raise InputError("The card of this version has no figures of the shipped sets.")
        shape = self._custom_networks.inspected(file.version.onnx)
        if not set(LEARNT) <= set(shape.names):
            raise InputError("This network has other classes than MedSec's.")
        try:
            self._detector.try_version(file.version)
        except DetectorError as err:
            raise InputError(f"The network was run and failed: {err.message}") from err
        blob = self._versions.store(file)
        with self._database.write() as tx:
            if file.card.name in self._versions.records(tx):
                raise InputError("This version was taken in before.")
            self._refuse_other_base(file.card, self._versions.standing(tx))
            self._versions.add(tx, self._audit, caller, file, blob)
        return file.card

    @staticmethod
    def _refuse_other_base(card: NetworkCard, standing: VersionStanding) -> None:
        """Raises InputError: its figures are beside those of a version that is not in force."""
        in_force = standing.in_force or shipped_name()
        if card.base != in_force:
            raise InputError(
                "This version was learned from another one than the version in force. Learn from"
                " an export of this installation as it is now.",
                base=card.base,
                in_force=in_force,
            )

    @needs(Permission.MANAGE_SETTINGS)
    def begin_shadow(self, caller: Caller, name: str) -> None:
        """Let a version look at every new draft beside the one in force. It changes nothing.

        Each image takes about twice as long to look at meanwhile.

        Raises:
            NotFound: There is none of this name.
            InputError: It was learned from another version than the one in force.
        """
        with self._database.write() as tx:
            record = self._versions.records(tx).get(name)
            if record is None:
                raise NotFound("There is no such version of the network.")
            standing = self._versions.standing(tx)
            self._refuse_other_base(record.card, standing)
            now = self._host.now()
            self._versions.stand(tx, self._audit, caller, standing, shadow=name, shadow_since=now)
        self.meet()

    @needs(Permission.MANAGE_SETTINGS)
    def end_shadow(self, caller: Caller) -> None:
        """Let no version look in the shadow any more."""
        with self._database.write() as tx:
            standing = self._versions.standing(tx)
            self._versions.stand(tx, self._audit, caller, standing, shadow="", shadow_since=None)
        self.meet()

    @needs(Permission.UPLOAD)
    def differences(self, caller: Caller, limit: int = 20) -> list[Difference]:
        """Drafts on which the version in the shadow has other boxes, the newest first."""
        tx = self._database.read()
        name = self._versions.standing(tx).shadow
        if not name:
            return []
        self._guard.record_read(caller, Event("image.list", detail={"states": [*OPEN_STATES]}))
        found = []
        for image_id in self._versions.differing(tx, name, min(limit, MOST_SHOWN)):
            try:
                found.append(self._difference(image_id))
            except EngineError as err:  # sealed or discarded since
                log.info("no draft any more: %s", err.code)
        return found

    def _difference(self, image_id: str) -> Difference:
        """Raises NotFound where it is no draft, or nothing looked beside."""
        draft = self._stored.draft(self._database.read(), image_id)
        shadow = Shadow.of(draft.facts)
        if shadow is None:
            raise NotFound("No version looked at this image in the shadow.")
        boxes = [Detection.from_json(d) for d in draft.facts["detections"]]
        more, fewer = ([], []) if shadow.failed else differing(boxes, shadow.detections)
        record = draft.row.record
        return Difference(record, shadow.version, tuple(more), tuple(fewer), shadow.failed)

    @needs(Permission.UPLOAD)
    def difference_picture(self, caller: Caller, image_id: str) -> bytes:
        """A draft as PNG with the boxes of which the two versions differ: yellow those of the
        version in force alone, blue those of the one in the shadow alone.

        Of several frames the first one with such a box. Audited as a look at the draft.

        Raises:
            NotFound: It is no draft any more, or nothing looked beside.
        """
        difference = self._difference(image_id)
        draft = self._stored.draft(self._database.read(), image_id)
        row = draft.row
        seen = Event("draft.preview", patient_id=row.patient_id, image_id=image_id)
        self._guard.record_read(caller, seen)
        with self._admission.room(Work.PAGE, caller.username, need_of(row, draft.facts)):
            image = self._stored.draft_image(draft)
        boxes = [*difference.more, *difference.fewer]
        frame = min((d.region.frame for d in boxes), default=0)
        turn = images.orientation(image)

        def placed(detections: tuple[Detection, ...]) -> list[Region]:
            return [
                images.to_upright(d.region, turn, image.width, image.height)
                for d in detections
                if d.region.frame <= frame < d.region.frame_end
            ]

        picture = images.displayed(image, frame)
        fewer, more = placed(difference.fewer), placed(difference.more)
        return images.boxed_picture(picture, fewer, more, SHOWN_PX)

    @needs(Permission.MANAGE_SETTINGS)
    def promote(self, caller: Caller, name: str) -> None:
        """Put the version in the shadow in force, once a second administrator confirms it.

        That does not depend on ``four_eyes``, which is about accounts.

        Raises:
            ConfirmationNeeded: It waits.
            InputError: It is not in the shadow, or has looked at nothing there.
        """
        with self._database.write() as tx:
            self._refuse_unseen(tx, name)
        if caller.role is Role.OPERATOR:  # who has the console
            self._promoted(caller, name, {})
            return
        alone = not self._accounts.others_administer(
            self._database.read(), caller.username, caller.username
        )
        proposal = self._proposals.add(caller, Change(PROMOTE, name), alone=alone)
        detail = {"proposal": proposal.proposal_id, "version": name, "by_console": alone}
        self._audit.record(caller, Event("network.propose", detail=detail))
        if alone:
            # For who has the server's console; the log of requests has no such line.
            print(f"\n  Code to confirm {name}: {proposal.code}\n", flush=True)  # noqa: T201
        raise ConfirmationNeeded(
            "Enter the code that the server's console shows to put this version in force."
            if alone
            else "Another administrator has to confirm this version. It waits for a day.",
            proposal_id=proposal.proposal_id,
        )

    def _promoted(self, by: Caller, name: str, said: Said) -> None:
        with self._database.write() as tx:
            standing = self._refuse_unseen(tx, name)
            promoted = (*standing.promoted, name)
            self._versions.stand(
                tx, self._audit, by, standing, promoted=promoted, shadow="", shadow_since=None
            )
            detail = {"version": name, "before": standing.in_force or shipped_name(), **said}
            self._audit.append(tx, by, Event(PROMOTE, detail=detail))
        self.meet()

    def _refuse_unseen(self, tx: Cursor, name: str) -> VersionStanding:
        """Raises InputError where a version has not looked at anything in the shadow."""
        standing = self._versions.standing(tx)
        if standing.shadow != name or not self._versions.shadow_counts(tx, name).images:
            raise InputError(
                "A version comes in force only after it has looked at drafts in the shadow. Start"
                " it there, and let images come in."
            )
        return standing

    @needs(Permission.MANAGE_SETTINGS)
    def proposals(self, caller: Caller) -> list[Proposal]:
        """Versions that wait for a second administrator."""
        return self._proposals.waiting()

    @needs(Permission.MANAGE_SETTINGS)
    def confirm(self, caller: Caller, proposal_id: str, code: str = "") -> None:
        """Put a version in force that another administrator proposed.

        Args:
            code: From the server's console, where there is no other administrator.

        Raises:
            NotFound: It waits no longer.
            PermissionDenied: One's own proposal, or a wrong code.
            InputError: It is not in the shadow any more.
        """
        try:
            proposal = self._proposals.take(caller, proposal_id, code)
        except PermissionDenied:
            refused = Event("network.confirm", "refused", detail={"proposal": proposal_id})
            self._audit.record(caller, refused)
            raise
        said = {"proposal": proposal_id, "proposed_by": proposal.proposed_by}
        self._promoted(caller, proposal.username, said)

    @needs(Permission.MANAGE_SETTINGS)
    def drop_proposal(self, caller: Caller, proposal_id: str) -> None:
        """Let a version not come in force. Raises NotFound."""
        dropped = self._proposals.drop(proposal_id)
        detail: Mapping[str, Any] = {"proposal": proposal_id, "version": dropped.username}
        self._audit.record(caller, Event("network.drop-proposal", detail=detail))

    @needs(Permission.MANAGE_SETTINGS)
    def roll_back(self, caller: Caller, reason: str) -> str:
        """Put the version before in force again, at once; says its name.

        Raises:
            InputError: No reason, or the shipped version is in force.
        """
        if not reason.strip():
            raise InputError("Give a reason.")
        with self._database.write() as tx:
            standing = self._versions.standing(tx)
            if not standing.promoted:
                raise InputError("The shipped version is in force. There is none before it.")
            after = self._versions.stand(
                tx, self._audit, caller, standing, promoted=standing.promoted[:-1],
                shadow="", shadow_since=None,
            )  # fmt: skip
            name = after.in_force or shipped_name()
            detail = {"version": name, "before": standing.in_force}
            event = Event("network.roll-back", reason=reason.strip(), detail=detail)
            self._audit.append(tx, caller, event)
        self.meet()
        return name


def _state(name: str, standing: VersionStanding) -> str:
    if name == standing.in_force:
        return "in force"
    if name == standing.shadow:
        return "shadow"
    return "replaced" if name in standing.promoted else "candidate"
