"""Original attributes encrypted in a masked file (PS3.15 annex E.1), which others open."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pydicom
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEGLSLossless, RLELossless

from engine import CohortOrder, errors
from engine.formats import dicom_archive, dicom_attributes, images
from engine.operations.live_settings import LiveSettings
from engine.settings import Settings
from engine.vault import envelope, recipients_of
from tests import builders
from tests.conftest import WHY, Ward, text_png
from tests.dimse.peers import free_port

LIMITS = images.Limits.of(Settings())
#: GDCM 3.0 does not know HTJ2K.
SYNTAXES = {
    s.keyword: s
    for s in (*builders.UNCOMPRESSED, RLELossless, JPEGLSLossless, builders.JPEGBaseline8Bit)
}


def certificate(
    name: str,
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    days: int = 30,
    usage: bool = True,
) -> str:
    """A self-signed certificate in PEM, valid on the tests' clock and today."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime(2020, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
        .public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(start).not_valid_after(start + timedelta(days=days * 365))
        .add_extension(
            x509.KeyUsage(
                digital_signature=not usage, content_commitment=False, key_encipherment=usage,
                data_encipherment=False, key_agreement=False, key_cert_sign=False, crl_sign=False,
                encipher_only=False, decipher_only=False,
            ), critical=True,
        )
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    return made.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture(scope="module")
def holders() -> dict[str, rsa.RSAPrivateKey]:
    return {name: rsa.generate_private_key(65537, 2048) for name in ("archive", "registry")}


@pytest.fixture(scope="module")
def pem(holders: dict[str, rsa.RSAPrivateKey]) -> str:
    return "".join(certificate(name, key) for name, key in holders.items())


Opens = Callable[[bytes], bytes]


@pytest.fixture(params=["archive", "registry"])
def key_file(
    request: pytest.FixtureRequest, holders: dict[str, rsa.RSAPrivateKey], tmp_path: Path
) -> Path:
    """The private key of each of two recipients."""
    path = tmp_path / "holder.key"
    key = holders[request.param]
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return path


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def original(**of: object) -> bytes:
    return builders.dicom(builders.radiograph(64, 48), **of)  # type: ignore[arg-type]


def with_attributes(data: bytes, pem: str) -> bytes:
    """A masked file as sealing makes it for recipients."""
    masked = images.dissect(images.decode("a.dcm", data, LIMITS), [], bytes(32))
    attributes = images.original_attributes(data, masked.masked)
    content = dicom_attributes.padded(attributes, 8192)
    return images.with_envelope(masked, envelope(content, recipients_of(pem))).masked


def content_of(masked: bytes) -> bytes:
    [item] = pydicom.dcmread(io.BytesIO(masked)).EncryptedAttributesSequence
    assert item.EncryptedContentTransferSyntaxUID == "1.2.840.10008.1.2.1"
    content: bytes = item.EncryptedContent
    return content


def opened(masked: bytes, key_file: Path) -> bytes:
    """What is in the envelope, by OpenSSL's own program."""
    where = key_file.with_name("content.der")
    where.write_bytes(content_of(masked))
    return subprocess.run(
        [program("openssl"), "cms", "-decrypt", "-binary", "-inform", "DER", "-in", str(where),
         "-inkey", str(key_file)],
        check=True, capture_output=True,
    ).stdout  # fmt: skip


def item_of(content: bytes) -> Dataset:
    """The only item of the Modified Attributes Sequence."""
    whole = read_dataset(io.BytesIO(content), is_implicit_VR=False, is_little_endian=True)
    assert [str(e.tag) for e in whole] == ["(0400,0550)", "(FFFC,FFFC)"]
    [item] = whole.ModifiedAttributesSequence
    return item


def test_openssl_opens_what_the_masked_file_changed(pem: str, key_file: Path) -> None:
    data = original(**builders.person())
    item = item_of(opened(with_attributes(data, pem), key_file))
    before = pydicom.dcmread(io.BytesIO(data))
    assert (item.PatientName, item.PatientID) == (before.PatientName, before.PatientID)
    assert item.SOPInstanceUID == before.SOPInstanceUID
    assert not {"Rows", "Modality"} & {e.keyword for e in item}  # not changed


