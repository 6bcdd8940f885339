"""The study page in a real Chromium: few actions to a restored slice, and what the viewer does."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from playwright.sync_api import Locator, Route, expect

from engine import Detection, Engine, Region
from tests import builders
from tests.browsing import DESKTOP, Visitor, chromium
from tests.conftest import PASSWORD
from tests.fakes import ScriptedDetector
from tests.serving import Server, people, serve, settings

pytestmark = pytest.mark.browser

FOUND = [Detection(Region(8, 8, 60, 24), "text", 0.9, "scripted")]


def ct(instance: int) -> bytes:
    pixels = np.full((96, 128), 1000 + 40 * instance, np.uint16)
    pixels[30:60, 40:90] = 1400
    return builders.dicom(
        pixels, modality="CT", instance=instance, series=2, StudyDescription="CT thorax",
        SeriesDescription="Thorax 5.0", PatientSex="F", RescaleIntercept=-1024, RescaleSlope=1,
        WindowCenter=40, WindowWidth=400, PixelSpacing=[0.5, 0.5],
    )  # fmt: skip


@dataclass
class World:
    """A running server that has a patient with a CT series of six slices and a colour picture.

    Args:
        path: Of the page that shows the CT series, as a press of its card in the list opens it.
        sessions: Doctors' sessions that nobody has used yet: what one restores is open in it.
    """

    server: Server
    path: str
    sessions: list[str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """All sealed."""
    folder = tmp_path_factory.mktemp("study")
    chosen = settings(folder)
    detector = ScriptedDetector(chosen)
    engine = Engine.open(chosen, detector=detector)
    team = people(engine)
    patient_id = engine.patients.create(team.technician, "P-4711", "Doe^John", 47).patient_id
    detector.found = FOUND
    colour = np.random.default_rng(1).integers(0, 255, (96, 128, 3), np.uint8)
    files = [ct(number) for number in range(1, 7)]
    files.append(builders.dicom(colour, modality="US", series=5, SeriesDescription="Doppler"))
    for data in files:
        image_id = engine.drafts.upload(team.technician, patient_id, "x.dcm", data).image_id
        engine.drafts.seal(team.technician, image_id, FOUND, confirm="looked at")
    study = engine.studies.of_patient(team.doctor, patient_id)[0]
    path = f"/Review?study={study.study_id}&series={study.series[0].series_id}"
    sessions = [engine.sessions.sign_in("doctor", PASSWORD).token for _ in range(20)]
    engine.close()
    with serve(folder, patience=300) as running:
        yield World(running, path, sessions)


class Counted:
    """What a person does, counted: a click, a field that is filled, a key, a notch of the wheel."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.actions = 0

    def click(self, name: str, exact: bool = True) -> None:
        self.actions += 1
        self.visitor.click(name, exact)

    def follow(self, name: str) -> None:
        self.actions += 1
        self.visitor.page.get_by_role("link", name=name).click()
        self.visitor.settle()

    def fill(self, field: Locator, text: str) -> None:
        """Type and go on with Enter: one thing for a person."""
        self.actions += 1
        field.fill(text)
        field.press("Enter")
        self.visitor.settle()

    def wheel(self, stage: Locator) -> None:
        self.actions += 1
        place = stage.bounding_box()
        assert place is not None
        page = self.visitor.page
        page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
        page.mouse.wheel(0, 100)


def picture(dora: Visitor, number: int = 0) -> Locator:
    return dora.page.locator(".stack .picture").nth(number)


def shows(dora: Visitor, place: str, number: int = 0) -> None:
    """The corner says so, and the picture is there."""
    expect(dora.page.locator(".stack .corner.place").nth(number)).to_have_text(place)
    dora.page.wait_for_function(
        "i => i.complete && i.naturalWidth > 0 && !i.closest('.pane').hasAttribute('aria-busy')",
        arg=picture(dora, number).element_handle(),
    )


def test_a_doctor_sees_the_third_slice_of_a_restored_series_in_six_actions(world: World) -> None:
    with chromium(world.server) as dora:
        dora.sign_in("doctor", PASSWORD)
        counted = Counted(dora)
        counted.follow("Review")
        counted.fill(dora.page.get_by_placeholder("Number or name"), "P-4711")
        counted.click("View", exact=False)
        assert dora.page.url == world.server.url + world.path
        counted.click("Restore: clinical reading")
        expect(dora.page.locator(".corner.tone")).to_have_text("Original")
        for notch in (2, 3):
            counted.wheel(dora.page.locator(".stack .stage"))
            shows(dora, f"Image {notch} of 6")
        expect(picture(dora)).to_have_attribute("alt", "Original, Image 3 of 6")
        assert counted.actions <= 6
        dora.page.keyboard.press("ArrowDown")  # the viewer has the focus since the restoration
        shows(dora, "Image 4 of 6")
        slider = dora.page.locator(".stack input[type=range]").bounding_box()
        assert slider
        assert slider["y"] + slider["height"] < DESKTOP["height"]  # all is in sight
        dora.page.go_back()  # once: to the list
        expect(dora.page.get_by_placeholder("Number or name")).to_be_visible()


