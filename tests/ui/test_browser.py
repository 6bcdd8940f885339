"""The day of each role in a real Chromium, through the real server and the real networks."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from playwright.sync_api import expect

import api
from tests import builders
from tests.browsing import DESKTOP, PHONE, TABLET, Visitor, chromium
from tests.conftest import PASSWORD
from tests.serving import ROOT, Server, serve

pytestmark = pytest.mark.browser

#: The button of the editor, not the one that seals drafts without a look.
SEAL = re.compile(r"Seal \d+ regions?$")
TEXT = "MUSTERFRAU ERIKA 12.04.1961"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("browser")) as server:
        yield server


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the technician drops: a radiograph, a moving DICOM, and one that only looks like one."""
    folder = tmp_path_factory.mktemp("files")
    pixels = builders.radiograph(900, 700)
    builders.write_text(pixels, TEXT, (40, 30), scale=1.0)
    stack, _, _ = builders.cine(5, 480, 360)
    contents = {
        "thorax.png": builders.png(pixels),
        "echo.dcm": builders.dicom(stack, modality="US"),
        "lying.jpg": b"GIF89a and nothing more",
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in contents}


@pytest.fixture(scope="module")
def accounts(server: Server) -> None:
    """The very first visit: the console's code makes the administrator, who makes the rest."""
    with chromium(server) as ada:
        ada.go("/")
        ada.fill("Setup code from the console", server.code())
        ada.fill("User name", "ada")
        ada.fill("Your name", "Ada Admin")
        ada.page.get_by_label("Password", exact=True).fill(PASSWORD)
        ada.page.get_by_label("Repeat password").fill(PASSWORD)
        ada.click("Create administrator")
        ada.reads("Good day, Ada Admin")
        ada.go("/Admin")
        for username, role in (("tina", "technician"), ("dora", "doctor")):
            ada.fill("User name", username)
            ada.fill("Name", username.title())
            ada.choose("Role", role)
            ada.page.get_by_label("Initial password", exact=True).fill(PASSWORD)
            ada.click("Create account")
            ada.reads("Account created.")
        expect(ada.page.locator('img[src*="/api/"]')).to_have_count(0)  # no patient pictures here


@pytest.fixture(scope="module")
def sealed(server: Server, accounts: None, files: dict[str, Path]) -> str:
    """The technician's part of the journey; the id of the sealed radiograph."""
    with chromium(server) as tina:
        tina.sign_in("tina", PASSWORD, "/Upload")
        tina.page.locator("summary", has_text="New patient").first.click()
        tina.fill("Patient number", "P-4711")
        tina.fill("Name", "Erika Musterfrau")
        tina.click("Add patient")
        tina.reads("Patient added.")
        tina.page.locator("summary", has_text="Send files from here").click()
        tina.page.locator('[data-testid="stFileUploader"] input[type="file"]').set_input_files(
            list(files.values())
        )
        tina.page.get_by_text("Last batch: 2 uploaded, 1 failed").wait_for(timeout=120_000)
        tina.settle()
        tina.reads("lying.jpg")

        # The radiograph's text was found by a real network and lies where it was written.
        open_draft(tina, "PNG 900×700")
        tina.page.locator(".stage").press("j")  # the next one, without a decision
        tina.settle()
        tina.reads("echo.dcm")
        tina.click("Back to the queue")
        open_draft(tina, "PNG 900×700")
        box = tina.page.locator(".box").first
        expect(box).to_be_visible()
        assert "text" in (box.get_attribute("aria-label") or "")
        correct_by_keyboard_and_mouse(tina)
        seal(tina)
        # The second file has frames; it opened by itself.
        tina.reads("echo.dcm")
        expect(tina.page.get_by_label("Frame", exact=True)).to_be_visible()
        seal(tina)
        tina.page.locator("summary", has_text="Sealed just now: 2").click()
        tina.page.get_by_role("button", name="Show ").last.click()
        tina.settle()
        address = tina.page.locator('a[href*="/file"]').first.get_attribute("href") or ""
        image_id = address.split("/")[3]

        # From now on: the sealed picture, and nothing under a box.
        tina.page.get_by_role("tab", name="Grid picture").click()
        grid = tina.page.locator('img[src$="/grid"]')
        expect(grid).to_be_visible()
        tina.page.wait_for_function("i => i.naturalWidth > 0", arg=grid.element_handle())
        hidden = regions(tina)
        picture = tina.context.request.get(f"{server.url}/api/images/{image_id}/frames/0")
        seen = np.asarray(Pillow.open(io.BytesIO(picture.body())).convert("L"))
        before = np.asarray(Pillow.open(files["thorax.png"]).convert("L"))
        assert (seen[~hidden] == before[~hidden]).all()
        assert hidden[32:52, 40:400].all()
        assert before[30:52, 40:400].max() == 255
        assert seen[30:52, 40:400].max() < 255  # the white of the letters is gone
    return image_id


