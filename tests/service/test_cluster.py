"""Batches on a Dask cluster, set up by the very lines of docs/batches.md, with TLS on 127.0.0.1."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.object_store import KEY, SECRET, WORKER_KEY, ObjectStore
from tests.service.test_batch import picture

#: Credentials of an object store that are the workers' alone.
WORKERS_OWN = {"AWS_ACCESS_KEY_ID": WORKER_KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl"),
]


def steps() -> list[str]:
    """The blocks of docs/batches.md: certificates, scheduler, workers, settings."""
    page = (ROOT / "docs" / "batches.md").read_text(encoding="utf-8")
    section = page.split("## Several machines\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 4
    return blocks


@dataclass
class Cluster:
    """A scheduler and a worker that run.

    Args:
        folder: With the certificates.
        address: Host and port of the scheduler.
    """

    folder: Path
    address: tuple[str, int]
    environment: dict[str, str]


@contextmanager
def running(step: str, folder: Path, environment: dict[str, str], ready: str) -> Iterator[None]:
    """A step of that page, from when it says that it is ready; ended with all its children."""
    log = folder / f"{ready.split()[0]}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            ["bash", "-euc", step], cwd=folder, env=environment, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        wait = f"until grep -q '{ready}' {log}; do sleep 0.2; done"
        subprocess.run(["timeout", "120", "bash", "-c", wait], check=True)
        yield
    except subprocess.CalledProcessError as err:
        raise RuntimeError(log.read_text()) from err
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "HOST": address[0],
        "PORT": str(address[1]),
        "MEDSEC": str(ROOT),
        "WORKERS": "1",
    }
    certificates, scheduler, worker, _ = steps()
    subprocess.run(["bash", "-euc", certificates], cwd=folder, env=environment, check=True)
    inside = folder / "batch-tls"
    with (
        running(scheduler, inside, environment, "Scheduler at"),
        running(worker, inside, {**environment, **WORKERS_OWN}, "Registered to"),
    ):
        yield Cluster(inside, address, environment)


def test_a_folder_is_sealed_by_workers_elsewhere(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in range(9):
        (tmp_path / "in" / f"{n}.png").write_bytes(picture(f"NOWAK JAN {n}"))
    call = (
        f'{steps()[3]}\npython "$MEDSEC/cli.py" seal {tmp_path}/in --out {tmp_path}/out'
        f" --data {tmp_path}/data --key {tmp_path}/root.key --seal-proposals"
    )
    done = subprocess.run(
        ["bash", "-euc", call], cwd=cluster.folder, env=cluster.environment,
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": sealed ") == 9
    assert len(list((tmp_path / "out").glob("*.png"))) == 9
    # No name, and nothing of the pixels' files, is in what scheduler and workers wrote.
    written = [p for p in cluster.folder.parent.rglob("*") if p.is_file() and p.suffix != ".py"]
    assert not [p for p in written if p.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"]
    assert "Receive client connection" in (cluster.folder / "Scheduler.log").read_text()


@pytest.mark.parametrize("elsewhere", [True, False])
def test_workers_read_and_write_an_object_store_themselves(
    cluster: Cluster, object_store: ObjectStore, tmp_path: Path, elsewhere: bool
) -> None:
    (tmp_path / "in").mkdir()
    for n in range(4):
        (tmp_path / "in" / f"{n}.png").write_bytes(picture(f"NOWAK JAN {n}"))
    where = steps()[3] if elsewhere else "export MEDSEC_BATCH_WORKERS=1"
    call = (
        f'{where}\npython "$MEDSEC/cli.py" seal {tmp_path}/in --out {tmp_path}/out'
        f" --data {tmp_path}/data --key {tmp_path}/root.key --seal-proposals"
    )
    store = {
        "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
        "MEDSEC_BLOBS": object_store.new(), "MEDSEC_S3_ENDPOINT": object_store.endpoint,
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-euc", call], cwd=cluster.folder, env={**cluster.environment, **store},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": sealed ") == 4
    assert not (tmp_path / "data" / "blobs").exists()


def _connect(cluster: Cluster, context: ssl.SSLContext) -> bytes:
    """What the scheduler says to somebody who connects so."""
    context.check_hostname = False
    with (
        socket.create_connection(cluster.address, timeout=20) as plain,
        context.wrap_socket(plain) as line,
    ):
        return line.recv(1)


def test_who_has_no_certificate_of_that_authority_is_refused(
    cluster: Cluster, tmp_path: Path
) -> None:
    stranger = ssl.create_default_context(cafile=str(cluster.folder / "ca.pem"))
    with pytest.raises(ssl.SSLError, match=r"certificate required|handshake failure"):
        _connect(cluster, stranger)
    subprocess.run(["bash", "-euc", steps()[0]], cwd=tmp_path, env=cluster.environment, check=True)
    other = tmp_path / "batch-tls"
    forged = ssl.create_default_context(cafile=str(cluster.folder / "ca.pem"))
    forged.load_cert_chain(other / "medsec.pem", other / "medsec.key")
    with pytest.raises(ssl.SSLError, match=r"unknown ca|decrypt error"):
        _connect(cluster, forged)
    ours = ssl.create_default_context(cafile=str(cluster.folder / "ca.pem"))
    ours.load_cert_chain(cluster.folder / "medsec.pem", cluster.folder / "medsec.key")
    assert _connect(cluster, ours)  # the same way in with the right one
    with socket.create_connection(cluster.address, timeout=20) as plain:
        plain.sendall(b"\x00" * 64)  # without TLS
        with contextlib.suppress(ConnectionResetError):
            assert plain.recv(100)[:1] in (b"", b"\x15")  # nothing, or TLS's own alert
