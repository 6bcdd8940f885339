"""axe-core finds nothing serious on any page of any role, light and dark, wide and narrow.

axe-core (MPL-2.0, for tests only) comes from npm into ``runs/``; without npm these are skipped.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import expect

from engine import Detection, Engine, Region, Role
from tests import builders
from tests.browsing import DESKTOP, PHONE, Visitor, chromium
from tests.conftest import PASSWORD, Team
from tests.fakes import ScriptedDetector
from tests.serving import ROOT, Server, people, serve, settings

pytestmark = pytest.mark.browser

AXE = "axe-core@4.14.1"
BOX = Detection(Region(8, 8, 200, 40), "text", 0.9, "net")
TABS = (
    "Access", "Audit log", "Keys and backups", "Health", "Profiles", "Models", "Release",
    "Settings",
)  # fmt: skip
CHARTS = ("Detection", "Work", "Randomness")
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, Scheme] = ("light", "dark")
#: A page that is the same for several roles is looked at once: the sign-in, which knows nobody yet,
#: and the analytics, where a researcher and an administrator are shown and allowed the same.
EVERYWHERE = {
    Role.TECHNICIAN: ["sign-in", "home", "account", "upload", "editor", "list"],
    Role.RESEARCHER: ["home", "account", "analytics", *CHARTS],
    Role.ADMINISTRATOR: ["home", "account", "admin", *TABS],
    Role.DOCTOR: ["home", "list", "sealed", "restored"],
}


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
    team: Team


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Five patients' sealed images, two drafts of a series, one of them to look at."""
    folder = tmp_path_factory.mktemp("axe")
    image_id, team = fill(folder)
    with serve(folder) as server:
        yield World(server, image_id, team)


def fill(folder: Path) -> tuple[str, Team]:
    """The image to look at, and who is signed in."""
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
    for n in (1, 2):
        detector.found = [BOX, Detection(Region(20, 100, 90, 130), "text", 0.15, "net")]
        data = builders.png(builders.labelled(f"JANE {n}", seed=20 + n)[0])
        engine.drafts.upload(team.technician, patient.patient_id, f"jane{n}.png", data)
    engine.close()
    return image.image_id, team


# Animations that come to an end, in the page and in the shadow trees of its components.
STILL = """() => {
  const roots = [document];
  for (const root of roots)
    for (const element of root.querySelectorAll("*"))
      if (element.shadowRoot) roots.push(element.shadowRoot);
  return !roots.flatMap(root => root.getAnimations()).some(animation =>
    animation.playState === "running" && animation.effect.getTiming().iterations !== Infinity);
}"""
SERIOUS = """axe.run({resultTypes: ["violations"]}).then(found => found.violations
  .filter(v => ["serious", "critical"].includes(v.impact))
  .map(v => `${v.id} (${v.nodes.length}): ${v.nodes[0].html.slice(0, 160)}`))"""
GROUND = """scheme => {
  const style = getComputedStyle(document.querySelector('[data-testid="stApp"]'));
  const sum = style.backgroundColor.match(/[0-9]+/g).slice(0, 3).reduce((a, b) => a + +b, 0);
  return scheme === "light" ? sum > 600 : sum < 165;
}"""


@dataclass
class Visit:
    """What axe says of the pages that one person sees, in each scheme.

    A page is loaded once and looked at twice, light on a wide screen and dark on a phone. All of
    axe's rules run both times: some depend on the colours, others on the width.

    Args:
        visitor: Who looks, with a browser of their own.
        axe: The checker's script.
        found: Serious and critical findings by scheme and place.
        scheme: Of the page as it is.
    """

    visitor: Visitor
    axe: str
    found: dict[str, dict[str, list[str]]]
    scheme: Scheme = "light"

    def both(self, where: str) -> None:
        """Look at the page in both schemes, and leave it as it was looked at last."""
        self.look(where, self.scheme)
        self.show("dark" if self.scheme == "light" else "light")
        self.look(where, self.scheme)

    def show(self, scheme: Scheme) -> None:
        """Change the scheme and the width of the page that is open."""
        self.scheme = scheme
        page = self.visitor.page
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size(DESKTOP if scheme == "light" else PHONE)
        page.wait_for_function(GROUND, arg=scheme)  # the page has really changed its colours
        self.visitor.settle()

    def look(self, where: str, scheme: Scheme) -> None:
        """Keep what axe calls serious or critical, shadow roots included."""
        page = self.visitor.page
        page.wait_for_function(STILL)
        assert page.evaluate(GROUND, scheme)
        if not page.evaluate("'axe' in window"):
            page.evaluate(self.axe)
        self.found[scheme][where] = page.evaluate(SERIOUS)


