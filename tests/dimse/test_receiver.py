"""C-ECHO and C-STORE as peers see them: statuses, limits and cuts; dcmtk is one of the peers."""

from __future__ import annotations

import hashlib
import io
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

import dimse
from dimse import bounded, receiver
from engine import TRANSFER_SYNTAXES, Engine, Host, Settings, errors
from engine.store.turns import Turns
from tests import builders
from tests.conftest import Team, Ward
from tests.dimse.peers import FORGIVES_PYNETDICOM, Line, associated, receiving, send

PIXELS = builders.labelled()[0]
pytestmark = FORGIVES_PYNETDICOM


@pytest.fixture
def ward(ward: Ward) -> Ward:
    said = builders.person(1)
    ward.engine.patients.create(ward.team.technician, said["PatientID"], "Jane Doe")
    values = {"addresses": ["127.0.0.1"]}
    ward.engine.nodes.save(ward.team.administrator, "CT1", values)
    return ward


@pytest.fixture
def port(ward: Ward) -> Iterator[int]:
    with receiving(ward.engine) as listening:
        yield listening.port


def drafts(engine: Engine, team: Team) -> int:
    return len(engine.drafts.waiting(team.technician))


def picture(number: int = 1, **kind: object) -> bytes:
    return builders.dicom(PIXELS, instance=number, **kind)  # type: ignore[arg-type]


def test_it_answers_an_echo_and_stores(ward: Ward, port: int) -> None:
    with associated(port) as assoc:
        assert assoc.send_c_echo().Status == 0
        assert send(assoc, picture()) == 0
        assert drafts(ward.engine, ward.team) == 1
        assert send(assoc, picture()) == 0
    assert drafts(ward.engine, ward.team) == 1


