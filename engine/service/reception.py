"""What other systems of the network hand in: taken durably at once, looked at afterwards.

A sender is told of success when the draft is stored: its file encrypted and synced to the disk, its
row and its log entry committed. The detectors look at it afterwards, oldest first; until then it
waits in review. An instance of a patient whom nobody knows is held until a person says whose it is.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from engine.errors import (
    DuplicateImage,
    EngineError,
    InputError,
    NotFound,
    PermissionDenied,
    WrongInstance,
)
from engine.formats import images
from engine.operations.context import Context
from engine.operations.examination import NOT_LOOKED_AT, Examined, Examiner
from engine.operations.guard import Guard, log, needs
from engine.operations.header_identity import differences
from engine.operations.intake import Entry, Intake
from engine.operations.patient_records import PatientRecords
from engine.permissions import Permission, Role
from engine.records import Caller, Image
from engine.seal.pipeline import Stopwatch
from engine.service.batches import FEW_FILES, Batches
from engine.service.sessions import nobody
from engine.store.audit import Event
from engine.store.database import Cursor
from engine.store.nodes import HeldInstance, Node
from engine.tracing import unexpected
from engine.vault import blind_index, pack

#: How nodes are named in the log and in rows; no user name contains a colon.
PREFIX = "ae:"
#: Drafts that are looked at in one go.
_AT_ONCE = 200
#: Instances that are decoded at the same time: each takes the memory of its pixels.
_DECODED_AT_ONCE = 2
_TICK_SECONDS = 60.0
#: What arrives at another server wakes nobody here.
_TICK_OF_MANY_SECONDS = 5.0
#: Before a draft that could not be looked at is tried again.
_RETRY_MS = 3_600_000.0
_LONGEST_NUMBER = 49  # a hint of 50 characters may have been cut


class Received(StrEnum):
    """What became of an instance."""

    STORED = "stored"
    PRESENT = "present"  # it is here already
    HELD = "held"  # stored; a person has to say whose it is


@dataclass(frozen=True)
class Instance:
    """A DICOM file as a node sent it.

    Args:
        sop_class, sop_instance: UIDs that the sender announced; empty where it announced none.
        data: File with meta information.
    """

    sop_class: str
    sop_instance: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Stored:
    """An instance that was taken in: its UIDs, and what became of it."""

    sop_class: str
    sop_instance: str
    state: Received


@dataclass(frozen=True)
class Held:
    """An instance that waits for a person to say whose it is.

    Args:
        node: AE title of its sender.
        hints: What its header says of the patient: ``id``, ``name``, ``age``, ``birth_date`` and
            ``sex``; only what is there.
        study: Study Instance UID in its header; empty where it has none.
    """

    held_id: str
    node: str
    received_at: datetime
    hints: Mapping[str, Any] = field(repr=False)
    study: str = field(default="", repr=False)


@dataclass(frozen=True)
class HeldStudy:
    """Held images that one answer can assign: of one study that one node sent, whose headers say
    the same of the patient. An image that names no study stands alone.

    Args:
        first: The oldest.
        images: How many they are.
    """

    first: Held
    images: int


class Reception:
    """Takes instances from nodes, and has them looked at in the background."""

    def __init__(
        self,
        context: Context,
        guard: Guard,
        examiner: Examiner,
        intake: Intake,
        batches: Batches,
    ) -> None:
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._held = context.held_instances
        self._hierarchy = context.hierarchy
        self._host = context.host
        self._live = context.live
        self._nodes = context.nodes
        self._patients = context.patients
        self._read_log = context.read_log
        self._records = PatientRecords(context)
        self._batches = batches
        self._examiner = examiner
        self._guard = guard
        self._intake = intake
        self._decoding = threading.BoundedSemaphore(_DECODED_AT_ONCE)
        self._arrived = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        #: When a draft was last tried, ms of the host's ticks: one that fails must not spin.
        self._tried_ms: dict[str, float] = {}

    # --- nodes ------------------------------------------------------------------------------------

    def admit(self, title: str, address: str, certificate: str = "") -> str:
        """A token for a node that associates, worth something until :meth:`leave`.

        Args:
            title: AE title that it calls itself.
            address: IP address from which it calls.
            certificate: SHA-256 of its TLS certificate in hex; empty without TLS.

        Raises:
            PermissionDenied: Not a known node, or not from there, or not with this certificate.
        """
        node = self._nodes.get(title)
        why = _refusal(node, address, certificate)
        if why:
            detail = {"why": why, "title": title[:16]}
            refused = Event("node.associate", "refused", detail=detail)
            self._read_log.once(
                lambda: self._audit.record(nobody(address), refused), "node.associate", address, why
            )
            raise PermissionDenied(
                "This application entity is not allowed here. Ask an administrator to add it.",
                why=why,
            )
        caller = replace(_caller(PREFIX + title), origin=address)
        self._guard.record_read(caller, Event("node.associate"))
        return self._guard.begin_node(caller)

    def leave(self, token: str) -> None:
        """The association is over: its token is worth nothing from here on."""
        self._guard.end_node(token)

    @needs(Permission.RECEIVE)
    def receive(self, caller: Caller, instance: Instance) -> Received:
        """Take an instance in; it is stored durably when this returns.

        Raises:
            PermissionDenied: The node may not send, or no longer.
            WrongInstance: The data set is not what the sender announced.
            InputError: It cannot be taken; nothing of it is kept.
            StorageError, MachineOverloaded: Nothing is wrong with it; it can be sent again.
        """
        node = self._nodes.get(caller.username.removeprefix(PREFIX))
        if node is None or not node.sends:
            refused = Event("image.upload", "refused", detail={"why": "node-may-not-send"})
            self._audit.record(caller, refused)
            raise PermissionDenied("This application entity may not send images here.")
        try:
            return self._received(caller, node, instance)
        except InputError as err:
            self._audit.record(caller, Event("image.upload", "failed", detail={"why": err.code}))
            raise

    def _received(self, caller: Caller, node: Node, instance: Instance) -> Received:
        file_index = self._index("image/file", instance.data)
        if self._catalog.find_duplicate(self._database.read(), file_index) is not None:
            self._database.settle()  # the sender may throw its copy away now
            return Received.PRESENT
        with self._decoding:
            name = f"{instance.sop_instance or 'instance'}.dcm"
            image = images.decode(name, instance.data, self._live.limits)
            said = images.study_facts(image)
            for key, announced in (
                ("sop_class", instance.sop_class),
                ("sop_instance", instance.sop_instance),
            ):
                if announced and said.get(key) != announced:
                    raise WrongInstance(
                        "The data set is not the instance that was announced. Send it again.",
                        attribute=key,
                    )
            # The same instance in another coding has other bytes and the same pixels; another
            # picture under a UID that was used before is a fault of its sender, and is kept.
            same = pack(
                str(said.get("sop_instance", "")).encode(), images.pixel_digest(image.pixels)
            )
            indexes = file_index, self._index("image/instance", same)
            if self._here(self._database.read(), indexes):
                self._database.settle()
                return Received.PRESENT
            patient_id = self._patient_of(caller, node, image)
            if patient_id is None:
                return self._hold(caller, node, image, indexes)
            entry = self._keep(patient_id, image, indexes)
            return self._enter(caller, node, entry, image)

    def _index(self, context: str, value: bytes) -> bytes:
        return blind_index(self._hierarchy.system_key("index"), context, value)

    def _here(self, tx: Cursor, indexes: tuple[bytes, bytes]) -> bool:
        known = (self._catalog.find_duplicate(tx, index) for index in indexes)
        return any(image_id is not None for image_id in known) or self._held.has(tx, indexes)

    def _patient_of(self, caller: Caller, node: Node, image: Image) -> str | None:
        """Whose it is, by the number in the header; None where a person has to say it."""
        hints = images.patient_hints(image)
        number = str(hints.get("id", "")).strip()
        if not 1 <= len(number) <= _LONGEST_NUMBER:
            return None
        tx = self._database.read()
        found = self._patients.find_id(tx, number)
        if found is not None:  # another name or date of birth: a number that was mistyped
            return None if differences(self._patients.get(tx, found), hints) else found
        if not node.creates_patients:
            return None
        name, age = str(hints.get("name", "")), hints.get("age")
        try:
            with self._database.write() as tx:
                found = self._patients.find_id(tx, number)
                if found is None:
                    patient = self._records.create(
                        tx, caller, id=number, name=name, age=age, note=""
                    )
                    found = patient.patient_id
        except InputError:  # no name, or one that no record can have
            return None
        return found

    def _keep(self, patient_id: str, image: Image, indexes: tuple[bytes, bytes]) -> Entry:
        key = self._hierarchy.patient_key(self._database.read(), patient_id)
        file_index, instance_index = indexes
        entry = self._intake.keep(key, patient_id, image.data, file_index, Stopwatch(self._host))
        return replace(entry, instance_index=instance_index)

    def _enter(self, caller: Caller, node: Node, entry: Entry, image: Image) -> Received:
        examined = self._unseen(node, image)
        try:
            with self._database.write() as tx:
                self._intake.enter(tx, caller, entry, examined, {})
        except DuplicateImage:  # sent twice at the same time
            self._host.delete_blob(entry.blob)
            return Received.PRESENT
        self._arrived.set()
        return Received.STORED

    def _unseen(self, node: Node, image: Image) -> Examined:
        unseen = self._examiner.unseen(image, self._examiner.profile(node.profile or None))
        return Examined(unseen.columns, {**unseen.facts, "seal_undoubted": node.seals})

    def _hold(
        self, caller: Caller, node: Node, image: Image, indexes: tuple[bytes, bytes]
    ) -> Received:
        held_id = self._host.token("hd")
        blob = self._host.write_blob(self._held.seal(held_id, image.data))
        hints = images.patient_hints(image)
        study = str(images.study_facts(image).get("study_uid", ""))
        held = HeldInstance(held_id, node.title, self._host.now(), hints, blob, indexes, study)
        with self._database.write() as tx:
            present = self._here(tx, indexes)
            if not present:
                self._held.add(tx, held)
                self._audit.append(tx, caller, Event("instance.hold", detail={"held": held_id}))
        if present:
            self._host.delete_blob(blob)
        return Received.PRESENT if present else Received.HELD

    @needs(Permission.UPLOAD)
    def store(self, caller: Caller, instance: Instance, study_uid: str = "") -> Stored:
        """Take an instance in that a person's program sends, as :meth:`receive` does.

        Its patient is found by the number in the header; of an unknown one it is held.

        Args:
            study_uid: Of the study to which it must belong; empty for any.

        Raises:
            WrongInstance: It is of another study.
            InputError, StorageError, MachineOverloaded: As :meth:`receive`.
        """
        try:
            facts = images.study_facts_of(images.stored_plain(instance.data))
            if study_uid and facts.get("study_uid") != study_uid:
                raise WrongInstance("The instance belongs to another study.", attribute="study_uid")
            state = self._received(caller, Node(caller.username), instance)
        except InputError as err:
            self._audit.record(caller, Event("image.upload", "failed", detail={"why": err.code}))
            raise
        return Stored(str(facts.get("sop_class", "")), str(facts.get("sop_instance", "")), state)

    # --- people -----------------------------------------------------------------------------------

    @needs(Permission.UPLOAD)
    def held(self, caller: Caller, limit: int = 200, offset: int = 0) -> list[Held]:
        """Instances of patients whom nobody knew, oldest first. Raises SealBroken."""
        found = self._held.all(self._database.read(), limit, offset)
        self._guard.record_read(caller, Event("instance.list", detail={"held": len(found)}))
        return [_held(h) for h in found]

    @needs(Permission.UPLOAD)
    def held_studies(self, caller: Caller, limit: int) -> list[HeldStudy]:
        """Held images that belong together, oldest first; opens one of each. Raises SealBroken."""
        if earlier := self._held.of_earlier_releases(self._database.read()):
            with self._database.write() as tx:
                for held in earlier:
                    self._held.join(tx, held)
        found = self._held.first(self._database.read(), limit)
        images = sum(count for _, count in found)
        self._guard.record_read(caller, Event("instance.list", detail={"held": images}))
        return [HeldStudy(_held(held), count) for held, count in found]

    @needs(Permission.UPLOAD)
    def held_with(self, caller: Caller, held_id: str) -> list[Held]:
        """A held image and all that belong to it, oldest first. Raises SealBroken."""
        found = self._held.with_(self._database.read(), held_id)
        self._guard.record_read(caller, Event("instance.list", detail={"held": len(found)}))
        return [_held(h) for h in found]

    @needs(Permission.UPLOAD)
    def assign(self, caller: Caller, held_id: str, patient_id: str) -> str:
        """Say whose a held instance is; it becomes a draft of this patient.

        Args:
            patient_id: Opaque key or hospital number.

        Returns:
            The id of the image.

        Raises:
            NotFound: No such held instance or patient.
            DuplicateImage: It was uploaded meanwhile: discard it.
        """
        known = self._patients.known(self._database.read(), patient_id)
        if known is None:
            raise NotFound("There is no such patient.")
        held = self._held.get(self._database.read(), held_id)
        image = images.decode(f"{held_id}.dcm", self._held.open(held), self._live.limits)
        node = self._nodes.get(held.node) or Node(held.node)
        entry = self._keep(known, image, held.indexes)
        examined = self._unseen(node, image)
        with self._database.write() as tx:
            self._held.get(tx, held_id)  # another person may have been faster
            self._held.remove(tx, held_id)
            self._intake.enter(tx, _caller(PREFIX + held.node), entry, examined, {})
            said = {"held": held_id, "node": held.node}
            assigned = Event(
                "instance.assign", patient_id=known, image_id=entry.image_id, detail=said
            )
            self._audit.append(tx, caller, assigned)
        self._host.delete_blob(held.blob)
        self._arrived.set()
        return entry.image_id

    @needs(Permission.UPLOAD)
    def discard(self, caller: Caller, held_id: str, reason: str) -> None:
        """Throw a held instance away.

        Raises:
            InputError: No reason.
            NotFound: No such held instance.
        """
        if not reason.strip():
            raise InputError("Give a reason for discarding the image.")
        with self._database.write() as tx:
            held = self._held.get(tx, held_id)
            self._held.remove(tx, held_id)
            detail = {"held": held_id, "node": held.node}
            gone = Event("instance.discard", reason=reason.strip(), detail=detail)
            self._audit.append(tx, caller, gone)
        self._host.delete_blob(held.blob)

    # --- in the background ------------------------------------------------------------------------

    def start(self) -> None:
        """Look at what arrives in the background until :meth:`stop`."""
        self._arrived.set()  # what an earlier run left
        self._thread = threading.Thread(target=self._look_forever, name="reception", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the draft under way end, and begin no more."""
        self._stopped.set()
        self._arrived.set()
        if self._thread is not None:
            self._thread.join()

    def _look_forever(self) -> None:
        while not self._stopped.is_set():
            several = bool(self._database.server_id)
            self._arrived.wait(_TICK_OF_MANY_SECONDS if several else _TICK_SECONDS)
            self._arrived.clear()
            try:
                # Of several servers one looks, at what arrived at any.
                with self._database.as_leader():
                    while not self._stopped.is_set() and self._database.leads and self.look():
                        pass
            except Exception as err:  # noqa: BLE001 - the next instance must be looked at too
                unexpected("looking at what arrived failed", err)

    def look(self) -> int:
        """Look at drafts that arrived, and seal those without doubt whose node says so.

        Returns:
            How many were tried; 0 when none waits.
        """
        now = self._host.ticks_ms()
        self._tried_ms = {i: at for i, at in self._tried_ms.items() if now - at < _RETRY_MS}
        most = _AT_ONCE + len(self._tried_ms)
        tx, senders = self._database.read(), defaultdict[str, list[str]](list)
        for row in self._catalog.waiting_for(tx, NOT_LOOKED_AT, PREFIX, most):
            if row.image_id not in self._tried_ms:
                senders[row.uploaded_by].append(row.image_id)
        for sender, image_ids in senders.items():
            self._look_at(sender, image_ids)
        return sum(map(len, senders.values()))

    def _look_at(self, sender: str, image_ids: Sequence[str]) -> None:
        self._tried_ms.update(dict.fromkeys(image_ids, self._host.ticks_ms()))
        few = len(image_ids) <= FEW_FILES
        try:
            items = self._batches.look_as(_caller(sender), self._until_stopped(image_ids), few)
            for item in items:
                if item.error is not None:
                    log.warning("what arrived was not looked at: %s", item.error[0])
        except EngineError as err:
            log.warning("what arrived was not looked at: %s", err.code)

    def _until_stopped(self, image_ids: Sequence[str]) -> Iterator[str]:
        for image_id in image_ids:
            if self._stopped.is_set():
                return
            yield image_id


def _held(held: HeldInstance) -> Held:
    return Held(held.held_id, held.node, held.received_at, held.hints, held.study)


def _caller(name: str) -> Caller:
    """A node as the log names it; it has no session."""
    return Caller(name, Role.NODE, name)


def _refusal(node: Node | None, address: str, certificate: str) -> str:
    """Why this node may not associate; empty where it may."""
    if node is None:
        return "unknown-node"
    if not node.calls_from(address):
        return "unknown-address"
    if node.certificate and node.certificate != certificate:
        return "unknown-certificate"
    return ""