@pytest.fixture
def dora(world: World) -> Iterator[Visitor]:
    """A doctor who has the CT series open, sealed."""
    with chromium(world.server) as visitor:
        visitor.enter(world.sessions.pop(), world.path)
        shows(visitor, "Image 1 of 6")
        yield visitor


def test_the_patient_stays_in_sight_and_has_a_name_without_carets(dora: Visitor) -> None:
    banner = dora.page.get_by_role("region", name="Patient")
    expect(banner).to_contain_text("Doe, John")
    for fact in ("P-4711", "47 years", "female", "2024-02-29"):
        expect(banner).to_contain_text(fact)
    dora.page.mouse.wheel(0, 3000)
    dora.page.wait_for_timeout(500)
    expect(banner).to_be_in_viewport()
    assert "^" not in dora.page.inner_text("body")


def test_keys_turn_pictures_and_cine_goes_round(dora: Visitor) -> None:
    page = dora.page
    page.locator(".stack .stage").focus()
    page.keyboard.press("ArrowDown")
    shows(dora, "Image 2 of 6")
    page.keyboard.press("End")
    shows(dora, "Image 6 of 6")
    page.keyboard.press("ArrowDown")  # there is none behind the last
    shows(dora, "Image 6 of 6")
    page.keyboard.press("Home")
    seen = [""]
    page.keyboard.press("Space")
    for _ in range(100):
        seen.append(page.locator(".corner.place").inner_text())
        if len(set(seen)) == 7 and seen[-1] < seen[-2]:  # after the last the first comes again
            break
        page.wait_for_timeout(60)
    page.keyboard.press("Space")
    assert seen[-1] < seen[-2]
    assert set(seen[1:]) == {f"Image {n} of 6" for n in range(1, 7)}
    expect(page.get_by_role("button", name="Cine")).to_have_attribute("aria-pressed", "false")


def test_dragging_windows_the_values_and_colours_say_why_not(dora: Visitor) -> None:
    page = dora.page
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    expect(page.get_by_label("Window preset")).to_be_enabled()
    before = picture(dora).get_attribute("src")
    drag(dora, 120, -40)
    expect(page.locator(".corner.tone")).to_contain_text("Sealed · C ")
    page.wait_for_function("([i, b]) => i.src !== b", arg=[picture(dora).element_handle(), before])
    assert any("center=" in url and "width=" in url for url in asked)
    dora.reads("Changed for this view only: window")
    page.locator(".tile", has_text="Doppler").click()
    shows(dora, "Image 1 of 1")
    expect(page.get_by_label("Window preset")).to_be_disabled()
    drag(dora, 80, 80)
    dora.reads("Colours have no window")
    expect(page.locator(".corner.tone")).to_have_text("Sealed")


def drag(dora: Visitor, dx: int, dy: int) -> None:
    place = dora.page.locator(".stack .stage").first.bounding_box()
    assert place is not None
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    dora.page.mouse.move(x, y)
    dora.page.mouse.down()
    dora.page.mouse.move(x + dx, y + dy, steps=5)
    dora.page.mouse.up()


def test_two_series_side_by_side_turn_together_until_unlinked(dora: Visitor) -> None:
    page = dora.page
    page.get_by_role("button", name="Compare", exact=True).click()
    page.locator(".stack .stage").nth(1).click()
    page.locator(".tile", has_text="Thorax").click()
    shows(dora, "Image 1 of 6", 1)
    page.locator(".stack .stage").first.click()
    page.keyboard.press("PageDown")
    shows(dora, "Image 2 of 6", 0)
    shows(dora, "Image 2 of 6", 1)
    page.keyboard.press("+")
    scales = page.locator(".stack .stage").evaluate_all(
        "all => all.map(s => Number(s.style.getPropertyValue('--z')))"
    )
    assert scales[0] == pytest.approx(scales[1], rel=0.01)
    page.get_by_role("button", name="Linked", exact=True).click()
    page.locator(".stack .stage").first.focus()
    page.keyboard.press("PageDown")
    shows(dora, "Image 3 of 6", 0)
    shows(dora, "Image 2 of 6", 1)


def test_a_measured_line_is_there_again_when_its_picture_is(dora: Visitor) -> None:
    page = dora.page
    page.get_by_role("button", name="Measure").click()
    line = page.locator(".ruler")
    expect(line).to_have_count(1)
    length = page.locator(".length").inner_text()
    assert " mm by PixelSpacing" in length
    page.locator(".stack .stage").focus()
    page.keyboard.press("PageDown")
    shows(dora, "Image 2 of 6")
    expect(line).to_have_count(0)
    dora.click("Restore: clinical reading")
    expect(page.locator(".corner.tone")).to_have_text("Original")
    page.locator(".stack .stage").focus()
    page.keyboard.press("PageUp")
    shows(dora, "Image 1 of 6")
    expect(line).to_have_count(1)
    expect(page.locator(".length")).to_have_text(length)


