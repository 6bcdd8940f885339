"""Instances on their way to a peer: C-STORE as a user (PS3.4 annex B), bytes as they are stored.

What goes out is the data set of the stored file, not what a library would make of it, so that its
sealed part and its lengths arrive as they are here. Only where a peer does not take the transfer
syntax of the file is it decompressed.
"""

from __future__ import annotations

import hashlib
import io
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import pydicom
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContext, build_context

from engine import TRANSFER_SYNTAXES, Engine, Host, Node, server_certificate

_CONNECT_SECONDS = 15.0
_ANSWER_SECONDS = 60.0
#: For which an association may be silent: a large original is opened and proven meanwhile.
_IDLE_SECONDS = 900.0
_MAXIMUM_PDU = 131_072
_MOST_CONTEXTS = 128
#: Uncompressed syntaxes that every instance can be sent in, the best first.
_PLAIN = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)


class NotTaken(Exception):
    """The peer did not take an instance.

    Args:
        why: For people, in plain words.
        status: DIMSE status of its answer; 0 where it gave none.
        lost: The association is over.
        for_good: It would be refused again: not tried until a person says so.
    """

    def __init__(
        self, why: str, status: int = 0, *, lost: bool = False, for_good: bool = False
    ) -> None:
        super().__init__(why)
        self.why = why
        self.status = status
        self.lost = lost
        self.for_good = for_good or (
            status in (0x0122, 0x0117) or status >> 8 == 0xA9 or status >> 12 == 0xC
        )