def regions(tina: Visitor) -> np.ndarray:
    """What the table below the sealed image says is hidden, shape (700, 900), bool."""
    tina.page.get_by_role("tab", name="Sealed image").click()
    hidden = np.zeros((700, 900), bool)
    for row in tina.page.locator(".rows tbody tr").all():
        x1, y1, x2, y2 = map(
            int, row.locator("td").nth(3).inner_text().replace("–", ",").split(",")
        )
        hidden[y1:y2, x1:x2] = True
    assert hidden.any()
    return hidden


def open_draft(tina: Visitor, what: str) -> None:
    tina.page.locator(".item", has_text=what).first.click()
    tina.settle()
    tina.reads("Correct the boxes, then seal")
    expect(tina.page.locator('.pane .picture[src^="blob:"]')).to_have_count(1)


def correct_by_keyboard_and_mouse(tina: Visitor) -> None:
    """Draw, move, relabel and remove: what a person does before sealing."""
    page = tina.page
    stage = page.locator(".stage")
    expect(page.locator(".list li")).not_to_have_count(0)
    found = page.locator(".list li").count()
    # By mouse: draw a box near the lower right corner.
    page.get_by_role("button", name="Draw boxes").click()
    place = stage.bounding_box()
    assert place is not None
    x, y = place["x"] + place["width"] * 0.6, place["y"] + place["height"] * 0.7
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 90, y + 50, steps=4)
    page.mouse.up()
    tina.settle()
    expect(page.locator(".list li")).to_have_count(found + 1)
    page.get_by_role("button", name="Draw boxes").click()
    # By keyboard: move it by 10 px and make it 1 px wider.
    drawn = page.locator(".box").last
    # What will be hidden: a found box with its padding, one's own as drawn, to whole blocks.
    expect(page.locator(".mask").first).to_be_hidden()
    page.get_by_label("Preview as masked").check()
    for box, least in ((page.locator(".box").first, 1), (drawn, 0)):
        mask = [int(n) for n in re.findall(r"\d+", box.locator(".mask").get_attribute("d") or "")]
        left, top, right, bottom = _corners(box.get_attribute("aria-label"))
        assert mask[0] <= max(0, left - least)
        assert mask[1] <= max(0, top - least)
        assert mask[2] >= right
        assert mask[3] >= bottom
        expect(box.locator(".mask")).to_be_visible()
    page.get_by_label("Preview as masked").uncheck()
    before = _corners(drawn.get_attribute("aria-label"))
    drawn.focus()
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Alt+ArrowRight")
    tina.settle()
    after = _corners(page.locator(".box").last.get_attribute("aria-label"))
    x1, y1, x2, y2 = before
    assert after == (x1 - 10, y1, x2 - 9, y2)
    # A second one by keyboard alone, relabelled, then removed again without a question.
    stage.focus()
    page.keyboard.press("n")
    tina.settle()
    number = found + 2
    page.get_by_label(f"Class of box {number}").select_option("barcode")
    tina.settle()
    assert "barcode" in (page.locator(".box").last.get_attribute("aria-label") or "")
    # Keys do the same: the first class by its number, and the box enlarged and back.
    page.locator(".box").last.focus()
    page.keyboard.press("1")
    tina.settle()
    assert "text" in (page.locator(".box").last.get_attribute("aria-label") or "")
    for zoomed in (True, False):
        page.keyboard.press("e")
        assert ("free" in (stage.get_attribute("class") or "").split()) is zoomed
    page.keyboard.press("Delete")
    tina.settle()
    expect(page.locator(".list li")).to_have_count(found + 1)
    # A box that was drawn over the one that has the focus is the one that Delete removes.
    page.get_by_role("button", name="Draw boxes").click()
    page.locator(".box").first.focus()
    under = page.locator(".box").first.bounding_box()
    assert under is not None
    page.mouse.move(under["x"] + 4, under["y"] + 4)
    page.mouse.down()
    page.mouse.move(under["x"] + 44, under["y"] + 34, steps=4)
    page.mouse.up()
    tina.settle()
    expect(page.locator(".list li")).to_have_count(found + 2)
    page.keyboard.press("Delete")
    tina.settle()
    expect(page.locator(".list li")).to_have_count(found + 1)
    expect(page.locator(".list li s")).to_have_count(0)  # no found one went
    page.get_by_role("button", name="Draw boxes").click()
    # Several go with one reason, in one step that can be undone.
    stage.focus()
    page.keyboard.press("?")
    expect(page.get_by_text("choose all boxes, or none")).to_be_visible()
    page.keyboard.press("?")
    page.get_by_label("Choose box 1", exact=True).check()
    page.get_by_label(f"Choose box {found + 1}", exact=True).check()
    expect(page.get_by_text("2 boxes chosen")).to_be_visible()
    page.get_by_role("button", name="Remove the chosen boxes").click()
    tina.settle()
    expect(page.locator(".list li s")).to_have_count(1)
    expect(page.locator(".list li")).to_have_count(found)
    expect(page.get_by_role("button", name=SEAL)).to_be_enabled()  # there is a reason
    page.get_by_role("button", name="Undo").click()
    tina.settle()
    expect(page.locator(".list li s")).to_have_count(0)
    # A found one goes with a reason only, and comes back.
    page.get_by_role("button", name="Remove box 1", exact=True).click()
    tina.settle()
    expect(page.get_by_role("button", name=SEAL)).to_be_disabled()
    page.get_by_label("Usual reasons for removing box 1").select_option(index=1)
    tina.settle()
    expect(page.get_by_role("button", name=SEAL)).to_be_enabled()
    page.get_by_role("button", name="Keep box 1", exact=True).click()
    tina.settle()


