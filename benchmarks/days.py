"""A day of each role in real browsers on three servers, and the same day with a server killed.

    python -m benchmarks.days [--victims technician doctor] [--no-write]

:mod:`benchmarks.hospital` is the set-up; the servers are the product itself, with its networks. A
technician, a doctor, a researcher and an administrator each have a browser of their own and come
through nginx; before anything else each is asked which server has them.

- The technician drops a folder with pictures of several kinds, says whose they are, corrects and
  seals one in the editor, and confirms the rest on a contact sheet.
- The doctor searches, restores an original, compares it side by side, downloads it, and flags one.
- The researcher draws the charts and downloads a table.
- The administrator searches the log, verifies its chain, changes a setting, disables the account of
  somebody who is at work, and signs everybody out.

Once nothing fails. Then the server of one of them is killed (SIGKILL) while the technician's images
are being sealed and the doctor has an original open, and everybody goes on as their page lets them.
At the end all servers are stopped, and the catalog must have exactly the acknowledged images, each
in the acknowledged state, each restored to the very same file, under a log whose chain verifies.

Pages may say nothing on the browser's console but what ``NAMED`` and ``NAMED_AFTER_KILL`` name.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image as Pillow
from playwright.sync_api import Browser, Locator, WebSocket, expect, sync_playwright

import api
from benchmarks.crash import same
from benchmarks.hospital import Hospital, Running, hospital
from benchmarks.screening import write
from engine import Detection, Engine, ImageState, Region, Role, errors
from tests import builders
from tests.browsing import ARGUMENTS, CHROMIUM, DESKTOP, Visitor
from tests.conftest import PASSWORD
from tests.fakes import ScriptedDetector
from tests.serving import Server, people
from tests.ui.test_actions_browser import ct, ultrasound

HEADING = "## Days (`benchmarks/days.py`)"
SERVERS = 3
#: Whose browser nginx sends where; ``locum`` is disabled in the end.
HOMES = {"technician": 0, "doctor": 1, "researcher": 2, "admin": 0, "locum": 2}
#: A step in which somebody waited longer than this is named.
LONG_SECONDS = 5.0
#: What a browser's console may say, and why. Anything else is an error.
NAMED = {
    r"404 .*/_stcore/(health|host-config)$": "Streamlit looks below the page's address first",
    r"401 .*/api/auth/me/$": "a page asks whether the session has ended, and it has",
}
#: The same, of those whose server was killed, from then on.
NAMED_AFTER_KILL = {
    r"^WebSocket connection to ": "the page's server is gone",
    r"502 .*/_stcore/": "the proxy finds no server yet",
    r"404 .*/api/(study-)?restorations/": "what the killed server had open is gone",
}
BOX = Detection(Region(8, 8, 320, 40), "text", 0.9, "scripted")
SEAL = re.compile(r"Seal \d+ regions?$")


# --- what is acknowledged ------------------------------------------------------------------------


@dataclass
class Ledger:
    """What people were told, over one day.

    Args:
        files: By name, as they were sent.
        sealed: Names of those that were said to be sealed.
        flagged: Names of those that were said to be withdrawn.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    sealed: set[str] = field(default_factory=set)
    flagged: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def pictures() -> dict[str, bytes]:
    """What the technician drops: kinds of files, and of what is in them."""
    moving, _, _ = builders.cine(5, 480, 360)
    plain, colour = (
        builders.radiograph(900, 700),
        builders.radiograph(800, 600, colour=True, seed=4),
    )
    for pixels in (plain, colour):
        builders.write_text(pixels, "MUSTERFRAU ERIKA 12.04.1961", (40, 30), scale=1.0)
    files = {
        f"ct{n}.dcm": builders.dicom(ct(n), patient=100, instance=n, modality="CT", bits=12,
                                     PatientAge=None)
        for n in (1, 2, 3)
    }  # fmt: skip
    who = builders.person(201)
    return {
        **files,
        "us.dcm": builders.dicom(ultrasound(1, who), patient=201, modality="US", PatientAge=None),
        "echo.dcm": builders.dicom(moving, patient=202, modality="US", PatientAge=None),
        "thorax.png": builders.png(plain),
        "photo.jpg": builders.jpeg(colour),
        "scan.tiff": builders.pillow(plain[::2, ::2].copy(), "TIFF"),
    }


