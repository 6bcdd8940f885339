"""Days of a department in a real Chromium, on the real networks: how many actions a person needs.

An action is a press of a button, a folder that is dropped, a field that is filled, a key, or a
notch of the wheel. Waiting and looking are none. Pictures are drawn here, with what devices burn
in; the small numbers of the suite and the large ones of ``make soak`` follow the same rule.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Locator, expect

from engine import Engine
from tests import builders
from tests.browsing import Visitor, chromium
from tests.conftest import PASSWORD
from tests.serving import Server, people, serve, settings

pytestmark = pytest.mark.browser

ON_A_SHEET = 50


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("actions")
    engine = Engine.open(settings(folder))
    people(engine)
    engine.close()
    with serve(folder) as server:
        yield server


class Counted:
    """A technician whose actions are counted."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor, self.page = visitor, visitor.page
        self.done: list[str] = []

    def drop(self, folder: Path) -> None:
        self.done.append("drop")
        self.page.get_by_label("Folder", exact=True).set_input_files(folder)

    def press(self, button: Locator) -> None:
        expect(button).to_be_enabled(timeout=60_000)
        self.done.append(button.inner_text().strip())
        button.click()
        self.visitor.settle()

    def wheel(self) -> None:
        self.done.append("wheel")
        self.page.mouse.wheel(0, 600)
        self.page.wait_for_timeout(1500)

    def named(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name)

    def standing(self) -> dict[str, int]:
        url = f"{self.visitor.server.url}/api/intakes/"
        found: dict[str, int] = self.visitor.context.request.get(url).json()
        return found

    def rest(self) -> None:
        """Until nothing is looked at and nothing is being sealed."""
        until = time.monotonic() + 3600
        while self.standing()["to_look"] or self.standing()["sealing"]:
            assert time.monotonic() < until
            self.page.wait_for_timeout(300)
        self.visitor.go("/Upload")

    def send(self, folder: Path, images: int, patients: int) -> None:
        self.visitor.go("/Upload")
        self.drop(folder)
        of = f" of {patients} patients" if patients > 1 else ""
        self.press(self.named(f"Take in {images} images{of}"))
        expect(self.page.get_by_text(f"{images} images taken in and encrypted")).to_be_visible(
            timeout=300_000
        )
        self.rest()

    def seal_all(self) -> None:
        """Contact sheets first; then, one by one, what came back or does not fit on one."""
        sheets = self.named("on contact sheets")
        if sheets.count():
            self.press(sheets)
            expect(self.named("Confirm and seal")).to_be_visible(timeout=60_000)
        while self.named("Confirm and seal").count():
            confirm = self.named("Confirm and seal")
            expect(self.page.locator(".tile.seen").first).to_be_visible(timeout=60_000)
            for _ in range(20):
                # Whoever looks needs no hand; what is below the window needs the wheel.
                self.page.wait_for_timeout(1500)
                if confirm.is_enabled():
                    break
                below = self.page.locator(".tile:not(.seen)").evaluate_all(
                    "all => all.some(i => i.getBoundingClientRect().bottom > innerHeight)"
                )
                if below:
                    self.page.mouse.move(700, 500)
                    self.wheel()
            shown = self.page.locator(".tile").first.element_handle()
            self.press(confirm)
            # The next sheet, or the list, takes its place.
            self.page.wait_for_function("tile => !tile.isConnected", arg=shown, timeout=60_000)
            self.visitor.settle()
        self.rest()
        for _ in range(30):
            following = self.named("Correct the next image")
            if not following.count():
                return
            self.press(following)
            while self.page.get_by_role("button", name=re.compile(r"Seal \d+ region")).count():
                self.press(self.page.get_by_role("button", name=re.compile(r"Seal \d+ region")))
                asked = self.page.get_by_role("dialog")
                if asked.count():
                    self.press(asked.get_by_role("button", name="I checked").first)
            self.rest()


# --- pictures ----------------------------------------------------------------------------------


