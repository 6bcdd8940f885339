"""The example of docs/api.md, run as it stands on a real server; /api/docs/ in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from demo import PASSWORD
from engine import Engine, Role
from tests.fakes import ScriptedDetector
from tests.serving import ROOT, Server, serve, settings


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with real networks and the demo's technician and doctor."""
    folder = tmp_path_factory.mktemp("readme")
    chosen = settings(folder)
    engine = Engine.open(chosen, detector=ScriptedDetector(chosen))
    engine.people.create_first_administrator(engine.people.setup_code(), "admin", "Ada", PASSWORD)
    token = engine.sessions.sign_in("admin", PASSWORD).token
    for role in (Role.TECHNICIAN, Role.DOCTOR):
        engine.people.create(token, str(role), f"A {role}", role, PASSWORD)
    engine.close()
    with serve(folder) as running:
        yield running


def example() -> str:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    found = re.search(r"## Example\n.*?```sh\n(.*?)```", page, re.DOTALL)
    assert found
    return found[1]


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq")
def test_the_example_of_the_api_page_works(server: Server, tmp_path: Path) -> None:
    picture = ROOT / "demo" / "samples" / "ultrasound.png"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", example()],
        cwd=tmp_path,
        env={**os.environ, "API": f"{server.url}/api", "PICTURE": str(picture)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "released" in done.stdout.split()
    assert (tmp_path / "original.png").read_bytes() == picture.read_bytes()
    assert (tmp_path / "masked.png").read_bytes() != picture.read_bytes()


@pytest.mark.browser
def test_the_page_of_the_api_asks_no_other_host_and_works(server: Server) -> None:
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        page = browser.new_page()
        asked: list[str] = []
        said: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"{server.url}/api/")
        page.get_by_text("/auth/signing-key/").click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        page.get_by_text("fingerprint").last.wait_for()
        browser.close()
    assert not [url for url in asked if not url.startswith((server.url, "data:"))]
    assert not said  # no refusal of the content policy either