def yesterday(place: Hospital, ledger: Ledger) -> None:
    """Accounts, and images that were sealed before, by the engine's own methods."""
    chosen = place.settings()
    engine = Engine.open(chosen, detector=ScriptedDetector(chosen, [BOX]))
    try:
        team = people(engine)
        engine.people.create(team.administrator, "locum", "Lou Locum", Role.DOCTOR, PASSWORD)
        for n in range(1, 9):
            who = engine.patients.create(team.technician, f"Y-{n}", f"Nowak Jan {n}", 40 + n)
            pixels = builders.labelled(f"NOWAK JAN {n}", seed=n)[0]
            name, data = f"yesterday{n}.dcm", builders.dicom(pixels, patient=n, modality="DX")
            image = engine.drafts.upload(team.technician, who.patient_id, name, data)
            engine.drafts.seal(team.technician, image.image_id, [BOX])
            ledger.files[name] = data
            ledger.sealed.add(name)
    finally:
        engine.close()


# --- people ---------------------------------------------------------------------------------------


@dataclass
class Step:
    """One thing that somebody did.

    Args:
        actions: Presses, fields, files dropped, pages opened.
        longest_s: The longest wait for the page in it.
    """

    who: str
    what: str
    actions: int = 0
    seconds: float = 0.0
    longest_s: float = 0.0


class Person(Visitor):
    """Somebody with a browser of their own, who counts and times."""

    def __init__(self, name: str, browser: Browser, place: Hospital) -> None:
        self.name, self.place = name, place
        self.steps: list[Step] = []
        self.lost_server = False
        self.fled_to: Running | None = None
        self.said: list[tuple[bool, str]] = []
        self.sockets = 0
        context = self._context_at(browser, place.servers[HOMES[name]])
        super().__init__(context, Server(place.url, place.folder / "error.log", 0))

    def _context_at(self, browser: Browser, home: Running) -> Any:
        """A browser that nginx sends to this server by the cookie that it gave it."""
        while True:
            context = browser.new_context(viewport=DESKTOP)
            if server_of(context, self.place) is home:
                return context
            context.close()

    def home(self) -> Running:
        """The server that has this browser now."""
        return server_of(self.context, self.place)

    @contextmanager
    def step(self, what: str) -> Iterator[Step]:
        """Count and time what is done within."""
        self.steps.append(Step(self.name, what))
        began = time.monotonic()
        try:
            yield self.steps[-1]
        except Exception as err:
            err.add_note(f"{self.name}: {what}\n{self.page.inner_text('body')[:3000]}")
            self.page.screenshot(path=str(Path(tempfile.gettempdir()) / "medsec-days.png"))
            raise
        finally:
            self.steps[-1].seconds = time.monotonic() - began
            print(f"  {self.name}: {what}: {self.steps[-1].seconds:.1f} s", flush=True)

    # --- gestures -----------------------------------------------------------------------------

    def did(self) -> None:
        self.steps[-1].actions += 1

    def settle(self) -> None:
        began = time.monotonic()
        super().settle()
        self.waited(began)

    def waited(self, began: float) -> None:
        if self.steps:
            step = self.steps[-1]
            step.longest_s = max(step.longest_s, time.monotonic() - began)

    def click(self, name: str, exact: bool = True) -> None:
        self.did()
        super().click(name, exact)

    def fill(self, label: str, text: str) -> None:
        self.did()
        super().fill(label, text)

    def choose(self, label: str, option: str) -> None:
        self.did()
        super().choose(label, option)

    def go(self, path: str) -> None:
        if self.steps:
            self.did()
        super().go(path)

    def press(self, where: Locator) -> None:
        self.did()
        where.click()
        self.settle()

    def until(self, locator: Locator, seconds: float = 600) -> None:
        """Wait for something that takes its time, and write down how long it was."""
        began = time.monotonic()
        expect(locator).to_be_visible(timeout=seconds * 1000)
        self.waited(began)
        self.settle()

    def table(self, link: str) -> list[list[str]]:
        with self.page.expect_download() as taken:
            self.press(self.page.get_by_role("link", name=link))
        return list(csv.reader(io.StringIO(Path(taken.value.path()).read_text())))

    def ask(self, path: str) -> Any:
        """What the API says to this browser."""
        return self.context.request.get(f"{self.place.url}/api{path}").json()

    def _websocket(self, socket: WebSocket) -> None:
        self.sockets += 1
        super()._websocket(socket)

    # --- what must not be ---------------------------------------------------------------------

    def _console(self, message: object) -> None:
        if getattr(message, "type", "") == "error":
            text = str(getattr(message, "text", ""))
            place = getattr(message, "location", {}).get("url", "")
            self.said.append((self.lost_server, f"{text} {place}".strip()))

    def problems(self) -> list[str]:
        """Complaints that have no name."""
        loud = [
            text
            for lost, text in self.said
            if not any(re.search(p, text) for p in [*NAMED, *(NAMED_AFTER_KILL if lost else ())])
        ]
        return [f"{self.name}: {text}" for text in [*self.complaints, *loud]]

    def after_kill(self) -> list[str]:
        """What the browser said because its server was killed."""
        return [
            text for lost, text in self.said
            if lost and any(re.search(p, text) for p in NAMED_AFTER_KILL)
        ]  # fmt: skip