@pytest.mark.parametrize("name", SYNTAXES)
def test_gdcmanon_makes_the_original_header_again(name: str, pem: str, key_file: Path) -> None:
    data = original(syntax=SYNTAXES[name], **builders.person())
    masked, back = key_file.with_name("masked.dcm"), key_file.with_name("back.dcm")
    masked.write_bytes(with_attributes(data, pem))
    subprocess.run(
        [program("gdcmanon"), "-d", "-k", str(key_file), "-i", str(masked), "-o", str(back)],
        check=True, capture_output=True,
    )  # fmt: skip
    there, before = pydicom.dcmread(back), pydicom.dcmread(io.BytesIO(data))
    differ = [e.keyword for e in before if e.tag not in there or there[e.tag].value != e.value]
    assert set(differ) <= {"PixelData"}
    # GDCM leaves (0012,0064), which annex E.1.2 takes away.
    more = {e.keyword for e in there} - {e.keyword for e in before}
    assert {w for w in more if not w.startswith("LossyImage")} == {
        "DeidentificationMethodCodeSequence",
        "LongitudinalTemporalInformationModified",
    }


def test_nested_private_and_foreign_texts_are_in_it_and_pictures_are_not(
    pem: str, key_file: Path
) -> None:
    source = pydicom.dcmread(io.BytesIO(original(**builders.person())))
    source.SpecificCharacterSet = "ISO_IR 192"
    source.PatientName = "Müller^Ωmega"
    request = Dataset()
    request.RequestedProcedureDescription = "Thorax of Müller"
    source.RequestAttributesSequence = Sequence([request])
    block = source.private_block(0x0011, "ACME 1.0", create=True)
    block.add_new(1, "LO", "Müller from ward 5")
    block.add_new(2, "OB", b"a picture of the face ")
    icon = Dataset()
    icon.Rows, icon.BitsAllocated, icon.PixelData = 1, 8, b"unmasked"
    source.IconImageSequence = Sequence([icon])
    source.add_new(0x60003000, "OW", b"overlay.")
    buffer = io.BytesIO()
    source.save_as(buffer)
    content = opened(with_attributes(buffer.getvalue(), pem), key_file)
    item = item_of(content)
    assert item.PatientName == "Müller^Ωmega"
    assert item.RequestAttributesSequence[0].RequestedProcedureDescription == "Thorax of Müller"
    assert item.private_block(0x0011, "ACME 1.0")[1].value == "Müller from ward 5"
    for telling in (b"picture", b"unmasked", b"overlay."):
        assert telling not in content


def test_the_length_of_an_envelope_does_not_tell_the_length_of_a_name(pem: str) -> None:
    short, long = (
        content_of(with_attributes(original(**{**builders.person(), "PatientName": name}), pem))
        for name in ("Li^X", "Wolfeschlegelsteinhausenbergerdorff^Hubertine" + "^a" * 8)
    )
    assert len(short) == len(long)
    assert b"Wolfe" not in long


def test_an_archive_may_keep_or_drop_the_sequence(pem: str) -> None:
    data = original(**builders.person())
    plain = images.dissect(images.decode("a.dcm", data, LIMITS), [], bytes(32)).masked
    limits = (LIMITS.max_side_px, LIMITS.max_decoded_bytes)
    assert dicom_archive.unchanged(with_attributes(data, pem), plain, *limits)


def test_certificates_are_checked_before_they_are_taken(pem: str) -> None:
    archive, _ = recipients_of(pem)
    assert (archive.subject, archive.bits) == ("CN=archive", 2048)
    assert recipients_of("") == ()
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to be refused
    curve = ec.generate_private_key(ec.SECP256R1())
    signer = certificate("signer", rsa.generate_private_key(65537, 2048), usage=False)
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for text, why in (
        (pem + key.decode(), "private key"),
        (certificate("short", short), "1024 bits"),
        (certificate("curve", curve), "no RSA key"),
        (signer, "keyEncipherment"),
        (pem + pem, "twice"),
        (pem + "and more", "nothing else"),
        (pem.replace("M", "N", 5), "cannot be read|nothing else"),
    ):
        with pytest.raises(errors.InputError, match=why):
            recipients_of(text)


