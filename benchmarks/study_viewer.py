"""How long a doctor waits for pictures of a restored series, in a real browser.

    python -m benchmarks.study_viewer [--slices 60] [--side 512] [--turns 30]

A CT series of 12 bits is taken in (its boxes are given, no network runs) and sealed by the
engine's own methods. Then Chromium opens it as a doctor does and restores it. The first picture is
timed from the press of the button to the picture on the screen; each next one from the key to the
screen, while a person looks at each picture for ``--pause`` seconds, and once more without a pause.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from engine import Detection, Engine, Region
from tests import builders
from tests.browsing import chromium
from tests.conftest import PASSWORD
from tests.fakes import ScriptedDetector
from tests.serving import people, serve, settings

FOUND = [Detection(Region(8, 8, 200, 40), "text", 0.9, "scripted")]
#: Milliseconds from a key to the decoded picture of the next place on the screen.
TURN = """async ([place]) => {
  const find = (root) => { for (const e of root.querySelectorAll("*")) {
    if (e.matches(".stack")) return e;
    const inside = e.shadowRoot && find(e.shadowRoot);
    if (inside) return inside; } };
  const stack = find(document), stage = stack.querySelector(".stage"), began = performance.now();
  stage.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowDown", bubbles: true}));
  const image = stage.querySelector(".picture"), pane = image.closest(".pane");
  const corner = stage.querySelector(".corner.place");
  while (performance.now() - began < 20000) {
    if (corner.textContent.startsWith(`Image ${place} of`) && !pane.hasAttribute("aria-busy")
        && image.complete && image.naturalWidth) {
      await image.decode();
      return performance.now() - began;
    }
    await new Promise(requestAnimationFrame);
  }
  return NaN;
}"""


def fill(folder: Path, slices: int, side: int) -> None:
    """A patient with one sealed series."""
    chosen = settings(folder)
    engine = Engine.open(chosen, detector=ScriptedDetector(chosen, FOUND))
    team = people(engine)
    patient = engine.patients.create(team.technician, "H-000001", "Doe^Jane^Q", 47).patient_id
    for number in range(1, slices + 1):
        pixels = (builders.radiograph(side, side, bits=12, seed=number)).astype(np.uint16)
        data = builders.dicom(
            pixels, modality="CT", bits=12, instance=number, RescaleIntercept=-1024, RescaleSlope=1,
            WindowCenter=400, WindowWidth=2000, SeriesDescription="Thorax",
        )  # fmt: skip
        image = engine.drafts.upload(team.technician, patient, f"{number}.dcm", data)
        engine.drafts.seal(team.technician, image.image_id, FOUND, confirm="looked at")
    engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--slices", type=int, default=60)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--pause", type=float, default=0.4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fill(folder, options.slices, options.side)
        with serve(folder, patience=300) as server, chromium(server) as dora:
            page = dora.page
            dora.sign_in("doctor", PASSWORD, "/Review")
            search = page.get_by_placeholder("Number or name")
            search.fill("H-000001")
            search.press("Enter")
            dora.settle()
            dora.click("View", exact=False)
            page.wait_for_timeout(3000)
            print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
            began = time.perf_counter()
            page.get_by_role("button", name="Restore: clinical reading").click()
            page.locator('.corner.tone:has-text("Original")').wait_for()
            page.wait_for_function(
                "i => i.complete && i.naturalWidth && !i.closest('.pane').ariaBusy",
                arg=page.locator(".stack .picture").first.element_handle(),
            )
            print(f"first picture: {(time.perf_counter() - began) * 1e3:.0f} ms")
            place = 1
            for name, pause in (("looked at", options.pause), ("without a pause", 0.0)):
                times = []
                for _ in range(options.turns):
                    page.wait_for_timeout(pause * 1000)
                    place += 1
                    times.append(page.evaluate(TURN, [place]))
                late = sum(one > 100 for one in times)
                print(
                    f"next pictures, {name}: median {statistics.median(times):.0f} ms, slowest"
                    f" {max(times):.0f} ms, {late} of {len(times)} over 100 ms"
                )


if __name__ == "__main__":
    main()