def server_of(context: Any, place: Hospital) -> Running:
    """Which server nginx sends this browser to."""
    told = context.request.get(f"{place.url}/api/health/").json()["server"]
    return next(server for server in place.servers if _name_of(server) == told)


def _name_of(server: Running) -> str:
    if not server.healthy():
        return ""
    return str(httpx.get(f"{server.url}/api/health/", timeout=10).json()["server"])


# --- the day --------------------------------------------------------------------------------------


class Day:
    """One day on running servers.

    Args:
        victim: Whose server is killed in the middle; empty for a day on which nothing fails.
    """

    def __init__(self, place: Hospital, browser: Browser, ledger: Ledger, victim: str) -> None:
        self.place, self.ledger, self.victim = place, ledger, victim
        self.everybody = {name: Person(name, browser, place) for name in HOMES}
        self.tina, self.dora, self.rhea, self.ada, self.locum = self.everybody.values()
        self.today = pictures()
        self.image = ""

    def go(self, folder: Path) -> None:
        self.morning(folder)
        self.sheet()
        if self.victim:
            self.kill()
        self.evening()

    def morning(self, folder: Path) -> None:
        for person, path in zip(
            self.everybody.values(), ("/Upload", "/Review", "/Analytics", "/Admin", "/Review"),
            strict=True,
        ):  # fmt: skip
            with person.step("signs in"):
                person.sign_in(person.name, PASSWORD, path)
        self.take_in(folder)
        self.edit()
        self.restore("P-4711", "thorax.png")
        self.analyse("Images, CSV")
        self.audit("image.restore")

    def evening(self) -> None:
        self.seal_the_rest()
        self.restore_again()
        self.flag("Y-8", "yesterday8.dcm")
        self.analyse("Regions, CSV")
        self.change_a_setting()
        self.disable()
        self.audit("image.flag")
        self.sign_everybody_out()

    # --- technician ---------------------------------------------------------------------------

    def take_in(self, folder: Path) -> None:
        tina, page = self.tina, self.tina.page
        for name, data in self.today.items():
            (folder / name).write_bytes(data)
        with tina.step("drops a folder and says whose it is"):
            tina.press(page.locator("summary", has_text="New patient").first)
            tina.fill("Patient number", "P-4711")
            tina.fill("Name", "Erika Musterfrau")
            tina.click("Add patient")
            tina.reads("Patient added.")
            tina.did()
            page.get_by_label("Folder", exact=True).set_input_files(folder)
            page.get_by_role("button", name=re.compile("^Take in")).wait_for()
            tina.press(page.get_by_role("button", name=re.compile("^Take in")))
            tina.until(page.get_by_text(f"{len(self.today)} images taken in and encrypted"))
            self.ledger.files |= self.today
        with tina.step("waits until all were looked at"):
            tina.until(page.get_by_text(f"{len(self.today)} images looked at:").first)

    def edit(self) -> None:
        tina, page = self.tina, self.tina.page
        with tina.step("reviews the proposals of one and seals it"):
            tina.go("/Upload")
            tina.press(page.locator(".item", has_text="PNG 900×700").first)
            tina.reads("Correct the boxes, then seal")
            expect(page.locator('.pane .picture[src^="blob:"]')).to_have_count(1)
            box = page.locator(".box").first
            expect(box).to_be_visible()
            box.focus()
            for key in ("Shift+ArrowLeft", "Shift+ArrowRight", "Alt+ArrowRight"):
                tina.did()
                page.keyboard.press(key)
            tina.settle()
            self.seal_one()
            tina.go("/Upload")
            tina.press(page.locator("summary", has_text="Sealed just now"))
            tina.press(page.get_by_role("button", name="Show ").last)
            address = page.locator('a[href*="/file"]').first.get_attribute("href") or ""
            self.image = address.split("/")[3]
            self.ledger.sealed.add("thorax.png")
            tina.click("Back to the list")

    def seal_one(self) -> None:
        """Seal what is open; where the second look sees more, it comes back and is sealed too."""
        tina, page = self.tina, self.tina.page
        for _ in range(6):
            tina.press(page.get_by_role("button", name=SEAL))
            asked = page.get_by_role("dialog")
            if asked.count():
                tina.press(asked.get_by_role("button", name="I checked").first)
            came_back = self.rest()
            if not came_back:
                return
            tina.click("Open it again")
            tina.reads("Correct the boxes, then seal")
        raise AssertionError("it never got sealed")

    def rest(self) -> int:
        """Until nothing is looked at and nothing is being sealed. Returns how many came back."""
        began = time.monotonic()
        while True:
            now = self.tina.ask("/intakes/")
            if not (now["to_look"] or now["sealing"]):
                break
            assert time.monotonic() - began < 600
            self.tina.page.wait_for_timeout(200)
        self.tina.waited(began)
        return len(now["came_back"])

    def sheet(self) -> None:
        tina, page = self.tina, self.tina.page
        with tina.step("confirms a contact sheet"):
            tina.go("/Upload")
            tina.click("on contact sheets", exact=False)
            confirm = page.get_by_role("button", name="Confirm and seal")
            expect(confirm).to_be_enabled(timeout=120_000)
            tina.press(confirm)
            tina.reads("confirmed and being sealed.")

    def seal_the_rest(self) -> None:
        tina, page = self.tina, self.tina.page
        with tina.step("has the rest sealed"):
            tina.go("/Upload")
            again = page.get_by_role("button", name="Seal as confirmed")
            if again.count():
                tina.press(again)
            self.rest()
            for _ in range(30):
                tina.go("/Upload")
                following = page.get_by_role("button", name="Correct the next image")
                if not following.count():
                    break
                tina.press(following)
                tina.reads("Correct the boxes, then seal")
                self.seal_one()
            tina.reads("Nothing waits")
            self.ledger.sealed |= set(self.today)

    # --- doctor -------------------------------------------------------------------------------

    def find(self, number: str) -> None:
        dora, page = self.dora, self.dora.page
        dora.go("/Review")
        dora.did()
        page.get_by_label("Patient", exact=True).fill(number)
        page.get_by_label("Patient", exact=True).press("Enter")
        dora.settle()

    def restore(self, number: str, name: str) -> None:
        dora, page = self.dora, self.dora.page
        with dora.step("searches, restores and compares side by side"):
            self.find(number)
            self.details()
            self.open("tumour board")
            expect(page.locator('.pane .picture[src^="blob:"]')).to_have_count(2)
            dora.click("Side by side")
        with dora.step("downloads the original"):
            self.compare(name)

    def details(self) -> None:
        """From a patient's studies to their first image."""
        self.dora.press(self.dora.page.get_by_role("button", name="View ").first)
        self.dora.click("Details")

    def open(self, reason: str) -> None:
        dora = self.dora
        dora.fill("Why do you need to see the original?", reason)
        dora.click("Restore the original")
        dora.reads("The stored pixels are identical to those of the original, verified by SHA-256.")

    def compare(self, name: str) -> None:
        """The file byte for byte, and the shown picture pixel for pixel."""
        dora, page = self.dora, self.dora.page
        link = page.get_by_role("link", name="Original ")
        with page.expect_download() as taken:
            dora.press(link)
        data = Path(taken.value.path()).read_bytes()
        if (taken.value.suggested_filename, data) != (name, self.ledger.files[name]):
            self.ledger.problems.append(f"another file was downloaded: {name}")
        handle = (link.get_attribute("href") or "").split("/")[3]
        shown = dora.context.request.get(f"{self.place.url}/api/restorations/{handle}/frames/0")
        seen = np.asarray(Pillow.open(io.BytesIO(shown.body())).convert("L"))
        sent = np.asarray(Pillow.open(io.BytesIO(self.ledger.files[name])).convert("L"))
        if not np.array_equal(seen, sent):
            self.ledger.problems.append(f"another picture was shown: {name}")

    def restore_again(self) -> None:
        dora, page = self.dora, self.dora.page
        if not dora.lost_server:
            with dora.step("goes on with the original"):
                self.compare("thorax.png")
                dora.click("Close the restoration")
            return
        with dora.step("restores the original again, at another server"):
            dora.click("Close the restoration")
            dora.fill("Why do you need to see the original?", "tumour board, again")
            if dora.home() is not dora.fled_to:
                # Requests go to the server that is back, the page is with another: it loads anew.
                with page.expect_event("load", timeout=60_000):
                    dora.click("Restore the original")
                dora.settle()
                self.open("tumour board, once more")
            else:
                dora.click("Restore the original")
            expect(page.locator('.pane .picture[src^="blob:"]')).to_have_count(2)
            self.compare("thorax.png")
            dora.click("Close the restoration")

    def flag(self, number: str, name: str) -> None:
        dora, page = self.dora, self.dora.page
        with dora.step("flags an image"):
            self.find(number)
            self.details()
            dora.press(page.locator("summary", has_text="Report a missed region"))
            dora.fill("What was missed? Do not enter the name itself.", "a name at the edge")
            dora.click("Withdraw image")
            dora.reads("Image withdrawn.")
            self.ledger.flagged.add(name)

    # --- researcher, administrator ------------------------------------------------------------

    def analyse(self, link: str) -> None:
        with self.rhea.step("draws the charts and downloads a table"):
            self.rhea.go("/Analytics")
            expect(self.rhea.page.locator(".js-plotly-plot").first).to_be_visible()
            rows = self.rhea.table(link)
            if len(rows) < 6:
                self.ledger.problems.append(f"a table of {len(rows)} rows")

    def tab(self, name: str) -> None:
        self.ada.press(self.ada.page.get_by_role("tab", name=name, exact=True))

    def audit(self, action: str) -> None:
        ada, page = self.ada, self.ada.page
        with ada.step("searches the audit log and verifies its chain"):
            ada.go("/Admin")
            self.tab("Audit log")
            ada.did()
            page.get_by_role("searchbox", name="Search").fill(action)
            page.get_by_role("searchbox", name="Search").press("Enter")
            ada.settle()
            ada.click("Verify the chain", exact=False)
            ada.until(page.get_by_text("form one unbroken chain."))

    def change_a_setting(self) -> None:
        ada, dora = self.ada, self.dora
        with ada.step("changes a setting"):
            ada.go("/Admin")
            self.tab("Settings")
            ada.choose("Setting", "Time until a restoration closes")
            ada.fill("New value", "7")
            ada.click("Save")
            ada.reads("Saved.")
        with dora.step("sees the new setting on another server"):
            dora.go(f"/Review?image={self.image}")
            dora.reads("The original stays open for 7 minutes")

    def choose_account(self, name: str) -> None:
        self.ada.choose("Account", name)

    def disable(self) -> None:
        ada, locum = self.ada, self.locum
        headers = {"Cookie": f"{api.COOKIE}={cookie(locum)}"}

        def answers() -> list[int]:
            asked = [f"{server.url}/api/auth/me/" for server in self.place.servers]
            return [httpx.get(url, headers=headers).status_code for url in asked]

        with ada.step("disables an account"):
            ada.go("/Admin")
            self.choose_account("locum")
            ada.press(ada.page.get_by_role("button", name="Disable account …"))
            if answers() != [200] * SERVERS:
                self.ledger.problems.append(f"the locum is out too early: {answers()}")
            ada.page.get_by_role("button", name="Disable account", exact=True).click()
            ada.did()
            ada.reads("Account changed. It takes effect immediately.")
            if answers() != [401] * SERVERS:
                self.ledger.problems.append(f"the locum is still signed in: {answers()}")
            ada.settle()
        with locum.step("is out at the next click"):
            locum.did()
            locum.page.get_by_role("link", name="Analytics").click()
            locum.page.get_by_label("User name").wait_for()

    def sign_everybody_out(self) -> None:
        ada = self.ada
        for name in ("technician", "doctor", "researcher"):
            with ada.step("ends all sessions of an account"):
                ada.go("/Admin")
                self.choose_account(name)
                ada.click("End all sessions of this account")
                ada.reads("ended.")
            with self.everybody[name].step("is out at the next page"):
                person = self.everybody[name]
                person.go("/")
                expect(person.page.get_by_label("User name")).to_have_count(1)
        with ada.step("ends all own sessions"):
            ada.go("/account")
            ada.click("End all sessions")
            ada.page.get_by_label("User name").wait_for()

    # --- the kill -----------------------------------------------------------------------------

    def kill(self) -> None:
        """The server of the victim dies; a service manager starts it again."""
        homes = {name: person.home() for name, person in self.everybody.items()}
        dead = homes[self.victim]
        assert dead.process is not None
        for name, person in self.everybody.items():
            person.lost_server = homes[name] is dead
        before = {name: person.sockets for name, person in self.everybody.items()}
        dead.process.kill()
        dead.process.wait()
        for name, person in self.everybody.items():
            if homes[name] is dead:
                with person.step("their server is killed; the page connects to another"):
                    connected(person, before[name])
                    person.fled_to = person.home()
                    if person.fled_to is dead:
                        self.ledger.problems.append(f"{name} is still with the dead server")
        self.place.whole()
        self.place.wait(dead)