def seal(tina: Visitor) -> None:
    """Seal; where the second look sees more, it comes back by name and is sealed too."""
    for _ in range(6):
        expect(tina.page.get_by_role("button", name=SEAL)).to_be_enabled()
        tina.page.locator(".stage").press("Control+Enter")
        tina.settle()
        asked = tina.page.get_by_role("dialog")
        if asked.count():
            expect(asked).to_contain_text("What did your check show?")
            tina.page.keyboard.press("Control+Enter")
            expect(asked).to_have_count(0)
            tina.settle()
        while (now := tina.context.request.get(f"{tina.server.url}/api/intakes/").json())[
            "sealing"
        ]:
            tina.page.wait_for_timeout(200)
        if not now["came_back"]:
            return
        tina.reads("Not sealed: Text is still readable after masking")
        tina.click("Open it again")
        tina.reads("Correct the boxes, then seal")
    raise AssertionError("it never got sealed: " + tina.page.inner_text("body"))


def _corners(label: str | None) -> tuple[int, ...]:
    numbers = (label or "").split("from ")[1].replace(" to ", ", ")
    return tuple(int(n) for n in numbers.split(", "))


# --- the journey ------------------------------------------------------------------------------


def test_a_doctor_finds_what_the_technician_sealed_and_gets_the_original_back(
    server: Server, sealed: str, files: dict[str, Path]
) -> None:
    with chromium(server) as dora:
        page = dora.page
        dora.sign_in("dora", PASSWORD, "/Review")
        page.get_by_label("Patient", exact=True).fill("muster")
        page.get_by_label("Patient", exact=True).press("Enter")
        dora.settle()
        page.locator("summary", has_text="More filters").click()
        page.wait_for_timeout(1000)  # what unfolds must not move the field under the mouse
        dora.choose("Modality", "US")
        expect(page.get_by_role("button", name="View ")).to_have_count(1)
        assert "modality=US" in page.url
        assert "muster" not in page.url
        dora.go(f"/Review?image={sealed}")
        dora.reads("Erika Musterfrau")
        expect(page.get_by_role("button", name="Original", exact=True)).to_have_count(0)
        dora.fill("Why do you need to see the original?", "tumour board")
        dora.click("Restore the original")
        dora.reads("The stored pixels are identical to those of the original, verified by SHA-256.")

        # Both pictures, compared by the slider and its keys, side by side, zoomed as one.
        expect(page.locator('.pane .picture[src^="blob:"]')).to_have_count(2)
        slider = page.get_by_label("Sealed left of here, original right of here")
        slider.focus()
        for _ in range(4):
            page.keyboard.press("ArrowLeft")
        split = page.locator(".stage").evaluate("s => s.style.getPropertyValue('--split')")
        assert split == "48%"
        page.get_by_role("button", name="Side by side").click()
        page.get_by_role("button", name="Show region 1", exact=True).click()
        expect(page.locator(".rows tr.selected")).to_have_count(1)
        worlds = page.locator(".world").evaluate_all(
            "worlds => worlds.map(w => getComputedStyle(w).transform)"
        )
        assert len(worlds) == 2
        assert len(set(worlds)) == 1
        page.get_by_text("Not for primary diagnosis").first.wait_for()
        page.get_by_label("Enhance contrast").check()
        dora.reads("Changed for this view only: contrast enhanced (CLAHE).")

        dora.fill("New note", "No change since last year.")
        dora.click("Add note")
        dora.reads("No change since last year.")

        with page.expect_download() as download:
            page.get_by_role("link", name="Original PNG").click()
        assert download.value.suggested_filename == "thorax.png"
        assert Path(download.value.path()).read_bytes() == files["thorax.png"].read_bytes()

        # A reload keeps the session and finds what it has open; a copied cookie ends with it.
        page.reload()
        dora.settle()
        dora.reads("Erika Musterfrau")
        expect(page.get_by_role("button", name="Side by side")).to_have_count(1)
        dora.click("Close the restoration")
        expect(page.get_by_role("button", name="Side by side")).to_have_count(0)
        cookie = next(c for c in dora.context.cookies() if c["name"] == api.COOKIE)
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        assert api.COOKIE not in page.evaluate("document.cookie")
        dora.sign_out()
        page.get_by_label("User name").wait_for()
        assert api.COOKIE not in {c["name"] for c in dora.context.cookies()}
        dora.context.add_cookies([{k: cookie[k] for k in ("name", "value", "domain", "path")}])  # type: ignore[list-item]
        answer = dora.context.request.get(f"{server.url}/api/images/{sealed}/thumbnail")
        assert answer.status == 401
        dora.go("/Review")
        expect(page.get_by_label("User name")).to_have_count(1)


