"""The examples of ``deploy/``: they are what they say, and several servers behind nginx serve."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import psycopg
import pytest
import websockets
from streamlit.web.server.starlette.starlette_server import _get_websocket_settings

from engine import Engine, Settings
from engine.host import Host
from engine.settings import Secret
from tests.conftest import PASSWORD, Team
from tests.fakes import ScriptedDetector
from tests.postgresql import Cluster
from tests.serving import Server, launch, wait

DEPLOY = Path(__file__).parent.parent / "deploy"
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def example(folder: Path, port: int, servers: list[str]) -> Path:
    """The example without TLS, on this machine's ports; the log has which server answered."""
    text = (DEPLOY / "nginx.conf").read_text()
    text = re.sub(r"^    ssl_.*\n", "", text, flags=re.M).replace("Secure; ", "")
    text = text.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
    lines = "".join(f"    server {s} max_fails=2 fail_timeout=5s;\n" for s in servers)
    text, count = re.subn(r"(    server medsec-\d.*\n)+", lines, text)
    assert count == 1
    path = folder / "nginx.conf"
    path.write_text(
        f"pid {folder}/nginx.pid; daemon off; worker_processes 1; error_log {folder}/error.log;\n"
        "events {}\nhttp {\n"
        + "".join(
            f"{kind}_temp_path {folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        + "log_format served '$upstream_addr $status';\n"
        f"access_log {folder}/access.log served;\n{text}}}\n"
    )
    return path


@needs_nginx
def test_nginx_accepts_the_example(tmp_path: Path) -> None:
    assert NGINX is not None
    path = example(tmp_path, free_port(), ["127.0.0.1:1", "127.0.0.1:2"])
    done = subprocess.run([NGINX, "-t", "-c", str(path)], capture_output=True, text=True)
    assert "test is successful" in done.stderr, done.stderr


def test_the_proxy_gives_up_a_silent_page_and_no_other() -> None:
    """On each page's WebSocket the server is heard at least every ``interval`` seconds."""
    interval, _ = _get_websocket_settings()
    page = (DEPLOY / "nginx.conf").read_text().partition("location = /_stcore/stream {")[2]
    found = re.search(r"proxy_read_timeout (\d+)s;", page)
    assert found is not None
    assert 2 * interval < int(found[1]) <= 4 * interval


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = (DEPLOY / "medsec.service").read_text()
    assert "ExecStart=/opt/medsec/bin/medsec serve" in unit
    program = tmp_path / "medsec"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    path = tmp_path / "medsec.service"  # it looks whether the program is there
    path.write_text(unit.replace("/opt/medsec/bin/medsec", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True
    )
    said = [line for line in done.stderr.splitlines() if "medsec" in line]
    assert not said, said


def served(folder: Path) -> list[str]:
    """Which servers answered, in turn."""
    time.sleep(0.1)  # the log is written after the answer
    return [line.split()[0] for line in (folder / "access.log").read_text().splitlines()]


@pytest.mark.slow
@needs_nginx
def test_three_servers_behind_nginx_serve_and_any_of_them_may_die(
    tmp_path: Path, cluster: Cluster
) -> None:
    assert NGINX is not None
    url, keys = cluster.new(), tmp_path / "keys" / "root.key"
    common = {
        "MEDSEC_DATA": str(tmp_path / "data"), "MEDSEC_KEY_FILE": str(keys),
        "MEDSEC_DATABASE": url, "MEDSEC_SERVERS": "many", "MEDSEC_DATABASE_CONNECTIONS": "6",
    }  # fmt: skip
    running: list[tuple[Server, subprocess.Popen[bytes]]] = []
    with ExitStack() as stack:
        for number in range(3):
            server, process = launch(tmp_path / str(number), **common)
            stack.callback(stop, process)
            wait(server, process, 120)
            running.append((server, process))
        settings = Settings(
            data=tmp_path / "data", key_file=keys, bcrypt_cost=4, database=Secret(url),
            servers="many", database_connections=4, anonymous_requests_per_minute=100000,
        )  # fmt: skip
        own = Engine.open(
            settings, Host(settings.data / "blobs"), detector=ScriptedDetector(settings)
        )
        stack.callback(own.close)
        team = Team(own)
        port = free_port()
        addresses = [server.url.removeprefix("http://") for server, _ in running]
        config = example(tmp_path, port, addresses)
        proxy = subprocess.Popen([NGINX, "-c", str(config)])
        stack.callback(stop, proxy)
        address = f"http://127.0.0.1:{port}"
        _until(lambda: httpx.get(f"{address}/api/health/").status_code == 200)

        # A browser stays where it is, with its WebSocket; others are spread.
        browser = stack.enter_context(httpx.Client(base_url=address, timeout=30))
        assert browser.get("/").status_code == 200
        assert "medsec_route" in browser.cookies
        for _ in range(6):
            browser.get("/api/health/")
        mine = served(tmp_path)[-6:]
        assert len(set(mine)) == 1
        assert asyncio.run(_opens(port, browser.cookies["medsec_route"])) == 101
        assert served(tmp_path)[-1] == mine[0]
        for _ in range(20):
            httpx.get(f"{address}/api/health/")
        assert len(set(served(tmp_path)[-20:])) == 3

        # Who is disabled on one server is out on all within a second.
        direct = [server.url for server, _ in running]
        given = {"username": "doctor", "password": PASSWORD}
        token = httpx.post(f"{direct[0]}/api/auth/token/", json=given, timeout=30).json()["access"]
        asked = {"Authorization": f"Bearer {token}"}
        for there in direct:
            assert httpx.get(f"{there}/api/auth/me/", headers=asked).status_code == 200
        own.people.set_enabled(team.administrator, "doctor", False)
        for there in direct:
            assert httpx.get(f"{there}/api/auth/me/", headers=asked).status_code == 401

        # The leader dies: another one leads, and its browsers go on elsewhere.
        ids = [httpx.get(f"{there}/api/health/").json()["server"] for there in direct]
        own_id = own.server_id
        with psycopg.connect(url, autocommit=True) as rows:

            def leader() -> str:
                row = rows.execute("SELECT leader FROM medsec.writer").fetchone()
                assert row is not None
                return str(row[0])

            assert leader() in (*ids, own_id)
            victim = ids.index(leader()) if leader() in ids else addresses.index(mine[0])
            was = leader()
            os.kill(running[victim][1].pid, signal.SIGKILL)
            if was in ids:
                _until(lambda: leader() != was, 5)
        for _ in range(10):
            assert browser.get("/api/health/").status_code == 200
        alive = [there for n, there in enumerate(direct) if n != victim]
        given = {"username": "technician", "password": PASSWORD}
        token = httpx.post(f"{alive[1]}/api/auth/token/", json=given, timeout=30).json()["access"]
        asked = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{alive[0]}/api/auth/me/", headers=asked).status_code == 200
        assert own.audit.verify(team.administrator) > 0

        # Its row goes, and every line of a server's log has its name.
        _until(lambda: ids[victim] not in _servers(own, team), 40)
        line = (tmp_path / str(0) / "server.log").read_text().splitlines()[-1]
        assert json.loads(line)["server"] == ids[0]


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(30)


def _servers(engine: Engine, team: Team) -> list[str]:
    return [s.server_id for s in engine.health.state(team.administrator)["servers"]]


def _until(true: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if true():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < end
        time.sleep(0.05)


async def _opens(port: int, route: str) -> int:
    """The status with which a page's WebSocket opens."""
    async with websockets.connect(
        f"ws://127.0.0.1:{port}/_stcore/stream",
        origin=websockets.Origin(f"http://127.0.0.1:{port}"),
        additional_headers={"Cookie": f"medsec_route={route}"},
        subprotocols=[websockets.Subprotocol("streamlit")],
    ) as page:
        return 101 if page.response is None else page.response.status_code