Found = dict[str, dict[str, list[str]]]


@pytest.fixture(scope="module")
def found(world: World, axe: str, request: pytest.FixtureRequest) -> Found:
    """What axe finds on every page of one role."""
    role: Role = request.param
    found: Found = {"light": {}, "dark": {}}
    with chromium(world.server, color_scheme="light") as who:
        visit = Visit(who, axe, found)
        if role is Role.DOCTOR:
            _doctors(visit, world)
        else:
            _others(visit, world.team, role)
    return found


def _others(visit: Visit, team: Team, role: Role) -> None:
    who = visit.visitor
    if role is Role.TECHNICIAN:
        who.go("/")
        visit.both("sign-in")
        who.sign_in("technician", PASSWORD)
    else:
        who.enter(team.token(role), "/")
    visit.both("home")
    who.go("/account")
    visit.both("account")
    if role is Role.TECHNICIAN:
        who.go("/Upload")
        visit.both("upload")
        who.click("Correct the next image")
        expect(who.page.locator(".box").first).to_be_visible()
        visit.both("editor")
        who.go("/Review")
        visit.both("list")
    elif role is Role.RESEARCHER:
        for scheme in SCHEMES:  # the server draws charts for one scheme, when the page is loaded
            visit.show(scheme)
            who.go("/Analytics")
            _drawn(who, scheme)
            visit.look("analytics", scheme)
            for tab in CHARTS:
                who.page.get_by_role("tab", name=tab).click()
                who.settle()
                visit.look(tab, scheme)
    else:
        who.go("/Admin")
        visit.both("admin")
        for tab in TABS:
            who.page.get_by_role("tab", name=tab).click()
            who.settle()
            visit.both(tab)


def _drawn(who: Visitor, scheme: Scheme) -> None:
    """Wait until the charts are drawn, in the colours of this scheme."""
    label = who.page.locator(".main-svg text").first
    label.wait_for()
    colour = label.evaluate("e => getComputedStyle(e).fill")
    dark = sum(int(n) for n in re.findall(r"[0-9]+", colour)[:3]) < 382
    assert dark == (scheme == "light"), colour


def _doctors(visit: Visit, world: World) -> None:
    dora = visit.visitor
    dora.enter(world.team.doctor, "/")
    visit.both("home")
    dora.go("/Review")
    dora.page.locator("summary", has_text="More filters").click()
    visit.both("list")
    dora.go(f"/Review?image={world.image_id}")
    expect(dora.page.locator('.pane .picture[src^="blob:"]')).to_have_count(1)
    visit.both("sealed")
    dora.fill("Why do you need to see the original?", "tumour board")
    dora.click("Restore the original")
    dora.reads("The stored pixels are identical to those of the original")
    dora.page.get_by_role("button", name="Measure").click()
    visit.both("restored")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("found", EVERYWHERE, indirect=True)
def test_no_page_has_a_serious_finding(
    found: Found, scheme: Scheme, request: pytest.FixtureRequest
) -> None:
    role: Role = request.node.callspec.params["found"]
    assert list(found[scheme]) == EVERYWHERE[role]
    serious = [f"{where}: {each}" for where, all_ in found[scheme].items() for each in all_]
    assert not serious, "\n".join(serious)


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
        dora.reads("1 image")
        reach("View")
        keys.press("Enter")
        dora.settle()
        reach("Details")
        keys.press("Enter")
        dora.settle()
        reach("Why do you need to see the original?", "textbox")
        keys.type("tumour board")
        keys.press("Enter")
        dora.reads("The stored pixels are identical to those of the original")
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
    with chromium(world.server) as dora:
        dora.enter(world.team.doctor, "/")
        for path in ("/", "/Review", f"/Review?image={world.image_id}", "/Analytics"):
            dora.page.set_viewport_size({"width": 390, "height": 900})
            dora.go(path)
            for width in (390, 820, 1440):
                dora.page.set_viewport_size({"width": width, "height": 900})
                dora.settle()
                wide = dora.page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, (path, width)
