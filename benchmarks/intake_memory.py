"""Memory over an intake of thousands of files: of the server, and of the browser that sends them.

    python -m benchmarks.intake_memory [--files 2000] [--api] [--program serve.py]

The files are CT slices of 128 x 128 pixels. A real Chromium drops their folder on *Upload* of the
product's own server and sends them; with ``--api`` a client sends them without a browser. Memory is
that of the server's process, of all processes that it started (decoders, networks), and of all
processes of the browser with the heap of the page's scripts, after each quarter.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from playwright.sync_api import Page, expect

from benchmarks.crash_intake import Sender
from engine import Engine
from tests import builders
from tests.browsing import chromium
from tests.conftest import PASSWORD
from tests.fakes import ScriptedDetector
from tests.serving import people, serve, settings

QUARTERS = 4
_MB = 1e6


def slices(folder: Path, files: int) -> None:
    """A CT without text; each slice is another one."""
    rng = np.random.default_rng(1)
    for number in range(1, files + 1):
        pixels = rng.normal(500, 60, (128, 128)).clip(0, 4000).astype(np.uint16)
        data = builders.dicom(
            pixels, instance=number, modality="CT", bits=12, PatientAge=None,
            StudyDescription="CT head",
        )  # fmt: skip
        (folder / f"IM{number:04d}").write_bytes(data)


def family_mb(pid: int) -> tuple[float, float]:
    """Memory of a process, and of all that it started, each without what they share."""
    own = psutil.Process(pid)
    others = 0.0
    for child in own.children(recursive=True):
        try:
            others += child.memory_full_info().uss / _MB
        except psutil.NoSuchProcess:
            continue
    return own.memory_info().rss / _MB, others


class Report:
    """Prints a row of the table when a quarter is done."""

    def __init__(self, pid: int, files: int) -> None:
        self.pid, self.files, self.next, self.began = pid, files, 0, time.monotonic()
        print("| files | s | server MB | its processes MB | browser MB | scripts MB |")
        print("|---|---|---|---|---|---|")

    def look(self, there: int, browser: Callable[[], tuple[float, float]] | None = None) -> None:
        """So many files are there."""
        if there < self.next * self.files // QUARTERS:
            return
        self.next += 1
        own, others = family_mb(self.pid)
        cells = [
            f"{there:,}",
            f"{time.monotonic() - self.began:.0f}",
            f"{own:.0f}",
            f"{others:.0f}",
        ]
        cells += [f"{mb:.0f}" for mb in browser()] if browser else ["", ""]
        print(f"| {' | '.join(cells)} |", flush=True)


def by_browser(url_folder: Path, page: Page, report: Report) -> None:
    """Drop a folder on *Upload*, take it in, and look on until all of it was sent."""

    def browser() -> tuple[float, float]:
        here = psutil.Process()
        chromes = [p for p in here.children(recursive=True) if "chrom" in p.name()]
        heap = page.evaluate("performance.memory.usedJSHeapSize") / _MB
        return sum(p.memory_full_info().uss for p in chromes) / _MB, heap

    page.get_by_label("Folder", exact=True).set_input_files(url_folder)
    take = page.get_by_role("button", name=f"Take in {report.files}")
    take.or_(page.get_by_role("button", name=f"Take in {report.files:,}")).click(timeout=300_000)
    sent = page.get_by_label("Sent", exact=True)
    sent.wait_for(timeout=300_000)
    for _ in itertools.count():
        if not sent.count():
            break
        report.look(int(float(sent.get_attribute("value", timeout=5_000) or 0)), browser)
        page.wait_for_timeout(200)
    expect(page.get_by_text("images taken in and encrypted").first).to_be_visible(timeout=60_000)
    report.look(report.files, browser)


def by_api(folder: Path, url: str, patient_id: str, report: Report) -> None:
    """Send a folder without a browser."""
    files = {n: (path.name, path.read_bytes()) for n, path in enumerate(sorted(folder.iterdir()))}
    count = itertools.count(1)
    sender = Sender(url, patient_id, files, lambda *_: report.look(next(count)))
    with sender.client:
        sender.begin(seal=False)
        report.look(0)
        sender.send()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--api", action="store_true", help="without a browser")
    parser.add_argument("--program", default="serve.py", help="tests/api/intake_server.py is fast")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medsec-intake-") as place:
        folder = Path(place)
        (folder / "in").mkdir()
        slices(folder / "in", options.files)
        chosen = settings(folder)
        engine = Engine.open(chosen, detector=ScriptedDetector(chosen))
        team = people(engine)
        patient = engine.patients.create(team.technician, "P-1", "Erika Musterfrau").patient_id
        engine.close()
        gc.collect()
        with serve(folder, patience=300, program=options.program,
                   MEDSEC_REQUESTS_PER_MINUTE="1000000") as server:  # fmt: skip
            report = Report(server.pid, options.files)
            if options.api:
                by_api(folder / "in", server.url, patient, report)
            else:
                with chromium(server) as tina:
                    tina.sign_in("technician", PASSWORD, "/Upload")
                    by_browser(folder / "in", tina.page, report)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
