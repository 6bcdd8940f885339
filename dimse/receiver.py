"""The server of associations: C-ECHO, and C-STORE into the engine's reception (PS3.4 A and B).

Queries and retrievals go to :mod:`dimse.retrieving`.

A success is answered when the engine has stored the draft, never before. Refusals have the statuses
of PS3.4 table B.2-1 and PS3.7 annex C, with the name of the error as comment.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import encode_file_meta
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import register_uid

from dimse import retrieving, sending
from dimse.bounded import MOST_CONNECTIONS, Body, BoundedServer, Budget
from dimse.identifiers import PATIENT_ROOT, STUDY_ROOT
from engine import (
    TRANSFER_SYNTAXES,
    Engine,
    Host,
    Instance,
    begin_request,
    come_from,
    errors,
    server_certificate,
    trouble,
)

ASSOCIATIONS = 20
QUERYING = {**STUDY_ROOT, **PATIENT_ROOT}
VERIFICATION = "1.2.840.10008.1.1"
SUCCESS = 0x0000
NOT_AUTHORISED = 0x0124
PROCESSING_FAILURE = 0x0110
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
_MAXIMUM_PDU = 131_072
_REJECTED, _REJECTED_FOR_NOW = 1, 2
_MB = 1024 * 1024
#: Of those that a peer offers for one context, the first is taken: with explicit VR, elements that
#: one of both does not know keep their type.
_EXPLICIT = "1.2.840.10008.1.2.1"
_PREFERRED = sorted(TRANSFER_SYNTAXES, key=lambda syntax: (syntax != _EXPLICIT, syntax))
#: Classes with pixels whose names do not say "image".
_WITH_PIXELS = ("Segmentation Storage", "Parametric Map Storage", "RT Dose Storage")
#: Reports and key objects, presentation states, encapsulated documents: they are sealed whole.
_DOCUMENTS = tuple(f"1.2.840.10008.5.1.4.1.1.{root}." for root in ("11", "88", "104"))
#: Retired classes that old devices still send: ultrasound and nuclear medicine.
_RETIRED = {
    "1.2.840.10008.5.1.4.1.1.3": "UltrasoundMultiframeImageStorageRetired",
    "1.2.840.10008.5.1.4.1.1.5": "NuclearMedicineImageStorageRetired",
    "1.2.840.10008.5.1.4.1.1.6": "UltrasoundImageStorageRetired",
}
log = logging.getLogger("medsec")
# pynetdicom quotes what peers send: nobody may read that in a log.
logging.getLogger("pynetdicom").addHandler(logging.NullHandler())
logging.getLogger("pynetdicom").propagate = False


def storage_classes() -> list[str]:
    """UIDs of the storage classes that are taken: those of images, and of documents of a study."""
    known = [context.abstract_syntax for context in AllStoragePresentationContexts]
    named = [
        str(uid)
        for uid in known
        if uid is not None
        and ("Image" in uid.name or uid.name in _WITH_PIXELS or str(uid).startswith(_DOCUMENTS))
    ]
    return [*named, *_RETIRED]


class Receiver:
    """Listens for peers, from :meth:`start` to :meth:`stop`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tokens: dict[Association, str] = {}
        self._targets: set[Association] = set()
        self._lock = threading.Lock()
        self._server: BoundedServer | None = None

    @property
    def port(self) -> int:
        """Where it listens; 0 where it does not."""
        return 0 if self._server is None else int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to listen, unless the settings turn it off.

        Raises:
            SettingsError: The port is taken, or the certificates cannot be used.
        """
        settings = self._engine.settings
        if not settings.dicom_port:
            return
        for uid, keyword in _RETIRED.items():
            register_uid(uid, keyword, StorageServiceClass)
        ae = AE(settings.dicom_title)
        ae.maximum_associations = MOST_CONNECTIONS  # it counts those that are not admitted too
        ae.maximum_pdu_size = _MAXIMUM_PDU
        ae.require_called_aet = True
        ae.add_supported_context(VERIFICATION)
        for uid in storage_classes():  # of a C-GET, the peer is the provider
            ae.add_supported_context(uid, _PREFERRED, scu_role=True, scp_role=True)
        for uid in QUERYING:
            ae.add_supported_context(uid)
        try:
            server: Any = ae.make_server(
                (settings.dicom_host, settings.dicom_port),
                ssl_context=self._tls(),
                evt_handlers=[
                    (evt.EVT_REQUESTED, self._requested),
                    (evt.EVT_C_STORE, self._stored),
                    (evt.EVT_C_FIND, self._found),
                    (evt.EVT_RELEASED, self._over),
                    (evt.EVT_ABORTED, self._over),
                    (evt.EVT_REJECTED, self._over),
                    (evt.EVT_CONN_CLOSE, self._over),
                ],
                server_class=BoundedServer,
                budget=Budget(settings.dicom_memory_mb * _MB, self._engine.limits.dicom_bytes),
                retrieve=self._retrieve,
            )
        except OSError as err:
            raise errors.SettingsError(
                "DICOM cannot be received: the port is taken, or a certificate cannot be used."
                " Check MEDSEC_DICOM_PORT, MEDSEC_DICOM_HOST and MEDSEC_DICOM_CA."
            ) from err
        ae._servers.append(server)  # as pynetdicom does for its own; its shutdown takes it out
        self._server = server
        threading.Thread(target=server.serve_forever, name="dicom", daemon=True).start()

    def stop(self) -> None:
        """Listen no longer, and end every association."""
        if self._server is None:
            return
        open_now = self._server.active_associations
        # Without an event the thread looks only twice a second whether to end.
        with contextlib.suppress(OSError):
            self._server.socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
        self._server.shutdown()
        for assoc in open_now:
            assoc.abort()
        for target in list(self._targets):  # a retrieval waits for its answer
            sending.cut(target)
        self._server = None

    def _tls(self) -> ssl.SSLContext | None:
        settings = self._engine.settings
        if settings.dicom_ca is None:
            return None
        own = server_certificate(settings, Host(settings.data / "blobs"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(settings.dicom_ca)
        context.load_cert_chain(own.path, own.key)
        return context

    def _requested(self, event: evt.Event) -> None:
        """May this peer associate? Asked before anything else is negotiated."""
        assoc = event.assoc
        request: Any = assoc.requestor.primitive
        title = str(request.calling_ae_title or "").strip()
        address = str(assoc.requestor.address or "")
        begin_request()
        come_from(address)
        if len(self._tokens) >= ASSOCIATIONS:
            self._reject(assoc, _REJECTED_FOR_NOW, 3, 2)  # local limit exceeded
            return
        try:
            token = self._engine.reception.admit(title, address, _certificate(assoc))
        except errors.AccessError:
            self._reject(assoc, _REJECTED, 1, 3)  # calling AE title not recognised
        except Exception as err:  # noqa: BLE001 - whatever it is, this peer stays out for now
            trouble("an association could not be admitted", err)
            self._reject(assoc, _REJECTED_FOR_NOW, 3, 1)  # temporary congestion
        else:
            with self._lock:
                self._tokens[assoc] = token
            if not self._engine.queries.allowed(token):
                offered = assoc.acceptor.supported_contexts
                assoc.acceptor.supported_contexts = [
                    c for c in offered if c.abstract_syntax not in QUERYING
                ]

    def _reject(self, assoc: Association, result: int, source: int, reason: int) -> None:
        """Reject an association as PS3.8 table 9-21 says."""
        assoc.acse.send_reject(result, source, reason)
        assoc.is_rejected = True
        assoc.kill()

    def _over(self, event: evt.Event) -> None:
        with self._lock:
            token = self._tokens.pop(event.assoc, "")
        self._engine.reception.leave(token)

    def _found(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        return retrieving.find(self._engine, self._token(event.assoc), event)

    def _retrieve(self, assoc: Association, request: Any, context: PresentationContext) -> None:
        token = self._token(assoc)
        retrieving.Retrieval(self._engine, token, assoc, request, context, self._targets).run()

    def _token(self, assoc: Association) -> str:
        return self._tokens.get(assoc, "")

    def _stored(self, event: evt.Event) -> Dataset:
        """One instance: its status, when it is stored durably or refused."""
        begin_request()
        come_from(str(event.assoc.requestor.address or ""))
        request: Any = event.request
        body: Body = request.DataSet
        try:
            if body.no_room:
                return _status(OUT_OF_RESOURCES, "out-of-resources")
            if body.too_large:
                return _status(CANNOT_UNDERSTAND, errors.ImageTooLarge.code)
            self._engine.reception.receive(self._token(event.assoc), _instance(event, body))
            return _status(SUCCESS)
        except errors.WrongInstance as err:
            return _status(DOES_NOT_MATCH, err.code)
        except errors.InputError as err:
            return _status(CANNOT_UNDERSTAND, err.code)
        except errors.AccessError as err:
            return _status(NOT_AUTHORISED, err.code)
        except (errors.StorageError, errors.MachineOverloaded) as err:
            log.warning("an instance was refused: %s", err.code)
            return _status(OUT_OF_RESOURCES, err.code)
        except Exception as err:  # noqa: BLE001 - the peer gets an answer whatever happens
            return _status(PROCESSING_FAILURE, trouble("an instance was not stored", err).code)
        finally:
            body.release()


def _instance(event: evt.Event, body: Body) -> Instance:
    """The file of an instance as this association transferred it."""
    head = b"".join((b"\0" * 128, b"DICM", encode_file_meta(event.file_meta)))
    with body.getbuffer() as data:
        whole = b"".join((head, data))
    request: Any = event.request
    return Instance(str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID), whole)


def _status(code: int, comment: str = "") -> Dataset:
    status = Dataset()
    status.Status = code
    if comment:
        status.ErrorComment = comment[:64]
    return status


def _certificate(assoc: Association) -> str:
    """SHA-256 of the peer's TLS certificate in hex; empty without TLS."""
    connection: Any = getattr(assoc.dul.socket, "socket", None)
    if not isinstance(connection, ssl.SSLSocket):
        return ""
    return hashlib.sha256(connection.getpeercert(binary_form=True) or b"").hexdigest()
