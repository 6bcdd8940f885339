"""A real Chromium in front of a real server, and the few gestures that the journeys share."""

from __future__ import annotations

import atexit
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from playwright.sync_api import (
    Browser,
    BrowserContext,
    Error,
    Page,
    Playwright,
    TimeoutError,
    ViewportSize,
    WebSocket,
    expect,
    sync_playwright,
)

import api
from tests.serving import Server

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
DESKTOP: ViewportSize = {"width": 1440, "height": 1000}
TABLET: ViewportSize = {"width": 820, "height": 1180}
PHONE: ViewportSize = {"width": 390, "height": 844}
IDLE = """new Promise(done => requestAnimationFrame(
    () => requestIdleCallback(done, {timeout: 2000})))"""

expect.set_options(timeout=20_000)


class Visitor:
    """One person with a browser of their own; collects what must never happen.

    Args:
        page: Their only tab.
        complaints: Script errors, blocked content, and requests to anywhere else.
    """

    def __init__(self, context: BrowserContext, server: Server) -> None:
        self.context = context
        self.server = server
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        self.page.on("console", self._console)
        self.page.on("request", self._request)
        self._unanswered = False
        self.page.on("websocket", self._websocket)

    def _websocket(self, socket: WebSocket) -> None:
        """Every message of a page to its server, such as a click, is answered by some."""

        def answered(_: object) -> None:
            self._unanswered = False

        def sent(_: object) -> None:
            self._unanswered = True

        socket.on("framesent", sent)
        socket.on("framereceived", answered)
        socket.on("close", answered)

    def _console(self, message: object) -> None:
        text = str(getattr(message, "text", ""))
        if getattr(message, "type", "") == "error" and "Failed to load resource" not in text:
            self.complaints.append(f"console: {text}")

    def _request(self, request: object) -> None:
        url = str(getattr(request, "url", ""))
        if not url.startswith((self.server.url, "blob:", "data:")):
            self.complaints.append(f"asked elsewhere: {url}")

    def settle(self) -> None:
        """Wait until the page's script has run to its end and rests for a moment.

        On a busy machine a click may wait in the server before the page says that it runs.
        """
        done = self.page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]')
        quiet, until = 0, time.monotonic() + 120
        while quiet < 2:
            done.wait_for(timeout=120_000)
            self._idle()
            self.page.wait_for_timeout(50)
            quiet = quiet + 1 if done.count() and not self._unanswered else 0
            assert time.monotonic() < until, "the page never rests"

    def _idle(self) -> None:
        """Until the browser has handled every event and drawn what came of it."""
        with suppress(Error):  # the page that was asked has been left for another
            self.page.evaluate(IDLE)

    def go(self, path: str) -> None:
        self.page.goto(self.server.url + path)
        self.page.locator('[data-testid="stMainBlockContainer"]').wait_for()
        self.settle()

    def sign_in(self, username: str, password: str, path: str = "/") -> None:
        self.go(path)
        self.page.get_by_label("User name").fill(username)
        self.page.get_by_label("Password", exact=True).fill(password)
        self.click("Sign in")
        # A closed sidebar (phone) still has the button, out of sight.
        self.page.get_by_role("button", name="Sign out", include_hidden=True).wait_for(
            state="attached"
        )
        self.settle()

    def enter(self, token: str, path: str) -> None:
        """Open a page in a session that was begun elsewhere; it spares the form and two loads."""
        cookie = {"name": api.COOKIE, "value": token, "url": self.server.url}
        self.context.add_cookies([{**cookie, "httpOnly": True, "sameSite": "Strict"}])  # type: ignore[list-item, typeddict-item]
        self.go(path)

    def sign_out(self) -> None:
        """Sign out and wait for the form that follows: the page loads itself anew meanwhile."""
        self.click("Sign out")
        self.page.get_by_label("User name").wait_for()
        self.settle()

    def click(self, name: str, exact: bool = True) -> None:
        """Press the first button with exactly this name, or with it as a part, and wait."""
        self.page.get_by_role("button", name=name, exact=exact).first.click()
        self.settle()

    def fill(self, label: str, text: str) -> None:
        self.settle()
        field = self.page.get_by_role("textbox", name=label, exact=True)
        expect(field).to_have_count(1)  # a form that was sent may still be leaving
        field.fill(text)
        field.blur()  # what a form shows below a field must not move the button under the mouse

    def choose(self, label: str, option: str) -> None:
        """Pick from a select box of Streamlit; a page that is drawn anew closes an open list."""
        self.settle()
        expect(self.page.get_by_label(label, exact=True)).to_have_count(1)
        for patience_ms in (5_000, 30_000):
            self.page.get_by_label(label, exact=True).click()
            try:
                self.page.get_by_role("option", name=option).first.click(timeout=patience_ms)
                break
            except TimeoutError:
                if self.page.get_by_role("option", name=option).count() or patience_ms == 30_000:
                    raise
        self.settle()

    def reads(self, text: str) -> None:
        expect(self.page.get_by_text(text).first).to_be_visible()


_started: list[tuple[Playwright, Browser]] = []


def _browser() -> Browser:
    """One that all visitors of a module share; its start takes as long as a page."""
    if _started and not _started[-1][1].is_connected():
        stop()
    if not _started:
        playwright = sync_playwright().start()
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        except Error:
            playwright.stop()
            raise
        _started.append((playwright, browser))
        atexit.register(stop)  # for who is no module of tests
    return _started[-1][1]


def stop() -> None:
    """End the browser. While it is there, this thread can run no event loop of its own."""
    atexit.unregister(stop)
    while _started:
        playwright, browser = _started.pop()
        browser.close()
        playwright.stop()


@contextmanager
def chromium(server: Server, **options: object) -> Iterator[Visitor]:
    """A visitor with an empty profile of their own; complaints fail the test in the end."""
    context = _browser().new_context(**{"viewport": DESKTOP, **options})  # type: ignore[arg-type]
    visitor = Visitor(context, server)
    try:
        yield visitor
    except Exception as err:
        err.add_note(f"On the page:\n{visitor.page.inner_text('body')}")
        err.add_note(f"The server said:\n{server.log.read_text()[-3000:]}")
        raise
    finally:
        context.close()
    assert not visitor.complaints, visitor.complaints
