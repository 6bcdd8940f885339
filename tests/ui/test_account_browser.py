"""A second factor's whole life in a real Chromium: asked for, set up, used, asked for again."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pyotp
import pytest
from playwright.sync_api import expect

import api
from engine import Detection, Engine, Region
from engine.people.sessions import GRACE
from tests import builders
from tests.browsing import Visitor, chromium
from tests.conftest import PASSWORD
from tests.fakes import ScriptedDetector
from tests.serving import Server, people, serve, settings

pytestmark = pytest.mark.browser

BOX = Detection(Region(8, 8, 200, 40), "text", 0.9, "net")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Doctors need a second factor here, and are asked again after twelve seconds."""
    folder = tmp_path_factory.mktemp("accounts")
    chosen = settings(folder)
    engine = Engine.open(chosen, detector=ScriptedDetector(chosen, [BOX]))
    team = people(engine)
    patient = engine.patients.create(team.technician, "P1", "Erika Musterfrau", 61)
    original = builders.png(builders.labelled()[0])
    image = engine.drafts.upload(team.technician, patient.patient_id, "erika.png", original)
    engine.drafts.seal(team.technician, image.image_id, [BOX])
    (folder / "image").write_text(image.image_id)
    engine.close()
    with serve(folder, MEDSEC_SECOND_FACTOR="doctor", MEDSEC_STEP_UP_MINUTES="0.2") as server:
        yield server


def test_a_second_factor_from_the_request_to_the_restoration(server: Server) -> None:
    with chromium(server) as nora:
        nora.go("/")
        nora.page.locator("summary", has_text="Request an account").click()
        nora.fill("Sign-in name", "nora")
        nora.fill("Your name", "Nora New")
        nora.choose("Requested role", "doctor")
        nora.page.get_by_label("Choose a password", exact=True).fill(PASSWORD)
        nora.page.get_by_label("Repeat password", exact=True).fill(PASSWORD)
        nora.click("Send request")
        nora.reads("Tell an administrator this reference")
    with chromium(server) as ada:
        ada.sign_in("admin", PASSWORD, "/Admin")
        ada.reads("Nora New")
        ada.choose("Role to assign", "doctor")
        ada.click("Approve", exact=False)
        ada.reads("Account created")
    with chromium(server) as nora:
        nora.sign_in("nora", PASSWORD)
        signed_in = time.monotonic()
        nora.reads("Set it up below to use MedSec.")
        expect(nora.page.get_by_role("link", name="Review")).to_have_count(0)
        nora.page.get_by_label("Your password", exact=True).fill(PASSWORD)
        nora.click("Set up an app")
        picture = nora.page.locator('img[alt^="QR code"]')
        expect(picture).to_be_visible()
        assert picture.evaluate("i => i.naturalWidth") > 100  # the policy lets it show
        secret = nora.page.locator("code").first.inner_text().replace(" ", "")
        nora.page.get_by_label("Code", exact=True).fill(pyotp.TOTP(secret).now())
        nora.click("Turn on")
        nora.reads("These are your recovery codes.")
        codes = nora.page.locator("code").first.inner_text().split()
        assert len(codes) == 10

        # The same person later: password, code, and once more before an original is opened.
        restore(nora, server, codes[1], signed_in)
        nora.go("/account")
        nora.click("End all sessions")
        nora.reads("Sign in")
        second_step(nora, codes[0])
        nora.reads("Good day, Nora New")


def second_step(nora: Visitor, code: str) -> None:
    nora.go("/")
    nora.page.get_by_label("User name", exact=True).fill("nora")
    nora.page.get_by_label("Password", exact=True).fill(PASSWORD)
    nora.click("Sign in")
    nora.reads("One more step")
    nora.page.get_by_label("Code from your authenticator app", exact=True).fill(code)
    nora.click("Sign in")
    nora.page.get_by_role("button", name="Sign out", exact=True).wait_for()
    nora.settle()


def restore(nora: Visitor, server: Server, code: str, signed_in: float) -> None:
    image_id = (server.log.parent / "image").read_text()
    nora.go(f"/Review?image={image_id}")
    nora.page.wait_for_timeout(1000 * max(0, signed_in + 12 - time.monotonic()))
    other = nora.page.context.new_page()  # the same browser, at another picture
    other.goto(f"{server.url}/Review?image={image_id}")
    other.get_by_text("Why do you need to see the original?").wait_for()
    before = cookie(nora)
    nora.fill("Why do you need to see the original?", "tumour board")
    nora.click("Restore the original")
    dialog = nora.page.get_by_role("dialog")
    expect(dialog).to_contain_text("Confirm your identity")
    dialog.get_by_label("Password", exact=True).fill("wrong wrong wrong")
    dialog.get_by_role("button", name="Continue").click()
    expect(dialog).to_contain_text("is not correct")
    dialog.get_by_label("Password", exact=True).fill("")
    dialog.get_by_label("Or a code from your authenticator app", exact=True).fill(code)
    dialog.get_by_role("button", name="Continue").click()
    expect(dialog).to_have_count(0)
    nora.settle()
    nora.click("Restore the original")
    nora.reads("The stored pixels are identical to those of the original")
    # Whoever copied the cookie before has nothing soon; another page of the browser goes on.
    assert cookie(nora) != before
    headers = {"Cookie": f"{api.COOKIE}={before}"}
    until = time.monotonic() + GRACE.total_seconds() + 30
    while httpx.get(f"{server.url}/api/auth/me/", headers=headers).status_code != 401:
        assert time.monotonic() < until
        time.sleep(1)
    other.get_by_role("link", name="Home").click()
    other.get_by_text("Good day, Nora New").wait_for()
    other.close()


def cookie(visitor: Visitor) -> str:
    """The session's token, which scripts cannot read."""
    kept = visitor.page.context.cookies()
    return next(c["value"] for c in kept if c["name"] == api.COOKIE)
