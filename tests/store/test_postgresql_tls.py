"""A real connection over TLS to a PostgreSQL server whose certificate is verified."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from engine.errors import StorageBusy
from engine.permissions import Role
from engine.records import Caller
from engine.store.audit import AuditLog, Event
from engine.store.postgresql import PostgresDatabase
from tests.fakes import FakeHost
from tests.postgresql import SERVER, Cluster

NAME = "db.hospital"
TODAY = datetime.now(UTC)


class Authority:
    """A certificate authority."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._certificate(self._name, self._key, TODAY + timedelta(days=1), ca=True)
        self.pem = made.public_bytes(serialization.Encoding.PEM)

    def _certificate(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, ends: datetime, *, ca: bool
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(TODAY - timedelta(days=9))
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            host = subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
            names = x509.SubjectAlternativeName([x509.DNSName(str(host))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def signed(self, host: str, days: float = 1) -> tuple[bytes, bytes]:
        """Certificate and key of a server, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        made = self._certificate(subject, key, TODAY + timedelta(days=days), ca=False)
        return made.public_bytes(serialization.Encoding.PEM), key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("Hospital CA")


@pytest.fixture
def catalog_on() -> str:
    return "postgresql"


@pytest.fixture
def url(catalog_url: str, cluster: Cluster, authority: Authority, tmp_path: Path) -> str:
    """The database by the name of another machine, which is this one, over the network."""
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    database = catalog_url.partition("@/")[2].partition("?")[0]
    return (
        f"postgresql://{SERVER}@{NAME}:{cluster.port}/{database}?hostaddr=127.0.0.1"
        f"&sslmode=verify-full&sslrootcert={tmp_path}/ca.pem"
    )


def test_a_verified_server_is_worked_with_over_tls(
    url: str, cluster: Cluster, authority: Authority, tmp_path: Path
) -> None:
    with cluster.tls(*authority.signed(NAME)):
        database = PostgresDatabase.open(url, tmp_path, FakeHost(tmp_path), 5, 2)
        audit = AuditLog(database, FakeHost(tmp_path), b"k" * 32)
        audit.record(Caller("doctor", Role.DOCTOR, "se_1", "127.0.0.1"), Event("image.restore"))
        assert audit.verify() == 1
        # Each of its connections, the one that holds the catalog and those of the pool.
        with cluster.superuser() as admin:
            seen = admin.execute(
                "SELECT ssl, version FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
                " WHERE usename = 'medsec_server' AND application_name = 'medsec'"
            ).fetchall()
        database.close()
    assert len(seen) >= 2
    assert {(encrypted, version) for encrypted, version in seen} == {(True, "TLSv1.3")}


@pytest.mark.parametrize(
    "wrong", ["of another CA", "of a CA of the same name", "of another host", "expired"]
)
def test_a_server_with_a_wrong_certificate_is_refused_by_name(
    url: str, cluster: Cluster, authority: Authority, tmp_path: Path, wrong: str
) -> None:
    shown = {
        "of another CA": lambda: Authority("Elsewhere").signed(NAME),
        "of a CA of the same name": lambda: Authority("Hospital CA").signed(NAME),
        "of another host": lambda: authority.signed("elsewhere.hospital"),
        "expired": lambda: authority.signed(NAME, days=-1),
    }[wrong]()
    with (
        cluster.tls(*shown),
        pytest.raises(StorageBusy, match="certificate was refused, and nothing was sent") as caught,
    ):
        PostgresDatabase.open(url, tmp_path, FakeHost(tmp_path), 5, 2)
    assert NAME not in str(caught.value)  # no part of the URL, which may have a password


def test_a_server_that_speaks_no_tls_is_not_spoken_to(
    url: str, cluster: Cluster, tmp_path: Path
) -> None:
    with pytest.raises(StorageBusy, match="Cannot connect to MEDSEC_DATABASE"):
        PostgresDatabase.open(url, tmp_path, FakeHost(tmp_path), 5, 2)
    with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
        psycopg.connect(url)
