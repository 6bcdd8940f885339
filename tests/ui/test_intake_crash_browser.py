"""A browser that is killed amid an upload: the same files go on where it stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Error, expect, sync_playwright

from engine import Engine
from tests.browsing import ARGUMENTS, CHROMIUM, Visitor, chromium
from tests.conftest import PASSWORD
from tests.serving import Server, people, serve, settings
from tests.ui.test_intake_browser import study

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SLICES = 40


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    engine = Engine.open(settings(tmp_path))
    people(engine)
    engine.close()
    with serve(tmp_path, patience=300) as running:
        yield running


def drop(tina: Visitor, folder: Path) -> None:
    tina.sign_in("technician", PASSWORD, "/Upload")
    tina.page.get_by_label("Folder", exact=True).set_input_files(folder)


def test_a_killed_browser_loses_no_file_that_was_taken(server: Server, tmp_path: Path) -> None:
    folder = study(tmp_path / "cd", 1, SLICES) / "DICOM"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        tina = Visitor(browser.new_context(), server)
        drop(tina, folder)
        tina.page.get_by_role("button", name=f"Take in {SLICES} images").click()
        sent = tina.page.get_by_label("Sent", exact=True)
        while float(sent.get_attribute("value", timeout=180_000) or 0) < 3:
            tina.page.wait_for_timeout(50)
        for process in psutil.Process().children(recursive=True):
            if "chrom" in process.name():
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        with suppress(Error):
            browser.close()
    with chromium(server) as tina:
        drop(tina, folder)  # whose they are is known: nobody is asked again
        expect(tina.page.get_by_text(f"{SLICES} images taken in").first).to_be_visible(
            timeout=180_000
        )
    assert server.log.read_text().count('"status": 5') == 0
    os.kill(server.pid, signal.SIGTERM)
    psutil.Process(server.pid).wait(60)
    engine = Engine.open(settings(tmp_path))
    rows = engine.context.database.read()
    assert rows.count("SELECT count(*) FROM images") == SLICES
    uploads = "SELECT count(*) FROM audit WHERE action = 'image.upload' AND outcome = 'ok'"
    assert rows.count(uploads) == SLICES
    engine.close()