def test_the_server_does_not_start_with_certificates_that_cannot_be_used() -> None:
    with pytest.raises(errors.SettingsError, match="MEDSEC_RECIPIENT_CERTIFICATES"):
        LiveSettings(Settings(recipient_certificates="none of mine"))


def test_nobody_whose_certificate_is_over_is_named(ward: Ward, pem: str) -> None:
    over = certificate("over", rsa.generate_private_key(65537, 2048), days=1)
    settings = ward.engine.runtime_settings
    with pytest.raises(errors.InputError, match="not valid now"):
        settings.change(ward.team.administrator, "recipient_certificates", pem + over)
    assert settings.recipients(ward.team.administrator) == ()
    live = LiveSettings(replace(Settings(), recipient_certificates=pem + over))
    now = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
    assert [r.subject for r in live.recipients(now)] == ["CN=archive", "CN=registry"]
    settings.change(ward.team.administrator, "recipient_certificates", pem)
    state = ward.engine.health.state(ward.team.administrator)
    assert state["recipients_ending"] == []


def _sealed_for(ward: Ward, pem: str) -> tuple[bytes, str]:
    ward.engine.runtime_settings.change(ward.team.administrator, "recipient_certificates", pem)
    pixels, _ = builders.labelled()
    data = builders.dicom(pixels, **builders.person())
    return data, ward.seal(data, "Erika.dcm", [text_png()[1]])


def test_a_sealed_image_carries_attributes_only_where_somebody_is_named(
    ward: Ward, pem: str, key_file: Path
) -> None:
    before = ward.seal(original(**builders.person(), instance=7), "a.dcm", [text_png()[1]])
    masked = ward.engine.images.masked_file(ward.team.doctor, before).data
    assert "EncryptedAttributesSequence" not in pydicom.dcmread(io.BytesIO(masked))
    data, image_id = _sealed_for(ward, pem)
    masked = ward.engine.images.masked_file(ward.team.doctor, image_id).data
    assert item_of(opened(masked, key_file)).PatientName == builders.person()["PatientName"]
    assert ward.engine.images.restore(ward.team.doctor, image_id, WHY).proof == "bytes"
    assert str(builders.person()["PatientName"]).encode() not in masked
    assert data not in masked


def test_an_archive_trip_keeps_all_and_medsec_restores_from_that_file_alone(
    ward: Ward, pem: str, key_file: Path
) -> None:
    """dcmodify writes the file anew, in another encoding; our own copy is lost."""
    data, image_id = _sealed_for(ward, pem)
    doctor, engine = ward.team.doctor, ward.engine
    there = key_file.with_name("archived.dcm")
    there.write_bytes(engine.packages.whole(doctor, image_id).data)
    left = there.read_bytes()
    for name, *rest in (
        ("dcmodify", "-nb", "-i", "(0010,0010)=Archive^Own", "-i", "(0008,0050)=A1", str(there)),
        ("dcmconv", "+ti", "+g", str(there), str(there)),
    ):
        subprocess.run([program(name), *rest], check=True, capture_output=True)
    back = there.read_bytes()
    assert back != left
    assert item_of(opened(back, key_file)).PatientName == builders.person()["PatientName"]
    _lose_every_file(ward)
    with pytest.raises(errors.NotFound):
        engine.images.masked_file(doctor, image_id)
    taken = images.carried(back)
    assert taken is not None
    file, proof = engine.packages.restore(doctor, *taken, WHY)
    assert (file.data, proof) == (data, "bytes")