def test_an_opened_picture_leaves_the_screen_when_its_time_is_over(
    server: Server, sealed: str
) -> None:
    with chromium(server) as dora:
        page = dora.page
        page.clock.install()
        dora.sign_in("dora", PASSWORD)
        dora.go(f"/Review?image={sealed}")
        dora.fill("Why do you need to see the original?", "second reading")
        dora.click("Restore the original")
        dora.reads("The stored pixels are identical to those of the original")
        pictures = page.locator('.pane .picture[src^="blob:"]')
        expect(pictures).to_have_count(2)
        page.clock.fast_forward("05:01")
        dora.reads("Restore the image again to see the original")
        expect(pictures).to_have_count(1)
        expect(page.get_by_role("button", name="Original", exact=True)).to_be_disabled()


def test_the_frames_of_a_moving_image_are_turned_by_keyboard(server: Server, sealed: str) -> None:
    with chromium(server) as dora:
        page = dora.page
        dora.sign_in("dora", PASSWORD)
        dora.go("/Review?modality=US")
        dora.click("View", exact=False)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.locator(".stage").focus()
        page.keyboard.press("PageDown")
        page.keyboard.press("PageDown")
        expect(page.locator("output")).to_have_text("3 of 5")
        page.get_by_label("Window preset").wait_for()
        page.get_by_label("Window centre").fill("60")
        page.get_by_label("Window width").fill("90")
        page.get_by_label("Window width").press("Tab")
        dora.reads("Changed for this view only: window 60 / 90.")
        page.wait_for_timeout(500)
        assert any("/frames/2?" in url and "center=60" in url for url in asked)


