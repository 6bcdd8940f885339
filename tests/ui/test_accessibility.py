"""axe-core finds nothing serious on any page of any role, light and dark, wide and narrow.

axe-core (MPL-2.0, for tests only) comes from npm into ``runs/``; without npm these are skipped.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from engine import Detection, Engine, Region, Role
from tests import builders
from tests.browsing import DESKTOP, PHONE, Visitor, chromium
from tests.conftest import PASSWORD
from tests.fakes import ScriptedDetector
from tests.serving import ROOT, Server, people, serve, settings

pytestmark = pytest.mark.browser

AXE = "axe-core@4.14.1"
BOX = Detection(Region(8, 8, 200, 40), "text", 0.9, "net")
TABS = (
    "Access", "Audit log", "Keys and backups", "Health", "Profiles", "Models", "Settings",
)  # fmt: skip


@pytest.fixture(scope="session")
def axe() -> str:
    """The checker's script."""
    folder = ROOT / "runs" / "axe"
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("axe-core needs npm")
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [npm, "install", "--silent", "--no-audit", "--no-save", "--prefix", folder, AXE],
            capture_output=True,
            timeout=120,
        )
        if done.returncode or not script.exists():
            pytest.skip("axe-core could not be fetched from npm")
    return script.read_text(encoding="utf-8")


@dataclass
class World:
    server: Server
    image_id: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Five patients' sealed images, two drafts of a series, one of them to look at."""
    folder = tmp_path_factory.mktemp("axe")
    fill(folder)
    with serve(folder) as server:
        yield World(server, (folder / "image").read_text())


def fill(folder: Path) -> None:
    chosen = settings(folder)
    detector = ScriptedDetector(chosen, [BOX])
    engine = Engine.open(chosen, detector=detector)
    team = people(engine)
    for n in range(5):
        patient = engine.patients.create(team.technician, f"P-{n}", f"Erika Number{n}", 61)
        data = builders.dicom(
            builders.labelled(f"ERIKA {n}", seed=n)[0], instance=n, PixelSpacing=[0.5, 0.5]
        )
        image = engine.drafts.upload(team.technician, patient.patient_id, f"{n}.dcm", data)
        engine.drafts.seal(team.technician, image.image_id, [BOX])
    engine.patients.add_note(team.doctor, patient.patient_id, "No change.", image.image_id)
    (folder / "image").write_text(image.image_id)
    for n in (1, 2):
        detector.found = [BOX, Detection(Region(20, 100, 90, 130), "text", 0.15, "net")]
        data = builders.png(builders.labelled(f"JANE {n}", seed=20 + n)[0])
        engine.drafts.upload(team.technician, patient.patient_id, f"jane{n}.png", data)
    engine.close()


