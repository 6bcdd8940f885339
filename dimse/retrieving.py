"""C-FIND, C-GET and C-MOVE as a provider (PS3.4 annex C), over masked objects.

pynetdicom's own loops of C-GET and C-MOVE encode each data set anew and cannot choose between
transfer syntaxes once a destination has answered; these send the stored bytes.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Any, cast

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_GET, C_MOVE
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContext

from dimse import identifiers, sending
from dimse.identifiers import BadIdentifier
from dimse.sending import NotTaken, Originator
from engine import Engine, MaskedObject, begin_request, come_from, errors, trouble

SUCCESS, PENDING, PENDING_NOT_ALL, CANCELLED = 0x0000, 0xFF00, 0xFF01, 0xFE00
SOME_FAILED = 0xB000
NOT_AUTHORISED = 0x0124
OUT_OF_RESOURCES, NOTHING_SENT = 0xA700, 0xA702
UNKNOWN_DESTINATION, DOES_NOT_MATCH = 0xA801, 0xA900
UNABLE = 0xC000
_SYNTAX = "00080016"
log = logging.getLogger("medsec")


def status_of(err: Exception) -> int:
    """The status that an error has in an answer to a query or a retrieval."""
    if isinstance(err, BadIdentifier | errors.InputError):
        return DOES_NOT_MATCH
    if isinstance(err, errors.AccessError):
        return NOT_AUTHORISED
    if isinstance(err, errors.NotFound):
        return UNKNOWN_DESTINATION
    if isinstance(err, errors.StorageError | errors.MachineOverloaded):
        log.warning("a query was refused: %s", err.code)
        return OUT_OF_RESOURCES
    trouble("a query failed", err)
    return UNABLE


def find(engine: Engine, token: str, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
    """Answers to a C-FIND: each match as it is found, until the peer has enough."""
    _begin(event.assoc)
    request: Any = event.request
    context = event.assoc._accepted_cx[event.context.context_id]
    try:
        asked = identifiers.query(request.Identifier, context)
        pending = PENDING if asked.whole else PENDING_NOT_ALL
        for said in engine.queries.find(token, asked.level, asked.keys):
            if event.is_cancelled:
                yield CANCELLED, None
                return
            yield pending, identifiers.answer(said, asked, engine.settings.dicom_title)
    except Exception as err:  # noqa: BLE001 - the peer gets an answer whatever happens
        yield status_of(err), None
    else:
        yield SUCCESS, None


class Retrieval:
    """One C-GET or C-MOVE, and what has become of its sub-operations."""

    def __init__(
        self, engine: Engine, token: str, assoc: Association, request: Any,
        context: PresentationContext, targets: set[Association],
    ) -> None:  # fmt: skip
        self._engine = engine
        #: Associations with destinations, for who ends the server.
        self._targets = targets
        self._token = token
        self._assoc = assoc
        self._request = request
        self._context = context
        self._left = self._completed = self._warned = 0
        self._failed: list[str] = []

    def run(self) -> None:
        """Send what is asked for, and every answer."""
        _begin(self._assoc)
        try:
            asked = identifiers.query(self._request.Identifier, self._context)
            destination = None
            if isinstance(self._request, C_MOVE):
                title = str(self._request.MoveDestination or "").strip()
                destination = self._engine.queries.destination(self._token, title)
            found = self._engine.queries.select(self._token, asked.level, asked.keys)
            self._left = len(found)
            status = self._moved(found, destination) if destination else self._got(found)
        except Exception as err:  # noqa: BLE001 - the peer gets an answer whatever happens
            status = status_of(err)
        if self._assoc.is_established:
            self._respond(status)

    def _got(self, found: list[MaskedObject]) -> int:
        return self._sent(self._assoc, found, "")

    def _moved(self, found: list[MaskedObject], destination: Any) -> int:
        if not found:
            return SUCCESS
        kinds = [(one.uid(_SYNTAX), one.syntax) for one in found]
        try:
            target = sending.associated(self._engine, destination, kinds)
        except NotTaken as err:
            log.warning("a node could not be reached for a C-MOVE: %s", err.why)
            self._failed = [one.uid("00080018") for one in found]
            self._left = 0
            return NOTHING_SENT
        self._targets.add(target)
        try:
            return self._sent(target, found, destination.title)
        finally:
            self._targets.discard(target)
            if target.is_established:
                target.release()

    def _sent(self, target: Association, found: list[MaskedObject], to: str) -> int:
        """Send every object; the final status."""
        for number, one in enumerate(found):
            if not self._assoc.is_established:
                return NOTHING_SENT
            if self._request.MessageID in self._assoc.dimse.cancel_req:
                return CANCELLED
            try:
                self._completed += not self._one(target, one, number, to)
            except NotTaken as err:
                log.info("an object of a retrieval was not sent: %s", err.why)
                self._failed.append(one.uid("00080018"))
            except errors.EngineError as err:
                log.warning("an object of a retrieval was not sent: %s", err.code)
                self._failed.append(one.uid("00080018"))
            self._left -= 1
            if self._left:
                self._respond(PENDING)
        if len(self._failed) == len(found) and found:
            return NOTHING_SENT
        return SOME_FAILED if self._failed or self._warned else SUCCESS

    def _one(self, target: Association, one: MaskedObject, number: int, to: str) -> int:
        """Send an object; its status, which may be a warning. Raises NotTaken, EngineError."""
        asked = int(self._request.MessageID)
        originator = None
        if to:
            originator = Originator(str(self._assoc.requestor.ae_title).strip(), asked)
        status = sending.send(
            target,
            lambda native: self._engine.queries.fetch(self._token, one, native, to),
            one.uid(_SYNTAX),
            one.syntax,
            (asked + number) % 0xFFFF + 1,
            originator,
        )
        self._warned += bool(status)
        return status

    def _respond(self, status: int) -> None:
        answer: Any = C_MOVE() if isinstance(self._request, C_MOVE) else C_GET()
        answer.MessageID = self._request.MessageID
        answer.MessageIDBeingRespondedTo = self._request.MessageID
        answer.AffectedSOPClassUID = self._request.AffectedSOPClassUID
        answer.Status = status
        if status in (PENDING, CANCELLED):
            answer.NumberOfRemainingSuboperations = self._left
        if status in (PENDING, CANCELLED, SUCCESS, SOME_FAILED, NOTHING_SENT):
            answer.NumberOfCompletedSuboperations = self._completed
            answer.NumberOfFailedSuboperations = len(self._failed)
            answer.NumberOfWarningSuboperations = self._warned
        if status in (CANCELLED, SOME_FAILED, NOTHING_SENT):
            syntax: Any = self._context.transfer_syntax[0]
            said = encode(
                identifiers.failed(self._failed),
                syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated,
            )  # fmt: skip
            answer.Identifier = io.BytesIO(said or b"")
        self._assoc.dimse.send_msg(answer, cast(int, self._context.context_id))


def _begin(assoc: Association) -> None:
    begin_request()
    come_from(str(assoc.requestor.address or ""))