def connected(person: Person, sockets: int) -> None:
    """Until the page has a server again."""
    began = time.monotonic()
    while person.sockets == sockets:
        assert time.monotonic() < began + 120, "the page does not connect again"
        person.page.wait_for_timeout(50)
    person.page.locator('[data-testid="stApp"][data-test-connection-state="CONNECTED"]').wait_for(
        timeout=120_000
    )
    person.waited(began)
    person.settle()


def cookie(person: Person) -> str:
    """The session's token."""
    return next(c["value"] for c in person.context.cookies() if c["name"] == api.COOKIE)


# --- afterwards -----------------------------------------------------------------------------------


def inspect(place: Hospital, ledger: Ledger) -> int:
    """Does the catalog hold what was acknowledged, and nothing else? Returns entries of the log."""
    chosen = place.settings()
    engine = Engine.open(chosen, detector=ScriptedDetector(chosen, [BOX]), operator=True)
    problems, token = ledger.problems, engine.operator_token()
    try:
        entries = engine.audit.verify(token)
        problems += [
            f"broken: {i} {code}" for i, code in engine.health.verify_images(token) if code
        ]
        rows = engine.context.database.read().all("SELECT image_id, state FROM images")
        found: dict[str, str] = {}
        for row in rows:
            image_id, state = row["image_id"], row["state"]
            if state == ImageState.WITHDRAWN:
                engine.withdrawals.reopen(token, image_id)
            if state != ImageState.RELEASED:
                view = engine.drafts.open(token, image_id)
                name, data = (
                    view.name,
                    engine.context.open_images.get("operator", view.handle).image.data,
                )
            else:
                restored = engine.images.restore(token, image_id, "inspection")
                file = engine.images.restored_file(token, restored.handle)
                engine.images.close(token, restored.handle)
                name, data = file.name, file.data
            if name in found:
                problems.append(f"twice in the catalog: {name}")
            found[name] = state
            if name not in ledger.files:
                problems.append(f"nobody sent it: {name}")
            elif not same(name, data, name, ledger.files[name]):
                problems.append(f"another file came back: {name}")
        expected = {
            name: (ImageState.WITHDRAWN, ImageState.REVIEW) if name in ledger.flagged
            else (ImageState.RELEASED,) if name in ledger.sealed
            else (ImageState.DRAFT, ImageState.REVIEW)
            for name in ledger.files
        }  # fmt: skip
        problems += [
            f"{name} is {found.get(name, 'gone')}"
            for name, states in expected.items() if found.get(name) not in states
        ]  # fmt: skip
    except (errors.EngineError, errors.AuditBroken) as err:
        problems.append(repr(err))
        return 0
    finally:
        engine.close()
    return entries