def test_a_phone_shows_the_same_and_scrolls_nowhere_sideways(server: Server, sealed: str) -> None:
    with chromium(server, viewport=PHONE, has_touch=True, is_mobile=True) as dora:
        page = dora.page
        dora.sign_in("dora", PASSWORD)
        for path in ("/", "/Review", f"/Review?image={sealed}", "/Analytics"):
            dora.go(path)
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= PHONE["width"], path
        dora.go(f"/Review?image={sealed}")
        dora.fill("Why do you need to see the original?", "on call")
        dora.click("Restore the original")
        page.get_by_role("button", name="Side by side").tap()
        first, second = (pane.bounding_box() for pane in page.locator(".pane").all())
        assert first is not None
        assert second is not None
        assert first["x"] == second["x"]  # one above the other


# --- screenshots for the README, on demand ----------------------------------------------------


@pytest.mark.skipif(
    "MEDSEC_SCREENSHOTS" not in os.environ, reason="set MEDSEC_SCREENSHOTS to refresh docs"
)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "view"), [("desktop", DESKTOP), ("tablet", TABLET), ("phone", PHONE)]
)
def test_screenshots(demo: Server, width: str, view: dict[str, int]) -> None:
    from demo.seed import PASSWORD as DEMO

    folder = ROOT / "docs" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)

    def keep(visitor: Visitor, name: str) -> None:
        visitor.page.wait_for_timeout(1200)
        visitor.page.screenshot(path=folder / f"{name}-{width}.png")

    with chromium(demo, viewport=view) as visitor:
        visitor.go("/")
        keep(visitor, "sign-in")
        visitor.sign_in("technician", DEMO)
        keep(visitor, "home")
        visitor.go("/Upload")
        keep(visitor, "upload")
        visitor.click("Correct the next image")
        visitor.page.locator(".stage").scroll_into_view_if_needed()
        keep(visitor, "editor")
    with chromium(demo, viewport=view) as visitor:
        visitor.sign_in("doctor", DEMO, "/Review")
        keep(visitor, "review")
        visitor.go("/Review?modality=DX")
        visitor.click("View", exact=False)
        visitor.fill("Why do you need to see the original?", "tumour board")
        visitor.click("Restore the original")
        visitor.page.locator(".captions").scroll_into_view_if_needed()
        keep(visitor, "restored")
        visitor.go("/Analytics")
        keep(visitor, "analytics")
    with chromium(demo, viewport=view) as visitor:
        visitor.sign_in("administrator", DEMO, "/Admin")
        visitor.page.get_by_role("tab", name="Audit log").click()
        visitor.settle()
        keep(visitor, "admin")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("demo"), patience=900, MEDSEC_DEMO="1") as server:
        yield server
