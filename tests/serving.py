"""The product as it is started in earnest: one server process on a free port."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from engine import Engine, Settings
from tests.conftest import Team

ROOT = Path(__file__).parent.parent


class Server:
    """A running server.

    Args:
        url: Without a slash at the end.
        log: What it has said so far is in this file.
        pid: Of its process.
    """

    def __init__(self, url: str, log: Path, pid: int) -> None:
        self.url = url
        self.log = log
        self.pid = pid

    def code(self) -> str:
        """The first administrator's code, as the console shows it."""
        said = self.log.read_text()
        return said.split("Code for the first administrator: ")[1].split()[0]


@contextmanager
def serve(
    folder: Path, patience: float = 90, program: str = "serve.py", **environment: str
) -> Iterator[Server]:
    """Start the server on a data folder, wait until it answers, and stop it in the end.

    Args:
        patience: Seconds until it must answer.
        program: What is started, from the root of the project.
    """
    server, process = launch(folder, program, **environment)
    try:
        wait(server, process, patience)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def launch(
    folder: Path, program: str = "serve.py", **environment: str
) -> tuple[Server, subprocess.Popen[bytes]]:
    """Start the server on a data folder; ``{port}`` in the environment becomes its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "server.log"
    folder.mkdir(parents=True, exist_ok=True)
    names = {
        "MEDSEC_DATA": str(folder / "data"),
        "MEDSEC_KEY_FILE": str(folder / "keys" / "root.key"),
        "MEDSEC_BCRYPT_COST": "4",
        "MEDSEC_PORT": str(port),
        "MEDSEC_THREADS": "2",
        "MEDSEC_ANONYMOUS_REQUESTS_PER_MINUTE": "100000",
        "PYTHONUNBUFFERED": "1",
    }
    chosen = {name: value.replace("{port}", str(port)) for name, value in environment.items()}
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / program)],
            cwd=folder,  # whatever the folder it is started from
            env={**os.environ, **names, **chosen},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    scheme = "https" if environment.get("MEDSEC_TLS") == "1" else "http"
    return Server(f"{scheme}://127.0.0.1:{port}", log, process.pid), process


def wait(server: Server, process: subprocess.Popen[bytes], patience: float) -> None:
    """Until the server answers. Raises RuntimeError where it does not."""
    # Its own certificate cannot be known yet; nothing is sent while it is not checked.
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{server.url}/api/health", verify=anybody).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start:\n{server.log.read_text()}")


def settings(folder: Path) -> Settings:
    """The settings that :func:`serve` gives the server on this folder."""
    return Settings(
        data=folder / "data", key_file=folder / "keys" / "root.key", bcrypt_cost=4, threads=2
    )


def people(engine: Engine) -> Team:
    """An account per role; the name is the role, the password :data:`PASSWORD`."""
    return Team(engine)