@dataclass
class Walked:
    """What one day came to.

    Args:
        images: In the catalog.
        entries: Of the log.
        named: What browsers said because a server was killed.
    """

    victim: str
    steps: list[Step]
    ledger: Ledger
    images: int
    entries: int
    seconds: float
    named: int


def walk(victim: str) -> Walked:
    """One day on servers of its own."""
    print(f"killed: {victim or 'nobody'}", flush=True)
    ledger = Ledger()
    with tempfile.TemporaryDirectory(prefix="medsec-days-") as name:
        folder = Path(name)
        for part in ("study", "place"):
            (folder / part).mkdir()
        with hospital(folder / "place", SERVERS, "serve.py") as place, sync_playwright() as play:
            yesterday(place, ledger)
            place.only(SERVERS)
            browser = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            began = time.monotonic()
            day = Day(place, browser, ledger, victim)
            people_ = day.everybody.values()
            try:
                day.go(folder / "study")
            finally:
                for person in people_:
                    ledger.problems += person.problems()
                print("\n".join(f"  problem: {problem}" for problem in ledger.problems))
                browser.close()
            seconds = time.monotonic() - began
            place.stop_all()
            entries = inspect(place, ledger)
    steps = [step for person in people_ for step in person.steps]
    named = sum(len(person.after_kill()) for person in people_)
    return Walked(victim, steps, ledger, len(ledger.files), entries, seconds, named)