def test_what_an_archive_stored_over_the_network_restores(
    ward: Ward, pem: str, key_file: Path
) -> None:
    """dcmtk's storescp writes what its storescu sends with lengths and a preamble of its own."""
    data, image_id = _sealed_for(ward, pem)
    doctor, engine = ward.team.doctor, ward.engine
    there, archive, port = (
        key_file.with_name("sent.dcm"),
        key_file.with_name("archive"),
        free_port(),
    )
    there.write_bytes(engine.packages.whole(doctor, image_id).data)
    archive.mkdir()
    peer = subprocess.Popen(
        [program("storescp"), "+xe", "-u", "-aet", "ARCHIVE", "-od", str(archive), str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        send = [program("storescu"), "-xe", "-aec", "ARCHIVE", "127.0.0.1", str(port), str(there)]
        for _ in range(100):  # until it listens
            if subprocess.run(send, capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
    finally:
        peer.terminate()
        peer.wait()
    [kept] = archive.iterdir()
    back = kept.read_bytes()
    assert back != there.read_bytes()
    assert item_of(opened(back, key_file)).PatientName == builders.person()["PatientName"]
    taken = images.carried(back)
    assert taken is not None
    file, proof = engine.packages.restore(doctor, *taken, WHY)
    assert (file.data, proof) == (data, "bytes")


@pytest.mark.parametrize("coder", ["dcmcjpls", "dcmcrle", "dcmcjpeg"])
def test_an_archive_that_compresses_without_loss_is_no_hindrance(
    ward: Ward, pem: str, key_file: Path, coder: str
) -> None:
    data, image_id = _sealed_for(ward, pem)
    doctor, engine = ward.team.doctor, ward.engine
    there = key_file.with_name("archived.dcm")
    there.write_bytes(engine.packages.whole(doctor, image_id).data)
    command = [program(coder), str(there), str(there)]
    subprocess.run(command, check=True, capture_output=True)
    _lose_every_file(ward)
    taken = images.carried(there.read_bytes())
    assert taken is not None
    file, proof = engine.packages.restore(doctor, *taken, WHY)
    assert (file.data, proof) == (data, "bytes")


def _lose_every_file(ward: Ward) -> None:
    for file in (ward.engine.settings.data / "blobs").rglob("*"):
        if file.is_file():
            file.unlink()


def test_a_file_from_an_archive_whose_pixels_changed_stays_closed_without_our_copy(
    ward: Ward, pem: str
) -> None:
    _, image_id = _sealed_for(ward, pem)
    whole = bytearray(ward.engine.packages.whole(ward.team.doctor, image_id).data)
    whole[-5] ^= 1
    _lose_every_file(ward)
    taken = images.carried(bytes(whole))
    assert taken is not None
    with pytest.raises(errors.SealError):
        ward.engine.packages.restore(ward.team.doctor, *taken, WHY)


def test_under_new_identifiers_no_envelope_goes_along(ward: Ward, pem: str) -> None:
    _, image_id = _sealed_for(ward, pem)
    doctor = ward.team.doctor
    for fresh in (False, True):
        order = CohortOrder(image_ids=[image_id], reason="trial", new_identifiers=fresh)
        cohort = ward.engine.cohorts.prepare(doctor, order)
        files = dict(ward.engine.cohorts.files(doctor, cohort.release_id))
        [data] = [d for n, d in files.items() if n.endswith(".dcm")]
        there = pydicom.dcmread(io.BytesIO(data))
        assert ("EncryptedAttributesSequence" in there) is not fresh
    assert isinstance(there.pixel_array, np.ndarray)


def test_the_frozen_envelope_opens(tmp_path: Path) -> None:
    vector = json.loads((Path(__file__).parents[1] / "vectors" / "attributes-v1.json").read_text())
    (tmp_path / "key.pem").write_text(vector["key"])
    (tmp_path / "content.der").write_bytes(base64.b64decode(vector["envelope"]))
    content = subprocess.run(
        [program("openssl"), "cms", "-decrypt", "-binary", "-inform", "DER",
         "-in", str(tmp_path / "content.der"), "-inkey", str(tmp_path / "key.pem")],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    assert hashlib.sha256(content).hexdigest() == vector["sha256"]
    assert item_of(content).PatientName == vector["patient"]