def test_success_is_answered_when_the_draft_is_stored_and_not_before(
    ward: Ward, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: Turns = ward.engine.context.database._turns
    with associated(port) as assoc, ThreadPoolExecutor(1) as peer:
        with turns.take(None):
            answer = peer.submit(send, assoc, picture())
            time.sleep(1)
            assert not answer.done()
        assert answer.result(60) == 0
    assert drafts(ward.engine, ward.team) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.StorageError("The disk is full."), 0xA700),
        (errors.StorageBusy("Busy."), 0xA700),
        (errors.MachineOverloaded("Too little memory."), 0xA700),
        (errors.WrongInstance("Not that."), 0xA900),
        (errors.CorruptImage("Damaged."), 0xC000),
        (errors.PermissionDenied("No."), 0x0124),
        (ValueError("a mistake of the program"), 0x0110),
    ],
)
def test_a_refusal_has_the_status_of_the_standard(
    ward: Ward, port: int, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(ward.engine.reception, "receive", fails)
    with associated(port) as assoc:
        assert send(assoc, picture()) == status
        assert assoc.send_c_echo().Status == 0  # the association goes on


def test_a_full_disk_is_out_of_resources_and_leaves_nothing(
    ward: Ward, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Host, data: bytes) -> str:
        raise errors.StorageError("The disk is full.")

    with monkeypatch.context() as patch, associated(port) as assoc:
        patch.setattr(Host, "write_blob", full)
        assert send(assoc, picture()) == 0xA700
    assert drafts(ward.engine, ward.team) == 0
    with associated(port) as assoc:
        assert send(assoc, picture()) == 0
    assert drafts(ward.engine, ward.team) == 1


def test_a_data_set_of_another_instance_does_not_match(ward: Ward, port: int) -> None:
    data_set = pydicom.dcmread(io.BytesIO(picture()))
    with associated(port) as assoc:
        data_set.file_meta.MediaStorageSOPInstanceUID = builders.uid(9)
        data_set.SOPInstanceUID = builders.uid(9)
        # pynetdicom announces what the data set says, so the announcement is changed on its way
        original = assoc.dimse.send_msg

        def announced(primitive: object, context_id: int) -> None:
            primitive.AffectedSOPInstanceUID = builders.uid(8)  # type: ignore[attr-defined]
            original(primitive, context_id)  # type: ignore[arg-type]

        assoc.dimse.send_msg = announced  # type: ignore[method-assign]
        assert int(assoc.send_c_store(data_set).Status) == 0xA900
    assert drafts(ward.engine, ward.team) == 0


def test_a_damaged_instance_cannot_be_understood(ward: Ward, port: int) -> None:
    with associated(port) as assoc:
        data = builders.dicom(PIXELS, Rows=9999)
        assert send(assoc, data) == 0xC000
    assert drafts(ward.engine, ward.team) == 0


@pytest.mark.parametrize(
    ("title", "called"), [("STRANGER", "MEDSEC"), ("CT1", "OTHER"), ("ct1", "MEDSEC")]
)
def test_a_stranger_is_rejected(ward: Ward, port: int, title: str, called: str) -> None:
    with associated(port, title, called) as assoc:
        assert assoc.is_rejected


def test_a_node_that_is_removed_is_not_authorised_any_more(ward: Ward, port: int) -> None:
    with associated(port) as assoc:
        ward.engine.nodes.remove(ward.team.administrator, "CT1")
        assert send(assoc, picture()) == 0x0124
    assert drafts(ward.engine, ward.team) == 0


def test_every_transfer_syntax_that_is_read_is_negotiated(ward: Ward, port: int) -> None:
    for syntax in TRANSFER_SYNTAXES:
        with associated(port, syntaxes=[syntax]) as assoc:
            accepted = {c.transfer_syntax[0] for c in assoc.accepted_contexts}
            assert syntax in accepted


def test_what_no_memory_is_left_for_is_refused_and_the_next_is_taken(
    ward: Ward, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = builders.dicom(np.zeros((40, 2000, 1024), np.uint8))  # 80 MB, of 64 MiB
    with associated(port) as assoc:
        assert send(assoc, large) == 0xA700
        assert send(assoc, picture()) == 0
    assert drafts(ward.engine, ward.team) == 1


def test_what_is_larger_than_a_file_may_be_is_not_taken(ward: Ward) -> None:
    engine = ward.engine
    engine.context.live.use(replace(engine.settings, dicom_limit_mb=1))
    with receiving(engine) as listening, associated(listening.port) as assoc:
        assert send(assoc, builders.dicom(np.zeros((1100, 1000), np.uint8))) == 0xC000
        assert send(assoc, picture()) == 0


def test_a_budget_gives_back_what_it_took() -> None:
    budget = bounded.Budget(100, 80)
    one, other = bounded.Body(budget), bounded.Body(budget)
    one.write(b"x" * 70)
    other.write(b"y" * 31)
    assert (other.no_room, other.getvalue()) == (True, b"")
    one.release()
    third = bounded.Body(budget)
    third.write(b"z" * 80)
    third.write(b"z")
    assert third.too_large
    assert budget.take(100)
    budget.give(100)
    forgotten = bounded.Body(budget)
    forgotten.write(b"w" * 80)
    del forgotten
    assert budget.take(100)


# --- hostile peers ----------------------------------------------------------------------------


def raw(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


@pytest.mark.parametrize(
    "pdu",
    [
        struct.pack(">BBL", 1, 0, 0xFFFFFFFF),  # four gigabytes are announced
        struct.pack(">BBL", 4, 0, 2 << 20) + b"\0" * 1000,
        b"GET / HTTP/1.1\r\nHost: medsec\r\n\r\n",
        struct.pack(">BBL", 1, 0, 68) + b"\xff" * 68,
        struct.pack(">BBL", 4, 0, 6) + struct.pack(">LBB", 2, 1, 3),  # data before an association
    ],
)
def test_a_peer_that_speaks_nonsense_is_cut_off(
    ward: Ward, port: int, pdu: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "PDU_SECONDS", 2.0)
    with raw(port) as line:
        line.sendall(pdu)
        answer = b""
        while part := line.recv(4096):
            answer += part
    assert answer == b"" or answer[0] in (3, 7)  # A-ASSOCIATE-RJ, A-ABORT
    with associated(port) as assoc:
        assert assoc.send_c_echo().Status == 0


def test_peers_that_say_nothing_keep_nobody_out(
    ward: Ward, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = [raw(port) for _ in range(30)]
    with associated(port) as assoc:
        assert assoc.send_c_echo().Status == 0
    for line in silent:
        line.close()


def test_more_connections_than_there_may_be_are_closed(
    ward: Ward, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "MOST_CONNECTIONS", 3)
    silent = []
    for _ in range(3):
        silent.append(raw(port))
        time.sleep(0.3)
    with raw(port) as one_more:
        assert one_more.recv(1) == b""
    for line in silent:
        line.close()


def test_twenty_associations_at_once_and_the_next_is_told_to_come_again(
    ward: Ward, port: int
) -> None:
    with ThreadPoolExecutor(20) as pool:
        together = threading.Barrier(20)

        def peer(number: int) -> int:
            with associated(port) as assoc:
                together.wait(60)
                return send(assoc, picture(number))

        assert list(pool.map(peer, range(20))) == [0] * 20
    assert drafts(ward.engine, ward.team) == 20


# --- cut lines --------------------------------------------------------------------------------


def test_a_line_that_is_cut_at_any_pdu_loses_nothing_and_leaves_nothing_twice(
    ward: Ward, port: int
) -> None:
    line = Line(port)
    with associated(line.port) as assoc:
        send(assoc, picture(100))
    line.close()
    whole = line.passed
    assert whole >= 6  # request, accept, command, data, response, release
    for cut in range(whole):
        before = drafts(ward.engine, ward.team)
        line = Line(port, cut)
        status = -1
        with associated(line.port) as assoc:
            if assoc.is_established:
                status = send(assoc, picture(cut))
        line.close()
        if status == 0:
            assert drafts(ward.engine, ward.team) == before + 1
        with associated(port) as assoc:
            assert send(assoc, picture(cut)) == 0
        assert drafts(ward.engine, ward.team) == before + 1


# --- dcmtk ------------------------------------------------------------------------------------


def dcmtk(program: str, *options: str) -> subprocess.CompletedProcess[str]:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: dcmtk of Debian has it")
    return subprocess.run(
        [program, *options], capture_output=True, text=True, timeout=300, check=False
    )


def test_dcmtk_verifies(ward: Ward, port: int) -> None:
    call = ("-aet", "CT1", "-aec", "MEDSEC", "127.0.0.1", str(port))
    assert dcmtk("echoscu", *call).returncode == 0
    assert dcmtk("echoscu", *("-aet", "STRANGER"), *call[2:]).returncode != 0


@pytest.mark.parametrize(
    ("syntax", "option"),
    [
        (ExplicitVRLittleEndian, "-xe"),
        (ImplicitVRLittleEndian, "-xi"),
        (ExplicitVRBigEndian, "-xb"),
        (JPEGLosslessSV1, "-xs"),
        (JPEGBaseline8Bit, "-xy"),
        (JPEG2000Lossless, "-xv"),
        (JPEGLSLossless, "-xt"),
        (RLELossless, "-xr"),
    ],
)
def test_dcmtk_sends(ward: Ward, port: int, tmp_path: Path, syntax: str, option: str) -> None:
    for number in range(3):
        (tmp_path / f"{number}.dcm").write_bytes(picture(number, syntax=syntax))
    files = [str(p) for p in sorted(tmp_path.glob("*.dcm"))]
    sent = dcmtk(
        "storescu", "-v", option, "-aet", "CT1", "-aec", "MEDSEC", "127.0.0.1", str(port), *files
    )
    assert sent.returncode == 0, sent.stderr
    assert sent.stderr.count("Success") == 3, sent.stderr
    assert drafts(ward.engine, ward.team) == 3


# --- TLS --------------------------------------------------------------------------------------


def openssl(folder: Path, name: str, issuer: str = "") -> None:
    """A key and a certificate; of an issuer, or its own."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, cert = folder / f"{name}.key", folder / f"{name}.pem"
    by = ["-CA", str(folder / f"{issuer}.pem"), "-CAkey", str(folder / f"{issuer}.key")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-subj", f"/CN={name}", "-days", "2", "-keyout", str(key), "-out", str(cert),
         *(by if issuer else ())],
        check=True, capture_output=True,
    )  # fmt: skip


@pytest.fixture
def certified(ward: Ward, tmp_path: Path) -> Iterator[int]:
    openssl(tmp_path, "ca")
    openssl(tmp_path, "peer", "ca")
    openssl(tmp_path, "stranger")
    live = ward.engine.context.live
    live.use(replace(live.settings, dicom_ca=tmp_path / "ca.pem"))
    with receiving(ward.engine) as listening:
        yield listening.port


def over_tls(port: int, folder: Path, name: str) -> bool:
    """Can a peer with this certificate verify?"""
    own = folder / "keys" / "tls-certificate.pem"
    done = dcmtk(
        "echoscu", "-aet", "CT1", "-aec", "MEDSEC", "+tls", str(folder / f"{name}.key"),
        str(folder / f"{name}.pem"), "+cf", str(own), "127.0.0.1", str(port),
    )  # fmt: skip
    return done.returncode == 0


def test_over_tls_only_certificates_of_the_ca_come_in(
    ward: Ward, certified: int, tmp_path: Path
) -> None:
    assert over_tls(certified, tmp_path, "peer")
    assert not over_tls(certified, tmp_path, "stranger")
    call = ("-aet", "CT1", "-aec", "MEDSEC", "-ta", "10", "-td", "10")
    assert dcmtk("echoscu", *call, "127.0.0.1", str(certified)).returncode != 0


def test_a_node_may_be_bound_to_one_certificate(ward: Ward, certified: int, tmp_path: Path) -> None:
    der = ssl.PEM_cert_to_DER_cert((tmp_path / "peer.pem").read_text())
    values = {"addresses": ["127.0.0.1"], "certificate": hashlib.sha256(der).hexdigest()}
    ward.engine.nodes.save(ward.team.administrator, "CT1", values)
    assert over_tls(certified, tmp_path, "peer")
    ward.engine.nodes.save(ward.team.administrator, "CT1", {**values, "certificate": "0" * 64})
    assert not over_tls(certified, tmp_path, "peer")


def test_a_peer_that_never_ends_its_handshake_keeps_nobody_out(
    ward: Ward, certified: int, tmp_path: Path
) -> None:
    with raw(certified):
        assert over_tls(certified, tmp_path, "peer")


# --- settings ---------------------------------------------------------------------------------


def test_it_is_off_by_default(engine: Engine) -> None:
    assert Settings().dicom_port == 0
    assert Settings().dicom_host == "127.0.0.1"


def test_a_port_that_is_taken_stops_the_start(ward: Ward, port: int) -> None:
    with pytest.raises(errors.SettingsError):
        dimse.Receiver(ward.engine).start()


def test_classes_of_images_and_documents_are_offered_and_no_others() -> None:
    taken = receiver.storage_classes()
    assert "1.2.840.10008.5.1.4.1.1.2" in taken  # CT
    assert "1.2.840.10008.5.1.4.1.1.88.11" in taken  # Basic Text SR
    assert "1.2.840.10008.5.1.4.1.1.104.1" in taken  # Encapsulated PDF
    assert "1.2.840.10008.5.1.4.1.1.66" not in taken  # Raw Data
    assert "1.2.840.10008.5.1.4.1.1.481.5" not in taken  # RT Plan