def test_originals_leave_the_screen_when_the_restoration_is_over(world: World) -> None:
    with chromium(world.server) as dora:
        page = dora.page
        page.clock.install()
        dora.enter(world.sessions.pop(), world.path)
        dora.click("Restore: clinical reading")
        expect(page.locator(".corner.tone")).to_have_text("Original")
        page.clock.fast_forward("30:01")
        expect(page.locator(".corner.tone")).to_have_text("Sealed")
        dora.reads("The restoration has ended. Restore the study again")


def test_no_picture_of_a_study_is_kept_on_disk_or_served_by_streamlit(dora: Visitor) -> None:
    answers = []
    dora.page.on("response", lambda answer: answers.append(answer))
    dora.click("Restore: clinical reading")
    dora.page.locator(".stack .stage").focus()
    dora.page.keyboard.press("PageDown")
    shows(dora, "Image 2 of 6")
    for _ in range(300):  # the number is there before its picture
        pictures = [a for a in answers if "/api/" in a.url and "png" in a.headers["content-type"]]
        if any("/study-restorations/" in a.url for a in pictures):
            break
        dora.page.wait_for_timeout(100)
    assert any("/study-restorations/" in a.url for a in pictures)
    assert all(a.headers["cache-control"] == "no-store" for a in pictures)
    assert not [a.url for a in answers if "/media/" in a.url]


def test_a_stack_on_a_phone_is_turned_by_a_finger(world: World) -> None:
    phone: dict[str, object] = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
    with chromium(world.server, **phone, is_mobile=True) as dora:
        page = dora.page
        dora.enter(world.sessions.pop(), world.path)
        shows(dora, "Image 1 of 6")
        wide = page.evaluate("document.scrollingElement.scrollWidth - innerWidth")
        assert wide <= 0
        stage = page.locator(".stack .stage")
        stage.scroll_into_view_if_needed()
        swipe(stage, -90)
        shows(dora, "Image 3 of 6")


def swipe(stage: Locator, dy: int) -> None:
    """A finger's way over the stage, as the events of a pointer."""
    stage.evaluate(
        """(stage, dy) => {
          const box = stage.getBoundingClientRect();
          const at = (type, y) => stage.dispatchEvent(new PointerEvent(type, {
            pointerId: 7, pointerType: 'touch', isPrimary: true, bubbles: true, button: 0,
            clientX: box.x + 50, clientY: box.y + 200 + y }));
          stage.setPointerCapture = () => {};
          at('pointerdown', 0);
          for (let i = 1; i <= 10; i += 1) at('pointermove', (dy * i) / 10);
          at('pointerup', dy);
        }""",
        dy,
    )


def test_a_study_is_downloaded_masked_and_what_is_restored_as_it_came_in(dora: Visitor) -> None:
    def download(name: str) -> dict[str, bytes]:
        dora.page.get_by_role("button", name="Download").click()
        with dora.page.expect_download() as taken:
            dora.page.get_by_role("link", name=name).click()
        with zipfile.ZipFile(taken.value.path()) as archive:
            return {path: archive.read(path) for path in archive.namelist()}

    masked = download("Masked, Whole study")
    assert len(masked) == 9
    assert "DICOMDIR" in masked
    dora.click("Restore: clinical reading")
    expect(dora.page.locator(".corner.tone")).to_have_text("Original")
    originals = download("Originals, ")
    assert set(originals.values()) >= {ct(number) for number in range(1, 7)}
    assert not set(originals.values()) & set(masked.values())


def test_a_page_whose_requests_reach_another_server_is_loaded_anew(dora: Visitor) -> None:
    """Its own was gone for a while. Opening anything again would not bring the two together."""

    def gone(route: Route) -> None:
        told = "This image is no longer open. Open it again."
        route.fulfill(status=404, json={"status": 404, "title": told})

    loads: list[str] = []
    dora.page.on("load", lambda page: loads.append(page.url))
    dora.page.route("**/study-restorations/**/frames/**", gone)
    dora.click("Restore: clinical reading")
    dora.reads("This image is no longer open. Open it again.")
    assert not loads  # it is the same server
    dora.page.route("**/api/health/", lambda route: route.fulfill(json={"server": "sv_other"}))
    with dora.page.expect_event("load"):
        dora.page.locator(".stage").press("ArrowDown")
    dora.settle()
    dora.reads("This image is no longer open. Open it again.")  # once: it did not help
    assert len(loads) == 1
