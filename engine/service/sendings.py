"""What goes to nodes of the network: the queue, its rules, and the work in the background.

Masked images go by rules when they are sealed, or when a person forwards one. An original goes only
when a person who may restore it asks for that, under a reason, and only to a node that may have
originals. Whether both is still so is asked again when it is sent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from engine.errors import EngineError, InputError, NotFound, PermissionDenied
from engine.formats import images
from engine.operations.context import Context
from engine.operations.forwarding import Forwarding
from engine.operations.guard import Guard, log, needs
from engine.operations.masked_objects import MaskedObjects
from engine.operations.recipient_copies import Recipient, RecipientCopies
from engine.operations.restorations import Restorations
from engine.operations.stored_images import StoredImages
from engine.permissions import Permission, Role, allowed
from engine.records import Caller
from engine.store.audit import Event
from engine.store.database import Cursor
from engine.store.nodes import Node
from engine.store.sendings import ForwardRule, ForwardRuleEntry, Sending, SendingState
from engine.tracing import unexpected
from engine.vault import derive

#: Sent over one association.
_AT_ONCE = 100
#: Destinations at the same time: one that stalls must not keep the others waiting.
_DESTINATIONS = 4
_TICK_SECONDS = 5.0
_STOP_SECONDS = 3.0
_SYSTEM = Caller("system", Role.OPERATOR, "", "forwarding")


@dataclass(frozen=True)
class Parcel:
    """An object that is to be sent now.

    Args:
        syntax: Transfer syntax in which it is stored; empty where that is known when it is fetched.
        fetch: Gives the file, in Explicit VR Little Endian where it is called with True.
    """

    sending: Sending
    sop_class: str
    syntax: str
    fetch: Callable[[bool], bytes] = field(repr=False)


#: Told what became of a parcel: why it was not taken, or nothing, and whether to try again.
Report = Callable[[Parcel, str, bool], None]
#: Sends parcels to a node; answers why those that were not reported could not be tried.
Deliver = Callable[[Node, Sequence[Parcel], Report], str]


class Stopped(Exception):
    """The server ends: nothing more is sent."""


class Sendings:
    """The queue of what goes out."""

    def __init__(
        self,
        context: Context,
        guard: Guard,
        stored: StoredImages,
        restorations: Restorations,
        objects: MaskedObjects,
        forwarding: Forwarding,
    ) -> None:
        self._accounts = context.accounts
        self._audit = context.audit
        self._catalog = context.catalog
        self._database = context.database
        self._host = context.host
        self._nodes = context.nodes
        self._rows = context.sendings
        self._rules = context.forward_rules
        self._studies = context.studies
        self._copies = RecipientCopies(context, stored)
        self._recipients = context.recipients
        self._renaming_key = derive(context.hierarchy.system_key("network"), "recipients")
        self._forwarding = forwarding
        self._guard = guard
        self._objects = objects
        self._restorations = restorations
        self._stored = stored
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    # --- rules ------------------------------------------------------------------------------------

    @needs(Permission.MANAGE_SETTINGS)
    def rules(self, caller: Caller) -> dict[str, ForwardRuleEntry]:
        """Rules by name. Raises SealBroken where one was altered, removed or set back."""
        return self._rules.all()

    @needs(Permission.MANAGE_SETTINGS)
    def save_rule(self, caller: Caller, name: str, values: Mapping[str, Any]) -> ForwardRule:
        """Add a rule, or replace what it says. It counts for what is sealed from now on.

        Args:
            values: Of :class:`ForwardRule` by name; what is missing is its default.

        Raises:
            InputError: A value is not valid, or a node of it does not receive.
        """
        rule = ForwardRule.checked(name, values)
        for title in rule.to:
            self._destination(title)
        with self._database.write() as tx:
            self._rules.save(tx, self._audit, caller, rule)
        self._rules.forget()
        return rule

    @needs(Permission.MANAGE_SETTINGS)
    def remove_rule(self, caller: Caller, name: str) -> None:
        """Take a rule away; what it has queued goes on. Raises NotFound."""
        with self._database.write() as tx:
            self._rules.remove(tx, self._audit, caller, name)
        self._rules.forget()

    # --- the queue --------------------------------------------------------------------------------

    @needs(Permission.MANAGE_SETTINGS)
    def entries(
        self,
        caller: Caller,
        state: str = "",
        destination: str = "",
        limit: int = 50,
        offset: int = 0,
    ) -> list[Sending]:
        """Entries of a state and a destination, empty for any; the newest change first."""
        return self._rows.all(self._database.read(), state, destination, limit, offset)

    @needs(Permission.MANAGE_SETTINGS)
    def counts(self, caller: Caller) -> dict[tuple[str, str], int]:
        """How many entries there are, by destination and state."""
        return self._rows.counts(self._database.read())

    @needs(Permission.MANAGE_SETTINGS)
    def retry(self, caller: Caller, sending_id: str) -> None:
        """Try an entry now, whether it waits or failed. Raises NotFound, InputError."""
        self._change(caller, sending_id, SendingState.WAITING, "sending.retry")
        self._forwarding.queued.set()

    @needs(Permission.MANAGE_SETTINGS)
    def cancel(self, caller: Caller, sending_id: str) -> None:
        """Send an entry no more. Raises NotFound, InputError where it was sent."""
        self._change(caller, sending_id, SendingState.CANCELLED, "sending.cancel")

    def _change(self, caller: Caller, sending_id: str, state: SendingState, action: str) -> None:
        with self._database.write() as tx:
            sending = self._rows.get(tx, sending_id)
            if sending.state not in (SendingState.WAITING, SendingState.FAILED):
                raise InputError(f"This entry is {sending.state} already.")
            self._rows.move(tx, sending_id, state)
            detail = {"to": sending.destination, "sending": sending_id}
            changed = Event(action, image_id=sending.image_id, detail=detail)
            self._audit.append(tx, caller, changed)

    # --- by a person ------------------------------------------------------------------------------

    @needs(Permission.EXPORT)
    def destinations(self, caller: Caller) -> dict[str, bool]:
        """Nodes that receive, and whether they may have originals."""
        nodes = [entry.node for entry in self._nodes.all().values()]
        return {n.title: n.originals for n in nodes if n.receives}

    @needs(Permission.EXPORT)
    def forward(self, caller: Caller, image_id: str, destination: str) -> None:
        """Send a masked image to a node.

        Raises:
            InputError: It is not DICOM, or the node does not receive.
            NotFound: No such released image.
        """
        self._stored.released(self._database.read(), image_id)
        self._destination(destination)
        self._request(caller, [image_id], destination, original=False, reason="")

    @needs(Permission.RESTORE, fresh=True)
    def send_original(self, caller: Caller, image_id: str, destination: str, reason: str) -> None:
        """Send an original to a node that may have originals.

        The log has ``requested`` before anything is queued; what happens then is logged like a
        restoration.

        Raises:
            InputError: No reason, not DICOM, or the node may not have originals.
            NotFound: No such released image.
        """
        self._original(caller, [image_id], destination, reason)

    @needs(Permission.RESTORE, fresh=True)
    def send_original_study(
        self, caller: Caller, study_id: str, destination: str, reason: str
    ) -> None:
        """Send the originals of a study under one request. Raises as :meth:`send_original`."""
        placed = self._studies.released(self._database.read(), None, study_id)
        if not placed:
            raise NotFound("There is no such study.")
        self._original(caller, [place.image_id for place in placed], destination, reason)

    def _original(
        self, caller: Caller, image_ids: Sequence[str], destination: str, reason: str
    ) -> None:
        if not reason.strip():
            raise InputError("Give a reason for sending the original.")
        row = self._stored.released(self._database.read(), image_ids[0])
        if not self._destination(destination).originals:
            why = {"why": "node-may-not-have-originals", "to": destination}
            refused = Event("image.send", "refused", patient_id=row.patient_id, detail=why)
            self._audit.record(caller, refused)
            raise InputError("This node may not have originals.")
        self._request(caller, image_ids, destination, original=True, reason=reason.strip())

    def _request(
        self,
        caller: Caller,
        image_ids: Sequence[str],
        destination: str,
        *,
        original: bool,
        reason: str,
    ) -> None:
        """One ``requested`` in the log, and a row of the queue for each image."""
        request = self._host.token("rq")
        with self._database.write() as tx:
            rows = [self._stored.released(tx, image_id) for image_id in image_ids]
            if any(row.format != "DICOM" for row in rows):
                raise InputError("Only DICOM images can be sent to a node.")
            detail = {
                "cause": request,
                "to": destination,
                "original": original,
                "images": list(image_ids),
            }
            requested = Event(
                "image.send",
                "requested",
                patient_id=rows[0].patient_id,
                image_id=image_ids[0] if len(image_ids) == 1 else "",
                reason=reason,
                detail=detail,
            )
            self._audit.append(tx, caller, requested)
            for image_id in image_ids:
                self._rows.add(
                    tx, image_id, destination, original=original, cause=request, by=caller.username
                )
        self._forwarding.queued.set()

    def _destination(self, title: str) -> Node:
        node = self._nodes.get(title)
        if node is None or not node.receives:
            raise InputError("This node does not receive images. See Admin, tab Network.")
        return node

    # --- in the background ------------------------------------------------------------------------

    def start(self, deliver: Deliver) -> None:
        """Send what is due in the background, until :meth:`stop`."""
        self._thread = threading.Thread(
            target=self._send_forever, args=(deliver,), name="sendings", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Begin no more; what is under way is cut off, and sent again after the next start."""
        self._stopped.set()
        self._forwarding.queued.set()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)

    def _send_forever(self, deliver: Deliver) -> None:
        busy: set[str] = set()
        with ThreadPoolExecutor(_DESTINATIONS, "sending") as pool:
            while not self._stopped.is_set():
                self._forwarding.queued.wait(_TICK_SECONDS)
                self._forwarding.queued.clear()
                if self._stopped.is_set():
                    return
                if not self._database.leads:  # another server sends
                    continue
                try:
                    waiting = self._rows.destinations_due(self._database.read())
                except EngineError as err:
                    log.warning("what is to be sent could not be read: %s", err.code)
                    continue
                for title in waiting:
                    if title not in busy:
                        busy.add(title)
                        pool.submit(self._one, title, deliver, busy)

    def _one(self, title: str, deliver: Deliver, busy: set[str]) -> None:
        try:
            with self._database.as_leader():
                while not self._stopped.is_set() and self.send_due(title, deliver):
                    pass
        except Stopped:
            pass
        except Exception as err:  # noqa: BLE001 - the next round tries again
            unexpected("sending to a node failed", err)
        finally:
            busy.discard(title)

    def send_due(self, title: str, deliver: Deliver) -> int:
        """Send what is due for a destination now.

        Returns:
            How many were sent; 0 also where none could be.
        """
        due = self._rows.due(self._database.read(), title, _AT_ONCE)
        node = self._nodes.get(title)
        if node is None or not node.receives:
            self._later(due, "The node does not receive images. See Admin, tab Network.")
            return 0
        parcels = [p for sending in due if (p := self._parcel(sending, node)) is not None]
        reported: set[str] = set()
        sent = 0

        def report(parcel: Parcel, error: str, again: bool) -> None:
            nonlocal sent
            reported.add(parcel.sending.sending_id)
            sent += not error
            self._report(parcel.sending, error, again)
            if self._stopped.is_set():
                raise Stopped

        if parcels:
            why = deliver(node, parcels, report)
            self._later([p.sending for p in parcels if p.sending.sending_id not in reported], why)
        return sent

    def _parcel(self, sending: Sending, node: Node) -> Parcel | None:
        """What is to be sent; None where it may not be any more, which is told and logged."""
        try:
            masked = self._objects.one(sending.image_id)
        except NotFound:
            self._end(sending, SendingState.CANCELLED, "The image is not released any more.")
            return None
        except EngineError as err:
            self._later([sending], err.message)
            return None
        sop_class = masked.uid("00080016")
        if not sending.original:

            def fetch(native: bool) -> bytes:
                return self._masked_file(sending.image_id, node, native)

            return Parcel(sending, sop_class, masked.syntax, fetch)
        try:
            caller = self._person(sending, node)
        except PermissionDenied as err:
            self._end(sending, SendingState.FAILED, err.message)
            return None
        return Parcel(sending, sop_class, "", self._opening(sending, caller))

    def _masked_file(self, image_id: str, node: Node, native: bool) -> bytes:
        if node.deidentification:
            profile = self._recipients.profile(node.deidentification)
            row = self._stored.verified(image_id)
            copy = self._copies.copy(row, Recipient(node.title, profile)).data
            return images.uncompressed(copy) if native else copy
        if not node.renames and not node.packages:
            return self._objects.file(image_id, native)
        data = self._objects.file(image_id, False)
        if node.packages:
            data = images.carry(data, self._stored.package(image_id)[1])
        else:
            data = images.renamed(data, derive(self._renaming_key, node.title))
        return images.uncompressed(data) if native else data

    def _opening(self, sending: Sending, caller: Caller) -> Callable[[bool], bytes]:
        """Opens the original when the node is there to take it, and once only."""
        kept: list[bytes] = []

        def fetch(native: bool) -> bytes:
            if not kept:
                kept.append(self._restorations.once(caller, sending.image_id, sending.cause)[0])
            return images.uncompressed(kept[0]) if native else kept[0]

        return fetch

    def _person(self, sending: Sending, node: Node) -> Caller:
        """Who asked for an original, if that may still be. Raises PermissionDenied."""
        tx = self._database.read()
        if not node.originals:
            raise PermissionDenied("This node may not have originals.")
        try:
            account = self._accounts.get(tx, sending.queued_by)
        except NotFound as err:
            raise PermissionDenied("The account that asked for it does not exist.") from err
        caller = Caller(account.username, account.role, "", "sending")
        row = self._stored.released(tx, sending.image_id)
        if (
            not account.enabled
            or not allowed(account.role, Permission.RESTORE)
            or not self._guard.sees(caller, row.patient_id)
        ):
            raise PermissionDenied("The account that asked for it may not restore it any more.")
        if not self._rows.requested(tx, sending):
            raise PermissionDenied("The log has no request for it.")
        return caller

    def _report(self, sending: Sending, error: str, again: bool) -> None:
        if not error:
            self._end(sending, SendingState.SENT, "")
        elif again:
            self._later([sending], error)
        else:
            self._end(sending, SendingState.FAILED, error)

    def _later(self, sendings: Sequence[Sending], error: str) -> None:
        if not sendings:
            return
        with self._database.write() as tx:
            for given_up in self._rows.later(tx, sendings, error):
                self._log(tx, given_up, SendingState.FAILED)

    def _end(self, sending: Sending, state: SendingState, error: str) -> None:
        with self._database.write() as tx:
            if self._rows.get(tx, sending.sending_id).state != SendingState.WAITING:
                return  # cancelled while it was under way
            self._rows.move(tx, sending.sending_id, state, error)
            self._log(tx, sending, state)

    def _asker(self, tx: Cursor, sending: Sending) -> Caller:
        """Under whose name it is in the log."""
        try:
            account = self._accounts.get(tx, sending.queued_by)
        except NotFound:  # a rule, or the operator
            return _SYSTEM
        return Caller(account.username, account.role, "", "sending")

    def _log(self, tx: Cursor, sending: Sending, state: SendingState) -> None:
        outcome = {SendingState.SENT: "ok", SendingState.CANCELLED: "refused"}.get(state, "failed")
        caller = self._asker(tx, sending)
        detail = {"to": sending.destination, "original": sending.original, "cause": sending.cause}
        patient_id = self._catalog.patient_of(tx, sending.image_id) or ""
        event = Event(
            "image.send", outcome, patient_id=patient_id, image_id=sending.image_id, detail=detail
        )
        self._audit.append(tx, caller, event)
