"""A passkey's whole life in a real Chromium, with an authenticator that Chromium imitates."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import CDPSession, expect

from engine import Engine
from tests.browsing import Visitor, chromium
from tests.conftest import PASSWORD
from tests.fakes import ScriptedDetector
from tests.serving import Server, people, serve, settings

pytestmark = pytest.mark.browser


def plug_in(visitor: Visitor) -> CDPSession:
    """A security key in this browser's socket."""
    line = visitor.page.context.new_cdp_session(visitor.page)
    line.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "usb",
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    line.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    return line


def password_again(visitor: Visitor, button: str) -> None:
    """Type the password into the form of a button, and press it."""
    form = visitor.page.locator("[data-testid=stForm]").filter(
        has=visitor.page.get_by_role("button", name=button, exact=True)
    )
    form.get_by_label("Your password", exact=True).fill(PASSWORD)
    visitor.click(button)


def test_a_passkey_is_added_used_and_removed(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    engine = Engine.open(chosen, detector=ScriptedDetector(chosen, []))
    people(engine)
    engine.close()
    with serve(tmp_path, MEDSEC_WEB_ORIGIN="http://localhost:{port}") as started:
        server = Server(started.url.replace("127.0.0.1", "localhost"), started.log, started.pid)
        with chromium(server) as eva:
            plug_in(eva)
            eva.sign_in("doctor", PASSWORD, "/account")
            eva.fill("Name of the device", "Blue key")
            password_again(eva, "Add a passkey")
            eva.click("Continue with your device")
            eva.reads("Passkey added")
            eva.reads("Blue key")
            recovery = eva.page.locator("[data-testid=stCode]").inner_text().split()
            assert len(recovery) == 10

            eva.sign_out()
            eva.go("/account")
            eva.page.get_by_label("User name").fill("doctor")
            eva.page.get_by_label("Password", exact=True).fill(PASSWORD)
            eva.click("Sign in")
            eva.reads("One more step")
            eva.click("Sign in with a passkey")
            expect(eva.page.get_by_role("heading", name="My account")).to_be_visible()

            eva.page.get_by_text("Change the second factor").click()
            eva.click("Use a passkey instead of a code")
            eva.reads("Your passkey has answered")
            password_again(eva, "Remove the passkey")
            eva.reads("Passkey removed")
            expect(eva.page.get_by_text("Blue key")).to_have_count(0)
