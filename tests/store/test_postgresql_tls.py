"""A real connection over TLS to a PostgreSQL server whose certificate is verified."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from engine.errors import StorageBusy
from engine.permissions import Role
from engine.records import Caller
from engine.store.audit import AuditLog, Event
from engine.store.postgresql import PostgresDatabase
from tests.certificates import Authority
from tests.fakes import FakeHost
from tests.postgresql import SERVER, Cluster, name_of

NAME = "db.hospital"


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
    database = name_of(catalog_url)
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