def ct(number: int) -> np.ndarray:
    """A slice through a body in air, 12 bits, shape (256, 256); nothing is written in it."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    body = ((x / 0.8) ** 2 + (y / 0.62) ** 2 < 1) * 1000.0
    for side in (-0.35, 0.35):
        body[((x - side) / 0.28) ** 2 + ((y + 0.03) / 0.38) ** 2 < 1] = 250
    body[(x / 0.09) ** 2 + ((y - 0.42) / 0.1) ** 2 < 1] = 1500
    heart = ((x + 0.1) / (0.2 + 0.02 * np.sin(number / 3))) ** 2 + ((y + 0.05) / 0.2) ** 2 < 1
    body[heart] = 1060
    return np.clip(
        cv2.GaussianBlur(body, (5, 5), 0) + rng.normal(0, 18, body.shape), 0, 4095
    ).astype(np.uint16)


def ultrasound(number: int, who: dict[str, str]) -> np.ndarray:
    """A fan of speckle, shape (480, 640, 3), with the header that devices burn in."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:480, 0:640].astype(np.float32)
    depth, angle = np.hypot(x - 320, y - 20), np.arctan2(x - 320, y - 20)
    fan = (np.abs(angle) < 0.6) & (depth > 60) & (depth < 430)
    speckle = cv2.GaussianBlur(rng.random((480, 640)).astype(np.float32), (0, 0), 1.6)
    speckle = (speckle - speckle.min()) / np.ptp(speckle)
    echo = fan * speckle * (140 - depth / 6 + 50 * np.sin(depth / 24 + number))
    pixels = np.repeat(np.clip(echo, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    name = who["PatientName"].replace("^", ", ").upper()
    builders.write_text(pixels, f"{name}  {who['PatientID']}", (12, 10), scale=0.6)
    builders.write_text(pixels, "SAMPLETOWN GENERAL  2024-02-29 10:11:12", (300, 34), scale=0.5)
    return pixels


def study(folder: Path, kind: str, count: int, first: int) -> int:
    """Files of one kind. Returns of how many patients."""
    folder.mkdir()
    for number in range(1, count + 1):
        patient = first + (number if kind == "DX" else 0)
        who = {**builders.person(patient), "PatientName": "Musterfrau^Erika"}
        if kind == "CT":
            pixels, bits = ct(number), 12
        elif kind == "US":
            pixels, bits = ultrasound(number, who), 8
        else:
            pixels, bits = builders.radiograph(900, 700, seed=number), 8
            builders.write_text(pixels, f"MUSTERFRAU ERIKA {who['PatientID']}", (30, 30), scale=1.0)
            builders.write_text(pixels, "L", (850, 60), scale=1.4)
        data = builders.dicom(
            pixels, patient=patient, instance=number, modality=kind, bits=bits,
            PatientName="Musterfrau^Erika", PatientAge=None,
        )  # fmt: skip
        (folder / f"IM{number:04d}").write_bytes(data)
    return count if kind == "DX" else 1


@pytest.mark.parametrize(
    ("kind", "count", "most"),
    [
        ("CT", 4, 8),
        ("US", 2, 12),
        pytest.param("DX", 2, 25, marks=pytest.mark.slow),
        pytest.param("CT", 200, 8, marks=pytest.mark.slow),
        pytest.param("US", 30, 12, marks=pytest.mark.slow),
        pytest.param("DX", 10, 25, marks=pytest.mark.slow),
    ],
)
def test_a_day_takes_few_actions(
    server: Server, tmp_path: Path, kind: str, count: int, most: int
) -> None:
    """Drop, take in, open the sheets, and one press a sheet, whatever is on it."""
    folder = tmp_path / "study"
    patients = study(folder, kind, count, {"CT": 100, "US": 200, "DX": 300}[kind] + count * 7)
    with chromium(server) as visitor:
        visitor.sign_in("technician", PASSWORD)
        tina = Counted(visitor)
        tina.send(folder, count, patients)
        tina.seal_all()
        visitor.reads("Nothing waits")
    assert len(tina.done) == 3 + -(-count // ON_A_SHEET), tina.done
    assert len(tina.done) <= most
