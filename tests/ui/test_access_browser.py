"""An emergency from breaking the glass to its review, in a real Chromium."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from engine import Detection, Engine, Region, Settings
from tests import builders
from tests.browsing import chromium
from tests.conftest import PASSWORD
from tests.fakes import ScriptedDetector
from tests.serving import Server, people, serve, settings

pytestmark = pytest.mark.browser

URGENT = "unconscious in the emergency room"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for care relations, with a patient whom nobody treats."""
    folder = tmp_path_factory.mktemp("access")
    _fill(settings(folder))
    with serve(folder, MEDSEC_CARE_RELATION="true") as server:
        yield server


def _fill(held: Settings) -> None:
    pixels = builders.radiograph(640, 480)
    builders.write_text(pixels, "MUSTERFRAU ERIKA", (24, 24))
    found = [
        Detection(Region(16, 16, 260, 56), "text", 0.9, "scripted"),
        Detection(Region(160, 120, 480, 400), "thorax", 0.9, "scripted"),
    ]
    engine = Engine.open(held, detector=ScriptedDetector(held, found))
    try:
        team = people(engine)
        patient = engine.patients.create(team.technician, "P-4711", "Erika Musterfrau", 61)
        draft = engine.drafts.upload(
            team.technician, patient.patient_id, "erika.png", builders.png(pixels)
        )
        view = engine.drafts.open(team.technician, draft.image_id)
        engine.drafts.seal(team.technician, draft.image_id, view.detections)
        engine.care.set_restorable_classes(team.administrator, "doctor", ["thorax"])
    finally:
        engine.close()


def test_an_emergency_from_the_glass_to_its_review(server: Server) -> None:
    shots = os.environ.get("MEDSEC_SCREENSHOTS")
    with chromium(server) as dora:
        dora.sign_in("doctor", PASSWORD, "/Review")
        search = dora.page.get_by_placeholder("Number or name")
        search.fill("P-4711")
        search.press("Enter")
        dora.settle()
        dora.reads("No sealed image matches.")
        dora.page.locator("summary", has_text="Emergency access to a patient").click()
        dora.fill("Patient number", "P-4711")
        dora.page.get_by_label("Why do you need this patient now?").fill(URGENT)
        dora.click("Emergency access (break-glass)")
        dora.reads("Emergency access to patient P-4711 until")
        dora.click("View", exact=False)
        dora.click("Details")
        dora.reads("Erika Musterfrau")
        dora.fill("Why do you need to see the original?", "allergies on file")
        dora.click("Restore the original")
        dora.reads(
            "Partly restored: 1 of 2 regions are open. Your account cannot open these classes: text"
        )
        expect(dora.page.get_by_role("button", name="Opened regions")).to_have_count(1)
        expect(dora.page.get_by_role("button", name="Original")).to_have_count(0)
        if shots:
            dora.page.screenshot(path=str(Path(shots) / "part.png"), full_page=True)

    with chromium(server) as ada:
        ada.sign_in("admin", PASSWORD)
        ada.reads("Emergency access: 1 open now, 0 to review")
        ada.go("/Admin")
        ada.page.get_by_role("tab", name="Access").click()
        ada.reads(URGENT)
        ada.click("End access now", exact=False)
        ada.page.get_by_text("justified", exact=True).click()
        ada.fill("Remark", "spoke to the ward")
        if shots:
            ada.page.screenshot(path=str(Path(shots) / "access.png"), full_page=True)
        ada.click("Record the review")
        ada.reads("Emergency access: 0 to review")
        assert "Erika" not in ada.page.inner_text("body")

    with chromium(server) as dora:
        dora.sign_in("doctor", PASSWORD, "/Review")
        dora.reads("No sealed image matches.")