@dataclass(frozen=True)
class Outgoing:
    """A file that is to be sent.

    Args:
        body: Its data set, in its transfer syntax.
    """

    sop_class: str
    sop_instance: str
    syntax: str
    body: bytes = field(repr=False)

    @classmethod
    def of(cls, file: bytes) -> Outgoing:
        """What is in a file of PS3.10. Raises ValueError where it has no meta information."""
        if file[128:132] != b"DICM" or file[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
            raise ValueError("the file has no meta information")
        end = 144 + int.from_bytes(file[140:144], "little")
        meta = pydicom.dcmread(io.BytesIO(file[:end])).file_meta
        return cls(
            str(meta.MediaStorageSOPClassUID),
            str(meta.MediaStorageSOPInstanceUID),
            str(meta.TransferSyntaxUID),
            file[end:],
        )


@dataclass(frozen=True)
class Originator:
    """Who asked for an instance that is sent by C-MOVE."""

    title: str
    message_id: int


def associated(engine: Engine, node: Node, kinds: Iterable[tuple[str, str]]) -> Association:
    """An association with a node that receives.

    Args:
        kinds: SOP class and transfer syntax of what is to be sent.

    Raises:
        NotTaken: Why there is none.
    """
    contexts = contexts_for(kinds)
    ae = AE(engine.settings.dicom_title)
    ae.connection_timeout = _CONNECT_SECONDS
    ae.acse_timeout = ae.dimse_timeout = _ANSWER_SECONDS
    ae.network_timeout = _IDLE_SECONDS
    ae.maximum_pdu_size = _MAXIMUM_PDU
    tls: Any = None
    if node.tls:
        tls = (_client_tls(engine), None)
    try:
        assoc = ae.associate(node.host, node.port, contexts, ae_title=node.title, tls_args=tls)
    except (OSError, RuntimeError, ValueError) as err:
        raise NotTaken("No association could be made: check host, port and TLS.") from err
    if assoc.is_established:
        if node.tls and node.certificate and _fingerprint(assoc) != node.certificate:
            assoc.abort()
            raise NotTaken("Its TLS certificate is not the one that was entered for it.")
        return assoc
    if assoc.is_rejected:
        raise NotTaken(
            "It rejected the association. Its administrator has to allow the AE title"
            f" {engine.settings.dicom_title}."
        )
    raise NotTaken("It cannot be reached: check host, port and TLS, and whether it runs.")


def cut(assoc: Association) -> None:
    """End an association at once; whoever waits for an answer over it waits no longer."""
    assoc.abort(block=False)
    assoc.is_established = False  # a peer that stalls does not confirm the end
    assoc.dimse.msg_queue.put((None, None))


def contexts_for(kinds: Iterable[tuple[str, str]]) -> list[PresentationContext]:
    """Presentation contexts for these classes: uncompressed, and each as it is stored.

    Args:
        kinds: SOP class and transfer syntax; an empty syntax is not known yet, and stands for any.
    """
    wanted: dict[tuple[str, str], None] = {}
    kinds = sorted(set(kinds))
    for sop_class, _ in kinds:
        wanted.update({(sop_class, str(syntax)): None for syntax in _PLAIN[:2]})
    for sop_class, syntax in kinds:
        syntaxes = [syntax] if syntax else TRANSFER_SYNTAXES
        wanted.update({(sop_class, one): None for one in syntaxes})
    return [build_context(*one) for one in list(wanted)[:_MOST_CONTEXTS]]


def send(
    assoc: Association,
    fetch: Callable[[bool], bytes],
    sop_class: str,
    syntax: str,
    message_id: int,
    originator: Originator | None = None,
) -> int:
    """Send one instance, and wait for the answer.

    Args:
        fetch: Gives the file, native where it is asked for with True.
        sop_class, syntax: Of the file as it is stored; the syntax empty where only the file says.

    Returns:
        The status of the answer: success or a warning.

    Raises:
        NotTaken: It was refused, or there was no answer.
    """
    if not any(c.abstract_syntax == sop_class and c.as_scu for c in assoc.accepted_contexts):
        raise NotTaken("It takes no images of this kind (SOP class).", for_good=True)
    context = _context(assoc, sop_class, syntax or Outgoing.of(fetch(False)).syntax)
    if context is None:
        raise NotTaken("It takes no coding that the image can be given in.", for_good=True)
    wanted = context.transfer_syntax[0]
    out = Outgoing.of(fetch(bool(syntax) and wanted != syntax))
    if out.syntax != wanted and out.syntax not in _PLAIN:
        out = Outgoing.of(fetch(True))
    body = _in_syntax(out, wanted)
    status = _exchanged(assoc, out, body, context, message_id, originator)
    if status == 0 or status >> 12 == 0xB:
        return status
    raise NotTaken(f"It refused the image with status {status:04X}: {_said(status)}.", status)


def _context(assoc: Association, sop_class: str, syntax: str) -> PresentationContext | None:
    """The accepted context for an instance: its own syntax before uncompressed ones."""
    usable = {
        str(c.transfer_syntax[0]): c
        for c in assoc.accepted_contexts
        if c.abstract_syntax == sop_class and c.as_scu
    }
    return next((usable[s] for s in (syntax, *_PLAIN) if s in usable), None)


def _in_syntax(out: Outgoing, wanted: Any) -> bytes:
    """The data set in an uncompressed syntax."""
    if out.syntax == wanted:
        return out.body
    plain = io.BytesIO(out.body)
    data_set = pydicom.filereader.read_dataset(plain, False, True)
    made = encode(data_set, wanted.is_implicit_VR, wanted.is_little_endian, wanted.is_deflated)
    if made is None:
        raise NotTaken("The image cannot be written in a transfer syntax that it takes.")
    return made


def _exchanged(
    assoc: Association,
    out: Outgoing,
    body: bytes,
    context: PresentationContext,
    message_id: int,
    originator: Originator | None,
) -> int:
    """One C-STORE over a context; its status. As pynetdicom's own, with bytes for a data set."""
    request = C_STORE()
    request.MessageID = message_id
    request.AffectedSOPClassUID = out.sop_class
    request.AffectedSOPInstanceUID = out.sop_instance
    request.Priority = 2
    if originator is not None:
        request.MoveOriginatorApplicationEntityTitle = originator.title
        request.MoveOriginatorMessageID = originator.message_id
    request.DataSet = io.BytesIO(body)
    # The association's own thread must not read the answer.
    assoc._reactor_checkpoint.clear()
    try:
        while not assoc._is_paused:
            time.sleep(0.0001)
        if not assoc.is_established:
            raise NotTaken("The association ended.", lost=True)
        assoc.dimse.send_msg(request, cast(int, context.context_id))
        _, answer = assoc.dimse.get_msg(block=True)
    finally:
        assoc._reactor_checkpoint.set()
    if not isinstance(answer, C_STORE) or answer.MessageIDBeingRespondedTo != message_id:
        if assoc.is_established:
            assoc.abort()
        raise NotTaken("It gave no answer in time, or cut the connection.", lost=True)
    return int(answer.Status or 0)


def _said(status: int) -> str:
    """A status of PS3.4 table B.2-1 and PS3.7 annex C in plain words."""
    if status >> 8 == 0xA7:
        return "it has no room or memory left"
    if status >> 8 == 0xA9:
        return "the image does not match what it expects"
    if status >> 12 == 0xC:
        return "it cannot read the image"
    return {
        0x0124: "it does not allow this server to send",
        0x0122: "it takes no images of this kind",
        0x0110: "it failed inside",
    }.get(status, "see its own log")


def _client_tls(engine: Engine) -> ssl.SSLContext:
    """This server's certificate as a client's. Raises NotTaken."""
    settings = engine.settings
    if settings.dicom_ca is None:
        raise NotTaken("It is called over TLS, but MEDSEC_DICOM_CA names no authority.")
    own = server_certificate(settings, Host(settings.data / "blobs"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Devices have certificates of the hospital's authority, seldom of their address; whoever
    # wants one device alone enters its fingerprint.
    context.check_hostname = False
    context.load_verify_locations(settings.dicom_ca)
    context.load_cert_chain(own.path, own.key)
    return context


def _fingerprint(assoc: Association) -> str:
    """SHA-256 of the peer's certificate in hex."""
    connection: Any = getattr(assoc.dul.socket, "socket", None)
    return hashlib.sha256(connection.getpeercert(binary_form=True) or b"").hexdigest()