NOTHING = """\
**Nothing acknowledged was lost**: the catalog had exactly the images that were sent, each in the
state that its person was told, each restored to the very same file; the chain of the log verified;
a disabled account was out on all servers when its page said so; no console said what has no name.
"""


def section(walks: Sequence[Walked], load: float) -> str:
    """What goes into the results."""
    rows = [
        f"| {w.victim or 'nobody'} | {len(w.steps)} | {sum(s.actions for s in w.steps)}"
        f" | {w.seconds:.0f} | {max(s.longest_s for s in w.steps):.1f} | {w.named}"
        f" | {w.images} | {w.entries} | {len(w.ledger.problems)} |"
        for w in walks
    ]
    waits = [
        f"| {w.victim or 'nobody'} | {s.who} {s.what} | {s.longest_s:.1f} |"
        for w in walks for s in w.steps if s.longest_s > LONG_SECONDS
    ]  # fmt: skip
    problems = sorted({problem for w in walks for problem in w.ledger.problems})
    lost = ["**Lost, or in error:**", "", *(f"- {problem}" for problem in problems), ""]
    return "\n".join([
        HEADING, "",
        f"{datetime.now(UTC):%Y-%m-%d}, {SERVERS} servers with their networks, database, store,"
        f" proxy and {len(HOMES)} browsers",
        f"on {os.cpu_count()} processors, load {load:.0f} before, {os.getloadavg()[0]:.0f} after."
        " Each row is a day of technician, doctor, researcher and administrator.", "",
        "| server killed of | steps | actions | seconds | longest wait, s | console: named"
        " | images | entries of the log | lost, or in error |",
        "|---|---|---|---|---|---|---|---|---|", *rows, "", *(lost if problems else [NOTHING]),
        f"Waits over {LONG_SECONDS:.0f} s:", "",
        "| server killed of | step | s |", "|---|---|---|", *waits, "",
    ])  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--victims", nargs="*", default=["technician", "doctor"], choices=HOMES)
    parser.add_argument("--no-whole", action="store_true", help="no day without a kill")
    parser.add_argument("--no-write", action="store_true", help="print only")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    walks = [walk(victim) for victim in ["", *options.victims][options.no_whole :]]
    found = section(walks, load)
    print(found)
    if not options.no_write:
        write(HEADING, found)
    return any(w.ledger.problems for w in walks)


if __name__ == "__main__":
    sys.exit(main())