def check(visitor: Visitor, axe: str, where: str) -> None:
    """No finding that axe calls serious or critical, shadow roots included."""
    visitor.page.wait_for_timeout(400)
    visitor.page.evaluate(axe)
    found: list[dict[str, Any]] = visitor.page.evaluate("axe.run().then(r => r.violations)")
    serious = [
        f"{where}: {v['id']} ({len(v['nodes'])}): {v['nodes'][0]['html'][:160]}"
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
    assert not serious, "\n".join(serious)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("role", [Role.TECHNICIAN, Role.RESEARCHER, Role.ADMINISTRATOR])
def test_no_page_has_a_serious_finding(world: World, axe: str, role: Role, scheme: str) -> None:
    wide = DESKTOP if scheme == "light" else PHONE
    with chromium(world.server, viewport=wide, color_scheme=scheme) as who:
        who.go("/")
        check(who, axe, "sign-in")
        who.sign_in("admin" if role is Role.ADMINISTRATOR else str(role), PASSWORD)
        check(who, axe, "home")
        who.go("/account")
        check(who, axe, "account")
        if role is Role.TECHNICIAN:
            who.go("/Upload")
            check(who, axe, "upload")
            who.page.get_by_role("button", name="Correct", exact=True).first.click()
            who.settle()
            expect(who.page.locator(".box").first).to_be_visible()
            check(who, axe, "editor")
            who.go("/Review")
            check(who, axe, "list")
            return
        who.go("/Analytics")
        who.page.wait_for_timeout(800)
        check(who, axe, "analytics")
        for tab in ("Detection", "Work", "Randomness"):
            who.page.get_by_role("tab", name=tab).click()
            who.settle()
            check(who, axe, tab)
        if role is Role.ADMINISTRATOR:
            who.go("/Admin")
            check(who, axe, "admin")
            for tab in TABS:
                who.page.get_by_role("tab", name=tab).click()
                who.settle()
                check(who, axe, tab)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_doctors_pages_have_no_serious_finding(world: World, axe: str, scheme: str) -> None:
    wide = DESKTOP if scheme == "light" else PHONE
    with chromium(world.server, viewport=wide, color_scheme=scheme) as dora:
        dora.sign_in("doctor", PASSWORD)
        check(dora, axe, "home")
        dora.go("/Review")
        dora.page.locator("summary", has_text="More filters").click()
        check(dora, axe, "list")
        dora.go(f"/Review?image={world.image_id}")
        expect(dora.page.locator('.pane .picture[src^="blob:"]')).to_have_count(1)
        check(dora, axe, "sealed")
        dora.fill("Why do you need to see the original?", "tumour board")
        dora.click("Restore the original")
        dora.reads("Identical to the original")
        dora.page.get_by_role("button", name="Measure").click()
        check(dora, axe, "restored")


def test_a_doctors_day_by_keyboard_alone(world: World) -> None:
    """Sign in, find, open, restore, compare, measure, note: without a mouse."""
    with chromium(world.server) as dora:
        page, keys = dora.page, dora.page.keyboard
        dora.go("/Review")

        def reach(name: str, role: Any = "button", most: int = 90) -> None:
            """Tab until the thing with this name has the focus."""
            goal = page.get_by_role(role, name=name).first
            goal.wait_for()
            for _ in range(most):
                keys.press("Tab")
                if goal.evaluate("e => e === e.getRootNode().activeElement"):
                    return
            raise AssertionError(f"{name} cannot be reached by Tab")

        reach("User name", "textbox")
        keys.type("doctor")
        keys.press("Tab")
        keys.type(PASSWORD)
        keys.press("Enter")
        page.get_by_role("button", name="Sign out", include_hidden=True).wait_for(state="attached")
        dora.settle()
        reach("Patient", "searchbox")
        keys.type("number3")
        keys.press("Enter")
        dora.settle()
        dora.reads("1 to 1 of 1 images")
        reach("View")
        keys.press("Enter")
        dora.settle()
        reach("Why do you need to see the original?", "textbox")
        keys.type("tumour board")
        keys.press("Enter")
        dora.reads("Identical to the original")
        dora.settle()
        page.locator("body").focus()
        reach("Measure")
        keys.press("Enter")
        said = page.locator(".length")
        expect(said).to_contain_text("mm by PixelSpacing")
        before = said.inner_text()
        keys.press("Shift+ArrowLeft")  # the line's start has the focus: 10 px are 5 mm
        expect(said).not_to_have_text(before)
        length = [float(text.split(" mm")[0]) for text in (before, said.inner_text())]
        assert length[1] - length[0] == pytest.approx(5, abs=0.11)
        reach("Sealed left of here", "slider")
        keys.press("ArrowLeft")
        split = page.locator(".stage").evaluate("s => s.style.getPropertyValue('--split')")
        assert split == "49.5%"
        reach("New note", "textbox")
        keys.type("No change since last year.")
        keys.press("Control+Enter")
        dora.reads("No change since last year.")


def test_nothing_scrolls_sideways_at_any_width(world: World) -> None:
    for width in (390, 820, 1440):
        with chromium(world.server, viewport={"width": width, "height": 900}) as dora:
            dora.sign_in("doctor", PASSWORD)
            for path in ("/", "/Review", f"/Review?image={world.image_id}", "/Analytics"):
                dora.go(path)
                wide = dora.page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, (path, width)
